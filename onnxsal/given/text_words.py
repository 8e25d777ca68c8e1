"""Words put together again from tokens: WordPiece's ##, the bytes of BPE, the ▁ of SentencePiece, by where each token lies in the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from onnxsal.runtime.shown import ShownText

Span = tuple[int, int, int]

WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
"""Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese. Their tokens are their words."""


def shown_text(texts: Sequence[str], encoding: Any) -> ShownText:
    """What a text, or a pair, is shown as, from an ``Encoding`` of the library ``tokenizers``.

    A word is what the tokenizer numbers as one, as far as no white space lies in it: tokenizers without a step that splits at spaces count
    all of the text as one word. Tokens of a script without spaces are words of their own, but those that share a character belong together.
    The span of a token leaves out white space that it begins or ends with, as in "▁word", unless it is nothing else.
    """
    padding = tuple(not seen for seen in encoding.attention_mask)
    spans = tuple(None if special else _span(texts, encoding, i) for i, special in enumerate(encoding.special_tokens_mask))
    numbers = [(encoding.sequence_ids[i], encoding.word_ids[i]) for i in range(len(encoding.ids))]
    return ShownText(tuple(texts), tuple(encoding.tokens), spans, _words(texts, spans, numbers), padding)


def _span(texts: Sequence[str], encoding: Any, i: int) -> Span:
    """Where a token lies, without white space around it."""
    part, (start, end) = encoding.sequence_ids[i] or 0, encoding.offsets[i]
    covered = texts[part][start:end]
    if not covered.strip():
        return part, start, end
    return part, start + len(covered) - len(covered.lstrip()), end - len(covered) + len(covered.rstrip())


def _words(texts: Sequence[str], spans: Sequence[Span | None], numbers: Sequence[tuple[Any, Any]]) -> tuple[int | None, ...]:
    """The number of the word that each token belongs to. A token that covers white space only, or nothing, goes with the next one of its
    text, or at its end with the one before.
    """
    filled = [i for i, span in enumerate(spans) if span is not None and texts[span[0]][span[1] : span[2]].strip()]
    found: dict[int, int] = {}
    count = -1
    for before, i in zip([None, *filled], filled, strict=False):
        count += before is None or _begins(texts, spans, numbers, before, i)
        found[i] = count
    for i, span in enumerate(spans):
        if span is not None and i not in found:
            same = [j for j in filled if spans[j][0] == span[0]]  # type: ignore[index]
            beside = next((j for j in same if j > i), same[-1] if same else None)
            if beside is not None:
                found[i] = found[beside]
    return tuple(found.get(i) for i in range(len(spans)))


def _begins(texts: Sequence[str], spans: Sequence[Span | None], numbers: Sequence[tuple[Any, Any]], before: int, i: int) -> bool:
    """Whether a word begins with token ``i``, where ``before`` is the last one that covers anything."""
    last, here = spans[before], spans[i]
    assert last is not None
    assert here is not None
    if last[0] != here[0]:
        return True
    if here[1] < last[2]:
        return False  # they share a character
    text = texts[here[0]]
    apart = any(c.isspace() for c in text[last[2] : here[1]])
    alone = WITHOUT_SPACES.match(text[here[1]]) or WITHOUT_SPACES.match(text[last[2] - 1])
    return numbers[i] != numbers[before] or apart or bool(alone)
