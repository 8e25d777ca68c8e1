"""Samples cut into runs, and the results of runs put together."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import onnx

from onnxsal.errors import InputError

Arrays = Mapping[str, Any]
"""Arrays by name, each of numpy or ``OnDevice``."""


@dataclass(frozen=True)
class Portion:
    """The samples from ``begin`` to ``end`` of ``count``: the model's inputs, the other inputs, and the classes asked for."""

    feed: Arrays
    extra: Arrays
    targets: np.ndarray | None
    begin: int
    end: int
    count: int


class Batches:
    """How many samples a run takes, and how many rows it is filled up to.

    At most ``size`` samples are run at once; where the batch is ``fixed``, a run has exactly that many rows. Where a size that was never
    run is planned anew (``fills``: on CUDA, .3 to 7 s), a run is filled up to the smallest number of rows that was run before, with samples
    of the same shapes, and holds its samples: so the last, smaller batch of several has the size of those before it. What fills are copies
    of the last sample, and what comes of them is dropped.
    """

    def __init__(self, size: int, fixed: int | None, fills: bool) -> None:
        self.size, self.fixed = fixed or size, fixed
        self._fills = fills
        self._ran: dict[Hashable, set[int]] = {}

    def cut(self, count: int) -> list[tuple[int, int]]:
        """Where each run of ``count`` samples begins and ends."""
        return [(i, min(i + self.size, count)) for i in range(0, count, self.size)]

    def rows(self, samples: int, shapes: Hashable) -> int:
        """The rows of a run of so many samples of these ``shapes``, which is noted."""
        if self.fixed or not self._fills:
            return self.fixed or samples
        ran = self._ran.setdefault(shapes, set())
        found = min((size for size in ran if size >= samples), default=samples)
        ran.add(found)
        return found


def fixed_batch(model: onnx.ModelProto, inputs: Collection[str]) -> int | None:
    """The number of samples that the ``inputs`` which hold samples are declared with; ``None`` where it is open."""
    first = (v.type.tensor_type.shape.dim[0] for v in model.graph.input if v.name in inputs and v.type.tensor_type.shape.dim)
    return next((d.dim_value for d in first if d.HasField("dim_value")), None)


def batch_names(model: onnx.ModelProto, inputs: Collection[str], target: str) -> list[str]:
    """What the batch is called in the ``inputs`` which hold samples, and the number of classes that are fed in ``target``.

    Raises ``InputError`` where a batch is open and has no name.
    """
    first = {v.name: v.type.tensor_type.shape.dim[0] for v in model.graph.input if v.type.tensor_type.shape.dim}
    names = dict.fromkeys(dim.dim_param for name, dim in first.items() if name in inputs and not dim.HasField("dim_value"))
    if "" in names:
        unnamed = next(name for name, dim in first.items() if name in inputs and not dim.dim_param and not dim.HasField("dim_value"))
        raise InputError(f"the batch of input '{unnamed}' has no name in the file, by which it could be fixed: name or set it there.")
    asked = first[target].dim_param if target in first else ""
    elsewhere = [d.dim_param for v in model.graph.input if v.name != target for d in v.type.tensor_type.shape.dim]
    return [*names, *([asked] if asked and asked not in elsewhere else [])]


def joined(parts: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Results of several runs as one: those that hold a row for each sample."""
    if len(parts) == 1:
        return dict(parts[0])
    rows = [k for k in parts[0] if all(row_count(p[k]) == n for p, n in zip(parts, sizes, strict=True))]
    return {k: _concatenated([p[k] for p in parts]) for k in rows}


def _concatenated(results: Sequence[Any]) -> Any:
    """Arrays, or lists of maps, one after the other."""
    return list(chain.from_iterable(results)) if isinstance(results[0], list) else np.concatenate(results)


def row_count(result: Any) -> int | None:
    """The number of rows of a result: of an array, or of a list of maps (``None``: a number alone)."""
    return len(result) if isinstance(result, list) or result.ndim else None
