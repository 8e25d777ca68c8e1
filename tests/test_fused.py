"""Files that ONNX Runtime saved after optimising: fused operators become standard ones again, with the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

import onnxsal
from onnxsal.ask.guard import compare_on_random_input
from onnxsal.errors import ModelError
from onnxsal.graph.load import load_model
from onnxsal.ops.expansion import UNSAID
from onnxsal.passes import prepare
from onnxsal.passes.expand_contrib import EXPAND_CONTRIB
from tests.oracle import run
from tests.small_models import cnn, draw, make, node

LEVELS = ort.GraphOptimizationLevel


def saved(model: onnx.ModelProto, folder: Path, level: ort.GraphOptimizationLevel = LEVELS.ORT_ENABLE_EXTENDED) -> onnx.ModelProto:
    """The model as ONNX Runtime writes it after optimising."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "saved.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(str(folder / "saved.onnx"))


def fused(model: onnx.ModelProto) -> set[str]:
    return {n.op_type for n in model.graph.node if n.domain == "com.microsoft"}


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    prepared = prepare(load_model(model), lambda domain, op_type: domain == "", compare_on_random_input)
    proto = prepared.model.proto
    assert {n.domain for n in proto.graph.node} == {""}
    assert [o.domain for o in proto.opset_import] == [""]
    onnx.checker.check_model(proto)
    return proto


def layer_norm(x: str, y: str) -> list[onnx.NodeProto]:
    """As opset 13 writes it, over the last axis."""
    return [
        node("ReduceMean", x, f"{y}_mean", axes=[-1], keepdims=1),
        node("Sub", f"{x} {y}_mean", f"{y}_centred"),
        node("Pow", f"{y}_centred two", f"{y}_square"),
        node("ReduceMean", f"{y}_square", f"{y}_variance", axes=[-1], keepdims=1),
        node("Add", f"{y}_variance tiny", f"{y}_shifted"),
        node("Sqrt", f"{y}_shifted", f"{y}_deviation"),
        node("Div", f"{y}_centred {y}_deviation", f"{y}_scaled"),
        node("Mul", f"{y}_scaled gamma", f"{y}_gain"),
        node("Add", f"{y}_gain beta", y),
    ]


def gelu(x: str, y: str) -> list[onnx.NodeProto]:
    return [
        node("Div", f"{x} root2", f"{y}_ratio"),
        node("Erf", f"{y}_ratio", f"{y}_erf"),
        node("Add", f"{y}_erf one", f"{y}_sum"),
        node("Mul", f"{x} {y}_sum", f"{y}_product"),
        node("Mul", f"{y}_product half", y),
    ]


def transformer(opset: int = 13) -> onnx.ModelProto:
    """Gelu with and without a bias before it, a skip connection into a layer norm, scaled attention scores, a quick Gelu."""
    weights = {
        **{"w1": draw(8, 16, seed=1, scale=0.4), "b1": draw(16, seed=2), "w2": draw(16, 8, seed=3, scale=0.4), "w3": draw(8, 4, seed=4)},
        **{"gamma": draw(8, seed=5), "beta": draw(8, seed=6), "two": np.float32(2), "tiny": np.float32(1e-5)},
        **{
            "root2": np.float32(np.sqrt(2)),
            "one": np.float32(1),
            "half": np.float32(0.5),
            "scale": np.float32(0.35),
            "quick": np.float32(1.702),
        },
    }
    nodes = [
        node("MatMul", "x w1", "h1"),
        node("Add", "h1 b1", "h2"),
        *gelu("h2", "h3"),
        node("MatMul", "h3 w2", "h4"),
        node("Add", "h4 x", "h5"),
        *layer_norm("h5", "h6"),
        node("Transpose", "h6", "h7", perm=[0, 2, 1]),
        node("MatMul", "h6 h7", "h8"),
        node("Mul", "h8 scale", "h9"),
        node("Softmax", "h9", "h10", axis=-1),
        node("MatMul", "h10 h6", "h11"),
        node("Mul", "h11 quick", "h12"),
        node("Sigmoid", "h12", "h13"),
        node("Mul", "h11 h13", "h14"),
        *gelu("h14", "h15"),
        node("Tanh", "h15", "h16"),
        node("MatMul", "h16 w3", "h17"),
        node("ReduceMax", "h17", "y", axes=[1], keepdims=0),
    ]
    return make(nodes, {"x": ["N", 5, 8]}, {"y": ["N", 4]}, weights, opset=opset, ir=7)


