"""Texts, pairs of texts and lists of either, as the inputs of a model that reads ids."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxsal.ask.likeness import FIRST
from onnxsal.ask.text_inputs import Role, TextInputs, text_inputs
from onnxsal.errors import InputError
from onnxsal.given.from_files import Feeding
from onnxsal.given.sample import GivenSample, stacked
from onnxsal.given.text_words import shown_text
from onnxsal.given.tokenizer import KnownTokenizer, load_tokenizer, tokenizer_file
from onnxsal.graph.load import Source
from onnxsal.limits import refuse_over
from onnxsal.settings import read_text
from onnxsal.untrusted import printable

AnyText: TypeAlias = str | tuple[str, str] | Sequence[str | tuple[str, str]]
"""One text, a pair (a tuple of two), or a list of texts and pairs."""

TEXTS = (".txt",)
"""Files that hold texts, one a line."""

SHOWN = 60
"""Characters of a text that messages and tables show."""


def texts_of(given: AnyText) -> list[tuple[str, ...]]:
    """Each text as a tuple of one, each pair as a tuple of two. Raises ``InputError`` for anything else, and for empty texts."""
    one = isinstance(given, str) or (isinstance(given, tuple) and len(given) == 2)
    if not one and not isinstance(given, Sequence):
        raise InputError(f"text={type(given).__name__} is no text: give a str, a tuple of two, or a list of these.")
    every: Sequence[Any] = [given] if one else given
    found: list[tuple[str, ...]] = [tuple(text) if isinstance(text, tuple | list) else (text,) for text in every]
    for texts in found:
        if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{texts!r} is no text and no pair of texts: give a str, a tuple of two, or a list of these.")
        for text in texts:
            refuse_over("text_bytes", len(text), "a text is too long")
            if not text.strip():
                raise InputError("a text is empty, so there is nothing in it to explain.")
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise InputError(f"text '{short(texts)}' is no Unicode: it holds bytes that are not UTF-8, or half a character.")
    if not found:
        raise InputError("no text is given.")
    return found


def short(texts: Sequence[str]) -> str:
    """The beginning of a text, or of both of a pair, in one line that a terminal does not obey."""
    words = [printable(" ".join(text[: 2 * SHOWN].split()), keep="") for text in texts]
    return " | ".join(word if len(word) <= SHOWN else f"{word[: SHOWN - 1]}…" for word in words)


@dataclass(frozen=True)
class TextReader:
    """Turns texts into what a model is fed with: its ``tokenizer``, its ``inputs`` by their roles, whether too long a text is cut off
    (``truncate``), whether the ids have an axis of samples (``batched``), and whether the first token alone is compared (``first``).
    """

    tokenizer: KnownTokenizer
    inputs: TextInputs
    truncate: bool = False
    batched: bool = True
    first: bool = False

    @classmethod
    def of(
        cls,
        model: Source,
        fed: Feeding,
        tokenizer: str | os.PathLike[str] | None = None,
        truncate: bool = False,
        roles: Mapping[str, str] | None = None,
    ) -> TextReader:
        """The reader of a model: its tokenizer is the file given, or the one beside it; ``roles`` says which input is what (role -> name).

        Raises ``InputError`` where there is no tokenizer, or the role of an input is not known.
        """
        likeness = fed.question.likeness
        beside, first = ("", False) if likeness is None else (likeness.reference, likeness.pooling == FIRST)
        inputs = text_inputs(fed.question, [tensor for tensor in fed.inputs if tensor.name != beside], roles)
        ids = inputs.names[Role.IDS]
        return cls(load_tokenizer(tokenizer_file(model, tokenizer)), inputs, truncate, ids.shape is None or len(ids.shape) > 1, first)

    @property
    def longest(self) -> tuple[int, str] | None:
        """The most tokens, special ones included, and what says so."""
        fixed = [(self.inputs.length, f"the model's input '{self.inputs.names[Role.IDS].name}'")] if self.inputs.length else []
        return min([*fixed, *([self.tokenizer.longest] if self.tokenizer.longest else [])], default=None)

    def samples(self, given: AnyText, names: Sequence[str] = (), sources: Sequence[str] = ()) -> list[GivenSample]:
        """One sample for each text or pair, as long as it is itself (or as the model fixes it). ``names`` and ``sources`` are what they are
        called and where they are from; else they are numbered, and their own words.
        """
        texts = texts_of(given)
        names = names or (["text"] if len(texts) == 1 else [f"text-{i}" for i in range(len(texts))])
        encoded = [self._encoded(one) for one in texts]
        return [
            self._sample(one, encoding, self.inputs.length, name, source)
            for one, encoding, name, source in zip(texts, encoded, names, sources or [short(one) for one in texts], strict=True)
        ]

    def batch(self, given: AnyText) -> tuple[dict[str, np.ndarray], list[GivenSample]]:
        """All texts as one batch, the shorter ones filled up, which the mask hides: the model's inputs, and each sample.

        Raises ``InputError`` where they differ in length and no mask would hide what fills up.
        """
        texts = texts_of(given)
        encoded = [self._encoded(one) for one in texts]
        longest = self.inputs.length or max(len(one.ids) for one in encoded)
        if not self.batched and len(texts) > 1:
            raise InputError(f"the model takes one text at a time, and {len(texts)} were given: give them one by one.")
        samples = [self._sample(one, encoding, longest, "", short(one)) for one, encoding in zip(texts, encoded, strict=True)]
        return stacked(samples), samples

    def _encoded(self, texts: tuple[str, ...]) -> Any:
        """The tokens of one text or pair, no longer than the model takes. Raises ``InputError`` where it is and is not to be cut off."""
        tokenizer, longest = self.tokenizer.tokenizer, self.longest
        encoding = tokenizer.encode(*texts)
        if longest is not None and len(encoding.ids) > longest[0]:
            if not self.truncate:
                raise InputError(
                    f"text '{short(texts)}' has {len(encoding.ids)} tokens, and at most {longest[0]} are taken ({longest[1]}). Give a "
                    "shorter one, or have it cut off there: --truncate (truncate=True in Python)."
                )
            if longest[0] <= tokenizer.num_special_tokens_to_add(len(texts) > 1):
                raise InputError(f"at most {longest[0]} tokens are taken ({longest[1]}), and the special ones fill them all.")
            encoding = self._cut(texts, longest[0])
        if not any(not special for special in encoding.special_tokens_mask):
            raise InputError(f"text '{short(texts)}' has no token of its own by '{self.tokenizer.file}', so there is nothing to explain.")
        return encoding

    def _cut(self, texts: tuple[str, ...], length: int) -> Any:
        """The tokens, cut off as the tokenizer does: of a pair the longer text first, special tokens kept."""
        tokenizer = self.tokenizer.tokenizer
        tokenizer.enable_truncation(length)
        try:
            return tokenizer.encode(*texts)
        finally:
            tokenizer.no_truncation()

    def _sample(self, texts: tuple[str, ...], encoding: Any, length: int | None, name: str, source: str) -> GivenSample:
        if length is not None and len(encoding.ids) < length:
            pad, token, kind = self._fill(length)
            if self.first and self.tokenizer.pad_left:
                raise InputError(
                    "the first token is compared (pooling 'first'), and the tokenizer fills up on the left: give texts one by one."
                )
            left = "left" if self.tokenizer.pad_left else "right"
            encoding.pad(length, direction=left, pad_id=pad, pad_type_id=kind, pad_token=token)
        seen = np.asarray(encoding.attention_mask)
        rows = {
            Role.IDS: np.asarray(encoding.ids),
            Role.MASK: seen,
            Role.HIDDEN: 1 - seen,
            Role.TYPES: np.asarray(encoding.type_ids),
            Role.POSITIONS: np.maximum(np.cumsum(seen) - 1, 0),
        }
        feed = {}
        for role, tensor in self.inputs.names.items():
            row = rows[role].astype(tensor.dtype or np.int64)
            feed[tensor.name] = row[None] if self.batched else row
        return GivenSample(feed, source, name, shown_text(texts, encoding))

    def _fill(self, length: int) -> tuple[int, str, int]:
        """What fills up to a length: the tokenizer's padding, or any token where a mask hides it."""
        hidden = {Role.MASK, Role.HIDDEN}.intersection(self.inputs.names)
        if self.tokenizer.pad is None and not hidden:
            raise InputError(
                f"a text is to be filled up to {length} tokens, and no file beside '{self.tokenizer.file}' says by which: give one with "
                '"padding", or a tokenizer_config.json with "pad_token".'
            )
        if not hidden and self.inputs.length is None:
            raise InputError(
                "texts of different lengths make no batch, as the model has no mask to hide what fills up: give them one by one."
            )
        return self.tokenizer.pad or (0, "", 0)


def lines_in(text: str) -> list[str]:
    """The texts in a text, one a line, without empty ones."""
    return [line for line in text.split("\n") if line.strip()]


def read_lines(file: Path) -> list[str]:
    """The texts of a file, one a line, without empty ones. Raises ``InputError`` where there is none."""
    lines = lines_in(read_text(file, f"'{file}'"))
    if not lines:
        raise InputError(f"'{file}' holds no text: one a line is read.")
    return lines
