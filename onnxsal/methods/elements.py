"""Which elements of the explained input stand at one place, and how a value per place is laid out over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from numbers import Integral
from typing import TypeGuard

import numpy as np
from onnx import TensorProto

from onnxsal.errors import MethodError
from onnxsal.graph import FLOATS, Emit, Value
from onnxsal.graph.helpers import cast, dim_of, shape_of, zeros_like
from onnxsal.graph.infer import shape_text
from onnxsal.methods.build import Build
from onnxsal.methods.maps import share_among_channels

Size = int | Value
"""A number of pixels, known or a scalar of the graph."""


@dataclass(frozen=True)
class PlaceAxes:
    """The axes of the explained input that count places, in rising order; elements that differ on others, ``whole``, stand at one place.

    ``pictured``: they are those of a picture, a series or a volume, whose axis of channels is ``channel`` (``None``: it has none).
    """

    axes: tuple[int, ...]
    whole: tuple[int, ...]
    pictured: bool = False
    channel: int | None = None


def place_axes(build: Build) -> PlaceAxes:
    """Of a picture all its axes but that of channels, of vectors per token those of the tokens, of anything else all axes of a sample; or
    the axes that the setting ``places`` names. Raises ``MethodError`` where it names other axes, and where a sample has none.
    """
    question = build.question
    x, first = question.x, 1 if question.batched else 0
    named = build.settings.get("places", "")
    axes = question.places or tuple(range(first, x.rank))
    if not isinstance(named, str) or named:
        given = named if isinstance(named, list | tuple) else [named]
        known = all(isinstance(a, Integral) and not isinstance(a, bool) and -x.rank <= int(a) < x.rank for a in given)
        axes = tuple(int(a) % x.rank for a in given) if known else ()
        if not axes or len(set(axes)) < len(axes) or min(axes) < first:
            raise MethodError(
                f"method '{build.method.name}': places={named!r} names no axes of a sample of '{x.name}' {shape_text(x.shape)}; they are "
                f"{first} to {x.rank - 1}."
            )
    if not axes:
        raise MethodError(
            f"method '{build.method.name}': a sample of '{x.name}' {shape_text(x.shape)} is one number, with nothing apart in it."
        )
    rising = tuple(sorted(axes))
    picture = question.picture
    pictured = picture is not None and rising == tuple(sorted(picture[1:]))
    channel = picture[0] if picture is not None and pictured else None
    return PlaceAxes(rising, tuple(a for a in range(x.rank) if a not in rising), pictured, channel)


def all_known(sizes: Sequence[Size]) -> TypeGuard[Sequence[int]]:
    """Whether all sizes are numbers."""
    return all(isinstance(s, int) for s in sizes)


def as_scalar(op: Emit, size: Size) -> Value:
    """A size as an int64 scalar of the graph."""
    return op.const(size) if isinstance(size, int) else size


def as_row(op: Emit, size: Size) -> Value:
    """A size as int64 [1]."""
    return op.const([size]) if isinstance(size, int) else op.Unsqueeze(size, [0])


def as_number(op: Emit, size: Size) -> Value | float:
    """A size in the compute type."""
    return float(size) if isinstance(size, int) else cast(op, size)


def numbers_to(op: Emit, size: Size) -> Value:
    """0, 1, ... up to a size, int64."""
    return op.const(np.arange(size)) if isinstance(size, int) else op.Range(0, size, 1)


def side(op: Emit, x: Value, axis: int) -> Size:
    """The size of an axis, as a number if it is known, else as a scalar of the graph."""
    known = x.dim(axis)
    return known if known is not None else op.Squeeze(dim_of(op, x, axis), [0])


def times(op: Emit, sizes: Sequence[Size]) -> Size:
    """The product of sizes."""
    return prod(sizes) if all_known(sizes) else reduce(op.Mul, [as_scalar(op, s) for s in sizes])


def plus(op: Emit, first: Size, second: Size) -> Size:
    """The sum of two sizes."""
    return first + second if isinstance(first, int) and isinstance(second, int) else op.Add(as_scalar(op, first), as_scalar(op, second))


def replaceable(build: Build) -> Value:
    """The explained input, of whole numbers and truth values as int64: ONNX Runtime replaces elements of few other types."""
    x = build.question.x
    return x if x.dtype in FLOATS or x.dtype == TensorProto.INT64 else build.op.Cast(x, to=TensorProto.INT64)


def over_places(build: Build, places: PlaceAxes, map_: Value) -> Value:
    """A value per place [N, sizes of the places] shared equally among the elements at each: what they get adds up to it."""
    op, x = build.op, build.question.x
    if places.channel is not None and build.question.batched:
        return share_among_channels(build, map_)
    if not build.question.batched and 0 in places.axes:
        map_ = op.Squeeze(map_, [0])  # all that is fed is one sample, so there is no axis of samples
        shared = list(places.whole)
    else:
        shared = [a for a in places.whole if a]
    if not shared:
        return map_
    sizes = [side(op, x, a) for a in shared]
    share = op.Div(map_, as_number(op, times(op, sizes)))
    return op.Expand(op.Unsqueeze(share, shared), shape_of(op, x))


def zeros_at(build: Build, places: PlaceAxes) -> Value:
    """Zeros of the compute type for each place: [N, sizes of the places]."""
    op, batched = build.op, build.question.batched
    zero = zeros_like(op, build.question.x)
    if not batched:
        zero = op.Unsqueeze(zero, [0]) if 0 in places.axes else zero
    shift = int(not batched and 0 in places.axes)
    summed = [a + shift for a in places.whole if a]
    return op.ReduceSum(zero, summed, keepdims=0) if summed else zero
