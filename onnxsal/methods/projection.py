"""DeconvNet as Zeiler and Fergus use it: one activation of a layer, projected back to the picture."""

from __future__ import annotations

from onnxsal.ask.layers import TargetLayer
from onnxsal.engine.traverse import traverse
from onnxsal.errors import MethodError
from onnxsal.graph import Value
from onnxsal.graph.helpers import as_compute, dim_of, recast, reshape_like, signal_type
from onnxsal.methods.build import Build, Result, walk, wrap
from onnxsal.methods.maps import picture_axes

COLUMNS = {1: ("place",), 2: ("row", "column"), 3: ("slice", "row", "column")}
"""Components that say where an activation is, by the number of axes of places."""

PLACE = {1: "a list of one place", 2: "a row and a column", 3: "a slice, a row and a column"}


@wrap("projection")
def projection(build: Build) -> Result:
    """From the score as every walk; with ``layer`` from that layer, all but one of its activations set to zero.

    The activation is the strongest one of each sample: of the layer, of ``channel``, or of all channels at ``position``.
    Max pools send back through their switches, rectifiers rectify, convolutions apply their transposed filters. Components [N]:
    ``projection/activation``, and where it is: ``/channel``, ``/row``, ``/column`` (of a series
    ``/place``, of a volume ``/slice``, too). Zeiler and Fergus 2013, arXiv 1311.2901.
    """
    settings = build.settings
    if not settings["layer"]:
        if settings["channel"] >= 0 or settings["position"]:
            raise MethodError("method 'deconvnet': channel and position choose an activation of a layer; give layer, too.")
        return walk(build)
    op, question = build.op, build.question
    if question.contrast is not None:
        raise MethodError("method 'deconvnet': with a layer it projects an activation, whatever the class. Leave layer= or against= out.")
    picture_axes(build)
    layer = build.take_layer()
    name = layer.value.name
    if layer.picture is None:
        raise MethodError(f"method 'deconvnet': layer {layer} holds tokens; a projection starts from a layer of convolutions.")
    plan = build.plan(name)
    seed = _one_activation(build, layer)
    signal = traverse(op, plan, {name: recast(op, seed, op.dtype, signal_type(layer.value))})[question.x.name]
    return Result(signal)


def _one_activation(build: Build, layer: TargetLayer) -> Value:
    """The layer with all but the chosen activation of each sample set to zero."""
    op, channel, position = build.op, build.settings["channel"], build.settings["position"]
    assert layer.picture is not None
    along, rank = layer.picture[1:], len(layer.picture) + 1
    if position and (len(position) != len(along) or not all(isinstance(p, int) for p in position)):
        raise MethodError(f"method 'deconvnet': position={position!r} is not {PLACE[len(along)]}.")
    wanted = {layer.channels: channel if channel >= 0 else None}
    wanted |= dict(zip(along, position or [None] * len(along), strict=True))
    value = as_compute(op, layer.value)
    allowed: Value | None = None
    for axis, index in wanted.items():
        size = layer.value.dim(axis)
        if index is None:
            continue
        if not 0 <= index < (size or index + 1):
            raise MethodError(f"method 'deconvnet': index {index} is out of range on axis {axis} of layer {layer}.")
        places = op.Range(0, op.Squeeze(dim_of(op, layer.value, axis), [0]), 1)
        here = op.Unsqueeze(op.Equal(places, index), [a for a in range(rank) if a != axis])
        allowed = here if allowed is None else op.And(allowed, here)
    flat = op.Flatten(value, axis=1)
    eligible = flat
    if allowed is not None:
        least = op.Sub(op.ReduceMin(value, list(range(1, rank)), keepdims=1), 1.0)
        eligible = op.Flatten(op.Where(allowed, value, least), axis=1)
    best = op.ArgMax(eligible, axis=1, keepdims=1)
    activation = op.GatherElements(flat, best, axis=1)
    build.component("projection/activation", lambda: op.Squeeze(activation, [1]), 1)
    _report_place(build, layer, op.Squeeze(best, [1]))
    every = op.Unsqueeze(op.Range(0, op.Squeeze(op.Shape(flat, start=1, end=2), [0]), 1), [0])
    return reshape_like(op, op.Where(op.Equal(every, best), activation, 0.0), layer.value)


def _report_place(build: Build, layer: TargetLayer, index: Value) -> None:
    """Components channel, row and column of an index into the flattened layer."""
    op, picture = build.op, layer.picture or (1, 2, 3)
    names = dict(zip(picture, ("channel", *COLUMNS[len(picture) - 1]), strict=True))
    for axis in range(len(picture), 0, -1):
        size = dim_of(op, layer.value, axis)
        rest = op.Mod(index, size)
        build.component(f"projection/{names[axis]}", lambda rest=rest: rest, 1)  # type: ignore[misc]
        index = op.Div(index, size)
