"""Dropout: the identity in inference; in training the elements that are kept, the larger for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import as_compute, mask, recast, reshape_like
from onnxsal.ops import squashing
from onnxsal.ops.axes import first_aligned
from onnxsal.ops.places import first
from onnxsal.ops.ranges import by_sign
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import Range, RangeOf


def _dropout_range(node: NodeView, of: RangeOf) -> Range:
    """A copy; in training zeros, and the rest enlarged."""
    training = node.const(2) if node.optional(2) is not None else np.array(False)
    return of(0) if training is not None and not training.any() else by_sign(node, of)


def _kept(node: NodeView) -> Value | None:
    """Which elements are kept; ``None``: all are."""
    ratio, training = node.const(1), node.const(2)
    if node.optional(2) is None or (training is not None and not training.item()) or (ratio is not None and ratio.item() == 0):
        return None
    if len(node.outputs) < 2 or node.outputs[1] is None:
        raise UnsupportedError(
            f"{node.label}: a gradient in training mode needs to know which elements were dropped, and the node's mask output has no name. "
            "Export the model in inference mode (training_mode false), or name the mask."
        )
    return node.output(1)


def _scale(op: Emit, node: NodeView) -> Value:
    """1 / (1 - ratio)."""
    chance = 0.5 if node.optional(1) is None else as_compute(op, node.input(1))
    return op.Div(1.0, op.Sub(1.0, chance))


def _of_training(op: Emit, node: NodeView, value: Value, otherwise: float) -> Value:
    """What holds in training mode, where only the run tells whether it is."""
    return value if node.const(2) is not None else op.Where(node.input(2), value, otherwise)


def _dropout_bias(op: Emit, node: NodeView) -> Value | None:
    """0, or y where x is no input of interest; less ratio y / (1 - ratio) where the ratio is one."""
    rest = None if node.want(0) else node.y
    if not node.want(1) or _kept(node) is None:
        return rest
    own = op.Mul(node.y, _of_training(op, node, op.Mul(as_compute(op, node.input(1)), _scale(op, node)), 0.0))
    return op.Neg(own) if rest is None else op.Sub(rest, own)


@gradient_of(
    "Dropout",
    family="movement",
    head=squashing.same,
    axes=first_aligned,
    range=_dropout_range,
    keeps="place",
    places=first,
    bias=_dropout_bias,
    cases=[
        case((2, 3, 4)),
        case((2, 3), 0.3, fixed=[1]),
        case((2, 3), 0.3, np.array(False), fixed=[1], outputs=2),
        case((2, 3, 4), None, np.array(True), outputs=2, seed=7),
        case((2, 3, 4), 0.3, np.array(True), fixed=[1], outputs=2, seed=7),
        replace(
            case((2, 3), 0.0, np.array(True), fixed=[1]), static_only="a ratio of 0 is only known to drop nothing when it is a constant"
        ),
    ],
)
def dropout(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy in inference; in training dy / (1 - ratio) where the mask holds, else 0, and dratio = sum dy y / (1 - ratio): which elements
    are dropped changes in steps.
    """
    kept = _kept(node)
    by_ratio = op.Sub(node.input(1), node.input(1)) if node.want(1) else None
    if kept is None:
        return node.grads(dy, by_ratio)
    scale = _of_training(op, node, _scale(op, node), 1.0)
    if node.want(1):
        total = _of_training(op, node, op.ReduceSum(op.Mul(op.Mul(dy, node.y), _scale(op, node)), keepdims=0), 0.0)
        by_ratio = recast(op, reshape_like(op, total, node.input(1)), op.dtype, node.input(1).dtype)
    return node.grads(mask(op, kept, op.Mul(dy, scale)), by_ratio)
