"""Fold: a linear node and the affine nodes per unit behind it (batch normalisation, added constants), seen as one linear node.

The forward part is not touched; weight and bias of the folded view are expressions over its constants.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxsal.graph.emit import Emit
from onnxsal.graph.model import NodeView, Value


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
            factor, summand, negated = _affine(op, step, self.names)
            if negated:
                scale = op.const(-1.0) if scale is None else op.Neg(scale)
                shift = None if shift is None else op.Neg(shift)
            if factor is not None:
                scale = factor if scale is None else op.Mul(scale, factor)
                shift = None if shift is None else op.Mul(shift, factor)
            if summand is not None:
                shift = summand if shift is None else op.Add(shift, summand)
        return scale, shift

    def folded_weight(self, op: Emit, weight: Value, scale: Value | None) -> Value:
        """W times the scale of each unit."""
        if scale is None:
            return weight
        rank, kind = weight.rank, self.node.op_type
        if kind == "Conv":
            return op.Mul(weight, op.Reshape(scale, [-1, *[1] * (rank - 1)]))
        if kind == "ConvTranspose":
            group = int(self.node.attr("group", 1))
            if group == 1:
                return op.Mul(weight, op.Reshape(scale, [1, -1, *[1] * (rank - 2)]))
            # [group * inputs, units / group, ...]: units are counted through the groups, on the second axis.
            size = [int(d) for d in weight.static or ()]
            split = op.Reshape(weight, [group, size[0] // group, *size[1:]])
            each = op.Expand(op.Reshape(scale, [-1]), [group * size[1]])
            return op.Reshape(op.Mul(split, op.Reshape(each, [group, 1, -1, *[1] * (rank - 2)])), size)
        return op.Mul(weight, op.Reshape(scale, [-1, 1]) if kind == "Gemm" and self.node.attr("transB") else scale)

    def lift(self, op: Emit, per_unit: Value) -> Value:
        """A value per unit, broadcastable to y."""
        after = self.node.y.rank - 1 - self.unit_axis
        return op.Reshape(per_unit, [-1, *[1] * after]) if after else per_unit


def _affine(op: Emit, node: NodeView, names: frozenset[str]) -> tuple[Value | None, Value | None, bool]:
    """(factor, summand, whether its input is negated) of an affine node per unit that reads one of the tensors ``names``."""
    if node.op_type == "BatchNormalization":
        scale, bias, mean, variance = (node.input(i) for i in range(1, 5))
        factor = op.Div(scale, op.Sqrt(op.Add(variance, float(node.attr("epsilon", 1e-5)))))
        return factor, op.Sub(bias, op.Mul(mean, factor)), False
    position = next(i for i, name in enumerate(node.proto.input) if name in names)
    constant = op.Reshape(node.input(1 - position), [-1])
    if node.op_type == "Add":
        return None, constant, False
    if node.op_type == "Sub":
        return (None, op.Neg(constant), False) if position == 0 else (None, constant, True)
    return op.Reciprocal(constant) if node.op_type == "Div" else constant, None, False
