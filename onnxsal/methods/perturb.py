"""Perturbation: the score where a window of the picture is hidden (occlusion), or where random parts of it are seen (RISE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxsal.ask.layers import TargetLayer
from onnxsal.errors import MethodError, TargetError
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import cast, dim_of, zeros_like
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import probabilities, scores
from onnxsal.methods.maps import picture_axes, share_among_channels
from onnxsal.methods.points import Samples, Scored, sampled_scores
from onnxsal.methods.smooth import uniform_noise

LAST = 2**31
"""As the end of a Slice: up to the end."""


Size = int | Value
"""A number of pixels, known or a scalar of the graph."""


def pixels_of(build: Build, name: str, sizes: Sequence[Size]) -> list[Size]:
    """A setting in pixels, or as a share (below 1) of the picture's height and width; one for both, or two."""
    value: Any = build.settings[name]
    both = value if isinstance(value, list | tuple) else (value, value)
    if len(both) != 2 or not all(isinstance(v, Real) and (0 < float(v) < 1 or (float(v) >= 1 and float(v).is_integer())) for v in both):
        raise MethodError(
            f"method '{build.method.name}': {name}={value!r} is neither a number of pixels nor a share of the picture between 0 and 1, "
            "nor two of them (for height and width)."
        )
    numbers = [float(v) for v in both]
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


def side(op: Emit, x: Value, axis: int) -> Size:
    """The size of an axis, as a number if it is known, else as a scalar of the graph."""
    known = x.dim(axis)
    return known if known is not None else op.Squeeze(dim_of(op, x, axis), [0])


def flat_picture(build: Build) -> tuple[int, int, int]:
    """(channel, height, width) of the explained input, which must be a picture with channels."""
    axes = picture_axes(build)
    if len(axes) != 3 or axes[0] is None:
        raise MethodError(f"method '{build.method.name}' explains pictures with channels; '{build.question.x.name}' is none.")
    return axes[0], axes[1], axes[2]


