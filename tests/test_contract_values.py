"""What the numbers of a converted model mean, against twins that share no code with it: differences, sums and softmaxes by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxsal
from tests.oracle import run
from tests.small_models import cnn, cnn_nhwc, draw, make, node, segmenter, tokens, two_inputs, unbatched

Score = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Outputs of a batch -> one score per sample."""

X = draw(2, 3, 8, 8, seed=11)
X64 = draw(2, 3, 8, 8, seed=11, dtype=np.float64)


def slope(model: onnx.ModelProto, feed: dict[str, np.ndarray], name: str, score: Score, step: float = 1e-6) -> np.ndarray:
    """d score / d feed[name] of each sample by central differences: all elements at once, as one large batch."""
    answer = []
    for i in range(len(feed[name])):
        one = {k: v[i : i + 1] for k, v in feed.items()}
        size = one[name].size
        moves = np.concatenate([np.eye(size), -np.eye(size)]) * step
        batch = {k: np.repeat(v, 2 * size, 0) for k, v in one.items()}
        batch[name] = batch[name] + moves.reshape(-1, *one[name].shape[1:]).astype(one[name].dtype)
        scores = score(run(model, batch))
        answer.append(((scores[:size] - scores[size:]) / (2 * step)).reshape(one[name].shape[1:]))
    return np.stack(answer)


def explained(model: onnx.ModelProto, feed: dict[str, np.ndarray], method: str = "gradient", **options: Any) -> dict[str, np.ndarray]:
    fed = options.pop("fed", {})
    return run(onnxsal.convert(model, method, **options), feed | fed)


