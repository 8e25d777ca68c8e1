"""The JSON schema of an audit, made from the types of the document and of every check."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from typing import Any, get_type_hints

from onnxsal.report.audit.checking import checks
from onnxsal.report.audit.document import CheckReport, Document


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of an audit, made from the types of the document and of every check."""
    from pydantic import TypeAdapter

    reports = [(c.name, make_dataclass(f"{c.__name__}Report", [*_fields(CheckReport, facts=c | None)], frozen=True)) for c in checks()]
    every = make_dataclass("Checks", reports, frozen=True)
    whole = make_dataclass("Audit", [*_fields(Document, checks=every)], frozen=True)
    made: dict[str, Any] = TypeAdapter(whole).json_schema(mode="serialization")
    _close(made)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:onnxsal:audit:4",
        **made,
        "description": Document.__doc__,
    }


def _fields(kind: type, **other: Any) -> list[tuple[str, Any]]:
    """The fields of a type, some of them with another type."""
    hints = get_type_hints(kind)
    return [(f.name, other.get(f.name, hints[f.name])) for f in fields(kind)]


def _close(part: Any) -> None:
    """Nothing but what is listed, and null wherever a number is missing."""
    if isinstance(part, dict):
        if "properties" in part:
            part["additionalProperties"] = False
        if part.get("type") == "number":
            part["type"] = ["number", "null"]
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _close(inner)
