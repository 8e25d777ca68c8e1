"""Values that follow from sizes that are known, among others that are not: whether an axis has the size 1, how many axes there are.

What inference folds needs every size of a tensor; a condition may ask for one of them.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxsal.graph import Model, NodeView, Value
from onnxsal.graph.model import captured
from onnxsal.large import WEIGHT
from onnxsal.ops.control import OPEN, sizes_told
from onnxsal.ops.registry import family_of

Array = np.ndarray


def value_of(node: NodeView, i: int) -> Array | None:
    """Input i of a node, if no input of the model can change it; ``None``: it can, or it is not known."""
    value = node.optional(i)
    found = None if value is None else _value(node.model, value.name)
    return None if found is None or _open(found) else found


def _open(array: Array) -> bool:
    return array.dtype == np.int64 and bool((array == OPEN).any())


def _value(model: Model, name: str) -> Array | None:
    """The value of a tensor; sizes that are not known are ``OPEN`` in it."""
    node = model.producer.get(name)
    if node is None and model.outer is not None and name not in model.types:
        return _value(model.outer, name)
    found = model.constant(name)
    if found is not None or node is None:
        return found
    return model.once(("value", name), lambda: _made(node, name))


def _made(node: NodeView, name: str) -> Array | None:
    told = sizes_told(node)
    if told is not None:
        return told
    values = [_value(node.model, n) if n else None for n in node.proto.input]
    if not values or any(v is None and n for v, n in zip(values, node.proto.input, strict=True)) or captured(node.proto):
        return None
    known = {n: v for n, v in zip(node.proto.input, values, strict=True) if n and v is not None}
    # a size that is not known may be moved, and is not calculated with
    moves = family_of(node) == "movement" and node.attr("reduction") in (None, "none")
    if any(v.size > WEIGHT or (_open(v) and not moves) for v in known.values()) or not all(map(is_small, node.outputs)):
        return None
    if not _is_determined(node):
        return None
    ends = ([onnx.ValueInfoProto(name=n) for n in names] for names in (known, filter(None, node.proto.output)))
    graph = helper.make_graph([node.proto], "value", *ends)
    try:
        results = ReferenceEvaluator(helper.make_model(graph, opset_imports=node.model.proto.opset_import)).run(None, known)
    except Exception:  # onnx raises several kinds here, without a common base; not to know a value is no mistake
        return None
    return np.asarray(dict(zip(filter(None, node.proto.output), results, strict=True))[name])


def is_small(value: Value | None) -> bool:
    """Whether a tensor is known to have few elements: what is calculated here is no more than that."""
    return value is None or (value.static is not None and math.prod(value.static) <= WEIGHT)


def _is_determined(node: NodeView) -> bool:
    """Whether the standard says that the node's inputs decide its outputs."""
    try:
        schema = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.node_determinism == onnx.defs.OpSchema.NodeDeterminism.Deterministic)
