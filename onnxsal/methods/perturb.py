"""Perturbation: the score where a window of the input is hidden (occlusion), or where random parts of it are seen (RISE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from numbers import Real
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxsal.ask.layers import TargetLayer
from onnxsal.errors import MethodError, TargetError
from onnxsal.graph import FLOATS, Emit, Value
from onnxsal.graph.helpers import cast
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.elements import (
    PlaceAxes,
    Size,
    all_known,
    as_row,
    as_scalar,
    over_places,
    place_axes,
    replaceable,
    side,
    times,
    zeros_at,
)
from onnxsal.methods.head import probabilities, scores
from onnxsal.methods.points import Samples, Scored, sampled_scores
from onnxsal.methods.smooth import uniform_noise

LAST = 2**31
"""As the end of a Slice: up to the end."""

WINDOW = {"window": 15, "stride": 8}
"""Of pictures, in pixels; of anything else windows are single places."""


def pixels_of(build: Build, name: str, sizes: Sequence[Size], places: PlaceAxes) -> list[Size]:
    """A setting in places, or as a share (below 1) of the input's axes of places; one for all, or one for each.

    Where it is not given it is settled here: ``WINDOW`` for pictures, 1 for anything else.
    """
    if isinstance(build.settings[name], str) and not build.settings[name]:
        build.settings[name] = 1 if not places.pictured else WINDOW[name]
    value: Any = build.settings[name]
    every = value if isinstance(value, list | tuple) else (value,) * len(sizes)
    if len(every) != len(sizes) or not all(
        isinstance(v, Real) and (0 < float(v) < 1 or (float(v) >= 1 and float(v).is_integer())) for v in every
    ):
        raise MethodError(
            f"method '{build.method.name}': {name}={value!r} is neither a number of pixels nor a share of the picture between 0 and 1, "
            f"nor a list of {len(sizes)} of them (one for each axis of places)."
        )
    numbers = [float(v) for v in every]
    return [int(v) if v >= 1 else _share(build.op, size, v) for v, size in zip(numbers, sizes, strict=True)]


def _share(op: Emit, size: Size, share: float) -> Size:
    if isinstance(size, int):
        return max(1, round(size * share))
    return op.Max(op.Cast(op.Round(op.Mul(cast(op, size), share)), to=TensorProto.INT64), 1)


def corners(op: Emit, size: Size, window: Size, stride: Size) -> Value:
    """First pixels of the windows along one axis, [R]: every ``stride``, the last one moved back so that it ends at the border."""
    if isinstance(size, int) and isinstance(window, int) and isinstance(stride, int):
        last = max(size - window, 0)
        return op.const([*range(0, last, stride), last])
    last_place = op.Max(op.Sub(size, window), 0)
    count = op.Add(op.Div(op.Add(last_place, op.Sub(stride, 1)), stride), 1)
    return op.Min(op.Mul(op.Range(0, count, 1), stride), last_place)


def covers(op: Emit, first: Value, size: Size, window: Size) -> Value:
    """Which pixels of an axis a window covers: bool [R, size]."""
    begin = op.Unsqueeze(first, [1])
    pixels = op.Unsqueeze(op.Range(0, size, 1) if isinstance(size, Value) else op.const(list(range(size))), [0])
    return op.And(op.GreaterOrEqual(pixels, begin), op.Less(pixels, op.Add(begin, window)))


def replacement(build: Build, places: PlaceAxes, window: Sequence[Size]) -> Value:
    """What stands in the window, broadcastable to the input: a number, an array or black (the tensor ``baseline``), or made of it.

    ``mean`` is each channel's mean over each picture; ``blur`` the picture averaged twice over boxes a little larger than the window.
    Where nothing is asked for that is the mean of a picture, and 0 of anything else, of which ids have none.
    """
    op, x = build.op, build.question.x
    averages = places.pictured and x.dtype in FLOATS
    if averages and isinstance(build.settings["value"], str) and not build.settings["value"]:
        build.settings["value"] = "mean"
    value = build.settings["value"]
    if not isinstance(value, str) or value not in ("mean", "blur"):
        return build.baseline("value")
    if not averages:
        raise MethodError(
            f"method 'occlusion': value '{value}' is made of pictures in floating point; '{x.name}' is none. Give a number or an array."
        )
    return op.ReduceMean(x, list(places.axes), keepdims=1) if value == "mean" else _blurred(build, places, window)


def _blurred(build: Build, places: PlaceAxes, window: Sequence[Size]) -> Value:
    op, picture, count = build.op, build.question.x, len(places.axes)
    order = [a for a in places.whole if a != places.channel][:1] + ([] if places.channel is None else [places.channel]) + list(places.axes)
    turned = order != sorted(order)
    if turned:
        picture = op.Transpose(picture, perm=order)
    if places.channel is None:
        picture = op.Unsqueeze(picture, [1])
    kernel = [w | 1 for w in window if isinstance(w, int)]
    if len(kernel) != count:
        raise MethodError("method 'occlusion': value 'blur' needs the window in pixels where the picture's size is known only at run time.")
    pads = [k // 2 for k in kernel] * 2
    for _ in range(2):
        picture = op.AveragePool(picture, kernel_shape=kernel, pads=pads, strides=[1] * count, count_include_pad=0)
    if places.channel is None:
        picture = op.Squeeze(picture, [1])
    return op.Transpose(picture, perm=[int(a) for a in np.argsort(order)]) if turned else picture


@wrap("occlusion", starts="nothing", integers=True)
def occlusion(build: Build) -> Result:
    """``D(r) = f(x) - f(x with the window at r replaced)``; each place's map is the mean D of the windows that cover it.

    Zeiler and Fergus 2013, arXiv 1311.2901. Windows lie along all axes of places: rows and columns of a picture, the slices of a volume
    too, the steps of a series, the columns of a table, the tokens of a text. The attribution is the map of places shared among channels.
    Components [N, R, ...], with an axis for each axis of places, by position of the window: ``occlusion/drop`` D, ``occlusion/score`` the
    score left, ``occlusion/class`` the class then predicted, and ``occlusion/activation`` the sum over the feature map of the target
    layer that is strongest (in sum) on the whole picture.
    """
    op, x, places = build.op, replaceable(build), place_axes(build)
    sizes = [side(op, build.question.x, a) for a in places.axes]
    window, stride = (pixels_of(build, name, sizes, places) for name in WINDOW)
    firsts = [corners(op, s, w, t) for s, w, t in zip(sizes, window, stride, strict=True)]
    covered = [covers(op, f, s, w) for f, s, w in zip(firsts, sizes, window, strict=True)]
    known = [f.static[0] if f.static is not None else None for f in firsts]
    counts = [k if k is not None else op.Squeeze(op.Shape(f), [0]) for k, f in zip(known, firsts, strict=True)]
    value = replacement(build, places, window)

    def points(body: Emit, numbers: Value) -> Value:
        along = [_along(body, numbers, covered, counts, i) for i in range(len(counts))]
        hidden = body.Unsqueeze(reduce(body.And, along), [a + 1 for a in places.whole])
        return body.Where(hidden, value, x)

    samples = Samples(times(op, counts), "window")
    watched = watch(build, places) if build.want_components else []

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        new = [chunk.scores, *(see(chunk) for _, _, see in watched)]
        return [chunk.body.Concat(s, n, axis=0) for s, n in zip(states, new, strict=True)]

    clean = op.Unsqueeze(build.head.score, [0])  # the whole picture is the first row, so that no state is ever empty
    done = sampled_scores(build, samples, points, [clean, *(c for _, c, _ in watched)], update, None, also_seen(build))
    grid = [op.const([k]) if k else op.Shape(f) for k, f in zip(known, firsts, strict=True)]
    shape = op.const([-1, *counts]) if all_known(counts) else op.Concat(op.const([-1]), *grid, axis=0)

    def by_position(found: Value) -> Value:
        return op.Reshape(op.Transpose(op.Slice(found, [1], [LAST], [0]), perm=[1, 0]), shape)

    left, rank = by_position(done[0]), 1 + len(sizes)
    drop = op.Sub(op.Unsqueeze(build.head.score, list(range(1, rank))), left)
    build.component("occlusion/drop", lambda: drop, rank)
    build.component("occlusion/score", lambda: left, rank)
    for (name, _, _), found in zip(watched, done[1:], strict=True):
        build.component(f"occlusion/{name}", lambda found=found: by_position(found), rank)  # type: ignore[misc]
    pixels = mean_over_windows(op, drop, [cast(op, c) for c in covered])
    return Result(over_places(build, places, pixels), None, pixels if places.pictured else None)


def _along(body: Emit, numbers: Value, covered: Sequence[Value], counts: Sequence[Size], axis: int) -> Value:
    """Where the windows of these numbers lie along one axis: [c, size], with axes of size 1 for the others. The last axis runs fastest."""
    behind, others = counts[axis + 1 :], [a + 1 for a in range(len(counts)) if a != axis]
    number = body.Div(numbers, times(body, behind)) if behind else numbers
    mask = body.Gather(covered[axis], body.Mod(number, counts[axis]) if axis else number)
    return body.Unsqueeze(mask, others) if others else mask


def mean_over_windows(op: Emit, drop: Value, covered: Sequence[Value]) -> Value:
    """The mean of what the windows [N, R, ...] say, at each place that any of them covers, else 0: [N, sizes].

    ``covered`` are [R, size] for each axis.
    """
    count, total, number = len(covered), drop, []
    for i, cover in enumerate(covered):
        behind = count - 1 - i
        if behind == 1:
            total = op.MatMul(op.Transpose(cover, perm=[1, 0]), total)
        elif behind == 0:
            total = op.MatMul(total, cover)
        else:
            swapped = [*range(i + 1), count, *range(i + 2, count), i + 1]
            total = op.Transpose(op.MatMul(op.Transpose(total, perm=swapped), cover), perm=swapped)
    for i, cover in enumerate(covered):
        behind, single = count - 1 - i, op.ReduceSum(cover, [0], keepdims=1)
        number.append(op.Transpose(single, perm=[1, 0]) if behind == 1 else op.Reshape(single, [-1, *[1] * behind]) if behind else single)
    return op.Div(total, op.Max(reduce(op.Mul, number), 1.0))


Watched = tuple[str, Value, Callable[[Scored], Value]]
"""(name, its value on the whole picture [1, N], how to see it in a chunk [c, N])."""


def watched_layer(build: Build) -> TargetLayer | None:
    """The layer whose strongest feature map is watched; ``None`` where the graph has none and none was named."""
    try:
        return build.take_layer()
    except TargetError:
        if build.settings.get("layer"):
            raise
        return None


def also_seen(build: Build) -> list[str]:
    """Tensors that the loop must replay beside the scores."""
    return [build.settings["layer"]] if build.want_components and build.settings["layer"] else []


def watch(build: Build, places: PlaceAxes) -> list[Watched]:
    """The predicted class, and of pictures the total activation of the strongest feature map."""
    op, question = build.op, build.question

    def predicted(op: Emit, start: Value) -> Value:
        return cast(op, op.ArgMax(scores(op, question, start), axis=1, keepdims=0))

    found: list[Watched] = [
        ("class", op.Unsqueeze(predicted(op, question.start), [0]), lambda chunk: chunk.per_run(predicted(chunk.body, chunk.inner.start)))
    ]
    layer = watched_layer(build) if places.pictured else None
    if layer is None:
        return found
    beside = list(range(2, 2 + len(places.axes)))
    totals = op.ReduceSum(layer.activations(op), beside, keepdims=0)
    strongest = op.ArgMax(totals, axis=1, keepdims=1)

    def activation(chunk: Scored) -> Value:
        body = chunk.body
        inner = layer.of(chunk.tensor(layer.value.name))
        sums = body.ReduceSum(inner.activations(body), beside, keepdims=0)
        repeated = body.Tile(strongest, body.Concat(body.Shape(chunk.numbers), body.const([1]), axis=0))
        return chunk.per_run(body.GatherElements(sums, repeated, axis=1))

    return [*found, ("activation", op.Transpose(op.GatherElements(totals, strongest, axis=1), perm=[1, 0]), activation)]


@wrap("rise", starts="nothing", integers=True)
def rise(build: Build) -> Result:
    """``S = 1 / (n p) sum_i p_c(x * M_i) M_i`` over random masks M_i; p_c is the class's probability, or the score where there is none.

    Of pictures, series and volumes masks are smooth: an array of zeros and ones (one with probability p), ``grid`` cells along each axis,
    is upsampled linearly to (grid + 1) cells of ceil(size / grid) pixels and cropped at a random offset within one cell. Of anything else
    (columns, tokens) each place is seen with probability p. What is not seen is 0, or ``value`` where that is given (x * M + value * (1 -
    M)). The masks are made in the graph from the seed; all samples of a batch meet the same ones. Petsiuk et al. 2018, arXiv 1806.07421.
    """
    op, places, settings = build.op, place_axes(build), build.settings
    density, count = settings["density"], settings["n_masks"]
    if not 0 < density <= 1:
        raise MethodError(f"method 'rise': density={density!r} is not a share between 0 and 1.")
    masks, seen_through = _masks(build, places), _seen_through(build, places)

    def points(body: Emit, numbers: Value) -> Value:
        seen = body.cached("masks", lambda: masks(body, numbers))
        return seen_through(body, body.Unsqueeze(seen, [a + 1 for a in places.whole]))

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        body = chunk.body
        seen = body.cached("masks", lambda: masks(body, chunk.numbers))
        flat = body.Reshape(seen, body.Concat(body.Shape(chunk.numbers), body.const([-1]), axis=0))
        weighted = body.MatMul(body.Transpose(chunk.scores, perm=[1, 0]), flat)
        shape = body.Concat(body.const([-1]), body.Shape(seen, start=1), axis=0)
        return [body.Add(states[0], body.Reshape(weighted, shape))]

    samples = Samples(count, "random mask")
    (total,) = sampled_scores(build, samples, points, [zeros_at(build, places)], update, probabilities)
    map_ = op.Div(total, float(count) * float(density))
    return Result(over_places(build, places, map_), None, map_ if places.pictured else None)


def _masks(build: Build, places: PlaceAxes) -> Callable[[Emit, Value], Value]:
    """(body, sample numbers [c]) -> masks [c, sizes of the places]."""
    op, settings = build.op, build.settings
    grid, density, seed = settings["grid"], float(settings["density"]), op.const(int(settings["seed"]))
    sizes = [side(op, build.question.x, a) for a in places.axes]
    if places.pictured:
        return lambda body, numbers: _smooth_masks(body, numbers, sizes, grid, density, seed)

    def masks(body: Emit, numbers: Value) -> Value:
        noise = uniform_noise(body, numbers, as_scalar(body, times(body, sizes)), seed)
        shape = body.Concat(body.const([-1]), *(as_row(body, s) for s in sizes), axis=0)
        return body.Reshape(cast(body, body.LessOrEqual(noise, density)), shape)

    return masks


def _seen_through(build: Build, places: PlaceAxes) -> Callable[[Emit, Value], Value]:
    """(body, a mask that broadcasts to the input) -> the input through it. Whole numbers are replaced, or in pictures mixed and rounded."""
    x, value = build.question.x, build.settings["value"]
    if x.dtype in FLOATS and isinstance(value, str) and not value:
        return lambda body, seen: body.Mul(seen, x)
    other, held = build.baseline("value"), replaceable(build)
    if not places.pictured:
        return lambda body, seen: body.Where(body.Greater(seen, 0.5), held, other)

    def mixed(body: Emit, seen: Value) -> Value:
        own, instead = (v if x.dtype in FLOATS else cast(body, v) for v in (held, other))
        both = body.Add(body.Mul(seen, own), body.Mul(body.Sub(1.0, seen), instead))
        return both if x.dtype in FLOATS else body.Cast(body.Round(both), to=TensorProto.INT64)

    return mixed


def _smooth_masks(body: Emit, numbers: Value, sizes: Sequence[Size], grid: int, density: float, seed: Value) -> Value:
    """Masks [c, sizes] of ``grid`` cells along each axis, upsampled and cropped."""
    count, cells = len(sizes), grid ** len(sizes)
    noise = uniform_noise(body, numbers, body.const(cells + count), seed)
    array = body.Reshape(cast(body, body.LessOrEqual(body.Slice(noise, [0], [cells], [1]), density)), [-1, *[grid] * count])
    weights = [_interpolation(body, s, grid, body.Slice(noise, [cells + i], [cells + i + 1], [1])) for i, s in enumerate(sizes)]
    if count == 2:
        return body.MatMul(body.MatMul(weights[0], array), body.Transpose(weights[1], perm=[0, 2, 1]))
    for i, weight in enumerate(weights):  # one axis after the other, each made the second one: [c, size, grid] times [c, grid, rest]
        turned = [0, i + 1, *(a + 1 for a in range(count) if a != i)]
        first = body.Transpose(array, perm=turned)
        mixed = body.MatMul(weight, body.Reshape(first, [0, grid, -1]))
        shape = body.Concat(body.Shape(mixed, end=2), body.Shape(first, start=2), axis=0)
        array = body.Transpose(body.Reshape(mixed, shape), perm=[int(a) for a in np.argsort(turned)])
    return array


def _interpolation(body: Emit, size: Size, grid: int, noise: Value) -> Value:
    """Weights [c, size, grid] of a bilinear upsampling of ``grid`` cells, read from a random offset within one cell.

    Pixel h lies at u = (h + offset + 1/2) / scale - 1/2 of the grid, with scale = (grid + 1) cell / grid; cell j weighs
    max(0, 1 - |u - j|).
    """
    if isinstance(size, int):
        cell: Any = float(-(-size // grid))
        pixels = body.const(np.arange(size, dtype=body.np_dtype)[None, :])
        scale: Any = (grid + 1) * cell / grid
    else:
        cell = cast(body, body.Div(body.Add(size, grid - 1), grid))
        pixels = cast(body, body.Unsqueeze(body.Range(0, size, 1), [0]))
        scale = body.Mul(cell, (grid + 1) / grid)
    offset = body.Min(body.Floor(body.Mul(noise, cell)), cell - 1.0 if isinstance(cell, float) else body.Sub(cell, 1.0))
    place = body.Sub(body.Div(body.Add(body.Add(pixels, offset), 0.5), scale), 0.5)
    place = body.Unsqueeze(body.Max(body.Min(place, float(grid - 1)), 0.0), [2])
    cells = body.const(np.arange(grid, dtype=body.np_dtype)[None, None, :])
    return body.Max(body.Sub(1.0, body.Abs(body.Sub(place, cells))), 0.0)
