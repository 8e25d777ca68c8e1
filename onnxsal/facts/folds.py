"""Fold batch normalisation into the linear node before it, in the backward view only: no forward node changes.

Folded are the affine nodes per unit that directly follow a Conv, ConvTranspose, Gemm or MatMul with a constant weight, in any
spelling: BatchNormalization, Sub and Mul and Add, Mul and Add, an added bias; with Transposes to another layout in between too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from onnxsal.facts.affine_tail import affine_tail, is_constant
from onnxsal.facts.fold import Fold
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.ops.registry import units_of

FOLDED = "folded"
"""Tag: the node is part of the linear node before it, as far as relevance is concerned."""


def fold_batchnorm(model: Model, keep: Collection[str] = ()) -> dict[int, Fold]:
    """What is folded into the linear node of each index; tensors in ``keep`` (where a walk begins or ends) are not folded away."""
    found = {}
    for node in model.nodes:
        axis = _unit_axis(node)
        tail = affine_tail(node, axis, _units(node), keep, through=True) if axis is not None else None
        if axis is None or tail is None or not tail.nodes:
            continue
        found[node.index] = Fold(node, tail.nodes, axis, tail.names, tail.perm)
    return found


def _unit_axis(node: NodeView) -> int | None:
    """The axis of the result that counts units, if the node is linear in its first input with a constant weight."""
    kind = units_of(node)
    if kind is None or len(node.proto.input) < 2 or node.outputs[0] is None:
        return None
    weight, y = node.input(1), node.y
    if weight.shape is None or y.shape is None or weight.dtype not in FLOATS or not is_constant(node.model, weight.name):
        return None
    if is_constant(node.model, node.x.name):
        return None
    known = len(weight.shape) > 2 and weight.static is not None if kind.slides else len(weight.shape) == 2 and len(y.shape) > 1
    return kind.axis(node) if known else None


def _units(node: NodeView) -> int | None:
    kind = units_of(node)
    return None if kind is None else kind.count(node)


NORMALISERS: dict[str, Callable[[Model, Collection[str]], dict[int, Fold]]] = {"fold_batchnorm": fold_batchnorm}
"""What a method may ask for: how rules see the model in place of some of its nodes; the model stays as it is."""