@pytest.mark.parametrize("opset", [13, 17])
def test_a_saved_transformer_is_the_original_again(tmp_path: Path, opset: int):
    model = transformer(opset)
    file = saved(model, tmp_path)
    assert {"BiasGelu", "Gelu", "SkipLayerNormalization", "FusedMatMul", "QuickGelu"} <= fused(file)
    x = draw(3, 5, 8)
    np.testing.assert_allclose(run(expanded(file), {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)
    original = run(onnxsal.convert(model, "gradient", target=1), {"x": x})
    again = run(onnxsal.convert(file, "gradient", target=1), {"x": x})
    np.testing.assert_allclose(again["attribution"], original["attribution"], rtol=1e-3, atol=1e-5)


ACTIVATIONS = [
    node("Relu", "c", "y"),
    node("LeakyRelu", "c", "y", alpha=0.2),
    node("Sigmoid", "c", "y"),
    node("Tanh", "c", "y"),
    node("HardSigmoid", "c", "y", alpha=0.3, beta=0.4),
    node("Clip", "c low high", "y"),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda n: n.op_type)
@pytest.mark.parametrize("opset", [11, 18])
def test_a_saved_convolution_is_the_original_again(tmp_path: Path, activation: onnx.NodeProto, opset: int):
    weights = {"w": draw(4, 3, 3, 3, seed=1, scale=0.4), "b": draw(4, seed=2), "low": np.float32(-0.2), "high": np.float32(0.6)}
    weights = {k: v for k, v in weights.items() if k in ("w", "b") or k in activation.input}
    convolution = node("Conv", "x w b", "c", strides=[2, 1], auto_pad="SAME_UPPER")
    model = make([convolution, activation], {"x": ["N", 3, 8, 8]}, {"y": ["N", 4, 4, 8]}, weights, opset=opset, ir=8)
    file = saved(model, tmp_path)
    assert fused(file) == {"FusedConv"}
    x = {"x": draw(2, 3, 8, 8)}
    np.testing.assert_allclose(run(expanded(file), x)["y"], run(model, x)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "deconvnet"])
def test_a_saved_network_is_explained_like_the_original(tmp_path: Path, method: str):
    file = saved(cnn(), tmp_path)
    assert "FusedConv" in fused(file)
    x = {"x": draw(2, 3, 8, 8)}
    got, expected = (run(onnxsal.convert(m, method), x) for m in (file, cnn()))
    np.testing.assert_allclose(got["attribution"], expected["attribution"], rtol=1e-4, atol=1e-6)


# ----- one fused node at a time: ONNX Runtime's own kernel is the oracle -----


def contrib(op_type: str, inputs: str, outputs: str, shape: list, weights: dict | None = None, **attributes: object) -> onnx.ModelProto:
    names = outputs.split()
    domain = "" if op_type in UNSAID else "com.microsoft"
    nodes = [node(op_type, inputs, outputs, domain=domain, **attributes)]
    shown = {n: None for n in names if n != "."}
    return make(nodes, {"x": shape}, shown, weights, domains={"com.microsoft": 1}, types={"count": TensorProto.INT32})


SQUARE = {"w": draw(4, 4, seed=1)}
NORM = {"skip": draw(1, 3, 4, seed=1), "gamma": draw(4, seed=2), "beta": draw(4, seed=3), "bias": draw(4, seed=4)}
EMBED = {
    "ids": np.array([[1, 4, 0], [2, 3, 3]], np.int32), "kinds": np.array([[0, 1, 1], [0, 0, 1]], np.int32), "word": draw(5, 4, seed=1),
    "place": draw(6, 4, seed=2), "kind": draw(2, 4, seed=3), "beta": draw(4, seed=4), "kept": np.array([[1, 1, 0], [1, 1, 1]], np.int32),
}  # fmt: skip
HEADS = {
    "qkv": draw(4, 12, seed=5, scale=0.5), "qkv_bias": draw(12, seed=6), "lengths": np.array([3, 2], np.int32),
    "mask": np.array([[1, 1, 0], [0, 1, 1]], np.int32),
}  # fmt: skip
ONE_BY_ONE = {
    "FusedMatMul": contrib("FusedMatMul", "x w", "y", ["N", 3, 4], SQUARE),
    "FusedMatMul-alpha": contrib("FusedMatMul", "x w", "y", ["N", 3, 4], SQUARE, alpha=0.3),
    "FusedMatMul-right": contrib("FusedMatMul", "x w", "y", ["N", 3, 4], SQUARE, transB=1, alpha=-2.0),
    "FusedMatMul-left": contrib("FusedMatMul", "x w", "y", ["N", 4, 3], SQUARE, transA=1),
    "FusedMatMul-both": contrib("FusedMatMul", "x w", "y", [4, 3], {"w": draw(2, 4, seed=1)}, transA=1, transB=1),
    "Gelu": contrib("Gelu", "x", "y", ["N", 4]),
    "BiasGelu": contrib("BiasGelu", "x b", "y", ["N", 4], {"b": draw(4)}),
    "QuickGelu": contrib("QuickGelu", "x", "y", ["N", 4]),
    "QuickGelu-alpha": contrib("QuickGelu", "x", "y", ["N", 4], alpha=1.0),
    "FastGelu": contrib("FastGelu", "x", "y", ["N", 4]),
    "FastGelu-bias": contrib("FastGelu", "x b", "y", ["N", 4], {"b": draw(4)}),
    "SkipLayerNormalization": contrib("SkipLayerNormalization", "x skip gamma beta", "y", [1, 3, 4], NORM, epsilon=1e-5),
    "SkipLayerNormalization-no-beta": contrib("SkipLayerNormalization", "x skip gamma", "y", [1, 3, 4], NORM, epsilon=1e-5),
    "SkipLayerNormalization-bias": contrib("SkipLayerNormalization", "x skip gamma beta bias", "y", [1, 3, 4], NORM, epsilon=1e-5),
    "SkipLayerNormalization-sum": contrib("SkipLayerNormalization", "x skip gamma beta", "y . . total", [1, 3, 4], NORM, epsilon=1e-5),
    "SkipLayerNormalization-bias-sum": contrib("SkipLayerNormalization", "x skip gamma beta bias", "y . . total", [1, 3, 4], NORM),
    "EmbedLayerNormalization": contrib("EmbedLayerNormalization", "ids kinds word place kind x beta kept", "y count", [4], EMBED),
    "Attention": contrib("Attention", "x qkv qkv_bias", "y", ["N", 3, 4], HEADS, num_heads=2),
    "Attention-lengths": contrib("Attention", "x qkv qkv_bias lengths", "y", [2, 3, 4], HEADS, num_heads=2),
    "Attention-mask": contrib("Attention", "x qkv qkv_bias mask", "y", [2, 3, 4], HEADS, num_heads=2, mask_filter_value=-1e30),
    "Attention-causal": contrib("Attention", "x qkv qkv_bias", "y", ["N", 3, 4], HEADS, num_heads=2, unidirectional=1),
    "Attention-scale": contrib("Attention", "x qkv qkv_bias", "y", ["N", 3, 4], HEADS, num_heads=1, scale=0.3),
    "SimplifiedLayerNormalization": contrib("SimplifiedLayerNormalization", "x gamma", "y", [1, 3, 4], NORM, epsilon=1e-5),
    "FusedGemm-Relu": contrib("FusedGemm", "x w", "y", ["N", 4], SQUARE, activation="Relu", alpha=0.5),
    "FusedGemm-LeakyRelu": contrib("FusedGemm", "x w", "y", ["N", 4], SQUARE, activation="LeakyRelu", activation_alpha=0.2, transB=1),
    "FusedConv-sum": contrib(
        "FusedConv", "x k . x", "y", ["N", 3, 5, 5], {"k": draw(3, 3, 3, 3)}, activation="Relu", pads=[1, 1, 1, 1], kernel_shape=[3, 3]
    ),
    "FusedConv-plain": contrib("FusedConv", "x k", "y", ["N", 3, 5, 5], {"k": draw(3, 3, 3, 3)}, kernel_shape=[3, 3]),
}


@pytest.mark.parametrize("model", ONE_BY_ONE.values(), ids=ONE_BY_ONE.keys())
def test_a_fused_node_is_expanded(model: onnx.ModelProto):
    result = prepare(load_model(model), lambda domain, op_type: domain == "", compare_on_random_input).model.proto
    assert not fused(result)
    shape = [2 if isinstance(d, str) else d for d in (d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)]
    x = {"x": draw(*shape)}
    before, after = run(model, x), run(result, x)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=2e-5, atol=2e-6)
    assert [n.name for n in result.graph.node if not n.name.startswith("y/")] == []


