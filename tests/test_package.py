"""What pyproject.toml promises: the exact run-time dependencies, and extras that stay extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

RUN_TIME = {
    "jinja2",
    "numpy",
    "onnx",
    "onnx-graphsurgeon",
    "onnxruntime",
    "onnxruntime-gpu",
    "pillow",
    "pydantic",
    "rich",
    "typer",
}
"""Everything that a plain ``pip install onnxsal`` asks for. A library that only some people need belongs into an extra."""


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}  # type: ignore[index]


def test_run_time_dependencies_do_not_grow():
    assert names(PROJECT["dependencies"]) == RUN_TIME


def test_the_page_on_installing_lists_them_and_every_extra():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = re.search(r"needs at run time: (.*?)\. A test", page, re.DOTALL)
    assert listed is not None
    said = {name.strip() for name in re.sub(r"\([^)]*\)", "", listed[1]).replace("\n", " ").split(",")}
    assert said == RUN_TIME - {"onnxruntime-gpu"}
    extras = set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE))
    assert extras == set(PROJECT["optional-dependencies"]) - {"lint"}
