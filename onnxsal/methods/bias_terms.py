"""The terms that FullGrad splits a score into: where each bias stands, what the signal there is, and what both make of the score.

What nodes keep of the score is told by the rule that crosses them, so the same book serves the gradient, and gradients with some Jacobians
replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

from onnxsal.backward.book import sum_of_parts
from onnxsal.engine.plan import Step
from onnxsal.engine.traverse import Visit, traverse
from onnxsal.errors import MethodError, UnsupportedError, near_miss
from onnxsal.facts.axes import Layout, layouts
from onnxsal.facts.reach import data_tensors
from onnxsal.facts.wild import level_axis
from onnxsal.forms.masks import channel_sums
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import channel_sum, like_shape, recast, signal_type, times
from onnxsal.methods.build import Build
from onnxsal.methods.head import emit_seed
from onnxsal.ops.registry import spec_of

SHIFTING = ("add", "select")
"""Families whose biases are tensors that were added, or put in: masks."""


@dataclass(frozen=True)
class Site:
    """A node as the place of a bias term.

    ``explicit``: its bias is made of parameters alone. ``channel``: the one axis along which such a bias varies, if there is one.
    ``output`` is the one at which it stands.
    """

    step: Step
    layout: Layout
    explicit: bool
    channel: int | None
    output: int = 0

    @property
    def name(self) -> str:
        return f"{self.step.node.name}:{self.output}" if self.output else self.step.node.name

    @property
    def y(self) -> Value:
        return self.step.node.output(self.output)


@dataclass(frozen=True)
class BiasTerm:
    """The bias term of one node: the signal at its output, and its implicit bias, broadcastable to it."""

    site: Site
    signal: Value
    bias: Value


def survey(build: Build) -> dict[str, Site]:
    """Every node on the path, by name."""
    question, steps = build.question, build.plan().steps
    path = [s.node for s in steps]
    layout = layouts(question.model, question.x, path, batched=question.batched, picture=question.picture)
    data = data_tensors(question.model)
    sites = {}
    for step in steps:
        explicit = is_explicit(step, data)
        for j, y in enumerate(step.node.outputs):
            own = Layout(None, False) if y is None else layout.get(y.name, Layout(None, False))
            site = Site(step, own, explicit, bias_axis(step) if explicit and not j else None, j)
            sites[site.name] = site
    for name in build.settings.get("layers") or ():
        if name not in sites:
            raise MethodError(
                f"layers: no node '{name}' lies between the input and the score{near_miss(name, sites)}; `onnxsal plan` lists them."
            )
    return sites


def is_explicit(step: Step, data: set[str]) -> bool:
    """Whether the bias is made of parameters alone: a layer's bias, a batch normalisation's shift, an added constant."""
    node, spec = step.node, spec_of(step.node)
    adds = spec is not None and spec.roles is not None and bool(spec.roles.shifts)
    if step.family not in ("linear", "add") and not adds:
        return False
    constant = [v for i, v in enumerate(node.inputs) if v is not None and not node.want(i)]
    return bool(constant) and not any(v.name in data for v in constant)


def bias_axis(step: Step) -> int | None:
    """The axis of the output along which an explicit bias varies, if it varies along one only."""
    node = step.node
    rank = node.y.rank
    if step.family != "add":
        return 1 if rank > 2 and node.want(0) else None
    varying = set()
    for i, value in enumerate(node.inputs):
        if value is not None and not node.want(i):
            varying |= {rank - value.rank + axis for axis, size in enumerate(value.shape or ()) if size != 1}
    return varying.pop() if len(varying) == 1 else None


def noting(sites: dict[str, Site], terms: list[BiasTerm], op: Emit) -> Visit:
    """A visitor that notes the bias term of every node that has one, while the gradient walks back."""

    def visit(step: Step, dys: list[Value | None]) -> None:
        signal, *others = dys
        bias = step.rule.bias(op, step.node)
        if bias is None:
            return
        if not isinstance(bias, Value):
            found = [(j, dy, r) for j, (dy, r) in enumerate(zip(dys, bias, strict=True)) if dy is not None and r is not None]
            terms.extend(BiasTerm(sites[f"{step.node.name}:{j}" if j else step.node.name], dy, r) for j, dy, r in found)
            return
        bias = levelled(op, step.node, bias, sites)
        if signal is None or any(o is not None for o in others):
            raise UnsupportedError(f"{step.node.label}: its implicit bias is known for its first output only, but another one is used.")
        terms.append(BiasTerm(sites[step.node.name], signal, bias))

    return visit


def levelled(op: Emit, node: NodeView, bias: Value, path: Container[str]) -> Value:
    """The bias less its largest along the axis of the softmax that alone reads it: a shift there adds nothing, for the signals sum to 0.

    Of masks of -1e9, and of offsets that scores have in common, the sum would be no more than rounding. Such a number also swallows the
    scores it is added to: the bias of a sum is then what was added in truth, the output less the input.
    """
    axis, spec = level_axis(node, path), spec_of(node)
    if axis is None or spec is None or spec.family not in SHIFTING:
        return bias
    active = [i for i, wanted in enumerate(node.wants) if wanted]
    negated = () if spec.roles is None else spec.roles.negated
    if spec.family == "add" and len(active) == 1 and spec.scaling is not None and active[0] not in negated:
        return op.Sub(op.Sub(node.y, op.ReduceMax(node.y, [axis], keepdims=1)), node.input(active[0]))
    bias = like_shape(op, bias, node.y)
    return op.Sub(bias, op.ReduceMax(bias, [axis], keepdims=1))


# ----- the decomposition -----


def beyond_scores(build: Build, seed: Value) -> list[Value]:
    """What the score has beyond ``<seed, scores>``, per sample [N]: the implicit bias of a head that is no weighted sum of them."""
    op, question = build.op, build.question
    if question.weighted:
        return []
    at_start = build.sum_of_scores(op.Mul(seed, question.start))
    return [op.Sub(build.head.score, recast(op, at_start, signal_type(question.start), op.dtype))]


def term_sum(build: Build, term: BiasTerm) -> Value:
    """<g_y, r> of one node, per sample -> [N], in the type of attributions."""
    op, site = build.op, term.site
    rank, samples = site.y.rank, site.layout.samples
    alone = not build.question.batched or build.question.x.dim(0) == 1
    if samples is None and not alone:
        raise UnsupportedError(
            f"{site.step.node.label}: it is not known which axis of its output counts the samples, and so not whose score its bias is in. "
            "Export the model with a symbolic batch, or with a batch of 1."
        )
    axes = list(range(rank)) if alone else [a for a in range(rank) if a != samples]
    signal, channel = term.signal, site.channel
    with op.at(site.step.node):
        product = channel_sums(op, signal, term.bias)
        if product is None and channel is not None and rank > 2 and channel in axes:
            tokens = (rank, channel, samples) == (3, 2, 0) and not (alone and site.y.dim(0) != 1)
            others = [a for a in axes if a != channel]
            signal = channel_sum(op, signal, site.y.shape) if tokens else op.ReduceSum(signal, others, keepdims=1)
        product = times(op, site.step.node, signal, term.bias) if product is None else product
        total = op.ReduceSum(product, axes, keepdims=0) if axes else product
        if alone:
            total = op.Reshape(total, [1])
        elif not site.layout.whole:
            total = sum_of_parts(op, total, site.layout, build.question.x)
    return recast(op, total, signal_type(site.y), op.dtype)


def stored_in_gates(build: Build, term: BiasTerm, gate: str | None = None) -> Value | None:
    """What the stored biases of a layer with gates, or of one gate, contribute to the score, per sample [N]; ``None`` of any other node,
    and where gates are held constant, as biases are then all that such a layer keeps.
    """
    step, op = term.site.step, build.op
    spec = spec_of(step.node)
    if spec is None or spec.gates is None or step.rule.name == "held":
        return None
    with op.at(step.node):
        kept = spec.gates.stored(op, step.node, gate)
    bias = None if kept is None else kept[term.site.output]
    return None if bias is None else term_sum(build, replace(term, bias=bias))


def gates_of(term: BiasTerm) -> tuple[str, ...]:
    """The names of the gates of a layer that has some."""
    spec = spec_of(term.site.step.node)
    return () if spec is None or spec.gates is None else spec.gates.names(term.site.step.node)


TermVisit = Callable[[Step, list[Value | None], Sequence[BiasTerm]], None]
"""(step, the signals at its outputs, the bias terms of the nodes behind it), on the way back."""


def decompose(build: Build, sites: dict[str, Site], look: TermVisit | None = None) -> tuple[Value, list[BiasTerm], Value]:
    """The input term, the bias terms (last node first), and the seed of the walk, which ``look`` sees step by step."""
    op, question = build.op, build.question
    terms: list[BiasTerm] = []
    seed, note = emit_seed(op, question, question.start, build.head.chosen), noting(sites, terms, op)

    def visit(step: Step, dys: list[Value | None]) -> None:
        if look is not None:
            look(step, dys, terms)
        note(step, dys)

    signal = traverse(op, build.plan(), {question.start.name: seed}, visit)[question.x.name]
    return build.contribution(op.Mul(signal, question.x), question.x), terms, seed
