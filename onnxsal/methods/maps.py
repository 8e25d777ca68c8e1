"""Maps [N, *places] on the way to the picture, series or volume: upsampled, spread over the input's channels, cut off at zero."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from onnxsal.ask.layers import TargetLayer
from onnxsal.errors import MethodError
from onnxsal.facts.axes import Layout, Picture, layout_places
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import cast, dim_of, shape_of
from onnxsal.methods.build import Build, places_axes

_FLAT = 1e-6
"""A map whose values differ by less than this share of their size says nothing about places."""


def picture_axes(build: Build) -> Picture:
    """(channel, *places): the axes of the explained input, which must be a series, a picture or a volume. ``channel`` is ``None`` where it
    has no channels.
    """
    axes = build.question.picture
    if axes is None:
        x = build.question.x
        shape = "an unknown shape" if x.shape is None else f"shape {list(x.shape)}"
        raise MethodError(
            f"method '{build.method.name}' explains pictures, series and volumes; '{x.name}' has {shape}, and no convolution or pooling "
            "reads it as one: --layout (layout= in Python) says what its axes are."
        )
    return axes


def places_of(build: Build) -> int:
    """The number of axes of places: 1 for a series, 2 for a picture, 3 for a volume."""
    return layout_places(picture_axes(build))


def sides_of(build: Build, op: Emit) -> list[Value]:
    """The sizes of the axes of places, int64 [1] each."""
    return sides(op, build.question.x, picture_axes(build))


def sides(op: Emit, value: Value, picture: Picture) -> list[Value]:
    """The sizes of the axes of places of a tensor, int64 [1] each."""
    return [dim_of(op, value, a) for a in picture[1:] if a is not None]


def upsample(build: Build, op: Emit, maps: Value) -> Value:
    """Linear from [N, K, *places] to the places of the explained input, corners not aligned (centres keep their relative place)."""
    return enlarge(op, maps, sides_of(build, op), "half_pixel")


def enlarge(op: Emit, maps: Value, sides: Sequence[Value], mode: str) -> Value:
    """Linear along each axis of places, from [N, K, *places] to [N, K, *sides]; ``mode`` says how places of either size meet.

    Resize is told every size, not its attribute ``axes``: ONNX Runtime 1.31 fails where it moves a Transpose through such a node.
    """
    sizes = op.Concat(op.Shape(maps, end=2), *sides, axis=0)
    return op.Resize(maps, None, None, sizes, mode="linear", coordinate_transformation_mode=mode)


def of_patches(build: Build, tokens: Value) -> Value | None:
    """The tokens of the picture's grid as [N, D, h, w], of a tensor like the explained one; ``None`` where it holds no such grid."""
    question, known = build.question, build.question.tokens
    if known is None or known.grid is None:
        return None
    return TargetLayer(question.x, None, known.grid).maps(build.op, tokens)


def token_map(build: Build, attribution: Value) -> Value | None:
    """The map [N, H, W] of the tokens that a picture was cut into: the sum over D, signed unless ``reduce`` says another one, resized."""
    op, (picture, axes), laid = build.op, build.question.shown, of_patches(build, attribution)
    if laid is None or axes is None:
        return None
    reduced = build.over_channels(laid, 1, "sum")
    return op.Squeeze(enlarge(op, op.Unsqueeze(reduced, [1]), sides(op, picture, axes), "half_pixel"), [1])


def spread(op: Emit, maps: Value, sizes: Sequence[int | None], full: Sequence[int | None], sides: Sequence[Value]) -> Value:
    """Linear along each axis of places, from [N, *sizes] to [N, *sides], centres kept in place, and the sum of each map kept: what a place
    gives to others adds up to what it holds. ``sizes`` and ``full`` are small and whole sizes as far as known, ``sides`` the latter as
    int64 [1].
    """
    for axis, (size, known, side) in enumerate(zip(sizes, full, sides, strict=True), 1):
        if size is not None and size == known:
            continue
        own = op.const([size]) if size is not None else op.Shape(maps, start=axis, end=axis + 1)
        weights = op.cached(("spread", own.name, side.name), partial(_weights, op, own, side))
        maps = _along(op, maps, weights, axis, len(sizes))
    return maps


def _along(op: Emit, maps: Value, weights: Value, axis: int, last: int) -> Value:
    """[N, ...] times [size, side] along one axis of places."""
    if axis == last:
        return op.MatMul(maps, weights)
    turned = op.Transpose(weights, perm=[1, 0])
    if axis == last - 1:
        return op.MatMul(turned, maps)
    whole = op.Concat(op.Shape(maps, end=axis), op.Shape(weights, start=1), op.Shape(maps, start=axis + 1), axis=0)
    return op.Reshape(op.MatMul(turned, op.Reshape(maps, [0, 0, -1])), whole)


def _weights(op: Emit, size: Value, side: Value) -> Value:
    """[size, side], each row summing to 1: 1 - |distance of centres| / (the larger pixel's side), and 0 beyond."""
    narrow, wide = (cast(op, op.Squeeze(v, [0])) for v in (size, side))
    ratio = op.Div(narrow, wide)
    at = op.Sub(op.Mul(op.Add(_numbers(op, side), 0.5), ratio), 0.5)
    at = op.Min(op.Max(at, 0.0), op.Sub(narrow, 1.0))
    gaps = op.Div(op.Abs(op.Sub(at, op.Unsqueeze(_numbers(op, size), [1]))), op.Max(ratio, 1.0))
    weights = op.Relu(op.Sub(1.0, gaps))
    return op.Div(weights, op.ReduceSum(weights, [1], keepdims=1))


def _numbers(op: Emit, count: Value) -> Value:
    return cast(op, op.Range(0, op.Squeeze(count, [0]), 1))


def share_among_channels(build: Build, map_: Value) -> Value:
    """A map [N, *places] shared equally among the input's channels: an attribution whose sum over channels is the map."""
    op, x, channel = build.op, build.question.x, picture_axes(build)[0]
    if channel is None:
        return op.Identity(map_)
    size = x.dim(channel)
    share = op.Div(map_, float(size) if size is not None else cast(op, op.Squeeze(dim_of(op, x, channel), [0])))
    return op.Expand(op.Unsqueeze(share, [channel]), shape_of(op, x))


def without_single(op: Emit, small: Value, layout: Layout) -> Value:
    """A map of a tensor, whose channels are summed, without its axes of one entry."""
    channel = layout.picture[0] if layout.picture is not None else None
    single = [a - (channel is not None and channel < a) for a in layout.single]
    return op.Squeeze(small, single) if single else small


def with_channel(op: Emit, map_: Value, channel: int | None, before: int = 0) -> Value:
    """A map [N, *places] that broadcasts over the channels of the input, behind ``before`` more axes."""
    return map_ if channel is None else op.Unsqueeze(map_, [channel + before])


def positive(op: Emit, map_: Value, places: int) -> Value:
    """max(map, 0) of [N, *places]; zeros where nothing is positive or the map is constant: neither says where to look."""
    axes = places_axes(places)
    high, low = op.ReduceMax(map_, axes, keepdims=1), op.ReduceMin(map_, axes, keepdims=1)
    size = op.Max(op.Abs(high), op.Abs(low))
    flat = op.LessOrEqual(op.Sub(high, low), op.Mul(size, _FLAT))
    return op.Where(flat, 0.0, op.Relu(map_))