def test_the_lengths_of_texts_reach_fused_attention():
    """An embedding counts what its mask keeps; attention leaves out what lies beyond, and the explanation gives it exactly nothing."""
    names = {"domain": "com.microsoft"}
    nodes = [
        node("EmbedLayerNormalization", "ids kinds word place kind gamma beta kept", "e counted", **names),
        node("Attention", "e qkv qkv_bias counted", "a", num_heads=2, **names),
        node("Gather", "a first", "token", axis=1),
        node("MatMul", "token head", "y"),
    ]
    weights = EMBED | HEADS | {"gamma": draw(4, seed=8), "first": np.array(0), "head": draw(4, 3, seed=9)}
    ids = weights.pop("ids")
    model = make(nodes, {"ids": [2, 3]}, {"y": [2, 3]}, weights, types={"ids": TensorProto.INT32}, domains={"com.microsoft": 1})
    found = onnxsal.Explainer(model, "attnlrp", input="e").explain({"ids": ids}, 0)
    np.testing.assert_allclose(found.score, run(model, {"ids": ids})["y"][:, 0], rtol=1e-5)
    assert found.residual.max() < 1e-5
    assert found.attribution[0, :2].all()
    assert not found.attribution[0, 2].any()


@pytest.mark.parametrize("name", ["BiasGelu", "FastGelu-bias", "QuickGelu", "FusedMatMul-alpha", "Gelu"])
def test_half_precision_stays_half(name: str):
    """Constants take the type of the node's input. (No CPU kernel runs the fused node in float16: numbers are those of float32.)"""
    model = load_model(ONE_BY_ONE[name])
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    result = prepare(load_model(model), lambda domain, op_type: domain == "").model.proto
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = draw(*shape)
    got = run(result, {"x": x.astype(np.float16)})["y"]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, run(ONE_BY_ONE[name], {"x": x})["y"], rtol=2e-2, atol=2e-2)


