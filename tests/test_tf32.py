"""Float32 is computed as float32: what providers round by default is switched off, by name only on again, and every record says which.

There need be no GPU here: a session that claims to be on CUDA, runs on the CPU and keeps what it was asked for stands in for one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal.cli import app
from onnxsal.errors import ProviderError
from onnxsal.metrics.sanity import model_randomization
from onnxsal.metrics.scorer import scorer_of
from onnxsal.runtime.providers import CPU, CUDA, OPENVINO, TENSORRT, as_text, resolve
from tests.small_models import cnn, draw

TINY = Path(__file__).resolve().parent.parent / "models" / "tiny" / "cnn.onnx"
PREPROCESS = "scale = 0.00392156862745098\nmean = 0.5\nstd = 0.25\nresize = [16, 16]\n"
Opened = list[dict[str, dict[str, str]]]


SEARCH = {"cudnn_conv_algo_search": "HEURISTIC"}
"""What CUDA is also told, unless the caller says otherwise."""


@pytest.mark.parametrize(
    ("given", "tf32", "expected"),
    [
        (None, False, [(CPU, {})]),
        ("cuda", False, [(CUDA, {"use_tf32": "0"} | SEARCH)]),
        ("cuda", True, [(CUDA, {"use_tf32": "1"} | SEARCH)]),
        ("cuda,cpu", True, [(CUDA, {"use_tf32": "1"} | SEARCH), (CPU, {})]),
        (("cuda", {"use_tf32": 1}), False, [(CUDA, {"use_tf32": "1"} | SEARCH)]),
        (("cuda", {"use_tf32": 0}), True, [(CUDA, {"use_tf32": "0"} | SEARCH)]),
        (("cuda", {"cudnn_conv_algo_search": "EXHAUSTIVE"}), False, [(CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"})]),
        ([("cuda", {"device_id": 1}), "cpu"], False, [(CUDA, {"use_tf32": "0", "device_id": "1"} | SEARCH), (CPU, {})]),
        (["tensorrt", "cuda"], True, [(TENSORRT, {}), (CUDA, {"use_tf32": "1"} | SEARCH)]),
        ("openvino", False, [(OPENVINO, {"precision": "FP32"})]),
        (("openvino", {"device_type": "GPU"}), False, [(OPENVINO, {"precision": "FP32", "device_type": "GPU"})]),
        (("openvino", {"device_type": "NPU"}), False, [(OPENVINO, {"precision": "ACCURACY", "device_type": "NPU"})]),
        (("openvino", {"device_type": "GPU", "precision": "FP16"}), False, [(OPENVINO, {"precision": "FP16", "device_type": "GPU"})]),
        (("openvino", {"load_config": "own.json"}), False, [(OPENVINO, {"load_config": "own.json"})]),
        (("openvino", {"device_type": "GPU_FP16"}), False, [(OPENVINO, {"device_type": "GPU_FP16"})]),
    ],
)
def test_what_a_provider_would_round_is_switched_off_unless_the_caller_says_otherwise(given: Any, tf32: bool, expected: Any) -> None:
    assert resolve(given, tf32) == expected
    assert resolve(expected) == expected  # what a session was opened with opens others like it


@pytest.mark.parametrize("given", [None, "cpu", "tensorrt,cpu", [("openvino", {})]])
def test_tf32_without_cuda_is_a_mistake(given: Any) -> None:
    with pytest.raises(ProviderError, match="tf32 is a way in which CUDA"):
        onnxsal.Explainer(cnn(), "gradient", providers=given, tf32=True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Provider options of every session that is opened on what claims to be CUDA or TensorRT."""
    kept: Opened = []
    real = ort.InferenceSession

    class Pretended:
        def __init__(self, source: Any, options: Any, providers: list[tuple[str, dict[str, str]]], **_: Any) -> None:
            self.session, self.asked = real(source, options, providers=[CPU]), dict(providers)
            if self.asked.keys() - {CPU}:
                kept.append(self.asked)

        def get_providers(self) -> list[str]:
            return [*self.asked] if CPU in self.asked else [*self.asked, CPU]

        def get_provider_options(self) -> dict[str, dict[str, str]]:
            """As ONNX Runtime: all options of a provider, not only those that were set."""
            return {name: {"device_id": "0", "use_tf32": "1", **self.asked.get(name, {})} if name == CUDA else {} for name in self.asked}

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", Pretended)
    return kept


