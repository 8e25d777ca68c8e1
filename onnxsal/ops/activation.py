"""Activations: elementwise non-linearities that end a layer. Derivatives at kinks are those of PyTorch."""

from __future__ import annotations

import math

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.forms import masks
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import is_zero, mask, result_seen, times, unbroadcast
from onnxsal.ops import edges, squashing
from onnxsal.ops.ranges import SIGNED_UNIT, UNIT, ZERO, at, bent, growing, hull, product
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import ANY, Range, RangeOf


@gradient_of(
    "Relu",
    family="activation",
    rectifies=lambda node, of: True,
    range=growing(lambda x: np.maximum(x, 0)),
    wild=edges.limit,
    bias="zero",
    cases=[case((2, 3, 4), kinks=[0.0])],
)
def relu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where y > 0, else 0; the derivative at x = 0 is 0."""
    return [masks.where_positive(op, node, node.y, dy)]


def _leaky_range(node: NodeView, of: RangeOf) -> Range:
    alpha = float(node.attr("alpha"))
    return (at(lambda x: max(x, alpha * x), of(0)[0]), max(of(0)[1], alpha * of(0)[1])) if 0 <= alpha <= 1 else ANY


@gradient_of(
    "LeakyRelu",
    family="activation",
    range=_leaky_range,
    bias="zero",
    cases=[case((2, 3, 4), kinks=[0.0]), case((2, 3), alpha=0.3, kinks=[0.0]), case((2, 3), alpha=-0.5, kinks=[0.0])],
)
def leaky_relu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where x > 0, else alpha dy."""
    alpha = float(node.attr("alpha"))
    # x and y have the same sign, and reading y alone leaves the activation fused into the convolution before it
    sign = node.y if alpha >= 0 else node.x
    return [masks.leaky(op, node, sign, dy, alpha)]


def _prelu_bias(op: Emit, node: NodeView) -> Value | None:
    """y is homogeneous in x; in the slope it is affine, with offset max(x, 0)."""
    if not node.want(1):
        return None
    positive = op.Relu(node.x)
    return op.Sub(positive, node.y) if node.want(0) else positive


def _check_slope(node: NodeView) -> None:
    """The standard stretches the slope to x. ONNX Runtime stretches x too; shape inference then states a wrong shape for y."""
    x, slope = node.x.static, node.input(1).static
    if x is None or slope is None:
        return
    if len(slope) > len(x) or any(s not in (1, d) for s, d in zip(slope[::-1], x[::-1], strict=False)):
        raise UnsupportedError(
            f"{node.label}: its slope of shape {list(slope)} does not stretch to x of shape {list(x)}, as the standard asks. "
            "Give x the larger shape, by an Expand before this node."
        )


def _prelu_range(node: NodeView, of: RangeOf) -> Range:
    """Above 0 it is x; below, x times the slope."""
    (low, high), slope = of(0), of(1)
    return of(0) if low >= 0 else hull(product((low, min(high, 0.0)), slope), (max(low, 0.0), max(high, 0.0)))


@gradient_of(
    "PRelu",
    family="activation",
    range=_prelu_range,
    trained=(1,),
    bias=_prelu_bias,
    cases=[case((2, 3, 4), (3, 1), kinks=[0.0]), case((2, 3), (), kinks=[0.0]), case((2, 3, 2), (2, 3, 2), kinks=[0.0])],
)
def prelu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where x > 0, else slope dy; dslope = x dy where x < 0, summed over the axes the slope is stretched along."""
    _check_slope(node)
    dx = op.Where(op.Greater(node.x, 0.0), dy, op.Mul(dy, node.input(1))) if node.want(0) else None
    if not node.want(1):
        return [dx, None]
    return [dx, unbroadcast(op, mask(op, op.Less(node.x, 0.0), times(op, node, dy, node.x)), node.y, node.input(1))]


def _exponential_unit(op: Emit, node: NodeView, dy: Value, above: float, scale: float, rate: float) -> list[Value | None]:
    """dx = above dy where x > 0, else scale exp(rate x) dy."""
    x = node.x if rate == 1.0 else op.Mul(node.x, rate)
    slope = op.Exp(x)
    below = op.Mul(dy, slope if scale == 1.0 else op.Mul(slope, scale))
    return [op.Where(op.Greater(node.x, 0.0), dy if above == 1.0 else op.Mul(dy, above), below)]


def _elu_range(node: NodeView, of: RangeOf) -> Range:
    """gamma x above 0, gamma alpha (exp(x) - 1) below: growing where alpha and gamma are positive."""
    alpha, gamma = float(node.attr("alpha")), float(node.attr("gamma") or 1.0)
    return growing(lambda x: gamma * (x if x > 0 else alpha * np.expm1(x)))(node, of) if alpha >= 0 and gamma >= 0 else ANY


@gradient_of(
    "Elu",
    family="activation",
    origin=1.0,
    range=_elu_range,
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3, 4), kinks=[0.0]), case((2, 3), alpha=0.3, kinks=[0.0])],
)
def elu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where x > 0, else alpha exp(x) dy."""
    return _exponential_unit(op, node, dy, 1.0, float(node.attr("alpha")), 1.0)


