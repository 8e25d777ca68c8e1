"""Element types, shapes and constants of every tensor: ONNX shape inference, helped by folding the arithmetic on shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxsal.errors import ModelError

Dim = int | str | None
Shape = tuple[Dim, ...]
Types = dict[str, tuple[int, Shape | None]]

_FOLD_LIMIT = 1024
"""Initialisers with more elements than this are weights, not shape arithmetic; shape inference does not need their data."""

_ROUNDS = 4
"""A folded shape can make the next one static; deeper chains than this stay dynamic, which is slower but as right."""

_ARITHMETIC = frozenset(
    {"Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Greater"}
    | {"Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"}
    | {"Reshape", "ScatterND", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"}
)
"""Operators that shapes, axes and sizes are computed with."""


@dataclass(frozen=True)
class Inferred:
    """Types of all tensors, and the values of small tensors that no input can change."""

    types: Types
    constants: dict[str, np.ndarray] = field(default_factory=dict)


def infer(proto: onnx.ModelProto) -> Inferred:
    """Shape inference and folding in turn, until nothing new is known. The model itself is not changed."""
    light = without_weights(proto)
    constants: dict[str, np.ndarray] = {}
    for _ in range(_ROUNDS):
        types = _types(_inferred(light))
        found = _fold(light, types)
        if not found:
            break
        constants |= found
        _replace(light, found)
    types |= {t.name: (t.data_type, tuple(t.dims)) for t in proto.graph.initializer}
    types |= {s.values.name: (s.values.data_type, tuple(s.dims)) for s in proto.graph.sparse_initializer}
    return Inferred(types, constants)


def contradicted(proto: onnx.ModelProto) -> dict[str, tuple[Shape, Shape]]:
    """Outputs and inner tensors whose declared shape is not what the graph computes: (declared, computed and else declared).

    The graph contradicts another rank, another number, and a number or a symbol of an input where it computes the symbol of
    another input. A declared size that it cannot compute stands.
    """
    declared = _types(proto, ("output", "value_info"))
    if not declared:
        return {}
    bare = onnx.ModelProto()
    bare.CopyFrom(without_weights(proto))
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    symbols = {d for _, shape in _types(proto, ("input",)).values() for d in shape or () if isinstance(d, str)}
    computed, wrong = infer(bare).types, {}
    for name, (_, was) in declared.items():
        now = computed.get(name, (0, None))[1]
        if was is None or now is None:
            continue
        if len(was) != len(now) or any(_differ(a, b, symbols) for a, b in zip(was, now, strict=True)):
            rest = was if len(was) == len(now) else now
            wrong[name] = (was, tuple(b if isinstance(b, int) or b in symbols else a for a, b in zip(rest, now, strict=True)))
    return wrong


def _differ(declared: Dim, computed: Dim, symbols: set[str]) -> bool:
    if isinstance(computed, int):
        return isinstance(declared, int) and declared != computed
    return computed in symbols and declared != computed and (isinstance(declared, int) or declared in symbols)


def contradiction(proto: onnx.ModelProto) -> str:
    """What ONNX's strict inference of types and shapes says against a model ('' = nothing). ONNX Runtime forgives some of it."""
    try:
        onnx.shape_inference.infer_shapes(without_weights(proto), check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises several kinds here, without a common base
        return str(error)
    return ""


def dims_text(shape: Shape) -> str:
    """A shape in words."""
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def _inferred(light: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception as error:  # onnx raises several kinds here, without a common base
        raise ModelError(f"the model contradicts itself: {error}. Run onnx.checker.check_model on it, or export it again.") from error


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the weights' data (they are most of the memory), and without what trips shape inference."""
    light = onnx.ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    light.graph.name = proto.graph.name or "graph"
    light.graph.node.extend(proto.graph.node)
    for node in light.graph.node:
        if node.op_type == "GroupNormalization":
            # onnx infers nothing for it, nor for what follows; its output has the type and shape of its first input.
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    light.graph.input.extend(proto.graph.input)
    light.graph.output.extend(proto.graph.output)
    light.graph.value_info.extend(proto.graph.value_info)
    declared = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if int(np.prod(tensor.dims, dtype=np.int64)) <= _FOLD_LIMIT:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for sparse in proto.graph.sparse_initializer:
        light.graph.sparse_initializer.append(sparse)
    if any(a.name == "ceil_mode" and a.i for n in light.graph.node for a in n.attribute):
        # Below opset 22 inference also counts windows that would begin beyond the input, which no runtime makes.
        for entry in light.opset_import:
            entry.version = max(entry.version, 22) if entry.domain in ("", "ai.onnx") and entry.version >= 18 else entry.version
    return light


def _types(inferred: onnx.ModelProto, fields: Sequence[str] = ("value_info", "output", "input")) -> Types:
    infos = [info for field in fields for info in getattr(inferred.graph, field)]
    known = {i.name: (i.type.tensor_type.elem_type, _shape_of(i.type.tensor_type)) for i in infos if i.type.HasField("tensor_type")}
    return known | {t.name: (t.data_type, tuple(t.dims)) for t in inferred.graph.initializer}


def _shape_of(tensor: onnx.TypeProto.Tensor) -> Shape | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) if d.HasField("dim_param") else None for d in tensor.shape.dim
    )


