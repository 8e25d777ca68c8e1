"""Relevance as value times a modified gradient: ``R_t = t * g_t`` for every tensor t, with some Jacobians replaced on the way.

A rule that gives shares in proportion to values, ``R_i = x_i (J~^T g)_i``, is a Jacobian J~ in place of the derivative, so nothing is
divided by sums. What a node keeps for itself is ``<g_y, r>`` with ``r = y - sum_i J~_i x_i``, stated beside each rule as its ``bias``.
Ali et al. 2022, arXiv 2202.07304; Achtibat et al. 2024, arXiv 2402.05602.
"""

from __future__ import annotations

import copy
import math

from onnxsal.backward.registry import rule
from onnxsal.facts.gates import factors_of
from onnxsal.graph import HALF, Emit, NodeView, Signals, Value
from onnxsal.graph.helpers import add_up, over, times, unbroadcast
from onnxsal.ops.registry import Rest, held_bias, implicit_bias, kept, spec_of, vjp

NEAR = {True: 1e-4, False: 1e-12}
"""Up to this size of x (in half precision, and else) y / x is taken to be the slope at 0: a quotient of such numbers is rounding."""


def _has_ratio(node: NodeView) -> bool:
    """Whether the node is a function of its first input alone that is 0 at 0, with a slope there."""
    spec = spec_of(node)
    return spec is not None and spec.origin(node) is not None and node.want(0) and sum(node.wants) == 1


def _rest_of_ratio(op: Emit, node: NodeView) -> Rest:
    return None if _has_ratio(node) else implicit_bias(op, node)


@rule("ratio", families=("activation", "elementwise"), bias=_rest_of_ratio)
def ratio(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """g_x = g_y y / x of a function with f(0) = 0 (f'(0) at 0): relevance passes unchanged. Of any other function the derivative."""
    (dy,), spec = dys, spec_of(node)
    if not _has_ratio(node):
        return vjp(op, node, dys)
    assert dy is not None
    assert spec is not None
    near = op.Less(op.Abs(node.x), NEAR[node.x.dtype in HALF])
    slope = op.Where(near, float(spec.origin(node) or 0.0), op.Div(node.y, node.x))
    return node.grads(times(op, node, dy, slope))


def _rest_of_product(op: Emit, node: NodeView) -> Rest:
    """As if one factor alone were active: together the factors take what one of them would."""
    view, others = copy.copy(node), factors_of(node)[1:]
    if node.shares:
        view.wants = tuple(wanted and i not in others for i, wanted in enumerate(node.wants))
    return implicit_bias(op, view)


@rule("uniform", families=("linear", "product"), bias=_rest_of_product)
def uniform(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """g_i = J_i^T g / n at a product of n factors that carry a signal, a chain of products taken as one; with one factor the gradient."""
    parts, wanted = set(node.shares.values()), [i for i, wants in enumerate(node.wants) if wants]
    if len(parts) == 1 and [*node.shares] == wanted and _size(node.y) <= sum(_size(node.input(i)) for i in wanted):
        return vjp(op, node, [op.Mul(dys[0], parts.pop())])
    return [v if v is None or i not in node.shares else op.Mul(v, node.shares[i]) for i, v in enumerate(vjp(op, node, dys))]


def _size(value: Value) -> int:
    """How many elements a tensor has, to tell what is cheaper to scale; a size that only the run knows counts as that of a text."""
    return math.prod(d if isinstance(d, int) else 128 for d in value.shape or ())


@rule("magnitudes", families=("add",))
def magnitudes(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """g_i = g sgn(x_i) y / sum_j |x_j|, so R_i = |x_i| / sum_j |x_j| R; y less what constants add. With one operand the gradient."""
    (dy,), spec, active = dys, spec_of(node), [i for i, wanted in enumerate(node.wants) if wanted]
    if len(active) < 2 or spec is None or spec.roles is None:
        return vjp(op, node, dys)
    assert dy is not None
    rest = kept(op, node)
    own = node.y if rest is None else op.Sub(node.y, rest)
    total = add_up(op, [op.Abs(node.input(i)) for i in active])
    s = over(op, node, times(op, node, dy, own), op.Where(op.Greater(total, 0.0), total, float("inf")))
    sent = {i: unbroadcast(op, op.Mul(s, op.Sign(node.input(i))), node.y, node.input(i)) for i in active}
    return [sent.get(i) for i in range(len(node.proto.input))]


@rule("held", families=("normalization", "recurrent"), bias=held_bias)
def held(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """g_x = J^T g of a normalisation whose statistic (a deviation, a root mean square, a norm) is held constant; its mean is not. Of a
    recurrent layer with its gates constant, and y / a at its other activations.
    """
    return vjp(op, node, dys, held=True)
