"""Running sums and products along one axis."""

from __future__ import annotations

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import cast, mask, ones_like
from onnxsal.ops import edges
from onnxsal.ops.axes import within
from onnxsal.ops.ranges import by_sign, hull, powers
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import Moved, Roles


def _backwards(op: Emit, node: NodeView, t: Value) -> Value:
    """Running sum of ``t`` along the node's axis in the other direction: the adjoint of its running sum."""
    exclusive, reverse = node.attr("exclusive"), node.attr("reverse")
    return op.CumSum(t, node.input(1), exclusive=exclusive, reverse=1 - reverse)


_running = [
    case((2, 3, 4), np.asarray(1)),
    case((2, 3), np.asarray(-1), exclusive=1),
    case((2, 3), np.asarray([0], np.int32), reverse=1),
    case((5,), np.asarray(0), exclusive=1, reverse=1),
]


def _running_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    own = node.ints(1)
    return within(None if own is None else [own[0] % node.x.rank])(node, i, axis, j)


@gradient_of(
    "CumSum",
    family="reduction",
    axes=_running_axes,
    range=by_sign,
    wild=edges.summed,
    bias="zero",
    cases=_running,
    roles=Roles((0,)),
)
def cum_sum(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = the running sum of dy in the other direction."""
    return node.grads(_backwards(op, node, dy))


def _cum_prod_bias(op: Emit, node: NodeView) -> Value:
    """r = (1 - n) y, with n the number of factors of each element."""
    factors = op.CumSum(ones_like(op, node.x), node.input(1), exclusive=node.attr("exclusive"), reverse=node.attr("reverse"))
    return op.Mul(node.y, op.Sub(1.0, factors))


_zeros = np.asarray([[1.5, -2.0, 0.0, 3.0, 0.0, 0.7], [0.0, 2.0, 1.0, -1.0, 0.5, 0.2], [2.0, 1.0, 0.5, -3.0, 1.5, 0.0]])


@gradient_of(
    "CumProd",
    family="reduction",
    axes=_running_axes,
    range=lambda node, of: hull(powers(node, of), (1.0, 1.0)),
    bias=_cum_prod_bias,
    cases=[case(c.inputs[0], c.inputs[1], **c.attributes, opset=26) for c in _running]
    + [case(_zeros, np.asarray(1), exclusive=e, reverse=r, opset=26) for e in (0, 1) for r in (0, 1)],
)
def cum_prod(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_k = sum_i dy_i prod_{j != k} x_j over the products i that x_k is a factor of.

    Before the first zero that is (sum_i dy_i y_i) / x_k; at it, the same sum with its factor set to 1; after it, 0.
    """
    zero = op.Equal(node.x, 0.0)
    seen = op.CumSum(cast(op, zero), node.input(1), reverse=node.attr("reverse"))
    first = op.And(zero, op.Less(seen, 1.5))
    factors = op.Where(first, 1.0, node.x)
    without = op.clone(node, [factors, node.input(1)])
    before = op.Div(_backwards(op, node, op.Mul(dy, node.y)), op.Where(zero, 1.0, node.x))
    at = _backwards(op, node, op.Mul(dy, without))
    return node.grads(op.Where(first, at, mask(op, op.Less(seen, 0.5), before)))
