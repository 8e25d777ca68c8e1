"""Class activation maps: a layer's channels, weighted by the gradient (Grad-CAM) or by what they show alone (Score-CAM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps

from onnxsal.ask.layers import TargetLayer, layers_of
from onnxsal.engine.method import Method, get_method
from onnxsal.engine.traverse import traverse
from onnxsal.facts.grounds import Ground
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import add_up, dim_of, recast, signal_type
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import emit_seed, probabilities
from onnxsal.methods.maps import picture_axes, places_of, positive, share_among_channels, upsample, with_channel
from onnxsal.methods.points import Samples, Scored, sampled_scores


def target_layer(build: Build) -> TargetLayer:
    """The layer that the settings name or that the graph suggests."""
    picture_axes(build)
    return build.take_layer()


def over_places(build: Build) -> list[int]:
    """The axes of places of a tensor [N, K, *places]."""
    return list(range(2, 2 + places_of(build)))


def weighted_sum(build: Build, weights: Value, activations: Value) -> Value:
    """sum_k w_k A_k: weights [N, K], activations [N, K, *places] -> [N, *places]."""
    op = build.op
    return op.ReduceSum(op.Mul(op.Unsqueeze(weights, over_places(build)), activations), [1], keepdims=0)


def at_layer(build: Build, method: Method) -> tuple[TargetLayer, Value]:
    """The target layer, and d score / d its activations as [N, K, *places]. ``method`` walks only the head."""
    op, question = build.op, build.question
    layer = target_layer(build)
    name = layer.value.name
    plan = build.plan(end=name, method=method)
    seed = emit_seed(op, question, question.start, build.head.chosen)
    signal = traverse(op, plan, {question.start.name: seed})[name]
    signal = layer.maps(op, recast(op, signal, signal_type(layer.value), op.dtype))
    return layer, signal


def coarse_gradcam(build: Build, method: Method) -> Value:
    """sum_k alpha_k A_k with alpha_k the mean over places of d score / d A_k, signed, [N, *places]."""
    layer, signal = at_layer(build, method)
    return weighted_sum(build, build.op.ReduceMean(signal, over_places(build), keepdims=0), layer.activations(build.op))


def told(build: Build, coarse: Value) -> Result:
    """A signed map at the layer's own size, which is the component ``<method>/map``: cut off at zero and upsampled it is the saliency map,
    upsampled as it is and shared among channels the attribution.
    """
    op, places = build.op, places_of(build)
    build.component(f"{build.method.wrap}/map", lambda: coarse, 1 + places)
    both = upsample(build, op, op.Concat(op.Unsqueeze(coarse, [1]), op.Unsqueeze(positive(op, coarse, places), [1]), axis=1))
    signed, map_ = op.Split(both, [1, 1], axis=1, outputs=2)
    return Result(share_among_channels(build, op.Squeeze(signed, [1])), None, op.Squeeze(map_, [1]))


def _numbered(build: Build, number: int, text: str) -> str:
    """The name of what one of several layers adds."""
    return build.name(f"layer{number}/{text}")


def each_layer(one: Callable[[Build], Result]) -> Callable[[Build], Result]:
    """``one`` at each of several target layers, as of the scales of a detector: their maps, of one size by then, added."""

    @wraps(one)
    def added(build: Build) -> Result:
        named = build.settings.get("layer")
        if build.question.reading is None and not isinstance(named, list | tuple) and "," not in str(named or ""):
            return one(build)
        picture_axes(build)
        layers = layers_of(build.question).every(named)
        if len(layers) == 1:
            return one(build)
        names, results, before = [layer.value.name for layer in layers], list[Result](), len(build.found)
        for number, name in enumerate(names):
            settings = {**build.settings, "layer": name}
            results.append(one(replace(build, settings=settings, name=partial(_numbered, build, number))))
        build.settings["layer"] = names
        if not named:
            why = "the last of a scale that the box may be of"
            build.found[before:] = [replace(fact, ground=Ground.PROVED, why=why) for fact in build.found[before:]]
        maps = [result.saliency for result in results if result.saliency is not None]
        return Result(add_up(build.op, [result.attribution for result in results]), None, add_up(build.op, maps))

    return added


@wrap("gradcam", reaches="layer")
@each_layer
def gradcam(build: Build) -> Result:
    """``L = Relu(sum_k alpha_k A_k)`` upsampled is the saliency map; the signed sum upsampled, shared among channels, the attribution.

    Selvaraju et al. 2017, arXiv 1610.02391. Component ``gradcam/map``: the signed sum at the layer's own size. Of several layers the maps
    are added.
    """
    return told(build, coarse_gradcam(build, build.method))


@wrap("gradcam_plus_plus", reaches="layer")
@each_layer
def gradcam_plus_plus(build: Build) -> Result:
    """As ``gradcam``, with ``w_k = sum over places of Relu(g) / (2 + g sum A_k)`` in place of the mean of ``g = d score / d A_k``.

    That is the published ``alpha = g^2 / (2 g^2 + g^3 sum A_k)``; the factor exp(score) of all weights, which changes no map but its size,
    is left out, and a divisor of 0 counts as 1. Chattopadhyay et al. 2018, arXiv 1710.11063. Component ``gradcam_plus_plus/map``.
    """
    op, along = build.op, over_places(build)
    layer, signal = at_layer(build, build.method)
    activations = layer.activations(op)
    divisor = op.Add(op.Mul(signal, op.ReduceSum(activations, along, keepdims=1)), 2.0)
    pushed = op.Div(op.Relu(signal), op.Where(op.Equal(divisor, 0.0), 1.0, divisor))
    return told(build, weighted_sum(build, op.ReduceSum(pushed, along, keepdims=0), activations))


@wrap("layercam", reaches="layer")
@each_layer
def layercam(build: Build) -> Result:
    """As ``gradcam``, each place with a weight of its own: ``sum_k Relu(d score / d A_k) A_k``. Jiang et al. 2021, IEEE TIP 30.

    Component ``layercam/map``.
    """
    op, (layer, signal) = build.op, at_layer(build, build.method)
    return told(build, op.ReduceSum(op.Mul(op.Relu(signal), layer.activations(op)), [1], keepdims=0))


@wrap("guided_gradcam")
def guided_gradcam(build: Build) -> Result:
    """``upsample(Relu(sum_k alpha_k A_k)) * guided backpropagation``, per channel. Selvaraju et al. 2017, arXiv 1610.02391.

    The sign is that of guided backpropagation, which follows edges of the picture and not what speaks for the class: signed sums over
    channels rank pixels far worse than sums of absolute values, at chance or below it on some networks. So the map sums absolute values.
    """
    op, channel = build.op, picture_axes(build)[0]
    coarse = coarse_gradcam(build, get_method("gradient"))
    build.component("gradcam/map", lambda: coarse, 1 + places_of(build))
    map_ = op.Squeeze(upsample(build, op, op.Unsqueeze(positive(op, coarse, places_of(build)), [1])), [1])
    return Result(op.Mul(build.walk(), with_channel(op, map_, channel)))


@wrap("scorecam", starts="nothing")
def scorecam(build: Build) -> Result:
    """The channels ``A_k``, weighted by the score of the input seen through ``H_k``, the upsampled channel rescaled to [0, 1].

    ``official``: ``Relu(sum_k w_k up(A_k))``, w_k the class's probability at ``x * H_k``, 0 for a constant channel.
    ``cic_softmax``: ``up(Relu(sum_k w_k A_k))``, w the softmax over channels of the scores at ``x * H_k`` (subtracting the score of
    a black picture, as the paper does, changes no softmax). Wang et al. 2020, arXiv 1910.01279. The masks multiply the model's own
    input, so what they hide becomes its zero (the mean of the data), not black. Component ``scorecam/map``: the signed sum.
    """
    op, question = build.op, build.question
    official = build.settings["variant"] == "official"
    channel, places = picture_axes(build)[0], places_of(build)
    layer = target_layer(build)
    activations = layer.activations(op)
    count = layer.value.dim(layer.channels) or op.Squeeze(dim_of(op, layer.value, layer.channels), [0])

    def points(body: Emit, numbers: Value) -> Value:
        masks = upsample(build, body, body.Gather(activations, numbers, axis=1))
        low, high = body.ReduceMin(masks, over_places(build), keepdims=1), body.ReduceMax(masks, over_places(build), keepdims=1)
        span = body.Sub(high, low)
        flat = body.Equal(span, 0.0)
        masks = body.Where(flat, 0.0, body.Div(body.Sub(masks, low), body.Where(flat, 1.0, span)))
        turned = body.Transpose(masks, perm=[1, 0, *over_places(build)])
        return body.Mul(with_channel(body, turned, channel, before=1), question.x)

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        return [chunk.body.Concat(states[0], chunk.scores, axis=0)]

    clean = op.Unsqueeze(build.head.score, [0])  # a first row, so that the state is never empty
    samples = Samples(count, "channel")
    (rows,) = sampled_scores(build, samples, points, [clean], update, probabilities if official else None)
    weights = op.Transpose(op.Slice(rows, [1], [2**31], [0]), perm=[1, 0])
    if not official:
        weights = op.Softmax(weights, axis=1)
        return told(build, weighted_sum(build, weights, activations))
    along = over_places(build)
    span = op.Sub(op.ReduceMax(activations, along, keepdims=0), op.ReduceMin(activations, along, keepdims=0))
    coarse = weighted_sum(build, op.Where(op.Equal(span, 0.0), 0.0, weights), activations)
    signed = op.Squeeze(upsample(build, op, op.Unsqueeze(coarse, [1])), [1])
    map_ = positive(op, signed, places)
    build.component("scorecam/map", lambda: coarse, 1 + places)
    return Result(share_among_channels(build, signed), None, map_)
