"""Write quantised operators again in floating point, for the walk; the file's own nodes make the values (``graph/originals.py``)."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.infer import constant_tensor
from onnxsal.graph.originals import Original
from onnxsal.ops.expansion import Writer
from onnxsal.ops.restated import Restatement, restatement_of
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.passes.expand_contrib import known_types
from onnxsal.passes.name_nodes import NAME_NODES


def _copies(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Restatement | None]]:
    return ((node, restatement_of(node)) for node in proto.graph.node)


def _run(proto: onnx.ModelProto) -> PassOutcome:
    NAME_NODES(proto)  # what is written is called after its node
    ranks, dtypes = known_types(proto)
    constants = {t.name: t for t in proto.graph.initializer}
    constants |= {n.output[0]: t for n in proto.graph.node if (t := constant_tensor(n)) is not None}
    versions = {o.domain: o.version for o in proto.opset_import}
    nodes, originals, refused = list[onnx.NodeProto](), list[Original](), dict[str, str]()
    for node, copy in _copies(proto):
        kept = onnx.NodeProto.FromString(node.SerializeToString())
        written = [kept]
        if copy is not None:
            writer = Writer(kept, ranks, dtypes, constants)
            try:
                copy.write(writer)
            except ModelError as unknown:
                refused |= dict.fromkeys(node.output, str(unknown))
            else:
                written = writer.nodes
                proto.graph.initializer.extend(writer.initializers)
                originals.append(Original(kept, versions.get(node.domain, 1), copy.limit))
        nodes += written
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    names = ", ".join(sorted({o.node.op_type for o in originals}))
    said = f"{len(originals)} node(s) explained in floating point around the same integers: {names}" if originals else ""
    return PassOutcome(len(originals), said, tuple(originals), refused)


RESTATE = Pass(
    "restate quantised operators",
    _run,
    requires=lambda proto: "" if any(copy for _, copy in _copies(proto)) else "no operator that computes with quantised values",
    rewrites=True,
)
"""After the opset was raised, as the copies are of opset 18, and before fused operators are expanded, as copies may be fused ones."""
