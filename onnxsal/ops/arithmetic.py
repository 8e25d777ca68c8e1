"""Arithmetic on several tensors with broadcasting: sums, products, choices, remainders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import cast, is_zero, mask, over, result_seen, times, unbroadcast
from onnxsal.ops import edges, squashing
from onnxsal.ops.axes import nowhere
from onnxsal.ops.ranges import hull, inverse, magnitude, product, sum_of
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.squashing import Kind, Squashed, SquashedOf
from onnxsal.ops.statements import Range, RangeOf, Roles, Scaling

PAIRS = [
    case((2, 3, 4), (2, 3, 4)),
    case((2, 3, 4), (3, 1)),
    case((4,), (2, 3, 4)),
    case((2, 1, 4), (3, 1)),
    case((2, 3), ()),
    case((2, 3), (1, 3), fixed=[1]),
]
MANY = [case((2, 3)), case((2, 3, 4), (4,), (3, 1)), case((1, 3), (2, 1), fixed=[1]), case((2,), (2,), (), (2,))]


def _back(op: Emit, node: NodeView, signals: list[Value | None]) -> list[Value | None]:
    """Signals in the shape of y, brought back to the shapes of the inputs."""
    return [None if g is None else unbroadcast(op, g, node.y, node.input(i)) for i, g in enumerate(signals)]


def _passive(op: Emit, node: NodeView) -> Value | None:
    """The sum of the inputs that are not active."""
    rest: list[Value] = [node.input(i) for i in range(len(node.inputs)) if not node.want(i)]
    return reduce(op.Add, rest) if rest else None


# ----- sums -----


def _added(op: Any, node: NodeView, given: Sequence[Any], i: int) -> tuple[Any, Any]:
    """The sum of the other operands."""
    rest = [v for k, v in enumerate(given) if k != i]
    return None, reduce(op.Add, rest) if rest else None


def _sum_range(node: NodeView, of: RangeOf) -> Range:
    return sum_of([of(i) for i in range(len(node.inputs))])


@gradient_of(
    "Add",
    "Sum",
    family="add",
    head=squashing.add,
    range=_sum_range,
    wild=edges.summed,
    roles=Roles(None),
    bias=_passive,
    cases={"Add": PAIRS, "Sum": MANY},
    scaling=Scaling(_added),
)
def add(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_i = dy, summed over the axes that x_i is stretched along."""
    return _back(op, node, [dy if wanted else None for wanted in node.wants])


def _sub_bias(op: Emit, node: NodeView) -> Value | None:
    """The operand that is not active, with its sign."""
    if all(node.wants):
        return None
    return op.Neg(node.input(1)) if node.want(0) else node.x


def _difference_range(node: NodeView, of: RangeOf) -> Range:
    return of(0)[0] - of(1)[1], of(0)[1] - of(1)[0]


