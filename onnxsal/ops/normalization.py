"""Normalisations: division by a statistic of the data, or by stored statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsal.forms.scale import per_channel
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import dim_of, mask, reshape_like, unbroadcast, zeros_like
from onnxsal.ops import edges
from onnxsal.ops.axes import along, each_sample, from_axis_on, pictures, within
from onnxsal.ops.guards import OWN
from onnxsal.ops.places import along as places_along
from onnxsal.ops.places import behind_samples, from_axis, one_axis, spatial
from onnxsal.ops.ranges import SIGNED_UNIT, UNIT
from onnxsal.ops.registry import Held, case, gradient_of
from onnxsal.ops.statements import APART, MIXED, Edge, Moved, Roles, Scaling

# ----- y = scale (x - mean) / std + bias, with statistics of x itself -----


@dataclass(frozen=True)
class _Form:
    """Where one operator takes its statistics: over ``axes`` of x, reshaped to ``fold`` if given.

    ``lift`` is the shape in which scale and bias meet that tensor, one entry per axis; ``None``: they broadcast as they are.
    """

    axes: list[int]
    fold: Value | None = None
    lift: list[int] | None = None
    centred: bool = True


def _last_axes(op: Emit, node: NodeView) -> _Form:
    rank = node.x.rank
    return _Form(list(range(node.attr("axis") % rank, rank)), centred=node.op_type != "RMSNormalization")


def _spatial_axes(op: Emit, node: NodeView) -> _Form:
    rank = node.x.rank
    return _Form(list(range(2, rank)), lift=_channels(rank))


def _all_but_channels(op: Emit, node: NodeView) -> _Form:
    rank = node.x.rank
    return _Form([a for a in range(rank) if a != 1], lift=_channels(rank))


def _groups(op: Emit, node: NodeView) -> _Form:
    """x as [N, groups, channels per group, positions]; before opset 21 there is one scale per group, then one per channel."""
    groups = int(node.attr("num_groups"))
    if node.opset < 21:
        return _Form([2, 3], op.const([0, groups, 1, -1]), [1, groups, 1, 1])
    channels = node.x.dim(1) or node.input(1).dim(0)
    if channels is not None:
        return _Form([2, 3], op.const([0, groups, channels // groups, -1]), [1, groups, -1, 1])
    each = op.Div(dim_of(op, node.x, 1), groups)
    return _Form([2, 3], op.Concat([0, groups], each, [-1], axis=0), [1, groups, -1, 1])


_FORMS: dict[str, Callable[[Emit, NodeView], _Form]] = {
    "BatchNormalization": _all_but_channels,
    "GroupNormalization": _groups,
    "InstanceNormalization": _spatial_axes,
    "LayerNormalization": _last_axes,
    "RMSNormalization": _last_axes,
}


def _channels(rank: int) -> list[int] | None:
    """The shape in which a value per channel meets a tensor of this rank. A tensor of rank 1 has one channel."""
    return [1, -1, *[1] * (rank - 2)] if rank > 1 else None


def _fold(op: Emit, t: Value, form: _Form) -> Value:
    return t if form.fold is None else op.Reshape(t, form.fold)


def _unfold(op: Emit, t: Value, form: _Form, x: Value) -> Value:
    return t if form.fold is None else reshape_like(op, t, x)


def _lift(op: Emit, parameter: Value, lift: list[int] | None) -> Value:
    """A scale or bias, ready to broadcast. A leading 1 and a single axis need no Reshape."""
    return parameter if lift is None or lift == [1, -1] else op.Reshape(parameter, lift)


def _lower(op: Emit, t: Value, node: NodeView, parameter: Value, lift: list[int] | None) -> Value:
    """Adjoint of ``_lift`` and broadcasting: sums ``t`` to the shape of the parameter."""
    if lift is None:
        return unbroadcast(op, t, node.x, parameter)
    axes = [i for i, size in enumerate(lift) if size == 1]
    total = op.ReduceSum(t, axes, keepdims=0)
    return total if len(axes) == len(lift) - 1 else op.Reshape(total, [-1])


def _mean(op: Emit, t: Value, axes: list[int]) -> Value:
    return op.ReduceMean(t, axes)


def _deviation(op: Emit, x: Value, form: _Form, epsilon: float) -> tuple[Value, Value]:
    """x minus its mean (x itself where the form is not centred), and the variance plus epsilon."""
    centred = op.Sub(x, _mean(op, x, form.axes)) if form.centred else x
    return centred, op.Add(_mean(op, op.Mul(centred, centred), form.axes), epsilon)


def _through_statistics(op: Emit, g: Value, form: _Form, std: Value, xhat: Value, unit: Value) -> Value:
    """dx = (g - mean(g) - xhat mean(g unit)) / std, where unit = n d std / dx; the mean(g) only where the form is centred."""
    moved = op.Mul(xhat, _mean(op, op.Mul(g, unit), form.axes))
    if form.centred:
        moved = op.Add(moved, _mean(op, g, form.axes))
    return op.Div(op.Sub(g, moved), std)


def _through_mean(op: Emit, g: Value, form: _Form, std: Value) -> Value:
    """dx = (g - mean(g)) / std, the statistic that x is divided by held constant; the mean(g) only where the form is centred."""
    return op.Div(op.Sub(g, _mean(op, g, form.axes)) if form.centred else g, std)


def _divisor(op: Emit, node: NodeView, std: Value) -> Value:
    """The deviation; where it may be 0 (epsilon is), 1 in its place: the output is no number there, and only signals of 0 pass."""
    return op.Where(op.Equal(std, 0.0), 1.0, std) if OWN in node.wild else std


def _statistical(op: Emit, node: NodeView, dy: Value, held: bool = False) -> list[Value | None]:
    """Signals at x, scale and bias; ``held``: with the deviation constant."""
    form = _FORMS[node.op_type](op, node)
    centred, variance = _deviation(op, _fold(op, node.x, form), form, node.attr("epsilon"))
    std = _divisor(op, node, op.Sqrt(variance))
    xhat = op.Div(centred, std)
    dy = _fold(op, dy, form)
    dx = dscale = dbias = None
    if node.want(0):
        g = op.Mul(dy, _lift(op, node.input(1), form.lift))
        dx = _through_mean(op, g, form, std) if held else _through_statistics(op, g, form, std, xhat, xhat)
        dx = _unfold(op, dx, form, node.x)
    if node.want(1):
        dscale = _lower(op, op.Mul(dy, xhat), node, node.input(1), form.lift)
    if node.want(2):
        dbias = _lower(op, dy, node, node.input(2), form.lift)
    return node.grads(dx, dscale, dbias)


def _statistical_bias(op: Emit, node: NodeView) -> Value:
    """r = y - [x] n epsilon / (variance + epsilon) - [scale] n - [bias] bias, n = y - bias: x acts through epsilon alone."""
    form = _FORMS[node.op_type](op, node)
    y = rest = _fold(op, node.y, form)
    bias = None if node.optional(2) is None else _lift(op, node.input(2), form.lift)
    n = y if bias is None else op.Sub(y, bias)
    if node.want(0):
        _, variance = _deviation(op, _fold(op, node.x, form), form, node.attr("epsilon"))
        rest = op.Sub(rest, op.Mul(n, op.Div(float(node.attr("epsilon")), variance)))
    if node.want(1):
        rest = op.Sub(rest, n)
    if node.want(2):
        rest = op.Sub(rest, bias)
    return _unfold(op, rest, form, node.y)


def _held_statistical(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """As ``_statistical``, with the deviation constant."""
    return _statistical(op, node, dy, held=True)


def _held_bias(op: Emit, node: NodeView) -> Value | None:
    """r = (1 - [x] - [scale]) n + (1 - [bias]) bias, n = y - bias: with the deviation constant n is linear in x, and in the scale."""
    form, shift, factors = _FORMS[node.op_type](op, node), node.optional(2), sum(node.wants[:2])
    bias = None if shift is None else _lift(op, shift, form.lift)
    if bias is not None and form.fold is not None:
        bias = _unfold(op, op.Expand(bias, op.Shape(_fold(op, node.x, form))), form, node.x)
    own = None if node.want(2) else bias
    if factors == 1:
        return own
    n = op.Mul(node.y if bias is None else op.Sub(node.y, bias), float(1 - factors))
    return n if own is None else op.Add(n, own)


_HELD = Held(_held_statistical, _held_bias)


def _statistical_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Samples are normalised apart, over the places of each channel or over groups of channels."""
    return (pictures if node.op_type == "InstanceNormalization" else each_sample)(node, i, axis, j)


