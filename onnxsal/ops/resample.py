"""Resampling: Resize, whose exact adjoint is a matrix product per axis, and Col2Im."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import ShapePart, identity_matrix, linear_adjoint, reshape_parts, scatter_axis, shape_parts, sizes
from onnxsal.graph.helpers import axes_of, cast, reshape_like, same_dim, zeros_like
from onnxsal.graph.window_attributes import window_attributes
from onnxsal.ops.axes import samples_only
from onnxsal.ops.places import resized
from onnxsal.ops.ranges import ZERO, by_sign, hull
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.resample_region import by_region
from onnxsal.ops.slicing import ints
from onnxsal.ops.statements import ANY, APART, MIXED, Moved, Range, RangeOf

ROI, SCALES, SIZES = 1, 2, 3


def _given(node: NodeView, i: int) -> bool:
    """Whether an optional input is there: older exporters pass an empty tensor to leave one out."""
    value = node.optional(i)
    return value is not None and value.dim(0) != 0


def _crops(node: NodeView) -> bool:
    return bool(node.attr("coordinate_transformation_mode") == "tf_crop_and_resize")


def _listed(node: NodeView) -> list[int]:
    """The axes that roi, scales and sizes speak of."""
    return axes_of(node, node.x.rank) or list(range(node.x.rank))


def _resized(node: NodeView) -> list[int]:
    """The axes that are not known to stay as they are."""
    x, y, listed = node.x, node.y, _listed(node)
    scales, roi = node.const(SCALES) if _given(node, SCALES) else None, node.const(ROI)
    stretches = not _given(node, SCALES) and node.attr("keep_aspect_ratio_policy") == "stretch"

    def stays(k: int, axis: int) -> bool:
        if _crops(node) and (roi is None or roi[k] != 0 or roi[k + len(listed)] != 1):
            return False
        if scales is not None:
            return bool(scales[k] == 1)
        return stretches and x.shape is not None and y.shape is not None and same_dim(x.shape[axis], y.shape[axis])

    return [a for k, a in enumerate(listed) if not stays(k, a)]


def _blocks(node: NodeView, axes: list[int]) -> dict[int, int] | None:
    """Factor per axis, if the node repeats every element in a block along the spatial axes of an image: y[i] = x[i // factor]."""
    x, listed, where = node.x, _listed(node), node.attr("coordinate_transformation_mode")
    rounds = node.attr("nearest_mode")
    centred = where in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric") and rounds.startswith("round")
    if node.attr("mode") != "nearest" or not (centred or (where == "asymmetric" and rounds == "floor")):
        return None
    if min(axes, default=2) < 2 or not 3 <= x.rank <= 5 or x.dim(1) is None:
        return None
    factors = {}
    for axis in axes:
        if _given(node, SCALES):
            scales = node.const(SCALES)
            factor = None if scales is None else float(scales[listed.index(axis)])
        else:
            before, after = x.dim(axis), node.y.dim(axis)
            factor = after / before if before and after and node.attr("keep_aspect_ratio_policy") == "stretch" else None
        if factor is None or not factor.is_integer() or factor < 1 or (where == "pytorch_half_pixel" and x.dim(axis) is None):
            return None
        factors[axis] = int(factor)
    return factors


def _sum_blocks(op: Emit, dy: Value, channels: int, rank: int, factors: dict[int, int]) -> Value:
    """Sums over blocks, as a depthwise convolution with ones: the fastest form, and one that needs no sizes."""
    block = [factors.get(a, 1) for a in range(2, rank)]
    one = helper.make_tensor("one", op.dtype, [1], [1.0])
    window = window_attributes(len(block), block, strides=block, group=channels)
    return op.Conv(dy, op.ConstantOfShape([channels, 1, *block], value=one), **window)


def _pick(op: Emit, node: NodeView, i: int, positions: list[int]) -> Value | np.ndarray | None:
    """Some entries of roi, scales or sizes."""
    if not _given(node, i):
        return None
    known = node.const(i)
    return op.Gather(node.input(i), positions) if known is None else known[positions]


def _of_signals(op: Emit, node: NodeView, axis: int, signals: Value, count: ShapePart) -> Value:
    """What the node makes of ``count`` signals along one axis, [count, n] -> [count, m], as the runtime computes it."""
    listed, keeps = _listed(node), node.attr("keep_aspect_ratio_policy") != "stretch"
    k = listed.index(axis)
    if keeps and _given(node, SIZES) and len(listed) > 1:
        return _among_others(op, node, axis, signals, count)
    roi = _pick(op, node, ROI, [k, k + len(listed)]) if _crops(node) else None
    scales, sizes = _pick(op, node, SCALES, [k]), _pick(op, node, SIZES, [k])
    return op.clone(node, [signals, roi, scales, sizes], axes=[1], keep_aspect_ratio_policy="stretch", extrapolation_value=0.0)


def _among_others(op: Emit, node: NodeView, axis: int, signals: Value, count: ShapePart) -> Value:
    """The same where one scale for all axes follows from all sizes: every axis is there, constant along the others."""
    x, listed = node.x, _listed(node)
    if _crops(node):
        raise UnsupportedError(
            f"{node.label}: no gradient is known for keep_aspect_ratio_policy together with tf_crop_and_resize. Give scales, or stretch."
        )
    rows = reshape_parts(op, signals, [count, 1, *((x, a) if a == axis else 1 for a in listed)])
    rows = op.Expand(rows, shape_parts(op, [1, 1, *((x, a) for a in listed)]))
    axes = list(range(2, len(listed) + 2))
    out = op.clone(node, [rows, None, None, node.input(SIZES)], axes=axes)
    others = [p for p, a in zip(axes, listed, strict=True) if a != axis]
    return op.Reshape(op.Slice(out, [0] * len(others), [1] * len(others), others), [0, -1])


def _matrix(op: Emit, node: NodeView, axis: int) -> Value:
    """The transposed interpolation matrix [n, m]: what the node makes of the rows of the identity."""
    return _of_signals(op, node, axis, identity_matrix(op, node.x, axis), (node.x, axis))


TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
"""How many neighbours in turn an entry is made of; with antialias as many times more as there are more of them."""

LONGEST = 1 << 20
"""Neither an identity nor a matrix of more elements is written down."""

_DIGIT = 4096
"""Numbers of neighbours are read in digits to this base, so that rounding cannot blur them."""


def _taps(node: NodeView, axis: int, alone: bool) -> int | None:
    """The number of neighbours, where they are taken one by one along this axis; ``None``: by a matrix.

    That is where the matrix would be large, or might be, as along the open and only axis of a sound.
    """
    before, after, taps = node.x.dim(axis), node.y.dim(axis), TAPS[node.attr("mode")]
    if before is None or after is None:
        return taps if alone and not node.attr("antialias") else None
    if before * max(before, after) <= LONGEST:
        return None
    return math.ceil(taps * max(1.0, before / max(after - 1, 1))) + 3 if node.attr("antialias") and taps > 1 else taps


def _by_taps(op: Emit, node: NodeView, dy: Value, axis: int, taps: int, shape: list[ShapePart]) -> Value:
    """dx[i] = sum over entries j and their taps that are i of weight * dy[j]: the work and memory of a line, not of a matrix.

    Of ``taps`` neighbours in turn one is among every so manieth of the input. What the node makes of ones there is its weight; what it
    makes of their numbers is weight times number. ``shape`` is that of dx, whose other axes may not be resized yet.
    """
    x = node.x
    number = op.Range(0, op.Reshape(sizes(op, x, [axis]), np.zeros(0, np.int64)), 1)
    combs = cast(op, op.Equal(op.Mod(number, taps), np.arange(taps)[:, None]))
    turn = op.Div(number, taps)
    digits = [op.Mul(combs, cast(op, digit)) for digit in (op.Mod(turn, _DIGIT), op.Div(turn, _DIGIT))]
    weights, *sums = op.Split(_of_signals(op, node, axis, op.Concat(combs, *digits, axis=0), 3 * taps), [taps] * 3, axis=0, outputs=3)
    absent = op.Equal(weights, 0.0)
    low, high = (op.Cast(op.Round(op.Div(part, op.Where(absent, 1.0, weights))), to=TensorProto.INT64) for part in sums)
    at = op.Add(op.Mul(op.Add(op.Mul(high, _DIGIT), low), taps), np.arange(taps)[:, None])
    at = op.Where(absent, np.asarray(0), at)
    spread = op.Mul(op.Unsqueeze(dy, [axis]), op.Unsqueeze(weights, list(range(2, 1 + x.rank - axis))) if axis < x.rank - 1 else weights)
    flat = op.Reshape(spread, shape_parts(op, [*shape[:axis], -1, *shape[axis + 1 :]]))
    return scatter_axis(op, flat, op.Reshape(at, [-1]), x, axis, shape)


def _extrapolated(op: Emit, node: NodeView) -> Value | None:
    """tf_crop_and_resize writes a constant outside the image; every other mode is linear in the image."""
    if node.attr("mode") != "nearest" and node.want(ROI):
        raise UnsupportedError(f"{node.label}: its implicit bias is known for its image only, not for a region that changes.")
    if not node.want(0):
        return node.y
    if not _crops(node) or not node.attr("extrapolation_value"):
        return None
    return op.clone(node, [zeros_like(op, node.x), *node.inputs[1:]])


def scales_of(*values: float) -> np.ndarray:
    """Scale factors (always float32), for the cases."""
    return np.array(values, np.float32)


def _resize_range(node: NodeView, of: RangeOf) -> Range:
    """Means of neighbours; what lies outside is 0, or the extrapolation value. Cubic interpolation overshoots."""
    outside = float(node.attr("extrapolation_value") or 0.0)
    return ANY if node.attr("mode") == "cubic" else hull(of(0), ZERO, (outside, outside))


def _resized_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """An axis that keeps its size stays as it is, unless a region is cut out."""
    before, after = (node.x.shape or ())[axis], (node.y.shape or ())[axis]
    return None if i else (axis, APART if before is not None and before == after and not _crops(node) else MIXED)


@gradient_of(
    "Resize",
    family="resample",
    axes=_resized_axes,
    range=_resize_range,
    places=resized,
    bias=_extrapolated,
    cases=[
        case((1, 2, 3, 4), None, scales_of(1, 1, 2, 3), mode="nearest"),
        case((2, 2, 3), None, scales_of(1, 1, 2), nearest_mode="floor", coordinate_transformation_mode="asymmetric"),
        case((1, 2, 3, 4), None, None, ints(1, 2, 6, 8), mode="nearest"),
        case((1, 2, 3, 4), None, scales_of(1, 1, 1.5, 2), nearest_mode="ceil"),
        case((1, 2, 4, 5), None, scales_of(0.6, 2), axes=[3, 2], mode="linear"),
        case((1, 2, 3, 4), None, None, ints(1, 2, 5, 7), mode="linear", coordinate_transformation_mode="align_corners"),
        case((2, 3, 4, 2), None, None, ints(5, 3), axes=[2, 1], mode="linear"),
        case((1, 1, 4, 5), None, None, ints(6, 3), axes=[2, 3], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
        case((1, 1, 6, 5), None, scales_of(1, 1, 0.6, 0.4), mode="linear", antialias=1),
        case((1, 1, 6, 5), None, scales_of(1, 1, 0.6, 1.5), mode="cubic", antialias=1, exclude_outside=1),
        case((1, 1, 4, 5), None, None, ints(7, 9), axes=[2, 3], mode="linear", keep_aspect_ratio_policy="not_larger"),
        case((1, 1, 4, 5), None, None, ints(7, 9), axes=[3, 2], mode="nearest", keep_aspect_ratio_policy="not_smaller"),
        case(
            (1, 2, 4, 5),
            np.array([0.1, 0.2, 0.9, 1.3], np.float32),
            None,
            ints(3, 4),
            axes=[2, 3],
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=1.5,
        ),
        case((1, 1, 4, 5), None, scales_of(2.3, 0.7), axes=[2, 3], coordinate_transformation_mode="half_pixel_symmetric", opset=19),
        case((1, 2, 2, 3, 2), None, scales_of(1, 1, 2, 1.5, 1), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
        case((2, 3), None, scales_of(1, 1)),
        case((2, 9), None, None, ints(4), axes=[1], mode="linear", coordinate_transformation_mode="align_corners"),
        case((2, 5), None, None, ints(12), axes=[1], mode="cubic"),
    ],
)
def resize(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """Per resized axis dx = M^T dy, with M the interpolation matrix (what the node makes of the identity); sums over whole blocks. Along
    an axis that is long, the neighbours one by one.

    By the region that tf_crop_and_resize cuts out, <dy, x interpolated by the slopes of M>. In mode nearest both roi and scales have a
    derivative of 0; in the others none is known by scales, where sizes jump.
    """
    answer = node.grads(_resize_x(op, node, dy) if node.want(0) else None)
    nearest = node.attr("mode") == "nearest"
    if node.want(ROI) and not nearest and _crops(node):
        answer[ROI] = by_region(op, node, dy, _listed(node))
    for i in (ROI, SCALES):
        if node.want(i) and nearest:
            answer[i] = op.Sub(node.input(i), node.input(i))
    return answer


def _resize_x(op: Emit, node: NodeView, dy: Value) -> Value:
    axes = _resized(node)
    blocks = _blocks(node, axes)
    if not axes:
        return dy
    if blocks is not None:
        return _sum_blocks(op, dy, node.x.dim(1) or 0, node.x.rank, blocks)
    taps = {a: k for a in axes if (k := _taps(node, a, len(axes) == 1)) is not None}
    left = set(axes)
    for axis, count in taps.items():
        left.discard(axis)
        dy = _by_taps(op, node, dy, axis, count, [(node.y if a in left else node.x, a) for a in range(node.x.rank)])
    return linear_adjoint(op, dy, node.x, {a: _matrix(op, node, a) for a in axes if a not in taps})


# ----- patches -----


@gradient_of(
    "Col2Im",
    family="resample",
    axes=samples_only,
    range=by_sign,
    bias="zero",
    cases=[
        case((1, 8, 6), ints(3, 4), ints(2, 2)),
        case((2, 12, 6), ints(4, 4), ints(2, 3), strides=[2, 1], pads=[0, 1, 0, 0], dilations=[1, 1]),
        case((1, 6, 3), ints(5), ints(3), dilations=[1]),
    ],
)
def col2im(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = the patches of dy (im2col): a convolution of every channel with one-hot kernels."""
    blocks, image = node.ints(2), node.ints(1)
    if blocks is not None:
        size, kernel = [math.prod(blocks)] * 2, [-1, 1, *blocks]
    else:
        size = op.Expand(op.ReduceProd(node.input(2), keepdims=1), [2])
        kernel = op.Concat([-1, 1], node.input(2), axis=0)
    kernels = op.Reshape(op.EyeLike(op.ConstantOfShape(size), dtype=op.dtype), kernel)
    channels = op.Reshape(dy, [-1, 1, *image] if image is not None else op.Concat([-1, 1], node.input(1), axis=0))
    given = {name: node.attr(name) for name in ("strides", "pads", "dilations")}
    places = len(blocks or ()) or node.input(2).dim(0)
    window = given if places is None else window_attributes(places, blocks, **given)
    return node.grads(reshape_like(op, op.Conv(channels, kernels, **window), node.x))
