"""How many runs of a loop are made at once: as many as suit the place where the file will run, and the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from onnxsal.errors import MethodError
from onnxsal.graph import FLOATS, Emit, Model, Value
from onnxsal.graph.admit_data import bytes_at
from onnxsal.graph.emit import ANYWHERE, ON_CPU, ON_CUDA
from onnxsal.methods.build import Build
from onnxsal.methods.elements import Size
from onnxsal.settings import shown

AUTO = "auto"

BUDGET = {ON_CPU: 1 << 24, ANYWHERE: 1 << 30, ON_CUDA: 8 << 30}
"""Bytes that the tensors of the runs that are made at once may take, by place. A CPU is fastest where they stay in its caches, a card where
there are as many as it holds: 8 GiB are 64 runs of a ResNet-50 and its walk. Where sizes are known at run time only there are ``OPEN`` runs.
"""

OPEN = {ON_CPU: 2, ANYWHERE: 8, ON_CUDA: 8}

MOST = {ON_CPU: 64, ANYWHERE: 64, ON_CUDA: 1 << 16}
"""Of small models: more runs at once save nothing any more."""


@dataclass(frozen=True)
class Chunk:
    """So many samples at once, each times the batch; or (``rows``) as many as make so many rows with the batch, but at least one.

    ``even``: all chunks of a number of samples that is known have the same size.
    """

    samples: int = 0
    rows: int = 0
    batch: Value | None = None
    even: bool = False

    @property
    def several(self) -> bool:
        """Whether there may be several samples in a chunk."""
        return self.samples != 1

    def size(self, op: Emit, count: Size) -> Size:
        """Samples in a chunk; in the graph ``op`` where only a run tells the batch."""
        if self.batch is None:
            return self.samples
        fed = op.Max(op.Squeeze(op.Shape(op.raw(self.batch), end=1), [0]), 1)
        if self.even and isinstance(count, int):
            sizes = op.const(np.asarray([d for d in range(1, min(count, self.rows) + 1) if count % d == 0]))
            return op.ReduceMax(op.Where(op.LessOrEqual(op.Mul(sizes, fed), self.rows), sizes, 1), keepdims=0)
        return op.Min(op.Max(op.Div(op.const(self.rows), fed), 1), count)

    def turns(self, op: Emit, count: Size) -> Value | int:
        """How many chunks there are."""
        size = self.size(op, count)
        if isinstance(size, int) and isinstance(count, int):
            return -(-count // size)
        return op.Div(op.Add(count, op.Sub(size, 1)), size)


def settled(build: Build, view: Model, count: Size, alone: bool) -> Chunk:
    """The setting ``chunk``, which from here on says what "auto" is for a replica ``view``; ``alone``: one by one, whatever it says.

    Raises ``MethodError`` where it is neither a number, nor a number of rows, nor "auto".
    """
    said = build.settings["chunk"]
    if said == AUTO:
        build.settings["chunk"] = said = 1 if alone else _chosen(build, view)
    rows = re.fullmatch(r"(\d+) rows", said) if isinstance(said, str) else None
    number = int(rows[1]) if rows else said
    if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
        raise MethodError(
            f"method '{build.method.name}': chunk={shown(said)} is no number of runs at once; give a whole number of 1 or more (times the "
            'batch), "64 rows" for as many as make 64 with the batch, or "auto".'
        )
    number = int(number)
    if alone:
        return Chunk(samples=1)
    if rows:
        return Chunk(rows=number, batch=build.question.x, even=build.op.runs_on == ON_CUDA)
    return Chunk(samples=min(number, count) if isinstance(count, int) else number)


def _chosen(build: Build, view: Model) -> int | str:
    """What "auto" is: as many rows as the budget of the place holds, one sample where that is one row."""
    place, known = build.op.runs_on, bytes_of(view, build.question.x)
    rows = OPEN[place] if known is None else max(1, min(BUDGET[place] // known, MOST[place]))
    return 1 if rows == 1 else f"{rows} rows"


def bytes_of(view: Model, source: Value) -> int | None:
    """Bytes of all floating-point tensors that a replica makes of one row of ``source``; ``None`` where a size is not known."""
    batch, total = (source.shape or (None,))[0], 0
    for node in view.nodes:
        for name in filter(None, node.proto.output):
            kind, shape = view.types.get(name, (0, None))
            if kind not in FLOATS and kind:
                continue
            sizes = None if shape is None else [1 if isinstance(d, str) and d == batch else d for d in shape]
            if sizes is None or not all(isinstance(d, int) for d in sizes):
                return None
            total += bytes_at(kind, [d for d in sizes if isinstance(d, int)])
    return max(total, 1)
