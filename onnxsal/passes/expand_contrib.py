"""Write operators of other domains in standard ones: what ONNX Runtime fuses when it saves an optimised model, and classical models."""

from __future__ import annotations

from functools import partial

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.infer import Types, infer_shapes, types_of, without_weights
from onnxsal.graph.model import captured
from onnxsal.ops.expansion import Writer, expansion_of, partly
from onnxsal.passes.base import Pass, PassOutcome, forget_unused_domains

LAYOUT_DOMAINS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")


def _requires(proto: onnx.ModelProto) -> str:
    layout = [n for n in proto.graph.node if n.domain in LAYOUT_DOMAINS]
    if layout:
        raise ModelError(
            f"node '{layout[0].name}' ({layout[0].domain}.{layout[0].op_type}): the file was saved by ONNX Runtime with full optimisation, "
            "which writes layouts for one processor. Use the original model, or save with at most ORT_ENABLE_EXTENDED."
        )
    return "" if _to_write(proto) else "no fused operator"


def _to_write(proto: onnx.ModelProto) -> set[int]:
    """Indices of the nodes that are to be written in standard operators."""
    found = {i: n for i, n in enumerate(proto.graph.node) if expansion_of(n)}
    if any(partly(n) for n in found.values()):
        read, types = _read(proto), types_of(infer_shapes(without_weights(proto)))
        found = {i: n for i, n in found.items() if not ((some := partly(n)) and some.stays(n, read, types))}
    return set(found)


def _read(proto: onnx.ModelProto) -> set[str]:
    """Tensors that something reads, or that the model returns."""
    return {name for n in proto.graph.node for name in (*n.input, *captured(n))} | {o.name for o in proto.graph.output}


def _known(proto: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """How many axes the inputs and weights have and of which type their elements are, and what inference tells of the rest."""
    graph = infer_shapes(without_weights(proto)).graph
    known = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    ranks = {name: len(kind.shape.dim) for name, kind in known.items() if kind.HasField("shape")}
    dtypes = {name: kind.elem_type for name, kind in known.items() if kind.elem_type}
    constants = proto.graph.initializer
    return ranks | {t.name: len(t.dims) for t in constants}, dtypes | {t.name: t.data_type for t in constants}


def _types(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> Types:
    """What inference tells of the tensors that ``nodes`` make of the model's inputs and weights."""
    part = without_weights(proto)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(nodes)
    return types_of(infer_shapes(part))


def _beside(node: onnx.NodeProto, read: set[str]) -> list[onnx.NodeProto]:
    """The node itself, where it still makes what is read, such as the names of classes; what is written anew gets another name."""
    some = partly(node)
    if some is None or some.output is None or not read.intersection(o for i, o in enumerate(node.output) if i != some.output):
        return []
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    copy.output[some.output] = f"{node.output[some.output]}/beside"
    return [copy]


def _run(proto: onnx.ModelProto) -> PassOutcome:
    nodes: list[onnx.NodeProto] = []
    expanded, (ranks, dtypes) = [], _known(proto)
    constants = {t.name: t for t in proto.graph.initializer}
    chosen, read = _to_write(proto), _read(proto)
    for i, node in enumerate(proto.graph.node):
        if (expand := expansion_of(node)) and i in chosen:
            writer = Writer(node, ranks, dtypes, constants, partial(_types, proto, nodes))
            expand(writer)
            nodes += [*writer.nodes, *_beside(node, read)]
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
    ensures=lambda proto: "fused operators remain" if _to_write(proto) else "",
    rewrites=True,
)
"""After the opset was raised: the standard nodes it writes (LayerNormalization, CastLike) are those of opset 18."""
