"""LRP rules for affine maps: which sums relevance is divided by, and which part of the input gets which share.

Bach et al. 2015 (LRP-0, epsilon, alpha-beta), Montavon et al. 2017 (deep Taylor: z+, w^2, z-box), Montavon et al. 2019 (gamma),
Otsuki et al. 2024 (ratio splitting, see residual.py). ``bias``: its share leaves the map and is booked (absorb), it is left out of
the sums (ignore), or its share is spread equally over the unit's inputs (distribute).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxsal.backward.affine import (
    BIASES,
    MAPS,
    Affine,
    Division,
    Term,
    affine_of,
    by_live_sums,
    enter,
    fan_in,
    leaks,
    lost,
    share_among_inputs,
    step,
)
from onnxsal.backward.box import bounds_at
from onnxsal.backward.padding import present
from onnxsal.backward.registry import rule
from onnxsal.errors import MethodError, UnsupportedError
from onnxsal.facts.tags import is_relu
from onnxsal.graph import Emit, NodeView, Signals, Value
from onnxsal.graph.helpers import add_up, ones_like, unbroadcast
from onnxsal.ops.registry import vjp

WEIGHTED = ("linear", "normalization", "product")
"""Families with operators that have a weight."""


def _relevance(node: NodeView, dys: Signals) -> Value:
    first, *others = dys
    if first is None or any(o is not None for o in others):
        raise UnsupportedError(f"{node.label}: relevance rules are known for its first output only, but another one is explained.")
    return first


def _to(affine: Affine, signal: Value) -> Signals:
    return [signal if i == affine.position else None for i in range(len(affine.node.proto.input))]


def _check_bias(bias: str, known: Sequence[str] = BIASES) -> None:
    if bias not in known:
        raise MethodError(f"bias = '{bias}' is not known to this rule; known: {', '.join(known)}.")


def _by_input(node: NodeView, parameters: Mapping[str, Any], arrives: bool) -> bool:
    """R_i = x_i times something, unless a part is spread over all inputs alike."""
    return parameters.get("bias") != "distribute" and parameters.get("dead") != "spread"


def _plain(op: Emit, node: NodeView, dys: Signals, bias: str, epsilon: float) -> Signals:
    """R_i = x_i [J^T (R / (z + epsilon sgn z))]_i, the z of the forward part where the bias counts."""
    _check_bias(bias)
    affine, r = affine_of(op, node), _relevance(node, dys)
    z, sign = affine.sum(op)
    if affine.bias is None or bias != "ignore":
        if bias == "distribute" and affine.bias is not None:
            return _to(affine, _distributed(op, affine, r, epsilon))
        return _to(affine, step(op, affine, Division([(affine.a, None)], r, affine.bias, z, sign, epsilon)))
    total = op.Sub(z, affine.bias)
    return _to(affine, step(op, affine, Division([(affine.a, None)], r, None, Value(total.name, 0, z.shape), epsilon=epsilon)))


def _distributed(op: Emit, affine: Affine, r: Value, epsilon: float) -> Value:
    s = by_live_sums(op, r, affine.z, epsilon)
    enter(op, affine, s, None, lost(op, affine, r, s, affine.z))
    assert affine.bias is not None
    own = op.Mul(affine.a, affine.backward(op, s))
    return op.Add(own, share_among_inputs(op, affine, op.Mul(s, affine.bias)))


@rule("lrp_zero", families=MAPS, vanishes=_by_input)
def lrp_zero(op: Emit, node: NodeView, dys: Signals, *, bias: str = "absorb") -> Signals:
    """R_i = x_i [J^T (R / z)]_i, and 0 where z = 0."""
    return _plain(op, node, dys, bias, 0.0)


@rule("epsilon", families=MAPS, vanishes=_by_input)
def epsilon(op: Emit, node: NodeView, dys: Signals, *, epsilon: float = 1e-6, bias: str = "absorb") -> Signals:
    """R_i = x_i [J^T (R / (z + epsilon sgn z))]_i with sgn 0 = 1."""
    return _plain(op, node, dys, bias, epsilon)


@rule("norm", families=MAPS, vanishes=_by_input)
def norm(op: Emit, node: NodeView, dys: Signals, *, epsilon: float = 1e-6) -> Signals:
    """R_i = x_i w_i R / (sum_j w_j x_j + epsilon sgn): in proportion to what each input adds to a mean, a sum or an interpolation."""
    return _plain(op, node, dys, "ignore", epsilon)


@rule("pass", vanishes=lambda node, parameters, arrives: arrives and is_relu(node))
def pass_(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """R_i = R: the one active input takes all (summed where it was repeated)."""
    r = _relevance(node, dys)
    active = [i for i, wanted in enumerate(node.wants) if wanted]
    if len(active) != 1:
        names = [node.proto.input[i] for i in active]
        raise UnsupportedError(
            f"{node.label}: rule 'pass' gives all relevance to one input, but {names} are active. Name another rule for it."
        )
    x = node.input(active[0])
    back = r if x.shape == node.y.shape else unbroadcast(op, r, node.y, x)
    return [back if i == active[0] else None for i in range(len(node.proto.input))]


# ----- rules with signed parts -----


def _halves(op: Emit, affine: Affine) -> tuple[Value, Value | None]:
    """max(x, 0), and min(x, 0) unless the input is never negative: then x and nothing."""
    if affine.positive_input():
        return affine.a, None
    return op.Relu(affine.a), op.Min(affine.a, 0.0)


def _terms(plus: Value, minus: Value | None, with_plus: Value, with_minus: Callable[[], Value]) -> list[Term]:
    return [(plus, with_plus), *([] if minus is None else [(minus, with_minus())])]


def _shaped(value: Value, affine: Affine) -> Value:
    return Value(value.name, 0, affine.a.shape)


@rule("alpha_beta", families=WEIGHTED, vanishes=_by_input)
def alpha_beta(op: Emit, node: NodeView, dys: Signals, *, alpha: float = 2.0, beta: float = 1.0, bias: str = "absorb") -> Signals:
    """R_i = alpha (x+ w+ + x- w-)_i R / S+ - beta (x+ w- + x- w+)_i R / S-, with alpha - beta = 1; b+ counts in S+, b- in S-."""
    _check_bias(bias, BIASES[:2])
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise MethodError(
            f"rule 'alpha_beta' conserves relevance only with alpha - beta = 1 and beta >= 0, not with alpha = {alpha}, beta = {beta}."
        )
    affine, r = affine_of(op, node), _relevance(node, dys)
    plus, minus = _halves(op, affine)
    up, down = affine.signed(op, 1), affine.signed(op, -1)
    shift = affine.bias if bias == "absorb" else None
    first = Division(_terms(plus, minus, up, lambda: down), _scaled(op, r, alpha), None if shift is None else op.Relu(shift), sign=1)
    parts = [step(op, affine, first)]
    if beta:
        low = None if shift is None else op.Min(shift, 0.0)
        parts.append(step(op, affine, Division(_terms(plus, minus, down, lambda: up), _scaled(op, r, -beta), low, sign=-1)))
    return _to(affine, add_up(op, parts))


def _scaled(op: Emit, r: Value, factor: float) -> Value:
    if factor == 1:
        return r
    return op.Neg(r) if factor == -1 else op.Mul(r, float(factor))


@rule("zplus", families=WEIGHTED, vanishes=_by_input)
def zplus(op: Emit, node: NodeView, dys: Signals, *, bias: str = "ignore", dead: str = "leak") -> Signals:
    """R_i = (x+ w+ + x- w-)_i R / S+: alpha-beta with (1, 0). Where the input is never negative its second half is left out.

    Relevance of a sum that is 0 (a unit that its bias alone made active) leaks, or is spread equally over the unit's inputs.
    """
    _check_bias(bias, BIASES[:2])
    if dead not in ("leak", "spread"):
        raise MethodError(f"rule 'zplus': dead = '{dead}' is not known; known: leak, spread.")
    affine, r = affine_of(op, node), _relevance(node, dys)
    shift = None if bias == "ignore" or affine.bias is None else op.Relu(affine.bias)
    terms = _terms(*_halves(op, affine), affine.signed(op, 1), lambda: affine.signed(op, -1))
    return _to(affine, step(op, affine, Division(terms, r, shift, sign=1, spread=dead == "spread")))


@rule("gamma", families=WEIGHTED, vanishes=_by_input)
def gamma(op: Emit, node: NodeView, dys: Signals, *, gamma: float = 0.25, bias: str = "absorb") -> Signals:
    """Where z >= 0: R_i = (x+ (w + g w+) + x- (w + g w-))_i R / its sum; where z < 0, w+ and w- change places."""
    _check_bias(bias, BIASES[:2])
    affine, r = affine_of(op, node), _relevance(node, dys)
    weight = affine.weight
    up, down = (op.Add(weight, op.Mul(affine.signed(op, sign), float(gamma))) for sign in (1, -1))
    plus, minus = _halves(op, affine)
    shift = affine.bias if bias == "absorb" else None
    z, never_below = affine.sum(op)
    sides = [(1, r, _terms(plus, minus, up, lambda: down))]
    if not never_below:
        low = op.Less(z, 0.0)
        above, below = op.Where(low, 0.0, r), op.Where(low, r, 0.0)
        sides = [(1, above, sides[0][2]), (-1, below, _terms(plus, minus, down, lambda: up))]
    parts = []
    for sign, here, terms in sides:
        favoured = None
        if shift is not None:
            favoured = op.Add(shift, op.Mul(op.Relu(shift) if sign > 0 else op.Min(shift, 0.0), float(gamma)))
        parts.append(step(op, affine, Division(terms, here, favoured)))
    return _to(affine, add_up(op, parts))


@rule("wplus", families=WEIGHTED)
def wplus(op: Emit, node: NodeView, dys: Signals, *, epsilon: float = 1e-5, bias: str = "ignore", ones: bool = False) -> Signals:
    """R_i = x_i w+_i R / (sum_j x_j w+_j + epsilon): weights clamped, inputs taken as they are (or as ones), epsilon without a sign.

    As published code for residual networks has it; right for inputs that are never negative.
    """
    _check_bias(bias, BIASES[:2])
    affine, r = affine_of(op, node), _relevance(node, dys)
    carried = present(op, affine.node.model, affine.a) if ones else None
    a, up = _shaped(carried or ones_like(op, affine.a), affine) if ones else affine.a, affine.signed(op, 1)
    total = affine.forward(op, a, up)
    shift = affine.bias if bias == "absorb" else None
    total = total if shift is None else op.Add(total, shift)
    s = op.Div(r, op.Add(total, float(epsilon)))
    leaks(op, affine, s, shift, float(epsilon))
    back = affine.backward(op, s, up)
    return _to(affine, back if ones and carried is None else op.Mul(a, back))


# ----- rules for the first layer -----


@rule("wsquare", families=WEIGHTED)
def wsquare(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """R_i = w_i^2 R / sum_j w_j^2: whatever the input is."""
    affine, r = affine_of(op, node), _relevance(node, dys)
    ones, _, _ = fan_in(op, affine)
    assert affine.weight is not None
    square = op.cached(("square", affine.weight.name), lambda: op.Mul(affine.weight, affine.weight))
    return _to(affine, _without_input(op, affine, r, ones, square))


@rule("flat", families=WEIGHTED)
def flat(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """R_i = R / (number of inputs of the unit), padding not counted."""
    affine, r = affine_of(op, node), _relevance(node, dys)
    ones, weight, count = fan_in(op, affine)
    return _to(affine, _without_input(op, affine, r, ones, weight, count))


def _without_input(op: Emit, affine: Affine, r: Value, ones: Value, weight: Value, total: Value | None = None) -> Value:
    """A step with ones in place of the input, without multiplying by them."""
    total = affine.forward(op, ones, weight) if total is None else total
    s = by_live_sums(op, r, total)
    enter(op, affine, s, None, lost(op, affine, r, s, total))
    sent, carried = affine.backward(op, s, weight), present(op, affine.node.model, affine.a)
    return sent if carried is None else op.Mul(sent, carried)


@rule("zbox", families=WEIGHTED)
def zbox(op: Emit, node: NodeView, dys: Signals, *, low: Any = 0.0, high: Any = 1.0) -> Signals:
    """R_i = (x w - l w+ - h w-)_i R / its sum, for inputs between l and h: bounds of the model's input, numbers or one per channel."""
    affine, r = affine_of(op, node), _relevance(node, dys)
    least, most = bounds_at(op, affine, low, high)
    terms: list[Term] = [(affine.a, None), (op.Neg(least), affine.signed(op, 1)), (op.Neg(most), affine.signed(op, -1))]
    return _to(affine, step(op, affine, Division([(_shaped(a, affine), w) for a, w in terms], r)))


