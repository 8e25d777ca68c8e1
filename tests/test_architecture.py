"""The drawing of the house in docs/architecture.md against what happens: which room calls which, in which order, how often."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import onnxsal
from onnxsal.backward import RULES
from onnxsal.methods.build import WRAPPERS
from tests.small_models import cnn

PACKAGE = Path(onnxsal.__file__).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"

Arrow = tuple[str, str, str]
"""(room that calls, room that is called, function)."""


def drawing(layer: bool) -> list[Arrow]:
    """The arrows of the picture, with or without those of a class activation map."""
    picture = PAGE.read_text(encoding="utf-8").split("```mermaid")[1].split("```")[0]
    if not layer:
        picture = re.sub(r"\bopt\b.*?\bend\b", "", picture, flags=re.DOTALL)
    return re.findall(r"(\w+)->>(\w+): (\w+)", picture)


def registered() -> dict[CodeType, str]:
    """Functions that the picture calls by their registry: rules and wrappers."""
    return {r.apply.__code__: "RULES" for r in RULES.values()} | {w.build.__code__: "WRAPPERS" for w in WRAPPERS.values()}


def calls(work: Callable[[], Any]) -> list[Arrow]:
    """Every call from one room into another while ``work`` runs."""
    names, found = registered(), []

    def room(code: CodeType) -> str:
        path = Path(code.co_filename)
        return path.relative_to(PACKAGE).parts[0].removesuffix(".py") if path.is_relative_to(PACKAGE) else ""

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (callee := room(frame.f_code)) and frame.f_back is not None:
            above: FrameType | None = frame.f_back
            while above is not None and not room(above.f_code):
                above = above.f_back
            caller = room(above.f_code) if above is not None else ""
            if caller and caller != callee:
                found.append((caller, callee, names.get(frame.f_code, frame.f_code.co_name)))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def visits(found: list[Arrow], drawn: list[Arrow]) -> list[Arrow]:
    """The calls to functions that are drawn, whoever calls them; of a run of visits to the nodes of a walk the first one."""
    functions = {(callee, function) for _, callee, function in drawn}
    known = [arrow for arrow in found if arrow[1:] in functions]
    per_node = {("backward", "RULES"), ("ops", "vjp"), ("facts", "tags_of")}
    return [a for i, a in enumerate(known) if a[1:] not in per_node or a not in known[:i]]


@pytest.mark.parametrize(("method", "layer"), [("gradient", False), ("gradcam", True)])
def test_the_drawing_is_what_happens(method: str, layer: bool):
    drawn = drawing(layer)
    assert len(drawn) == len(set(drawn)) > 12
    assert visits(calls(lambda: onnxsal.convert(cnn(), method)), drawn) == drawn


@pytest.mark.parametrize(
    "call", [onnxsal.convert, onnxsal.plan, lambda m, method: onnxsal.check(m, "cpu", method)], ids=["convert", "plan", "check"]
)
@pytest.mark.parametrize(
    "method", ["gradient", "gradcam", "guided_gradcam", "fullgrad", "evidence", "focus", "lrp_resnet", "smooth_fullgrad", "deeplift"]
)
def test_a_model_is_prepared_asked_and_planned_once(method: str, call: Callable[..., Any]):
    """Guided Grad-CAM walks twice, from the scores to the layer and to the input; methods that sample plan their replica in a loop too."""
    counted = Counter(function for _, _, function in calls(lambda: call(cnn(), method)))
    walks = {"guided_gradcam": 2, "smooth_fullgrad": 2}.get(method, 1)
    once = {"prepare": 1, "ask": 1, "row_axes": 1, "make_plan": walks}
    assert {name: counted[name] for name in once} == once
    assert counted["layouts"] <= 2
    assert counted["layers_of"] <= 2
