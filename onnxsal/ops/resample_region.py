"""The derivative of an interpolation by the region that is cut out of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import float_size
from onnxsal.graph.helpers import mask

REACH = {"linear": 1, "cubic": 2}
"""How far from a place the elements lie that it is interpolated from."""


def _length(op: Emit, tensor: Value, axis: int) -> Value:
    """The size of an axis as a number of the compute type."""
    size = float_size(op, tensor, axis)
    return op.Reshape(size if isinstance(size, Value) else op.const(size), np.zeros(0, np.int64))


def _weight(op: Emit, node: NodeView, away: Value) -> tuple[Value, Value]:
    """The weight of an element that lies ``away`` from the place, and its slope: linear weights have two at elements, and it is the one
    towards larger places, as in PyTorch's ``grid_sample``.
    """
    size, side = op.Abs(away), op.Sign(away)
    if node.attr("mode") == "linear":
        near = op.And(op.Greater(away, -1.0), op.LessOrEqual(away, 1.0))
        return op.Relu(op.Sub(1.0, size)), mask(op, near, op.Where(op.Greater(away, 0.0), -1.0, 1.0))
    a = float(node.attr("cubic_coeff_a"))

    def cubic(c3: float, c2: float, c1: float, c0: float) -> tuple[Value, Value]:
        value = op.Add(op.Mul(op.Add(op.Mul(op.Add(op.Mul(size, c3), c2), size), c1), size), c0)
        return value, op.Add(op.Mul(op.Add(op.Mul(size, 3 * c3), 2 * c2), size), c1)

    inner, outer = cubic(a + 2, -(a + 3), 0.0, 1.0), cubic(a, -5 * a, 8 * a, -4 * a)
    first, reached = op.LessOrEqual(size, 1.0), op.Less(size, 2.0)
    value, slope = (mask(op, reached, op.Where(first, p, q)) for p, q in zip(inner, outer, strict=True))
    return value, op.Mul(slope, side)


def _matrices(op: Emit, node: NodeView, axis: int, start: Value, end: Value) -> tuple[Value, Value, Value]:
    """The interpolation matrix [m, n] of an axis and its slopes in start and end.

    Element i lies at (n - 1) (start + i / (m - 1) (end - start)); beyond the ends of the image is none of it. Neighbours beyond them are
    the last one again, or with exclude_outside count for nothing.
    """
    before, after = _length(op, node.x, axis), _length(op, node.y, axis)
    last, index = op.Sub(before, 1.0), op.Unsqueeze(op.Range(0.0, after, 1.0), [1])
    share = op.Where(op.Greater(after, 1.0), op.Div(index, op.Max(op.Sub(after, 1.0), 1.0)), 0.5)
    place = op.Mul(last, op.Add(start, op.Mul(share, op.Sub(end, start))))
    margin = float(REACH[node.attr("mode")] + 1)
    grid = op.Unsqueeze(op.Range(-margin, op.Add(before, margin), 1.0), [0])
    value, slope = _weight(op, node, op.Sub(grid, place))
    moved = op.Neg(slope)
    if node.attr("exclude_outside"):
        inside = op.And(op.GreaterOrEqual(grid, 0.0), op.LessOrEqual(grid, last))
        value, moved = mask(op, inside, value), mask(op, inside, moved)
        total = op.ReduceSum(value, [1])
        value = op.Div(value, total)
        moved = op.Div(op.Sub(moved, op.Mul(value, op.ReduceSum(moved, [1]))), total)
    seen = op.And(op.GreaterOrEqual(place, 0.0), op.LessOrEqual(place, last))
    clamped = op.Min(op.Max(op.Squeeze(grid, [0]), 0.0), last)
    fold = op.Cast(op.Less(op.Abs(op.Sub(op.Unsqueeze(clamped, [1]), op.Range(0.0, before, 1.0))), 0.5), to=op.dtype)
    value, moved = (op.MatMul(mask(op, seen, part), fold) for part in (value, moved))
    by_end = op.Mul(moved, op.Mul(last, share))
    return value, op.Sub(op.Mul(moved, last), by_end), by_end


def _last(axis: int, rank: int) -> list[int]:
    """The order of axes in which one comes last."""
    return [*(a for a in range(rank) if a != axis), axis]


def by_region(op: Emit, node: NodeView, dy: Value, axes: Sequence[int]) -> Value:
    """droi: for each axis <dy, x interpolated along it by the slopes of its matrix, and along the others as it is>; starts, then ends."""
    if node.attr("antialias"):
        raise UnsupportedError(f"{node.label}: a derivative by its region is known without antialias only.")
    rank, known, found = node.x.rank, {}, {"start": list[Value](), "end": list[Value]()}
    for k, axis in enumerate(axes):
        start, end = (
            op.Cast(op.Reshape(op.Gather(node.input(1), [place]), np.zeros(0, np.int64)), to=op.dtype) for place in (k, k + len(axes))
        )
        known[axis] = _matrices(op, node, axis, start, end)
    for axis in axes:
        t = node.x
        for other in axes:
            if other != axis:
                order = _last(other, rank)
                turned = op.MatMul(op.Transpose(t, perm=order), op.Transpose(known[other][0], perm=[1, 0]))
                t = op.Transpose(turned, perm=[order.index(a) for a in range(rank)])
        sides = []
        for side in (dy, t):
            rows = op.Concat([-1], op.Shape(side, start=axis, end=axis + 1), axis=0)
            sides.append(op.Reshape(op.Transpose(side, perm=_last(axis, rank)), rows))
        both = op.MatMul(op.Transpose(sides[0], perm=[1, 0]), sides[1])
        for name, slope in zip(found, known[axis][1:], strict=True):
            found[name].append(op.Reshape(op.ReduceSum(op.Mul(both, slope), keepdims=0), [1]))
    answer = op.Concat(*found["start"], *found["end"], axis=0)
    own = node.input(1).dtype or TensorProto.FLOAT
    return answer if own == op.dtype else op.Cast(answer, to=own)
