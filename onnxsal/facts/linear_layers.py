"""Linear layers: a convolution or matrix product with constant weights, and the affine nodes per unit that end it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.facts.affine_tail import affine_tail
from onnxsal.graph import FLOATS, Model, NodeView, Value

LAYER = "linear_layer"
"""Tag: a Conv, Gemm or MatMul whose weight is a constant."""

TAIL = "affine_tail"
"""Tag: adds, scales or normalises each unit of a linear layer by constants (a bias, batch normalisation in any spelling), and nothing
else reads what it reads."""


@dataclass(frozen=True)
class LinearLayer:
    """``y = scale * (W x) + constant`` per unit: the node with the weight, the nodes of its tail in order, and what they amount to."""

    node: NodeView
    tail: tuple[NodeView, ...]
    scale: np.ndarray

    @property
    def weight(self) -> str:
        """Name of the weight."""
        return self.node.input(1).name

    @property
    def y(self) -> Value:
        """The result, with everything that belongs to the layer: what an activation then rectifies."""
        return (self.tail[-1] if self.tail else self.node).y

    @property
    def inner(self) -> tuple[str, ...]:
        """Tensors between the weighted sum and the result."""
        return tuple(n.y.name for n in (self.node, *self.tail)[:-1])

    @property
    def groups(self) -> int:
        """How many sets of units see inputs of their own."""
        return int(self.node.attr("group", 1)) if self.node.op_type == "Conv" else 1

    @property
    def unit_axis(self) -> int:
        """The axis of the result that counts units."""
        return 1 if self.node.op_type == "Conv" else self.y.rank - 1

    @property
    def units(self) -> int:
        """How many units the layer has: weight vectors of their own."""
        shape = self.node.input(1).static or ()
        if self.node.op_type == "Conv" or (self.node.op_type == "Gemm" and self.node.attr("transB")):
            return shape[0]
        return shape[1] if len(shape) == 2 else 1

    @property
    def inputs(self) -> int:
        """How many inputs each unit has."""
        return int(np.prod(self.node.input(1).static or (), dtype=np.int64)) // self.units

    @property
    def kernel(self) -> np.ndarray:
        """The weights as stored."""
        array = self.node.const(1)
        assert array is not None
        return array

    @property
    def alpha(self) -> float:
        """The factor that a Gemm puts before its product."""
        return float(self.node.attr("alpha", 1.0)) if self.node.op_type == "Gemm" else 1.0

    def rows(self, kernel: np.ndarray) -> np.ndarray:
        """An array shaped like the weight as one row per unit [units, inputs of a unit], in float64."""
        array = np.asarray(kernel, np.float64)
        if self.node.op_type == "Conv":
            return array.reshape(array.shape[0], -1)
        if array.ndim == 1:
            return array[None]
        return array if self.node.op_type == "Gemm" and self.node.attr("transB") else array.T

    def like_kernel(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of ``rows``."""
        if self.node.op_type == "Conv" or (self.node.op_type == "Gemm" and self.node.attr("transB")):
            return rows.reshape(self.kernel.shape)
        return np.ascontiguousarray(rows.T).reshape(self.kernel.shape)

    @property
    def weights(self) -> np.ndarray:
        """The weights of each unit of the result, scale included [units, inputs of a unit], in float64."""
        return self.rows(self.kernel) * self.scale[:, None]


def linear_layers(model: Model) -> list[LinearLayer]:
    """Every linear layer of the model that reads something an input can change, in forward order."""
    return [_with_tail(model, node) for node in model.nodes if _is_layer(node)]


def _is_layer(node: NodeView) -> bool:
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.proto.input) < 2:
        return False
    weight, x = node.input(1), node.x
    if weight.static is None or weight.dtype not in FLOATS or x.shape is None or node.y.shape is None:
        return False
    if not _is_stored(node.model, weight.name) or _is_stored(node.model, x.name):
        return False
    if node.op_type == "Gemm":
        return not node.attr("transA")
    return len(weight.static) >= 3 if node.op_type == "Conv" else len(weight.static) <= 2


def _is_stored(model: Model, name: str) -> bool:
    """Whether a tensor is an initialiser or Constant that no input can change. (Its values are not looked at: weights are large.)"""
    if name in model.initializers:
        return all(i.name != name for i in model.graph.input)
    node = model.producer.get(name)
    return node is not None and (node.op_type == "Constant" or (node.op_type == "Identity" and _is_stored(model, node.x.name)))


def _with_tail(model: Model, node: NodeView) -> LinearLayer:
    bare = LinearLayer(node, (), np.ones(1))
    scale, name = np.full(bare.units, bare.alpha), node.y.name
    tail: list[NodeView] = []
    known = node.op_type == "Conv" or node.input(1).rank == 2
    for step in affine_tail(node, bare.unit_axis, bare.units, model.output_names).nodes if known else ():
        factor = _factor(step, name, bare.units)
        if factor is None:
            break
        tail.append(step)
        scale, name = scale * factor, step.y.name
    return LinearLayer(node, tuple(tail), scale)


def _factor(node: NodeView, name: str, units: int) -> np.ndarray | None:
    """By what a node of the tail multiplies each unit; ``None`` where it negates it, or its constants are not known here."""
    if node.op_type == "BatchNormalization":
        scale, variance = node.const(1), node.const(4)
        if scale is None or variance is None:
            return None
        return np.asarray(scale, np.float64) / np.sqrt(np.asarray(variance, np.float64) + float(node.attr("epsilon", 1e-5)))
    position = list(node.proto.input).index(name)
    constant = node.const(1 - position)
    if constant is None or (node.op_type == "Sub" and position == 1):
        return None
    if node.op_type in ("Add", "Sub"):
        return np.ones(units)
    values = np.broadcast_to(np.asarray(constant, np.float64).reshape(-1), units)
    return values if node.op_type == "Mul" else 1 / values
