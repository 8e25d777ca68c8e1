"""What the model, or a map of it, fails on: pictures without an answer, maps and measures that could not be had. None of it is left out
in silence: each is a row with its pictures, a finding, and breaks the limits that rest on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxsal.metrics.evaluation import Evaluation
from onnxsal.report.audit_finding import SERIOUS, WARNING, Facts, Finding, finding
from onnxsal.report.audit_look import Seen

Row = dict[str, Any]

MAP, COLOURS, MARKS, OTHER, OTHER_MAP = "map", "colours", "marks", "other", "other map"
"""What may be lost beside the metrics, which are called by their names."""

RANDOM = "model_randomization"

TITLES = {
    MAP: "No map by {method} of {count}",
    COLOURS: "The model fails when the colours of {count} are exchanged",
    MARKS: "The model fails when a place of other pictures is copied into {count}",
    OTHER: "The other model has no answer to {count}",
    OTHER_MAP: "No map of the other model by {method} of {count}",
    RANDOM: "No map by {method} of {count} under random weights",
}

GRAVE = (MAP, OTHER, OTHER_MAP)
"""Serious: what was asked for was not given on the pictures themselves."""


def lost_rows(seen: Seen, marks: Sequence[Mapping[str, Any]], evaluations: Sequence[Evaluation]) -> list[Row]:
    """What was asked of the model or of a map and not given: ``what``, ``method`` ('' = none), ``pictures`` and the first reason."""
    rows: dict[tuple[str, str], Row] = {}

    def add(what: str, method: str, picture: str, why: str) -> None:
        row = rows.setdefault((what, method), {"what": what, "method": method, "pictures": [], "why": why})
        row["pictures"].append(picture)

    for (what, way, name), why in seen.lost.items():
        add(what, way, name, why)
    for found in evaluations:
        for (way, name), metrics in found.lost.items():
            for metric, why in metrics.items():
                if (MAP, way, name) not in seen.lost:
                    add(metric, way, name, why)
    for mark in (m for m in marks if m["failed"]):
        for name in (n for n in seen.names if seen.base[n]["top"][0][0] == mark["class"]):
            add(MARKS, "", name, f"no answer to {mark['failed']} of {mark['onto'] + mark['covered']} pictures made so")
    order = {n: i for i, n in enumerate(seen.read)}
    for row in rows.values():
        row["pictures"] = sorted(dict.fromkeys(row["pictures"]), key=lambda n: order[n])
    return list(rows.values())


def failures(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """The model has no answer to a picture, or something that was to be measured could not be."""
    failed, read = facts["data"]["failed"], len(facts["pictures"]) + len(facts["data"]["failed"])
    if failed:
        labelled = sum(line["label"] is not None for line in failed)
        counted = f" The {labelled} with a label count as wrong answers." if labelled else ""
        yield finding(
            "no-answer",
            SERIOUS,
            96 + len(failed) / read,
            f"The model has no answer to {len(failed)} of {read} pictures",
            f"These pictures could be read, and the model fails on them ('{failed[0]['name']}': {failed[0]['why']}).{counted}",
            "Check the preprocessing; if that is right, the model is not fit for such pictures.",
            [line["name"] for line in failed],
        )
    for what, rows in _together(facts["lost"]).items():
        names = list(dict.fromkeys(n for row in rows for n in row["pictures"]))
        count = f"{len(names)} of {read} pictures"
        methods = " and ".join(dict.fromkeys(row["method"] for row in rows))
        yield finding(
            f"lost-{what.replace(' ', '-')}",
            SERIOUS if what in GRAVE else WARNING,
            55 + len(names) / read,
            TITLES.get(what, f"{what} could not be measured on {{count}} ({{method}})").format(count=count, method=methods),
            f"'{rows[0]['pictures'][0]}': {rows[0]['why']}",
            "What is said of the others says nothing about these. Look at them first: they may have something in common.",
            names,
        )


def _together(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["what"], []).append(row)
    return found
