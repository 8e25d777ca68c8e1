"""Which nodes of a model have no kernel on a provider of ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from onnxsal.graph import Model, NodeView
from onnxsal.runtime.kernels import has_kernel


def missing_kernels(model: Model, provider: str) -> dict[str, int]:
    """'Operator(element types)' -> number of nodes without a kernel on the provider, loop bodies included."""
    found: Counter[str] = Counter()
    for node in model.nodes:
        types = _free_types(node)
        if not _runs(node.domain, node.op_type, node.opset, types, provider):
            found[f"{node.op_type}({', '.join(sorted(set().union(*types.values())))})"] += 1
        for attribute in node.proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found.update(n.op_type for n in attribute.g.node if not _runs(n.domain, n.op_type, model.opset, {}, provider))
    return dict(found)


def _free_types(node: NodeView) -> dict[str, set[str]]:
    """Type parameter -> element types of its operands, which the operator leaves open (indices are always int64) and kernels restrict."""
    try:
        schema = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
    except onnx.defs.SchemaError:
        return {"": {_type(v.dtype) for v in (*node.inputs, *node.outputs) if v is not None and v.dtype}}
    free = {c.type_param_str for c in schema.type_constraints}
    both = ((node.inputs, schema.inputs), (node.outputs, schema.outputs))
    pairs = ((v, formal[min(i, len(formal) - 1)]) for given, formal in both for i, v in enumerate(given))
    found: dict[str, set[str]] = {}
    for value, formal in pairs:
        if value is not None and value.dtype and formal.type_str in free:
            found.setdefault(formal.type_str, set()).add(_type(value.dtype))
    return found


def _runs(domain: str, op_type: str, opset: int, types: Mapping[str, set[str]], provider: str) -> bool:
    """Constants fold away and functions are inlined before a provider is asked for a kernel."""
    # a way of storing tensors, which runtimes read as initialisers
    if op_type == "Constant" or has_kernel(provider, domain, op_type, opset, types):
        return True
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function) and not has_kernel(provider, domain, op_type, opset, {})


def _type(dtype: int) -> str:
    return str(TensorProto.DataType.Name(dtype)).lower()
