"""How a converted model is told the class, in the runtimes that were tried, and what the Explainer makes of such files."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import onnxsal
from onnxsal import Explainer
from onnxsal.cli import app
from onnxsal.errors import InputError, MethodError, ModelError, TargetError
from onnxsal.graph.load import read_metadata
from onnxsal.metrics.scorer import forward_model
from tests.oracle import run
from tests.runtimes import NODE, OPENVINO, PYTHON, REFERENCE, RUNTIMES, WEB, Ran, ran
from tests.small_models import cnn, draw
from tests.test_target_range import int64

X = draw(3, 3, 8, 8, seed=11)
KINDS = ("required", "fixed", "optional")
METHODS = ("gradient", "integrated_gradients")
"""One without a baseline, one with."""
WARNING = re.compile(r"Initializer (\S+) appears in graph inputs")


def convert(method: str, **options: Any) -> onnx.ModelProto:
    return onnxsal.convert(cnn(), method, **({"n_steps": 4} if method == "integrated_gradients" else {}), **options)


@cache
def expected(method: str) -> dict[int, dict[str, np.ndarray]]:
    """What ONNX Runtime's Python API gives for each class of all samples."""
    model = convert(method)
    return {c: run(model, {"x": X, "target": int64(c)}) for c in range(-1, 5)}


# ----- the runtimes -----

NO_SUCH_INPUT = re.compile("[Ii]nvalid input|not found|missing|[Uu]nable to find|getPort")

SAYS = {
    "required": dict.fromkeys(RUNTIMES, "any class"),
    "fixed": dict.fromkeys(RUNTIMES, "the one built in"),
    "optional": {
        PYTHON: "any class",
        NODE: "what is fed is ignored",
        WEB: "what is fed is refused",
        OPENVINO: "what is fed is refused",
        REFERENCE: "any class",
    },
}
"""What each runtime does with each kind: what docs/converted-file.md says."""

WARNS = (PYTHON, NODE, WEB)
"""Runtimes that print a line for each optional input whenever they open a file."""


def asked(kind: str) -> list[dict[str, np.ndarray]]:
    """Nothing but the input; the predicted class; one class; one for each sample, among them one that does not exist."""
    each = [int64(-1), int64(2), int64(0, -1, 3), int64(0, 2**32 + 1, 3)]
    return [{"x": X}, *({"x": X, "target": target} for target in each)]


