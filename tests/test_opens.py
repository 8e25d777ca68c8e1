"""Nothing is written that does not open: what ONNX Runtime refuses is refused with its reason, and added nodes agree in their types."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.errors import ModelError, OnnxsalError
from onnxsal.graph import Emit

WEIGHT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE

MATMUL, TANH = helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])


def built(nodes: list[onnx.NodeProto], y: int = FLOAT, opset: int = 18, ir: int = 8, **more: object) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["N", 3])]
    outputs = [helper.make_tensor_value_info(name, y, ["N", 4]) for name in ["y", *more.get("outputs", [])]]  # type: ignore[misc]
    weights = [numpy_helper.from_array(more.get("weight", WEIGHT), "w"), *more.get("weights", [])]  # type: ignore[arg-type, misc]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    domains = [helper.make_opsetid(d, 1) for d in more.get("domains", [])]  # type: ignore[attr-defined]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=ir)


def spoilt(name: str) -> onnx.ModelProto:
    """Models that ONNX Runtime refuses, some by one stroke on a good one."""
    model = built([MATMUL, TANH])
    weight = model.graph.initializer[0]
    if name == "a weight that is cut short":
        weight.raw_data = b"\0" * 12
    elif name == "a weight of no type":
        weight.data_type = 0
    elif name == "a weight of negative size":
        weight.dims[0] = -3
    elif name == "an inner type that is not so":
        model.graph.value_info.append(helper.make_tensor_value_info("h", DOUBLE, ["N", 4]))
    elif name == "an attribute twice":
        model.graph.node[1].CopyFrom(helper.make_node("Softmax", ["h"], ["y"], axis=1))
        model.graph.node[1].attribute.append(helper.make_attribute("axis", 0))
    return model


STROKES = ("a weight that is cut short", "a weight of no type", "a weight of negative size")
REFUSED = {name: spoilt(name) for name in (*STROKES, "an inner type that is not so", "an attribute twice")} | {
    "a tensor made twice": built([MATMUL, helper.make_node("Relu", ["x"], ["h"]), TANH]),
    "an output made twice": built([MATMUL, TANH, helper.make_node("Relu", ["h"], ["y"])]),
    "a weight that is also made": built([MATMUL, TANH], weights=[numpy_helper.from_array(np.ones((1, 4), np.float32), "h")]),
    "a tensor from nowhere": built([helper.make_node("MatMul", ["x", "nowhere"], ["h"]), TANH]),
    "a tensor from nowhere beside the path": built([MATMUL, TANH, helper.make_node("Relu", ["nowhere"], ["z"])]),
    "an output that nothing makes": built([MATMUL, TANH], outputs=["z"]),
    "a declared type that is not so": built([MATMUL, TANH], y=DOUBLE),
    "operands of two types": built([MATMUL, TANH], weight=np.ones((3, 4))),
    "operands that do not fit": built([MATMUL, TANH], weight=np.ones((7, 4), np.float32)),
    "an unknown attribute": built([helper.make_node("MatMul", ["x", "w"], ["h"], bogus=3), TANH]),
    "an attribute of another type": built([MATMUL, helper.make_node("Softmax", ["h"], ["y"], axis=1.5)]),
    "an attribute that is missing": built([MATMUL, helper.make_node("Cast", ["h"], ["y"])]),
    "an axis out of range": built([MATMUL, helper.make_node("Softmax", ["h"], ["y"], axis=7)]),
    "a permutation out of range": built([MATMUL, helper.make_node("Transpose", ["h"], ["y"], perm=[0, 5])]),
    "too many inputs": built([MATMUL, helper.make_node("Tanh", ["h", "h"], ["y"])]),
    "too few inputs": built([helper.make_node("MatMul", ["x"], ["h"]), TANH]),
    "a node that reads itself": built([helper.make_node("Add", ["h", "x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]),
    "an operator of a newer opset": built([MATMUL, helper.make_node("Gelu", ["h"], ["y"])]),
    "an operator of no opset beside the path": built([MATMUL, TANH, helper.make_node("Frobnicate", ["h"], ["z"])]),
    "a type without the operator": built(
        [
            helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT8E4M3FN),
            helper.make_node("Relu", ["f"], ["r"]),
            helper.make_node("Cast", ["r"], ["c"], to=FLOAT),
            helper.make_node("MatMul", ["c", "w"], ["y"]),
        ],
        opset=19,
        ir=9,
    ),
}

OTHERWISE = {
    "a cycle": (built([helper.make_node("Add", ["h", "y"], ["s"]), MATMUL, helper.make_node("Tanh", ["s"], ["y"])]), "cycle"),
    "an opset of the future": (built([MATMUL, TANH], opset=99), "opset 99"),
    "no opset": (built([MATMUL, TANH], opset=0), "opset"),
    "a domain without an opset": (built([MATMUL, helper.make_node("Tanh", ["h"], ["y"], domain="d")]), "No opset import for domain d"),
    "an unknown operator": (built([MATMUL, helper.make_node("Frobnicate", ["h"], ["y"])]), "no gradient is known"),
}

MENDED = {
    "nodes of one name": built([helper.make_node("MatMul", ["x", "w"], ["h"], name="a"), helper.make_node("Tanh", ["h"], ["y"], name="a")]),
    "nodes out of order": built([TANH, MATMUL]),
    "an IR version of the future": built([MATMUL, TANH], ir=99),
}
"""What the passes put right on their way."""


def refusal(model: onnx.ModelProto) -> str:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "lrp_epsilon"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_runtime_refuses_is_refused_with_its_reason(name: str, method: str):
    assert refusal(REFUSED[name])
    with pytest.raises(ModelError, match=r"ONNX Runtime refuses the model itself: |onnx\.checker|is damaged") as told:
        onnxsal.convert(REFUSED[name], method)
    assert len(str(told.value)) > 80


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_plain_without_onnx_runtime_is_told_as_it_was(name: str):
    model, words = OTHERWISE[name]
    assert refusal(model)
    with pytest.raises(OnnxsalError, match=words):
        onnxsal.convert(model, "gradient")


def test_a_custom_operator_beside_the_path_is_a_doubt_and_no_refusal():
    """Its library may be registered where the model runs; here nobody can open the model, and that is said."""
    model = built([MATMUL, TANH, helper.make_node("F", ["h"], ["z"], domain="d")], domains=["d"])
    assert refusal(model)
    onnxsal.convert(model, "gradient")
    assert "only where d.F is registered" in onnxsal.check(model, "cpu", "gradient").doubt


@pytest.mark.parametrize("name", MENDED)
def test_what_the_passes_put_right_opens(name: str):
    converted = onnxsal.convert(MENDED[name], "gradient")
    assert not refusal(converted)
    got = onnxsal.Explainer(MENDED[name], "gradient", providers="cpu").explain(X, 1).attribution
    want = (1 - np.tanh(X @ WEIGHT)[:, [1]] ** 2) * WEIGHT[:, 1]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_good_model_with_a_bad_explanation_is_not_blamed(monkeypatch: pytest.MonkeyPatch):
    """A planted fault of ours: the rule of Tanh returns an operand of another type."""
    append = Emit._append

    def spoil(self: Emit, op_type: str, operands: list, *rest: object) -> object:
        return append(self, op_type, [*operands[:-1], np.float64(1)] if op_type == "Mul" else operands, *rest)

    monkeypatch.setattr(Emit, "_append", spoil)
    with pytest.raises(ModelError, match="refuses the model with its explanation") as told:
        onnxsal.convert(built([MATMUL, TANH]), "gradient")
    assert "the model itself" not in str(told.value)


def test_added_nodes_agree_in_their_shapes(monkeypatch: pytest.MonkeyPatch):
    """A planted fault of ours: ONNX's strict inference sees it, also where nothing is opened."""
    append = Emit._append

    def spoil(self: Emit, op_type: str, operands: list, *rest: object) -> object:
        return append(self, op_type, [*operands[:-1], np.ones(7, np.float32)] if op_type == "Mul" else operands, *rest)

    monkeypatch.setattr(Emit, "_append", spoil)
    with pytest.raises(ModelError, match="a fault of onnxsal"):
        onnxsal.vjp(built([MATMUL, TANH]))