@gradient_of(
    "Selu",
    family="activation",
    origin=lambda node: float(node.attr("gamma")),
    range=_elu_range,
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3), kinks=[0.0]), case((2, 3), alpha=2.0, gamma=3.0, kinks=[0.0])],
)
def selu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = gamma dy where x > 0, else gamma alpha exp(x) dy."""
    gamma = float(node.attr("gamma"))
    return _exponential_unit(op, node, dy, gamma, gamma * float(node.attr("alpha")), 1.0)


def _celu_range(node: NodeView, of: RangeOf) -> Range:
    alpha = float(node.attr("alpha"))
    return growing(lambda x: x if x > 0 else alpha * np.expm1(x / alpha))(node, of) if alpha > 0 else ANY


@gradient_of(
    "Celu",
    family="activation",
    origin=1.0,
    range=_celu_range,
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3, 4)), case((2, 3), alpha=0.4), case((2, 3), alpha=3.0)],
)
def celu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where x > 0, else exp(x / alpha) dy."""
    return _exponential_unit(op, node, dy, 1.0, 1.0, 1.0 / float(node.attr("alpha")))


def _clip_bias(op: Emit, node: NodeView) -> Value | None:
    """The elements of y that no active input decides."""
    held = op.Not(_passes(op, node)) if node.want(0) else None
    for i, hit in zip((1, 2), _clipped(op, node), strict=True):
        if node.want(i):
            held = op.Not(hit) if held is None else op.And(held, op.Not(hit))
    if held is None:
        return None
    rest, alone = mask(op, held, node.y), node.wants == (True, False, False)
    return masks.keeps_top(op, node, node.y, 6.0, rest) if alone and _is_relu6(node) else rest


def _is_relu6(node: NodeView) -> bool:
    """Whether a Clip is what a ReLU6 is exported as: its bounds are the constants 0 and 6."""
    low, high = node.const(1), node.const(2)
    return is_zero(low) and high is not None and high.size > 0 and bool(np.all(high == 6))


def _passes(op: Emit, node: NodeView) -> Value:
    """Where a signal goes through a Clip: inside its closed interval, as through torch.clamp; through a ReLU6 not at its ends, as in
    PyTorch and TensorFlow."""
    return op.cached(("passes", node.x.name, node.y.name), lambda: _between(op, node.y) if _is_relu6(node) else _inside(op, node))


def _inside(op: Emit, node: NodeView) -> Value:
    """Where min <= x <= max, whichever bounds there are: there x equals y."""
    return op.Equal(node.x, result_seen(op, node))


def _between(op: Emit, y: Value) -> Value:
    """Where 0 < y < 6, asked of y alone: then nobody else needs x, and the activation stays fused into the convolution before it.

    That y stays as it is between the smallest and the largest number inside takes 2 % of a network's time less than two comparisons.
    """
    tiny, below_six = np.finfo(op.np_dtype).tiny, np.nextafter(op.np_dtype.type(6), op.np_dtype.type(0))
    return op.Equal(op.Clip(y, float(tiny), float(below_six)), y)


def _clipped(op: Emit, node: NodeView) -> tuple[Value | None, Value | None]:
    """Where x lies below the minimum and above the maximum. A maximum below the minimum takes every element."""
    low, high = node.optional(1), node.optional(2)
    below = None if low is None else op.Less(node.x, low)
    above = None if high is None else op.Greater(node.x, high)
    if below is not None and above is not None:
        crossed = op.Less(high, low)
        below, above = op.And(below, op.Not(crossed)), op.Or(above, crossed)
    return below, above


