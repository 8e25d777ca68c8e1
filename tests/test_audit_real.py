"""The audit on trained networks and real pictures: colours in the wrong order are found, with labels and without, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit import Asked, audit
from onnxsal.report.audit_checks import sanity as sanity_check
from onnxsal.report.audit_colours import ORDERS, colour_check, entropy
from onnxsal.report.audit_findings_maps import sanity
from onnxsal.report.audit_findings_model import channels
from onnxsal.report.audit_page import tied_methods
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


def findings(model: Path, toml: str, data: Path, labels: list[str], where: Path) -> tuple[dict, list[dict]]:
    (where / "how.toml").write_text(toml, encoding="utf-8")
    asked = Asked(model, data, [Way("gradcam", "gradcam")], load_preprocess(where / "how.toml"), labels, measured=1)
    facts = audit(asked).facts
    return facts, facts["findings"]


@pytest.mark.parametrize("kind", ["labelled", "plain"])
def test_squeezenet_fed_rgb_instead_of_bgr_is_found(stamps: Path, labels: list[str], tmp_path: Path, kind: str):
    """Trained on BGR: fed so it has no finding, fed RGB it has this one, in words."""
    model = squeezenet.build(tmp_path / "squeezenet.onnx")
    facts, none = findings(model, squeezenet.TOML.format(channels="BGR"), stamps / kind, labels, tmp_path)
    assert none == []
    facts, (found,) = findings(model, squeezenet.TOML.format(channels="RGB"), stamps / kind, labels, tmp_path)
    assert found["id"] == "channel-order"
    assert found["severity"] == "serious"
    assert found["title"] == "Red and blue reach the model exchanged, it seems"
    assert 'set channels = "BGR"' in found["advice"]
    if kind == "labelled":
        told = facts["checks"]["channels"]["labelled"]
        assert told["right_exchanged"] > 1.5 * told["right"]
        assert f"right about {told['right_exchanged']} of {told['n']} labelled colour pictures" in found["text"]
    else:
        assert "surer of its answers" in found["text"]
        assert facts["checks"]["channels"]["certainty_gain"]["low"] > 0


@pytest.mark.parametrize(("kind", "channels"), [("labelled", "BGR"), ("plain", "BGR"), ("plain", "RGB")])
def test_lite0_fed_in_the_wrong_order_is_found(stamps: Path, labels: list[str], tmp_path: Path, kind: str, channels: str):
    _, found = findings(LITE0, LITE0_TOML.format(channels=channels), stamps / kind, labels, tmp_path)
    assert [f["id"] for f in found] == ([] if channels == "RGB" else ["channel-order"])


def test_a_clean_model_on_photographs_without_labels_has_no_finding(labels: list[str], tmp_path: Path):
    """Photographs that packages ship, some of things that the model has no class for: too little to say that colours are wrong."""
    data = Path(pytest.importorskip("skimage").__file__).parent / "data"
    more = Path(pytest.importorskip("sklearn").__file__).parent / "datasets" / "images"
    wanted = ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg", "ihc.png"]
    files = [data / n for n in (*wanted, "hubble_deep_field.jpg")] + [more / n for n in ("china.jpg", "flower.jpg")]
    for file in files:
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    facts, found = findings(LITE0, LITE0_TOML.format(channels="RGB"), tmp_path, labels, tmp_path)
    assert facts["checks"]["channels"]["pictures"] >= 8
    assert found == []


# ----- how it decides -----


def rows(gain: float, best: str = "BGR", count: int = 40, classes: int = 1000) -> list[tuple[dict, dict]]:
    rng = np.random.default_rng(0)
    made = []
    for noise in rng.normal(0, 0.3, (count, len(ORDERS))):
        entropies = 3 + noise
        entropies[ORDERS.index(best)] = entropies[0] - gain
        made.append(({"top": [[1, 0.5]]}, {"entropy": entropies.tolist(), "class": 1, "classes": classes}))
    return made


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"gain": 1.0}, True),
        ({"gain": 1.0, "classes": 2}, False),  # of two classes, the wrong one may well be the surer
        ({"gain": 1.0, "count": 5}, False),
        ({"gain": 0.05}, False),
        ({"gain": -1.0}, False),
        ({"gain": 1.0, "best": "GRB"}, False),  # another order is better still: it is not about red and blue
    ],
)
def test_what_it_takes_without_labels(given: dict, found: bool):
    told = colour_check(rows(**given))
    assert bool(list(channels({"checks": {"channels": told}, "model": {"preprocessing": None}}, []))) == found
    assert list(told["orders"]) == list(ORDERS)


def test_entropy():
    assert entropy(np.full(8, 0.125)) == pytest.approx(np.log(8))
    assert entropy(np.array([0, 3.0, 0])) == 0
    assert entropy(np.array([0.9, 0.9])) == pytest.approx(np.log(2))  # sigmoids do not sum to 1


class Curves:
    """What an evaluation knows of one method's maps under random weights."""

    def __init__(self, spearman: list[float], ssim: list[float]) -> None:
        self.curves = {"randomised_spearman": spearman, "randomised_ssim": ssim}

    def curve(self, way: str, name: str) -> tuple[np.ndarray, np.ndarray, int] | None:
        values = np.array(self.curves[name])
        return (np.arange(len(values)), values, 8) if len(values) else None


@pytest.mark.parametrize(
    ("spearman", "ssim", "passed", "found"),
    [
        ([0.9, 0.85], [0.9, 0.9], False, True),
        ([0.9, 0.85], [], False, True),  # too small for SSIM
        ([0.9, 0.6], [0.9, 0.6], False, False),  # it changes in part: that is told in the table
        ([0.9, 0.75], [0.5, 0.28], True, False),  # flat grounds: zeros that tie, whatever the weights are
        ([0.9, 0.1], [0.9, 0.7], True, False),
        ([0.1, 0.3], [0.2, 0.4], True, False),  # the first stage has changed all there is
    ],
)
def test_when_a_map_does_not_depend_on_the_weights(spearman: list[float], ssim: list[float], passed: bool, found: bool):
    row = sanity_check(Curves(spearman, ssim), Way("edges", "gradient"))
    told = list(sanity({"sanity": [row]}, []))
    assert [f["severity"] for f in told] == ["serious"] * found
    assert row["passed"] == passed
    if found:
        assert f"rank correlation of {spearman[-1]:.2f}" in told[0]["text"]


def test_tied_maps_are_named():
    pictures = [{"maps": {"flat": {"tied": t}, "fine": {"tied": 0.01}, "unmeasured": {"tied": None}}} for t in (0.2, 0.4)]
    assert tied_methods({"pictures": pictures}) == {"flat": pytest.approx(0.3)}
