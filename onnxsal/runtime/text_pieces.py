"""A text cut into pieces that have values: its words, what lies between them, and the tokens that the tokenizer added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from onnxsal.errors import InputError
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownText
from onnxsal.untrusted import printable


class PieceKind(StrEnum):
    """What a piece of a text is: a word, a special token that the tokenizer added, or characters that no token covers."""

    WORD = "word"
    SPECIAL = "special"
    GAP = "gap"


@dataclass(frozen=True)
class Piece:
    """A part of a text, or a special token: ``text`` as it stands there, ``part`` which of the texts, ``start`` and ``end`` its characters
    (of a special token ``None``), ``tokens`` their places in the row of ids, ``value`` the sum of theirs (0.0 of a gap).
    """

    kind: PieceKind
    text: str
    part: int
    start: int | None
    end: int | None
    tokens: tuple[int, ...] = ()
    value: float = 0.0

    @property
    def shown(self) -> str:
        """The text, which a terminal or a page shows and does not obey."""
        return printable(self.text)


def text_pieces(shown: ShownText, values: Array) -> list[Piece]:
    """The pieces of all texts in the order of the tokens, without padding; ``values`` [L] holds one number for each token.

    The values of words and special tokens sum to those of all tokens that are no padding; text that was cut off is a gap. Raises
    ``InputError`` where there are not as many values as tokens, or one of them is no number.
    """
    numbers = _checked(shown, values)
    found: list[Piece] = []
    place = [0] * len(shown.texts)
    part = 0
    for tokens in _groups(shown):
        total = float(numbers[list(tokens)].sum())
        spans = [span for i in tokens if (span := shown.spans[i]) is not None]
        if not spans:
            found += _gap(shown, part, place, len(shown.texts[part])) if _closes(shown, part, tokens) else []
            found.append(Piece(PieceKind.SPECIAL, shown.tokens[tokens[0]], part, None, None, tokens, total))
            continue
        part = spans[0][0]
        spans = [span for span in spans if shown.texts[part][span[1] : span[2]].strip()] or spans
        start, end = max(min(s[1] for s in spans), place[part]), max(s[2] for s in spans)
        found += _gap(shown, part, place, start)
        found.append(Piece(PieceKind.WORD, shown.texts[part][start:end], part, start, max(start, end), tokens, total))
        place[part] = max(start, end)
    for one, text in enumerate(shown.texts):
        found += _gap(shown, one, place, len(text))
    return found


def words_in(pieces: Sequence[Piece]) -> list[Piece]:
    """The words among pieces."""
    return [piece for piece in pieces if piece.kind is PieceKind.WORD]


def largest_value(pieces: Sequence[Piece]) -> float:
    """The largest absolute value of a word, which gets the strongest colour; where all are 0 that is 1."""
    return max((abs(piece.value) for piece in words_in(pieces)), default=0.0) or 1.0


def _checked(shown: ShownText, values: Array) -> Array:
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (len(shown.tokens),):
        raise InputError(f"{len(shown.tokens)} tokens are shown with values of shape {list(numbers.shape)}: give one for each token.")
    if bad := int(np.count_nonzero(~np.isfinite(numbers))):
        raise InputError(f"{bad} of {numbers.size} values are NaN or infinite: they cannot be drawn, and should not be trusted.")
    return numbers


def _groups(shown: ShownText) -> Iterator[tuple[int, ...]]:
    """The tokens of each word, and each special token, in their order."""
    group: list[int] = []
    for i, word in enumerate(shown.words):
        if group and (word is None or word != shown.words[group[-1]]):
            yield tuple(group)
            group = []
        if shown.padding[i]:
            continue
        if word is None:
            yield (i,)
        else:
            group.append(i)
    if group:
        yield tuple(group)


def _closes(shown: ShownText, part: int, tokens: tuple[int, ...]) -> bool:
    """Whether a special token stands behind the last word of a text."""
    before = [span for span in shown.spans[: tokens[0]] if span is not None]
    after = [span for span in shown.spans[tokens[-1] + 1 :] if span is not None]
    return bool(before) and (not after or after[0][0] != part)


def _gap(shown: ShownText, part: int, place: list[int], end: int) -> list[Piece]:
    """The characters up to ``end`` that no piece holds yet."""
    start = place[part]
    if end <= start:
        return []
    place[part] = end
    return [Piece(PieceKind.GAP, shown.texts[part][start:end], part, start, end)]