@gradient_of(
    "Sub",
    family="add",
    head=squashing.subtract,
    range=_difference_range,
    wild=edges.difference,
    roles=Roles(None, negated=(1,)),
    bias=_sub_bias,
    cases=PAIRS,
    scaling=Scaling(lambda op, node, v, i: (-1.0, v[0]) if i else (None, op.Neg(v[1]))),
)
def subtract(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """da = dy; db = -dy."""
    return _back(op, node, [dy if node.want(0) else None, op.Neg(dy) if node.want(1) else None])


def _mean_bias(op: Emit, node: NodeView) -> Value | None:
    rest = _passive(op, node)
    return None if rest is None else op.Mul(rest, 1.0 / len(node.inputs))


def _mean_range(node: NodeView, of: RangeOf) -> Range:
    low, high = _sum_range(node, of)
    return low / len(node.inputs), high / len(node.inputs)


@gradient_of(
    "Mean",
    family="add",
    range=_mean_range,
    wild=edges.summed,
    roles=Roles(None),
    bias=_mean_bias,
    cases=[*MANY[:2], case((2, 3), (2, 1), fixed=[1])],
)
def mean(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_i = dy / n."""
    share = dy if len(node.inputs) == 1 else op.Mul(dy, 1.0 / len(node.inputs))
    return _back(op, node, [share if wanted else None for wanted in node.wants])


def _range_bias(op: Emit, node: NodeView) -> Value | None:
    """y = start + i delta, less the active part."""
    if node.want(0) and node.want(2):
        return None
    return op.Sub(node.y, node.x) if node.want(0) else node.x


@gradient_of(
    "Range",
    family="add",
    axes=nowhere,
    bias=_range_bias,
    stops={1: "the limit decides only how many elements there are"},
    cases=[case(0.5, 4.6, 0.6), case(3.0, -1.3, -0.7), case(0.5, 4.6, 0.6, fixed=[1, 2])],
)
def arange(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dstart = sum_i dy_i; ddelta = sum_i i dy_i."""
    start = op.ReduceSum(dy, keepdims=0) if node.want(0) else None
    if not node.want(2):
        return [start, None, None]
    size = op.Squeeze(op.Shape(op.raw(node.y)), [0])
    return [start, None, op.ReduceSum(op.Mul(dy, cast(op, op.Range(0, size, 1))), keepdims=0)]


# ----- products -----


def _product_range(node: NodeView, of: RangeOf) -> Range:
    """The product of two ranges; of a tensor with itself never negative."""
    a = of(0)
    if node.x.name != node.input(1).name:
        return product(a, of(1))
    ends = magnitude(a)
    return ends[0] ** 2, ends[1] ** 2


@gradient_of(
    "Mul",
    family="product",
    head=squashing.multiply,
    range=_product_range,
    wild=edges.times,
    power=lambda node: 2.0 if node.x.name == node.input(1).name else 1.0,
    bias="product",
    cases=PAIRS,
    roles=Roles((0, 1)),
    scaling=Scaling(lambda op, node, v, i: (v[1 - i], None)),
)
def multiply(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """da = dy b; db = dy a."""
    return _back(op, node, [times(op, node, dy, node.input(1 - i)) if node.want(i) else None for i in (0, 1)])


def _div_bias(op: Emit, node: NodeView) -> Value | None:
    """y is homogeneous of degree 1 in a and -1 in b."""
    if not node.want(1):
        return None
    return node.y if node.want(0) else op.Mul(node.y, 2.0)


DIVIDED = [
    case((2, 3, 4), (2, 3, 4), low=0.3),
    case((2, 3, 4), (3, 1), low=0.3),
    case((4,), (2, 3, 4), low=0.3),
    case((2, 3), (), high=-0.3),
]


def _quotient_range(node: NodeView, of: RangeOf) -> Range:
    return product(of(0), inverse(of(1)))


@gradient_of(
    "Div",
    family="product",
    head=squashing.divide,
    range=_quotient_range,
    edge=edges.quotient,
    wild=edges.divided,
    bias=_div_bias,
    cases=DIVIDED,
    roles=Roles((0,), divisors=(1,)),
    scaling=Scaling(lambda op, node, v, i: (op.Reciprocal(v[1]), None), of=(0,)),
)
def divide(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """da = dy / b; db = -dy y / b."""
    da = over(op, node, dy, node.input(1))
    return _back(op, node, [da if node.want(0) else None, op.Neg(times(op, node, da, node.y)) if node.want(1) else None])


def _mod_bias(op: Emit, node: NodeView) -> Value | None:
    """y = a - q b with a constant q: y less the active part."""
    if all(node.wants):
        return None
    return op.Sub(node.y, node.x) if node.want(0) else node.x


@gradient_of(
    "Mod",
    family="select",
    edge=edges.remainder,
    bias=_mod_bias,
    cases=[
        case(np.array([[4.3, -4.3, 7.1], [5.2, -5.2, 0.4]]), np.array([2.1, 2.1, -3.0]), fmod=1),
        case(np.array([4.3, -4.3]), np.array([[1.5], [-1.1]]), fmod=1),
    ],
)
def modulo(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """da = dy; db = -dy q, where q = (a - y) / b is the integer quotient, truncated (fmod) or floored."""
    db = None
    if node.want(1):
        quotient = op.Round(op.Div(op.Sub(node.x, node.y), node.input(1)))
        db = op.Neg(times(op, node, dy, quotient))
    return _back(op, node, [dy if node.want(0) else None, db])


# ----- choices -----


def _chosen(op: Emit, node: NodeView) -> list[Value]:
    """For each input, where it is the result."""
    y = result_seen(op, node)
    return [op.Equal(node.input(i), y) for i in range(len(node.inputs))]


def _choice_bias(op: Emit, node: NodeView) -> Value | None:
    """The elements of y that no active input decides; where some of the tied inputs are active, their part of it."""
    if all(node.wants):
        return None
    chosen = [cast(op, c) for c in _chosen(op, node)]
    passive = reduce(op.Add, [c for i, c in enumerate(chosen) if not node.want(i)])
    return op.Mul(node.y, op.Div(passive, reduce(op.Add, chosen)))


CHOICES = [*PAIRS, case((2, 3)), case((2, 3, 4), (4,), (3, 1)), case((2,), (2,), (), (2,), fixed=[2])]


def _extreme_range(node: NodeView, of: RangeOf) -> Range:
    pick = max if node.op_type == "Max" else min
    parts = [of(i) for i in range(len(node.inputs))]
    return pick(p[0] for p in parts), pick(p[1] for p in parts)


def _is_cut_at_zero(node: NodeView, of: RangeOf) -> bool:
    return node.op_type == "Max" and any(is_zero(node.const(i)) for i in range(len(node.inputs)))


@gradient_of(
    "Max",
    "Min",
    family="select",
    rectifies=_is_cut_at_zero,
    range=_extreme_range,
    wild=lambda node, wild, of: (edges.largest_of if node.op_type == "Max" else edges.smallest_of)(node, wild, of),
    bias=_choice_bias,
    cases={"Max": CHOICES, "Min": CHOICES},
)
def extremum(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_i = dy / k where x_i = y, else 0; k is the number of inputs that are equal to y there."""
    if len(node.inputs) == 1:
        return [dy]
    # equal shares as in torch.maximum: the operands commute, so must their derivatives; the shares add up to dy
    chosen = _chosen(op, node)
    share = op.Div(dy, reduce(op.Add, [cast(op, c) for c in chosen]))
    return _back(op, node, [mask(op, c, share) if node.want(i) else None for i, c in enumerate(chosen)])


def _where_bias(op: Emit, node: NodeView) -> Value | None:
    """The elements chosen from the branch that is not active."""
    if node.want(1) and node.want(2):
        return None
    return op.Where(node.x, 0.0 if node.want(1) else node.input(1), 0.0 if node.want(2) else node.input(2))


CONDITION = np.array([[True, False, True], [False, False, True]])


def _one_anyway(node: NodeView, of: SquashedOf) -> Squashed | None:
    """What a tensor says about scores that is 1, or the sum of a softmax, which is 1 anyway."""
    for number, other in ((1, 2), (2, 1)):
        fact, value = of(other), node.const(number)
        if fact is not None and fact.kind == Kind.ONE and value is not None and value.size == 1 and value.reshape(-1)[0] == 1:
            return fact if node.input(other).shape == node.y.shape else None
    return None


@gradient_of(
    "Where",
    family="select",
    head=_one_anyway,
    range=lambda node, of: hull(of(1), of(2)),
    bias=_where_bias,
    cases=[
        case(CONDITION, (2, 3), (2, 3)),
        case(CONDITION, (2, 3), 0.0, fixed=[2]),
        case(CONDITION[:, :1], (3,), (2, 1)),
        case(np.array(True), (2, 3), (3,)),
        case(CONDITION, (4, 1, 3), ()),
    ],
)
def where(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """da = dy where the condition holds, else 0; db the other way round."""
    first = mask(op, node.x, dy) if node.want(1) else None
    second = mask(op, op.Not(node.x), dy) if node.want(2) else None
    return _back(op, node, [None, first, second])
