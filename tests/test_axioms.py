"""Completeness and weak dependence: the known verdicts on piecewise linear networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxsal
from onnxsal.errors import MethodError, PlanError
from onnxsal.metrics import completeness, weak_dependence


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """Convolution, ReLU6 (Clip), max pooling, convolution, ReLU, mean, Gemm, with biases; piecewise linear."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        net (float[N,3,12,12] x) => (float[N,4] y) <float low = {0.0}, float high = {6.0}> {
          a = Conv<pads=[1,1,1,1]>(x, w1, b1)
          c = Clip(a, low, high)
          p = MaxPool<kernel_shape=[3,3], strides=[2,2]>(c)
          d = Conv(p, w2, b2)
          r = Relu(d)
          g = GlobalAveragePool(r)
          f = Flatten(g)
          y = Gemm(f, w3, b3)
        }"""
    )
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), "b2": (6,), "w3": (6, 4), "b3": (4,)}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) * (2 / max(np.prod(shape[1:]), 2)) ** 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return model


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((3, 3, 12, 12)).astype(np.float32) * 3


@pytest.mark.parametrize(
    ("method", "satisfied"), [("gradient", True), ("fullgrad", True), ("input_x_gradient", False), ("integrated_gradients", False)]
)
def test_weak_dependence(network: onnx.ModelProto, pictures: np.ndarray, method: str, satisfied: bool) -> None:
    explainer = onnxsal.Explainer(network, method, components=method == "fullgrad")
    found = weak_dependence(network, explainer, pictures)
    assert (found.distance > 0).all()
    assert (found.satisfied == satisfied).all(), found.difference
    if not satisfied:
        assert (found.difference > 1e-4).all()


def test_weak_dependence_sees_a_map_that_depends(network: onnx.ModelProto, pictures: np.ndarray) -> None:
    """The FullGrad map's input term uses x: without its parts it fails, as it should."""
    found = weak_dependence(network, onnxsal.Explainer(network, "fullgrad"), pictures)
    assert not found.satisfied.any()
    other = weak_dependence(network, onnxsal.Explainer(network, "lrp_zero", components=True), pictures)  # parts, but not FullGrad's
    np.testing.assert_array_equal(other.difference, weak_dependence(network, onnxsal.Explainer(network, "lrp_zero"), pictures).difference)


def test_smooth_networks_have_no_regions(pictures: np.ndarray) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        net (float[N,3,12,12] x) => (float[N,3] y) { a = GlobalAveragePool(x) b = Flatten(a) y = LayerNormalization(b, s) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "s"))
    with pytest.raises(PlanError, match="not piecewise linear"):
        weak_dependence(model, onnxsal.Explainer(model, "gradient"), pictures)


def test_completeness(network: onnx.ModelProto, pictures: np.ndarray) -> None:
    for components in (False, True):
        error = completeness(onnxsal.Explainer(network, "fullgrad", components=components), pictures)
        assert error.shape == (3,)
        assert (error < 1e-5).all()
    coarse = completeness(onnxsal.Explainer(network, "integrated_gradients", n_steps=2), pictures)
    fine = completeness(onnxsal.Explainer(network, "integrated_gradients", n_steps=400), pictures)
    assert (fine < coarse).all()
    with pytest.raises(MethodError, match="no completeness law"):
        completeness(onnxsal.Explainer(network, "guided_backprop"), pictures)
