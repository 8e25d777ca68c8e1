"""How many samples a turn of a loop takes: a number, or as many as make a number of rows with the batch that is fed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from onnxsal.graph.emit import ANYWHERE, ON_CPU, ON_CUDA, Emit
from onnxsal.graph.model import Value

BUDGET = {ON_CPU: 1 << 27, ANYWHERE: 1 << 30, ON_CUDA: 1 << 33}
"""Bytes that the tensors of one turn's runs may take, by place. A CPU is fastest where a turn nearly fits its caches; a card, where all
samples are one turn: 8 GiB hold 80 rows of a ResNet-50."""

OPEN = {ON_CPU: 2, ANYWHERE: 8, ON_CUDA: 8}
"""Rows of a turn where only a run tells how large one is."""

MOST = {ON_CPU: 64, ANYWHERE: 64, ON_CUDA: 1 << 14}
"""Rows of a turn of the smallest models: more of them save nothing any more."""


def rows_within(place: str, row: int | None) -> int:
    """How many rows of so many bytes (``None``: not known) a turn takes in a place."""
    return OPEN[place] if row is None else max(1, min(BUDGET[place] // row, MOST[place]))


@dataclass(frozen=True)
class Chunk:
    """``samples`` a turn, each times the batch; or as many as make ``rows`` with the batch of ``x``, but one at least.

    ``even``: then every turn takes the same number of samples, if their count is known.
    """

    samples: int = 1
    rows: int = 0
    x: Value | None = None
    even: bool = False

    @classmethod
    def read(cls, said: Any) -> Chunk | None:
        """A number of samples, or "64 rows"; ``None`` for what is neither."""
        rows = re.fullmatch(r"([1-9]\d{0,8}) rows?", said) if isinstance(said, str) else None
        if rows:
            return cls(rows=int(rows[1]))
        whole = isinstance(said, Integral) and not isinstance(said, bool) and int(said) >= 1
        return cls(samples=int(said)) if whole else None

    @property
    def several(self) -> bool:
        """Whether a turn may take several samples."""
        return bool(self.rows) or self.samples > 1

    def size(self, op: Emit, count: int | Value) -> int | Value:
        """Samples of a turn, of ``count`` in all: a scalar of the graph where only a run tells the batch.

        Turns are ``even`` for the sake of a card, where cuDNN plans anew for a turn of another size: .3 to 7 s.
        """
        if not self.rows or self.x is None:
            return min(self.samples, count) if isinstance(count, int) else self.samples
        fed = op.Max(op.Squeeze(op.Shape(op.raw(self.x), end=1), [0]), 1)
        if self.even and isinstance(count, int):
            sizes = op.const(np.asarray([d for d in range(1, min(count, self.rows) + 1) if count % d == 0]))
            return op.ReduceMax(op.Where(op.LessOrEqual(op.Mul(sizes, fed), self.rows), sizes, 1), keepdims=0)
        return op.Min(op.Max(op.Div(op.const(self.rows), fed), 1), count)

    def turns(self, op: Emit, count: int | Value) -> int | Value:
        """How many turns there are."""
        size = self.size(op, count)
        if isinstance(size, int) and isinstance(count, int):
            return -(-count // size)
        return op.Div(op.Add(count, op.Sub(size, 1)), size)
