"""Replay the forward part on another input: for integration paths, noise, references, inside a loop body or beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import TensorProto

from onnxsal.graph.emit import Emit
from onnxsal.graph.infer import Inferred
from onnxsal.graph.model import GRID, Model, NodeView, Value, captured
from onnxsal.graph.originals import Original, as_run
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
        rename(copy, renamed)
        for graph in graphs_of(copy):
            set_apart(graph, prefix)
        proto.graph.node.append(copy)
    originals = [_moved(original, prefix, renamed) for original in model.originals if _whole(model, original, source)]
    view = Model(proto, outer=model, copies=[n.index for n in nodes], originals=originals)
    view.take(Inferred({renamed[n]: model.types[n] for n in names if n in model.types}))
    return view


def in_a_row(view: Model, source: Value, runs: str) -> None:
    """From here on a ``replica`` is of several runs in a row: what had as many rows as ``source`` has as many as there are ``runs``."""
    one = source.shape[0] if source.shape else None
    types = {
        name: (kind, None if shape is None else tuple(runs if isinstance(d, str) and d == one else d for d in shape))
        for name, (kind, shape) in view.types.items()
    }
    view.take(Inferred(types))


def _moved(original: Original, prefix: str, renamed: Mapping[str, str]) -> Original:
    """The original on renamed tensors; none of its outputs keeps its name."""
    names = {**{name: f"{prefix}/{name}" for name in (*original.outputs, *original.inner)}, **renamed}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in original.nodes]
    for node in nodes:
        rename(node, names)
    return replace(original, nodes=tuple(nodes))


def _whole(model: Model, original: Original, source: str) -> bool:
    """Whether ``source`` is outside of the original's copy: what begins inside of it does not go through the original."""
    ends, todo, inner = original.reads, list(original.outputs), set[str]()
    while todo:
        name = todo.pop()
        if name not in ends | inner:
            inner.add(name)
            node = model.producer.get(name)
            todo += [] if node is None else [n for n in (*node.proto.input, *captured(node.proto)) if n]
    return source not in inner - set(original.outputs)


def constants(model: Model) -> set[str]:
    """Tensors that ONNX Runtime makes constants when it opens the file: what no input can change and is not computed from a grid, found
    once. (It keeps weights that are quantised as they are.)
    """
    return model.once("constants", lambda: _constants(model))


def _constants(model: Model) -> set[str]:
    found = {name for name in model.initializers if not model.overridable(name)}
    for node in model.nodes:
        plain = all(name in found and model.value(name).dtype not in GRID for name in node.proto.input if name)
        if plain and not captured(node.proto):
            found.update(filter(None, node.proto.output))
    return found


def reads_inputs(model: Model, view: Model) -> bool:
    """Whether a ``replica`` reads, besides its source, a tensor that depends on an input of the model (and so on its batch)."""
    fed = set(model.input_names)
    for node in model.nodes:
        if fed.intersection((*node.proto.input, *captured(node.proto))):
            fed.update(filter(None, node.proto.output))
    return any(fed.intersection((*n.proto.input, *captured(n.proto))) for n in view.nodes)


def rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Give tensors other names, in the node and in what its graphs read of them."""
    for names in (node.input, node.output):
        for i, name in enumerate(names):
            names[i] = renamed.get(name, name)
    for graph in graphs_of(node):
        own = {i.name for i in graph.input} | {t.name for t in graph.initializer} | {o for n in graph.node for o in n.output}
        around = {name: new for name, new in renamed.items() if name not in own}
        for inner in graph.node:
            rename(inner, around)
        for output in graph.output:
            output.name = around.get(output.name, output.name)


def set_apart(graph: onnx.GraphProto, prefix: str, around: Mapping[str, str] | None = None) -> None:
    """Give every tensor of a graph, and of those in it, a name that begins with ``<prefix>/``; tensors ``around`` it have new names too.

    Graphs may use the same names, but ONNX's inference of values then takes the tensors of the one for those of the other.
    """
    own = [*(i.name for i in graph.input), *(t.name for t in graph.initializer), *(o for n in graph.node for o in n.output if o)]
    names = {n: new for n, new in (around or {}).items() if n not in own}
    names |= {n: f"{prefix}/{n}" for n in own if not n.startswith(f"{prefix}/")}
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for i, name in enumerate(ends):
                ends[i] = names.get(name, name)
        for inner in graphs_of(node):
            set_apart(inner, prefix, names)


def replay(op: Emit, view: Model, source: str, start: Value, others: Mapping[str, Value] | None = None) -> None:
    """Emit the nodes of a ``replica``, with its originals; its input tensors, ``source`` and ``others``, take the values given, cast to
    the model's types.
    """
    for name, value in {source: start, **(others or {})}.items():
        dtype = view.types[name][0]
        if dtype not in (TensorProto.FLOAT, TensorProto.INT64):
            op.Cast(value, to=dtype, name=name)
        else:
            op.Identity(value, name=name)
    for proto in as_run([n.proto for n in view.nodes], view.originals):
        op.insert(NodeView(view, proto, len(view.nodes)))
