"""Element types, shapes and constants of every tensor: ONNX shape inference, helped by folding the arithmetic on shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxsal.errors import ModelError
from onnxsal.graph.admit_data import bytes_at
from onnxsal.large import WEIGHT, light_copy
from onnxsal.limits import refuse_over
from onnxsal.protos import graphs_of
from onnxsal.untrusted import library_text

Dim = int | str | None
Shape = tuple[Dim, ...]
Types = dict[str, tuple[int, Shape | None]]

SMALL = 1 << 26
"""Bytes that no limit forbids."""

_VECTOR = 1 << 16
"""The longest vector whose values ONNX's inference may follow: it takes some 40 MB for it."""

_ROUNDS = 4
"""A folded shape can make the next one static; deeper chains than this stay dynamic, which is slower but as right."""


@dataclass(frozen=True)
class Inferred:
    """Types of all tensors, and the values of small tensors that no input can change."""

    types: Types
    constants: dict[str, np.ndarray] = field(default_factory=dict)


def infer(proto: onnx.ModelProto, bounded: bool = True) -> Inferred:
    """Shape inference and folding in turn, until nothing new is known. The model itself is not changed.

    Raises ``ModelError`` where the model contradicts itself, or (if ``bounded``) makes tensors that are larger than the limits, by what is
    known.
    """
    light = without_weights(proto)
    constants: dict[str, np.ndarray] = {}
    for _ in range(_ROUNDS):
        shapes = inferred(light)
        types = types_of(shapes)
        found = _fold(light, types)
        if not found:
            break
        constants |= found
        _replace(light, found)
    types |= {t.name: (t.data_type, tuple(t.dims)) for t in proto.graph.initializer}
    types |= {s.values.name: (s.values.data_type, tuple(s.dims)) for s in proto.graph.sparse_initializer}
    if bounded:
        _refuse_large(shapes.graph, types)
        _refuse_large_in_branches(light.graph, light.opset_import, [t for t in light.graph.initializer if math.prod(t.dims) <= WEIGHT])
    return Inferred(types, constants)


def _refuse_large(graph: onnx.GraphProto, types: Types) -> None:
    """No tensor that a node makes is larger than the limits, in branches those that no input can change. Raises ``ModelError``.

    Constants that are made of weights (which are packed up to eight times) may be as large as all weights when unpacked.
    """
    fixed = {t.name for t in graph.initializer} - {i.name for i in graph.input}
    for node in graph.node:
        constant = all(name in fixed for name in node.input if name)
        for name in node.output:
            kind, shape = types.get(name, (0, None))
            size = bytes_at(kind, [d for d in shape or () if isinstance(d, int)])
            if size > SMALL and not (constant and size <= 8 * sum(bytes_at(t.data_type, t.dims) for t in graph.initializer)):
                what = f"tensor '{name}' {shape_text(shape)} of node '{node.name or name}' ({node.op_type})"
                refuse_over("constant_bytes" if constant else "tensor_bytes", size, what, ModelError)
        fixed.update(node.output if constant else ())


def _refuse_large_in_branches(
    graph: onnx.GraphProto, imports: Sequence[onnx.OperatorSetIdProto], around: Sequence[onnx.TensorProto]
) -> None:
    """As ``_refuse_large``, of what subgraphs make of their own constants and of those ``around`` them: inference tells nothing of it."""
    for inner in (inner for node in graph.node for inner in graphs_of(node)):
        weights = [*around, *inner.initializer]
        fixed, nodes = {t.name for t in weights} - {i.name for i in inner.input}, []
        for node in inner.node:
            if all(name in fixed for name in node.input if name):
                nodes.append(node)
                fixed.update(node.output)
        if any(not is_stored(node) for node in nodes):
            alone = helper.make_model(helper.make_graph(nodes, "constants", [], [], weights), opset_imports=imports)
            _refuse_large(alone.graph, types_of(inferred(alone)))
        _refuse_large_in_branches(inner, imports, weights)


