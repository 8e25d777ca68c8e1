"""Adjoints of moving elements: sizes known now or at run time, cropping, scattering back, separable linear maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxsal.graph.emit import Emit
from onnxsal.graph.helpers import cast, dim_of, reshape_like, shape_of, zeros_like
from onnxsal.graph.model import NodeView, Value

Ints = np.ndarray | Value
"""Numbers known at conversion time, or a tensor; int64 but for those of ``float_size``."""

ShapePart = int | Value | tuple[Value, int]
"""One dimension of a shape: a number, an int64 tensor [1], or an axis of a forward tensor."""

END = 2**62
"""Beyond every axis: a Slice end that means 'to the end'."""


class _Numbers:
    """The arithmetic that ``Emit`` writes as nodes, done on arrays now."""

    Add, Sub, Mul, Neg, Reciprocal, Sqrt = np.add, np.subtract, np.multiply, np.negative, np.reciprocal, np.sqrt
    Max, Min, Less, Where = np.maximum, np.minimum, np.less, staticmethod(np.where)

    @staticmethod
    def Div(a: Any, b: Any) -> Any:
        """The quotient, truncated towards zero as ONNX does if both are integers."""
        whole = all(np.issubdtype(np.asarray(n).dtype, np.integer) for n in (a, b))
        return np.sign(a) * (np.abs(a) // b) if whole else np.divide(a, b)


NUMBERS = _Numbers()
"""What a formula in operators is given instead of an ``Emit`` to have it calculated."""


class calc:
    """Arithmetic on sizes, ``calc(op).Add(a, b)``: done here if every operand is known, else emitted. One formula serves both."""

    def __init__(self, op: Emit) -> None:
        self._op = op

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        def apply(*operands: Ints | int | float) -> Any:
            emitted = any(isinstance(o, Value) for o in operands)
            return getattr(self._op, operator)(*operands) if emitted else np.asarray(getattr(NUMBERS, operator)(*operands))

        return apply


def sizes(op: Emit, value: Value, axes: Sequence[int]) -> Ints:
    """The sizes of some axes, as known integers if possible."""
    dims = [value.dim(a) for a in axes]
    if all(d is not None for d in dims):
        return np.asarray(dims, np.int64)
    return dim_of(op, value, axes[0]) if len(axes) == 1 else op.Gather(shape_of(op, value), list(axes))


def int_operand(op: Emit, node: NodeView, i: int) -> Ints:
    """Integer input i: known integers if possible."""
    array = node.const(i)
    return array.reshape(-1).astype(np.int64) if array is not None else op.Cast(node.input(i), to=TensorProto.INT64)


def float_size(op: Emit, value: Value, axis: int) -> Ints:
    """The size of one axis in the compute type."""
    size = sizes(op, value, [axis])
    return cast(op, size) if isinstance(size, Value) else size.astype(op.np_dtype)


def shape_parts(op: Emit, parts: Sequence[ShapePart]) -> Ints:
    """An int64 shape put together from parts, as known integers if possible."""
    known = [_known(p) for p in parts]
    if None not in known:
        return np.asarray(known, np.int64)
    return op.Concat(*[p if isinstance(p, Value) else [p] if isinstance(p, int) else dim_of(op, *p) for p in parts], axis=0)


def reshape_parts(op: Emit, g: Value, parts: Sequence[ShapePart]) -> Value:
    """``g`` in a shape put together from parts; at most one unknown part becomes -1."""
    known = [_known(p) for p in parts]
    if known.count(None) <= 1 and 0 not in known:
        return op.Reshape(g, [-1 if d is None else d for d in known])
    return op.Reshape(g, shape_parts(op, parts), allowzero=1)


def _known(part: ShapePart) -> int | None:
    if isinstance(part, int):
        return part
    return None if isinstance(part, Value) else part[0].dim(part[1])


def crop_or_pad(op: Emit, g: Value, before: Ints, after: Ints, axes: Sequence[int], rank: int) -> Value:
    """Zeros around ``g`` (of that rank) along ``axes``; negative amounts cut. (Not every runtime reads a Pad with negative ones alike.)"""
    cut_start, cut_end = calc(op).Max(calc(op).Neg(before), 0), calc(op).Min(after, 0)
    if _any(cut_start) or _any(cut_end):
        ends = calc(op).Where(calc(op).Less(cut_end, 0), cut_end, END)
        g = op.Slice(g, cut_start, ends, list(axes))
    return pad_zeros(op, g, calc(op).Max(before, 0), calc(op).Max(after, 0), axes, rank)


def pad_zeros(op: Emit, g: Value, before: Ints, after: Ints, axes: Sequence[int], rank: int) -> Value:
    """Zeros around ``g`` (of that rank) along ``axes``, by amounts that are never negative."""
    if not _any(before) and not _any(after):
        return g
    return op.Pad(g, _every_axis(op, join(op, before, after), axes, rank))


def _every_axis(op: Emit, amounts: Ints, axes: Sequence[int], rank: int) -> Ints:
    """Padding along ``axes`` (all starts, all ends) written for every axis.

    Not as Pad's input ``axes``: ONNX Runtime 1.31 reads such a Pad wrongly when it moves a Transpose through it.
    """
    count = len(axes)
    place = np.full(2 * rank, 2 * count)
    place[[a + side * rank for side in (0, 1) for a in axes]] = np.arange(2 * count)
    if isinstance(amounts, Value):
        return amounts if list(axes) == list(range(rank)) else op.Gather(op.Concat(amounts, [0], axis=0), place)
    return np.append(amounts, 0)[place]


def _any(amounts: Ints) -> bool:
    """Whether an amount is, or may be, other than zero."""
    return isinstance(amounts, Value) or bool(np.any(amounts))


def frame_back(op: Emit, dy: Value, x: Value, axis: int, before: int, after: int, mode: str) -> Value:
    """Adjoint of a frame along one axis: ``dy`` inside it, plus its parts added back where ``mode`` copied them from.

    "reflect" mirrors at the first and the last entry, "edge" repeats these, "wrap" goes on with the other end (by no more than there is).
    Negative amounts cut ``x`` first. By slices and zeros: a matrix would hold the square of the axis.
    """
    cut, (left, right) = [max(-n, 0) for n in (before, after)], [max(n, 0) for n in (before, after)]
    length = calc(op).Sub(sizes(op, x, [axis]), [sum(cut)])

    def part(start: int, end: int, step: int = 1) -> Value:
        return op.Slice(dy, [start], [end], [axis], [step])

    def placed(g: Value, count: int, offset: int, at_end: bool) -> Value:
        """``count`` entries among zeros, ``offset`` before the end or behind the start."""
        near, rest = np.asarray([offset]), calc(op).Sub(length, [count + offset])
        return pad_zeros(op, g, rest if at_end else near, near if at_end else rest, [axis], x.rank)

    total = part(left, -right if right else END)
    for count, at_end in ((left, False), (right, True)):
        if not count:
            continue
        if mode == "reflect":
            mirrored = part(-1, -count - 1, -1) if at_end else part(count - 1, -END, -1)
            copied = placed(mirrored, count, 1, at_end)
        elif mode == "edge":
            own = part(-count, END) if at_end else part(0, count)
            copied = placed(op.ReduceSum(own, [axis], keepdims=1), 1, 0, at_end)
        else:
            copied = placed(part(-count, END) if at_end else part(0, count), count, 0, not at_end)
        total = op.Add(total, copied)
    return pad_zeros(op, total, np.asarray(cut[:1]), np.asarray(cut[1:]), [axis], x.rank)


def join(op: Emit, first: Ints, second: Ints) -> Ints:
    """Two lists of integers after each other."""
    if isinstance(first, Value) or isinstance(second, Value):
        return op.Concat(first, second, axis=0)
    return np.concatenate([first, second])


def scatter_axis(op: Emit, dy: Value, index: Value, x: Value, axis: int, shape: Sequence[ShapePart] | None = None) -> Value:
    """Adjoint of taking ``x`` at the 1-D ``index`` along ``axis``: dx[.., index[k], ..] += dy[.., k, ..]. dx may have another ``shape``.

    ScatterElements, because ONNX Runtime's ScatterND adds from several threads without a lock where indices repeat.
    """
    column = op.Reshape(index, [-1] + [1] * (x.rank - 1 - axis)) if axis < x.rank - 1 else index
    if x.rank > 1:
        ones = [1 if a == axis else (x, a) if shape is None else shape[a] for a in range(x.rank)]
        column = op.Expand(column, shape_parts(op, ones))
    zero = helper.make_tensor("zero", op.dtype, [1], [0.0])
    room = zeros_like(op, x) if shape is None else op.ConstantOfShape(shape_parts(op, shape), value=zero)
    return op.ScatterElements(room, column, dy, axis=axis, reduction="add")


def scatter_back(op: Emit, dy: Value, x: Value, move: Callable[[Value], Value], fills: bool = False) -> Value:
    """Adjoint of any movement of elements: ``move`` carries the numbers of x's elements along, and dy is added back at these.

    ``fills`` tells that the movement also writes zeros, which belong to no element: elements count from 1, and 0 is dropped.
    """
    first = int(fills)
    count = op.Size(op.raw(x)) if x.static is None else op.const(int(np.prod(x.static, dtype=np.int64)))
    numbers = op.Range(first, op.Add(count, first) if fills else count, 1)
    index = move(reshape_like(op, numbers, x))
    zero = helper.make_tensor("zero", op.dtype, [1], [0.0])
    room = op.ConstantOfShape(op.Reshape(op.Add(count, first) if fills else count, [1]), value=zero)
    flat = op.ScatterElements(room, op.Reshape(index, [-1]), op.Reshape(dy, [-1]), axis=0, reduction="add")
    return reshape_like(op, op.Slice(flat, [1], [END], [0]) if fills else flat, x)


def identity_matrix(op: Emit, x: Value, axis: int) -> Value:
    """The identity of the size of one axis of ``x``, in the compute type, as a constant expression where the size is known."""
    size = shape_parts(op, [(x, axis), (x, axis)])
    return op.EyeLike(op.ConstantOfShape(size, value=helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])), dtype=op.dtype)


def linear_adjoint(op: Emit, dy: Value, x: Value, matrices: Mapping[int, Value]) -> Value:
    """Adjoint of a separable linear map of ``x``: along each axis, dx = M dy with M = the map applied to the rows of the identity."""
    flattened = False
    for axis in sorted(matrices, reverse=True):
        if axis == x.rank - 1:
            dy = op.MatMul(dy, op.Transpose(matrices[axis], perm=[1, 0]))
            continue
        if axis < x.rank - 2:
            dy, flattened = op.Reshape(dy, [0] * (axis + 1) + [-1]), True
        dy = op.MatMul(matrices[axis], dy)
    return reshape_like(op, dy, x) if flattened else dy
