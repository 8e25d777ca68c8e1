"""The audit as one page that needs nothing but a browser, and as JSON."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from onnxsal.metrics.evaluation import Evaluation
from onnxsal.metrics.measures import axes_of_curves
from onnxsal.metrics.ranking import TIED_SHARE_LIMIT
from onnxsal.report.audit import Audit
from onnxsal.report.audit_findings_maps import SAME
from onnxsal.report.charts import line_chart
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.providers import as_text

TEMPLATE = "audit.html.j2"

NONE = "\u2013"
"""What stands for a number that is not there."""

FIGURES = ("insertion", "deletion", "randomised_spearman")
"""Curves that the page shows."""


def save_audit(found: Audit, page: Path) -> dict[str, str]:
    """Write the page and, beside it, the JSON; returns both paths."""
    html = render(found)
    text = json.dumps(found.facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return {
        "page": str(write_whole(page, html.encode())),
        "json": str(write_whole(page.with_suffix(".json"), text.encode())),
    }


def schema() -> dict[str, Any]:
    """The JSON schema that the JSON of an audit follows."""
    return dict(json.loads(importlib.resources.files("onnxsal.report").joinpath("audit.schema.json").read_text(encoding="utf-8")))


def render(found: Audit) -> str:
    """The page. Everything that comes from files (names, labels, metadata) is escaped."""
    facts = found.facts
    environment = Environment(
        loader=PackageLoader("onnxsal", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": lambda v: NONE if v is None else f"{100 * v:.1f} %", "called": called}
    source = environment.loader
    assert source is not None
    parts = {name: Markup(source.get_source(environment, f"audit.{name}")[0]) for name in ("css", "js")}
    methods = [m["name"] for m in facts["methods"] if not m["refused"]]
    weight = sum(map(len, (*found.pictures.values(), *found.maps.values(), *found.other_maps.values())))
    return environment.get_template(TEMPLATE).render(
        facts=facts,
        shown=methods,
        pictures=found.pictures,
        shown_at={p["name"]: i for i, p in enumerate(facts["pictures"])},
        maps=found.maps,
        other_maps=found.other_maps,
        figures=figures(found.evaluations),
        classes=_classes(facts),
        changed=_changed(facts),
        table=_table(facts),
        tied=tied_methods(facts),
        same=SAME,
        told_providers=as_text(facts["model"]["providers"], facts["model"]["provider_options"]),
        weight=weight / max(len(found.pictures), 1) / 1024,
        **parts,
    )


def number(value: Any) -> str:
    """A number as people read it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def called(entry: Any) -> str:
    """A class by its label, or by its number."""
    if entry is None:
        return NONE
    return f"class {entry['class']}" if not entry["label"] else str(entry["label"]).split(",")[0]


def figures(evaluations: tuple[Evaluation, ...]) -> list[dict[str, str]]:
    """Curves as pictures, with the text that stands for each where it cannot be seen."""
    words = axes_of_curves()
    told = []
    for found in evaluations:
        for name in (n for n in FIGURES if n in found.curves):
            curves = {w.name: c for w in found.ways if (c := found.curve(w.name, name)) is not None}
            if not curves:
                continue
            count = max(c[2] for c in curves.values())
            title = f"{name.replace('_', ' ')}, mean of {count} pictures"
            across, up = words[name].across, words[name].up.format(**found.facts["settings"])
            lines = {k: (a, m) for k, (a, m, _) in curves.items()}
            image = line_chart(lines, title, across, up, [w.name for w in found.ways if w.baseline], words[name].log)
            ends = "; ".join(f"{k} from {m[0]:.2f} to {m[-1]:.2f}" for k, (_, m, _) in curves.items())
            told.append(
                {
                    "title": title,
                    "uri": _uri(image),
                    "alt": f"Lines over {across}: {ends}.",
                    "width": str(image.width),
                    "height": str(image.height),
                }
            )
    return told


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _classes(facts: dict[str, Any]) -> list[tuple[int, str, int]]:
    """Predicted classes: number, name, how many pictures."""
    counted: dict[int, list[Any]] = {}
    for picture in facts["pictures"]:
        first = picture["predicted"][0]
        counted.setdefault(first["class"], [called(first), 0])[1] += 1
    return sorted(((k, v[0], v[1]) for k, v in counted.items()), key=lambda row: (row[1], row[0]))


def _changed(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Pictures by how much their reasons changed, most first."""
    pairs = [p for p in facts["pictures"] if p["against"] and p["against"]["mean_likeness"] is not None]
    return sorted(pairs, key=lambda p: p["against"]["mean_likeness"])


def tied_methods(facts: dict[str, Any]) -> dict[str, float]:
    """Methods many of whose pixels are tied, with the mean share of them."""
    shares: dict[str, list[float]] = {}
    for picture in facts["pictures"]:
        for name, one in picture["maps"].items():
            if one["tied"] is not None:
                shares.setdefault(name, []).append(one["tied"])
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    return {name: mean for name, mean in means.items() if mean > TIED_SHARE_LIMIT}


def _table(facts: dict[str, Any]) -> dict[str, Any]:
    """Metrics as a table: columns, and for every method a cell each."""
    columns = list(dict.fromkeys(r["metric"] for r in facts["metrics"] if r["mean"] is not None))
    rows: dict[str, dict[str, Any]] = {}
    for row in facts["metrics"]:
        if row["mean"] is not None:
            rows.setdefault(row["method"], {})[row["metric"]] = row
    heads = {r["metric"]: r for r in facts["metrics"]}
    own = {m["name"] for m in facts["methods"]}
    return {"columns": [heads[c] for c in columns], "rows": [{"method": k, "baseline": k not in own, "cells": v} for k, v in rows.items()]}
