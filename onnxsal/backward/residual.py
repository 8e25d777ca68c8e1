"""Where several tensors meet: how additions, and products of activations, split relevance between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxsal.backward.registry import rule
from onnxsal.backward.walk import walk_of
from onnxsal.errors import MethodError, UnsupportedError
from onnxsal.facts.gates import bounded
from onnxsal.facts.ranges import bounds_of
from onnxsal.facts.solve import ancestors
from onnxsal.graph import Emit, Model, NodeView, Signals, Value
from onnxsal.graph.helpers import add_up, guard, over, signed_epsilon, times, unbroadcast
from onnxsal.ops.registry import spec_of, vjp
from onnxsal.ops.statements import Roles

SPLITS = ("ratio", "symmetric", "signed")
SMALLEST = 1e-30
"""Added to both sides of a ratio: nothing next to any activation, and equal parts of 0 / 0."""


def _split_vanishes(node: NodeView, parameters: Mapping[str, Any], arrives: bool) -> bool:
    """Equal parts do not ask how large an operand is; nor is anything asked of the only one that takes a share."""
    shared = parameters.get("how") != "symmetric" and parameters.get("identity") != "ignore" and sum(node.wants) > 1
    return arrives and shared


@rule("split", families=("add",), vanishes=_split_vanishes)
def split(op: Emit, node: NodeView, dys: Signals, *, how: str = "ratio", identity: str = "share", epsilon: float = 1e-6) -> Signals:
    """R_i = |x_i| / sum_j |x_j| R (ratio), R / n (symmetric), or x_i / (sum_j x_j + epsilon sgn) R (signed, not bounded).

    ``identity = "ignore"`` leaves shortcuts without parameters out. With one active operand (an added constant) it passes.
    """
    (r,) = dys
    assert r is not None
    if how not in SPLITS or identity not in ("share", "ignore"):
        raise MethodError(f"rule 'split': how = '{how}', identity = '{identity}'; known: {', '.join(SPLITS)}; share, ignore.")
    spec = spec_of(node)
    if spec is None or spec.roles is None:
        raise UnsupportedError(f"{node.label}: no relevance rule is stated for it.")
    active = [i for i, wanted in enumerate(node.wants) if wanted]
    left_out = identity_operands(node, active) if identity == "ignore" and len(active) > 1 else []
    takers = [i for i in active if i not in left_out] or active
    shares = _shares(op, node, spec.roles, r, takers, how, epsilon)
    answer: list[Value | None] = [None] * len(node.proto.input)
    for i in active:
        if i in shares:
            x = node.input(i)
            answer[i] = shares[i] if x.shape == node.y.shape else unbroadcast(op, shares[i], node.y, x)
        else:
            answer[i] = op.Mul(node.input(i), 0.0)
    return answer


def _shares(op: Emit, node: NodeView, roles: Roles, r: Value, takers: list[int], how: str, epsilon: float) -> dict[int, Value]:
    """Operand -> its share of R, in the shape of y."""
    if len(takers) == 1:
        return {takers[0]: r}
    if how == "symmetric":
        part = op.Mul(r, 1.0 / len(takers))
        return dict.fromkeys(takers, part)
    values = {i: op.Neg(node.input(i)) if i in roles.negated else node.input(i) for i in takers}
    if how == "signed":
        total = add_up(op, list(values.values()))
        added = signed_epsilon(op, total, epsilon)
        s = op.Div(r, op.Add(total, added))
        _leak(op, node, s, added)
        return {i: op.Mul(v, s) for i, v in values.items()}
    sizes = {i: op.Add(_magnitude(op, node, i), SMALLEST) for i in takers}
    total = add_up(op, list(sizes.values()))
    *others, last = takers
    shares = {i: times(op, node, r, op.Div(sizes[i], total)) for i in others}
    rest = r
    for share in shares.values():
        rest = op.Sub(rest, share)
    return {**shares, last: rest}


def _leak(op: Emit, node: NodeView, s: Value, added: Value) -> None:
    """Write down what the stabiliser takes."""
    book = walk_of(op).book
    if book is not None:
        book.leak.append((book.total(op, node.y, s, added), op.dtype))


def _magnitude(op: Emit, node: NodeView, i: int) -> Value:
    """|x_i|, which is x_i itself where it is never negative."""
    x = node.input(i)
    return x if bounds_of(node.model, x.name)[0] >= 0 else op.Abs(x)


def identity_operands(node: NodeView, active: Sequence[int]) -> list[int]:
    """Operands that are shortcuts without parameters: what another operand is made of reaches them without meeting a weight."""
    model = node.model
    names = {i: node.proto.input[i] for i in active}
    found = []
    for i in active:
        near = _before(model, names[i], weights=False)
        if any(near & _before(model, names[j], weights=True) for j in active if j != i):
            found.append(i)
    return found if len(found) < len(active) else []


def _before(model: Model, name: str, weights: bool) -> set[str]:
    """The tensor and all it is made of (those that reach it without a weight on the way, unless ``weights``), constants left out."""

    def reads(node: NodeView) -> list[str]:
        return [n for n in node.proto.input if n and model.constant(n) is None] if weights or not _has_weight(node) else []

    return ancestors(model, [name], reads)


def _has_weight(node: NodeView) -> bool:
    """Whether the node multiplies by, or adds, a constant of the model."""
    spec = spec_of(node)
    if spec is None or (spec.family not in ("linear", "add", "product") and spec.scaling is None):
        return False
    return any(v is not None and (v.name in node.model.initializers or node.model.constant(v.name) is not None) for v in node.inputs)


@rule("share", families=("product", "linear"), vanishes=lambda node, parameters, arrives: arrives)
def share(op: Emit, node: NodeView, dys: Signals, *, epsilon: float = 1e-6) -> Signals:
    """R_i = x_i [J_i^T (R / (n y + epsilon sgn))]_i for a product of n activations: equal parts. A gate gets nothing.

    A gate is a factor between 0 and a bound, such as a Sigmoid, beside one that is not: the value it scales takes all relevance
    (squeeze-and-excite, swish, attention weights). The denominator of a quotient is one too. A constant factor passes all.
    """
    (r,) = dys
    assert r is not None
    takers = _takers(node, [i for i, wanted in enumerate(node.wants) if wanted])
    answer: list[Value | None] = [None] * len(node.proto.input)
    spec = spec_of(node)
    if len(takers) == 1 and spec is not None and spec.family == "product":
        x = node.input(takers[0])
        answer[takers[0]] = r if x.shape == node.y.shape else unbroadcast(op, r, node.y, x)
        return answer
    counted = node.y if len(takers) == 1 else op.Mul(node.y, float(len(takers)))
    added = signed_epsilon(op, counted, epsilon)
    s = over(op, node, r, op.Add(counted, added))
    _leak(op, node, s, added)
    back = vjp(op, node, [s])
    for i in takers:
        signal = back[i]
        assert signal is not None
        answer[i] = guard(op, node, signal, op.Mul(node.input(i), signal))
    return answer


def _takers(node: NodeView, active: list[int]) -> list[int]:
    """The active factors that are no gates."""
    spec = spec_of(node)
    divisors = () if spec is None or spec.roles is None else spec.roles.divisors
    if set(active) <= set(divisors):
        raise UnsupportedError(f"{node.label}: only its denominator depends on the input, and no relevance rule is stated for that.")
    active = [i for i in active if i not in divisors]
    if node.optional(2) is not None and node.want(2):
        raise UnsupportedError(f"{node.label}: its bias depends on the input too; no relevance rule is stated for that.")
    if len(active) < 2:
        return active
    gates = bounded(node.model, {i: node.proto.input[i] for i in active})
    return [i for i in active if i not in gates]
