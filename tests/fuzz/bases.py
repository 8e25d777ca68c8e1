"""A dozen and more small models that are explained: every form of graph that onnxsal reads, for the fuzzer to spoil."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.small_models import cnn, draw, make, node, segmenter, tokens, two_inputs

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _value(name: str, shape: list[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def residual() -> onnx.ModelProto:
    """BatchNormalization, a residual block, a Reshape whose sizes are computed."""
    ones = np.ones(4, np.float32)
    weights = {
        **{"w1": draw(4, 3, 3, 3, scale=0.3), "w2": draw(4, 4, 3, 3, seed=1, scale=0.3), "w3": draw(5, 64, seed=2), "b3": draw(5)},
        **{"s": ones, "b": draw(4, seed=3), "m": draw(4, seed=4), "v": ones, "m1": _ints(-1)},
    }
    nodes = [
        node("Conv", "x w1", "c1", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("BatchNormalization", "c1 s b m v", "bn"),
        node("Relu", "bn", "r"),
        node("Conv", "r w2", "c2", auto_pad="SAME_UPPER"),
        node("Add", "c2 r", "a"),
        node("AveragePool", "a", "p", kernel_shape=[2, 2], strides=[2, 2], count_include_pad=1),
        node("Shape", "p", "sh", end=1),
        node("Concat", "sh m1", "ns", axis=0),
        node("Reshape", "p ns", "f"),
        node("Gemm", "f w3 b3", "l", transB=1),
        node("Softmax", "l", "y", axis=-1),
    ]
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, weights)


def attention() -> onnx.ModelProto:
    weights = {
        **{"w" + q: draw(8, 8, seed=i, scale=0.3) for i, q in enumerate("qkv")},
        **{"sc": np.float32(2.8), "g": np.ones(8, np.float32), "be": draw(8), "ax": _ints(1), "wo": draw(8, 3)},
    }
    nodes = [
        *(node("MatMul", f"x w{q}", q) for q in "qkv"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "s"),
        node("Div", "s sc", "s2"),
        node("Softmax", "s2", "a", axis=-1),
        node("MatMul", "a v", "o"),
        node("Add", "o x", "res"),
        node("LayerNormalization", "res g be", "ln", axis=-1),
        node("ReduceMean", "ln ax", "mean", keepdims=0),
        node("Tanh", "mean", "t"),
        node("MatMul", "t wo", "y"),
    ]
    return make(nodes, {"x": ["N", 6, 8]}, {"y": ["N", 3]}, {k: np.asarray(v) for k, v in weights.items()})


def lstm() -> onnx.ModelProto:
    weights = {"w": draw(1, 16, 3), "r": draw(1, 16, 4, seed=1), "b": draw(1, 32, seed=2), "ax": _ints(0), "wo": draw(4, 2)}
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        node("LSTM", "xt w r b", ". h", name="lstm", hidden_size=4),
        node("Squeeze", "h ax", "hs"),
        node("Gemm", "hs wo", "y"),
    ]
    return make(nodes, {"x": ["N", 5, 3]}, {"y": ["N", 2]}, weights)


def gru() -> onnx.ModelProto:
    """Both directions, with the older spelling of sizes as attributes."""
    weights = {"w": draw(2, 12, 3), "r": draw(2, 12, 4, seed=1), "wo": draw(8, 2)}
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        node("GRU", "xt w r", ". h", name="gru", hidden_size=4, direction="bidirectional", linear_before_reset=1),
        node("Transpose", "h", "ht", perm=[1, 0, 2]),
        node("Flatten", "ht", "hs"),
        node("MatMul", "hs wo", "y"),
    ]
    return make(nodes, {"x": ["N", 5, 3]}, {"y": ["N", 2]}, weights, opset=11, ir=6)


def _body() -> onnx.GraphProto:
    """Half of the state, and the counter as it is."""
    return helper.make_graph(
        [node("Mul", "st half", "st2"), node("Identity", "cin", "cout")],
        "body",
        [_value("it", [], INT64), _value("cin", [], BOOL), _value("st", ["N", 6])],
        [_value("cout", [], BOOL), _value("st2", ["N", 6])],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )


def control_flow() -> onnx.ModelProto:
    """An If, then a Loop."""
    then = helper.make_graph(
        [node("Mul", "a two", "o1")], "then", [], [_value("o1", None)], [numpy_helper.from_array(np.float32(2), "two")]
    )
    other = helper.make_graph([node("Neg", "a", "o2")], "else", [], [_value("o2", None)])
    nodes = [
        node("Relu", "x", "a"),
        node("If", "cond", "b", then_branch=then, else_branch=other),
        node("Loop", "trip cond b", "c", body=_body()),
        node("MatMul", "c w", "y"),
    ]
    weights = {"cond": np.asarray(True), "trip": np.asarray(3), "w": draw(6, 4)}
    return make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights)


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Add", "s e", "s1"), node("Tanh", "s1", "s2"), node("Identity", "s2", "seen")],
        "body",
        [_value("s", ["N", 4]), _value("e", ["N", 4])],
        [_value("s2", ["N", 4]), _value("seen", ["N", 4])],
    )
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        node("Slice", "xt zero one zero", "first"),
        node("Squeeze", "first zero", "start"),
        node("Scan", "start xt", "last all", name="scan", body=body, num_scan_inputs=1),
        node("MatMul", "last w", "y"),
    ]
    return make(nodes, {"x": ["N", 3, 4]}, {"y": ["N", 2]}, {"zero": _ints(0), "one": _ints(1), "w": draw(4, 2)})


def quantised() -> onnx.ModelProto:
    """QDQ around a Conv, then Clip, Resize, Pad, Slice."""
    weights = {
        **{"s": np.float32(0.02), "z": np.uint8(128), "sw": np.full(4, 0.01, np.float32), "zw": np.zeros(4, np.int8)},
        **{"wq": np.random.default_rng(0).integers(-100, 100, (4, 3, 3, 3)).astype(np.int8), "lo": np.float32(0), "hi": np.float32(6)},
        **{"sc": np.array([1, 1, 2, 2], np.float32), "pads": _ints(0, 0, 1, 1, 0, 0, 1, 1), "st": _ints(0, 0), "en": _ints(9, 9)},
        **{"axs": _ints(2, 3)},
    }
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "wq sw zw", "w", axis=0),
        node("Conv", "d w", "c", pads=[1, 1, 1, 1]),
        node("Clip", "c lo hi", "r"),
        node("Resize", "r . sc", "u", mode="linear"),
        node("Pad", "u pads", "pd"),
        node("Slice", "pd st en axs", "sl"),
        node("GlobalAveragePool", "sl", "g"),
        node("Flatten", "g", "y"),
    ]
    return make(nodes, {"x": ["N", 3, 6, 6]}, {"y": ["N", 4]}, {k: np.asarray(v) for k, v in weights.items()})


def integer() -> onnx.ModelProto:
    """Operators on integers: QLinearConv, then an embedding that is looked up."""
    weights = {
        **{"s": np.float32(0.02), "z": np.uint8(128), "sw": np.float32(0.01), "zw": np.int8(0), "wo": draw(4, 3)},
        **{"wq": np.random.default_rng(0).integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)},
    }
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearConv", "q s z wq sw zw s z", "c"),
        node("DequantizeLinear", "c s z", "d"),
        node("ReduceMax", "d", "m", axes=[2, 3], keepdims=0),
        node("MatMul", "m wo", "y"),
    ]
    return make(nodes, {"x": ["N", 3, 6, 6]}, {"y": ["N", 3]}, {k: np.asarray(v) for k, v in weights.items()}, opset=13)


def sequences() -> onnx.ModelProto:
    """A sequence is made, read and joined."""
    weights = {"zero": np.asarray(0), "w": draw(8, 4), "sp": np.asarray(2)}
    nodes = [
        node("SplitToSequence", "x sp", "parts", axis=1),
        node("SequenceAt", "parts zero", "first"),
        node("Relu", "first", "r"),
        node("SequenceInsert", "parts r", "more"),
        node("ConcatFromSequence", "more", "joined", axis=1),
        node("MatMul", "joined w", "y"),
    ]
    return make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights)


def functions() -> onnx.ModelProto:
    """A function that calls another one, with an attribute that is handed on."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    leaky = node("LeakyRelu", "p", "z")
    leaky.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope"))
    inner = helper.make_function("my", "Inner", ["p"], ["q"], [leaky, node("Mul", "z z", "q")], opsets, ["slope"])
    call = helper.make_node("Inner", ["p"], ["i"], domain="my", slope=0.1)
    outer = helper.make_function("my", "Outer", ["p", "b"], ["q"], [call, node("Add", "i b", "q")], opsets)
    nodes = [helper.make_node("Outer", ["x", "b"], ["a"], name="a", domain="my"), node("Gemm", "a w", "y")]
    return make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, {"b": draw(6), "w": draw(6, 4)}, domains={"my": 1}, functions=[inner, outer], ir=9)


