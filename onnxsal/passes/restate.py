"""Write quantised operators again in floating point, for the walk; the file's own nodes make the values (``graph/originals.py``)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.originals import Original
from onnxsal.ops.expansion import Writer
from onnxsal.ops.restated import Graph, Restatement, restatement_of
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.passes.expand_contrib import Learnt
from onnxsal.passes.name_nodes import NAME_NODES


@dataclass(frozen=True)
class _Part:
    """Nodes that are written again together."""

    nodes: tuple[onnx.NodeProto, ...]
    copy: Restatement


def _parts(proto: onnx.ModelProto, graph: Graph) -> dict[int, _Part]:
    """The position of the last node of a part -> the part; of its other nodes nothing."""
    positions, found = {n.output[0]: i for i, n in enumerate(proto.graph.node) if n.output}, dict[int, _Part]()
    for node in proto.graph.node:
        copy = restatement_of(node)
        if copy is not None:
            nodes = (node, *copy.tail(node, graph))
            found[positions[nodes[-1].output[0]]] = _Part(tuple(onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes), copy)
    return found


def _run(proto: onnx.ModelProto) -> PassOutcome:
    NAME_NODES(proto)  # what is written is called after its node
    known = Learnt(proto)
    versions = {o.domain: o.version for o in proto.opset_import}
    nodes, originals, refused = list[onnx.NodeProto](), list[Original](), dict[str, str]()
    graph = Graph(proto.graph)
    parts = _parts(proto, graph)
    later = {name for part in parts.values() for node in part.nodes[:-1] for name in node.output}
    for i, node in enumerate(proto.graph.node):
        part = parts.get(i)
        if part is None:
            nodes += [] if later.intersection(node.output) else [onnx.NodeProto.FromString(node.SerializeToString())]
            continue
        writer = Writer(part.nodes[0], known.ranks, known.dtypes, graph.stored, known.taken, known.opset, known.sizes)
        writer.tail, writer.makers = part.nodes[1:], graph.maker
        try:
            limit = part.copy.write(writer) or part.copy.limit
        except ModelError as unknown:
            refused |= dict.fromkeys(part.nodes[0].output, str(unknown))
            nodes += part.nodes
        else:
            nodes += writer.nodes
            proto.graph.initializer.extend(writer.initializers)
            written = frozenset(name for node in writer.nodes for name in node.output)
            originals.append(Original(part.nodes, versions.get(part.nodes[0].domain, 1), limit, written))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    names = ", ".join(sorted({o.node.op_type for o in originals}))
    said = f"{len(originals)} node(s) explained in floating point around the same integers: {names}" if originals else ""
    return PassOutcome(len(originals), said, tuple(originals), refused)


RESTATE = Pass(
    "restate quantised operators",
    _run,
    requires=lambda proto: "" if any(restatement_of(n) for n in proto.graph.node) else "no operator that computes with quantised values",
    rewrites=True,
)
"""After the opset was raised, as the copies are of opset 18, and before fused operators are expanded, as copies may be fused ones."""