def same(got: dict[str, np.ndarray], method: str, classes: list[int]) -> bool:
    """Whether sample i was explained for ``classes[i]``; -2: it was lost."""
    known = expected(method)
    return set(got) == set(known[0]) and all(
        np.isnan(value[i]).all()
        if c == -2 and name not in ("y", "explained_class")
        else value[i] == -2
        if c == -2 and name == "explained_class"
        else np.allclose(value[i], known[max(c, -1)][name][i], rtol=1e-3, atol=2e-4 if name == "residual" else 1e-5)
        for name, value in got.items()
        for i, c in enumerate(classes)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_each_runtime_does(runtime: str, kind: str, tmp_path: Path):
    found = ran(runtime, [convert(m, target_input=kind) for m in METHODS], [asked(kind)] * len(METHODS), tmp_path)
    for method, one in zip(METHODS, found, strict=True):
        assert sorted(one.inputs) == (["target", "x"] if kind == "required" else ["x"])
        alone, *given = one.answers
        says = SAYS[kind][runtime]
        if kind == "required":
            if isinstance(alone, str):
                assert "target" in alone or runtime == OPENVINO
            else:  # it takes an input that is not fed as an empty one, and on one core answers with nothing
                assert runtime == OPENVINO
                assert not alone["attribution"].size
        else:
            assert not isinstance(alone, str), alone
            assert same(alone, method, [-1] * 3)
        wanted = [[-1] * 3, [2] * 3, [0, -1, 3], [0, -2, 3]]
        if says == "any class":
            for answer, classes in zip(given, wanted, strict=True):
                assert not isinstance(answer, str), answer
                assert same(answer, method, classes)
        elif says == "what is fed is refused":
            assert all(isinstance(answer, str) and NO_SUCH_INPUT.search(answer) for answer in given)
        else:  # no such input: what is fed under its name is refused, or makes no difference
            assert all(isinstance(answer, str) or same(answer, method, [-1] * 3) for answer in given)
            assert says == "the one built in" or not any(isinstance(answer, str) for answer in given)
    _printed(runtime, kind, found)


def _printed(runtime: str, kind: str, found: list[Ran]) -> None:
    warned = {name for one in found for name in WARNING.findall(one.printed)}
    assert warned == ({"target", "baseline"} if kind == "optional" and runtime in WARNS else set())
    if kind != "optional":
        assert not any(one.printed.strip() for one in found)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_class_that_is_built_in(runtime: str, tmp_path: Path):
    one, each = convert("integrated_gradients", target=2), convert("integrated_gradients", target=[4, -1, 0])
    found = ran(runtime, [one, each], [[{"x": X}]] * 2, tmp_path)
    for answer, classes in zip(found, [[2] * 3, [4, -1, 0]], strict=True):
        assert answer.inputs == ["x"]
        assert not answer.printed.strip()
        (got,) = answer.answers
        assert not isinstance(got, str), got
        assert same(got, "integrated_gradients", classes)


def test_the_page_says_what_was_measured():
    text = (Path(__file__).parent.parent / "docs" / "converted-file.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    start = next(i for i, row in enumerate(rows) if row[1:] == list(KINDS))
    for row in rows[start + 2 : start + 2 + len(RUNTIMES)]:
        (runtime,) = [r for r in RUNTIMES if re.match(rf"{re.escape(r)}( |$)", row[0])]
        for kind, cell in zip(KINDS, row[1:], strict=True):
            assert cell.startswith(SAYS[kind][runtime]), (runtime, kind)
        assert ("a warning" in row[3]) == (runtime in WARNS), runtime


# ----- the choice -----


def inputs(model: onnx.ModelProto) -> tuple[list[str], dict[str, list[int]]]:
    """Added inputs, and the added constants that could be classes or baselines."""
    stored = {t.name: numpy_helper.to_array(t).tolist() for t in model.graph.initializer if t.name in ("target", "baseline")}
    return [i.name for i in model.graph.input][1:], stored


def test_the_default_is_required_and_a_class_is_fixed():
    zero = [[[[0.0]]]]
    assert inputs(convert("integrated_gradients")) == (["target"], {"baseline": zero})
    assert inputs(convert("integrated_gradients", target_input="fixed")) == ([], {"baseline": zero})
    assert inputs(convert("integrated_gradients", target=2)) == ([], {"baseline": zero, "target": [2]})
    assert inputs(convert("integrated_gradients", target=-1)) == ([], {"baseline": zero})
    assert inputs(convert("integrated_gradients", target=[1, -1])) == ([], {"baseline": zero, "target": [1, -1]})
    both = {"target": [-1], "baseline": zero}
    assert inputs(convert("integrated_gradients", target_input="optional")) == (["target", "baseline"], both)
    assert inputs(convert("integrated_gradients", target_input="optional", target=3)) == (["target", "baseline"], both | {"target": [3]})
    for kind in KINDS:
        assert json.loads(read_metadata(convert("gradient", target_input=kind))["onnxsal.parameters"])["target_input"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_that_is_converted_in_is_that_baseline(kind: str):
    model = convert("integrated_gradients", target_input=kind, baseline=0.5)
    wanted = run(convert("integrated_gradients", target_input="optional"), {"x": X, "baseline": np.full((1, 1, 1, 1), 0.5, np.float32)})
    for name, value in run(model, {"x": X}).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_makes_no_sense_is_refused():
    for options, part in (
        ({"target_input": "requird"}, "did you mean 'required'"),
        ({"target_input": 3}, "known: optional, required, fixed"),
        ({"target_input": "required", "target": 2}, "would never be explained"),
    ):
        for call in (onnxsal.convert, Explainer):
            with pytest.raises(TargetError, match=part):
                call(cnn(), "gradient", **options)  # type: ignore[operator]
    with pytest.raises(TargetError, match="2 targets were given, and the model takes 3 sample"):
        onnxsal.convert(cnn(3), "gradient", target=[1, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_is_kept_free_in_each_kind(kind: str):
    """Else a weight of that name would be taken for the class that is built in. A weight called baseline is no baseline."""
    for name in ("target", "baseline"):
        model = cnn()
        for n in model.graph.node:
            n.input[:] = [name if i == "w1" else i for i in n.input]
        next(t for t in model.graph.initializer if t.name == "w1").name = name
        if name == "target":
            with pytest.raises(ModelError, match="already uses the name"):
                onnxsal.convert(model, "gradient", target_input=kind)
        made = onnxsal.convert(model, "gradient", target_input=kind, prefix="" if name == "baseline" else "why/")
        assert Explainer(made).explain(X).target.tolist() == [4] * 3


def test_the_forward_part_of_each_kind():
    """What metrics run: without the explanation, and without what only that needs."""
    for kind in KINDS:
        assert [i.name for i in forward_model(Explainer(convert("integrated_gradients", target_input=kind))).graph.input] == ["x"]


# ----- the Explainer -----


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_explainer_runs_each_kind(kind: str, adopted: bool):
    if adopted:
        explainer = Explainer(convert("integrated_gradients", target_input=kind), batch_size=2)
    else:
        explainer = Explainer(cnn(), "integrated_gradients", n_steps=4, target_input=kind, batch_size=2)
    assert [t.name for t in explainer.inputs] == ["x"]
    predicted = expected("integrated_gradients")[-1]
    for found in (explainer.explain(X), explainer.explain({"x": X}), explainer.explain(X, target=-1)):
        np.testing.assert_allclose(found.attribution, predicted["attribution"], rtol=1e-4, atol=1e-6)
        assert found.target.tolist() == predicted["explained_class"].tolist()
    if kind == "fixed":
        assert explainer.explain(X, target=predicted["explained_class"]).target.tolist() == found.target.tolist()
        with pytest.raises(TargetError, match=r"target_input='fixed', and explains the predicted class \[4, 4, 4\]"):
            explainer.explain(X, target=2)
    else:
        each = explainer.explain(X, target=[2, -1, 0])
        assert each.target.tolist() == [2, 4, 0]
        np.testing.assert_allclose(each.attribution[0], expected("integrated_gradients")[2]["attribution"][0], rtol=1e-4, atol=1e-6)
    half = np.full((1, 1, 1, 1), 0.5, np.float32)
    if kind == "optional":
        assert np.abs(explainer.explain(X, baseline=half).attribution - predicted["attribution"]).max() > 1e-3
    else:
        with pytest.raises(InputError, match=f"'baseline' is a constant of the converted model.*'{kind}'"):
            explainer.explain(X, baseline=half)
    assert explainer.on(cnn()).explain(X).target.tolist() == [4] * 3


def test_a_class_that_is_built_in_is_the_only_one():
    explainer = Explainer(convert("gradient", target=2))
    assert explainer.explain(X).target.tolist() == explainer.explain(X, target=2).target.tolist() == [2] * 3
    for other in (1, -1, [2, 2, 1]):
        with pytest.raises(TargetError, match=r"explains class \[2, 2, 2\]"):
            explainer.explain(X, target=other)
    each = Explainer(convert("gradient", target=[4, 1, 0]), batch_size=1)
    assert each.explain(X).target.tolist() == [4, 1, 0]
    with pytest.raises(InputError, match="'target' has 3 rows for 2 sample"):
        each.explain(X[:2])


def test_a_class_of_an_explainer_is_where_none_is_given():
    explainer = Explainer(cnn(), "gradient", target=2)
    assert explainer.explain(X).target.tolist() == [2] * 3
    assert explainer.explain(X, target=[1, -1, 2]).target.tolist() == [1, 4, 2]


def test_a_converted_model_keeps_its_kind():
    for kind in KINDS:
        model = convert("gradient", target_input=kind)
        assert Explainer(model, target_input=kind).explain(X).target.tolist() == [4] * 3
        other = next(k for k in KINDS if k != kind)
        with pytest.raises(MethodError, match=f"target_input='{other}' cannot be changed"):
            Explainer(model, target_input=other)


def test_files_from_before_there_was_a_choice_are_optional():
    model = convert("gradient", target_input="optional")
    entry = next(p for p in model.metadata_props if p.key == "onnxsal.parameters")
    entry.value = json.dumps({k: v for k, v in json.loads(entry.value).items() if k != "target_input"})
    assert Explainer(model).explain(X, target=1).target.tolist() == [1] * 3
    assert Explainer(model, target_input="optional").explain(X).target.tolist() == [4] * 3


# ----- the command line -----


def test_the_command_line(tmp_path: Path):
    onnx.save(cnn(), str(tmp_path / "model.onnx"))
    np.save(tmp_path / "x.npy", X)

    def answer(*words: object, status: int = 0) -> Any:
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert result.exit_code == status, result.output
        return json.loads(result.stdout) if status == 0 else result.stderr

    made = tmp_path / "made.onnx"
    for words, kind, optional in (
        ((), "required", []),
        (("--target", 2), "fixed", []),
        (("--target-input", "fixed"), "fixed", []),
        (("--target-input", "optional", "--target", 2), "optional", ["target", "baseline"]),
    ):
        facts = answer("convert", tmp_path / "model.onnx", made, "-m", "ig", "--n-steps", 4, *words)
        assert (facts["target_input"], facts["optional_inputs"]) == (kind, optional)
        plain = answer("explain", made, tmp_path / "x.npy", "-o", tmp_path / "out")
        assert [r["target"]["index"] for r in plain] == ([2] * 3 if "--target" in words else [4] * 3)
        if kind != "fixed":
            given = answer("explain", made, tmp_path / "x.npy", "-t", 3, "-o", tmp_path / "out")
            assert [r["target"]["index"] for r in given] == [3] * 3
        else:
            assert "target_input='fixed'" in answer("explain", made, tmp_path / "x.npy", "-t", 3, "-o", tmp_path / "out", status=2)
    assert "did you mean" in answer("convert", tmp_path / "model.onnx", made, "--target-input", "fixd", status=2)