@pytest.mark.parametrize(
    ("given", "use"), [({}, "0"), ({"tf32": True}, "1"), ({"providers": ("cuda", {"use_tf32": 1})}, "1")], ids=["default", "tf32", "option"]
)
def test_every_session_of_an_explainer_and_its_record_agree(opened: Opened, given: dict[str, Any], use: str, tmp_path: Path) -> None:
    """Also the plain model beside it, which metrics score with, and the same method on other weights."""
    x = draw(2, 3, 16, 16)
    explainer = onnxsal.Explainer(str(TINY), "gradient", **{"providers": "cuda"} | given)
    scorer_of(explainer).probabilities(x)
    model_randomization(explainer, x, seed=1, stages=1)
    assert len(opened) >= 3
    assert all(asked[CUDA]["use_tf32"] == use for asked in opened)
    found = explainer.explain(x)
    stored = json.loads(found.save(tmp_path / "x").with_suffix(".json").read_text())
    for told in (found.summary, found[1].summary, stored):
        assert told["providers"] == [CUDA, CPU]
        assert told["provider_options"] == {CUDA: {"use_tf32": use} | SEARCH}
    assert not found.warnings


def test_the_cpu_has_nothing_to_tell() -> None:
    assert onnxsal.Explainer(str(TINY), "gradient").explain(draw(1, 3, 16, 16)).summary["provider_options"] == {}
    assert as_text([CUDA, CPU], {CUDA: {"use_tf32": "0"}}) == f"{CUDA} (use_tf32=0), {CPU}"


def test_tensorrt_rounds_and_says_so(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime has no option for it, only the environment has."""
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    explainer = onnxsal.Explainer(str(TINY), "gradient", providers="tensorrt")
    assert any("NVIDIA_TF32_OVERRIDE=0" in w for w in explainer.explain(draw(1, 3, 16, 16)).warnings)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    explainer = onnxsal.Explainer(str(TINY), "gradient", providers="tensorrt")
    assert not explainer.explain(draw(1, 3, 16, 16)).warnings


def _explain(folder: Path) -> list[Any]:
    return ["explain", folder / "cnn.onnx", folder / "pictures", "-m", "gradient", "-o", folder / "out"]


def _evaluate(folder: Path) -> list[Any]:
    return ["evaluate", folder / "cnn.onnx", folder / "pictures", "-m", "gradient", "--metrics", "deletion", "-o", folder / "out"]


def _audit(folder: Path) -> list[Any]:
    return ["audit", folder / "cnn.onnx", folder / "pictures", "-m", "gradient", "--measured", 1, "-o", folder / "out"]


def _fit(folder: Path) -> list[Any]:
    return ["fit-patterns", folder / "cnn.onnx", folder / "pictures", "-o", folder / "patterns.npz"]


def _demo(folder: Path) -> list[Any]:
    return ["demo", folder / "cnn.onnx", folder / "pictures" / "0.png", "-o", folder / "out"]


@pytest.mark.parametrize("command", [_explain, _evaluate, _audit, _fit, _demo])
@pytest.mark.parametrize("tf32", [False, True], ids=["exact", "tf32"])
def test_every_command_with_a_provider(opened: Opened, command: Callable[[Path], list[Any]], tf32: bool, tmp_path: Path) -> None:
    """Each session it opens, and what it says of it."""
    (tmp_path / "cnn.onnx").write_bytes(TINY.read_bytes())
    (tmp_path / "cnn.toml").write_text(PREPROCESS)
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    words = [*map(str, command(tmp_path)), "--provider", "cuda", *(["--tf32"] if tf32 else [])]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert opened
    assert all(asked[CUDA]["use_tf32"] == str(int(tf32)) for asked in opened)
    assert f"{CUDA} (use_tf32={int(tf32)}, cudnn_conv_algo_search=HEURISTIC)" in result.stdout
    refused = CliRunner().invoke(app, [*map(str, command(tmp_path)), "--tf32"])
    assert refused.exit_code == 2
    assert "tf32 is a way in which CUDA" in refused.stderr