def _slope_at_zero(node: NodeView) -> float | None:
    """Of a Clip whose constant ends have 0 between them: 1, and 0 where 0 is an end."""
    low, high = (np.asarray(fallback) if node.optional(i) is None else node.const(i) for i, fallback in ((1, -1.0), (2, 1.0)))
    if low is None or high is None or low.size != 1 or high.size != 1 or not low <= 0 <= high:
        return None
    return float(low < 0 < high)


def _clip_range(node: NodeView, of: RangeOf) -> Range:
    low, high = of(0)
    least = of(1)[0] if node.optional(1) is not None else -math.inf
    most = of(2)[1] if node.optional(2) is not None else math.inf
    return min(max(low, least), most), min(max(high, least), most)


@gradient_of(
    "Clip",
    family="activation",
    origin=_slope_at_zero,
    head=squashing.clipped,
    rectifies=lambda node, of: is_zero(node.const(1)),
    range=_clip_range,
    wild=edges.limit,
    bias=_clip_bias,
    cases=[
        case((2, 3, 4), -0.5, 1.0, kinks=[-0.5, 1.0]),
        case((2, 3), -0.5, kinks=[-0.5]),
        case((2, 3), None, 0.5, kinks=[0.5]),
        case((2, 3)),
        case((2, 3), 1.0, -0.5, kinks=[1.0, -0.5]),
        case((2, 3), -0.5, 1.0, fixed=[1, 2], kinks=[-0.5, 1.0]),
        case((3, 4), 0.0, 6.0, fixed=[1, 2], low=-4.0, high=10.0, kinks=[0.0, 6.0]),
    ],
)
def clip(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where min <= x <= max (a ReLU6, from 0 to 6: where 0 < x < 6), else 0; dmin, dmax: the sums of dy over what they hold."""
    dx = None
    if node.want(0):
        dx = masks.where_inside(op, node, node.y, dy, 6.0) if _is_relu6(node) else None
        dx = mask(op, _passes(op, node), dy) if dx is None else dx
    if not (node.want(1) or node.want(2)):
        return node.grads(dx)
    low, high = (
        op.ReduceSum(mask(op, hit, dy), keepdims=0) if hit is not None and node.want(i) else None
        for i, hit in zip((1, 2), _clipped(op, node), strict=True)
    )
    return node.grads(dx, low, high)


@gradient_of(
    "Sigmoid",
    family="activation",
    head=squashing.sigmoid,
    range=UNIT,
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3, 4), low=-4, high=4)],
)
def sigmoid(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy y (1 - y)."""
    return [op.Mul(dy, op.Mul(node.y, masks.complement(op, node.y, node.y)))]


@gradient_of(
    "HardSigmoid",
    family="activation",
    range=UNIT,
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3, 4), low=-4, high=4, kinks=[-2.5, 2.5]), case((2, 3), alpha=0.5, beta=0.6, kinks=[-1.2, 0.8])],
)
def hard_sigmoid(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = alpha dy where 0 < y < 1, else 0."""
    scaled = op.Mul(dy, float(node.attr("alpha")))
    inside = masks.where_inside(op, node, node.y, scaled, 1.0)
    return [mask(op, op.And(op.Greater(node.y, 0.0), op.Less(node.y, 1.0)), scaled) if inside is None else inside]


@gradient_of(
    "HardSwish",
    family="activation",
    origin=0.5,
    range=bent(-0.375),
    bias="symmetric",
    cases=[case((3, 3, 4), low=-4, high=4, kinks=[-3.0, 3.0])],
)
def hard_swish(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = (x / 3 + 1/2) dy where |x| < 3, dy above, 0 below."""
    return [masks.hard_swish(op, node, node.x, dy)]


@gradient_of(
    "Tanh",
    family="activation",
    origin=1.0,
    head=squashing.tanh,
    range=growing(np.tanh),
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3, 4))],
)
def tanh(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy (1 - y^2)."""
    return [op.Mul(dy, masks.complement(op, op.Mul(node.y, node.y), node.y))]


@gradient_of(
    "Softplus",
    family="activation",
    head=squashing.softplus,
    range=growing(lambda x: np.logaddexp(x, 0)),
    wild=edges.limit,
    bias="symmetric",
    cases=[case((2, 3), low=-4, high=4)],
)
def softplus(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy sigmoid(x)."""
    return [op.Mul(dy, op.Sigmoid(node.x))]


@gradient_of("Softsign", family="activation", origin=1.0, range=SIGNED_UNIT, bias="symmetric", cases=[case((2, 3, 4), kinks=[0.0])])
def softsign(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / (1 + |x|)^2."""
    base = op.Add(op.Abs(node.x), 1.0)
    return [op.Div(op.Div(dy, base), base)]


@gradient_of(
    "Gelu",
    family="activation",
    origin=0.5,
    range=bent(-0.1701),
    bias="symmetric",
    cases=[
        case((2, 3, 4), opset=20),
        case((2, 3, 4), opset=20, approximate="tanh"),
        case((2, 3), opset=20, low=-30, high=30, approximate="tanh"),
    ],
)
def gelu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy (Phi(x) + x phi(x)); with approximate="tanh", Phi(x) = (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2."""
    slope = _gelu_tanh(op, node.x) if node.attr("approximate") == "tanh" else _gelu_erf(op, node.x)
    return [op.Mul(dy, slope)]


def _gelu_erf(op: Emit, x: Value) -> Value:
    density = op.Mul(op.Exp(op.Mul(op.Mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return op.Add(op.Mul(op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0), 0.5), op.Mul(x, density))


def _gelu_tanh(op: Emit, x: Value) -> Value:
    # beyond 10 the tanh is +-1 to the last bit, so the slope is constant; unclipped, x^3 overflows to 0 * inf
    x = op.Clip(x, -10.0, 10.0)
    k = math.sqrt(2 / math.pi)
    square = op.Mul(x, x)
    t = op.Tanh(op.Mul(x, op.Add(op.Mul(square, 0.044715 * k), k)))
    inner = op.Mul(x, op.Add(op.Mul(square, 3 * 0.044715 * k), k))
    return op.Mul(op.Add(op.Add(t, 1.0), op.Mul(inner, op.Sub(1.0, op.Mul(t, t)))), 0.5)


@gradient_of(
    "Mish", family="activation", origin=0.6, range=bent(-0.3089), bias="symmetric", cases=[case((2, 3, 4)), case((2, 3), low=-30, high=30)]
)
def mish(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy (t + x (1 - t^2) sigmoid(x)), t = tanh(softplus(x))."""
    t = op.Tanh(op.Softplus(node.x))
    bend = op.Mul(op.Mul(node.x, op.Sigmoid(node.x)), op.Sub(1.0, op.Mul(t, t)))
    return [op.Mul(dy, op.Add(t, bend))]


def _swish_range(node: NodeView, of: RangeOf) -> Range:
    """x sigmoid(alpha x) is lowest at -0.2785 / alpha."""
    alpha = float(node.attr("alpha"))
    return bent(-0.2785 / alpha)(node, of) if alpha > 0 else ANY


@gradient_of(
    "Swish",
    family="activation",
    origin=0.5,
    range=_swish_range,
    bias="symmetric",
    cases=[case((2, 3, 4), opset=24), case((2, 3), opset=24, alpha=1.7)],
)
def swish(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy s (1 + alpha x (1 - s)), s = sigmoid(alpha x)."""
    alpha = float(node.attr("alpha"))
    x = node.x if alpha == 1.0 else op.Mul(node.x, alpha)
    s = op.Sigmoid(x)
    return [op.Mul(dy, op.Add(op.Mul(op.Mul(x, s), masks.complement(op, s, node.x)), s))]


def _thresholded_range(node: NodeView, of: RangeOf) -> Range:
    """0, or x where it is above alpha."""
    low, high = max(of(0)[0], float(node.attr("alpha"))), of(0)[1]
    return hull(ZERO, (low, high)) if high > low else ZERO


@gradient_of(
    "ThresholdedRelu",
    family="activation",
    range=_thresholded_range,
    bias="zero",
    cases=[case((2, 3, 4), kinks=[1.0]), case((2, 3), alpha=-0.4, kinks=[-0.4])],
)
def thresholded_relu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where x > alpha, else 0."""
    return [mask(op, op.Greater(node.x, float(node.attr("alpha"))), dy)]


@gradient_of(
    "Shrink",
    family="activation",
    origin=0.0,
    bias="symmetric",
    cases=[case((2, 3, 4), kinks=[-0.5, 0.5]), case((2, 3), lambd=1.0, bias=0.7, kinks=[-1.0, 1.0])],
)
def shrink(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where x < -lambd or x > lambd, else 0."""
    lambd = float(node.attr("lambd"))
    return [mask(op, op.Or(op.Less(node.x, -lambd), op.Greater(node.x, lambd)), dy)]
