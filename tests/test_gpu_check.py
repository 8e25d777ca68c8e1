"""The check of a card, without one: it holds the CPU against itself, and says what is wrong, what was left out, and where it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsal.runtime.session import open_session
from tools.card import page, parts
from tools.card.clock import Clock
from tools.card.nets import mobilenet_v2, networks

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "models" / "tiny" / "cnn.onnx"


def check(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("words", "status"), [((), 0), (("--limit", "-1"), 1)])
def test_the_check_of_a_file_on_the_cpu(words: tuple[str, ...], status: int, tmp_path: Path):
    written = tmp_path / "performance.md"
    result = check(TINY, "--provider", "cpu", "--methods", "gradient", "--tiny", "--seconds", "60", "--page", written, *words)
    assert result.returncode == status, result.stderr
    text = written.read_text(encoding="utf-8")
    assert text.startswith("# Performance\n")
    assert "| gradient | 0.0e+00 |" in text
    assert "| gradient | NaN |" in text
    assert "memory: no card tells how much is free" in text
    assert ("Wrong: nothing." in text) == (status == 0)
    assert page.BEGIN in text
    assert f"{len(text.split('Wrong: ')[1].splitlines()[0].split(';')) if status else 0} method(s) failed" in result.stdout


def test_a_provider_that_cannot_be_had_is_told():
    result = check(TINY, "--provider", "cudda")
    assert result.returncode == 1
    assert "execution provider 'cudda' is none of" in result.stderr


def test_networks_of_the_three_kinds():
    """Their scores depend on the picture, and differ from class to class: a dead network would agree with anything."""
    tiny = networks(tiny=True)
    assert list(tiny) == ["ResNet-50", "MobileNetV2", "ViT-S/16"]
    for model in tiny.values():
        onnx.checker.check_model(model)
        found = open_session(model, threads=1).run({"x": parts.pictures(model, 2)})["y"]
        assert found.shape == (2, 1000)
        assert found.std() > 1e-3
        assert np.abs(found[0] - found[1]).max() > 1e-3 * np.abs(found).max()
    depthwise = [n for n in mobilenet_v2().graph.node for a in n.attribute if a.name == "group" and a.i > 1]
    assert len(depthwise) == 17  # one for each block of the table


def test_what_does_not_fit_into_the_time_is_named():
    clock = Clock(10)
    clock.begin -= 4  # so many seconds have passed
    done = []
    for item in clock.within(0.3, ["a", "b", "c"], "part"):
        done.append(item)
        clock.begin -= 2
    assert done == ["a"]
    assert clock.left_out == ["part: b, c"]
    assert list(clock.within(1.0, ["d"], "last")) == ["d"]
    clock.begin -= 10
    assert list(clock.within(1.0, ["e"], "too late")) == []


def test_the_section_is_put_in_its_place(tmp_path: Path):
    written = tmp_path / "page.md"
    written.write_text("# Performance\n\nbefore\n", encoding="utf-8")
    page.write(written, "first")
    written.write_text(f"{written.read_text(encoding='utf-8')}\nbehind\n", encoding="utf-8")
    page.write(written, "second")
    text = written.read_text(encoding="utf-8")
    assert "first" not in text
    assert [text.index(word) for word in ("before", page.BEGIN, "second", page.END, "behind")] == sorted(
        text.index(word) for word in ("before", page.BEGIN, "second", page.END, "behind")
    )


def test_another_map_is_told():
    report = parts.Report("cpu", {}, [], 1e-2, Clock(1))
    assert report.gap("same", np.ones(3), np.ones(3)) == 0
    assert report.gap("other", np.full(3, 1.1), np.ones(3)) == pytest.approx(0.1)
    assert np.isnan(report.gap("none", np.full(3, np.nan), np.ones(3)))
    assert report.wrong == ["other: 1.0e-01", "none: nan"]
