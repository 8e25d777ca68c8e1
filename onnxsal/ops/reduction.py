"""Reductions over axes: sums, means, norms, products, extremes and the k largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import axes_of, cast, mask, result_seen, shape_of, times, zeros_like
from onnxsal.ops import edges, picks, squashing
from onnxsal.ops.axes import along, reduced
from onnxsal.ops.places import reduced as reduced_places
from onnxsal.ops.ranges import NOT_NEGATIVE, by_sign, powers
from onnxsal.ops.registry import Case, case, gradient_of
from onnxsal.ops.statements import Edge, Roles

# ----- which axes, and how to get them back -----


def _axes(node: NodeView) -> list[int] | None:
    """The reduced axes, ``[]`` where nothing is reduced (noop_with_empty_axes); ``None`` where only the run knows them."""
    rank = node.x.rank
    axes = axes_of(node, rank, 1)
    if axes is None and node.optional(1) is not None:
        return None
    if axes:
        return sorted(axes)
    return [] if node.attr("noop_with_empty_axes") else list(range(rank))


def _keep(op: Emit, node: NodeView, t: Value) -> Value:
    """``t``, shaped like y, with the reduced axes back as size 1, so that it broadcasts against x.

    Axes given at run time may be empty: then y is a scalar or (noop) shaped like x, and Unsqueeze of no axes is right for both.
    """
    axes = _axes(node)
    if node.attr("keepdims") or axes == []:
        return t
    return op.Unsqueeze(t, node.input(1) if axes is None else axes)


def _spread(op: Emit, node: NodeView, t: Value) -> Value:
    """``t``, shaped like y, repeated along the reduced axes: the adjoint of the sum."""
    axes = _axes(node)
    kept = _keep(op, node, t)
    if axes is not None and all(node.x.dim(a) == 1 for a in axes):
        return kept
    return op.Expand(kept, shape_of(op, node.x))


def _sum(op: Emit, node: NodeView, t: Value, keepdims: int = 1) -> Value:
    """Sum of ``t``, shaped like x, over the axes that the node reduces."""
    axes = _axes(node)
    if axes == []:
        return t
    noop = node.attr("noop_with_empty_axes") if axes is None else None
    return op.ReduceSum(t, node.input(1) if axes is None else axes, keepdims=keepdims, noop_with_empty_axes=noop)


def _count(op: Emit, node: NodeView) -> Value | float:
    """How many elements each result is made of, as a float."""
    axes = _axes(node)
    sizes = None if axes is None else [node.x.dim(a) for a in axes]
    if sizes is not None and None not in sizes:
        return float(math.prod(s for s in sizes if s is not None))
    return cast(op, op.Div(op.Size(op.raw(node.x)), op.Max(op.Size(op.raw(node.y)), 1)))


def _cases(*more: Case, **drawn: float | Sequence[float]) -> list[Case]:
    """What every reduction is tried on; ``drawn`` says from where its numbers come."""

    def ints(*values: int) -> np.ndarray:
        return np.asarray(values, np.int64)

    given: dict[str, Any] = dict(drawn)
    return [
        case((2, 3, 4), ints(1), **given),
        case((2, 3, 4), ints(-1, 0), keepdims=0, **given),
        case((2, 3), keepdims=0, **given),
        case((2, 3), keepdims=1, **given),
        case((2, 3), ints(), keepdims=0, **given),
        case((2, 3), ints(), noop_with_empty_axes=1, keepdims=0, **given),
        case((2, 3), noop_with_empty_axes=1, **given),
        case((2, 1, 3), ints(1), keepdims=0, **given),
        case((2, 3), ints(1), noop_with_empty_axes=1, keepdims=0, **given),
        case((), keepdims=0, **given),
        *more,
    ]


# ----- sums and means -----


@gradient_of(
    "ReduceSum",
    family="reduction",
    head=squashing.sum_,
    axes=reduced,
    places=reduced_places,
    range=by_sign,
    wild=edges.summed,
    bias="zero",
    cases=_cases(),
    roles=Roles((0,)),
)
def reduce_sum(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy, repeated along the reduced axes."""
    return node.grads(_spread(op, node, dy))


