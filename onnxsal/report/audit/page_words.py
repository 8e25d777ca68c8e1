"""Numbers, shares and classes as the page writes them."""

from __future__ import annotations

import math
from typing import Any

from onnxsal.report.audit.class_name import ClassName
from onnxsal.report.audit.population import grouped

NONE = "\u2013"
"""What stands for a number that is not there."""


def number(value: Any) -> str:
    """A number as people read it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return grouped(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """A share as people read it."""
    return NONE if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def called(entry: ClassName | None) -> str:
    """A class by its label, or by its number."""
    if entry is None:
        return NONE
    return entry.label.split(",")[0] if entry.label else f"class {entry.index}"