def softmax(v: np.ndarray) -> np.ndarray:
    e = np.exp(v - v.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


# ----- which score is explained -----

LOGITS = cnn(final="", dtype=np.float64)
"""The network of ``cnn`` without its last node: its output is the logits."""


@pytest.mark.parametrize("final", ["", "Softmax", "LogSoftmax", "Sigmoid"])
@pytest.mark.parametrize("target", [0, 3])
def test_a_logit(final: str, target: int):
    got = explained(cnn(final=final, dtype=np.float64), {"x": X64}, target=target)
    np.testing.assert_allclose(got["explained_score"], run(LOGITS, {"x": X64})["y"][:, target], rtol=1e-6)
    np.testing.assert_allclose(got["attribution"], slope(LOGITS, {"x": X64}, "x", lambda y: y["y"][:, target]), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("final", "squash"), [("", softmax), ("Softmax", softmax), ("LogSoftmax", softmax), ("Sigmoid", sigmoid)], ids=lambda v: str(v)[:12]
)
@pytest.mark.parametrize("target", [0, 3])
def test_a_probability(final: str, squash: Callable[[np.ndarray], np.ndarray], target: int):
    """Whatever the model ends in: logits get a Softmax, a LogSoftmax becomes one."""
    got = explained(cnn(final=final, dtype=np.float64), {"x": X64}, target=target, score="probability")
    expected = squash(run(LOGITS, {"x": X64})["y"])
    np.testing.assert_allclose(got["explained_score"], expected[:, target], rtol=1e-5)
    by_hand = slope(LOGITS, {"x": X64}, "x", lambda y: squash(y["y"])[:, target])
    np.testing.assert_allclose(got["attribution"], by_hand, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("final", ["", "Softmax", "LogSoftmax", "Sigmoid"])
def test_the_raw_output(final: str):
    model = cnn(final=final, dtype=np.float64)
    got = explained(model, {"x": X64}, target=2, score="raw")
    np.testing.assert_allclose(got["explained_score"], run(model, {"x": X64})["y"][:, 2], rtol=1e-5)
    np.testing.assert_allclose(got["attribution"], slope(model, {"x": X64}, "x", lambda y: y["y"][:, 2]), rtol=1e-5, atol=1e-8)


PIXELS = {"w": draw(5, 3, 1, 1, seed=4), "one": np.asarray([1.0], np.float32), "classes": np.asarray([1])}
NHWC = {"y": ["N", 6, 6, 5]}


def pixels(*nodes: onnx.NodeProto, shape: dict[str, list[int | str]] | None = None) -> onnx.ModelProto:
    """Scores of each pixel, and what stands after them."""
    outputs = shape or {"y": ["N", 5, 6, 6]}
    return make([node("Conv", "x w", "h"), *nodes], {"x": ["N", 3, 6, 6]}, outputs, PIXELS, opset=18)


@pytest.mark.parametrize("final", ["Softmax", "LogSoftmax", "Sigmoid"])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("method", ["gradient", "fullgrad", "lrp_epsilon", "occlusion"])
def test_a_squashing_that_is_transposed(final: str, score: str, method: str):
    """The same numbers as without the Transpose, at the class that the transposed output has in that place."""
    axis = {} if final == "Sigmoid" else {"axis": 1}
    turned = pixels(node(final, "h", "p", **axis), node("Transpose", "p", "y", perm=[0, 2, 3, 1]), shape=NHWC)
    feed = {"x": draw(2, 3, 6, 6, seed=7)}
    got = explained(turned, feed, method, target=(2, 4, 3), score=score)
    expected = explained(pixels(node(final, "h", "y", **axis)), feed, method, target=(3, 2, 4), score=score)
    assert got["explained_class"].tolist() == [2 * 30 + 4 * 5 + 3] * 2
    for name in ("attribution", "explained_score", "saliency_map"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-7)
    if "residual" in got:
        assert got["residual"].max() < 1e-3


PROBABILITIES = {
    "a Softmax in parts": [node("Exp", "h", "e"), node("ReduceSum", "e classes", "s", keepdims=1), node("Div", "e s", "y")],
    "p and 1 - p": [node("Sigmoid", "h", "p"), node("Sub", "one p", "q"), node("Concat", "p q", "y", axis=1)],
    "the mean of two": [node("Softmax", "h", "p", axis=1), node("Sigmoid", "h", "q"), node("Mean", "p q", "y")],
}


@pytest.mark.parametrize("nodes", PROBABILITIES.values(), ids=PROBABILITIES)
def test_a_probability_without_logits_is_told(nodes: list[onnx.NodeProto]):
    """It is explained as it is, which the record and a warning say; asked for as a probability it is not squashed once more."""
    model, x, place = pixels(*nodes, shape={"y": None}), draw(2, 3, 6, 6, seed=7), (3, 2, 4)
    found = onnxsal.Explainer(model, "gradient").explain(x, target=place)
    assert found.parameters["score"] == "raw"
    assert len(found.warnings) == 1
    assert "is a probability whose logits were not found" in found.warnings[0]
    own = run(model, {"x": x})["y"][:, 3, 2, 4]
    np.testing.assert_allclose(found.score, own, rtol=1e-5)
    adopted = onnxsal.Explainer(onnxsal.convert(model, "gradient", target=place)).explain(x)
    assert adopted.warnings == found.warnings
    asked = onnxsal.Explainer(model, "gradient", score="probability").explain(x, target=place)
    np.testing.assert_allclose(asked.score, own, rtol=1e-5)
    assert asked.warnings == []


def test_the_predicted_class_is_that_of_each_sample():
    got = explained(cnn(dtype=np.float64), {"x": X64}, fed={"target": np.asarray([-1, 1], np.int64)})
    best = int(run(LOGITS, {"x": X64})["y"][0].argmax())
    assert got["explained_class"].tolist() == [best, 1]
    for i, target in enumerate([best, 1]):
        by_hand = slope(LOGITS, {"x": X64[i : i + 1]}, "x", lambda y, t=target: y["y"][:, t])
        np.testing.assert_allclose(got["attribution"][i], by_hand[0], rtol=1e-5, atol=1e-8)


# ----- kinds of inputs and outputs -----


def test_channels_last():
    first = explained(cnn(), {"x": X}, target=1)
    last = explained(cnn_nhwc(), {"image": X.transpose(0, 2, 3, 1).copy()}, target=1)
    np.testing.assert_allclose(last["attribution"], first["attribution"].transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(last["saliency_map"], first["saliency_map"], rtol=1e-5)


@pytest.mark.parametrize(
    ("reduce", "by_hand"), [("sum_abs", lambda a: np.abs(a).sum(1)), ("max_abs", lambda a: np.abs(a).max(1)), ("sum", lambda a: a.sum(1))]
)
def test_the_map_is_the_attribution_over_channels(reduce: str, by_hand: Callable[[np.ndarray], np.ndarray]):
    got = explained(cnn(), {"x": X}, reduce=reduce)
    np.testing.assert_allclose(got["saliency_map"], by_hand(got["attribution"]), rtol=1e-5, atol=1e-8)


def test_tokens_are_explained_at_their_embedding():
    ids = np.asarray([[1, 2, 3, 4], [5, 5, 0, 10]])
    got = explained(tokens(), {"ids": ids}, input="embedded", target=2)
    model = tokens()
    del model.graph.node[0]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["N", "S", 6]))
    table = draw(11, 6, seed=1)
    by_hand = slope(model, {"embedded": table[ids]}, "embedded", lambda y: y["y"][:, 2], step=1e-2)
    np.testing.assert_allclose(got["attribution"], by_hand, rtol=1e-2, atol=1e-4)
    assert "saliency_map" not in got


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("output", ["y", "side"])
def test_one_of_several_inputs_and_outputs(name: str, output: str):
    feed = {"a": draw(2, 4, seed=1), "b": draw(2, 3, seed=2)}
    got = explained(two_inputs(), feed, input=name, output=output, score="raw", target=3)
    by_hand = slope(two_inputs(), feed, name, lambda y: y[output][:, 3], step=1e-2)
    np.testing.assert_allclose(got["attribution"], by_hand, rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(got["explained_score"], run(two_inputs(), feed)[output][:, 3], rtol=1e-5)


@pytest.mark.parametrize("size", [6, "S"])
def test_a_pixel_of_a_segmentation(size: int | str):
    """A tuple indexes class, row and column; where the size is open, an array of flat indices does."""
    x = draw(2, 3, 6, 6)
    where, flat = (1, 2, 4), 1 * 36 + 2 * 6 + 4
    got = explained(segmenter(size=size), {"x": x}, target=where if size == 6 else np.asarray([flat]))
    assert got["explained_class"].tolist() == [flat, flat]
    by_hand = slope(segmenter(), {"x": x}, "x", lambda y: y["y"][:, 1, 2, 4], step=1e-2)
    np.testing.assert_allclose(got["attribution"], by_hand, rtol=2e-2, atol=1e-2)
    rows, columns = np.nonzero(np.abs(got["saliency_map"][0]) > 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 3, 5), "the 3 x 3 pixels that one output pixel sees"


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "fullgrad"])
def test_a_model_without_a_batch(method: str):
    """[7, 4] -> [3]: the whole input is one sample, and there is one answer."""
    x = draw(7, 4, seed=3)
    got = explained(unbatched(), {"x": x}, method, target=1)
    assert got["attribution"].shape == (7, 4)
    assert got["explained_class"].tolist() == [1]
    np.testing.assert_allclose(got["explained_score"], run(unbatched(), {"x": x})["y"][1:2], rtol=1e-5)
    w = draw(4, 3, seed=1)
    by_hand = (1 - np.tanh(x @ w)[:, 1:2] ** 2) * w[:, 1]
    if method == "gradient":
        np.testing.assert_allclose(got["attribution"], by_hand, rtol=1e-4, atol=1e-6)
    if method == "input_x_gradient":
        np.testing.assert_allclose(got["attribution"], x * by_hand, rtol=1e-4, atol=1e-6)
    if method == "integrated_gradients":
        np.testing.assert_allclose(got["attribution"].sum(), np.tanh(x @ w)[:, 1].sum(), rtol=1e-4)
    if "residual" in got:
        assert got["residual"].shape == (1,)
        assert got["residual"][0] < 1e-4