# ----- pooling as published code for residual networks has it -----


@rule("as_average", families=("max_pool",), vanishes=_by_input)
def as_average(op: Emit, node: NodeView, dys: Signals, *, epsilon: float = 1e-5) -> Signals:
    """A max pool explained as the mean of windows of its stride s: R_i = x_i / s^2 R / (mean + epsilon)."""
    r = _relevance(node, dys)
    strides = [int(v) for v in node.attr("strides") or []]
    sizes = [(node.x.dim(2 + i), node.y.dim(2 + i), s) for i, s in enumerate(strides)]
    if not strides or any(x is not None and y is not None and x // s != y for x, y, s in sizes):
        raise UnsupportedError(
            f"{node.label}: means over windows of its stride would make another number of cells, so rule 'as_average' cannot stand in "
            "for it. Use max_pool=winner."
        )
    # the operator that the rule puts in place of the node's, emitted on the next line too
    pooled = node.like("AveragePool", kernel_shape=strides, strides=strides)
    mean = op.AveragePool(node.x, kernel_shape=strides, strides=strides)
    s = op.Div(r, op.Add(mean, float(epsilon)))
    affine = Affine(node, 0, node.x, node.y, None)
    leaks(op, affine, s, None, float(epsilon))
    back = vjp(op, pooled, [s])[0]
    assert back is not None
    return node.grads(op.Mul(node.x, back))
