"""Linear layers: a convolution or matrix product with constant weights, and the affine nodes per unit that end it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.facts.affine_tail import affine_tail, is_constant
from onnxsal.graph import FLOATS, Model, NodeView, Value
from onnxsal.graph.adjoints import NUMBERS
from onnxsal.ops.registry import spec_of, units_of
from onnxsal.ops.statements import Units

LAYER = "linear_layer"
"""Tag: a convolution or matrix product whose weight is a constant."""

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
    def kind(self) -> Units:
        """Where the node keeps the weights of its units."""
        kind = units_of(self.node)
        assert kind is not None
        return kind

    @property
    def groups(self) -> int:
        """How many sets of units see inputs of their own."""
        return self.kind.groups(self.node)

    @property
    def unit_axis(self) -> int:
        """The axis of the result that counts units."""
        return self.kind.axis(self.node)

    @property
    def units(self) -> int:
        """How many units the layer has: weight vectors of their own."""
        return self.kind.count(self.node) or 1

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

    def rows(self, kernel: np.ndarray) -> np.ndarray:
        """An array shaped like the weight as one row per unit [units, inputs of a unit], in float64."""
        array, along = np.asarray(kernel, np.float64), self.kind.along(self.node)
        return array[None] if along is None else np.moveaxis(array, along, 0).reshape(array.shape[along], -1)

    def like_kernel(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of ``rows``."""
        shape, along = self.kernel.shape, self.kind.along(self.node)
        if along is None:
            return rows.reshape(shape)
        rest = [d for a, d in enumerate(shape) if a != along]
        return np.ascontiguousarray(np.moveaxis(rows.reshape(shape[along], *rest), 0, along))

    @property
    def weights(self) -> np.ndarray:
        """The weights of each unit of the result, scale included [units, inputs of a unit], in float64."""
        return self.rows(self.kernel) * self.scale[:, None]


def linear_layers(model: Model) -> list[LinearLayer]:
    """Every linear layer of the model that reads something an input can change, in forward order."""
    return [_with_tail(model, node) for node in model.nodes if _is_layer(node)]


def _is_layer(node: NodeView) -> bool:
    kind = units_of(node)
    if kind is None or kind.slides == "scatters" or len(node.proto.input) < 2:
        return False
    weight, x = node.input(1), node.x
    if weight.static is None or weight.dtype not in FLOATS or x.shape is None or node.y.shape is None:
        return False
    if not is_constant(node.model, weight.name) or node.const(1) is None or is_constant(node.model, x.name):
        return False
    if kind.slides:
        return len(weight.static) >= 3
    return len(weight.static) <= 2 and kind.inputs(node) == x.rank - 1


def _with_tail(model: Model, node: NodeView) -> LinearLayer:
    bare = LinearLayer(node, (), np.ones(1))
    scale, name = np.full(bare.units, bare.kind.scale(node)), node.y.name
    tail: list[NodeView] = []
    known = bare.kind.along(node) is not None
    for step in affine_tail(node, bare.unit_axis, bare.units, model.output_names).nodes if known else ():
        factor = _factor(step, name, bare.units)
        if factor is None:
            break
        tail.append(step)
        scale, name = scale * factor, step.y.name
    return LinearLayer(node, tuple(tail), scale)


def _factor(node: NodeView, name: str, units: int) -> np.ndarray | None:
    """By what a node of the tail multiplies each unit; ``None`` where it negates it, or its constants are not known here."""
    spec, position = spec_of(node), list(node.proto.input).index(name)
    given = [None if i == position else node.const(i) for i in range(len(node.inputs))]
    if spec is None or spec.scaling is None or any(v is None for i, v in enumerate(given) if i != position):
        return None
    factor, _ = spec.scaling.parts(NUMBERS, node, [None if v is None else np.asarray(v, np.float64) for v in given], position)
    if factor is None:
        return np.ones(units)
    return None if np.ndim(factor) == 0 and factor == -1.0 else np.broadcast_to(np.asarray(factor).reshape(-1), units)
