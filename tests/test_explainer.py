"""Explainer: any number of samples through a model of any batch, and the same numbers as the converted model gives."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal import Explainer
from onnxsal.errors import InputError
from onnxsal.explanation import ROWS, Explanation
from tests.oracle import run
from tests.small_models import cnn, draw, make, node, segmenter, tokens, two_inputs, unbatched

X = draw(7, 3, 8, 8, seed=21)


@pytest.fixture(scope="module")
def direct() -> dict[str, np.ndarray]:
    return run(onnxsal.convert(cnn(), "ig", n_steps=5), {"x": X})


@pytest.mark.parametrize(
    ("batch", "batch_size"), [("N", None), ("N", 1), ("N", 3), ("N", 100), (1, None), (4, None), (4, 2), (7, None), (9, None)]
)
def test_seven_samples_through_any_batch(direct: dict[str, np.ndarray], batch: int | str, batch_size: int | None):
    """A fixed batch of 4 or 9 is filled up, and what it is filled with is dropped."""
    found = Explainer(cnn(batch), "ig", n_steps=5, batch_size=batch_size).explain(X)
    assert len(found) == 7
    np.testing.assert_allclose(found.attribution, direct["attribution"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.saliency_map, direct["saliency_map"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.target, direct["explained_class"])
    np.testing.assert_allclose(found.score, direct["explained_score"], rtol=1e-5)
    np.testing.assert_allclose(found.residual, direct["residual"], atol=1e-4)
    assert list(found.outputs) == ["y"]
    np.testing.assert_allclose(found.outputs["y"], direct["y"], rtol=1e-5)
    assert found.providers == ["CPUExecutionProvider"]
    assert found.seconds > 0
    assert found.components == {}


def test_every_array_of_an_explanation_is_cut_into_samples():
    """A field that is added and not told to hold rows would keep those of all samples in the explanation of one."""
    arrays = {f.name for f in fields(Explanation) if str(f.type).startswith("np.ndarray")}
    assert arrays == set(ROWS)
    seen = set()
    of_tokens = Explainer(tokens(), "gradient").explain(np.arange(14).reshape(7, 2) % 11)
    estimated = Explainer(cnn(), "shapley_sampling", n_samples=2).explain(X)
    for found in (Explainer(cnn(), "lrp_epsilon", against="runner-up").explain(X), of_tokens, estimated):
        held = [name for name in ROWS if getattr(found, name) is not None]
        seen |= set(held)
        for i, one in enumerate(found):
            for name in held:
                np.testing.assert_array_equal(getattr(one, name), getattr(found, name)[i : i + 1])
            assert one.seconds == found.seconds / 7
    assert seen == set(ROWS)


@pytest.mark.parametrize("batch", ["N", 3])
def test_targets_follow_their_samples(batch: int | str):
    explainer = Explainer(cnn(batch), "gradient", batch_size=2)
    wanted = np.asarray([4, 0, -1, 2, 1, 3, -1])
    found = explainer.explain(X, target=wanted)
    predicted = explainer.explain(X).target
    assert found.target.tolist() == np.where(wanted < 0, predicted, wanted).tolist()
    for i in (0, 5):
        alone = explainer.explain(X[i : i + 1], target=int(wanted[i]))
        np.testing.assert_allclose(found.attribution[i], alone.attribution[0], rtol=1e-4, atol=1e-7)
    assert explainer.explain(X, target=3).target.tolist() == [3] * 7


def test_a_default_target_of_the_conversion():
    explainer = Explainer(cnn(), "gradient", target=2)
    assert explainer.explain(X).target.tolist() == [2] * 7
    assert explainer.explain(X, target=1).target.tolist() == [1] * 7


def test_one_sample_of_an_explanation():
    found = Explainer(cnn(), "ig", n_steps=3).explain(X, target=np.arange(7) % 5)
    for index in (0, 3, -1):
        one = found[index]
        assert len(one) == 1
        np.testing.assert_array_equal(one.attribution[0], found.attribution[index])
        np.testing.assert_array_equal(one.outputs["y"][0], found.outputs["y"][index])
        assert one.target.tolist() == [found.target[index]]
        assert one.residual is not None


def test_a_loop_over_an_explanation_ends():
    found = Explainer(cnn(), "gradient").explain(X)
    assert [one.target[0] for one in found] == found.target.tolist()
    for index in (7, -8):
        with pytest.raises(IndexError):
            found[index]


def test_several_inputs_in_batches():
    a, b = draw(7, 4, seed=1), draw(7, 3, seed=2)
    found = Explainer(two_inputs(), "ig", input="a", output="y", batch_size=3).explain({"a": a, "b": b}, target=1)
    expected = run(onnxsal.convert(two_inputs(), "ig", input="a", output="y", target=1), {"a": a, "b": b})
    np.testing.assert_allclose(found.attribution, expected["attribution"], rtol=1e-4, atol=1e-6)
    assert list(found.outputs) == ["y", "side"]


def test_an_input_without_a_batch_axis_is_fed_whole():
    """A temperature [1] and a mask [4] beside the samples."""
    nodes = [node("Mul", "x mask", "m"), node("Div", "m temperature", "d"), node("MatMul", "d w", "y")]
    model = make(nodes, {"temperature": [1], "x": ["N", 4], "mask": [4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    x, mask = draw(4, 4), np.asarray([1, 0, 1, 1], np.float32)
    explainer = Explainer(model, "gradient", input="x", batch_size=3)
    found = explainer.explain({"x": x, "mask": mask, "temperature": np.asarray([2], np.float32)}, target=1)
    np.testing.assert_allclose(found.attribution, np.tile(mask / 2 * draw(4, 3)[:, 1], (4, 1)), rtol=1e-5)


def test_a_model_without_a_batch():
    found = Explainer(unbatched(), "gradient").explain(draw(7, 4), target=1)
    assert found.attribution.shape == (7, 4)
    assert found.target.tolist() == [1]
    assert found.saliency_map is None
    with pytest.raises(InputError, match="no saliency map"):
        found.plot()


def test_tokens_at_their_embedding():
    ids = np.arange(14).reshape(7, 2) % 11
    found = Explainer(tokens(), "ig", input="embedded", batch_size=4).explain(ids, target=2)
    assert found.attribution.shape == (7, 2, 6)
    assert found.residual.max() < 1e-3


def test_a_tuple_as_target():
    found = Explainer(segmenter(), "gradient").explain(draw(2, 3, 6, 6), target=(1, 2, 3))
    assert found.target.tolist() == [36 + 12 + 3] * 2


def test_a_baseline_given_at_run_time():
    explainer = Explainer(cnn(), "ig", n_steps=4)
    shifted = explainer.explain(X, baseline=np.full((1, 1, 1, 1), 0.5, np.float32))
    expected = run(onnxsal.convert(cnn(), "ig", n_steps=4, baseline=0.5), {"x": X})
    np.testing.assert_allclose(shifted.attribution, expected["attribution"], rtol=1e-4, atol=1e-6)
    assert np.abs(shifted.attribution - explainer.explain(X).attribution).max() > 1e-3


def test_a_baseline_per_sample_follows_its_sample():
    each = draw(7, 3, 8, 8, seed=3)
    whole = Explainer(cnn(), "ig", n_steps=4).explain(X, baseline=each)
    parts = Explainer(cnn(), "ig", n_steps=4, batch_size=3).explain(X, baseline=each)
    np.testing.assert_allclose(parts.attribution, whole.attribution, rtol=1e-4, atol=1e-6)


def test_a_prefix_is_invisible():
    plain, prefixed = Explainer(cnn(), "ig", n_steps=3), Explainer(cnn(), "ig", n_steps=3, prefix="why/")
    base = np.full((1, 1, 1, 1), 0.2, np.float32)
    one, two = (e.explain(X, target=1, baseline=base) for e in (plain, prefixed))
    np.testing.assert_array_equal(one.attribution, two.attribution)
    assert list(two.outputs) == ["y"]


@pytest.mark.parametrize("source", ["path", "bytes", "proto"])
def test_every_form_of_a_model(tmp_path: Path, source: str):
    path = tmp_path / "m.onnx"
    onnx.save(cnn(), str(path))
    given = {"path": path, "bytes": path.read_bytes(), "proto": cnn()}[source]
    found = Explainer(given, "gradient").explain(X)
    np.testing.assert_array_equal(found.attribution, Explainer(cnn(), "gradient").explain(X).attribution)


def test_nothing_is_kept_between_calls():
    explainer = Explainer(cnn(), "smoothgrad", n_samples=3)
    first = explainer.explain(X[:2])
    explainer.explain(100 * X[2:5], target=1)
    again = explainer.explain(X[:2])
    np.testing.assert_array_equal(first.attribution, again.attribution)


def test_an_explanation_is_saved(tmp_path: Path):
    found = Explainer(cnn(), "ig", n_steps=3).explain(X[:2], target=[1, 3])
    path = found.save(tmp_path / "what.npz")
    arrays = np.load(path)
    np.testing.assert_array_equal(arrays["attribution"], found.attribution)
    np.testing.assert_array_equal(arrays["outputs/y"], found.outputs["y"])
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["method"] == "integrated_gradients"
    assert facts["target"] == [1, 3]
    assert facts["parameters"]["n_steps"] == 3
    assert len(facts["residual"]) == 2


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "ig", "lrp_epsilon"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_model_that_overflows_is_refused(method: str, kind: type):
    """The gradient of a sum is finite where the sum is not; half precision may overflow only where the output is written."""
    if kind is np.float32:
        nodes = [node("MatMul", "x w", "h"), node("Add", "h large", "s"), node("Add", "s large", "y")]
        weights = {"w": draw(5, 3), "large": np.full(3, 3e38, np.float32)}
    else:
        nodes = [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")]
        weights = {"w": draw(5, 8, dtype=kind, scale=300), "v": draw(8, 3, dtype=kind, scale=300)}
    types = {"x": onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))}
    model = make(nodes, {"x": ["N", 5]}, {"y": ["N", 3]}, weights, types=types | {"y": types["x"]})
    with pytest.raises(InputError, match=r"node 'y' .* gives infinity"):
        Explainer(model, method).explain(draw(2, 5, dtype=kind))


def test_a_score_that_is_not_the_models_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    explainer = Explainer(cnn(final=""), "gradient")
    run_whole = explainer.session.run
    monkeypatch.setattr(explainer.session, "run", lambda feed: run_whole(feed) | {"explained_score": np.full(7, 9.0, np.float32)})
    with pytest.raises(InputError, match=r"explains the score.*but output 'y' says"):
        explainer.explain(X)


def biased(shift: float) -> onnx.ModelProto:
    """Two layers, the first with large biases."""
    weights = {"w": draw(5, 8, seed=1), "b": shift + draw(8, seed=2), "v": np.abs(draw(8, 3, seed=3)), "c": draw(3, seed=4)}
    nodes = [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("Gemm", "r v c", "y")]
    return make(nodes, {"x": ["N", 5]}, {"y": ["N", 3]}, weights)


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_alpha2_beta1"])
def test_how_much_of_the_score_reaches_the_input(method: str):
    """The residual counts what biases took as accounted for, so it says nothing of this."""
    x = draw(4, 5, seed=5)
    found = Explainer(biased(10), method).explain(x)
    assert found.residual.max() < 1e-4
    np.testing.assert_allclose(found.reached, found.attribution.sum(1, dtype=float) / found.score, rtol=1e-5)
    assert found.summary["reached"] == found.reached.tolist()
    lost = [i for i in range(4) if not 0.1 <= found.reached[i] <= 2]
    assert lost
    assert len(found.warnings) == len(lost)
    for i, warning in zip(lost, found.warnings, strict=True):
        assert warning.startswith(
            f"sample {i}: {found.reached[i]:.1%} of the score reaches the input; the rest is in biases and constants and leaks"
        )
    parts = Explainer(biased(10), method, components=True).explain(x)[lost[0]]
    bias, leak = parts.components["relevance/shares"][0, 1:] / parts.score[0]
    assert f"biases and constants ({bias:.1%}) and leaks ({leak:.1%})" in parts.warnings[0]
    assert parts.reached[0] + bias + leak == pytest.approx(1, abs=1e-4)


def test_a_score_that_reaches_the_input_is_no_warning():
    for method in ("deep_taylor", "lrp_resnet"):
        found = Explainer(cnn(), method).explain(X)
        np.testing.assert_allclose(found.reached, 1, rtol=1e-3)
        assert found.warnings == []
    assert Explainer(cnn(), "gradient").explain(X).reached is None


def test_names_with_dots_are_files_of_their_own(tmp_path: Path):
    found = Explainer(cnn(), "gradient").explain(X[:1])
    for rate in ("0.5", "0.6"):
        assert found.save(tmp_path / f"run-{rate}").name == f"run-{rate}.npz"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run-0.5.json", "run-0.5.npz", "run-0.6.json", "run-0.6.npz"]


def test_a_map_that_overflows_is_refused_also_where_the_attribution_is_finite() -> None:
    """The magnitudes of the channels add up to more than float32 holds, each of them being finite."""
    model = make(
        [node("Mul", "x large", "scaled"), node("ReduceSum", "scaled axes", "y", keepdims=0)],
        {"x": ["N", 3, 4, 4]},
        {"y": ["N"]},
        {"large": np.full((1, 3, 1, 1), 3e38, np.float32), "axes": np.array([1, 2, 3])},
    )
    with pytest.raises(InputError, match="saliency map of method 'gradient'"):
        Explainer(model, "gradient", score="raw", target=0).explain(np.zeros((1, 3, 4, 4), np.float32))


def test_scores_with_more_axes_than_declared():
    """Declared [1, steps], made [steps, 1, classes] by a Reshape to computed sizes."""
    nodes = [
        node("Transpose", "x", "t", perm=[2, 0, 1]),
        node("MatMul", "t w", "m"),
        node("Shape", "m", "sizes"),
        node("Slice", "sizes zero two", "kept"),
        node("Concat", "kept rest", "wanted", axis=0),
        node("Reshape", "m wanted", "y"),
    ]
    weights = {"w": draw(4, 5)} | {k: np.asarray([v], np.int64) for k, v in {"zero": 0, "two": 2, "rest": -1}.items()}
    model = make(nodes, {"x": [1, 4, "width"]}, {"y": [1, "steps"]}, weights, opset=12, ir=6)
    x = draw(1, 4, 3)
    told = Explainer(model, "gradient", batched=False).explain(x)
    step, label = divmod(int(told.target[0]), 5)
    expected = np.zeros_like(x)
    expected[0, :, step] = draw(4, 5)[:, label]
    np.testing.assert_allclose(told.attribution, expected, rtol=1e-6)
