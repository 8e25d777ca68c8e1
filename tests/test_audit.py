"""The audit: three planted faults are found and named, a good model has none; schema, gate, resuming, damaged pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from onnxsal.ask.request import Ask
from onnxsal.cli import app
from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.two_models import dequantised
from onnxsal.report.audit import Audit, Limit, Request, schema
from onnxsal.report.audit import audited as run_audit
from onnxsal.report.audit.checks.channels import Channels
from onnxsal.report.audit.checks.law import Law
from onnxsal.report.audit.checks.layers import LayerComparison
from onnxsal.report.audit.checks.marks import Marks, place_name
from onnxsal.report.audit.document import JudgedLimit
from onnxsal.report.audit.gate import judged
from onnxsal.report.audit.map_notes import GRID, cell_shares, data_uri, rim_share
from onnxsal.runtime.preprocess_files import load_preprocess
from tests import audit_nets as nets

ROOT = Path(__file__).resolve().parent.parent
COUNT = 64


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good.onnx, marked.onnx, int8.onnx, data/, data_marked/ and bgr.toml."""
    folder = tmp_path_factory.mktemp("audit")
    pictures, labels = nets.digits()
    stamped = nets.marked(pictures, labels)
    nets.train(pictures[:1500], labels[:1500], folder / "good.onnx")
    nets.train(stamped[:1500], labels[:1500], folder / "marked.onnx")
    rest = slice(1500, 1500 + COUNT)
    nets.save_pictures(folder / "data", pictures[rest], labels[rest])
    nets.save_pictures(folder / "data_marked", stamped[rest], labels[rest])
    nets.quantised(folder / "good.onnx", pictures[:60], folder / "int8.onnx")
    nets.preprocessing(folder / "good.onnx", "BGR", folder / "bgr.toml")
    return folder


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["audit", *(str(a) for a in args), "--measured", "8"])


def facts_of(folder: Path) -> dict:
    facts = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schema()).validate(facts)
    return facts


def audited(tmp_path: Path, *args: object, status: int = 0) -> dict:
    result = run(*args, "-o", tmp_path / "report")
    assert result.exit_code == status, result.output
    return facts_of(tmp_path / "report")


# ----- a good model, and three faults -----


def test_a_good_model_and_its_good_int8_version_have_no_finding(place: Path, tmp_path: Path):
    facts = audited(tmp_path, place / "good.onnx", place / "data", "--against", place / "int8.onnx")
    assert (facts["schema"], facts["findings"]) == ("onnxsal-audit/4", [])
    assert facts["data"]["pictures"] == COUNT
    told = {name: check["facts"] for name, check in facts["checks"].items()}
    assert told["labels"]["own"]["top1"] > 0.8
    assert told["agreement"]["agree"] >= COUNT - 2
    assert len(told["layers"]["rows"]) == 5
    assert not any(layer["broken"] for layer in told["layers"]["rows"])
    for method in told["reasons"]["rows"]:
        assert method["likeness"]["mean"] > 0.9
    tested = ("answers", "labels", "channels", "marks", "randomisation", "agreement", "reasons", "layers")
    assert {name: facts["checks"][name]["outcome"] for name in tested} == dict.fromkeys(tested, "passed")
    assert not (tmp_path / "report" / ".audit.work").exists()


def test_channels_in_the_wrong_order_are_found(place: Path, tmp_path: Path):
    facts = audited(tmp_path, place / "good.onnx", place / "data", "--preprocess", place / "bgr.toml", "-m", "gradient")
    worst = facts["findings"][0]
    assert worst["id"] == "channel-order"
    assert worst["severity"] == "serious"
    assert "Red and blue" in worst["title"]
    assert 'channels = "RGB"' in worst["advice"]


def test_a_watermark_that_decides_a_class_is_found(place: Path, tmp_path: Path):
    facts = audited(tmp_path, place / "marked.onnx", place / "data_marked", "-m", "gradient,gradcam")
    (finding,) = facts["findings"]
    assert finding["title"].startswith(f"The lower right corner decides class {nets.MARKED}")
    assert finding["severity"] == "serious"
    assert finding["pictures"]
    assert {p.split("/")[0] for p in finding["pictures"]} == {str(nets.MARKED)}


