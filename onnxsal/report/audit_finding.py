"""One finding of an audit, and the words that all findings share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Facts: TypeAlias = Mapping[str, Any]
Finding: TypeAlias = dict[str, Any]

SERIOUS, WARNING = "serious", "warning"

FEW = 8
"""Pictures below which no mean is judged."""

MOST = 20
"""Pictures that a finding names."""


def finding(id: str, severity: str, weight: float, title: str, text: str, advice: str, pictures: Sequence[str] = ()) -> Finding:
    """A finding as the report holds it; ``weight`` orders those of one severity."""
    return {
        "id": id,
        "severity": severity,
        "weight": float(weight),
        "title": title,
        "text": text,
        "advice": advice,
        "pictures": list(pictures)[:MOST],
    }


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.0f} %"


def class_name(facts: Facts, index: int) -> str:
    """A class as people call it."""
    for picture in facts["pictures"]:
        for answer in picture["predicted"]:
            if answer["class"] == index and answer["label"]:
                return f"'{answer['label'].split(',')[0]}' (class {index})"
    return f"class {index}"


def predicted(facts: Facts, index: int) -> list[str]:
    """The pictures that the model takes for a class."""
    return [p["name"] for p in facts["pictures"] if p["predicted"][0]["class"] == index]
