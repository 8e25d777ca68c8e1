"""No gradient is wrong on any of the ONNX standard's own node tests; what is refused is listed here, with the reason."""

from __future__ import annotations

import pytest

from tests.conformance import cases_by_operator, judge

REFUSED: dict[str, str] = {
    "Upsample": "its scales are an input of the model, and no random scales can be drawn to compare the model before and after its opset is raised",
}
"""Operator -> why (some of) its cases are refused. Everything else must be right."""


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("operator", sorted(cases_by_operator()))
def test_standard_cases(operator: str, mode: str) -> None:
    outcomes = {test.name: judge(test, mode == "static") for test in cases_by_operator()[operator]}
    faults = {n: o for n, o in outcomes.items() if o.verdict in ("wrong", "broken")}
    assert not faults
    refused = {n: o.detail for n, o in outcomes.items() if o.verdict == "refused"}
    assert not refused or operator in REFUSED, refused