def contradicted(proto: onnx.ModelProto) -> dict[str, tuple[Shape, Shape]]:
    """Outputs and inner tensors whose declared shape is not what the graph computes: (declared, computed and else declared).

    The graph contradicts another rank, another number, and a number or a symbol of an input where it computes the symbol of
    another input. A declared size that it cannot compute stands.
    """
    declared = types_of(proto, ("output", "value_info"))
    if not declared:
        return {}
    bare = onnx.ModelProto()
    bare.CopyFrom(without_weights(proto))
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    symbols = {d for _, shape in types_of(proto, ("input",)).values() for d in shape or () if isinstance(d, str)}
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
        infer_shapes(without_weights(proto), check_type=True, strict_mode=True)
    except Exception as error:  # onnx raises several kinds here, without a common base
        return library_text(error)
    return ""


def shape_text(shape: Shape | None) -> str:
    """A shape in words."""
    if shape is None:
        return "of unknown shape"
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def infer_shapes(proto: onnx.ModelProto, **checks: bool) -> onnx.ModelProto:
    """ONNX's inference of types and shapes (``checks``: ``check_type``, ``strict_mode``), which also follows the values of sizes.

    It follows those of every vector of integers, one by one, known or not, at hundreds of bytes each; that is left out where a vector is
    long. Raises what onnx raises.
    """
    plain = onnx.shape_inference.infer_shapes(proto, **checks)
    vectors = (shape[0] for _, shape in types_of(plain).values() if shape is not None and len(shape) == 1)
    if any(isinstance(size, int) and size > _VECTOR for size in vectors):
        return plain
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True, **checks)
    except onnx.shape_inference.InferenceError as error:
        if "already exists" not in str(error):
            raise
        return plain  # of a body inside a body the values are followed twice, which onnx takes for a contradiction


def inferred(light: onnx.ModelProto) -> onnx.ModelProto:
    """As ``infer_shapes``, of a model without weights. Raises ``ModelError``."""
    try:
        return infer_shapes(light)
    except Exception as error:  # onnx raises several kinds here, without a common base
        raise ModelError(
            f"the model contradicts itself: {library_text(error)}. Run onnx.checker.check_model on it, or export it again."
        ) from error


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the weights' data (they are most of the memory), and without what trips shape inference."""
    light = light_copy(proto)
    light.graph.name = proto.graph.name or "graph"
    for node in light.graph.node:
        if node.op_type == "GroupNormalization":
            # onnx infers nothing for it, nor for what follows. Its output has the type and shape of its first input, which a Dropout's
            # has too, and neither is ever folded into a constant.
            node.op_type = "Dropout"
            del node.input[1:], node.attribute[:]
        elif node.op_type == "STFT" and all(a.name != "onesided" for a in node.attribute):
            # inference takes it for 0 where it is left out; it is 1
            node.attribute.append(helper.make_attribute("onesided", 1))
    if any(a.name == "ceil_mode" and a.i for n in light.graph.node for a in n.attribute):
        # Below opset 22 inference also counts windows that would begin beyond the input, which no runtime makes.
        for entry in light.opset_import:
            entry.version = max(entry.version, 22) if entry.domain in ("", "ai.onnx") and entry.version >= 18 else entry.version
    return light


def types_of(inferred: onnx.ModelProto, fields: Sequence[str] = ("value_info", "output", "input")) -> Types:
    """Element types and shapes that a model declares for its tensors (``fields``: for which of them), weights included."""
    infos = [info for field in fields for info in getattr(inferred.graph, field)]
    known = {i.name: (i.type.tensor_type.elem_type, _shape_of(i.type.tensor_type)) for i in infos if i.type.HasField("tensor_type")}
    return known | {t.name: (t.data_type, tuple(t.dims)) for t in inferred.graph.initializer}


def _shape_of(tensor: onnx.TypeProto.Tensor) -> Shape | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) if d.HasField("dim_param") else None for d in tensor.shape.dim
    )


