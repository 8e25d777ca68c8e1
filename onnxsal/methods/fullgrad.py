"""FullGrad: the score split exactly into an input term and the bias term of every node, and maps made of these terms.

For any graph, ``score = <g_x, x> + sum over nodes <g_y, r>`` with the implicit bias ``r = y - sum_i J_i x_i`` that every operator
states beside its gradient. Srinivas and Fleuret 2019, arXiv 1905.00780.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnxsal.facts import booked
from onnxsal.facts.axes import Picture
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import add_up, channel_sum, columns, dim_of, recast, reshape_target, signal_type, times, zeros_like
from onnxsal.graph.infer import Shape
from onnxsal.methods.bias_terms import (
    BiasTerm,
    Site,
    beyond_scores,
    decompose,
    gates_of,
    noting,
    stored_in_gates,
    survey,
    term_sum,
)
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.maps import enlarge, of_patches, sides, without_single
from onnxsal.methods.points import Samples, Walked, sampled_walks
from onnxsal.methods.smooth import noisy_points

EPSILON = {"layer": 1e-6, "channel": 1e-7}
"""Added to a range before dividing by it, as the authors and pytorch-grad-cam do."""


PARTS = ("input term (gradient x input)", "stored biases", "implicit biases of other nodes")


@wrap("fullgrad", keeps="completeness", shares="fullgrad/shares", columns=PARTS)
def fullgrad(build: Build) -> Result:
    """Attribution ``g * x``; residual ``|<g, x> + sum <g_y, r> - score| / |score|``; map ``psi(g * x) + sum psi(g_y * r)``.

    ``psi`` = bilinear upsampling of the rescaled absolute value, summed over channels. The residual counts every bias, implicit
    ones too; ``biases`` chooses those in the map. Component ``fullgrad/shares`` [N, 3]: what the input, the explicit and the implicit
    biases contribute to the score; ``parts`` say the same by what the biases are. Of a layer with gates the component
    ``fullgrad/NODE/GATE`` [N] is what that gate's stored bias contributes of the node's term.
    """
    op = build.op
    attribution, terms, seed = decompose(build, survey(build))
    own = build.sum_per_sample(attribution)
    told = [(t, term_sum(build, t)) for t in terms]
    sums = [(t.site, value) for t, value in told]
    of_constants = [s for site, s in sums if site.explicit]
    explicit = add_up(op, of_constants) if of_constants else None
    link = beyond_scores(build, seed)
    implicit = [*(s for site, s in sums if not site.explicit), *link]
    rest = add_up(op, implicit) if implicit else None
    parts = [p for p in (own, explicit, rest) if p is not None]
    residual = build.relative_error(add_up(op, parts), build.head.score)
    build.component("fullgrad/shares", lambda: columns(op, own, explicit, rest), 2)
    total = _paint(build, attribution, terms, with_bias=True)
    for term in terms if build.want_components else ():
        for gate in gates_of(term):
            if (stored := stored_in_gates(build, term, gate)) is not None:
                build.component(f"fullgrad/{term.site.name}/{gate}", partial(Value, stored.name), 1)
    for site, value in reversed(sums):
        if total is None or not is_shown(build, site):
            build.component(f"fullgrad/{site.name}", partial(Value, value.name), 1)
    return Result(attribution, residual, total, parts=parts_of(build, attribution, told, link[0] if link else None))


def parts_of(build: Build, attribution: Value, told: Sequence[tuple[BiasTerm, Value]], link: Value | None) -> dict[str, Value]:
    """What the input (``attribution``), and each kind of what nodes keep, contribute to the score [N], by name.

    ``told`` are the bias terms with their sums [N], ``link`` what the function keeps that makes the score of the tensor of scores. Tokens
    beside the grid of a picture, where these are explained, are class tokens.
    """
    op, question = build.op, build.question
    own, laid = build.sum_per_sample(attribution), of_patches(build, attribution)
    names = booked.Booked(question.model, question.x, question.places, {s.node.name for s in build.plan().steps})
    found: dict[str, list[Value]] = {}
    if laid is not None:
        every, own = own, op.ReduceSum(laid, [1, 2, 3], keepdims=0)
        found[booked.CLASS_TOKEN] = [op.Sub(every, own)]
    for term, rest in told:
        plain = replace(term.site, channel=None)
        if (stored := stored_in_gates(build, term)) is not None:
            rest = op.Sub(rest, stored)
            found.setdefault(booked.BIASES, []).append(stored)
        for part in names.parts(term.site.step.node, held=term.site.step.rule.name == "held"):
            value = rest if part.constant is None else term_sum(build, replace(term, site=plain, bias=part.constant))
            rest = op.Sub(rest, value) if part.constant is not None else rest
            found.setdefault(part.name, []).append(value)
    if link is not None:
        found.setdefault(booked.SOFTMAX if question.link == "softmax" else booked.FUNCTIONS, []).append(link)
    order = [*(name for name in booked.ORDER if name in found), *(name for name in found if name not in booked.ORDER)]
    return {booked.INPUT: own, **{name: add_up(op, found[name]) for name in order}}


@wrap("simple_fullgrad")
def simple_fullgrad(build: Build) -> Result:
    """As ``fullgrad`` with the signal itself in place of signal times bias, at the nodes that own a bias; it obeys no law."""
    attribution, terms, _ = decompose(build, survey(build))
    return Result(attribution, None, _paint(build, attribution, terms, with_bias=False))


# ----- the maps -----


@dataclass(frozen=True)
class Painter:
    """psi: rescale |f| of a layer to [0, 1], sum its channels, upsample once (the upsampling is linear, so it may come last)."""

    op: Emit
    x: Value
    picture: Picture
    rescale: str
    upsample: str

    def input_term(self, attribution: Value, shape: Shape) -> Value:
        """The map of the input term, which needs no upsampling -> [N, *places]."""
        return self.squash(self.op.Abs(attribution), None, self.picture, shape)

    def layer(self, term: BiasTerm, with_bias: bool) -> Value:
        """The map [N, *places] of one node's bias term, or of the plain signal at it (``with_bias=False``), in the node's own size."""
        op, site = self.op, term.site
        picture = site.layout.picture
        assert picture is not None
        with op.at(site.step.node):
            strength = op.Abs(term.signal)
            weight: Value | None = None
            if with_bias and site.channel is not None and site.channel == picture[0] and not site.step.node.wild:
                weight = op.Abs(term.bias)
            elif with_bias:
                strength = op.Abs(times(op, site.step.node, term.signal, term.bias))
            small = without_single(op, self.squash(strength, weight, picture, site.y.shape or ()), site.layout)
            return recast(op, small, signal_type(site.y), signal_type(self.x))

    def squash(self, strength: Value, weight: Value | None, picture: Picture, shape: Shape) -> Value:
        """sum_c (w |f| - min) / (max - min + eps), minimum and maximum over the layer or over each channel -> [N, *places]."""
        op, (channel, *spatial) = self.op, picture
        if channel is None:  # one channel in front of the places
            strength, shape, channel, spatial = op.Unsqueeze(strength, [1]), (*shape[:1], 1, *shape[1:]), 1, [a + 1 for a in spatial]
        channels = shape[channel] if channel < len(shape) else None
        epsilon = EPSILON[self.rescale]
        low, high = op.ReduceMin(strength, spatial, keepdims=1), op.ReduceMax(strength, spatial, keepdims=1)
        if self.rescale == "channel":
            return self._each_channel(op.Sub(strength, low), op.Sub(high, low), weight, channel, shape)
        if weight is not None:
            low, high = op.Mul(low, weight), op.Mul(high, weight)
        low, high = op.ReduceMin(low, [channel], keepdims=1), op.ReduceMax(high, [channel], keepdims=1)
        count = float(channels) if isinstance(channels, int) else op.Cast(op.Shape(strength, start=channel, end=channel + 1), to=op.dtype)
        summed = self._weighted_sum(strength, weight, channel, shape)
        return op.Squeeze(op.Div(op.Sub(summed, op.Mul(low, count)), op.Add(op.Sub(high, low), epsilon)), [channel])

    def _each_channel(self, above: Value, span: Value, weight: Value | None, channel: int, shape: Shape) -> Value:
        """sum_c w_c a_c / (w_c span_c + eps): a factor for each channel, so a row times a matrix where channels come first."""
        op, epsilon = self.op, EPSILON["channel"]
        factor = op.Div(1.0 if weight is None else weight, op.Add(span if weight is None else op.Mul(span, weight), epsilon))
        if channel != 1:
            return op.ReduceSum(op.Mul(above, factor), [channel], keepdims=0)
        summed = op.MatMul(op.Reshape(factor, [0, 1, -1]), op.Reshape(above, [0, 0, -1]))
        target = reshape_target(op, (shape[0], *shape[2:])) if shape else None
        return op.Reshape(summed, target or op.Concat(op.Shape(above, end=1), op.Shape(above, start=2), axis=0))

    def _weighted_sum(self, strength: Value, weight: Value | None, channel: int, shape: Shape) -> Value:
        """sum_c w_c |f|_c, keeping the axis."""
        if channel == 1:
            return channel_sum(self.op, strength, shape or None, weight)
        return self.op.ReduceSum(strength if weight is None else self.op.Mul(strength, weight), [channel], keepdims=1)

    def size(self, site: Site) -> tuple[object, ...]:
        """What the maps of two nodes must share to be added before they are enlarged; a size nobody knows is shared with none."""
        shape, picture = site.y.shape or (), site.layout.picture or self.picture
        along = [shape[a] if a < len(shape) else None for a in picture[1:]]
        return (site.name,) if None in along else (site.layout.whole, *along)

    def enlarge(self, small: Value, site: Site) -> Value:
        """[N, *places] at the size of the picture, linear; parts of one sample are added."""
        op, x, (_, *along), whole = self.op, self.x, site.layout.picture or self.picture, site.layout.whole
        whole_sides = sides(op, x, self.picture)
        own, full = [site.y.dim(a) for a in along], [x.dim(a) for a in self.picture[1:]]
        if None in own or own != full:
            small = op.Squeeze(enlarge(op, op.Unsqueeze(small, [1]), whole_sides, self.upsample), [1])
        if whole:
            return small
        return op.ReduceSum(op.Reshape(small, op.Concat(dim_of(op, x, 0), [-1], *whole_sides, axis=0)), [1], keepdims=0)


def painter(build: Build) -> Painter | None:
    """The painter for an image input; ``None`` where the explained input is no image."""
    x = build.question.x
    picture = build.question.picture
    return None if picture is None else Painter(build.op, x, picture, build.settings["rescale"], build.settings["upsample"])


def is_shown(build: Build, site: Site) -> bool:
    """Whether a node's term is part of the saliency map: shaped like a picture, of the chosen kind, and not left out by ``layers``."""
    layers = build.settings.get("layers") or ()
    chosen = not layers or site.name in layers
    return chosen and site.layout.picture is not None and (build.settings["biases"] == "all" or site.explicit)


