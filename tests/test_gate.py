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

from onnxsal.ask.request import Ask
from onnxsal.cli import app
from onnxsal.errors import InputError
from onnxsal.metrics.data_kind import PICTURES, DataKind
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.two_models import value_errors
from onnxsal.report.audit import Request, quantities, schema
from onnxsal.report.audit import audited as run_audit
from onnxsal.report.audit.checking import checks
from onnxsal.report.audit.document import JudgedLimit
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.gate import WHOLE, Limit, judged, judged_limits, read_limits
from onnxsal.report.audit.notes import MAP
from onnxsal.runtime.preprocess_files import load_preprocess
from tests.audit_evidence import AREA, LAWLESS, METHOD, planted
from tests.audit_evidence import MEASURED as COLUMNS
from tests.small_models import make, node

DARK, BRIGHT = 1, 0
COUNT = 8
ON = ("--measured", "2", "-m", "gradient")


COUNTS = tuple(WHOLE)


def limit_on(name: str, kept: bool = True) -> Limit:
    """A limit that what is planted keeps, or breaks."""
    known = quantities()[name]
    bound = (0.01 if kept else 0.99) if known.larger else 0.99 if kept and known.high == 1 else 9.0 if kept else 0.0
    return Limit(name, name, None, "<" if known.larger else ">", bound)


def kind_of(name: str) -> DataKind:
    """The data that a limit can be on."""
    return next((check.of for check in checks() if name in check.limits and check.of is not None), PICTURES)


def told_of(name: str, evidence: Evidence, kept: bool = True) -> JudgedLimit:
    """What the gate says of one limit, from the facts of the check that it is on."""
    results = {check.name: check.measure(evidence) for check in checks() if name in check.limits}
    (told,) = judged_limits([limit_on(name, kept)], evidence, results, [])
    return told


@pytest.mark.parametrize("name", quantities())
def test_every_quantity_is_read_from_the_facts(name: str):
    told = told_of(name, planted(kind=kind_of(name)))
    assert not told.broken, told
    assert told.value is not None
    assert told_of(name, planted(kind=kind_of(name)), kept=False).broken == (name not in COUNTS)


MEASURED = [n for n in quantities() if n not in COUNTS]
BY_METHOD = [n for n in MEASURED if not quantities()[n].whole]
MEANS = [n for n in BY_METHOD if n not in ("residual", "unreached")]


def without(number: float | None) -> dict[str, Any]:
    """Answers, maps, metrics and curves that hold ``number`` (NaN, or none) in place of every number."""
    nan = math.nan if number is None else number
    lines = {"residual": number, "reached": number, "likeness": number, "rim": [nan, AREA], "columns": [nan] * 4}
    return {"maps": [lines], "metrics": {(METHOD, c): nan for c in COLUMNS}, "curves": {"spearman": [nan], "ssim": [nan]}, "sure": nan}


NOTHING: dict[str, Any] = {**without(None), "curves": {}, "labelled": False, "compared": False, "masked": False}


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_missing_breaks_its_limit(name: str):
    told = told_of(name, planted(**NOTHING, kind=kind_of(name)))
    assert told.broken
    assert told.value is None
    assert "was not measured" in told.text


@pytest.mark.parametrize("name", BY_METHOD)
@pytest.mark.parametrize("number", [None, math.nan])
def test_what_is_no_number_breaks_its_limit(name: str, number: float | None):
    told = told_of(name, planted(**without(number), kind=kind_of(name)))
    assert told.broken
    assert told.value is None
    assert "was not measured" in told.text


@pytest.mark.parametrize("name", ["residual", "unreached"])
@pytest.mark.parametrize("number", [None, math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1])
def test_one_picture_without_a_number_breaks_the_limit_on_a_law(name: str, number: float | None, at: int):
    lines: list[dict[str, Any]] = [{}, {}]
    lines[at] = {"residual": number, "reached": number}
    told = told_of(name, planted(maps=lines))
    assert told.broken
    assert told.value is None


@pytest.mark.parametrize(
    "values", [{}, {"": math.nan}, {"m": math.inf}, {"m": -math.inf}, {"m": 0.5, "n": "why"}, {"m": 0.5, "n": math.nan}]
)
@pytest.mark.parametrize("name", quantities())
def test_no_limit_is_kept_by_what_is_no_number(name: str, values: dict[str, float | str]):
    told = judged(limit_on(name), values)
    assert told.broken
    assert told.value is None


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_that_most_pictures_are_missing_from_is_not_enough(name: str):
    missing = {"rim": [math.nan, AREA], "likeness": None, "columns": [math.nan] * 4}
    metrics = {(METHOD, c): [0.5, math.nan, math.nan] for c in COLUMNS}
    told = told_of(name, planted(3, maps=[{}, missing], metrics=metrics, curved=1, kind=kind_of(name)))
    assert told.broken
    assert "not enough data, 1 of 3 have a value" in told.text


