"""Texts for one model that is held open: what reads them, kept for the next ones, and the embeddings that they are compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from onnxsal.errors import InputError, TargetError
from onnxsal.facts.part import part_of
from onnxsal.given.from_files import Feeding
from onnxsal.given.text import AnyText, TextReader
from onnxsal.graph.load import Source
from onnxsal.runtime.providers import Providers
from onnxsal.runtime.session import Session, open_session
from onnxsal.runtime.shown import AnyShown

AnyTokenizer: TypeAlias = str | os.PathLike[str] | TextReader | None
"""A tokenizer.json, a reader that was made of one (``Texts.reader``), or the one beside the model."""


class Texts:
    """The texts of a model: its file, beside which a tokenizer lies, how it is fed, and what it runs on."""

    def __init__(self, model: Source, fed: Feeding, providers: Providers) -> None:
        self._model, self._fed, self._providers = model, fed, providers
        self._readers: dict[Any, TextReader] = {}
        self._embedder: Session | None = None

    def reader(self, tokenizer: AnyTokenizer = None, truncate: bool = False, roles: Mapping[str, str] | None = None) -> TextReader:
        """What turns texts into the model's inputs: ``roles`` says which is what (role -> name) where nothing else tells it; a reader
        that is given as the ``tokenizer`` is taken as it is. Raises ``InputError`` as ``TextReader.of``.
        """
        if isinstance(tokenizer, TextReader):
            return replace(tokenizer, truncate=tokenizer.truncate or truncate)
        key = (tokenizer, truncate, tuple(sorted((roles or {}).items())))
        if key not in self._readers:
            self._readers[key] = TextReader.of(self._model, self._fed, tokenizer, truncate, roles)
        return self._readers[key]

    def given(
        self, x: Any, text: AnyText | None, like: AnyText | None, reader: TextReader
    ) -> tuple[dict[str, np.ndarray], tuple[AnyShown | None, ...]]:
        """Texts, and what they are compared with, as the model is fed, and as they are shown.

        Raises ``InputError`` where anything else is given beside them.
        """
        if x is not None or text is None:
            wrong = "like= is what text= is compared with; give both" if text is None else "text= stands for x; give one of the two"
            raise InputError(f"{wrong}.")
        feed, samples = reader.batch(text)
        if like is not None:
            feed |= self.reference(like, len(samples), reader)
        return feed, tuple(one.shown for one in samples)

    def reference(self, like: AnyText, count: int, reader: TextReader) -> dict[str, np.ndarray]:
        """The embeddings of texts, ``count`` rows, by the input that holds what samples are compared with (score="cosine").

        Raises ``TargetError`` where the score is no cosine, ``InputError`` where there are neither one nor ``count``, or it is built in.
        """
        likeness = self._fed.question.likeness
        if likeness is None:
            raise TargetError("the score compares no embeddings: explain with score='cosine' (--score cosine).")
        if not likeness.reference:
            raise InputError("what samples are compared with is built in (reference=), so like= cannot be given. Convert without it.")
        if self._embedder is None:
            self._embedder = open_session(part_of(self._fed.question.model, [likeness.embedding]), self._providers)
        needed, (feed, _) = {tensor.name for tensor in self._embedder.inputs}, reader.batch(like)
        vectors = self._embedder.run({k: v for k, v in feed.items() if k in needed}, [likeness.embedding])[likeness.embedding]
        if len(vectors) not in (1, count):
            raise InputError(f"{len(vectors)} texts are given to compare {count} with: give one for all, or one for each.")
        return {likeness.reference: np.ascontiguousarray(np.broadcast_to(vectors, (count, vectors.shape[1])))}
