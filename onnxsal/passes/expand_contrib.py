"""Expand ONNX Runtime's fused operators (com.microsoft), which saving an optimised model writes, into standard ones."""

from __future__ import annotations

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.infer import infer_shapes, without_weights
from onnxsal.ops.expansion import Writer, expansion_of
from onnxsal.passes.base import Pass, PassOutcome, forget_unused_domains

LAYOUT_DOMAINS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")


def _requires(proto: onnx.ModelProto) -> str:
    layout = [n for n in proto.graph.node if n.domain in LAYOUT_DOMAINS]
    if layout:
        raise ModelError(
            f"node '{layout[0].name}' ({layout[0].domain}.{layout[0].op_type}): the file was saved by ONNX Runtime with full optimisation, "
            "which writes layouts for one processor. Use the original model, or save with at most ORT_ENABLE_EXTENDED."
        )
    return "" if any(expansion_of(n) for n in proto.graph.node) else "no fused operator"


def known_types(proto: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """How many axes the inputs and weights have and of which type their elements are, and what inference tells of the rest."""
    graph = infer_shapes(without_weights(proto)).graph
    known = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    ranks = {name: len(kind.shape.dim) for name, kind in known.items() if kind.HasField("shape")}
    dtypes = {name: kind.elem_type for name, kind in known.items() if kind.elem_type}
    constants = proto.graph.initializer
    return ranks | {t.name: len(t.dims) for t in constants}, dtypes | {t.name: t.data_type for t in constants}


def _run(proto: onnx.ModelProto) -> PassOutcome:
    nodes: list[onnx.NodeProto] = []
    expanded, (ranks, dtypes) = [], known_types(proto)
    constants = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        if expand := expansion_of(node):
            writer = Writer(node, ranks, dtypes, constants)
            expand(writer)
            nodes += writer.nodes
            proto.graph.initializer.extend(writer.initializers)
            expanded.append(node.op_type)
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    forget_unused_domains(proto)
    names = ", ".join(sorted(set(expanded)))
    return PassOutcome(len(expanded), f"expanded {len(expanded)} fused node(s): {names}")


EXPAND_CONTRIB = Pass(
    "expand fused operators",
    _run,
    requires=_requires,
    ensures=lambda proto: "fused operators remain" if any(expansion_of(n) for n in proto.graph.node) else "",
    rewrites=True,
)
"""After the opset was raised: the standard nodes it writes (LayerNormalization, CastLike) are those of opset 18."""
