"""What speaks for one class rather than for another: y_a - gamma y_b, for every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import onnxsal
from onnxsal import Explainer
from onnxsal.cli import app
from onnxsal.engine.method import get_method, parse_method, shipped_methods
from onnxsal.errors import MethodError, OnnxsalError, TargetError
from onnxsal.methods.build import wrapper_of
from onnxsal.metrics.axioms import weak_dependence
from onnxsal.metrics.sanity import model_randomization
from onnxsal.metrics.scorer import scorer_of
from tests.small_models import cnn, make, node

X = np.random.default_rng(3).normal(size=(4, 3, 8, 8)).astype(np.float32)

LINEAR: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("gradient", "input_x_gradient", "integrated_gradients", "deeplift", "lrp_zero", "lrp_epsilon", "cp_lrp")},
    **{"attnlrp": {}, "occlusion": {"window": 4, "stride": 4}, "rise": {"n_masks": 8}, "smoothgrad": {"n_samples": 3}},
}
"""Methods whose attribution is linear in the score, with settings."""


def explained(method: str, target: Any, x: np.ndarray = X, model: onnx.ModelProto | None = None, **more: Any) -> onnxsal.Explanation:
    return Explainer(cnn() if model is None else model, method, **more).explain(x, target)


@pytest.mark.parametrize("weight", [None, 0.5])
@pytest.mark.parametrize("method", LINEAR)
def test_the_contrast_is_the_difference_of_two_explanations(method: str, weight: float | None):
    more = LINEAR[method]
    found = explained(method, 2, against=1, against_weight=weight, **more)
    a, b, gamma = explained(method, 2, **more), explained(method, 1, **more), 1.0 if weight is None else weight
    scale = np.abs(a.attribution).max()
    np.testing.assert_allclose(found.attribution, a.attribution - gamma * b.attribution, atol=2e-5 * scale)
    np.testing.assert_allclose(found.score, a.score - gamma * b.score, atol=1e-5)
    assert found.target.tolist() == [2] * 4
    assert found.against is not None
    assert found.against.tolist() == [1] * 4


def test_the_gradient_of_a_contrast_in_pytorch():
    """A network of our own: d (y_a - gamma y_b) / dx, of logits and of probabilities, and of the runner-up of each sample."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).eval()
    weights = {f"w{i}": net[i].weight.detach().numpy().T.copy() for i in (0, 2)} | {f"b{i}": net[i].bias.detach().numpy() for i in (0, 2)}
    nodes = [node("MatMul", "x w0", "h0"), node("Add", "h0 b0", "h1"), node("Tanh", "h1", "h2"), node("MatMul", "h2 w2", "h3")]
    nodes += [node("Add", "h3 b2", "z"), node("Softmax", "z", "p", axis=1)]
    model = make(nodes, {"x": ["N", 6]}, {"p": ["N", 4]}, weights)
    data = np.random.default_rng(1).normal(size=(5, 6), scale=3).astype(np.float32)
    for score, squash in (("logit", lambda z: z), ("probability", lambda z: z.softmax(1))):
        x = torch.tensor(data, requires_grad=True)
        values = squash(net(x))
        order = values.argsort(1, descending=True)
        assert len({*order[:, 1].tolist()}) > 1
        for against, other in ((3, torch.full((5,), 3)), ("runner-up", order[:, 1])):
            target = order[:, 0] if against == "runner-up" else torch.tensor([0, 1, 2, 0, 1])
            wanted = (values.gather(1, target[:, None]) - 0.7 * values.gather(1, other[:, None]))[:, 0]
            (slope,) = torch.autograd.grad(wanted.sum(), x, retain_graph=True)
            found = Explainer(model, "gradient", score=score, against=against, against_weight=0.7).explain(data, target.numpy())
            np.testing.assert_allclose(found.attribution, slope.numpy(), atol=1e-6)
            np.testing.assert_allclose(found.score, wanted.detach().numpy(), atol=1e-6)
            assert found.against is not None
            np.testing.assert_array_equal(found.against, other.numpy())
            law = Explainer(model, "integrated_gradients", score=score, against=against, against_weight=0.7).explain(data, target.numpy())
            assert law.residual is not None
            assert law.residual.max() < 0.02


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("method", ["gradient", "fullgrad", "lrp_epsilon", "deeplift", "cp_lrp", "evidence"])
def test_the_two_classes_of_a_single_score(method: str, score: str):
    """A sigmoid's classes are z and -z, or p and 1 - p: one less the other has both their maps, and the law of the difference."""
    model = cnn()
    del model.graph.node[-1], model.graph.output[0]
    model.graph.node.extend([node("MatMul", "logits mix", "z"), node("Sigmoid", "z", "p")])
    model.graph.initializer.append(numpy_helper.from_array(np.linspace(-1, 2, 5, dtype=np.float32)[:, None], "mix"))
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 1]))
    found = explained(method, 1, model=model, score=score, against=0)
    one, other = (explained(method, c, model=model, score=score) for c in (1, 0))
    np.testing.assert_allclose(found.attribution, one.attribution - other.attribution, atol=1e-6 * np.abs(one.attribution).max())
    np.testing.assert_allclose(found.score, one.score - other.score, atol=1e-6)
    assert found.residual is None or found.residual.max() < 1e-5