@pytest.mark.parametrize(("scale", "factor", "layer"), [("4.weight_scale", 5, "/4/Conv"), ("/3/Relu_output_0_scale", 0.15, "/2/Conv")])
def test_a_broken_scale_is_found_in_its_layer(place: Path, tmp_path: Path, scale: str, factor: float, layer: str):
    broken = nets.with_broken_scale(place / "int8.onnx", tmp_path / "broken.onnx", scale, factor)
    facts = audited(tmp_path, place / "good.onnx", place / "data", "--against", broken, "-m", "gradient")
    worst = facts["findings"][0]
    assert worst["title"] == f"Layer '{layer}' is broken in 'broken.onnx'"
    if scale.startswith("4"):
        assert "its weights are 5 times those of the audited model" in worst["text"]
    assert [x["name"] for x in facts["checks"]["layers"]["facts"]["rows"] if x["broken"]] == [layer]
    assert [v["finding"] for v in facts["checks"]["layers"]["verdicts"]] == [worst["id"]]


# ----- what cannot be told -----


def loose(place: Path, folder: Path, count: int, grey: bool = False) -> Path:
    """Pictures without labels."""
    folder.mkdir()
    for i, file in enumerate(sorted((place / "data").rglob("*.png"))[:count]):
        Image.open(file).convert("L" if grey else "RGB").save(folder / f"{i}.png")
    return folder


def test_seven_pictures_without_labels_are_too_few_to_be_told_in_order(place: Path, tmp_path: Path):
    """Fed in the wrong order, too: whoever reads the outcomes is not told that anything about the colours is well."""
    for words in ((), ("--preprocess", place / "bgr.toml")):
        data = loose(place, tmp_path / f"seven{len(words)}", 7)
        facts = audited(tmp_path, place / "good.onnx", data, "-m", "gradient", *words)
        outcomes = {name: check["outcome"] for name, check in facts["checks"].items()}
        assert (outcomes["channels"], outcomes["labels"], outcomes["border"]) == ("not enough data",) * 3
        (verdict,) = facts["checks"]["channels"]["verdicts"]
        assert (verdict["n"], verdict["needs"]) == (7, 8)
        assert verdict["value"] is not None
        assert not {"passed", "not applicable"} >= set(outcomes.values())


def test_without_labels_nobody_knows_whether_the_model_is_right(place: Path, tmp_path: Path):
    facts = audited(tmp_path, place / "good.onnx", loose(place, tmp_path / "data", 24), "-m", "gradient")
    assert facts["checks"]["labels"]["outcome"] == "not enough data"
    assert facts["checks"]["labels"]["facts"] == {"own": None, "other": None}
    assert "is not known" in facts["checks"]["labels"]["verdicts"][0]["words"]


def test_grey_pictures_have_no_colours_to_exchange(place: Path, tmp_path: Path):
    facts = audited(tmp_path, place / "good.onnx", loose(place, tmp_path / "data", 12, grey=True), "-m", "gradient")
    assert facts["checks"]["channels"]["outcome"] == "not applicable"
    assert facts["checks"]["channels"]["facts"] == {"colours": None, "lost": []}


# ----- the gate -----


def test_a_broken_limit_is_exit_status_1_and_named(place: Path, tmp_path: Path):
    limits = "residual>1e-3,deletion[gradient]>0.001,accuracy<0.2"
    result = run(
        place / "good.onnx", place / "data", "-o", tmp_path / "r.html", "-m", "gradient,fullgrad", "--samples", "12", "--fail-if", limits
    )
    assert result.exit_code == 1, result.output
    assert "error: deletion is" in result.stderr
    assert "the limit is deletion[gradient]>0.001" in result.stderr
    assert "residual" not in result.stderr
    limits = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["limits"]
    assert [limit["broken"] for limit in limits] == [False, True, False]
    assert "Limits that are broken" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_gate_on_relevance_that_does_not_reach_the_input(place: Path, tmp_path: Path):
    """The residual counts what biases took as accounted for, so it cannot tell."""
    limits = "residual>1e-2,unreached>0.01"
    words = ("-m", "lrp_epsilon,gradient", "--samples", "8", "--fail-if", limits)
    facts = audited(tmp_path, place / "good.onnx", place / "data", *words, status=1)
    maps = [p["maps"] for p in facts["pictures"]]
    assert all(m["gradient"]["reached"] is None for m in maps)
    worst = max(abs(1 - m["lrp_epsilon"]["reached"]) for m in maps)
    kept, lost = facts["limits"]
    assert not kept["broken"]
    assert lost["broken"]
    assert lost["method"] == "lrp_epsilon"
    assert lost["value"] == worst > 0.01


