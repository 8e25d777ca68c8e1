"""Replay the forward part on another input: for integration paths, noise, references, inside a loop body or beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import TensorProto

from onnxsal.graph.emit import Emit
from onnxsal.graph.model import Model, NodeView, Value, captured
from onnxsal.protos import graphs_of


def dependents(model: Model, source: str, targets: Iterable[str], others: Iterable[str] = ()) -> list[NodeView]:
    """The nodes on a path from ``source``, or from any of ``others``, to any of ``targets``, in forward order."""
    reached, path = {source, *others}, []
    for node in model.nodes:
        if reached.intersection((*node.proto.input, *captured(node.proto))):
            reached.update(filter(None, node.proto.output))
            path.append(node)
    needed, kept = set(targets), []
    for node in reversed(path):
        if needed.intersection(node.proto.output):
            kept.append(node)
            needed.update((*node.proto.input, *captured(node.proto)))
    return kept[::-1]


def replica(model: Model, source: str, targets: Iterable[str], prefix: str, others: Sequence[str] = ()) -> Model:
    """A view of the nodes from ``source`` (and ``others``) to ``targets`` with their tensors renamed ``<prefix>/<name>``.

    What does not depend on these (weights, constants, other inputs) is read from ``model`` itself. The replica has the
    types of the original, so a batch dimension that is symbolic there may have any size here.
    """
    nodes = dependents(model, source, targets, others)
    names = {source, *others, *(o for n in nodes for o in n.proto.output if o)}
    renamed = {n: f"{prefix}/{n}" for n in names}
    proto = onnx.ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node.proto)
        _rename(copy, renamed)
        proto.graph.node.append(copy)
    view = Model(proto, outer=model, copies=[n.index for n in nodes])
    view.__dict__["types"] = {renamed[n]: model.types[n] for n in names if n in model.types}
    return view


def reads_inputs(model: Model, view: Model) -> bool:
    """Whether a ``replica`` reads, besides its source, a tensor that depends on an input of the model (and so on its batch)."""
    fed = set(model.input_names)
    for node in model.nodes:
        if fed.intersection((*node.proto.input, *captured(node.proto))):
            fed.update(filter(None, node.proto.output))
    return any(fed.intersection((*n.proto.input, *captured(n.proto))) for n in view.nodes)


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    for names in (node.input, node.output):
        for i, name in enumerate(names):
            names[i] = renamed.get(name, name)
    for graph in graphs_of(node):
        for inner in graph.node:
            _rename(inner, renamed)
        for output in graph.output:
            output.name = renamed.get(output.name, output.name)


def replay(op: Emit, view: Model, source: str, start: Value, others: Mapping[str, Value] | None = None) -> None:
    """Emit the nodes of a ``replica``: its input tensors, ``source`` and ``others``, take the values given, cast to the model's types."""
    for name, value in {source: start, **(others or {})}.items():
        dtype = view.types[name][0]
        if dtype not in (TensorProto.FLOAT, TensorProto.INT64):
            op.Cast(value, to=dtype, name=name)
        else:
            op.Identity(value, name=name)
    for node in view.nodes:
        op.insert(node)
