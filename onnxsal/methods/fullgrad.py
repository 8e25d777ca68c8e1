"""FullGrad: the score split exactly into an input term and the bias term of every node, and maps made of these terms.

For any graph, ``score = <g_x, x> + sum over nodes <g_y, r>`` with the implicit bias ``r = y - sum_i J_i x_i`` that every operator
states beside its gradient. Srinivas and Fleuret 2019, arXiv 1905.00780.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from onnxsal.engine.plan import Step
from onnxsal.engine.traverse import Visit, traverse
from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, Model, Value
from onnxsal.graph.helpers import dim_of, zeros_like
from onnxsal.graph.infer import Shape
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import emit_seed
from onnxsal.methods.question import image_axes
from onnxsal.methods.sampling import Samples, Walked, sampled_walks
from onnxsal.methods.smooth import noisy_points
from onnxsal.ops.registry import implicit_bias

EPSILON = 1e-6
"""Added to a layer's range before dividing by it, as the authors do."""


@dataclass(frozen=True)
class Term:
    """The bias term of one node: the signal at its output, and its implicit bias, broadcastable to it.

    ``channel`` is the axis along which a bias that is constant per channel varies; ``None`` where it varies everywhere.
    """

    step: Step
    signal: Value
    bias: Value
    explicit: bool
    channel: int | None

    @property
    def shape(self) -> Shape:
        return self.step.node.y.shape or ()

    @property
    def rank(self) -> int:
        return self.step.node.y.rank


def is_explicit(step: Step) -> bool:
    """Whether the bias is made of parameters alone: a layer's bias, a batch normalisation's shift, an added constant."""
    node = step.node
    affine = step.family in ("linear", "add") or node.op_type == "BatchNormalization"
    others = (i for i, v in enumerate(node.inputs) if v is not None and not node.wants[i])
    return affine and all(node.const(i) is not None for i in others)


def channel_axis(step: Step) -> int | None:
    """The axis along which an explicit bias varies, if it varies along one only."""
    node = step.node
    if not is_explicit(step):
        return None
    if step.family != "add":
        return 1
    rank = node.y.rank
    varying = set()
    for i, value in enumerate(node.inputs):
        if value is not None and not node.wants[i]:
            shape = value.shape or ()
            varying |= {rank - len(shape) + axis for axis, size in enumerate(shape) if size != 1}
    return varying.pop() if len(varying) == 1 else None


def noting(terms: list[Term], op: Emit) -> Visit:
    """A visitor that notes the bias term of every node that has one, while the gradient walks back."""

    def visit(step: Step, dys: list[Value | None]) -> None:
        signal, *others = dys
        bias = implicit_bias(op, step.node)
        if bias is None:
            return
        if signal is None or any(o is not None for o in others):
            raise UnsupportedError(f"{step.node.label}: its implicit bias is known for its first output only, but another one is used.")
        terms.append(Term(step, signal, bias, is_explicit(step), channel_axis(step)))

    return visit


def term_sum(op: Emit, term: Term, batched: bool) -> Value:
    """<g_y, r> of one node, per sample -> [N]; all of it is one sample where there is no batch axis."""
    if not batched:
        return op.Reshape(op.ReduceSum(op.Mul(term.signal, term.bias), keepdims=0), [1])
    axes = list(range(1, term.rank))
    if term.channel is not None and term.channel > 0 and term.rank > 2:
        spatial = [a for a in axes if a != term.channel]
        return op.ReduceSum(op.Mul(op.ReduceSum(term.signal, spatial, keepdims=1), term.bias), axes, keepdims=0)
    product = op.Mul(term.signal, term.bias)
    return op.ReduceSum(product, axes, keepdims=0) if axes else product


