"""Small models for tests: built from nodes with seeded weights, so that every test says itself what it runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Shapes = Mapping[str, Sequence[int | str | None] | None]


def make(
    nodes: Sequence[onnx.NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
    ir: int = 10,
    types: Mapping[str, int] | None = None,
    domains: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model; inputs and outputs are float32 unless ``types`` says otherwise."""
    kinds = dict(types or {})
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by spaces, and a dot is an input or output left out. Its name is that of its first output."""
    ins, outs = (["" if n == "." else n for n in names.split()] for names in (inputs, outputs))
    return helper.make_node(op_type, ins, outs, **{"name": outs[0], **attributes})


def draw(*shape: int, seed: int = 0, dtype: Any = np.float32, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def cnn(
    batch: int | str = "N", size: int | str = 8, opset: int = 18, classes: int = 5, final: str = "Softmax", dtype: Any = np.float32
) -> onnx.ModelProto:
    """Conv, Relu, MaxPool, strided Conv, Relu, global mean, Gemm, Softmax: the smallest network with everything a CNN has."""
    weights = {
        "w1": draw(4, 3, 3, 3, seed=1, dtype=dtype, scale=0.4),
        "b1": draw(4, seed=2, dtype=dtype, scale=0.2),
        "w2": draw(6, 4, 3, 3, seed=3, dtype=dtype, scale=0.4),
        "b2": draw(6, seed=4, dtype=dtype, scale=0.2),
        "w3": draw(6, classes, seed=5, dtype=dtype),
        "b3": draw(classes, seed=6, dtype=dtype),
    }
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("MaxPool", "r1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p1 w2 b2", "c2", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "c2", "r2"),
        node("GlobalAveragePool", "r2", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w3 b3", "logits" if final else "y"),
    ]
    if final:
        nodes.append(node(final, "logits", "y", **({"axis": 1} if final != "Sigmoid" else {})))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make(nodes, {"x": [batch, 3, size, size]}, {"y": [batch, classes]}, weights, opset=opset, types={"x": kind, "y": kind})


def cnn_nhwc(batch: int | str = "N") -> onnx.ModelProto:
    """The same network on [N, H, W, C], as Keras exports it: a Transpose first."""
    model = cnn(batch)
    model.graph.node.insert(0, node("Transpose", "image", "x", perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", FLOAT, [batch, 8, 8, 3]))
    return model


def tokens(batch: int | str = "N") -> onnx.ModelProto:
    """Token ids, an embedding, a non-linear layer, a mean over the sequence, a classifier."""
    weights = {"table": draw(11, 6, seed=1), "w1": draw(6, 8, seed=2), "w2": draw(8, 3, seed=3)}
    nodes = [
        node("Gather", "table ids", "embedded"),
        node("MatMul", "embedded w1", "h"),
        node("Tanh", "h", "t"),
        node("ReduceMean", "t axes", "m", keepdims=0),
        node("MatMul", "m w2", "y"),
    ]
    weights["axes"] = np.asarray([1], np.int64)
    return make(nodes, {"ids": [batch, "S"]}, {"y": [batch, 3]}, weights, types={"ids": TensorProto.INT64})


def two_inputs(batch: int | str = "N") -> onnx.ModelProto:
    """A picture-like input and a vector, multiplied together before the classifier; a second output beside the scores."""
    weights = {"w1": draw(4, 6, seed=1), "w2": draw(3, 6, seed=2), "w3": draw(6, 5, seed=3)}
    nodes = [
        node("MatMul", "a w1", "ha"),
        node("MatMul", "b w2", "hb"),
        node("Tanh", "ha", "ta"),
        node("Mul", "ta hb", "m"),
        node("MatMul", "m w3", "y"),
        node("Sigmoid", "m", "side"),
    ]
    return make(nodes, {"a": [batch, 4], "b": [batch, 3]}, {"y": [batch, 5], "side": [batch, 6]}, weights)


def segmenter(batch: int | str = "N", size: int | str = 6) -> onnx.ModelProto:
    """Two convolutions: a score per class and pixel."""
    weights = {"w1": draw(4, 3, 3, 3, seed=1), "w2": draw(2, 4, 1, 1, seed=2)}
    nodes = [node("Conv", "x w1", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"), node("Conv", "r w2", "y")]
    return make(nodes, {"x": [batch, 3, size, size]}, {"y": [batch, 2, size, size]}, weights)


def unbatched() -> onnx.ModelProto:
    """One sequence in, one vector of scores out: no batch axis anywhere."""
    weights = {"w": draw(4, 3, seed=1), "axes": np.asarray([0], np.int64)}
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("ReduceSum", "t axes", "y", keepdims=0)]
    return make(nodes, {"x": [7, 4]}, {"y": [3]}, weights)


def double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float64, so that rounding is no excuse."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == 1:
            value.type.tensor_type.elem_type = 11
    for tensor in proto.graph.initializer:
        if tensor.data_type == 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for item in proto.graph.node:
        for attribute in item.attribute:
            if attribute.HasField("t") and attribute.t.data_type == 1:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
    del proto.graph.value_info[:]
    return proto
