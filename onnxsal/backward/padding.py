"""Which elements of a layer's input come from before it, and which are constants: padding written as a node of its own.

A layer that pads by itself never sees its padding as an input. Where an exporter wrote a Pad before it instead, rules that look at
weights but not at activations (w^2, flat, equal parts) must leave it out too, or relevance goes where there is no input.
"""

from __future__ import annotations

from onnxsal.backward.walk import walk_of
from onnxsal.graph import FLOATS, Emit, Model, NodeView, Value
from onnxsal.graph.helpers import ones_like, zeros_like
from onnxsal.ops.registry import spec_of


def present(op: Emit, model: Model, a: Value) -> Value | None:
    """1 where an element of ``a`` comes from an element of the tensor before, 0 where it was filled in; ``None``: none was."""
    chain, filled, name = [], 0, a.name
    source = walk_of(op).input
    while source is None or name != source.name:
        node = model.producer.get(name)
        position = None if node is None else _data(node)
        if node is None or position is None:
            break
        chain.append((node, position))
        name = node.proto.input[position]
        spec = spec_of(node)
        filled = len(chain) if spec is not None and spec.fills(node) else filled
    return op.cached(("present", a.name), lambda: _carried(op, chain[:filled], a)) if filled else None


def _carried(op: Emit, chain: list[tuple[NodeView, int]], a: Value) -> Value:
    """Ones, moved as the data are, with zeros for constants; the chain begins with the last node."""
    first, position = chain[-1]
    moved = ones_like(op, first.input(position))
    for node, i in reversed(chain):
        spec = spec_of(node)
        if spec is None or spec.keeps != "place":
            inputs = [moved if k == i else _without_constants(op, node, k) for k in range(len(node.inputs))]
            moved = op.clone(node, inputs)
    return Value(moved.name, 0, a.shape)


def _without_constants(op: Emit, node: NodeView, i: int) -> Value | None:
    value = node.optional(i)
    if value is None or value.dtype not in FLOATS:
        return value
    return None if node.may_omit(i) else zeros_like(op, value)


def _data(node: NodeView) -> int | None:
    """The one input that a node moves, its others being constants or no numbers of the signal; ``None`` where it is none such."""
    spec = spec_of(node)
    if spec is None or spec.family != "movement" or len(node.proto.output) != 1:
        return None
    found = [i for i, v in enumerate(node.inputs) if v is not None and v.dtype in FLOATS and node.model.constant(v.name) is None]
    return found[0] if len(found) == 1 else None
