"""Elementwise functions of one tensor, powers, and the operators that only copy or convert."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxsal.graph import FLOAT8, FLOATS, Emit, NodeView, Value
from onnxsal.graph.helpers import as_compute, mask, recast, signal_type, times, unbroadcast
from onnxsal.ops import edges, squashing
from onnxsal.ops.axes import first_aligned
from onnxsal.ops.places import first
from onnxsal.ops.quantize import inside_range
from onnxsal.ops.ranges import NOT_NEGATIVE, SIGNED_UNIT, at, grid, growing, inverse, largest, magnitude
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import ANY, Edge, Range, RangeOf


@gradient_of(
    "Abs",
    family="elementwise",
    head=squashing.size,
    range=lambda node, of: magnitude(of(0)),
    wild=edges.size,
    bias="zero",
    cases=[case((2, 3, 4), kinks=[0.0])],
)
def absolute(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy sign(x), with sign(0) = 0."""
    return [op.Mul(dy, op.Sign(node.x))]


@gradient_of(
    "Neg",
    family="elementwise",
    head=squashing.negated,
    range=lambda node, of: (-of(0)[1], -of(0)[0]),
    wild=edges.falling,
    bias="zero",
    cases=[case((2, 3, 4))],
)
def negate(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = -dy."""
    return [op.Neg(dy)]


def _exp_bias(op: Emit, node: NodeView) -> Value:
    """r = y (1 - x), and 0 where y is 0: of a masked score x is minus infinity."""
    rest = op.Mul(node.y, op.Sub(1.0, node.x))
    return mask(op, op.Greater(node.y, 0.0), rest) if node.wild else rest


@gradient_of(
    "Exp",
    family="elementwise",
    head=squashing.exp,
    range=growing(np.exp),
    edge=edges.overflowing((1, np.exp)),
    wild=edges.limit,
    bias=_exp_bias,
    cases=[case((2, 3, 4))],
)
def exp(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy y."""
    return [op.Mul(dy, node.y)]


@gradient_of(
    "Log",
    family="elementwise",
    head=squashing.log,
    range=growing(lambda x: np.log(np.maximum(x, 0))),
    edge=edges.domain(0.0, math.inf, Edge.BELOW),
    wild=edges.increasing_from(0.0),
    bias=lambda op, node: op.Sub(node.y, 1.0),
    cases=[case((2, 3, 4), low=0.1)],
)
def log(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / x."""
    return [op.Div(dy, node.x)]


@gradient_of(
    "Sqrt",
    family="elementwise",
    range=growing(lambda x: np.sqrt(np.maximum(x, 0))),
    edge=edges.domain(0.0, math.inf, Edge.STEEP),
    wild=edges.increasing_from(0.0),
    power=lambda node: 0.5,
    bias=lambda op, node: op.Mul(node.y, 0.5),
    cases=[case((2, 3, 4), low=0.1)],
)
def sqrt(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / (2 y); of the root of a sum of squares 0 at 0."""
    return [_of_norm(op, node, node.y, op.Div(op.Mul(dy, 0.5), node.y))]


@gradient_of(
    "Reciprocal",
    family="elementwise",
    head=squashing.reciprocal,
    range=lambda node, of: inverse(of(0)),
    edge=edges.inverse,
    wild=lambda node, wild, of: wild(0) & Edge.NAN,
    power=lambda node: -1.0,
    bias=lambda op, node: op.Mul(node.y, 2.0),
    cases=[case((2, 3), low=0.3), case((3,), high=-0.3)],
)
def reciprocal(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = -dy y^2."""
    return [op.Neg(op.Mul(dy, op.Mul(node.y, node.y)))]


@gradient_of(
    "Erf",
    family="elementwise",
    origin=2 / math.sqrt(math.pi),
    range=SIGNED_UNIT,
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3, 4))],
)
def erf(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy 2 / sqrt(pi) exp(-x^2)."""
    return [op.Mul(dy, op.Mul(op.Exp(op.Neg(op.Mul(node.x, node.x))), 2 / math.sqrt(math.pi)))]


@gradient_of("Sin", family="elementwise", origin=1.0, range=SIGNED_UNIT, bias="symmetric", cases=[case((2, 3, 4))])
def sin(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy cos(x)."""
    return [op.Mul(dy, op.Cos(node.x))]


@gradient_of("Cos", family="elementwise", range=SIGNED_UNIT, bias="symmetric", cases=[case((2, 3, 4))])
def cos(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = -dy sin(x)."""
    return [op.Neg(op.Mul(dy, op.Sin(node.x)))]


@gradient_of(
    "Tan", family="elementwise", origin=1.0, bias="symmetric", cases=[case((2, 3), low=-1.2, high=1.2), case((3,), low=1.8, high=4.5)]
)
def tan(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy (1 + y^2)."""
    return [op.Mul(dy, op.Add(op.Mul(node.y, node.y), 1.0))]


def _arc(op: Emit, x: Value) -> Value:
    """sqrt(1 - x^2), as sqrt((1 - x) (1 + x)): squaring first loses every digit near |x| = 1."""
    return op.Sqrt(op.Mul(op.Sub(1.0, x), op.Add(x, 1.0)))


@gradient_of(
    "Asin",
    family="elementwise",
    origin=1.0,
    range=(-math.pi / 2, math.pi / 2),
    edge=edges.domain(-1.0, 1.0, Edge.STEEP),
    bias="symmetric",
    cases=[case((2, 3, 4), low=-0.95, high=0.95)],
)
def asin(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / sqrt(1 - x^2)."""
    return [op.Div(dy, _arc(op, node.x))]


@gradient_of(
    "Acos",
    family="elementwise",
    range=(0.0, math.pi),
    edge=edges.domain(-1.0, 1.0, Edge.STEEP),
    bias="symmetric",
    cases=[case((2, 3, 4), low=-0.95, high=0.95)],
)
def acos(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = -dy / sqrt(1 - x^2)."""
    return [op.Neg(op.Div(dy, _arc(op, node.x)))]


@gradient_of(
    "Atan", family="elementwise", origin=1.0, range=growing(np.arctan), wild=edges.limit, bias="symmetric", cases=[case((2, 3, 4))]
)
def atan(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / (1 + x^2)."""
    return [op.Div(dy, op.Add(op.Mul(node.x, node.x), 1.0))]


@gradient_of(
    "Sinh",
    family="elementwise",
    origin=1.0,
    range=growing(np.sinh),
    edge=edges.overflowing((0, np.sinh), (1, np.sinh)),
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3, 4))],
)
def sinh(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy cosh(x) = dy (exp(x) + exp(-x)) / 2."""
    return [op.Mul(dy, op.Mul(op.Add(op.Exp(node.x), op.Exp(op.Neg(node.x))), 0.5))]


@gradient_of(
    "Cosh",
    family="elementwise",
    range=(1.0, math.inf),
    edge=edges.overflowing((0, np.cosh), (1, np.cosh)),
    wild=edges.size,
    bias="symmetric",
    cases=[case((2, 3, 4))],
)
def cosh(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy sinh(x) = dy y tanh(x), which keeps its digits near 0."""
    return [op.Mul(dy, op.Mul(node.y, op.Tanh(node.x)))]


@gradient_of(
    "Asinh", family="elementwise", origin=1.0, range=growing(np.arcsinh), wild=edges.limit, bias="symmetric", cases=[case((2, 3, 4))]
)
def asinh(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / sqrt(x^2 + 1)."""
    return [op.Div(dy, op.Sqrt(op.Add(op.Mul(node.x, node.x), 1.0)))]


@gradient_of(
    "Acosh",
    family="elementwise",
    range=NOT_NEGATIVE,
    edge=edges.domain(1.0, math.inf, Edge.STEEP),
    wild=edges.increasing_from(1.0),
    bias="symmetric",
    cases=[case((2, 3, 4), low=1.1, high=4.0)],
)
def acosh(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / sqrt(x^2 - 1)."""
    return [op.Div(dy, op.Sqrt(op.Mul(op.Sub(node.x, 1.0), op.Add(node.x, 1.0))))]


@gradient_of(
    "Atanh",
    family="elementwise",
    origin=1.0,
    edge=edges.domain(-1.0, 1.0, edges.INFINITE),
    bias="symmetric",
    cases=[case((2, 3, 4), low=-0.9, high=0.9)],
)
def atanh(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / (1 - x^2)."""
    return [op.Div(dy, op.Mul(op.Sub(1.0, node.x), op.Add(node.x, 1.0)))]


# ----- powers -----


def _of_norm(op: Emit, node: NodeView, at: Value, sent: Value) -> Value:
    """Of the root of a sum of squares 0 where that is 0 (``at``): the middle of its subgradients, as ReduceL2 has it."""
    return op.Where(op.Equal(at, 0.0), 0.0, sent) if node.norm else sent


def _log_rate(op: Emit, x: Value, b: Value, y: Value) -> Value:
    """d x^b / db = y log(x), and 0 where x = 0 and b >= 0."""
    flat = op.And(op.Equal(x, 0.0), op.GreaterOrEqual(b, 0.0))
    return op.Where(flat, 0.0, op.Mul(y, op.Log(x)))


def _power_slope(op: Emit, x: Value, b: Value, known: np.ndarray | None) -> Value:
    """d x^b / dx = b x^(b - 1), and 0 where b = 0; short where b is one known number."""
    if known is None or known.size != 1:
        return op.Mul(b, op.Where(op.Equal(b, 0.0), 0.0, op.Pow(x, op.Sub(b, 1.0))))
    p = float(known.item())
    if p in (0.0, 1.0):
        return op.const(p)
    return op.Mul(x if p == 2.0 else op.Pow(x, p - 1.0), p)


def _pow_bias(op: Emit, node: NodeView) -> Value | None:
    """y, less b y for the base (x dy/dx = b y), less b dy/db for the exponent."""
    x, b, y = (as_compute(op, v) for v in (node.x, node.input(1), node.y))
    slopes = [y] * node.want(0) + ([_log_rate(op, x, b, y)] if node.want(1) else [])
    rest = y
    for slope in slopes:
        rest = op.Sub(rest, op.Mul(b, slope))
    return rest


def _power_range(node: NodeView, of: RangeOf) -> Range:
    """Of a base that is not negative, or of an even power: never negative, and growing with the base for powers above 0."""
    exponent = node.const(1)
    power = None if exponent is None or exponent.size != 1 else float(exponent.reshape(-1)[0])
    even = power is not None and power > 0 and power % 2 == 0
    base = magnitude(of(0)) if even else of(0)
    if base[0] < 0:
        return ANY
    return growing(lambda x: x**power)(node, lambda i: base) if power is not None and power > 0 else NOT_NEGATIVE


def _slope_at_zero(node: NodeView) -> float | None:
    """Of x^p with a known p of 1 or more: 1 for p = 1, else 0."""
    known = node.const(1)
    p = 0.0 if known is None or known.size != 1 else float(known.item())
    return float(p == 1) if p >= 1 else None


@gradient_of(
    "Pow",
    family="elementwise",
    origin=_slope_at_zero,
    range=_power_range,
    edge=edges.power,
    power=edges.exponent_of,
    bias=_pow_bias,
    cases=[
        case((2, 3, 4), (2, 3, 4), low=0.2, high=2.0),
        case((2, 1, 4), (3, 1), low=0.2, high=2.0),
        case((3, 1), (2, 3, 4), low=0.2, high=2.0),
        *(case((2, 3), p, fixed=[1]) for p in (2.0, 3.0, 1.0, 0.0, -1.0)),
        case((2, 3), 0.5, fixed=[1], low=0.1),
        case((2, 3), np.array([2, 3, 1])),
        case((2, 3), np.array(2, np.int32)),
        case(2.5, (2, 3), fixed=[0]),
    ],
)
def power(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy b x^(b - 1), and 0 at 0 of the root of a sum of squares; db = dy y log(x), and 0 where x = 0 and b >= 0."""
    # the exponent has a type of its own: an integer, or another float type
    x, b, y = (as_compute(op, v) for v in (node.x, node.input(1), node.y))
    dy = recast(op, dy, signal_type(node.y), op.dtype)
    slopes = (
        _of_norm(op, node, x, _power_slope(op, x, b, node.const(1))) if node.want(0) else None,
        _log_rate(op, x, b, y) if node.want(1) else None,
    )
    return [
        None if slope is None else recast(op, unbroadcast(op, times(op, node, dy, slope), node.y, v), op.dtype, signal_type(v))
        for slope, v in zip(slopes, (node.x, node.input(1)), strict=True)
    ]


# ----- copies and conversions -----


@gradient_of(
    "Identity",
    family="movement",
    head=squashing.same,
    keeps="place",
    axes=first_aligned,
    places=first,
    bias="zero",
    cases=[case((2, 3, 4)), case(1.5)],
)
def identity(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy."""
    return [dy]


def _cast_bias(op: Emit, node: NodeView) -> Value | None:
    """The rounding to an 8-bit type; that to half precision counts as none, as everywhere."""
    if node.y.dtype not in FLOAT8 or node.x.dtype in FLOAT8:
        return None
    return op.Sub(as_compute(op, node.y), mask(op, inside_range(op, node.x, node.y.dtype), node.x))


def _cast_range(node: NodeView, of: RangeOf) -> Range:
    """The ends, converted: rounded, cut off, infinite beyond what the type holds."""
    low, high = of(0)
    code = node.y.dtype
    if code in FLOATS:
        most = largest(code)
        return -math.inf if low < -most else low, math.inf if high > most else high
    least, most = grid(code)
    inside = least <= low and high <= most
    return (at(np.trunc, low), at(np.trunc, high)) if inside and code != TensorProto.BOOL else (least, most)


@gradient_of(
    "Cast",
    "CastLike",
    family="movement",
    head=squashing.same,
    axes=first_aligned,
    range=_cast_range,
    keeps="place",
    places=first,
    bias=_cast_bias,
    stops={1: "only its type is read"},
    cases={
        "Cast": [
            replace(
                case((2, 3, 4), to=TensorProto.DOUBLE), static_only="other types than float64 are compared in tests/test_elementwise.py"
            )
        ],
        "CastLike": [case((2, 3, 4), (1,))],
    },
)
def convert(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy between floating-point types and for quantised values; 0 where an 8-bit float saturates."""
    dx = recast(op, dy, signal_type(node.y), signal_type(node.x))
    if node.y.dtype in FLOAT8 and node.x.dtype not in FLOAT8:
        dx = mask(op, inside_range(op, node.x, node.y.dtype), dx)
    return node.grads(dx)