@pytest.mark.parametrize("residuals", [[1e-7, float("nan")], [float("nan"), 1e-7], [1e-7, None], [None, 1e-7]])
def test_one_picture_without_a_number_breaks_a_limit(residuals: list[float | None]):
    """Whatever the order of the pictures; a method that obeys no law (``None`` everywhere) has nothing to break."""

    def told(values: list[float | None]) -> JudgedLimit:
        both = [{"fullgrad": r, "gradcam": None} for r in values]
        pictures = [
            SimpleNamespace(name=str(i), maps={k: SimpleNamespace(residual=r, reached=None) for k, r in maps.items()})
            for i, maps in enumerate(both)
        ]
        evidence: Any = SimpleNamespace(pictures=pictures, kind=PICTURES, ways=[Way(m, m) for m in ("fullgrad", "gradcam")])
        return judged(Limit("residual>1e-3", "residual", None, ">", 1e-3), Law.measure(evidence).value("residual", evidence))

    broken = told(residuals)
    assert broken.broken
    assert broken.value is None
    assert "was not measured for fullgrad" in broken.text
    assert not told([0.0]).broken


def test_a_limit_that_could_not_be_measured_is_broken(place: Path, tmp_path: Path):
    """Gradients obey no law, so nobody knows their residual: a gate must not open for that."""
    args = [place / "good.onnx", place / "data", "-o", tmp_path, "-m", "gradient", "--samples", "8", "--fail-if", "residual>1"]
    result = run(*args)
    assert result.exit_code == 1
    assert "was not measured" in result.stderr


def test_mistakes_are_exit_status_2(place: Path, tmp_path: Path):
    for args in (["--fail-if", "nothing>1"], ["-m", "gradeint"], ["--against", tmp_path / "none.onnx"]):
        result = run(place / "good.onnx", place / "data", "-o", tmp_path, *args)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("error: ") == 1
    assert not (tmp_path / "audit.html").exists()


# ----- damage and interruption -----


