"""Give an integer picture its floating-point numbers first, and move them then: bytes that are turned, cut or joined before the Cast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx

from onnxsal.facts.tokens import INTEGERS, candidates
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.registry import facts_of, spec_of

MADE = "onnxsal/numbers/"
"""Before the name of an integer input: its numbers in floating point."""


@dataclass
class Rearranged:
    """An integer input, the tensors that hold its entries in another place, and the nodes that make floating point of these."""

    tensors: set[str]
    casts: list[NodeView] = field(default_factory=list)


def cast_first(model: Model) -> bool:
    """Where an integer input's entries are moved and then cast to floating point, cast them first: ``Cast(move(x)) = move(Cast(x))``, bit
    for bit, and the tensor explained has the shape of the input.

    Only in models without floating-point inputs and tables of words, whose forward part stays as it is. Returns whether the ``ModelProto``
    was changed.
    """
    kinds = {name: model.value(name).dtype for name in model.input_names}
    if any(kind in FLOATS for kind in kinds.values()) or candidates(model):
        return False
    found = {name: moved for name, kind in kinds.items() if kind in INTEGERS and (moved := _moved(model, name)) is not None}
    for name, moved in found.items():
        _change(model, name, moved)
    return bool(found)


def _moved(model: Model, name: str) -> Rearranged | None:
    """The tensors that hold entries of an input; ``None`` where none are moved, or they are used otherwise too."""
    found, moves = Rearranged({name}), 0
    for node in model.nodes:
        read = [n for n in (*node.proto.input, *captured(node.proto)) if n in found.tensors]
        if not read or facts_of(node).of_sizes:
            continue
        spec = spec_of(node)
        if spec is not None and spec.keeps == "place" and node.outputs[0] is not None and node.y.dtype in FLOATS:
            found.casts.append(node)
        elif _moves(node, found.tensors):
            moves += 1
            found.tensors.update(filter(None, node.proto.output))
        else:
            return None
    targets = {node.y.dtype for node in found.casts}
    alone = found.tensors.isdisjoint(model.output_names)
    return found if moves and len(targets) == 1 and alone else None


def _moves(node: NodeView, tensors: set[str]) -> bool:
    """Whether a node puts entries of ``tensors`` elsewhere, and nothing beside them."""
    spec = spec_of(node)
    if spec is None or spec.family != "movement" or node.proto.input[0] not in tensors or captured(node.proto):
        return False
    others = [v for v in node.inputs[1:] if v is not None and v.name not in tensors]
    if (spec.fills(node) and others) or any(v is not None and v.dtype != node.x.dtype for v in node.outputs):
        return False
    return spec.keeps in ("order", "elements") or all(v.dtype != node.x.dtype for v in others)


def _change(model: Model, name: str, moved: Rearranged) -> None:
    graph, made = model.proto.graph, MADE + name
    first = onnx.NodeProto()
    first.CopyFrom(moved.casts[0].proto)
    first.name, first.input[:], first.output[:] = made, [name], [made]
    graph.node.insert(0, first)
    for node in graph.node[1:]:
        if not facts_of(node).of_sizes:
            node.input[:] = [made if n == name else n for n in node.input]
    _forget(graph, moved.tensors - {name})


def _forget(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Drop what is declared of tensors that now hold another type."""
    gone = set(names)
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name not in gone]
    del graph.value_info[:]
    graph.value_info.extend(kept)