@pytest.mark.parametrize("narrow", [False, True])
def test_float32_and_float64_in_one_model(narrow: bool):
    """A cast somewhere on the way: the signal is cast back."""
    weights = {"w32": draw(4, 6, seed=1), "w64": draw(6, 3, seed=2, dtype=np.float64)}
    nodes = [
        node("MatMul", "x w32", "h"),
        node("Cast", "h", "h64", to=TensorProto.DOUBLE),
        node("Tanh", "h64", "t"),
        node("MatMul", "t w64", "y"),
    ]
    types = {"y": TensorProto.DOUBLE}
    if narrow:
        nodes = [
            node("MatMul", "x w32d", "h"),
            node("Cast", "h", "h32", to=TensorProto.FLOAT),
            node("Tanh", "h32", "t"),
            node("MatMul", "t w64f", "y"),
        ]
        weights = {"w32d": weights["w32"].astype(np.float64), "w64f": weights["w64"].astype(np.float32)}
        types = {"x": TensorProto.DOUBLE}
    model = make(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, weights, types=types)
    x = draw(2, 4, seed=5, dtype=np.float64 if narrow else np.float32)
    w1, w2 = draw(4, 6, seed=1).astype(np.float64), draw(6, 3, seed=2, dtype=np.float64)
    by_hand = ((1 - np.tanh(x @ w1) ** 2) * w2[:, 1]) @ w1.T
    for method in ("gradient", "integrated_gradients", "smoothgrad", "fullgrad"):
        got = explained(model, {"x": x}, method, target=1)
        assert got["attribution"].dtype == x.dtype
        if method == "gradient":
            np.testing.assert_allclose(got["attribution"], by_hand, rtol=1e-4, atol=1e-6)
        if "residual" in got:
            assert got["residual"].max() < 1e-3


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_explained_in_float32(kind: int):
    """A bfloat16 model has float32 at its borders here: numpy cannot hold it."""
    weights = {"w1": draw(4, 6, seed=1), "w2": draw(6, 3, seed=2)}
    nodes = [
        *(node("Cast", name, f"{name}_half", to=kind) for name in ("x", "w1", "w2")),
        node("MatMul", "x_half w1_half", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r w2_half", "y_half"),
        node("Cast", "y_half", "y", to=TensorProto.FLOAT),
    ]
    model = make(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, weights)
    x = draw(8, 4, seed=5)
    converted = onnxsal.convert(model, "gradient", target=1)
    if kind == TensorProto.BFLOAT16:
        onnx.checker.check_model(converted, full_check=True)
        return  # ONNX Runtime's CPU provider multiplies no bfloat16 matrices
    got = run(converted, {"x": x})
    w1, w2 = weights["w1"], weights["w2"]
    by_hand = ((x @ w1 > 0) * w2[:, 1]) @ w1.T
    assert got["attribution"].dtype == np.float32
    assert np.corrcoef(got["attribution"].ravel(), by_hand.ravel())[0, 1] > 0.999


# ----- paths and noise: the loop in the graph against sums made here -----


@pytest.mark.parametrize("rule", ["gausslegendre", "trapezoid", "riemann_left", "riemann_middle", "riemann_right", "endpoints_sum"])
@pytest.mark.parametrize("batch", ["N", 2])
def test_integrated_gradients_are_the_sum_over_the_path(rule: str, batch: int | str):
    n, x0 = 5, 0.3
    points, weights = {
        "gausslegendre": ((np.polynomial.legendre.leggauss(n)[0] + 1) / 2, np.polynomial.legendre.leggauss(n)[1] / 2),
        "trapezoid": (np.linspace(0, 1, n + 1), np.asarray([0.5, 1, 1, 1, 1, 0.5]) / n),
        "riemann_left": (np.arange(n) / n, np.full(n, 1 / n)),
        "riemann_middle": ((np.arange(n) + 0.5) / n, np.full(n, 1 / n)),
        "riemann_right": ((np.arange(n) + 1) / n, np.full(n, 1 / n)),
        "endpoints_sum": (np.linspace(0, 1, n), np.ones(n)),
    }[rule]
    target = np.asarray([4, 2], np.int64)
    got = explained(cnn(batch, dtype=np.float64), {"x": X64}, "ig", n_steps=n, rule=rule, baseline=x0, chunk=2, fed={"target": target})
    gradient = onnxsal.convert(cnn(dtype=np.float64), "gradient")
    total = sum(
        w * run(gradient, {"x": x0 + a * (X64 - x0), "target": target})["attribution"] for a, w in zip(points, weights, strict=True)
    )
    np.testing.assert_allclose(got["attribution"], (X64 - x0) * total, rtol=1e-9, atol=1e-12)
    gained = run(LOGITS, {"x": X64})["y"] - run(LOGITS, {"x": np.full_like(X64, x0)})["y"]
    gained = gained[np.arange(2), target]
    share = got["attribution"].sum((1, 2, 3)) / weights.sum()
    np.testing.assert_allclose(got["residual"], np.abs(share - gained) / np.abs(gained), rtol=1e-4)


@pytest.mark.parametrize("variant", ["mean", "squared", "vargrad"])
def test_chunks_of_noise_do_not_change_the_result(variant: str):
    """However many samples run at once, and with a fixed batch: the noise is a function of seed, sample number and element."""
    options = {"n_samples": 7, "variant": variant, "target": 1}
    reference = explained(cnn(dtype=np.float64), {"x": X64}, "smoothgrad", chunk=7, **options)["attribution"]
    for chunk in (1, 3):
        got = explained(cnn(dtype=np.float64), {"x": X64}, "smoothgrad", chunk=chunk, **options)["attribution"]
        np.testing.assert_allclose(got, reference, rtol=1e-8, atol=1e-12)
    other = explained(cnn(dtype=np.float64), {"x": X64}, "smoothgrad", seed=1, **options)["attribution"]
    assert np.abs(other - reference).max() > 1e-3 * np.abs(reference).max()


def test_the_three_smooth_variants_belong_together():
    """variance = mean of squares - square of the mean, over the same noise."""
    mean, squared, variance = (
        explained(cnn(dtype=np.float64), {"x": X64}, "smoothgrad", n_samples=9, chunk=2, variant=v, target=1)["attribution"]
        for v in ("mean", "squared", "vargrad")
    )
    np.testing.assert_allclose(variance, squared - mean**2, rtol=1e-6, atol=1e-10)
    assert variance.min() >= 0


def test_smoothgrad_of_a_linear_model_is_its_gradient():
    w = draw(12, 3, seed=4, dtype=np.float64)
    kinds = {"x": TensorProto.DOUBLE, "y": TensorProto.DOUBLE}
    model = make([node("MatMul", "x w", "y")], {"x": ["N", 12]}, {"y": ["N", 3]}, {"w": w}, types=kinds)
    got = explained(model, {"x": draw(2, 12, dtype=np.float64)}, "smoothgrad", n_samples=5, target=2)
    np.testing.assert_allclose(got["attribution"], np.tile(w[:, 2], (2, 1)), rtol=1e-9)


def test_the_noise_is_normal_with_the_stated_spread():
    """The square's gradient is 2 (x + noise): the noise itself can be read off, sample by sample."""
    kinds = {"x": TensorProto.DOUBLE, "y": TensorProto.DOUBLE}
    nodes = [node("Mul", "x x", "q"), node("ReduceSum", "q axes", "y", keepdims=1)]
    model = make(nodes, {"x": ["N", 4000]}, {"y": ["N", 1]}, {"axes": np.asarray([1], np.int64)}, types=kinds)
    x = np.zeros((1, 4000))
    x[0, 0] = 10.0  # the range of the sample, and so the scale of the noise
    draws = [explained(model, {"x": x}, "smoothgrad", n_samples=1, noise_level=0.2, seed=s)["attribution"][0, 1:] / 2 for s in range(4)]
    noise = np.concatenate(draws)
    assert noise.std() == pytest.approx(2.0, rel=0.02)
    assert noise.mean() == pytest.approx(0.0, abs=0.06)
    assert (np.abs(noise) < 2.0).mean() == pytest.approx(0.6827, abs=0.015)
    assert (np.abs(noise) < 4.0).mean() == pytest.approx(0.9545, abs=0.01)
    assert np.abs(np.corrcoef(draws)[np.triu_indices(4, 1)]).max() < 0.06
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.04


def test_noise_without_a_batch_axis():
    """The rows of an input that is one sample meet noise of their own, scaled by the range of the whole."""
    kinds = {"x": TensorProto.DOUBLE, "y": TensorProto.DOUBLE}
    nodes = [node("Mul", "x x", "q"), node("ReduceSum", "q", "s", keepdims=0), node("Reshape", "s one", "y")]
    model = make(nodes, {"x": [3, 500]}, {"y": [1]}, {"one": np.asarray([1], np.int64)}, types=kinds)
    x = np.zeros((3, 500))
    x[0, 0] = 10.0
    noise = explained(model, {"x": x}, "smoothgrad", n_samples=1, noise_level=0.2)["attribution"][:, 1:] / 2
    np.testing.assert_allclose(noise.std(1), 2.0, rtol=0.1)
    assert np.abs(np.corrcoef(noise)[np.triu_indices(3, 1)]).max() < 0.15


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "fullgrad"])
def test_one_number_per_sample(method: str):
    """[N] -> [N, 3]: no axis but the batch, over which nothing may be summed or compared."""
    nodes = [node("Unsqueeze", "x last", "u"), node("MatMul", "u w", "h"), node("Tanh", "h", "y")]
    model = make(nodes, {"x": ["N"]}, {"y": ["N", 3]}, {"w": draw(1, 3, seed=1), "last": np.asarray([1], np.int64)})
    x = draw(4, seed=2)
    got = explained(model, {"x": x}, method, target=1)
    assert got["attribution"].shape == (4,)
    for i in range(4):
        alone = explained(model, {"x": x[i : i + 1]}, method, target=1)
        for name, value in alone.items():
            np.testing.assert_allclose(got[name][i : i + 1], value, rtol=1e-4, atol=1e-6, err_msg=name)
    if method == "gradient":
        w = draw(1, 3, seed=1)[0, 1]
        np.testing.assert_allclose(got["attribution"], (1 - np.tanh(x * w) ** 2) * w, rtol=1e-4)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad"])
def test_walks_beside_another_input(method: str, name: str):
    """The other input holds one row per sample: a batch of three must give what each sample gives alone."""
    feed = {"a": draw(3, 4, seed=1), "b": draw(3, 3, seed=2)}
    got = explained(two_inputs(), feed, method, input=name, output="y", target=3)
    for i in range(3):
        alone = explained(two_inputs(1), {k: v[i : i + 1] for k, v in feed.items()}, method, input=name, output="y", target=3)
        np.testing.assert_allclose(got["attribution"][i], alone["attribution"][0], rtol=1e-4, atol=1e-6)
    if method == "integrated_gradients":
        still = feed | {name: np.zeros_like(feed[name])}
        gained = run(two_inputs(), feed)["y"][:, 3] - run(two_inputs(), still)["y"][:, 3]
        np.testing.assert_allclose(got["attribution"].sum(1), gained, rtol=1e-3, atol=1e-5)
