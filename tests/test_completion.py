"""What a shell is offered: commands, options, and the words of options; the command is asked as the shell asks it."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onnxsal.cli import app, completion
from onnxsal.engine.method import known_methods
from onnxsal.runtime.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent


def offered(line: str) -> set[str]:
    """What bash is offered at the end of a line; the word that is being typed is the last one, which may be empty."""
    words = line.split(" ")
    asked = {"_ONNXSAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return set(CliRunner().invoke(app, [], env=asked, prog_name="onnxsal").stdout.split())


@pytest.mark.parametrize("before", ["explain m.onnx x.png --method ", "convert m.onnx -m ", "methods ", "explain m.onnx --n-steps 5 -m "])
def test_methods_are_offered(before: str):
    assert offered(f"onnxsal {before}lrp_") == {name for name in known_methods() if name.startswith("lrp_")} != set()


def test_commands_options_and_words_are_offered():
    assert {"explain", "audit", "check"} <= offered("onnxsal ")
    assert offered("onnxsal check m.onnx --prov") == {"--provider"}
    assert offered("onnxsal explain m.onnx --preprocess ") == set(PRESETS)
    assert "cpu" in offered("onnxsal explain m.onnx --provider ")
    assert offered("onnxsal check m.onnx --provider cu") == {"cuda"}
    assert offered("onnxsal evaluate m.onnx d --metrics inser") == {"insertion"}
    assert offered("onnxsal explain m.onnx --method no_such") == set()
    assert offered("onnxsal explain m.onnx x.png --methods gradcam,layer") == {"gradcam,layercam"}


def test_of_a_list_the_last_word_is_offered_and_none_twice():
    assert completion.several_methods("gradcam,gradca") == ["gradcam,gradcam_plus_plus"]
    assert all(word.startswith("fullgrad,") for word in completion.several_methods("fullgrad,"))
    assert "fullgrad,fullgrad" not in completion.several_methods("fullgrad,")


def test_it_can_be_installed():
    done = CliRunner().invoke(app, ["--help"], prog_name="onnxsal", env={"COLUMNS": "200"})
    assert "--install-completion" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def test_the_version_is_that_of_the_project():
    said = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert version("onnxsal") == said
