"""Normalised exponentials: Softmax and LogSoftmax, which share their Jacobian up to a factor y."""

from __future__ import annotations

import math

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import guard, mask
from onnxsal.ops import squashing
from onnxsal.ops.axes import along
from onnxsal.ops.ranges import UNIT
from onnxsal.ops.registry import case, gradient_of


def _axis(node: NodeView) -> int:
    """The axis that is normalised."""
    return int(node.attr("axis", -1))


def _sum(op: Emit, node: NodeView, t: Value) -> Value:
    """Sum over the axis that is normalised, which stays with size 1."""
    return op.ReduceSum(t, [_axis(node)], keepdims=1)


def _log(op: Emit, p: Value) -> Value:
    """log p (of 0 that of a tiny number: p log p is 0): the input but for an offset per row, on which no bias here depends."""
    return op.Log(op.Max(p, float(np.finfo(op.np_dtype).tiny)))


def _softmax_bias(op: Emit, node: NodeView) -> Value:
    """r = y (1 - x + sum(y x)), the same with log y in place of x: it is x less a number per row, however far that is from 0."""
    x = _log(op, node.y)
    return op.Mul(node.y, op.Sub(op.Add(_sum(op, node, op.Mul(node.y, x)), 1.0), x))


def _log_softmax_bias(op: Emit, node: NodeView) -> Value:
    """r = y - (x - sum(p x)) = sum(p y) with p = exp(y): minus the entropy, the same for every element of the axis."""
    p = op.Exp(node.y)
    return _sum(op, node, mask(op, op.Greater(p, 0.0), op.Mul(p, node.y)))


_cases = [
    case((3, 4)),
    case((2, 3, 4), axis=1),
    case((2, 3, 4), axis=0),
    case((2, 3, 2, 2), axis=-2),
    case((5,), axis=0),
    case(np.asarray([[60.0, -50.0, 59.0], [-300.0, 1.0, 0.5]])),
]


@gradient_of(
    "Softmax",
    family="softmax",
    head=squashing.softmax,
    axes=along(first=13),
    range=UNIT,
    level=_axis,
    bias=_softmax_bias,
    cases=_cases,
)
def softmax(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = y (dy - sum(y dy))."""
    centred = op.Sub(dy, _sum(op, node, guard(op, node, dy, op.Mul(node.y, dy))))
    return [guard(op, node, centred, op.Mul(node.y, centred))]


@gradient_of(
    "LogSoftmax",
    family="softmax",
    head=squashing.log_softmax,
    axes=along(first=13),
    range=(-math.inf, 0.0),
    level=_axis,
    bias=_log_softmax_bias,
    cases=_cases,
)
def log_softmax(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy - exp(y) sum(dy)."""
    p, total = op.Exp(node.y), _sum(op, node, dy)
    return [op.Sub(dy, guard(op, node, total, op.Mul(p, total)))]