def _paint(build: Build, attribution: Value, terms: list[BiasTerm], with_bias: bool) -> Value | None:
    """The saliency map [N, *places]; each layer's part of it is a component."""
    brush = painter(build)
    if brush is None:
        return None
    start = brush.input_term(attribution, build.question.x.shape or ())
    layers = [(t.site, brush.layer(t, with_bias)) for t in reversed(terms) if is_shown(build, t.site)]
    return _add_layers(build, brush, start, layers)


def _add_layers(build: Build, brush: Painter, start: Value, layers: Sequence[tuple[Site, Value]]) -> Value:
    """The input term's map [N, *places] plus the maps [N, *places] of the layers, which are components of their own if these are wanted.

    Upsampling is linear: maps of one size are added first and enlarged once, unless each is asked for.
    """
    op = build.op
    rank = len(brush.picture)
    build.component("fullgrad/input", partial(Value, start.name), rank)
    groups: dict[tuple[object, ...], list[tuple[Site, Value]]] = {}
    for site, small in layers:
        groups.setdefault((site.name,) if build.want_components else brush.size(site), []).append((site, small))
    parts = [start]
    for group in groups.values():
        site = group[0][0]
        parts.append(brush.enlarge(add_up(op, [small for _, small in group]), site))
        build.component(f"fullgrad/{site.name}", partial(Value, parts[-1].name), rank)
    return add_up(op, parts)


