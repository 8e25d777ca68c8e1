"""No gradient is wrong on any of the ONNX standard's own node tests; what is refused is listed here, with the reason."""

from __future__ import annotations

import pytest

from tests.conformance import cases_by_operator, judge

_OLD = "an opset below 18 and run-time integers: the raised model is compared with the original at random, and no random draw gives valid"

REFUSED: dict[str, str] = {
    "DeformConv": "no gradient",
    "Dropout": "training mode is chosen at run time, and the mask has no name",
    "Loop": "control flow is not differentiated",
    "OptionalGetElement": "optional types are not followed",
    "Resize": "no gradient for scales: where a size is a whole number, as where a scale is 1, it jumps",
    "Scan": "control flow is not differentiated",
    "Slice": f"{_OLD} starts and ends",
    "Split": f"{_OLD} lengths",
    "Upsample": f"{_OLD} scales",
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