@pytest.mark.parametrize("method", shipped_methods())
def test_every_method_compares_or_says_why_not(method: str):
    """What it tells is of the difference: its law holds, and the map is another one than that of the class alone."""
    few = {"n_samples": 2, "n_masks": 4}
    explain = {name: value for name, value in few.items() if name in get_method(method).parameters}
    try:
        alone = explained(method, 2, **explain)
    except OnnxsalError:
        with pytest.raises(OnnxsalError):
            explained(method, 2, against="runner-up", **explain)
        return
    if not wrapper_of(get_method(method)).asks_class or method == "class_competition":
        with pytest.raises(MethodError, match=r"explains no class|compares classes in its own way"):
            explained(method, 2, against="runner-up", **explain)
        return
    found = explained(method, 2, against="runner-up", **explain)
    assert found.against is not None
    assert (found.against != 2).all()
    assert not np.any(alone.attribution) or not np.allclose(found.attribution, alone.attribution)
    own = alone.outputs[Explainer(cnn(), "gradient").conversion.question.output]
    others = np.where(np.arange(own.shape[1]) == 2, -np.inf, own)
    np.testing.assert_array_equal(found.against, others.argmax(1))
    if found.residual is not None and alone.residual is not None:
        assert found.residual.max() < max(1e-4, 30 * alone.residual.max())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target": 2, "against": 2}, "compared with itself"),
        ({"against": 99}, "out of range"),
        ({"against": -1}, "not one class"),
        ({"against": "dog"}, "no labels are known"),
        ({"against": [1, 2]}, "not one class"),
        ({"against": 7}, "against: target 7 is out of range"),
        ({"against_weight": 2.0}, "name that"),
        ({"against": 1, "against_weight": 0.0}, "above 0"),
        ({"against": 1, "against_weight": float("nan")}, "above 0"),
        ({"against": 1, "against_weight": True}, "above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(asked: dict[str, Any], words: str):
    with pytest.raises(TargetError, match=words):
        onnxsal.convert(cnn(), "gradient", **asked)


def test_a_class_is_not_compared_with_itself_in_a_run_either():
    explainer = Explainer(cnn(), "gradient", against=1)
    with pytest.raises(TargetError, match=r"sample\(s\) \[2\]: class 1 .* cannot be compared with itself"):
        explainer.explain(X, np.array([0, 2, 1, 3]))
    assert explainer.explain(X, np.array([0, 2, 4, 3])).target.tolist() == [0, 2, 4, 3]


def test_a_converted_file_keeps_what_it_compares(tmp_path: Path):
    """The file tells both classes; opened again it says what is built in, and refuses another."""
    made = onnxsal.convert(cnn(), "input_x_gradient", against="runner-up", against_weight=0.5)
    onnx.save(made, tmp_path / "c.onnx")
    assert "compared_class" in [o.name for o in made.graph.output]
    again, direct = Explainer(tmp_path / "c.onnx").explain(X, 2), explained("input_x_gradient", 2, against="runner-up", against_weight=0.5)
    for name in ("attribution", "target", "against", "score"):
        np.testing.assert_array_equal(getattr(again, name), getattr(direct, name))
    with pytest.raises(MethodError, match="cannot be changed afterwards"):
        Explainer(tmp_path / "c.onnx", against=1)
    Explainer(tmp_path / "c.onnx", against="runner-up", against_weight=0.5)


def test_the_command_line_takes_labels(tmp_path: Path):
    onnx.save(cnn(), tmp_path / "m.onnx")
    (tmp_path / "l.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    np.save(tmp_path / "x.npy", X[:1])
    words = ["explain", tmp_path / "m.onnx", tmp_path / "x.npy", "-o", tmp_path / "o", "-m", "gradient", "--labels", tmp_path / "l.txt"]
    result = CliRunner().invoke(app, [*map(str, words), "--target", "cat", "--against", "dog", "--json"])
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    assert (told["target"]["label"], told["against"]["label"]) == ("cat", "dog")
    shown = CliRunner().invoke(app, [*map(str, words), "--target", "cat", "--against", "runner-up"])
    assert "cat (2) rather than" in shown.stdout
    refused = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "e"), "--against", "1"]
    )
    assert refused.exit_code == 2


