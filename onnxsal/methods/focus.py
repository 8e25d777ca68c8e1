"""Focus: an experimental map for photographs. Where Grad-CAM looks, sharpened by what single places contribute; it obeys no law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.ask.layers import TargetLayer
from onnxsal.engine.plan import Step
from onnxsal.engine.traverse import traverse
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import add_up, recast, signal_type
from onnxsal.graph.window_attributes import window_attributes
from onnxsal.methods.bias_terms import BiasTerm
from onnxsal.methods.build import Build, Result, over_channels, places_axes, stretched, wrap
from onnxsal.methods.cam import over_places, target_layer, weighted_sum
from onnxsal.methods.head import emit_seed
from onnxsal.methods.maps import picture_axes, places_of, positive, share_among_channels, upsample
from onnxsal.methods.placed import Canvas, crossings

DETAIL, SIGNS = 0.4, 0.5
"""How much the fine part of the map counts beside Grad-CAM, and the exponents of the two signed parts."""

REACH = 4
"""Standard deviations of the blur's kernel to either side."""


@wrap("focus")
def focus(build: Build) -> Result:
    """Map ``(c + .4 N(blur(N|x g| + sum_l N(up sum_k |A_l g_l|)))) exp(.5 t(S) + .5 t(x g))``; attribution: it, shared among channels.

    ``c`` is Grad-CAM over its largest value, ``A_l`` the additions of activations that every path passes, ``g`` the gradient, ``S = sum_l
    up(sum_k A_l g_l)``, N rescales a map to [0, 1], ``t(m) = tanh(m / rms m)``; products with x are summed over channels. One walk
    back. It is a product of maps, so there is no law, and no residual is returned.
    """
    op, question, (channel, *_), places = build.op, build.question, picture_axes(build), places_of(build)
    layer = target_layer(build)
    wanted = crossings(build)
    at_layer: list[Value] = []

    def visit(step: Step, dys: list[Value | None]) -> None:
        wanted.visit(step, dys)
        at_layer.extend(dy for name, dy in zip(step.node.proto.output, dys, strict=True) if name == layer.value.name and dy is not None)

    seed = emit_seed(op, question, question.start, build.head.chosen)
    signal = traverse(op, build.plan(), {question.start.name: seed}, visit)[question.x.name]
    at_input = build.contribution(op.Mul(signal, question.x), question.x)
    signed = over_channels(op, at_input, channel)
    sizes = [over_channels(op, at_input, channel, "sum_abs"), *(_drawn(build, [cut], absolute=True) for cut in wanted.met)]
    added = _blurred(op, add_up(op, [stretched(op, m, places)[0] for m in sizes]), float(build.settings["blur"]), places)
    fine = op.Mul(stretched(op, added, places)[0], DETAIL)
    exponent = add_up(op, [_squeezed(op, m, places) for m in (signed, *([_drawn(build, wanted.met)] if wanted.met else []))])
    map_ = op.Mul(op.Add(_looked_at(build, layer, at_layer[0]), fine), op.Exp(op.Mul(exponent, SIGNS)))
    return Result(share_among_channels(build, map_), None, map_)


def _drawn(build: Build, cuts: Sequence[BiasTerm], absolute: bool = False) -> Value:
    """The sum of what tensors contribute place by place, or of its absolute values, at the size of the picture [N, *places]."""
    canvas = Canvas(build)
    for cut in cuts:
        canvas.lay(cut, 1.0, absolute)
    return canvas.drawn()


def _looked_at(build: Build, layer: TargetLayer, signal: Value) -> Value:
    """Grad-CAM over its largest value, [N, *places]: 0 where nothing speaks for the class."""
    op = build.op
    signal = layer.maps(op, recast(op, signal, signal_type(layer.value), op.dtype))
    weights = op.ReduceMean(signal, over_places(build), keepdims=0)
    coarse = positive(op, weighted_sum(build, weights, layer.activations(op)), places_of(build))
    map_ = op.Squeeze(upsample(build, op, op.Unsqueeze(coarse, [1])), [1])
    return _over(op, map_, op.ReduceMax(map_, places_axes(places_of(build)), keepdims=1))


def _over(op: Emit, map_: Value, size: Value) -> Value:
    """map / size, and the map itself where the size is 0."""
    return op.Div(map_, op.Where(op.Greater(size, 0.0), size, 1.0))


def _squeezed(op: Emit, map_: Value, places: int) -> Value:
    """tanh(m / rms m) of each map."""
    return op.Tanh(_over(op, map_, op.Sqrt(op.ReduceMean(op.Mul(map_, map_), places_axes(places), keepdims=1))))


def _blurred(op: Emit, map_: Value, sigma: float, places: int) -> Value:
    """A Gaussian of ``sigma`` pixels over each map [N, *places], its borders repeated outwards."""
    if sigma == 0:
        return map_
    side = int(np.ceil(REACH * sigma))
    taps = np.exp(-0.5 * (np.arange(-side, side + 1) / sigma) ** 2)
    kernel = (taps / taps.sum()).astype(op.np_dtype)
    blurred = op.Pad(op.Unsqueeze(map_, [1]), [0, 0, *[side] * places] * 2, mode="edge")
    for axis in range(places):
        shape = [1, 1, *(-1 if a == axis else 1 for a in range(places))]
        weight = kernel.reshape(shape)
        blurred = op.Conv(blurred, weight, **window_attributes(places, weight.shape[2:]))
    return op.Squeeze(blurred, [1])