@gradient_of("ReduceMean", family="average_pool", axes=reduced, places=reduced_places, bias="zero", cases=_cases())
def reduce_mean(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / n, repeated along the reduced axes of n elements."""
    return node.grads(_spread(op, node, op.Div(dy, _count(op, node))))


@gradient_of(
    "ReduceSumSquare",
    family="reduction",
    axes=reduced,
    places=reduced_places,
    range=NOT_NEGATIVE,
    wild=edges.size,
    power=lambda node: 2.0,
    bias=lambda op, node: op.Neg(node.y),
    cases=_cases(),
)
def reduce_sum_square(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = 2 x dy."""
    return node.grads(op.Mul(node.x, _keep(op, node, op.Mul(dy, 2.0))))


@gradient_of(
    "ReduceL1",
    family="reduction",
    axes=reduced,
    places=reduced_places,
    range=NOT_NEGATIVE,
    wild=edges.size,
    bias="zero",
    cases=_cases(kinks=[0.0]),
)
def reduce_l1(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = sign(x) dy."""
    return node.grads(op.Mul(op.Sign(node.x), _keep(op, node, dy)))


@gradient_of(
    "ReduceL2",
    family="reduction",
    axes=reduced,
    places=reduced_places,
    range=NOT_NEGATIVE,
    wild=edges.size,
    bias="zero",
    cases=_cases(kinks=[0.0]),
)
def reduce_l2(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = x dy / y; the derivative at x = 0, y = 0 is 0."""
    ratio = mask(op, op.Greater(node.y, 0.0), op.Div(dy, node.y))
    return node.grads(op.Mul(node.x, _keep(op, node, ratio)))


@gradient_of(
    "ReduceLogSum",
    family="reduction",
    head=squashing.log_sum,
    axes=reduced,
    places=reduced_places,
    edge=edges.domain(0.0, math.inf, Edge.BELOW),
    wild=edges.increasing_from(0.0),
    bias=lambda op, node: op.Sub(node.y, 1.0),
    cases=_cases(low=0.5, high=2.0),
)
def reduce_log_sum(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / sum(x) = dy / exp(y)."""
    return node.grads(_spread(op, node, op.Div(dy, op.Exp(node.y))))


def _weights(op: Emit, node: NodeView) -> Value:
    """exp(x) / sum(exp(x)): the derivative of the log-sum-exp. Far from 0, y is so rounded that exp(x - y) alone does not sum to 1."""
    share = op.Exp(op.Sub(node.x, _keep(op, node, node.y)))
    return op.Div(share, _sum(op, node, share))


def _log_sum_exp_bias(op: Emit, node: NodeView) -> Value:
    """r = y - sum(p x) = sum(p (y - x)), which no offset of all elements changes. Those with p = 0 are left out: x may be -inf there."""
    p = _weights(op, node)
    below = op.Sub(_keep(op, node, node.y), node.x)
    return _sum(op, node, mask(op, op.Greater(p, 0.0), op.Mul(p, below)), node.attr("keepdims"))


@gradient_of(
    "ReduceLogSumExp",
    family="reduction",
    head=squashing.log_sum_exp,
    axes=reduced,
    places=reduced_places,
    range=lambda node, of: (of(0)[0], math.inf),
    wild=edges.by_weight,
    bias=_log_sum_exp_bias,
    cases=_cases(),
)
def reduce_log_sum_exp(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy exp(x - y) / sum(exp(x - y))."""
    return node.grads(times(op, node, _keep(op, node, dy), _weights(op, node)))


def _reduce_prod_bias(op: Emit, node: NodeView) -> Value:
    """r = (1 - n) y: a product of n elements is homogeneous of degree n."""
    count = _count(op, node)
    return op.Mul(node.y, 1.0 - count if isinstance(count, float) else op.Sub(1.0, count))


@gradient_of(
    "ReduceProd",
    family="reduction",
    axes=reduced,
    range=powers,
    places=reduced_places,
    bias=_reduce_prod_bias,
    cases=_cases(
        case(np.asarray([[1.5, 0.0, -2.0], [0.0, 0.0, 3.0], [2.0, 0.5, -1.0]]), np.asarray([1]), keepdims=0),
        case(np.asarray([[1.5, 0.0], [4.0, -2.0]])),
    ),
)
def reduce_prod(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_i = dy prod_{j != i} x_j: (product of the non-zero others) where no other element is 0, else 0."""
    zero = op.Equal(node.x, 0.0)
    factors = op.Where(zero, 1.0, node.x)
    count = cast(op, zero)
    others_zero = op.Greater(_sum(op, node, count), count)
    operands = [factors, *node.inputs[1:]]
    rest = op.Div(op.clone(node, operands, keepdims=1), factors)
    return node.grads(op.Where(others_zero, 0.0, times(op, node, _keep(op, node, dy), rest)))


# ----- extremes -----


@gradient_of(
    "ReduceMax",
    "ReduceMin",
    family="max_pool",
    head={"ReduceMax": squashing.largest},
    picks={"ReduceMax": picks.largest},
    wild=lambda node, wild, of: (edges.largest_of if node.op_type == "ReduceMax" else edges.smallest_of)(node, wild, of),
    axes=reduced,
    places=reduced_places,
    bias="zero",
    cases=_cases(case(np.asarray([[2.0, -1.0, 0.5], [-3.0, 1.0, 4.0]]), np.asarray([1]), keepdims=0)),
)
def reduce_extreme(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / (number of elements equal to y) where x = y, else 0: ties share equally."""
    hit = op.Equal(node.x, _keep(op, node, result_seen(op, node)))
    share = op.Div(_keep(op, node, dy), _sum(op, node, cast(op, hit)))
    return node.grads(mask(op, hit, share))


@gradient_of(
    "TopK",
    family="max_pool",
    axes=along(),
    picks=picks.best,
    compares=0,
    bias="zero",
    cases=[
        case((3, 5), np.asarray([2]), outputs=2),
        case((2, 5, 3), np.asarray([3]), axis=1, largest=0, outputs=2),
        case((4, 2), np.asarray([2]), axis=-2, sorted=0, outputs=2),
        case((4,), np.asarray([4]), outputs=2),
    ],
)
def top_k(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy put back at the indices of the chosen elements, 0 elsewhere."""
    return node.grads(op.ScatterElements(zeros_like(op, node.x), node.output(1), dy, axis=node.attr("axis")))