@dataclass(frozen=True)
class Painter:
    """psi: rescale |f| of a layer to [0, 1], sum its channels, upsample once (the upsampling is linear, so it may come last)."""

    op: Emit
    height: Value
    width: Value
    image_channel: int
    rescale: str

    def layer(self, term: Term, with_bias: bool) -> Value:
        """The map [N, H, W] of one node's bias term, or of the plain signal at it (``with_bias=False``)."""
        op, channel = self.op, term.channel or self.image_channel
        spatial = [a for a in (1, 2, 3) if a != channel]
        strength = op.Abs(term.signal)
        weight: Value | None = None
        if with_bias and term.channel is not None:
            weight = op.Abs(term.bias)
        elif with_bias:
            strength = op.Abs(op.Mul(term.signal, term.bias))
        return self.upsample(self._squash(strength, weight, channel, spatial, term.shape), channel)

    def maps(self, strength: Value, channel: int, shape: Shape) -> Value:
        """The map [N, h, w] of |f| [N, C, h, w] (or channels last), rescaled and summed over channels, not upsampled."""
        summed = self._squash(strength, None, channel, [a for a in (1, 2, 3) if a != channel], shape)
        return self.op.Squeeze(summed, [channel])

    def _squash(self, strength: Value, weight: Value | None, channel: int, spatial: list[int], shape: Shape) -> Value:
        """sum_c (w |f| - min) / (max - min + eps) with minimum and maximum over the layer, or over each channel."""
        op = self.op
        low, high = op.ReduceMin(strength, spatial, keepdims=1), op.ReduceMax(strength, spatial, keepdims=1)
        if weight is not None:
            low, high = op.Mul(low, weight), op.Mul(high, weight)
        if self.rescale == "channel":
            scaled = op.Div(op.Sub(strength if weight is None else op.Mul(strength, weight), low), op.Add(op.Sub(high, low), EPSILON))
            return op.ReduceSum(scaled, [channel], keepdims=1)
        low, high = op.ReduceMin(low, [channel], keepdims=1), op.ReduceMax(high, [channel], keepdims=1)
        summed = self._weighted_sum(strength, weight, channel)
        size = shape[channel] if channel < len(shape) else None
        count = float(size) if isinstance(size, int) else op.Cast(op.Shape(strength, start=channel, end=channel + 1), to=op.dtype)
        return op.Div(op.Sub(summed, op.Mul(low, count)), op.Add(op.Sub(high, low), EPSILON))

    def _weighted_sum(self, strength: Value, weight: Value | None, channel: int) -> Value:
        """sum_c w_c |f|_c, keeping the axis: a convolution by a 1 x 1 kernel where channels come first, one pass over the data."""
        op = self.op
        if weight is None:
            return op.ReduceSum(strength, [channel], keepdims=1)
        if channel == 1:
            return op.Conv(strength, op.Reshape(weight, [1, -1, 1, 1]))
        return op.ReduceSum(op.Mul(strength, weight), [channel], keepdims=1)

    def upsample(self, value: Value, channel: int) -> Value:
        """Bilinear, corners aligned, to the picture's height and width; the single channel is dropped -> [N, H, W]."""
        op = self.op
        first = op.Squeeze(value, [channel])
        sizes = op.Concat(self.height, self.width, axis=0)
        stacked = op.Unsqueeze(first, [1])
        bigger = op.Resize(
            stacked, None, None, sizes, mode="linear", coordinate_transformation_mode="align_corners", axes=[2, 3]
        )
        return op.Squeeze(bigger, [1])


def painter(build: Build, op: Emit) -> Painter | None:
    """The painter for an image input; ``None`` where the explained input is no image."""
    x = build.question.x
    axes = image_axes(x.shape)
    if axes is None:
        return None
    return Painter(op, dim_of(op, x, axes[1]), dim_of(op, x, axes[2]), axes[0], build.settings["rescale"])


def _is_shown(build: Build, step: Step) -> bool:
    """Whether a node's term is part of the saliency map: image-shaped, of the chosen kind, and not left out by ``layers``."""
    layers = build.settings.get("layers") or ()
    chosen = not layers or step.node.name in layers
    return chosen and step.node.y.rank == 4 and (build.settings["biases"] == "all" or is_explicit(step))


@wrap("fullgrad")
def fullgrad(build: Build) -> Result:
    """Attribution ``g * x``; residual ``|<g, x> + sum <g_y, r> - score| / |score|``; map ``psi(g * x) + sum psi(g_y * r)``.

    ``psi`` = bilinear upsampling of the rescaled absolute value, summed over channels. The residual counts every bias, implicit
    ones too; ``biases`` chooses those in the map.
    """
    op, question = build.op, build.question
    terms: list[Term] = []
    seed = emit_seed(op, question, question.start, build.head.explained_class)
    signal = traverse(op, build.plan(), {question.start.name: seed}, noting(terms, op))[question.x.name]
    attribution = op.Mul(signal, question.x)
    own = build.sum_per_sample(attribution)
    explicit = _total(op, [term_sum(op, t, question.batched) for t in terms if t.explicit])
    implicit = [term_sum(op, t, question.batched) for t in terms if not t.explicit]
    if question.squash:
        implicit.append(op.Sub(build.head.score, build.sum_of_scores(op.Mul(seed, question.start))))
    rest = _total(op, implicit)
    parts = [p for p in (own, explicit, rest) if p is not None]
    residual = build.relative_error(_total(op, parts) or own, build.head.score)
    build.component("fullgrad/shares", lambda: _shares(op, own, explicit, rest), 2)
    return Result(attribution, residual, _paint(build, attribution, terms, with_bias=True))


