"""Which elements of the explained input stand at one place, what may stand in their stead, and how a value per place is laid out over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from numbers import Integral

from onnx import TensorProto

from onnxsal.errors import MethodError
from onnxsal.graph import FLOATS, Emit, Value
from onnxsal.graph.helpers import cast, dim_of, shape_of
from onnxsal.graph.infer import shape_text
from onnxsal.methods.build import Build
from onnxsal.methods.maps import share_among_channels

Size = int | Value
"""A number of pixels, known or a scalar of the graph."""


@dataclass(frozen=True)
class Places:
    """The axes of the explained input that count places, in rising order; elements that differ on others, ``whole``, stand at one place.

    ``channel`` is the axis of channels of a picture all of whose other axes count places.
    """

    axes: tuple[int, ...]
    whole: tuple[int, ...]
    channel: int | None = None


def places_of(build: Build) -> Places:
    """Of a picture all its axes but that of channels, of vectors per token those of the tokens, of anything else all axes of a sample; or
    the axes that the setting ``places`` names. Raises ``MethodError`` where it names other axes, and where a sample has none.
    """
    question = build.question
    x, first = question.x, 1 if question.batched else 0
    named = build.settings.get("places", "")
    axes = question.places or tuple(range(first, x.rank))
    if not isinstance(named, str) or named:
        given = named if isinstance(named, list | tuple) else [named]
        known = all(isinstance(a, Integral) and not isinstance(a, bool) and -x.rank <= a < x.rank for a in given)
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
    channel = picture[0] if picture is not None and rising == tuple(sorted(picture[1:])) else None
    return Places(rising, tuple(a for a in range(x.rank) if a not in rising), channel)


def side(op: Emit, x: Value, axis: int) -> Size:
    """The size of an axis, as a number if it is known, else as a scalar of the graph."""
    known = x.dim(axis)
    return known if known is not None else op.Squeeze(dim_of(op, x, axis), [0])


def times(op: Emit, sizes: Sequence[Size]) -> Size:
    """The product of sizes."""
    numbers = [s for s in sizes if isinstance(s, int)]
    return prod(numbers) if len(numbers) == len(sizes) else reduce(op.Mul, [s if isinstance(s, Value) else op.const(s) for s in sizes])


def replaceable(build: Build) -> Value:
    """The explained input, of whole numbers and truth values as int64: ONNX Runtime replaces elements of few other types."""
    x = build.question.x
    return x if x.dtype in FLOATS or x.dtype == TensorProto.INT64 else build.op.Cast(x, to=TensorProto.INT64)


def over_places(build: Build, places: Places, map_: Value) -> Value:
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
    count = times(op, sizes)
    share = op.Div(map_, float(count) if isinstance(count, int) else cast(op, count))
    return op.Expand(op.Unsqueeze(share, shared), shape_of(op, x))