def is_stored(node: onnx.NodeProto) -> bool:
    """Whether the node is a stored tensor."""
    # a way of storing, as initialisers are, rather than an operator
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node holds as such; ``None`` for other nodes."""
    return next((a.t for a in node.attribute if a.name == "value"), None) if is_stored(node) else None


def constant_value(node: onnx.NodeProto) -> np.ndarray | None:
    """The array of a Constant node, whichever attribute holds it; ``None`` for other nodes."""
    for attribute in node.attribute if is_stored(node) else ():
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attribute), np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attribute), np.int64)
    return None


def _is_small(types: Types, name: str) -> bool:
    shape = types.get(name, (0, None))[1]
    return shape is not None and all(isinstance(d, int) for d in shape) and int(np.prod([d for d in shape if isinstance(d, int)])) <= WEIGHT


def _fold(light: onnx.ModelProto, types: Types) -> dict[str, np.ndarray]:
    """Values of Shape nodes over static tensors, and of the arithmetic on them and on small initialisers."""
    overridable = {i.name for i in light.graph.input}
    fixed = {t.name for t in light.graph.initializer} - overridable
    feeds: dict[str, np.ndarray] = {}
    nodes = []
    available = set(fixed)
    for node in (_by_values(n, types) for n in light.graph.node if n.domain in ("", "ai.onnx")):
        if is_stored(node):
            value = constant_value(node)
            if value is not None and value.size <= WEIGHT and value.dtype.kind in "ifub":
                feeds[node.output[0]] = value
                available.add(node.output[0])
        elif node.op_type == "Shape":  # the operator that this knowledge is for: its value comes from a shape, not from values
            shape = types.get(node.input[0], (0, None))[1]
            if shape is not None and all(isinstance(d, int) for d in shape):
                begin = next((a.i for a in node.attribute if a.name == "start"), 0)
                end = next((a.i for a in node.attribute if a.name == "end"), len(shape))
                feeds[node.output[0]] = np.asarray(shape[slice(begin, end)], np.int64)
                available.add(node.output[0])
        elif _is_fixed(light, node) and all(n in available for n in node.input if n) and all(_is_small(types, o) for o in node.output):
            nodes.append(node)
            available.update(node.output)
    return feeds | _evaluate(light, nodes, feeds)


def _by_values(node: onnx.NodeProto, types: Types) -> onnx.NodeProto:
    """The node as one that needs no more than the values of its inputs."""
    # it reads the type of its second input alone: exporters write the bounds of a Clip so, beside the data that they bound
    code = types.get(node.input[1], (0, None))[0] if node.op_type == "CastLike" else 0
    if not code:
        return node
    # what it is, said in one node that the reference evaluator runs without that input
    cast = helper.make_node("Cast", node.input[:1], node.output, to=code)
    cast.attribute.extend(node.attribute)
    return cast


def _is_fixed(light: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether the standard says that the node's inputs decide its outputs: it draws no numbers and holds no graph."""
    opset = next((e.version for e in light.opset_import if e.domain in ("", "ai.onnx")), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.node_determinism == onnx.defs.OpSchema.NodeDeterminism.Deterministic)


def _evaluate(light: onnx.ModelProto, nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of the foldable nodes by the reference evaluator; those that it has no answer for are not known, nor what hangs on them."""
    values = feeds | {t.name: numpy_helper.to_array(t) for t in light.graph.initializer}
    found: dict[str, np.ndarray] = {}
    for node in nodes:
        given = {n: values.get(n) for n in node.input if n}
        if any(value is None for value in given.values()):
            continue
        ends = ([onnx.ValueInfoProto(name=n) for n in names] for names in (given, node.output))
        try:
            evaluator = ReferenceEvaluator(helper.make_model(helper.make_graph([node], "fold", *ends), opset_imports=light.opset_import))
            results = evaluator.run(None, given)
        except Exception:  # onnx raises several kinds here, without a common base; not to know a constant is no mistake
            continue
        found |= {name: np.asarray(value) for name, value in zip(node.output, results, strict=True)}
        values |= found
    return found


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