@pytest.mark.parametrize("name", BY_METHOD)
def test_a_picture_without_an_answer_a_lost_map_and_a_refused_method_break_the_limits_on_maps(name: str):
    kind = kind_of(name)
    assert f"no answer to 1 of 3 {kind.many}" in told_of(name, planted(failed=1, kind=kind)).text
    assert f"{kind.map} of 1 {kind.one} could not be had" in told_of(name, planted(lost={(MAP, METHOD, "p0"): "NaN"}, kind=kind)).text
    assert not told_of(name, planted(lost={(MAP, "other", "p0"): "NaN"}, kind=kind)).broken
    told = told_of(name, planted(refused="no convolution", kind=kind))
    assert told.broken
    assert "was not measured for n: it cannot explain the model (no convolution)" in told.text


def test_a_limit_on_a_law_is_no_matter_of_a_method_without_one():
    told = told_of("residual", planted(method=LAWLESS, refused="no convolution"))
    assert told.text == "residual was not measured: no method that was audited has it; the limit is residual"


@pytest.mark.parametrize("name", [n for n in MEASURED if quantities()[n].lost])
def test_what_a_metric_could_not_measure_breaks_its_limit(name: str):
    what = quantities()[name].lost[0]
    assert f"{what} of 1 picture could not be had" in told_of(name, planted(lost={(what, METHOD, "p0"): "NaN"})).text


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
    ("deletion[gradcm]>0.3", "method 'gradcm' is not audited"),
    ("findings[m]>0", "no single method"),
    ("agreement<0.9", "--against"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_limit_with_a_mistake_is_refused_before_anything_runs(text: str, message: str):
    for texts in (text, [text], ["residual>1", text], [text, "residual>1"]):
        with pytest.raises(InputError, match=re.escape(message)):
            read_limits(texts, ["m"], False)


@pytest.mark.parametrize("text", ["accuracy<0", "deletion>1", "deletion>9"])
def test_a_limit_that_can_never_be_broken_lets_nothing_pass(data: Path, tmp_path: Path, text: str):
    """Alone it is refused before the work. Beside others it ends the audit as a mistake, unless one of them is broken."""
    with pytest.raises(InputError, match=r"can never be broken: [a-z]+ is between 0 and 1"):
        read_limits(["accuracy<0", text], ["gradient"], False)
    model = saved(cheating(HONEST), tmp_path / "m.onnx")
    for other, status in (("findings>99", 2), ("accuracy<=1", 1)):
        result, facts = audit(model, data, "-o", tmp_path / "r", *ON, "--fail-if", other, "--fail-if", text)
        assert result.exit_code == status, result.output
        assert f"--fail-if '{text}' can never be broken" in result.stderr
        assert [limit["broken"] for limit in facts["limits"]] == [status == 1, False]


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


def told_by(facts: dict[str, Any], check: str) -> Any:
    """The facts of one check in the JSON."""
    return facts["checks"][check]["facts"]


HALF = {"n": COUNT, "classes": 2, "top1": 0.5, "top5": 0.5, "most": 0.5}
GATES = ("--fail-if", "accuracy<0.6,damaged>0", "--fail-if", "failed>0", "--fail-if", "findings>5,serious>0,deletion[gradient]>0.9999")


@pytest.mark.parametrize("cheat", CHEATS)
def test_pictures_without_an_answer_count_against_the_model(data: Path, tmp_path: Path, cheat: str):
    model = saved(cheating(CHEATS[cheat]), tmp_path / "m.onnx")
    result, facts = audit(model, data, "-o", tmp_path / "r", *ON, *GATES)
    assert result.exit_code == 1, result.output
    assert told_by(facts, "labels")["own"] == facts["accuracy"] == HALF
    assert [line["name"] for line in facts["data"]["failed"]] == [f"{DARK}/{i}.png" for i in range(COUNT) if i % 2 == DARK]
    assert {line["label"]["index"] for line in facts["data"]["failed"]} == {DARK}
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
    lost = {row["what"]: row for row in told_by(facts, "answers")["lost"]}
    assert lost["map"]["pictures"] == [f"{DARK}/{i}.png" for i in range(COUNT) if i % 2 == DARK]
    assert "No map by gradient of 4 of 8 pictures" in [f["title"] for f in facts["findings"]]
    assert "no map by gradient" in (tmp_path / "r" / "audit.html").read_text(encoding="utf-8")


def test_every_limit_of_several_options_counts_and_a_good_model_passes(data: Path, tmp_path: Path):
    model = saved(cheating(HONEST), tmp_path / "m.onnx")
    result, facts = audit(model, data, "-o", tmp_path / "r", *ON, "--fail-if", "accuracy<0.5", "--fail-if", "failed>0")
    assert result.exit_code == 0, result.output
    assert (facts["data"]["failed"], told_by(facts, "answers")["lost"]) == ([], [])
    for first, second in (("accuracy<0.6", "failed>0"), ("failed>0", "accuracy<0.6")):
        assert audit(model, data, "-o", tmp_path / "r", *ON, "--fail-if", first, "--fail-if", second)[0].exit_code == 1
    assert CliRunner().invoke(app, ["audit", str(model), str(data), "--fail-if", ""]).exit_code == 2


def test_a_model_that_fails_disagrees_with_the_audited_one(data: Path, tmp_path: Path):
    good, bad = (saved(cheating(tail), tmp_path / f"{n}.onnx") for n, tail in (("good", HONEST), ("bad", CHEATS["nan"])))
    gates = ("--fail-if", "accuracy<0.5,failed>0,agreement<0.9", "--fail-if", "likeness<0.1")
    result, facts = audit(good, data, "--against", bad, "-o", tmp_path / "r", *ON, *gates)
    assert result.exit_code == 1, result.output
    assert [limit["broken"] for limit in facts["limits"]] == [False, False, True, False]
    assert (told_by(facts, "agreement")["agree"], told_by(facts, "agreement")["n"]) == (COUNT // 2, COUNT)
    assert told_by(facts, "labels")["other"] == HALF
    assert "The other model has no answer to 4 of 8 pictures" in [f["title"] for f in facts["findings"]]
    _, turned = audit(bad, data, "--against", good, "-o", tmp_path / "t", *ON)
    assert (told_by(turned, "agreement")["agree"], told_by(turned, "agreement")["n"]) == (COUNT // 2, COUNT)
    assert told_by(turned, "labels")["other"]["top5"] == 1


def test_a_layer_that_holds_or_gives_no_numbers_is_broken(data: Path, tmp_path: Path):
    good, proto = saved(cheating(HONEST), tmp_path / "good.onnx"), cheating(HONEST)
    (weight,) = [t for t in proto.graph.initializer if t.name == "w"]
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    _, facts = audit(good, data, "--against", saved(proto, tmp_path / "bad.onnx"), "-o", tmp_path / "r", *ON)
    assert [layer["name"] for layer in told_by(facts, "layers")["rows"] if layer["broken"]] == ["logits"]
    assert "Layer 'logits' is broken in 'bad.onnx'" in [f["title"] for f in facts["findings"]]
    assert (told_by(facts, "agreement")["agree"], told_by(facts, "labels")["own"]["top1"]) == (0, 0.5)

    class Side:
        def __init__(self, value: float) -> None:
            self.value = value

        def carrier(self, name: str) -> str:
            return name

        def values(self, x: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
            return {n: np.array([1.0, self.value]) for n in names}

    one = (np.zeros(1), np.zeros(1))
    for value in (np.nan, np.inf):
        assert value_errors(Side(2.0), Side(value), ["t"], [one])["t"][0] == np.inf  # type: ignore[arg-type]
    assert value_errors(Side(2.0), Side(2.0), ["t"], [one])["t"] == (0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("tail", [CHEATS["nan"], WITHOUT_A_MAP], ids=["answers", "maps"])
def test_failures_are_remembered_by_a_run_that_goes_on(data: Path, tmp_path: Path, tail: list[onnx.NodeProto]):
    model = saved(cheating(tail), tmp_path / "m.onnx")
    how = load_preprocess(tmp_path / "m.toml")
    ask = Ask(model, preprocess=how)
    request = Request(ask, data, [Way("gradient", "gradient")], against=ask, measured=2)
    told: list[str] = []
    first, again = (run_audit(request, work=tmp_path / "work", tell=tell) for tell in (lambda text: None, told.append))
    assert {**first.facts, "created": ""} == {**again.facts, "created": ""}
    state = (tmp_path / "work" / "samples.jsonl").read_bytes()
    assert state.count(b'"kind": "base"') == COUNT  # nothing was looked at again
    assert told


def test_evaluate_names_the_samples_that_the_model_fails_on(data: Path, tmp_path: Path):
    model = saved(cheating(CHEATS["nan"]), tmp_path / "m.onnx")
    words = [
        "evaluate",
        str(model),
        str(data),
        "-m",
        "gradient",
        "--metrics",
        "deletion,model_randomization",
        "--step",
        "32",
        "-o",
        str(tmp_path / "r"),
    ]
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