def competed(attributions: list[np.ndarray], temperature: float, threshold: float, scale: str) -> np.ndarray:
    """The formula, of one sample: the first is what is explained."""
    sizes = np.abs(np.stack(attributions))
    sizes = np.exp(temperature * (sizes / sizes.max() if scale == "max" else sizes))
    shares = sizes / sizes.sum(0)
    return np.where(shares[0] > 1 / len(attributions) + threshold, attributions[0] * shares[0], 0)


@pytest.mark.parametrize(
    ("of", "settings"),
    [
        ("input_x_gradient", {}),
        ("gradient", {"classes": 2, "temperature": 3.0, "threshold": 0.1}),
        ("lrp_epsilon", {"classes": 9, "scale": "none"}),
        ("integrated_gradients", {"classes": 3}),
    ],
)
def test_classes_compete_at_every_element(of: str, settings: dict[str, Any]):
    names = {"classes": 4, "temperature": 10.0, "threshold": 0.01, "scale": "max"} | settings
    rows = "".join(f"[parameters.{k}]\ndefault = {json.dumps(v)}\ndoc = 'x'\n" for k, v in names.items())
    table = parse_method(f'name = "whole"\nwrap = "competition"\nof = ["{of}"]\n{rows}', "whole.toml")
    found = Explainer(cnn(), table).explain(X, 2)
    own, alone = next(iter(found.outputs.values())), Explainer(cnn(), of)
    for n, scores in enumerate(own):
        others = np.argsort(-np.where(np.arange(5) == 2, -np.inf, scores), kind="stable")[: min(names["classes"], 5) - 1]
        parts = [alone.explain(X[n : n + 1], int(c)).attribution[0] for c in (2, *others)]
        wanted = competed(parts, names["temperature"], names["threshold"], names["scale"])
        np.testing.assert_allclose(found.attribution[n], wanted, atol=1e-5 * np.abs(parts[0]).max())
        assert 0 < np.count_nonzero(wanted) < wanted.size
    assert found.saliency_map is not None
    assert found.residual is None


def test_classes_that_cannot_compete_are_refused():
    with pytest.raises(MethodError, match="in its own way"):
        onnxsal.convert(cnn(), "class_competition", against=1)
    with pytest.raises(MethodError, match="made of one other"):
        onnxsal.convert(cnn(), parse_method('name = "w"\nwrap = "competition"\nof = ["gradient", "ig"]\n', "w.toml"))
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f w", "y")]
    single = make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 1]}, {"w": np.ones((192, 1), np.float32)})
    with pytest.raises(MethodError, match="has one class"):
        onnxsal.convert(single, "class_competition")


def test_what_is_measured_of_one_class_refuses_two():
    explainer = Explainer(cnn(), "gradient", against="runner-up")
    for measure in (lambda: model_randomization(explainer, X), lambda: scorer_of(explainer), lambda: weak_dependence(cnn(), explainer, X)):
        with pytest.raises(MethodError, match="score of one class"):
            measure()
    with pytest.raises(MethodError, match="of a difference of two scores"):
        onnxsal.metrics.evaluate(cnn(), X, against=1)
    with pytest.raises(MethodError, match="whatever the class"):
        onnxsal.convert(cnn(), "deconvnet", layer="c1", against=1)


def test_the_best_of_the_others_where_scores_have_several_axes_or_are_infinite():
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f w", "flat"), node("Reshape", "flat sizes", "y")]
    w = np.random.default_rng(0).normal(size=(192, 12)).astype(np.float32)
    model = make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 4]}, {"w": w, "sizes": np.array([-1, 3, 4])})
    with pytest.raises(TargetError, match="same class elsewhere"):
        onnxsal.convert(model, "gradient", against="runner-up")
    found = explained("gradient", (1, 2), model=model, against=(2, 0))
    assert found.against is not None
    assert found.against.tolist() == [8] * 4
    low = np.full(12, -np.inf, np.float32)
    low[[3, 7]] = 0
    nodes = [*nodes[:2], node("Add", "flat low", "y")]
    floor = make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 12]}, {"w": w, "low": low})
    found = explained("gradient", 3, model=floor, against="runner-up", score="raw")
    assert found.against is not None
    assert found.against.tolist() == [7] * 4
