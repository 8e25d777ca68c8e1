"""Added nodes and the quantisation of a model kept apart, where ONNX Runtime would join them into something that it cannot open.

ONNX Runtime moves Reshape, Transpose and their kind from behind a DequantizeLinear to before it, and from before a QuantizeLinear to
behind it. Two such moves end in a file that does not open (seen in 1.31): on float8, where there are no kernels for them, and on int8 from
opset 21 on, where it makes uint8 of the numbers and not of the declared type. And it lets ArgMax read the quantised numbers themselves,
float8 too. A Sum of one operand between the two is a plain copy, and nothing is moved past it.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from onnxsal.graph.standard import graphs
from onnxsal.ops.registry import REGISTRY

FLOAT8 = {code for name, code in TensorProto.DataType.items() if name.startswith("FLOAT8")}

TO, FROM = "QuantizeLinear", "DequantizeLinear"


def keep_apart(proto: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """``proto`` (changed in place) with a copy wherever a node named ``<prefix>/...`` and a quantisation that cannot take it meet."""
    if any(n.op_type in (TO, FROM) for n in proto.graph.node):
        opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
        types = {t.name: t.data_type for graph in graphs(proto) for t in graph.initializer}
        for graph in graphs(proto):
            _separate(graph, types, f"{prefix}/", opset)
    return proto


def _separate(graph: onnx.GraphProto, types: Mapping[str, int], prefix: str, opset: int) -> None:
    """Copies behind what dequantises and before what quantises, each once."""
    maker = {o: n for n in graph.node for o in n.output}
    nodes: list[onnx.NodeProto] = []
    copies: dict[str, str] = {}

    def copied(name: str) -> str:
        if name not in copies:
            copies[name] = f"{prefix}apart/{name}"
            nodes.append(helper.make_node("Sum", [name], [copies[name]], name=copies[name]))
        return copies[name]

    for node in graph.node:
        for i, name in enumerate(node.input):
            source = maker.get(name)
            if source is None:
                continue
            behind = source.op_type == FROM and _is_moved(node, prefix) and _is_risky(source, types, opset)
            before = node.op_type == TO and i == 0 and _is_moved(source, prefix) and _is_risky(node, types, opset)
            if behind or before:
                node.input[i] = copied(name)
        nodes.append(node)
    if copies:
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(kept)


def _is_moved(node: onnx.NodeProto, prefix: str) -> bool:
    """An added node that ONNX Runtime may move past a change of type (or one of its kind: a copy too many does no harm)."""
    spec = REGISTRY.get((node.domain, node.op_type))
    moved = node.op_type == "ArgMax" or (spec is not None and spec.family in ("movement", "max_pool"))
    return moved and node.name.startswith(prefix)


def _is_risky(node: onnx.NodeProto, types: Mapping[str, int], opset: int) -> bool:
    """Whether ONNX Runtime breaks on it: float8, int8 from opset 21 on, and what may be either."""
    kind = types.get(node.input[2]) if len(node.input) > 2 else None
    return kind is None or kind in FLOAT8 or (kind == TensorProto.INT8 and opset >= 21)
