"""What ends a linear layer: the nodes behind it that scale and shift each of its units by constants.

A bias, or batch normalisation in any spelling: BatchNormalization, Sub and Mul and Add, Mul and Add.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnxsal.graph import Model, NodeView


def is_constant(model: Model, name: str) -> bool:
    """Whether no input can change the tensor. (Values of weights are not looked at: they are large.)"""
    if name in model.initializers:
        return all(i.name != name for i in model.graph.input)
    if name in model.types or model.outer is None:
        return model.constant(name) is not None
    return is_constant(model.outer, name)


@dataclass(frozen=True)
class Tail:
    """Affine nodes per unit in forward order; what leads from the layer to the last of them.

    ``names`` are the tensors on the way, the layer's own result included, ``perm`` how their axes end up: axis i of the last one is
    axis ``perm[i]`` of the layer's result.
    """

    nodes: tuple[NodeView, ...] = ()
    names: frozenset[str] = frozenset()
    perm: tuple[int, ...] = ()


def affine_tail(node: NodeView, axis: int, units: int | None, keep: Collection[str], *, through: bool = False) -> Tail:
    """The affine nodes per unit that follow ``node``, as long as nothing else reads what they read and it is not in ``keep``.

    ``axis`` of the result counts the units, ``units`` of them (``None``: unknown, so constants must be the same for all). ``through``
    goes on behind Transpose, Identity and Casts to the same type, as converters from other layouts leave them.
    """
    model, last, perm = node.model, node, tuple(range(node.y.rank))
    names, nodes, tail = {node.y.name}, [], Tail()
    while last.y.name not in keep:
        readers = model.consumers.get(last.y.name, [])
        if len(readers) != 1:
            break
        reader = readers[0]
        if _is_affine(model, reader, last.y.name, units, perm.index(axis)):
            nodes.append(reader)
            names.add(reader.y.name)
            tail = Tail(tuple(nodes), frozenset(names), perm)
        elif through and _moves(reader):
            turned = reader.attr("perm") if reader.op_type == "Transpose" else None
            whole = range(len(perm)) if turned is None else turned
            perm = tuple(perm[i] for i in (reversed(whole) if reader.op_type == "Transpose" and turned is None else whole))
            names.add(reader.y.name)
        else:
            break
        last = reader
    return tail


def _moves(node: NodeView) -> bool:
    if node.domain or node.outputs[0] is None:
        return False
    return node.op_type in ("Transpose", "Identity") or (node.op_type == "Cast" and node.x.dtype == node.y.dtype != 0)


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