def einsum() -> onnx.ModelProto:
    """Split, Gather, Tile, Expand, Range and an Einsum."""
    weights = {
        **{"sp": _ints(4, 4), "ix": _ints(0, 2, 3), "ax": _ints(1), "rep": _ints(1, 2, 1), "es": _ints(1, 3), "cs": _ints(3)},
        **{"r0": np.asarray(1), "r1": np.asarray(4), "r2": np.asarray(1), "w": draw(3, 4)},
    }
    nodes = [
        node("Split", "x sp", "a b", axis=1),
        node("Sigmoid", "a", "sg"),
        node("Mul", "sg b", "glu"),
        node("Gather", "glu ix", "ga", axis=1),
        node("Unsqueeze", "ga ax", "un"),
        node("Tile", "un rep", "ti"),
        node("ReduceSum", "ti ax", "rs", keepdims=0),
        node("Expand", "rs es", "ex"),
        node("ConstantOfShape", "cs", "co", value=numpy_helper.from_array(np.array([1.5], np.float32))),
        node("Add", "ex co", "ad"),
        node("Range", "r0 r1 r2", "rg"),
        node("Cast", "rg", "rf", to=1),
        node("Mul", "ad rf", "mm"),
        node("Einsum", "mm w", "y", equation="nd,dk->nk"),
    ]
    return make(nodes, {"x": ["N", 8]}, {"y": ["N", 4]}, weights)