def replacement(build: Build, axes: tuple[int, int, int], window: Sequence[Size]) -> Value:
    """What stands in the window, broadcastable to the input: a number, an array or black (the tensor ``baseline``), or made of it.

    ``mean`` is each channel's mean over each picture; ``blur`` the picture averaged twice over squares a little larger than the window.
    """
    op, x, value = build.op, build.question.x, build.settings["value"]
    channel, *places = axes
    if value == "mean":
        return op.ReduceMean(x, places, keepdims=1)
    if value != "blur":
        return build.baseline("value")
    first = channel == 1
    picture = x if first else op.Transpose(x, perm=[0, 3, 1, 2])
    kernel = [w | 1 for w in window if isinstance(w, int)]
    if len(kernel) != 2:
        raise MethodError("method 'occlusion': value 'blur' needs the window in pixels where the picture's size is known only at run time.")
    pads = [k // 2 for k in kernel] * 2
    for _ in range(2):
        picture = op.AveragePool(picture, kernel_shape=kernel, pads=pads, strides=[1, 1], count_include_pad=0)
    return picture if first else op.Transpose(picture, perm=[0, 2, 3, 1])


@wrap("occlusion", starts="nothing")
def occlusion(build: Build) -> Result:
    """``D(r, c) = f(x) - f(x with the window at (r, c) replaced)``; each pixel's map is the mean D of the windows that cover it.

    Zeiler and Fergus 2013, arXiv 1311.2901. The attribution is the pixel map shared among channels. Components [N, R, C], by
    position of the window: ``occlusion/drop`` D, ``occlusion/score`` the score left, ``occlusion/class`` the class then predicted, and
    ``occlusion/activation`` the sum over the feature map of the target layer that is strongest (in sum) on the whole picture.
    """
    op, x = build.op, build.question.x
    axes = flat_picture(build)
    sizes = [side(op, x, a) for a in axes[1:]]
    window, stride = pixels_of(build, "window", sizes), pixels_of(build, "stride", sizes)
    firsts = [corners(op, s, w, t) for s, w, t in zip(sizes, window, stride, strict=True)]
    rows, columns = (covers(op, f, s, w) for f, s, w in zip(firsts, sizes, window, strict=True))
    known = [f.static[0] if f.static is not None else None for f in firsts]
    counts = [k if k is not None else op.Squeeze(op.Shape(f), [0]) for k, f in zip(known, firsts, strict=True)]
    value = replacement(build, axes, window)

    def points(body: Emit, numbers: Value) -> Value:
        down = body.Unsqueeze(body.Gather(rows, body.Div(numbers, counts[1])), [2])
        across = body.Unsqueeze(body.Gather(columns, body.Mod(numbers, counts[1])), [1])
        hidden = body.Unsqueeze(body.And(down, across), [1, axes[0] + 1])
        return body.Where(hidden, value, x)

    total = known[0] * known[1] if known[0] and known[1] else op.Mul(*counts)
    watched = watch(build) if build.want_components else []
    samples = Samples(total, build.settings["chunk"])

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        new = [chunk.scores, *(see(chunk) for _, _, see in watched)]
        return [chunk.body.Concat(s, n, axis=0) for s, n in zip(states, new, strict=True)]

    clean = op.Unsqueeze(build.head.score, [0])  # the whole picture is the first row, so that no state is ever empty
    done = sampled_scores(build, samples, points, [clean, *(c for _, c, _ in watched)], update, None, also_seen(build))
    grid = [op.const([k]) if k else op.Shape(f) for k, f in zip(known, firsts, strict=True)]
    shape = op.const([-1, known[0], known[1]]) if known[0] and known[1] else op.Concat(op.const([-1]), *grid, axis=0)

    def by_position(found: Value) -> Value:
        return op.Reshape(op.Transpose(op.Slice(found, [1], [LAST], [0]), perm=[1, 0]), shape)

    left = by_position(done[0])
    drop = op.Sub(op.Unsqueeze(build.head.score, [1, 2]), left)
    build.component("occlusion/drop", lambda: drop, 3)
    build.component("occlusion/score", lambda: left, 3)
    for (name, _, _), found in zip(watched, done[1:], strict=True):
        build.component(f"occlusion/{name}", lambda found=found: by_position(found), 3)  # type: ignore[misc]
    down, across = cast(op, rows), cast(op, columns)
    spread_out = op.MatMul(op.MatMul(op.Transpose(down, perm=[1, 0]), drop), across)
    covered = op.Mul(op.Transpose(op.ReduceSum(down, [0], keepdims=1), perm=[1, 0]), op.ReduceSum(across, [0], keepdims=1))
    pixels = op.Div(spread_out, op.Max(covered, 1.0))
    return Result(share_among_channels(build, pixels), None, pixels)


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


def watch(build: Build) -> list[Watched]:
    """The predicted class, and the total activation of the strongest feature map."""
    op, question = build.op, build.question

    def predicted(op: Emit, start: Value) -> Value:
        return cast(op, op.ArgMax(scores(op, question, start), axis=1, keepdims=0))

    found: list[Watched] = [
        ("class", op.Unsqueeze(predicted(op, question.start), [0]), lambda chunk: chunk.per_run(predicted(chunk.body, chunk.inner.start)))
    ]
    layer = watched_layer(build)
    if layer is None:
        return found
    totals = op.ReduceSum(layer.activations(op), [2, 3], keepdims=0)
    strongest = op.ArgMax(totals, axis=1, keepdims=1)

    def activation(chunk: Scored) -> Value:
        body = chunk.body
        inner = layer.of(chunk.tensor(layer.value.name))
        sums = body.ReduceSum(inner.activations(body), [2, 3], keepdims=0)
        repeated = body.Tile(strongest, body.Concat(body.Shape(chunk.numbers), body.const([1]), axis=0))
        return chunk.per_run(body.GatherElements(sums, repeated, axis=1))

    return [*found, ("activation", op.Transpose(op.GatherElements(totals, strongest, axis=1), perm=[1, 0]), activation)]


@wrap("rise", starts="nothing")
def rise(build: Build) -> Result:
    """``S = 1 / (n p) sum_i p_c(x * M_i) M_i`` over random smooth masks M_i.

    A grid x grid array of zeros and ones (one with probability p) is upsampled bilinearly to (grid + 1) cells of
    ceil(size / grid) pixels and cropped at a random offset within one cell. The masks are made in the graph from the seed; all
    samples of a batch meet the same ones. Petsiuk et al. 2018, arXiv 1806.07421.
    """
    op, x = build.op, build.question.x
    axes = flat_picture(build)
    grid, density, count = (build.settings[k] for k in ("grid", "density", "n_masks"))
    if not 0 < density <= 1:
        raise MethodError(f"method 'rise': density={density!r} is not a share between 0 and 1.")
    seed = op.const(int(build.settings["seed"]))
    sizes = [side(op, x, a) for a in axes[1:]]

    def masks(body: Emit, numbers: Value) -> Value:
        noise = uniform_noise(body, numbers, body.const(grid * grid + 2), seed)
        cells = body.LessOrEqual(body.Slice(noise, [0], [grid * grid], [1]), float(density))
        array = body.Reshape(cast(body, cells), [-1, grid, grid])
        down, across = (
            _interpolation(body, s, grid, body.Slice(noise, [grid * grid + i], [grid * grid + i + 1], [1])) for i, s in enumerate(sizes)
        )
        return body.MatMul(body.MatMul(down, array), body.Transpose(across, perm=[0, 2, 1]))

    def points(body: Emit, numbers: Value) -> Value:
        seen = body.cached("masks", lambda: masks(body, numbers))
        return body.Mul(body.Unsqueeze(seen, [1, axes[0] + 1]), x)

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        body = chunk.body
        seen = body.cached("masks", lambda: masks(body, chunk.numbers))
        flat = body.Reshape(seen, body.Concat(body.Shape(chunk.numbers), body.const([-1]), axis=0))
        weighted = body.MatMul(body.Transpose(chunk.scores, perm=[1, 0]), flat)
        shape = body.Concat(body.const([-1]), body.Shape(seen, start=1), axis=0)
        return [body.Add(states[0], body.Reshape(weighted, shape))]

    zero = op.ReduceSum(zeros_like(op, x), [axes[0]], keepdims=0)
    (total,) = sampled_scores(build, Samples(count, build.settings["chunk"]), points, [zero], update, probabilities)
    map_ = op.Div(total, float(count) * float(density))
    return Result(share_among_channels(build, map_), None, map_)


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
