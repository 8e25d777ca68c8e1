"""Which elements of an input an output holds: the forms that operators share. They are followed on whole numbers that name elements."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import axes_of


def moved(op: Emit, node: NodeView, other: Value, i: int, j: int) -> Value | None:
    """Elements of the first input, picked and put by settings and indices."""
    count = len(node.proto.output)
    made = op.clone(node, [other, *node.inputs[1:]], outputs=count)
    picked: Value = made if count == 1 else made[j]
    return picked


def kept(op: Emit, node: NodeView, other: Value, i: int, j: int) -> Value | None:
    """The first input as it is."""
    return other


def joined(op: Emit, node: NodeView, other: Value, i: int, j: int) -> Value | None:
    """The parts one behind the other; -1 for those that are not followed."""
    none = helper.make_tensor("none", TensorProto.INT64, [1], [-1])
    parts = [other if k == i else op.ConstantOfShape(op.Shape(v), value=none) for k, v in enumerate(node.inputs) if v is not None]
    whole: Value = op.Concat(*parts, axis=node.attr("axis"))
    return whole


def best(op: Emit, node: NodeView, other: Value, i: int, j: int) -> Value | None:
    """The largest elements along an axis, by the indices that the node tells; these themselves hold none."""
    if j:
        return None
    known = node.outputs[1] if len(node.outputs) > 1 else None
    index = known or op.clone(node, list(node.inputs), outputs=2)[1]
    picked: Value = op.GatherElements(other, index, axis=node.attr("axis"))
    return picked


def largest(op: Emit, node: NodeView, other: Value, i: int, j: int) -> Value | None:
    """The largest element along one axis; of equal ones the first."""
    axes = axes_of(node, node.x.rank, 1)
    if axes is None or len(axes) != 1:
        return None
    index = op.ArgMax(node.x, axis=axes[0], keepdims=1)
    picked: Value = op.GatherElements(other, index, axis=axes[0])
    return picked if node.attr("keepdims", 1) else op.Squeeze(picked, np.asarray(axes))
