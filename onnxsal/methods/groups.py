"""Groups: which elements of the explained input are replaced together, as one feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Integral
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxsal.errors import MethodError
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import cast, shape_of
from onnxsal.graph.infer import shape_text
from onnxsal.methods.build import Build
from onnxsal.methods.elements import Size, all_known, as_number, as_row, numbers_to, place_axes, side, times
from onnxsal.settings import shown


@dataclass(frozen=True)
class Groups:
    """``index``: the number of each element's group, int64, with an axis for each of a sample, of size 1 where it makes no difference.

    ``count`` is how many groups there are, ``sizes`` [count] how many elements each has, in the compute type; ``what`` is one of them in
    words. ``batched`` as of the question.
    """

    index: Value
    count: Size
    sizes: Value
    what: str
    batched: bool

    def mask(self, body: Emit, members: Value) -> Value:
        """bool [c, groups] as [c, 1, ...], broadcastable to [c, N, ...]: at each element what is said of its group."""
        picked = body.Gather(members, self.index, axis=1)
        return body.Unsqueeze(picked, [1]) if self.batched else picked

    def one_hot(self, body: Emit, numbers: Value) -> Value:
        """Group numbers [c] as bool [c, groups]; a number that is no group's has none."""
        return body.Equal(body.Unsqueeze(numbers, [1]), body.Unsqueeze(self.numbers(body), [0]))

    def numbers(self, body: Emit) -> Value:
        """0, 1, ... of the groups."""
        return numbers_to(body, self.count)

    def spread(self, build: Build, values: Value) -> Value:
        """A value per group [N, groups] at each of its elements, in the shape of the explained input."""
        op = build.op
        laid = op.Gather(values, self.index, axis=1)
        return op.Expand(laid if self.batched else op.Squeeze(laid, [0]), shape_of(op, build.question.x))


def groups_of(build: Build) -> Groups:
    """As the setting ``groups`` says; else the cells of a picture's ``grid``, each token, or each place of anything else, such as a column.

    Raises ``MethodError`` where the setting does not fit the input.
    """
    given = build.settings["groups"]
    if isinstance(given, str) and not given:
        return _by_places(build)
    numbers = _given(build, given)
    return of_numbers(build, numbers, np.unique(numbers))


def of_numbers(build: Build, numbers: np.ndarray, known: np.ndarray) -> Groups:
    """Groups called by any numbers, all of which are ``known``."""
    op, x, rank = build.op, build.question.x, build.question.x.rank - build.question.batched
    index = np.searchsorted(known, numbers).astype(np.int64)
    index = index.reshape((1,) * (rank - index.ndim) + index.shape)
    repeated = times(op, [side(op, x, x.rank - rank + a) for a, d in enumerate(index.shape) if d == 1])
    sizes = op.const(np.bincount(index.reshape(-1), minlength=len(known)).astype(op.np_dtype))
    sizes = sizes if repeated == 1 else op.Mul(sizes, as_number(op, repeated))
    return Groups(op.const(index), len(known), sizes, "group", build.question.batched)


def _given(build: Build, given: Any) -> np.ndarray:
    """The number of each element's group, broadcastable to a sample: an array of numbers, or lists of columns of the last axis.

    Lists that have the shape of a sample are an array. Columns that no list names are groups of their own.
    """
    x = build.question.x
    sizes = (x.shape or ())[1 if build.question.batched else 0 :]
    flat = given if isinstance(given, list | tuple) else None
    lists = flat is not None and len(flat) > 0 and all(isinstance(row, list | tuple) for row in flat)
    array = None if lists and _shape(flat or ()) != sizes else _plain_array(given)
    if array is not None:
        fits = array.ndim <= len(sizes) and all(
            d == 1 or d == size or not isinstance(size, int) for d, size in zip(array.shape[::-1], sizes[::-1], strict=False)
        )
        if array.dtype.kind not in "iu" or not array.ndim or not array.size or array.min() < 0 or not fits:
            raise _misfit(build, given, "as an array it holds whole numbers from 0, and broadcasts to a sample")
        return array
    count = sizes[-1] if sizes else None
    if not lists or not isinstance(count, int):
        raise _misfit(build, given, "give an array of numbers, or a list of lists of columns where their number is known")
    columns = [c for row in given for c in row]
    if not all(isinstance(c, Integral) and not isinstance(c, bool) and 0 <= int(c) < count for c in columns) or len(set(columns)) < len(
        columns
    ):
        raise _misfit(build, given, f"lists name columns 0 to {count - 1} of the last axis, each once")
    numbers = np.full(count, -1)
    rows = [row for row in given if row]
    for number, row in enumerate(rows):
        numbers[list(row)] = number
    alone = numbers < 0
    numbers[alone] = len(rows) + np.arange(alone.sum())
    return numbers