def quantised(rng: np.random.Generator, kind: type, places: tuple[bool, bool, bool], scale: float, opset: int) -> onnx.ModelProto:
    """x [, QDQ] -> MatMul -> Relu [, QDQ] -> MatMul [, QDQ] -> y."""
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    zero = kind((low + high + 1) // 2)
    weights = {"s": np.float32(scale), "z": zero, "W": rng.normal(size=(4, 3)), "V": rng.normal(size=(3, 2))}
    nodes: list[onnx.NodeProto] = []

    def rounded(name: str, does: bool) -> str:
        if does:
            nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]))
        return f"{name}_d" if does else name

    nodes.append(helper.make_node("MatMul", [rounded("x", places[0]), "W"], ["h"]))
    nodes.append(helper.make_node("Relu", ["h"], ["r"]))
    nodes.append(helper.make_node("MatMul", [rounded("r", places[1]), "V"], ["o"]))
    nodes.append(helper.make_node("Identity", [rounded("o", places[2])], ["y"]))
    arrays = [numpy_helper.from_array(np.asarray(a, a.dtype if np.ndim(a) == 0 else np.float32), n) for n, a in weights.items()]
    inputs, outputs = [helper.make_tensor_value_info(n, FLOAT, ["N", d]) for n, d in (("x", 4), ("y", 2))]
    graph = helper.make_graph(nodes, "g", [inputs], [outputs], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**20),
    st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from([0.003, 0.02, 0.1]),
    st.sampled_from([13, 19, 21]),
)
def test_deeplift_crosses_quantised_tensors(seed: int, kind: type, places: tuple[bool, bool, bool], scale: float, opset: int):
    """sum of contributions = f(x) - f(0), whatever rounds or saturates on the way: the law itself is the oracle."""
    if np.dtype(kind).itemsize == 2 and opset < 21:
        opset = 21
    rng = np.random.default_rng(seed)
    model, x = quantised(rng, kind, places, scale, opset), rng.normal(size=(3, 4)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    change = session.run(None, {"x": x})[0][:, 1].astype(float) - session.run(None, {"x": 0 * x})[0][:, 1]
    found = onnxsal.Explainer(model, "deeplift", score="raw", providers="cpu").explain(x, 1)
    np.testing.assert_allclose(found.attribution.sum(1, dtype=float), change, atol=2e-4 * max(1.0, np.abs(change).max()))