# ----- over noisy copies -----


@wrap("smooth_fullgrad")
def smooth_fullgrad(build: Build) -> Result:
    """The terms of ``fullgrad`` averaged over noisy copies of the input, signed; ``psi`` is applied once, to the averages.

    As in the authors' code, the input term is summed over channels before its absolute value is taken. Attribution: the mean of
    ``g * (x + noise)``.
    """
    op, question, brush = build.op, build.question, painter(build)
    sites = survey(build)
    chosen = [s for s in sites.values() if _owns_bias(build, s) and is_shown(build, s)] if brush is not None else []
    terms: list[BiasTerm] = []

    def update(chunk: Walked, states: Sequence[Value]) -> list[Value]:
        body, found = chunk.body, {t.site.name: t for t in terms}
        at_input = body.Add(states[0], body.ReduceSum(body.Mul(chunk.signals, chunk.points), [0], keepdims=0))
        layers = []
        for state, site in zip(states[1:], chosen, strict=True):
            term = found[site.name]
            product = chunk.per_sample(body.Mul(term.signal, term.bias), site.y)
            summed = recast(body, body.ReduceSum(product, [0], keepdims=0), signal_type(site.y), body.dtype)
            layers.append(body.Add(state, summed))
        return [at_input, *layers]

    count = int(build.settings["n_samples"])
    zeros = [zeros_like(op, question.x), *(zeros_like(op, s.y) for s in chosen)]
    samples = Samples(count)
    sums = sampled_walks(build, samples, noisy_points(build), zeros, update, partial(noting, sites, terms))
    attribution, *layers = (op.Div(s, float(count)) for s in sums)
    if brush is None:
        return Result(attribution)
    one = tuple(1 if a == brush.picture[0] else d for a, d in enumerate(question.x.shape or ()))
    grey = brush.picture[0] is None
    start = brush.input_term(attribution if grey else op.ReduceSum(attribution, [brush.picture[0]], keepdims=1), one)
    means = reversed(list(zip(chosen, layers, strict=True)))
    maps = [(s, brush.layer(BiasTerm(s, recast(op, mean, op.dtype, signal_type(s.y)), mean), with_bias=False)) for s, mean in means]
    return Result(attribution, None, _add_layers(build, brush, start, maps))


def _owns_bias(build: Build, site: Site) -> bool:
    """Whether the node has an implicit bias at that output that is not identically zero, and the output is used."""
    read = {name for s in build.plan().steps for name, wanted in zip(s.node.proto.input, s.node.wants, strict=True) if wanted}
    if site.output and site.y.name not in {*read, build.question.start.name}:
        return False
    trial = Emit(build.question.model)
    with trial.at(site.step.node):
        rest = site.step.rule.bias(trial, site.step.node)
    return rest is not None and (not site.output if isinstance(rest, Value) else rest[site.output] is not None)
