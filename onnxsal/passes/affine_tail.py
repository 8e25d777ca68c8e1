"""What ends a linear layer: the nodes behind it that scale and shift each of its units by constants.

A bias, or batch normalisation in any spelling: BatchNormalization, Sub and Mul and Add, Mul and Add.
"""

from __future__ import annotations

from collections.abc import Collection

from onnxsal.graph import Model, NodeView


def is_constant(model: Model, name: str) -> bool:
    """Whether no input can change the tensor. (Values of weights are not looked at: they are large.)"""
    if name in model.initializers:
        return all(i.name != name for i in model.graph.input)
    if name in model.types or model.outer is None:
        return model.constant(name) is not None
    return is_constant(model.outer, name)


def affine_tail(node: NodeView, axis: int, units: int | None, keep: Collection[str]) -> list[NodeView]:
    """The affine nodes per unit that follow ``node``, as long as nothing else reads what they read and it is not in ``keep``.

    ``axis`` of the result counts the units, ``units`` of them (``None``: unknown, so constants must be the same for all).
    """
    model, last = node.model, node
    found: list[NodeView] = []
    while last.y.name not in keep:
        readers = model.consumers.get(last.y.name, [])
        if len(readers) != 1 or not _is_affine(model, readers[0], last.y.name, units, axis):
            break
        last = readers[0]
        found.append(last)
    return found


def _is_affine(model: Model, node: NodeView, name: str, units: int | None, axis: int) -> bool:
    """Whether the node does nothing but scale and shift each unit by constants."""
    inputs = list(node.proto.input)
    if node.domain or inputs.count(name) != 1 or node.outputs[0] is None or node.y.shape is None:
        return False
    if node.op_type == "BatchNormalization":
        constant = all(is_constant(model, n) for n in inputs[1:5])
        return inputs[0] == name and axis == 1 and constant and not node.attr("training_mode")
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or (node.op_type == "Div" and inputs[1] == name):
        return False
    other = node.input(1 - inputs.index(name))
    if other.static is None or not is_constant(model, other.name) or len(other.static) > len(node.y.shape):
        return False
    padded = (1,) * (len(node.y.shape) - len(other.static)) + other.static
    return all(size == 1 or (a == axis and size == units) for a, size in enumerate(padded))
