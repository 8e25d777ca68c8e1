"""MaxRoiPool: the largest element of each bin of each region, as ONNX Runtime's kernel divides regions into bins."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import sizes
from onnxsal.graph.helpers import cast, mask, reshape_like, shape_of, zeros_like
from onnxsal.ops.ranges import with_zero
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import APART, Moved


def _float(value: float) -> np.ndarray:
    """The kernel computes in float32, and rounds as that does."""
    return np.asarray(value, np.float32)


def _bins(op: Emit, node: NodeView, axis: int) -> Value:
    """Which elements of an axis each bin holds, [R, P, size].

    Corners times the scale are rounded to whole elements, halves away from 0. A region of l = max(last - first + 1, 1) elements has bins
    from floor(p l / P) to ceil((p + 1) l / P), less what lies beyond the image.
    """
    scale, count = _float(node.attr("spatial_scale")), int(node.attr("pooled_shape")[axis - 2])

    def corner(k: int) -> Value:
        place = op.Mul(op.Cast(op.Gather(node.input(1), [k], axis=1), to=TensorProto.FLOAT), scale)
        return op.Mul(op.Sign(place), op.Floor(op.Add(op.Abs(place), _float(0.5))))

    first, last = (corner(k) for k in ((2, 4) if axis == 2 else (1, 3)))
    width = op.Div(op.Max(op.Add(op.Sub(last, first), _float(1)), _float(1)), _float(count))
    number = np.arange(count, dtype=np.float32)[None]
    low = op.Add(op.Floor(op.Mul(width, number)), first)
    high = op.Add(op.Ceil(op.Mul(width, number + 1)), first)
    size = sizes(op, node.x, [axis])
    length = op.Reshape(size if isinstance(size, Value) else op.const(size), np.zeros(0, np.int64))
    place = op.Cast(op.Range(0, length, 1), to=TensorProto.FLOAT)
    low, high = op.Unsqueeze(low, [2]), op.Unsqueeze(high, [2])
    return op.And(op.GreaterOrEqual(place, low), op.Less(place, high))


def _bin(op: Emit, held: Value, p: int, axes: list[int]) -> Value:
    """One bin of all regions, [R, size], with axes of size 1 added."""
    return op.Unsqueeze(op.Gather(held, np.asarray(p), axis=1), axes)


_REGIONS = np.array(
    [[0, 0.2, 1.4, 3.3, 4.0], [1, -1, 2, 2, 9], [1, 3, 3, 2, 2], [0, 2.5, 0.5, 2.5, 0.5], [0, 8, 8, 9, 9], [1, 0, 0, 5, 4]], float
)


def _region_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """[N, C, H, W] and regions [R, 5] -> [R, C, h, w]."""
    return (1, APART) if i == 0 and axis == 1 else (0, APART) if i and axis == 0 else None


@gradient_of(
    "MaxRoiPool",
    family="max_pool",
    axes=_region_axes,
    range=with_zero,
    fills=lambda node: True,
    bias="zero",
    stops={1: "regions are rounded to whole elements"},
    cases=[
        case((2, 2, 5, 6), _REGIONS, pooled_shape=[2, 3]),
        case((2, 1, 5, 6), _REGIONS, pooled_shape=[3, 2], spatial_scale=0.9),
        case((2, 1, 7, 4), _REGIONS, pooled_shape=[1, 1]),
    ],
)
def max_roi_pool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = the sum of dy over the bins of all regions in which the element is the largest (the first of several), 0 elsewhere."""
    x, (high, wide) = node.x, (int(n) for n in node.attr("pooled_shape"))
    rows, columns = _bins(op, node, 2), _bins(op, node, 3)
    of = op.Cast(op.Gather(node.input(1), np.asarray(0), axis=1), to=TensorProto.INT64)
    image, least = op.Gather(x, of, axis=0), float(np.finfo(np.float32).min)
    length = sizes(op, x, [3])
    places, signals = [], []
    for pw in range(wide):
        column = _bin(op, columns, pw, [1, 2])
        inside = op.Where(column, image, least)  # [R, C, H, W]
        best, at = op.ReduceMax(inside, [3], keepdims=0), op.ArgMax(inside, axis=3, keepdims=0)
        for ph in range(high):
            row = _bin(op, rows, ph, [1])
            top = op.ArgMax(op.Where(row, best, least), axis=2, keepdims=1)  # [R, C, 1]
            places.append(op.Add(op.Mul(top, length), op.GatherElements(at, top, axis=2)))
            held = op.Mul(op.ReduceSum(cast(op, row), [2]), op.ReduceSum(cast(op, column), [3], keepdims=0))
            own = op.Gather(op.Gather(dy, np.asarray(pw), axis=3), [ph], axis=2)
            signals.append(mask(op, op.Greater(held, 0.5), own))
    # of each element its number in x, all of an image's channels one after the other
    area, channels = op.ReduceProd(op.Slice(shape_of(op, x), [2], [4]), keepdims=1), sizes(op, x, [1])
    number = op.Range(0, op.Reshape(channels if isinstance(channels, Value) else op.const(channels), np.zeros(0, np.int64)), 1)
    plane = op.Add(op.Mul(op.Unsqueeze(of, [1]), channels), number)
    index = op.Add(op.Concat(*places, axis=2), op.Unsqueeze(op.Mul(plane, area), [2]))
    flat = op.Reshape(zeros_like(op, x), [-1])
    dx = op.ScatterElements(flat, op.Reshape(index, [-1]), op.Reshape(op.Concat(*signals, axis=2), [-1]), axis=0, reduction="add")
    return node.grads(reshape_like(op, dx, x))
