"""The audit on trained networks and real pictures: colours in the wrong order are found, with labels and without, and only then."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxsal.ask.request import Ask
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.exchanged import ORDERS, Reordered, colour_exchange, entropy
from onnxsal.report.audit import Request, audited
from onnxsal.report.audit.checks.channels import Channels
from onnxsal.report.audit.evidence import CONFIDENCE
from onnxsal.runtime.preprocess_files import load_preprocess
from tests import squeezenet

ROOT = Path(__file__).resolve().parent.parent
LITE0, LABELS = ROOT / "models" / "efficientnet_lite0.onnx", ROOT / "models" / "labels" / "imagenet.txt"
LITE0_TOML = """layout = "NCHW"
channels = "{channels}"
crop_pct = 0.875
resize = [224, 224]
interpolation = "bicubic"
scale = 1
mean = 127
std = 128
"""


@pytest.fixture(scope="session")
def labels() -> list[str]:
    return LABELS.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="session")
def stamps(labels: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain/ without labels, and half of it as labelled/ with sub-folders named by class: labels tell with fewer."""
    folder = tmp_path_factory.mktemp("stamps")
    squeezenet.stamps(folder / "labelled", labels)
    (folder / "plain").mkdir()
    for i, file in enumerate(sorted((folder / "labelled").rglob("*.png"))):
        shutil.copy(file, folder / "plain" / f"{i:03d}.png")
        if i % 2:
            file.unlink()
    return folder


def findings(
    model: Path, toml: str, data: Path, labels: list[str], where: Path, methods: Sequence[str] = ("gradcam",)
) -> tuple[dict, list[dict]]:
    (where / "how.toml").write_text(toml, encoding="utf-8")
    asked = Request(
        Ask(model, preprocess=load_preprocess(where / "how.toml"), labels=labels), data, [Way(m, m) for m in methods], measured=1
    )
    facts = audited(asked).facts
    return facts, facts["findings"]


@pytest.mark.parametrize("kind", ["labelled", "plain"])
def test_squeezenet_fed_rgb_instead_of_bgr_is_found(stamps: Path, labels: list[str], tmp_path: Path, kind: str):
    """Trained on BGR: fed so it has no finding, fed RGB it has this one, in words."""
    model = squeezenet.build(tmp_path / "squeezenet.onnx")
    if kind == "labelled":  # without labels even less could be found; see the photographs below
        assert findings(model, squeezenet.TOML.format(channels="BGR"), stamps / kind, labels, tmp_path)[1] == []
    facts, (found,) = findings(model, squeezenet.TOML.format(channels="RGB"), stamps / kind, labels, tmp_path)
    assert found["id"] == "channel-order"
    assert found["severity"] == "serious"
    assert found["title"] == "Red and blue reach the model exchanged, it seems"
    assert 'set channels = "BGR"' in found["advice"]
    if kind == "labelled":
        told = facts["checks"]["channels"]["facts"]["colours"]["labelled"]
        assert told["right_exchanged"] > 1.5 * told["right"]
        assert f"right about {told['right_exchanged']} of {told['n']} labelled colour pictures" in found["text"]
    else:
        assert "surer of its answers" in found["text"]
        assert facts["checks"]["channels"]["facts"]["colours"]["certainty_gain"]["low"] > 0


@pytest.mark.parametrize("kind", ["labelled", "plain"])
def test_lite0_fed_in_the_wrong_order_is_found(stamps: Path, labels: list[str], tmp_path: Path, kind: str):
    """Fed in the right one it has no such finding: see the next test."""
    _, found = findings(LITE0, LITE0_TOML.format(channels="BGR"), stamps / kind, labels, tmp_path)
    assert [f["id"] for f in found] == ["channel-order"]


def test_a_clean_model_on_photographs_without_labels_has_no_finding_of_its_own(labels: list[str], tmp_path: Path):
    """Photographs that packages ship, some of things that the model has no class for: too little to say that colours are wrong.

    One finding is about a method, and is meant: maps of FullGrad keep a rank correlation and an SSIM above one half on a model with
    random weights, so much of what they show comes from the pictures. Grad-CAM passes. What needs labels or classes is not passed.
    """
    data = Path(pytest.importorskip("skimage").__file__).parent / "data"
    more = Path(pytest.importorskip("sklearn").__file__).parent / "datasets" / "images"
    wanted = ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg", "ihc.png"]
    files = [data / n for n in (*wanted, "hubble_deep_field.jpg")] + [more / n for n in ("china.jpg", "flower.jpg")]
    for file in files:
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    facts, found = findings(LITE0, LITE0_TOML.format(channels="RGB"), tmp_path, labels, tmp_path, ("fullgrad", "gradcam"))
    assert facts["checks"]["channels"]["facts"]["colours"]["pictures"] >= 8
    assert [(f["id"], f["severity"]) for f in found] == [("randomisation-fullgrad", "warning")]
    outcomes = {name: check["outcome"] for name, check in facts["checks"].items()}
    assert (outcomes["channels"], outcomes["answers"]) == ("passed", "passed")
    assert (outcomes["labels"], outcomes["marks"]) == ("not enough data", "not enough data")
    assert [v["outcome"] for v in facts["checks"]["randomisation"]["verdicts"]] == ["failed", "passed"]


# ----- how it decides -----


def rows(gain: float, best: str = "BGR", count: int = 40, classes: int = 1000) -> list[Reordered]:
    rng = np.random.default_rng(0)
    made = []
    for noise in rng.normal(0, 0.3, (count, len(ORDERS))):
        entropies = 3 + noise
        entropies[ORDERS.index(best)] = entropies[0] - gain
        made.append(Reordered(classes, entropies.tolist(), 1, 1))
    return made


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"gain": 1.0}, "failed"),
        ({"gain": 1.0, "classes": 2}, "not enough data"),  # of two classes, the wrong one may well be the surer
        ({"gain": 1.0, "count": 5}, "not enough data"),
        ({"gain": 0.05}, "passed"),
        ({"gain": -1.0}, "passed"),
        ({"gain": 1.0, "best": "GRB"}, "passed"),  # another order is better still: it is not about red and blue
    ],
)
def test_what_it_takes_without_labels(given: dict, found: str):
    told = colour_exchange(rows(**given), CONFIDENCE)
    assert told is not None
    evidence: Any = SimpleNamespace(own=SimpleNamespace(preprocess=None))
    (judgement,) = Channels(told, []).judge(evidence)
    assert judgement.verdict.outcome == found
    assert (judgement.finding is not None) == (found == "failed")
    assert list(told.orders) == list(ORDERS)


def test_entropy():
    assert entropy(np.full(8, 0.125)) == pytest.approx(np.log(8))
    assert entropy(np.array([0, 3.0, 0])) == 0
    assert entropy(np.array([0.9, 0.9])) == pytest.approx(np.log(2))  # sigmoids do not sum to 1