def test_a_damaged_picture_is_listed_and_stops_nothing(place: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(place / "data" / "3", data / "3")
    whole = sorted((data / "3").iterdir())
    (data / "3" / "aaa_cut.png").write_bytes(whole[0].read_bytes()[:200])
    (data / "3" / "text.png").write_text("no picture", encoding="utf-8")
    result = run(place / "good.onnx", data, "-o", tmp_path / "r", "-m", "gradient")
    assert result.exit_code == 0, result.output
    facts = facts_of(tmp_path / "r")
    assert {d["name"] for d in facts["data"]["damaged"]} == {"3/aaa_cut.png", "3/text.png"}
    assert facts["data"]["pictures"] == len(whole)
    assert "left out '3/aaa_cut.png'" in result.stderr
    assert "3/text.png" in (tmp_path / "r" / "audit.html").read_text(encoding="utf-8")


class Stopped(Exception):
    pass


def asked_of(place: Path) -> Request:
    how = load_preprocess(place / "good.toml")
    ways = [Way(m, m) for m in ("gradient", "fullgrad")]
    ask = Ask(place / "good.onnx", preprocess=how)
    return Request(ask, place / "data", ways, against=replace(ask, model=place / "int8.onnx"), samples=20, measured=8)


@pytest.fixture(scope="session")
def whole(place: Path) -> Audit:
    """What a run finds that is not interrupted."""
    return run_audit(asked_of(place))


CUT = [
    "pictures 9",
    "measuring the maps: 8",
    "explaining with random",
    *(f"checking: {c.title}" for c in (Channels, Marks, LayerComparison)),
]


@pytest.mark.parametrize("at", CUT)
def test_an_interrupted_audit_goes_on_to_the_same_numbers(place: Path, whole: Audit, tmp_path: Path, at: str):
    def stop(text: str) -> None:
        if text.startswith(at):
            raise Stopped

    with pytest.raises(Stopped):
        run_audit(asked_of(place), (), tmp_path, stop)
    again = run_audit(asked_of(place), (), tmp_path)
    assert {**again.facts, "created": ""} == {**whole.facts, "created": ""}
    assert again.maps == whole.maps
    assert again.other_maps == whole.other_maps


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_killed_audit_goes_on_to_the_same_numbers(place: Path, tmp_path: Path):
    args = [str(place / "good.onnx"), str(place / "data"), "-m", "gradient", "--measured", "8"]
    command = [sys.executable, "-c", "from onnxsal.cli import main; main()", "audit", *args, "-o", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    state = tmp_path / "killed" / ".audit.work" / "samples.jsonl"
    begin = time.monotonic()
    while process.poll() is None and not (state.exists() and state.read_bytes().count(b"\n") > 8):
        assert time.monotonic() - begin < 120
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "audit.html").exists()
    kept = state.read_bytes()
    assert run(*args[:4], "-o", tmp_path / "killed").exit_code == 0
    assert run(*args[:4], "-o", tmp_path / "whole").exit_code == 0
    first, second = (facts_of(tmp_path / name) for name in ("killed", "whole"))
    assert {**first, "created": "", "command": ""} == {**second, "created": "", "command": ""}  # written to two folders
    assert kept.count(b"\n") > 8


# ----- the page -----


def test_the_page_asks_for_nothing_and_escapes_what_it_shows(place: Path, tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    for i, file in enumerate(sorted((place / "data").rglob("*.png"))[:6]):
        shutil.copy(file, data / f"{i}<script>alert(1)<&quot;.png")
    assert run(place / "good.onnx", data, "-o", tmp_path / "r", "-m", "gradient").exit_code == 0
    page = (tmp_path / "r" / "audit.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page
    links = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", page)


def test_colours_have_contrast():
    """WCAG AA: 4.5 to 1, in the light and the dark theme."""
    css = (ROOT / "onnxsal" / "report" / "audit" / "page.css").read_text(encoding="utf-8")
    for theme in re.findall(r":root \{([^}]*--paper[^}]*)\}", css)[:2]:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", theme))
        for ground in ("paper", "soft"):
            for name in ("ink", "faint", "bad", "doubt", "good", "link"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(a: str, b: str) -> float:
    def light(text: str) -> float:
        digits = text[1:] if len(text) == 7 else "".join(c * 2 for c in text[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# ----- small parts -----


def test_shares_of_a_map():
    size = np.zeros((20, 40))
    size[0, 0], size[10, 20] = 3, 1
    share, area = rim_share(size)
    assert share == 0.75
    assert area == pytest.approx(1 - 16 * 32 / 800)
    cells = cell_shares(size)
    assert cells.shape == (GRID, GRID)
    assert cells[0, 0] == 0.75
    assert cells[2, 2] == 0.25
    assert cell_shares(np.ones((17, 23))).sum() == pytest.approx(1)


def test_places_have_names():
    assert place_name((0, 0)) == "upper left corner"
    assert place_name((3, 3)) == "lower right corner"
    assert place_name((0, 1)) == "upper border, left middle"
    assert place_name((2, 3)) == "right border, lower middle"


def test_weights_are_dequantised_per_tensor_and_per_channel():
    q = np.array([[1, -2], [3, 4]], np.int8)
    assert np.array_equal(dequantised([q, np.float32(0.5)], 1), q * 0.5)
    found = dequantised([q, np.array([0.5, 2.0], np.float32), np.array([1, 0], np.int8)], 0)
    assert np.array_equal(found, [[0, -1.5], [6, 8]])


def test_small_pictures_are_enlarged_and_large_ones_shrunk():
    assert data_uri(np.zeros((8, 8, 3), np.uint8)).startswith("data:image/png")
    noise = np.random.default_rng(0).integers(0, 255, (400, 300, 3), np.uint8)
    uri = data_uri(noise)
    assert uri.startswith("data:image/jpeg")
    assert len(uri) < 40_000


def test_the_schema_is_a_schema():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