def constant_value(node: onnx.NodeProto) -> np.ndarray | None:
    """The array of a Constant node, whichever attribute holds it."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attribute), np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attribute), np.int64)
    return None


def _is_small(types: Types, name: str) -> bool:
    shape = types.get(name, (0, None))[1]
    return (
        shape is not None
        and all(isinstance(d, int) for d in shape)
        and int(np.prod([d for d in shape if isinstance(d, int)])) <= _FOLD_LIMIT
    )


def _fold(light: onnx.ModelProto, types: Types) -> dict[str, np.ndarray]:
    """Values of Shape nodes over static tensors, and of the arithmetic on them and on small initialisers."""
    overridable = {i.name for i in light.graph.input}
    fixed = {t.name for t in light.graph.initializer} - overridable
    feeds: dict[str, np.ndarray] = {}
    nodes = []
    available = set(fixed)
    for node in light.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Constant":
            value = constant_value(node)
            if value is not None and value.size <= _FOLD_LIMIT and value.dtype.kind in "ifub":
                feeds[node.output[0]] = value
                available.add(node.output[0])
        elif node.op_type == "Shape":
            shape = types.get(node.input[0], (0, None))[1]
            if shape is not None and all(isinstance(d, int) for d in shape):
                begin = next((a.i for a in node.attribute if a.name == "start"), 0)
                end = next((a.i for a in node.attribute if a.name == "end"), len(shape))
                feeds[node.output[0]] = np.asarray(shape[slice(begin, end)], np.int64)
                available.add(node.output[0])
        elif node.op_type in _ARITHMETIC and all(n in available for n in node.input if n) and all(_is_small(types, o) for o in node.output):
            nodes.append(node)
            available.update(node.output)
    return feeds | _evaluate(light, nodes, feeds)


def _evaluate(light: onnx.ModelProto, nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All foldable nodes in one run of the reference evaluator; nothing is known where that fails."""
    outputs = [o for n in nodes for o in n.output if o]
    if not outputs:
        return {}
    used = {n for node in nodes for n in node.input}
    given = {k: v for k, v in feeds.items() if k in used}
    graph = helper.make_graph(
        nodes,
        "fold",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given.items()],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [t for t in light.graph.initializer if t.name in used],
    )
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=light.opset_import))
    return {k: np.asarray(v) for k, v in zip(outputs, evaluator.run(None, given), strict=True)}


def _replace(light: onnx.ModelProto, found: dict[str, np.ndarray]) -> None:
    """Folded tensors become initialisers of the light copy, so that the next round of inference reads them."""
    nodes = [n for n in light.graph.node if not all(o in found or not o for o in n.output)]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del light.graph.node[:]
    light.graph.node.extend(copies)
    produced = {o.name for o in light.graph.output}
    light.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), k) for k, v in found.items() if k not in produced
    )
