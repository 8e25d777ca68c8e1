"""Convolutions and poolings: the float64 oracle against ONNX Runtime, ties, the shape of the emitted graph, sizes of zero slack."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.errors import OnnxsalError
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.oracle import Evaluator, one_node_model, random_like, run
from tests.windows import WINDOWS

CASES = [
    pytest.param(REGISTRY["", op.__name__], test, id=f"{op.__name__}-{i}")
    for op in WINDOWS
    for i, test in enumerate(REGISTRY["", op.__name__].cases)
]


@pytest.mark.parametrize(("spec", "test"), CASES)
def test_oracle_agrees_with_onnx_runtime(spec: OpSpec, test: Case) -> None:
    """The operators of tests/windows.py compute what ONNX Runtime computes in float32."""
    model, feed, _ = one_node_model(spec, test, dtype=np.float32)
    expected = run(model, feed)["y0"]
    got = Evaluator(model).run(["y0"], feed)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spec", "test"), CASES)
def test_static_gradient_in_onnx_runtime(spec: OpSpec, test: Case) -> None:
    """The static form in float32 with every graph optimisation, as it ships, against float64."""
    model, feed, wrt = one_node_model(spec, test)
    small, feed32, _ = one_node_model(spec, test, dtype=np.float32)
    u = random_like(run(model, feed), ["y0"], seed=1)["y0"]
    exact = run(onnxsal.vjp(model, wrt=wrt, outputs=["y0"]), feed | {"cotangent/y0": u})
    derived = onnxsal.vjp(small, wrt=wrt, outputs=["y0"])
    got = run(derived, feed32 | {"cotangent/y0": u.astype(np.float32)}, optimise=True)
    for w in wrt:
        scale = np.abs(exact[f"vjp/{w}"]).max()
        np.testing.assert_allclose(got[f"vjp/{w}"], exact[f"vjp/{w}"], rtol=2e-3, atol=2e-4 * scale)


def node_model(op_type: str, x: tuple[int | str, ...], *weights: np.ndarray, opset: int = 18, **attributes: object) -> onnx.ModelProto:
    names = [f"w{i}" for i in range(len(weights))]
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", *names], ["y"], name="n", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(w, n) for n, w in zip(names, weights, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def emitted(model: onnx.ModelProto) -> Counter[str]:
    """The operators of the backward part."""
    derived = onnxsal.vjp(model, wrt=["x"])
    return Counter(n.op_type for n in derived.graph.node[len(model.graph.node) :] if n.op_type != "Identity")


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (node_model("Conv", (1, 8, 6, 6), weight(16, 8, 3, 3), pads=[1, 1, 1, 1]), "Transpose Slice Conv"),
        (node_model("Conv", ("n", 8, "h", "w"), weight(16, 8, 3, 3), pads=[0, 1, 1, 0]), "Transpose Slice Conv"),
        (node_model("Conv", (1, 8, 6, 6), weight(16, 8, 1, 1)), "Transpose Conv"),
        (node_model("Conv", (1, 8, 6, 6), weight(8, 1, 3, 3), group=8), "Slice Conv"),
        (node_model("Conv", (1, 8, 6, 6), weight(8, 4, 3, 3), group=2), "Reshape Transpose Reshape Slice Conv"),
        (node_model("Conv", (1, 8, 6, 6), weight(16, 8, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), "ConvTranspose"),
        (node_model("Conv", (1, 8, 7, 7), weight(16, 8, 1, 1), strides=[2, 2]), "ConvTranspose"),
        (node_model("Conv", (1, 8, 6, 6), weight(8, 1, 3, 3), group=8, pads=[0, 0, 1, 1], strides=[2, 2]), "Resize Mul Mul Slice Conv"),
        (node_model("Conv", ("n", 3, "h", "w"), weight(16, 3, 3, 3), pads=[1, 1, 1, 1]), "ConvTranspose"),
        (node_model("Conv", (1, 3, 6, 6), weight(16, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]), "ConvTranspose Slice"),
        (node_model("AveragePool", (1, 8, 6, 6), kernel_shape=[2, 2], strides=[2, 2]), "Expand ConvTranspose"),
        (node_model("AveragePool", (1, 8, 6, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), "Expand Conv"),
        (node_model("GlobalAveragePool", (1, 8, 6, 6)), "Mul Expand"),
        (node_model("Gemm", (1, 8), weight(4, 8), weight(4), transB=1), "Gemm"),
        (node_model("MatMul", ("n", 5, 8), weight(8, 4)), "Transpose MatMul"),
    ],
)
def test_backward_graph_is_short(model: onnx.ModelProto, expected: str) -> None:
    assert emitted(model) == Counter(expected.split())


@pytest.mark.parametrize("op_type", ["MaxPool", "GlobalMaxPool"])
def test_first_of_several_largest_gets_the_gradient(op_type: str) -> None:
    """As torch does: in reading order, the first element that is the largest of its window."""
    x = np.asarray([[[[1, 3, 0, 2], [1, 3, 2, 2], [3, 3, -1, -1], [3, 3, -1, -1]]]], np.float32)
    pooled = {"kernel_shape": [2, 2], "strides": [2, 2]} if op_type == "MaxPool" else {}
    model = node_model(op_type, x.shape, **pooled)
    dy = np.asarray([[[[1, 2], [3, 4]]]] if pooled else [[[[5]]]], np.float32)
    got = run(onnxsal.vjp(model), {"x": x, "cotangent/y": dy})["vjp/x"]
    expected = [[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]] if pooled else [[0, 5, 0, 0], *[[0] * 4] * 3]
    np.testing.assert_array_equal(got, np.asarray([[expected]], np.float32))


def test_same_padding_of_dilated_pooling_is_refused() -> None:
    """The standard and ONNX Runtime disagree about it."""
    model = node_model("AveragePool", (1, 1, 11), kernel_shape=[3], dilations=[2], auto_pad="SAME_UPPER", opset=19)
    with pytest.raises(OnnxsalError, match="explicit pads"):
        onnxsal.vjp(model)


def test_kernel_of_unknown_size() -> None:
    """A weight that is itself computed, with symbolic dimensions: dx and dW as with known ones."""
    rng = np.random.default_rng(1)
    attributes = {"pads": [1, 2, 0, 1], "strides": [2, 1]}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="n", **attributes)]
    feed = {
        "x": rng.standard_normal((2, 3, 6, 7)),
        "w": rng.standard_normal((4, 3, 3, 2)),
        "cotangent/y": rng.standard_normal((2, 4, 3, 9)),
    }
    feed = {k: v.astype(np.float32) for k, v in feed.items()}
    results = []
    for shapes in ({"x": (2, 3, 6, 7), "w": (4, 3, 3, 2)}, {"x": ("n", "c", "h", "w"), "w": ("o", "i", "kh", "kw")}):
        inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
        graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name="y")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        results.append(run(onnxsal.vjp(onnx.shape_inference.infer_shapes(model), wrt=["x", "w"]), feed))
    for name in ("vjp/x", "vjp/w"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-4, atol=1e-5)