def old() -> onnx.ModelProto:
    """Opset 9: sizes and bounds are attributes."""
    weights = {"w1": draw(4, 3, 3, 3, scale=0.3), "w": draw(4, 3)}
    nodes = [
        node("Pad", "x", "xp", pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.0),
        node("Conv", "xp w1", "c"),
        node("Clip", "c", "r", min=0.0, max=6.0),
        node("Upsample", "r up", "u", mode="nearest"),
        node("Slice", "u", "sl", axes=[2, 3], starts=[0, 0], ends=[9, 2**62]),
        node("ReduceMean", "sl", "m", axes=[2, 3], keepdims=0),
        node("MatMul", "m w", "y"),
    ]
    return make(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 3]}, weights | {"up": np.array([1, 1, 2, 2], np.float32)}, opset=9, ir=4)


def looked_up() -> onnx.ModelProto:
    """An embedding of tokens, a mask, a Where, an argument's class."""
    weights = {"table": draw(10, 6), "w": draw(6, 3), "minus": np.float32(-9), "one": _ints(1), "zero": np.asarray(0)}
    nodes = [
        node("Gather", "table ids", "e"),
        node("Greater", "ids zero", "known"),
        node("Unsqueeze", "known one2", "known3"),
        node("Where", "known3 e minus", "masked"),
        node("ReduceMax", "masked one", "m", keepdims=0),
        node("Gemm", "m w", "y"),
    ]
    weights = {k: np.asarray(v) for k, v in weights.items()} | {"one2": _ints(2)}
    return make(nodes, {"ids": ["N", 5]}, {"y": ["N", 3]}, weights, types={"ids": INT64})


def sparse() -> onnx.ModelProto:
    """A sparse weight and a normalised picture."""
    model = make(
        [node("InstanceNormalization", "x s b", "i"), node("Flatten", "i", "f"), node("MatMul", "f w", "y")],
        {"x": ["N", 2, 3, 3]},
        {"y": ["N", 3]},
        {"s": np.ones(2, np.float32), "b": draw(2)},
    )
    values = numpy_helper.from_array(draw(4), "w")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(_ints(0, 9, 20, 50)), [18, 3]))
    return model


def fused() -> onnx.ModelProto:
    """Operators of ONNX Runtime's own domain, as its optimiser leaves them."""
    weights = {"w": draw(8, 8), "b": draw(8), "g": np.ones(8, np.float32), "be": draw(8, seed=1), "wo": draw(8, 3), "ax": _ints(1)}
    nodes = [
        node("FusedMatMul", "x w", "m", alpha=0.5, domain="com.microsoft"),
        node("BiasGelu", "m b", "ge", domain="com.microsoft"),
        node("SkipLayerNormalization", "ge x g be", "ln", domain="com.microsoft", epsilon=1e-5),
        node("ReduceMean", "ln ax", "me", keepdims=0),
        node("MatMul", "me wo", "y"),
    ]
    return make(nodes, {"x": ["N", 4, 8]}, {"y": ["N", 3]}, weights, domains={"com.microsoft": 1})


BASES: dict[str, Callable[[], onnx.ModelProto]] = {
    **{"cnn": cnn, "residual": residual, "attention": attention, "tokens": tokens, "two_inputs": two_inputs, "segmenter": segmenter},
    **{"lstm": lstm, "gru": gru, "control_flow": control_flow, "scan": scan, "quantised": quantised, "integer": integer},
    **{"sequences": sequences, "functions": functions, "einsum": einsum, "old": old, "looked_up": looked_up, "sparse": sparse},
    "fused": fused,
}
"""Name -> what builds the model."""