@gradient_of(
    "LayerNormalization",
    "RMSNormalization",
    family="normalization",
    axes=from_axis_on,
    edge=edges.unless_positive("epsilon"),
    trained=(1, 2),
    places=places_along(from_axis),
    held=_HELD,
    bias=_statistical_bias,
    cases={
        "LayerNormalization": [
            case((2, 3, 4), (4,), (4,)),
            case((2, 3, 4), (4,)),
            case((2, 3, 4), (3, 4), (3, 4), axis=1, epsilon=0.1),
            case((2, 3, 4), (3, 1), (4,), axis=-2, epsilon=0.5, outputs=3),
            case((2, 3), (2, 3), (1,), axis=0),
            case((2, 3, 4), (4,), (4,), fixed=[1, 2], epsilon=0.3),
        ],
        "RMSNormalization": [
            case((2, 3, 4), (4,), opset=23),
            case((2, 3, 4), (3, 4), axis=1, epsilon=0.5, opset=23),
            case((2, 3), (1,), axis=-2, opset=23),
        ],
    },
)
@gradient_of(
    "InstanceNormalization",
    "GroupNormalization",
    family="normalization",
    axes=_statistical_axes,
    edge=edges.unless_positive("epsilon"),
    pictures=True,
    places={"InstanceNormalization": places_along(spatial), "GroupNormalization": places_along(behind_samples)},
    held=_HELD,
    bias=_statistical_bias,
    cases={
        "InstanceNormalization": [
            case((2, 3, 4), (3,), (3,)),
            case((2, 3, 2, 2), (3,), (3,), epsilon=0.5),
            case((1, 2, 2, 1, 3), (2,), (2,), fixed=[1, 2]),
        ],
        "GroupNormalization": [
            case((2, 6, 3), (2,), (2,), num_groups=2, epsilon=0.2),
            case((2, 4, 2, 2), (1,), (1,), num_groups=1),
            case((2, 6, 3), (6,), (6,), num_groups=2, epsilon=0.2, stash_type=11, opset=21),
            case((1, 4, 2, 2), (4,), (4,), num_groups=4, fixed=[1, 2], stash_type=11, opset=21),
            case((2, 4, 2, 2), (4,), (4,), num_groups=1, stash_type=11, opset=21),
        ],
    },
)
def statistical(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = (g - mean(g) - n mean(g n)) / sqrt(variance + epsilon), g = dy scale, n = the normalised x; dscale = sum(dy n).

    RMSNormalization does not centre: its mean(g) is absent and its variance is the mean square.
    """
    return _statistical(op, node, dy)


# ----- stored statistics -----


def _slope(op: Any, node: NodeView, scale: Any, variance: Any) -> Any:
    """scale / sqrt(var + epsilon), one per channel."""
    return op.Div(scale, op.Sqrt(op.Add(variance, node.attr("epsilon"))))


def _stored(op: Any, node: NodeView, given: Sequence[Any], i: int) -> tuple[Any, Any]:
    """Slope scale / sqrt(var + epsilon) and offset B - mean slope, one per channel."""
    _, scale, bias, mean, variance = given
    slope = _slope(op, node, scale, variance)
    return slope, op.Sub(bias, op.Mul(mean, slope))


def _batch_norm_bias(op: Emit, node: NodeView) -> Value:
    """r = B - mean * slope where only x is active; in general y minus each active input's share."""
    if node.attr("training_mode"):
        return _statistical_bias(op, node)
    lift = _channels(node.x.rank)
    slope = _slope(op, node, node.input(1), node.input(4))
    if node.wants == (True, False, False, False, False):
        return _lift(op, op.Sub(node.input(2), op.Mul(node.input(3), slope)), lift)
    bias = _lift(op, node.input(2), lift)
    n = op.Sub(node.y, bias)
    shares: list[Callable[[], Value]] = [
        lambda: op.Mul(node.x, _lift(op, slope, lift)),
        lambda: n,
        lambda: bias,
        lambda: _lift(op, op.Neg(op.Mul(node.input(3), slope)), lift),
        lambda: op.Mul(n, _lift(op, op.Mul(op.Div(node.input(4), op.Add(node.input(4), node.attr("epsilon"))), -0.5), lift)),
    ]
    rest = node.y
    for wanted, share in zip(node.wants, shares, strict=True):
        rest = op.Sub(rest, share()) if wanted else rest
    return rest


_VARIANCES = np.asarray([0.5, 1.5, 2.0])


def _batch_norm_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """By stored statistics element by element; in training over all samples."""
    return None if i or j else (axis, MIXED if node.attr("training_mode") else APART)


@gradient_of(
    "BatchNormalization",
    family="normalization",
    axes=_batch_norm_axes,
    pictures=True,
    trained=(1, 2),
    bias=_batch_norm_bias,
    roles=Roles((0, 1), (2, 3)),
    scaling=Scaling(_stored, of=(0,), axis=1, holds=lambda node: not node.attr("training_mode")),
    cases=[
        case((2, 3, 2, 2), (3,), (3,), (3,), _VARIANCES, fixed=[1, 2, 3, 4]),
        case((2, 3, 4), (3,), (3,), (3,), _VARIANCES, epsilon=0.1),
        case((4, 3), (3,), (3,), (3,), _VARIANCES),
        case((2, 3, 1, 2, 2), (3,), (3,), (3,), _VARIANCES, fixed=[1, 2]),
        case((4,), (1,), (1,), (1,), np.asarray([0.7])),
        case((2, 3, 4), (3,), (3,), (3,), _VARIANCES, training_mode=1, epsilon=0.2, outputs=3),
    ],
)
def batch_norm(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy slope, slope = scale / sqrt(var + epsilon); dB = sum(dy), dmean = -slope dB, dscale = sum(dy n).

    In training mode the statistics are those of x, and the stored ones do not act on y.
    """
    if node.attr("training_mode"):
        stored = [zeros_like(op, node.input(i)) if node.want(i) else None for i in (3, 4)]
        return [*_statistical(op, node, dy)[:3], *stored]
    lift = _channels(node.x.rank)
    slope = _slope(op, node, node.input(1), node.input(4))
    dx = per_channel(op, dy, slope, _lift(op, slope, lift)) if node.want(0) else None
    dscale = dbias = dmean = dvar = None
    if node.want(2) or node.want(3):
        dbias = _lower(op, dy, node, node.input(2), lift)
    if node.want(3):
        dmean = op.Neg(op.Mul(dbias, slope))
    if node.want(1) or node.want(4):
        variance = op.Add(node.input(4), node.attr("epsilon"))
        n = op.Div(op.Sub(node.x, _lift(op, node.input(3), lift)), _lift(op, op.Sqrt(variance), lift))
        dscale = _lower(op, op.Mul(dy, n), node, node.input(1), lift)
        dvar = op.Mul(op.Mul(dscale, -0.5), op.Div(node.input(1), variance))
    return [dx, dscale, dbias, dmean, dvar]


# ----- without scale and bias -----

_MVN_EPSILON = 1e-9
"""The standard's function body adds it to the standard deviation, not to the variance. ONNX Runtime makes NaN where the deviation is 0."""


def _mvn(op: Emit, node: NodeView) -> tuple[_Form, Value, Value]:
    """The form, x minus its mean, and the standard deviation."""
    form = _Form([int(a) for a in node.attr("axes")])
    centred, variance = _deviation(op, node.x, form, 0.0)
    return form, centred, op.Sqrt(variance)


def _mvn_bias(op: Emit, node: NodeView) -> Value:
    """r = y sigma / (sigma + epsilon)."""
    _, _, sigma = _mvn(op, node)
    return op.Mul(node.y, op.Div(sigma, op.Add(sigma, _MVN_EPSILON)))


def nothing(op: Emit, node: NodeView) -> None:
    """Linear in x while the statistic that it is divided by stays: nothing is left over."""


def _held_mvn(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = (dy - mean(dy)) / (sigma + 1e-9)."""
    form, _, sigma = _mvn(op, node)
    return [_through_mean(op, dy, form, op.Add(sigma, _MVN_EPSILON))]


def _mvn_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    return within([int(a) % node.x.rank for a in node.attr("axes")])(node, i, axis, j)


@gradient_of(
    "MeanVarianceNormalization",
    family="normalization",
    axes=_mvn_axes,
    edge=Edge.NAN,
    places=places_along(behind_samples),
    held=Held(_held_mvn, nothing),
    bias=_mvn_bias,
    cases=[case((2, 3, 2, 2)), case((2, 3, 4), axes=[1]), case((2, 3, 2, 2), axes=[-1, 2])],
)
def mean_variance_normalization(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = (dy - mean(dy) - y mean(dy u)) / (sigma + 1e-9), u = (x - mean) / sigma, 0 where sigma = 0."""
    form, centred, sigma = _mvn(op, node)
    unit = mask(op, op.Greater(sigma, 0.0), op.Div(centred, sigma))
    return [_through_statistics(op, dy, form, op.Add(sigma, _MVN_EPSILON), node.y, unit)]


def _norm(op: Emit, node: NodeView) -> Value:
    """|x| along the axis, which stays with size 1."""
    axis = [node.attr("axis")]
    return op.ReduceL1(node.x, axis) if node.attr("p") == 1 else op.ReduceL2(node.x, axis)


def _held_norm(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / |x|; 0 where |x| = 0."""
    norm = _norm(op, node)
    return [mask(op, op.Greater(norm, 0.0), op.Div(dy, norm))]


@gradient_of(
    "LpNormalization",
    family="normalization",
    axes=along(),
    range=lambda node, of: UNIT if of(0)[0] >= 0 else SIGNED_UNIT,
    places=places_along(one_axis),
    held=Held(_held_norm, nothing),
    bias=lambda op, node: node.y,
    cases=[
        case((2, 3, 4)),
        case((2, 3, 4), axis=1, p=1, kinks=[0.0]),
        case((3, 4), axis=0, p=2),
        case((4,), p=1, kinks=[0.0]),
    ],
)
def lp_normalization(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = (dy - sum(dy y) s) / |x|, s = y for p = 2 and sgn(x) for p = 1; 0 where |x| = 0, as y is 0 there."""
    # sgn(0) = +1, the slope on the side of rectified data, which is where this norm meets zeros in practice.
    p, axis = node.attr("p"), [node.attr("axis")]
    norm = _norm(op, node)
    along = op.Where(op.Less(node.x, 0.0), -1.0, 1.0) if p == 1 else node.y
    moved = op.Mul(along, op.ReduceSum(op.Mul(dy, node.y), axis))
    return [mask(op, op.Greater(norm, 0.0), op.Div(op.Sub(dy, moved), norm))]
