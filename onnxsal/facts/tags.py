"""Tag nodes by what they do, however the exporter wrote it: rules match tags, so they need not know spellings."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxsal.facts.linear_layers import tag_linear_layers
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.graph.helpers import is_zero
from onnxsal.graph.model import captured

RECTIFIER = "rectifier"
"""Zero below zero, the identity just above: Relu, Clip(0, .), Max(x, 0), and the QuantizeLinear that swallowed one of them."""

RESIDUAL = "residual"
"""An addition of activations: where a shortcut ends."""

PRODUCT = "product"
"""A product of activations: gates, squeeze-and-excite, attention."""

BATCHNORM = "batchnorm"
"""Batch normalisation in any of its forms that are nodes of their own (the fourth, folded into a layer, is none)."""

_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt"})
_KEEP_SIGN = frozenset(
    {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceSum", "Concat", "Add", "Sum", "Mul"}
    | {
        "Max",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Identity",
        "Dropout",
        "Slice",
        "Split",
        "Gather",
        "Expand",
        "Tile",
    }
    | {"DepthToSpace", "SpaceToDepth"}
)
"""Operators whose output is never negative, and those for which that is so if no floating-point input is."""

PRODUCTS = ("Mul", "Div", "MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose")


def is_rectifier(node: NodeView) -> bool:
    """Whether the node clips its input at zero from below."""
    if node.domain:
        return False
    if node.op_type == "Relu":
        return True
    if node.op_type == "Clip":
        return is_zero(node.const(1))
    if node.op_type == "Max":
        return any(is_zero(node.const(i)) for i in range(len(node.inputs)))
    if node.op_type == "QuantizeLinear":
        # where nothing negative can arrive, as after a pool, no ReLU was swallowed; nor at the model's input
        made = node.x.name in node.model.producer
        return made and _starts_at_zero(node) and not never_negative(node.model, node.x.name)
    return False


def _starts_at_zero(node: NodeView) -> bool:
    """Whether zero is the lowest value on the grid of a QuantizeLinear or DequantizeLinear."""
    zero_point = node.const(2)
    if zero_point is None:
        unsigned = node.op_type == "DequantizeLinear" and node.x.dtype in (TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT4)
        return unsigned or (node.op_type == "QuantizeLinear" and len(node.inputs) < 3 and node.attr("output_dtype") in (0, None))
    return zero_point.dtype.kind in "iu" and bool(np.all(zero_point == np.iinfo(zero_point.dtype).min))


def never_negative(model: Model, name: str) -> bool:
    """Whether it can be seen from the graph that a tensor has no negative element."""
    known, node = model.constant(name), model.producer.get(name)
    if known is not None:
        return bool(np.all(known >= 0))
    if node is None or node.domain:
        return False
    if node.op_type == "DequantizeLinear":
        return _starts_at_zero(node)
    if node.op_type == "Clip":
        low = node.const(1)
        return low is not None and bool(np.all(low >= 0))
    if node.op_type in _KEEP_SIGN:
        return all(never_negative(model, v.name) for v in node.inputs if v is not None and v.dtype in FLOATS)
    return node.op_type in _NEVER_NEGATIVE


def data_dependent(model: Model) -> set[str]:
    """Tensors that an input of the model can change (a weight that is listed as an input too stays a weight)."""
    found = set(model.input_names)
    for node in model.nodes:
        if found.intersection((*node.proto.input, *captured(node.proto))):
            found.update(filter(None, node.proto.output))
    return found


def is_residual(node: NodeView, dependent: set[str]) -> bool:
    """Whether the node adds two activations or more (a bias, or a batch normalisation's shift, is a constant)."""
    return not node.domain and node.op_type in ("Add", "Sum", "Sub", "Mean") and _changing(node, dependent) > 1


def is_product(node: NodeView, dependent: set[str]) -> bool:
    """Whether the node multiplies, divides or correlates activations with each other."""
    if node.domain or node.op_type not in PRODUCTS:
        return False
    return _changing(node, dependent, None if node.op_type == "Einsum" else 2) > 1


def _changing(node: NodeView, dependent: set[str], first: int | None = None) -> int:
    inputs = node.inputs[:first]
    return sum(v is not None and v.name in dependent and v.dtype in FLOATS | {0} for v in inputs)


def batchnorm_nodes(model: Model, dependent: set[str]) -> set[int]:
    """Indices of the nodes that make batch normalisations: the operator, or Sub, Mul, Add and Mul, Add with constants per channel."""
    found = set()
    for node in model.nodes:
        if node.op_type == "BatchNormalization" and not node.domain:
            found.add(node.index)
        if not _per_channel(node, dependent, ("Mul", "Div")):
            continue
        readers = model.consumers.get(node.y.name, [])
        if len(readers) == 1 and _per_channel(readers[0], dependent, ("Add", "Sub")):
            found |= {node.index, readers[0].index}
            before = next((model.producer.get(n) for n in node.proto.input if n in dependent), None)
            alone = before is not None and len(model.consumers.get(before.y.name, [])) == 1
            if before is not None and alone and _per_channel(before, dependent, ("Sub", "Add")):
                found.add(before.index)
    return found


def _per_channel(node: NodeView, dependent: set[str], op_types: tuple[str, ...]) -> bool:
    """Whether the node combines one activation with a constant that varies along one axis only."""
    if node.domain or node.op_type not in op_types or len(node.inputs) != 2 or node.outputs[0] is None:
        return False
    constants = [v for v in node.inputs if v is not None and v.name not in dependent and v.static is not None]
    return len(constants) == 1 and sum(size != 1 for size in constants[0].static or ()) == 1


def tag_patterns(model: Model) -> None:
    """Fill ``model.tags``."""
    dependent = data_dependent(model)
    normal = batchnorm_nodes(model, dependent)
    for node in model.nodes:
        tags = {
            RECTIFIER: is_rectifier(node),
            RESIDUAL: is_residual(node, dependent),
            PRODUCT: is_product(node, dependent),
            BATCHNORM: node.index in normal,
        }
        if any(tags.values()):
            model.tags[node.index] = model.tags.get(node.index, frozenset()) | {tag for tag, holds in tags.items() if holds}
    tag_linear_layers(model)