# ----- refusals -----


def test_what_cannot_be_expanded_exactly_is_refused():
    model = contrib("FusedConv", "x k", "y", ["N", 3, 5, 5], {"k": draw(3, 3, 3, 3)}, activation="Mystery")
    with pytest.raises(ModelError, match="activation 'Mystery'") as caught:
        onnxsal.convert(model)
    assert "node 'y' (com.microsoft." in str(caught.value)
    assert "Use the unoptimised model" in str(caught.value)


def laid_out(opset: int) -> onnx.ModelProto:
    """What ORT_ENABLE_ALL writes on processors with a blocked layout."""
    nodes = [
        node("ReorderInput", "x", "a", domain="com.microsoft.nchwc", channels_last=0),
        node("Conv", "a w", "b", domain="com.microsoft.nchwc"),
        node("ReorderOutput", "b", "y", domain="com.microsoft.nchwc", channels=3),
    ]
    weights = {"w": draw(16, 16, 3, 3)}
    return make(nodes, {"x": ["N", 16, 8, 8]}, {"y": ["N", 3, 6, 6]}, weights, opset=opset, ir=8, domains={"com.microsoft.nchwc": 1})


@pytest.mark.parametrize("opset", [11, 18])
def test_a_file_laid_out_for_one_processor_is_refused(opset: int):
    with pytest.raises(ModelError) as caught:
        onnxsal.convert(laid_out(opset))
    text = str(caught.value)
    assert text.count("\n") == 0
    for part in ("node 'a' (com.microsoft.nchwc.ReorderInput)", "full optimisation", "Use the original model", "ORT_ENABLE_EXTENDED"):
        assert part in text


def test_a_fully_optimised_file_is_explained_or_refused(tmp_path: Path):
    """Which of the two depends on the processor; a wrong map is neither."""
    file = saved(cnn(), tmp_path, LEVELS.ORT_ENABLE_ALL)
    if any(n.domain == "com.microsoft.nchwc" for n in file.graph.node):
        with pytest.raises(ModelError, match="full optimisation"):
            onnxsal.convert(file)
    else:
        assert onnxsal.convert(file).graph.output[1].name == "attribution"


def test_a_model_without_fused_operators_declines():
    assert EXPAND_CONTRIB.requires(cnn()) == "no fused operator"


def test_other_domains_keep_their_import():
    """A node that nobody explains may stay where no signal passes."""
    nodes = [node("Gelu", "x", "y", domain="com.microsoft"), node("Mystery", "x", "z", domain="com.example")]
    model = make(nodes, {"x": ["N", 4]}, {"y": ["N", 4], "z": ["N", 4]}, domains={"com.microsoft": 1, "com.example": 1, "ai.onnx.ml": 2})
    result = prepare(load_model(model), lambda domain, op_type: domain == "").model.proto
    assert [o.domain for o in result.opset_import] == ["", "com.example"]
    assert result.graph.node[-1].op_type == "Mystery"
