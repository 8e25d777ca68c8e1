"""Activations: elementwise non-linearities that end a layer."""

from __future__ import annotations

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import mask
from onnxsal.ops.registry import case, gradient_of


@gradient_of("Relu", family="activation", bias="zero", cases=[case((2, 3, 4), kinks=[0.0])])
def relu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy where y > 0, else 0; the derivative at x = 0 is 0."""
    return [mask(op, op.Greater(node.y, 0.0), dy)]


@gradient_of("Softplus", family="activation", bias="symmetric", cases=[case((2, 3), low=-4, high=4)])
def softplus(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy * sigmoid(x)."""
    return [op.Mul(dy, op.Sigmoid(node.x))]