def as_array(build: Build, given: Any) -> np.ndarray:
    """Group numbers for one of several inputs: an array that broadcasts to a sample. Raises ``MethodError``."""
    numbers = _plain_array([given] if isinstance(given, Integral) else given)
    return _given(build, numbers)


def _plain_array(given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError:  # rows of several lengths
        return np.asarray("")


def _shape(rows: Sequence[Any]) -> tuple[int, ...]:
    array = _plain_array(rows)
    return array.shape if array.dtype.kind in "iu" else ()


def _misfit(build: Build, given: Any, wanted: str) -> MethodError:
    x = build.question.x
    return MethodError(f"method '{build.method.name}': groups={shown(given)} do not fit '{x.name}' {shape_text(x.shape)}: {wanted}.")


def _by_places(build: Build) -> Groups:
    """The cells of a grid over a picture, or each place."""
    op, x, places = build.op, build.question.x, place_axes(build)
    sizes = [side(op, x, a) for a in places.axes]
    smooth = places.pictured
    cells = _cells(build, sizes) if smooth else sizes
    first = 1 if build.question.batched else 0
    parts: list[Value] = []
    for i, (axis, size, cell) in enumerate(zip(places.axes, sizes, cells, strict=True)):
        along = numbers_to(op, size)
        if smooth:
            along = op.Div(op.Mul(along, cell), size)
        behind = times(op, cells[i + 1 :])
        along = along if behind == 1 else op.Mul(along, behind)
        shape = [1] * (x.rank - first)
        shape[axis - first] = -1
        parts.append(op.Reshape(along, op.const(shape)) if len(shape) > 1 else along)
    index, count = reduce(op.Add, parts), times(op, cells)
    whole = times(op, [side(op, x, a) for a in places.whole if a or not build.question.batched])
    what = "cell of the grid" if smooth else "token" if build.question.tokens is not None else "column" if x.rank - first == 1 else "place"
    return Groups(index, count, _sizes(op, sizes, cells, index, whole), what, build.question.batched)


def _cells(build: Build, sizes: Sequence[Size]) -> list[Size]:
    """The setting ``grid``, one number for all axes or one for each, no more than there are pixels."""
    value = build.settings["grid"]
    if isinstance(value, str):
        value = [int(n) if n.isdecimal() else n for n in value.lower().split("x")]
    every = list(value) if isinstance(value, list | tuple | np.ndarray) else [value] * len(sizes)
    if len(every) != len(sizes) or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1 for n in every):
        raise MethodError(
            f"method '{build.method.name}': grid={value!r} is no number of cells along each of {len(sizes)} axes; give one whole number, "
            "or a list of them."
        )
    return [min(int(n), size) if isinstance(size, int) else int(n) for n, size in zip(every, sizes, strict=True)]


def _sizes(op: Emit, sizes: Sequence[Size], cells: Sequence[Size], index: Value, whole: Size) -> Value:
    """How many elements each group has, [groups], in the compute type."""
    if all_known(sizes) and all_known(cells) and isinstance(whole, int):
        found = np.ones(1)
        for size, cell in zip(sizes, cells, strict=True):
            found = np.multiply.outer(found, np.bincount(np.arange(size) * cell // size, minlength=cell)).reshape(-1)
        return op.const((found * whole).astype(op.np_dtype))
    flat = op.Reshape(index, [-1])
    zeros = op.ConstantOfShape(as_row(op, times(op, cells)), value=helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]))
    ones = op.ConstantOfShape(op.Shape(flat), value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
    counted = cast(op, op.ScatterElements(zeros, flat, ones, axis=0, reduction="add"))
    return op.Mul(counted, as_number(op, whole))
