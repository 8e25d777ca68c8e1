"""Fold: a linear node and the affine nodes per unit behind it (batch normalisation, added constants), seen as one linear node.

The forward part is not touched; weight and bias of the folded view are expressions over its constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.ops.registry import spec_of


@dataclass(frozen=True)
class Fold:
    """``y = scale * (W x + b) + shift`` per unit: the node with the weight, and the affine nodes ``tail`` in forward order.

    ``unit_axis`` is the axis of the node's result that counts units, ``names`` are the tensors from it to the end of the tail, whose
    axis i is axis ``perm[i]`` of that result. ``weight`` is the position of W among the node's inputs.
    """

    node: NodeView
    tail: tuple[NodeView, ...]
    unit_axis: int
    names: frozenset[str]
    perm: tuple[int, ...]
    weight: int = 1

    def y(self, op: Emit) -> Value:
        """The result of the folded node: that of the last node of the tail, with its axes in the node's order."""
        last = self.tail[-1].y
        if self.perm == tuple(range(len(self.perm))):
            return last
        back = [self.perm.index(i) for i in range(len(self.perm))]
        return Value(op.Transpose(last, perm=back).name, 0, self.node.y.shape)

    def scale_and_shift(self, op: Emit) -> tuple[Value | None, Value | None]:
        """Per unit, 1-D or one number; ``None`` is 1 and 0."""
        scale: Value | None = None
        shift: Value | None = None
        for step in self.tail:
            factor, summand = _per_unit(op, step, self.names)
            if factor == -1.0:
                scale = op.const(-1.0) if scale is None else op.Neg(scale)
                shift = None if shift is None else op.Neg(shift)
            elif factor is not None:
                scale = factor if scale is None else op.Mul(scale, factor)
                shift = None if shift is None else op.Mul(shift, factor)
            if summand is not None:
                shift = summand if shift is None else op.Add(shift, summand)
        return scale, shift

    def folded_weight(self, op: Emit, weight: Value, scale: Value | None) -> Value:
        """W times the scale of each unit."""
        spec = spec_of(self.node)
        assert spec is not None
        assert spec.units is not None
        return weight if scale is None else spec.units.weigh(op, self.node, weight, scale)

    def lift(self, op: Emit, per_unit: Value) -> Value:
        """A value per unit, broadcastable to y."""
        after = self.node.y.rank - 1 - self.unit_axis
        return op.Reshape(per_unit, [-1, *[1] * after]) if after else per_unit


def _per_unit(op: Emit, node: NodeView, names: frozenset[str]) -> tuple[Any, Any]:
    """(factor, summand) of a node of the tail, which reads one of the tensors ``names``."""
    scaling = spec_of(node).scaling  # type: ignore[union-attr]
    assert scaling is not None
    position = next(i for i, name in enumerate(node.proto.input) if name in names)
    flat = [v if i == position or scaling.axis is not None else op.Reshape(v, [-1]) for i, v in enumerate(node.inputs)]
    return scaling.parts(op, node, flat, position)
