"""RoiAlign: means over a grid of interpolated points in each region, as one matrix per region and axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import calc, float_size, sizes
from onnxsal.graph.helpers import cast, mask, zeros_like
from onnxsal.ops.ranges import with_zero
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import APART, Moved


@dataclass(frozen=True)
class Interval:
    """The regions along one axis: their lengths, where lengths can change, the matrix [R, P, size] that takes an image's line to
    the means in the P bins, and its slopes in the start and in the length of the region.
    """

    length: Value
    free: Value | None
    matrix: Value
    by_start: Value
    by_length: Value


def _interval(op: Emit, node: NodeView, axis: int) -> Interval:
    """Along one axis: the sample i of bin p lies at start + length (p + (i + 1/2) / g) / P and reads its two neighbours."""
    low, high = (op.Gather(node.input(1), [k], axis=1) for k in ((1, 3) if axis == 2 else (0, 2)))
    scale, shifted = float(node.attr("spatial_scale")), node.attr("coordinate_transformation_mode") == "half_pixel"
    bins, ratio = node.attr("output_height" if axis == 2 else "output_width"), node.attr("sampling_ratio")
    start = op.Sub(op.Mul(low, scale), 0.5) if shifted else op.Mul(low, scale)
    length = op.Mul(op.Sub(high, low), scale)
    free = None
    if not shifted:
        free = op.Greater(length, 1.0)
        length = op.Max(length, 1.0)
    start, length = op.Unsqueeze(start, [2]), op.Unsqueeze(length, [2])
    first = np.arange(bins, dtype=op.np_dtype).reshape(1, bins, 1)
    if ratio > 0:
        count, share = None, float(1 / ratio)
        place: Value = op.const((first + (np.arange(ratio, dtype=op.np_dtype) + 0.5) / ratio) / bins)
    else:
        count = op.Ceil(op.Mul(length, 1 / bins))
        most = op.Reshape(op.Max(op.ReduceMax(count, keepdims=0), 1.0), np.zeros(0, np.int64))
        number = op.Range(0.0, most, 1.0)
        share = op.Reciprocal(op.Max(count, 1.0))
        place = op.Mul(op.Add(first, op.Mul(op.Add(number, 0.5), share)), 1 / bins)
    position = op.Unsqueeze(op.Add(start, op.Mul(length, place)), [3])
    size = float_size(op, node.x, axis)
    last = calc(op).Sub(size, 1.0)
    inside = op.And(op.GreaterOrEqual(position, -1.0), op.LessOrEqual(position, size))
    if count is not None:
        inside = op.And(inside, op.Unsqueeze(op.Less(number, count), [3]))
    clipped = op.Min(op.Max(position, 0.0), last)
    away = op.Sub(op.Range(0.0, op.Reshape(size, np.zeros(0, np.int64)), 1.0), clipped)
    weight = op.Where(inside, op.Max(op.Sub(1.0, op.Abs(away)), 0.0), 0.0)
    moves = op.And(inside, op.And(op.Equal(position, clipped), op.Less(op.Abs(away), 1.0)))
    slope = mask(op, moves, op.Sign(away))

    def mean(t: Value) -> Value:
        return op.Mul(op.ReduceSum(t, [2], keepdims=0), share)

    return Interval(length, free, mean(weight), mean(slope), mean(op.Mul(slope, op.Unsqueeze(place, [3]))))


def _by_region(op: Emit, t: Value) -> Value:
    """A matrix per region, for all channels."""
    return op.Unsqueeze(t, [1])


def _turned(op: Emit, t: Value) -> Value:
    """The last two of four axes swapped."""
    return op.Transpose(t, perm=[0, 1, 3, 2])


def _roi_bias(op: Emit, node: NodeView) -> Value | None:
    """y unless x is active, less J_rois rois where the regions are."""
    if not node.want(1):
        return None
    rows, columns = _interval(op, node, 2), _interval(op, node, 3)
    image = op.Gather(node.x, node.input(2), axis=0)

    def change(interval: Interval, k: int) -> Value:
        start = op.Unsqueeze(op.Mul(op.Gather(node.input(1), [k], axis=1), float(node.attr("spatial_scale"))), [2])
        length = interval.length if interval.free is None else mask(op, op.Unsqueeze(interval.free, [2]), interval.length)
        return _by_region(op, op.Add(op.Mul(interval.by_start, start), op.Mul(interval.by_length, length)))

    across = op.MatMul(image, _turned(op, _by_region(op, columns.matrix)))
    down = op.MatMul(_by_region(op, rows.matrix), image)
    moved = op.Add(op.MatMul(change(rows, 1), across), op.MatMul(down, _turned(op, change(columns, 0))))
    return op.Sub(zeros_like(op, node.y) if node.want(0) else node.y, moved)


_REGIONS = np.array([[0.37, 0.61, 3.22, 2.83], [-0.87, 0.41, 2.17, 4.71], [1.63, -1.39, 4.93, 2.09]])
_OF = np.array([0, 1, 1])


def _region_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """[N, C, H, W] and regions [R, 4], [R] -> [R, C, h, w]."""
    return (1, APART) if i == 0 and axis == 1 else (0, APART) if i and axis == 0 else None


@gradient_of(
    "RoiAlign",
    family="resample",
    axes=_region_axes,
    range=with_zero,
    bias=_roi_bias,
    cases=[
        case((2, 2, 4, 5), _REGIONS, _OF, output_height=2, output_width=3, sampling_ratio=2),
        case((2, 2, 4, 5), _REGIONS, _OF, output_height=2, output_width=1, sampling_ratio=0),
        case(
            (2, 1, 4, 5),
            _REGIONS,
            _OF,
            output_height=3,
            output_width=2,
            sampling_ratio=1,
            spatial_scale=0.5,
            coordinate_transformation_mode="output_half_pixel",
        ),
        case((2, 2, 4, 5), _REGIONS, _OF, fixed=(1,), output_height=2, output_width=2, coordinate_transformation_mode="output_half_pixel"),
    ],
)
def roi_align(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """Per region y = A x B^T: dx = sum of A^T dy B over the regions of an image; drois through the slopes of A and B."""
    x, image_of = node.x, node.input(2)
    if node.attr("mode") != "avg":
        raise UnsupportedError(f"{node.label}: a gradient is known for mode 'avg' only, not '{node.attr('mode')}'.")
    rows, columns = _interval(op, node, 2), _interval(op, node, 3)
    answer = node.grads()
    if node.want(0):
        images = op.Unsqueeze(op.Range(0, op.Reshape(sizes(op, x, [0]), np.zeros(0, np.int64)), 1), [1, 2, 3])
        owns = cast(op, op.Equal(op.Unsqueeze(image_of, [1]), images))
        across = op.Transpose(op.MatMul(dy, _by_region(op, columns.matrix)), perm=[1, 0, 2, 3])
        across = op.Reshape(across, op.Concat([0, -1], sizes(op, x, [3]), axis=0))
        down = op.Reshape(op.Mul(op.Transpose(rows.matrix, perm=[2, 0, 1]), owns), [0, 0, -1])
        answer[0] = op.MatMul(op.Unsqueeze(down, [1]), across)
    if node.want(1):
        image = op.Gather(x, image_of, axis=0)
        seen_rows = op.MatMul(dy, _turned(op, op.MatMul(image, _turned(op, _by_region(op, columns.matrix)))))
        seen_columns = op.MatMul(_turned(op, dy), op.MatMul(_by_region(op, rows.matrix), image))
        starts, ends = [], []
        for seen, interval in ((seen_columns, columns), (seen_rows, rows)):
            seen = op.ReduceSum(seen, [1], keepdims=0)
            by_start, by_length = (op.ReduceSum(op.Mul(seen, s), [1, 2], keepdims=0) for s in (interval.by_start, interval.by_length))
            by_length = op.Unsqueeze(by_length, [1])
            by_length = by_length if interval.free is None else mask(op, interval.free, by_length)
            starts.append(op.Sub(op.Unsqueeze(by_start, [1]), by_length))
            ends.append(by_length)
        answer[1] = op.Mul(op.Concat(*starts, *ends, axis=1), float(node.attr("spatial_scale")))
    return answer
