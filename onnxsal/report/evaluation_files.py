"""What an evaluation leaves behind: the numbers of every sample, their means and differences, and curves as pictures."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.disk import WRITTEN, hashes_in, refuse_loss, sha256
from onnxsal.metrics.evaluation import Evaluation
from onnxsal.metrics.measures import axes_of_curves
from onnxsal.metrics.statistics import Summary
from onnxsal.report.artefacts import as_json
from onnxsal.report.charts import line_chart
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.pictures import save_picture
from onnxsal.untrusted import inert_cell, whole_text

Rows = list[dict[str, Any]]

FACTS = "evaluation.json"
LISTED = ("summary.csv", "differences.csv", "samples.csv", "curves.csv", "samples.parquet")
"""Files whose hashes stand in ``FACTS``, since they cannot say whose they are."""


def refuse_lost(folder: Path) -> None:
    """Say before the work, not after it, that an evaluation would replace files of others. Raises ``OutputError``."""
    refuse_loss(folder / FACTS)
    for name in LISTED:
        refuse_loss(folder / name, folder / FACTS)


def save_evaluation(found: Evaluation, folder: Path) -> dict[str, Any]:
    """Write samples.csv (and .parquet where pyarrow is installed), summary.csv, differences.csv, curves.csv, a picture of each curve and
    evaluation.json; returns what the last one holds.
    """
    means, differences, samples = summary_table(found), difference_table(found), sample_table(found)
    tables = {"summary": means, "differences": differences, "samples": samples, "curves": _curve_table(found)}
    contents = {f"{name}.csv": as_csv(rows) for name, rows in tables.items() if rows}
    parquet = _parquet(samples)
    if parquet is not None:
        contents["samples.parquet"] = parquet
    charts = _charts(found)
    for name in (FACTS, *(f"{chart}.png" for chart in charts)):
        refuse_loss(folder / name)
    for name, content in contents.items():
        refuse_loss(folder / name, folder / FACTS, content)
    files = {Path(name).stem if name.endswith(".csv") else "samples_parquet": str(folder / name) for name in contents}
    files |= {name: str(folder / f"{name}.png") for name in charts}
    files["json"] = str(folder / FACTS)
    ways = [
        {
            "name": w.name,
            "baseline": w.baseline,
            "parameters": w.parameters,
            "tied": found.ties(w.name)[0],
            "distinct": found.ties(w.name)[1],
            "without_value": found.reasons(w.name),
        }
        for w in found.ways
    ]
    facts = {**found.facts, "ways": ways, "refused": found.refused, "damaged": found.damaged}
    facts["lost"] = [{"method": way, "sample": name, "why": why} for (way, name), why in found.lost.items()]
    facts |= {"metrics": {k: {"better": better(found, k), "title": c.title} for k, c in found.columns.items()}}
    facts |= {"summary": means, "differences": differences, "files": files}
    hashes, before = {name: sha256(content) for name, content in contents.items()}, hashes_in(folder / FACTS)
    # both first: a run that is cut short here finds its files again, the old and the new
    facts[WRITTEN] = {name: f"{before.get(name, '')} {new}".strip() for name, new in hashes.items()}
    write_whole(files["json"], (as_json(facts) + "\n").encode())
    for name, content in contents.items():
        write_whole(folder / name, content, folder / FACTS)
    for name, chart in charts.items():
        save_picture(chart, files[name])
    facts[WRITTEN] = hashes
    write_whole(files["json"], (as_json(facts) + "\n").encode())
    return facts


def better(found: Evaluation, column: str) -> str:
    """Which direction is better, in a word."""
    return {True: "larger", False: "smaller", None: "neither"}[found.columns[column].larger]


def summary_table(found: Evaluation) -> Rows:
    """Mean, interval and n of every way by every metric, and its difference to the best baseline."""
    rows = []
    for column in found.columns:
        base = found.best_baseline(column)
        for way in found.ways:
            if not found.has(way.name, column):
                continue
            row = {"metric": column, "better": better(found, column), "method": way.name, **_numbers(found.summary(way.name, column))}
            over = None if base in (None, way.name) else found.difference(way.name, str(base), column)
            gap = (
                {}
                if over is None
                else {"over": base, **{f"over_{k}": v for k, v in _numbers(over).items() if k in ("mean", "low", "high")}}
            )
            rows.append({**row, **{k: gap.get(k) for k in ("over", "over_mean", "over_low", "over_high")}})
    return rows


def difference_table(found: Evaluation) -> Rows:
    """First - second, sample by sample, of every pair of ways by every metric."""
    rows = []
    for column in found.columns:
        names = [w.name for w in found.ways if found.has(w.name, column)]
        for first, second in combinations(names, 2):
            rows.append({"metric": column, "first": first, "second": second, **_numbers(found.difference(first, second, column))})
    return rows


def sample_table(found: Evaluation) -> Rows:
    """One row for each way and sample."""
    rows = []
    for way in found.ways:
        for sample in found.samples:
            row = found.rows.get((way.name, sample))
            if row is not None:
                head = {"method": way.name, "sample": sample, "target": row.target, "label": row.label}
                flags = "; ".join(f"{k}: {v}" for k, v in row.flags.items())
                values = {c: row.values.get(c) for c in found.columns}
                rows.append({**head, **values, "distinct": row.distinct, "tied": row.tied, "flags": flags})
    return rows


def _numbers(summary: Summary) -> dict[str, Any]:
    return {k: getattr(summary, k) for k in ("mean", "low", "high", "n", "excluded")}


def _curve_table(found: Evaluation) -> Rows:
    rows = []
    for name in found.curves:
        for way in found.ways:
            curve = found.curve(way.name, name)
            if curve is not None:
                axis, mean, n = curve
                rows += [
                    {"curve": name, "method": way.name, "at": float(a), "mean": float(m), "n": n} for a, m in zip(axis, mean, strict=True)
                ]
    return rows


def _charts(found: Evaluation) -> dict[str, Any]:
    words, charts = axes_of_curves(found.kind), {}
    for name in found.curves:
        curves = {w.name: c for w in found.ways if (c := found.curve(w.name, name)) is not None}
        if not curves:
            continue
        n = max(c[2] for c in curves.values())
        axes = words[name]
        title = f"{name.replace('_', ' ')}, mean of {n} sample{'s' if n > 1 else ''}"
        lines = {way: (axis, mean) for way, (axis, mean, _) in curves.items()}
        dotted = [w.name for w in found.ways if w.baseline]
        charts[name] = line_chart(lines, title, axes.across, axes.up.format(**found.facts["settings"]), dotted, axes.log)
    return charts


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows of one kind as CSV, in UTF-8, whose cells and names no spreadsheet calculates."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([inert_cell(str(name)) for name in rows[0]])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Numbers in full, no number as an empty cell; texts so that no spreadsheet calculates them."""
    if isinstance(value, float):
        return "" if np.isnan(value) else repr(float(value))
    return "" if value is None else inert_cell(value) if isinstance(value, str) else value


def _whole(value: Any) -> Any:
    return whole_text(value) if isinstance(value, str) else value


TYPES = {"method": "string", "sample": "string", "flags": "string", "target": "int64", "label": "int64", "distinct": "int64"}
"""Columns of the samples that are no measured numbers."""


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """The same columns and types whatever was found; no number is null."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
    if not rows:
        return None
    columns = {
        name: arrow.array([_whole(r[name]) for r in rows], TYPES.get(name, "float64"), from_pandas=True)  # from_pandas: NaN is null
        for name in rows[0]
    }
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns), buffer)
    return buffer.getvalue()
