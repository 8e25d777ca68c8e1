"""What ends a linear layer: the nodes behind it that scale and shift each of its units by constants.

A bias, or batch normalisation in any spelling: the operator of that name, Sub and Mul and Add, Mul and Add.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnxsal.facts.axes import moved
from onnxsal.graph import Model, NodeView, Value
from onnxsal.ops.registry import family_of, spec_of
from onnxsal.ops.statements import APART


def is_constant(model: Model, name: str) -> bool:
    """Whether no input can change the tensor. (Values of weights are not looked at: they are large.)"""
    if name in model.initializers:
        return all(i.name != name for i in model.graph.input)
    if name in model.types or model.outer is None:
        return model.constant(name) is not None or model.once(("unpacked", name), lambda: _unpacked(model, name))
    return is_constant(model.outer, name)


def _unpacked(model: Model, name: str) -> bool:
    """Whether the tensor is a stored one that was quantised, as real numbers."""
    node = model.producer.get(name)
    if node is None or not (family_of(node) == "quantize" or name in model.written):
        return False
    return bool(node.proto.input) and all(is_constant(model, n) for n in node.proto.input if n)


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
    goes on behind copies and transposes, as converters from other layouts leave them.
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
        elif through and (turned := _turned(reader)) is not None:
            perm = tuple(perm[i] for i in turned)
            names.add(reader.y.name)
        else:
            break
        last = reader
    return tail


def _turned(node: NodeView) -> list[int] | None:
    """For each axis of the result the axis of the input that it is, where the node is a copy with its axes in another order at most."""
    spec = spec_of(node)
    if spec is None or not spec.keeps or node.outputs[0] is None or node.x.dtype != node.y.dtype or node.x.dtype == 0:
        return None
    if node.x.shape is None or node.y.shape is None or node.x.rank != node.y.rank:
        return None
    places = [moved(node, 0, axis) for axis in range(node.x.rank)]
    found = {place[0]: axis for axis, place in enumerate(places) if place is not None and place[1] is APART}
    return [found[axis] for axis in range(node.y.rank)] if len(found) == node.y.rank else None


def _is_affine(model: Model, node: NodeView, name: str, units: int | None, axis: int) -> bool:
    """Whether the node does nothing but scale and shift each unit by constants."""
    spec, inputs = spec_of(node), list(node.proto.input)
    scaling = None if spec is None else spec.scaling
    if scaling is None or inputs.count(name) != 1 or node.outputs[0] is None or node.y.shape is None:
        return False
    others = [v for v in node.inputs if v is not None and v.name != name]
    if not scaling.takes(node, inputs.index(name)) or not all(is_constant(model, v.name) for v in others):
        return False
    if scaling.axis is not None:
        return axis == scaling.axis
    return all(_per_unit(v, node.y.rank, units, axis) for v in others)


def _per_unit(constant: Value, rank: int, units: int | None, axis: int) -> bool:
    """Whether a constant that is broadcast to a rank holds one number, or one for each unit."""
    if constant.static is None or len(constant.static) > rank:
        return False
    padded = (1,) * (rank - len(constant.static)) + constant.static
    return all(size == 1 or (a == axis and size == units) for a, size in enumerate(padded))