@wrap("simple_fullgrad")
def simple_fullgrad(build: Build) -> Result:
    """As ``fullgrad`` with the signal itself in place of signal times bias, at the nodes that own a bias; it obeys no law."""
    op, question = build.op, build.question
    terms: list[Term] = []
    seed = emit_seed(op, question, question.start, build.head.explained_class)
    signal = traverse(op, build.plan(), {question.start.name: seed}, noting(terms, op))[question.x.name]
    attribution = op.Mul(signal, question.x)
    return Result(attribution, None, _paint(build, attribution, terms, with_bias=False))


@wrap("smooth_fullgrad")
def smooth_fullgrad(build: Build) -> Result:
    """The terms of ``fullgrad`` averaged over noisy copies of the input, signed; ``psi`` is applied once, to the averages.

    As in the authors' code, the input term is summed over channels before its absolute value is taken. Attribution: the mean of
    ``g * (x + noise)``.
    """
    op, question = build.op, build.question
    chosen = [s for s in build.plan().steps if _owns_bias(question.model, s) and _is_shown(build, s)] if painter(build, op) else []
    terms: list[Term] = []

    def update(chunk: Walked, states: Sequence[Value]) -> list[Value]:
        body, found = chunk.body, {t.step.node.index: t for t in terms}
        at_input = body.Add(states[0], body.ReduceSum(body.Mul(chunk.signals, chunk.points), [0], keepdims=0))
        layers = []
        for state, step, term in zip(states[1:], chosen, (found[i] for i in sorted(found) if _is_shown(build, found[i].step)), strict=True):
            product = chunk.per_sample(body.Mul(term.signal, term.bias), step.node.y)
            layers.append(body.Add(state, body.ReduceSum(product, [0], keepdims=0)))
        return [at_input, *layers]

    count = int(build.settings["n_samples"])
    zeros = [zeros_like(op, question.x), *(zeros_like(op, s.node.y) for s in chosen)]
    samples = Samples(count, build.settings["chunk"])
    sums = sampled_walks(build, samples, noisy_points(build), zeros, update, partial(noting, terms))
    attribution, *layers = (op.Div(s, float(count)) for s in sums)
    brush = painter(build, op)
    if brush is None:
        return Result(attribution)
    shape = question.x.shape or ()
    summed = op.ReduceSum(attribution, [brush.image_channel], keepdims=1)
    total = brush.maps(op.Abs(summed), brush.image_channel, tuple(1 if a == brush.image_channel else d for a, d in enumerate(shape)))
    for step, layer in zip(chosen, layers, strict=True):
        total = op.Add(total, brush.layer(Term(step, layer, layer, is_explicit(step), channel_axis(step)), with_bias=False))
    return Result(attribution, None, total)


def _owns_bias(model: Model, step: Step) -> bool:
    """Whether the node has an implicit bias that is not identically zero."""
    trial = Emit(model)
    with trial.at(step.node):
        return implicit_bias(trial, step.node) is not None


def _paint(build: Build, attribution: Value, terms: list[Term], with_bias: bool) -> Value | None:
    """The saliency map [N, H, W]; each layer's share of it is a component."""
    op, brush = build.op, painter(build, build.op)
    if brush is None:
        return None
    shape = build.question.x.shape or ()
    start = total = brush.maps(op.Abs(attribution), brush.image_channel, shape)
    build.component("fullgrad/input", lambda: start, 3)
    for term in reversed(terms):
        name = f"fullgrad/{term.step.node.name}"
        if _is_shown(build, term.step):
            layer = brush.layer(term, with_bias)
            build.component(name, partial(Value, layer.name), 3)
            total = op.Add(total, layer)
        else:
            build.component(name, partial(term_sum, op, term, build.question.batched), 1)
    return total


def _total(op: Emit, parts: list[Value]) -> Value | None:
    """The sum of tensors of one shape."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else op.Sum(*parts)


def _shares(op: Emit, own: Value, explicit: Value | None, implicit: Value | None) -> Value:
    """[N, 3]: what the input, the explicit and the implicit biases contribute to the score."""
    zero = op.Mul(own, 0.0)
    return op.Concat(*(op.Unsqueeze(zero if part is None else part, [1]) for part in (own, explicit, implicit)), axis=1)
