"""The gate: what the model fails on counts against it, what could not be measured breaks its limit, and no limit passes by its form."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from onnxsal.cli import app
from onnxsal.errors import InputError
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit import Asked
from onnxsal.report.audit import audit as run_audit
from onnxsal.report.audit_gate import KNOWN, WHOLE, Limit, broken_limits, read_limits
from onnxsal.report.audit_layers import _value_errors
from onnxsal.report.audit_page import schema
from onnxsal.runtime.preprocess_files import load_preprocess
from tests.small_models import make, node

DARK, BRIGHT = 1, 0
COUNT = 8
ON = ("--measured", "2", "-m", "gradient")


def facts_with(**changed: Any) -> dict[str, Any]:
    """What an audit of two labelled pictures found where everything could be measured, as far as a gate reads it."""
    good = {"mean": 0.5, "n": 2, "excluded": 0}
    one = {"residual": 1e-6, "reached": 0.9}
    facts = {
        "findings": [],
        "data": {"damaged": [], "failed": [], "masked": 2},
        "accuracy": {"top1": 0.5},
        "against": {"agree": 1, "n": 2, "methods": [{"method": "m", "refused": None, "likeness": good}]},
        "methods": [{"name": "m", "refused": None, "law": "conservation"}],
        "pictures": [{"maps": {"m": one}}, {"maps": {"m": one}}],
        "checks": {"rim": [{"method": "m", "density": good}]},
        "settings": {"randomised": 2},
        "sanity": [{"method": "m", "n": 2, "spearman": [0.9, 0.5]}],
        "metrics": [{"method": "m", "metric": name, **good} for name in KNOWN],
        "lost": [],
    }
    return {**facts, **changed}


def limit_on(name: str, kept: bool = True) -> Limit:
    """A limit that the facts above keep, or break."""
    known = KNOWN[name]
    bound = (0.01 if kept else 0.99) if known.larger else 0.99 if kept and known.high == 1 else 9.0 if kept else 0.0
    return Limit(name, name, None, "<" if known.larger else ">", bound)


def judged(name: str, facts: dict[str, Any], kept: bool = True) -> dict[str, Any]:
    (told,) = broken_limits([limit_on(name, kept)], facts)
    return told


COUNTS = ("findings", "serious", "damaged", "failed")


@pytest.mark.parametrize("name", KNOWN)
def test_every_quantity_is_read_from_the_facts(name: str):
    told = judged(name, facts_with())
    assert not told["broken"], told
    assert told["value"] is not None
    assert judged(name, facts_with(), kept=False)["broken"] == (name not in COUNTS)


NOTHING: dict[str, Any] = {
    "accuracy": None,
    "against": None,
    "pictures": [{"maps": {"m": {"residual": None, "reached": None}}}],
    "checks": {"rim": []},
    "sanity": [{"method": "m", "n": 0, "spearman": []}],
    "metrics": [],
}

NANS: dict[str, Any] = {
    "accuracy": {"top1": math.nan},
    "against": {
        "agree": math.nan,
        "n": 2,
        "methods": [{"method": "m", "refused": None, "likeness": {"mean": math.nan, "n": 2, "excluded": 0}}],
    },
    "pictures": [{"maps": {"m": {"residual": 0.0, "reached": 1.0}}}, {"maps": {"m": {"residual": math.nan, "reached": math.nan}}}],
    "checks": {"rim": [{"method": "m", "density": {"mean": math.nan, "n": 2, "excluded": 0}}]},
    "sanity": [{"method": "m", "n": 2, "spearman": [math.nan]}],
    "metrics": [{"method": "m", "metric": name, "mean": math.nan, "n": 2, "excluded": 0} for name in KNOWN],
}

FEW = {"mean": 0.5, "n": 1, "excluded": 2}
MOSTLY_WITHOUT: dict[str, Any] = {
    "against": {"agree": 1, "n": 2, "methods": [{"method": "m", "refused": None, "likeness": FEW}]},
    "checks": {"rim": [{"method": "m", "density": FEW}]},
    "sanity": [{"method": "m", "n": 1, "spearman": [0.1]}],
    "settings": {"randomised": 3},
    "metrics": [{"method": "m", "metric": name, **FEW} for name in KNOWN],
}
MEASURED = [n for n in KNOWN if n not in COUNTS]
BY_METHOD = [n for n in MEASURED if n not in WHOLE]
MEANS = [n for n in BY_METHOD if n not in ("residual", "unreached")]


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("facts", [NOTHING, NANS], ids=["nothing", "nan"])
def test_what_was_not_measured_breaks_its_limit(name: str, facts: dict[str, Any]):
    told = judged(name, facts_with(**facts))
    assert told["broken"]
    assert told["value"] is None
    assert "was not measured" in told["text"]


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_that_most_pictures_are_missing_from_is_not_enough(name: str):
    told = judged(name, facts_with(**MOSTLY_WITHOUT))
    assert told["broken"]
    assert "not enough data, 1 of 3 pictures" in told["text"]


@pytest.mark.parametrize("name", BY_METHOD)
def test_a_picture_without_an_answer_a_lost_map_and_a_refused_method_break_the_limits_on_maps(name: str):
    failed = {"damaged": [], "masked": 2, "failed": [{"name": "p", "label": None, "why": "NaN"}]}
    assert "no answer to 1 of 3 pictures" in judged(name, facts_with(data=failed))["text"]
    lost = {"what": "map", "method": "m", "pictures": ["p"], "why": "NaN"}
    assert "map of 1 pictures could not be had" in judged(name, facts_with(lost=[lost]))["text"]
    assert not judged(name, facts_with(lost=[{**lost, "method": "other"}]))["broken"]
    refusing = facts_with()
    refusing["methods"].append({"name": "n", "refused": "no convolution", "law": "conservation"})
    told = judged(name, refusing)
    assert told["broken"]
    assert "was not measured for n: it cannot explain the model (no convolution)" in told["text"]


MISTAKES = [
    ("deletion", "not of the form"),
    ("deletion>often", "not of the form"),
    ("", "empty"),
    (" ", "empty"),
    (",", "empty"),
    ("accuracy<0.9,", "empty"),
    ("accuracy<0.9,,findings>0", "empty"),
    ("accuracy<nan", "not of the form"),
    ("residual>inf", "not of the form"),
    ("residual>1e999", "finite"),
    ("residual>-", "no number"),
    ("0.9>accuracy", "not of the form"),
    ("accuracy=0.9", "not of the form"),
    ("accuracy=<0.9", "not of the form"),
    ("Accuracy<0.9", "not of the form"),
    ("accuracy<0.9%", "not of the form"),
    ("acuracy<0.9", "did you mean 'accuracy'"),
    ("accuracy>0.9", "larger it is: write accuracy<0.9"),
    ("findings<=0", "smaller it is: write findings>=0"),
    ("deletion[m]<0.3", "smaller it is: write deletion>0.3"),
    ("id_score>=0", "larger it is: write id_score<=0"),
    ("accuracy<0", "can never be broken: accuracy is between 0 and 1"),
    ("deletion>1", "can never be broken"),
    ("deletion[gradcm]>0.3", "method 'gradcm' is not audited"),
    ("findings[m]>0", "no single method"),
    ("agreement<0.9", "--against"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_limit_with_a_mistake_is_refused_before_anything_runs(text: str, message: str):
    for texts in (text, [text], ["residual>1", text], [text, "residual>1"]):
        with pytest.raises(InputError, match=re.escape(message)):
            read_limits(texts, ["m"], False)


def test_all_limits_count_however_they_are_given():
    words = [limit.text for limit in read_limits(["accuracy<0.9,findings>0", "residual>1"], ["m"], False)]
    assert words == ["accuracy<0.9", "findings>0", "residual>1"]
    assert read_limits((), ["m"], False) == []


# ----- models that cheat -----


def cheating(tail: list[onnx.NodeProto], out: str = "bad") -> onnx.ModelProto:
    """Says class 0 to every picture; ``tail`` makes ``out`` [N, 1] of the mean red value ``red`` [N, 1], above 0.5 for class 0."""
    nodes = [
        node("GlobalAveragePool", "x", "mean"),
        node("Flatten", "mean", "flat"),
        node("Slice", "flat from to axis", "red"),
        node("Sub", "red half", "off"),
        *tail,
        node("Mul", f"{out} tiny", "small"),
        node("Flatten", "x", "pixels"),
        node("MatMul", "pixels w", "logits"),
        node("Add", "logits bias", "sure"),
        node("Add", "sure small", "sum"),
        node("Softmax", "sum", "y", axis=1),
    ]
    weights = {k: np.float32(v) for k, v in (("zero", 0), ("half", 0.5), ("tiny", 1e-3), ("big", 1e30))}
    weights |= {"one": np.ones(1, np.float32), "bias": np.array([9, 0], np.float32)}
    ends = {"from": np.array([0]), "to": np.array([1]), "axis": np.array([1])}
    w = np.random.default_rng(0).standard_normal((192, 2)).astype(np.float32) * np.float32(0.1)
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 2]}, {**weights, **ends, "w": w})


HONEST = [node("Relu", "off", "bad")]
CHEATS = {
    "nan": [node("Sqrt", "off", "bad")],
    "infinite": [node("Relu", "off", "above"), node("Reciprocal", "above", "bad")],
    "breaks off": [node("Less", "off zero", "dark"), node("Cast", "dark", "at", to=7), node("Gather", "one at", "bad")],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright red pictures in 0/, dark red ones in 1/."""
    folder, rng = tmp_path_factory.mktemp("gate"), np.random.default_rng(0)
    for i in range(COUNT):
        pixels = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        pixels[..., 0] = 40 if i % 2 == DARK else 215
        (folder / str(i % 2)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.png")
    return folder


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    path.with_suffix(".toml").write_text('layout="NCHW"\nchannels="RGB"\nresize=[8,8]\nscale=0.00392156862745098\n')
    return path


def audit(*args: object) -> tuple[Result, dict[str, Any]]:
    result = CliRunner().invoke(app, ["audit", *(str(a) for a in args)])
    out = Path(str(args[args.index("-o") + 1])) / "audit.json"
    facts = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if facts:
        pytest.importorskip("jsonschema").Draft202012Validator(schema()).validate(facts)
    return result, facts


GATES = ("--fail-if", "accuracy<0.6,damaged>0", "--fail-if", "failed>0", "--fail-if", "findings>5,serious>0,deletion[gradient]>0.9999")


@pytest.mark.parametrize("cheat", CHEATS)
def test_pictures_without_an_answer_count_against_the_model(data: Path, tmp_path: Path, cheat: str):
    model = saved(cheating(CHEATS[cheat]), tmp_path / "m.onnx")
    result, facts = audit(model, data, "-o", tmp_path / "r", *ON, *GATES)
    assert result.exit_code == 1, result.output
    assert facts["accuracy"] == {"n": COUNT, "classes": 2, "top1": 0.5, "top5": 0.5}
    assert [line["name"] for line in facts["data"]["failed"]] == [f"{DARK}/{i}.png" for i in range(COUNT) if i % 2 == DARK]
    assert {line["label"]["class"] for line in facts["data"]["failed"]} == {DARK}
    assert facts["data"]["damaged"] == []
    assert (facts["findings"][0]["id"], facts["findings"][0]["severity"]) == ("no-answer", "serious")
    assert f"{COUNT // 2} with a label count as wrong" in facts["findings"][0]["text"]
    assert {limit["name"]: limit["broken"] for limit in facts["limits"]} == {
        **{"accuracy": True, "damaged": False, "failed": True, "findings": len(facts["findings"]) > 5, "serious": True, "deletion": True}
    }
    assert f"no answer to '{DARK}/1.png'" in result.stderr
    assert f"<b>{DARK}/1.png</b>" in (tmp_path / "r" / "audit.html").read_text(encoding="utf-8")


WITHOUT_A_MAP = [
    *(node("Neg", "off", "turned"), node("Relu", "turned", "below"), node("Mul", "below big", "far")),
    *(node("Sin", "far", "wave"), node("Mul", "wave big", "farther"), node("Sin", "farther", "bad")),
]
"""Scores of dark pictures are numbers, and their derivative overflows."""


def test_a_picture_without_a_map_has_an_answer_and_breaks_the_limits_on_maps(data: Path, tmp_path: Path):
    model = saved(cheating(WITHOUT_A_MAP), tmp_path / "m.onnx")
    gates = ("--fail-if", "accuracy<0.5,failed>0", "--fail-if", "border>9", "--fail-if", "deletion>0.9999")
    result, facts = audit(model, data, "-o", tmp_path / "r", *ON, *gates)
    assert result.exit_code == 1, result.output
    assert [limit["broken"] for limit in facts["limits"]] == [False, False, True, True]
    assert "map of 4 pictures could not be had" in facts["limits"][2]["text"]
    lost = {row["what"]: row for row in facts["lost"]}
    assert lost["map"]["pictures"] == [f"{DARK}/{i}.png" for i in range(COUNT) if i % 2 == DARK]
    assert "No map by gradient of 4 of 8 pictures" in [f["title"] for f in facts["findings"]]
    assert "no map by gradient" in (tmp_path / "r" / "audit.html").read_text(encoding="utf-8")


def test_every_limit_of_several_options_counts_and_a_good_model_passes(data: Path, tmp_path: Path):
    model = saved(cheating(HONEST), tmp_path / "m.onnx")
    result, facts = audit(model, data, "-o", tmp_path / "r", *ON, "--fail-if", "accuracy<0.5", "--fail-if", "failed>0")
    assert result.exit_code == 0, result.output
    assert (facts["data"]["failed"], facts["lost"]) == ([], [])
    for first, second in (("accuracy<0.6", "failed>0"), ("failed>0", "accuracy<0.6")):
        assert audit(model, data, "-o", tmp_path / "r", *ON, "--fail-if", first, "--fail-if", second)[0].exit_code == 1
    assert CliRunner().invoke(app, ["audit", str(model), str(data), "--fail-if", ""]).exit_code == 2


def test_a_model_that_fails_disagrees_with_the_audited_one(data: Path, tmp_path: Path):
    good, bad = (saved(cheating(tail), tmp_path / f"{n}.onnx") for n, tail in (("good", HONEST), ("bad", CHEATS["nan"])))
    gates = ("--fail-if", "accuracy<0.5,failed>0,agreement<0.9", "--fail-if", "likeness<0.1")
    result, facts = audit(good, data, "--against", bad, "-o", tmp_path / "r", *ON, *gates)
    assert result.exit_code == 1, result.output
    assert [limit["broken"] for limit in facts["limits"]] == [False, False, True, False]
    assert (facts["against"]["agree"], facts["against"]["n"]) == (COUNT // 2, COUNT)
    assert facts["against"]["accuracy"] == {"n": COUNT, "classes": 2, "top1": 0.5, "top5": 0.5}
    assert "The other model has no answer to 4 of 8 pictures" in [f["title"] for f in facts["findings"]]
    _, turned = audit(bad, data, "--against", good, "-o", tmp_path / "t", *ON)
    assert (turned["against"]["agree"], turned["against"]["n"]) == (COUNT // 2, COUNT)
    assert turned["against"]["accuracy"]["top5"] == 1


def test_a_layer_that_holds_or_gives_no_numbers_is_broken(data: Path, tmp_path: Path):
    good, proto = saved(cheating(HONEST), tmp_path / "good.onnx"), cheating(HONEST)
    (weight,) = [t for t in proto.graph.initializer if t.name == "w"]
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    _, facts = audit(good, data, "--against", saved(proto, tmp_path / "bad.onnx"), "-o", tmp_path / "r", *ON)
    assert [layer["name"] for layer in facts["against"]["layers"] if layer["broken"]] == ["logits"]
    assert "Layer 'logits' is broken in 'bad.onnx'" in [f["title"] for f in facts["findings"]]
    assert (facts["against"]["agree"], facts["accuracy"]["top1"]) == (0, 0.5)

    class Side:
        def __init__(self, value: float) -> None:
            self.value = value

        def carrier(self, name: str) -> str:
            return name

        def values(self, x: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
            return {n: np.array([1.0, self.value]) for n in names}

    one = (np.zeros(1), np.zeros(1))
    for value in (np.nan, np.inf):
        assert _value_errors(Side(2.0), Side(value), ["t"], [one])["t"][0] == np.inf  # type: ignore[arg-type]
    assert _value_errors(Side(2.0), Side(2.0), ["t"], [one])["t"] == (0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("tail", [CHEATS["nan"], WITHOUT_A_MAP], ids=["answers", "maps"])
def test_failures_are_remembered_by_a_run_that_goes_on(data: Path, tmp_path: Path, tail: list[onnx.NodeProto]):
    model = saved(cheating(tail), tmp_path / "m.onnx")
    how = load_preprocess(tmp_path / "m.toml")
    asked = Asked(model, data, [Way("gradient", "gradient")], how, against=model, against_preprocess=how, measured=2)
    told: list[str] = []
    first, again = (run_audit(asked, tmp_path / "work", tell) for tell in (lambda text: None, told.append))
    assert {**first.facts, "created": ""} == {**again.facts, "created": ""}
    state = (tmp_path / "work" / "pictures.jsonl").read_bytes()
    assert state.count(b'"kind": "base"') == COUNT  # nothing was looked at again
    assert told


def test_evaluate_names_the_samples_that_the_model_fails_on(data: Path, tmp_path: Path):
    model = saved(cheating(CHEATS["nan"]), tmp_path / "m.onnx")
    words = ["evaluate", str(model), str(data), "-m", "gradient", "--metrics", "deletion", "--step", "32", "-o", str(tmp_path / "r")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    dark = [f"{DARK}/{i}.png" for i in range(COUNT) if i % 2 == DARK]
    facts = json.loads((tmp_path / "r" / "evaluation.json").read_text(encoding="utf-8"))
    assert [row["sample"] for row in facts["lost"] if row["method"] == "gradient" and row["sample"] in dark] == dark
    assert all("NaN" in row["why"]["deletion"] for row in facts["lost"])
    assert f"fails on {len({row['sample'] for row in facts['lost']})} sample(s)" in result.stderr
    assert dark[0] in result.stderr


# ----- labels -----


COMMANDS = [
    ("explain", "{picture}", "-o", "{out}"),
    ("evaluate", "{data}", "-o", "{out}", "-m", "gradient"),
    ("audit", "{data}", "-o", "{out}"),
    ("audit", "{data}", "-o", "{out}", "--against", "{model}"),
    ("convert", "{out}/c.onnx"),
    ("plan",),
    ("check",),
    ("check", "--conservation"),
    ("demo", "{picture}", "-o", "{out}"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_labels_that_do_not_fit_the_classes_are_refused_by_every_command(data: Path, tmp_path: Path, words: tuple[str, ...]):
    model = saved(cheating(HONEST), tmp_path / "m.onnx")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    names = {"model": model, "data": data, "picture": data / "0" / "0.png", "out": tmp_path}
    verb, *rest = (word.format(**names) for word in words)
    result = CliRunner().invoke(app, [verb, str(model), *rest, "--labels", str(tmp_path / "three.txt")])
    assert result.exit_code == 2, result.output
    assert "there are 3 labels, but output 'y' has 2 classes" in result.stderr


@pytest.mark.parametrize("verb", ["evaluate", "audit"])
@pytest.mark.parametrize("shape", [["N", 2], ["N", "C"]], ids=["told", "open"])
def test_labels_of_pictures_that_are_no_classes_are_refused(data: Path, tmp_path: Path, verb: str, shape: list[str | int]):
    proto = cheating(HONEST)
    for dim, size in zip(proto.graph.output[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.ParseFromString(b"")
        setattr(dim, "dim_value" if isinstance(size, int) else "dim_param", size)
    model = saved(proto, tmp_path / "m.onnx")
    table = tmp_path / "all.csv"
    table.write_text(f"file,label\n{data}/0/0.png,0\n{data}/1/1.png,2\n{data}/1/3.png,-1\n")
    result = CliRunner().invoke(app, [verb, str(model), str(table), "-m", "gradient", "-o", str(tmp_path / "r")])
    assert result.exit_code == 2, result.output
    assert "2 of 3 labels are none of the 2 classes" in result.stderr
