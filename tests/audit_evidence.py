"""What an audit saw, made up: every number that its checks read can be planted, and nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.metrics.baselines import BASELINES
from onnxsal.metrics.data_kind import PICTURES, ROWS, DataKind
from onnxsal.metrics.evaluation import Evaluation, SampleResult, Way
from onnxsal.metrics.measures import ID_SCORE, MEASURES, Column, columns_of
from onnxsal.report.audit.evidence import FAITHFUL, LOCAL, Evidence, Request
from onnxsal.report.audit.notes import MAP, OTHER_MAP
from onnxsal.report.audit.observe import Seen
from onnxsal.report.audit.run import _sample
from onnxsal.runtime.shown import ShownRow

METHOD = "m"
COLUMNS = ("age", "colour", "gap", "size")
LAWFUL, LAWLESS, SUMMED = "lrp_zero", "gradient", "integrated_gradients"

AREA = 0.36
ONE = {
    "score": 1.0,
    "residual": 1e-6,
    "reached": 0.9,
    "warnings": [],
    "empty": "",
    "rim": [AREA / 2, AREA],
    "likeness": 0.5,
    "columns": [1.0, -0.5, 0.25, 0.0],
}
"""A map with which nothing is wrong."""

MEASURED = {**columns_of([MEASURES[n] for n in (*FAITHFUL, *LOCAL)]), ID_SCORE: Column(True, "insertion - deletion")}
CURVES = ("spearman", "ssim")


def planted(
    count: int = 2,
    method: str = LAWFUL,
    maps: Sequence[Mapping[str, Any]] | None = None,
    metrics: Mapping[tuple[str, str], Any] | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
    curved: int | None = None,
    labelled: bool = True,
    compared: bool = True,
    masked: bool = True,
    lost: Mapping[tuple[str, str, str], str] | None = None,
    failed: int = 0,
    refused: str = "",
    sure: float = 0.6,
    kind: DataKind = PICTURES,
) -> Evidence:
    """``count`` pictures, every second one answered rightly and as by the other model, and explained by one method under the name "m".

    ``maps`` change the map of each picture (the last one those of the rest); ``metrics`` (way, metric) -> a value, or one for each picture;
    ``curves`` are rank correlation and SSIM under random weights, of the first ``curved`` pictures; ``refused``: why another method, "n",
    cannot explain the model; ``sure``: the probability of the first answer; ``kind``: what the samples are.
    """
    names = [f"p{i}" for i in range(count)]
    ways = [Way(METHOD, method)]
    seen = Seen(names=names, lost=dict(lost or {}), refused={"n": refused} if refused else {})
    changes = [*(maps or [{}])]
    for i, name in enumerate(names):
        answer = {"sample": name, "digest": name, "label": 0 if labelled else None, "top": [[0, sure], [1, 1 - sure]]}
        told = {"right": i % 2 == 0, "right5": True, "label_score": sure} if labelled else {}
        seen.base[name] = {**answer, **told, "size": [8, 8], "picture": ""}
        one = {**ONE, **changes[min(i, len(changes) - 1)]}
        parts = [(MAP, seen.maps)]
        if compared:
            seen.other[name] = {**answer, **told, "top": [[i % 2, sure], [1 - i % 2, 1 - sure]]}
            parts.append((OTHER_MAP, seen.other_maps))
        for part, lines in parts:
            if (part, METHOD, name) not in seen.lost:
                lines[METHOD, name] = {**one, "cells": [1 / 16] * 16, "picture": "", "target": 0}
    seen.failed = {f"f{i}": {"label": 0, "why": "NaN"} for i in range(failed)}
    faithful = _evaluation(names, ways, metrics or {}, [*BASELINES] if kind is PICTURES else [*BASELINES][:1])
    told_curves = {"spearman": [0.9, 0.5], "ssim": [0.9, 0.5]} if curves is None else curves
    random = _randomised(names[: count if curved is None else curved], names, told_curves)
    other: Any = SimpleNamespace(name="other.onnx") if compared else None
    request = Request(Ask(b""), "", [*ways, *([Way("n", method)] if refused else [])], against=Ask(b"") if compared else None)
    data: Any = SimpleNamespace(masked=count if masked else 0, names=names, kind=kind)
    table = {n: ShownRow(COLUMNS, (1.0, "red", None, 2.0)) for n in names}
    rows = SimpleNamespace(shown=table, rows=SimpleNamespace(shown=[*table.values()])) if kind is ROWS else None
    own: Any = SimpleNamespace(whole=Ask("own.onnx"), name="own.onnx", rows=rows)
    pictures = [_sample(n, own, seen, ways, faithful) for n in names]
    return Evidence(request, own, other, data, seen, ways, faithful, random, pictures, lambda what, make: make())


def _evaluation(names: Sequence[str], ways: Sequence[Way], metrics: Mapping[tuple[str, str], Any], baselines: Sequence[str]) -> Evaluation:
    every = (*ways, *(Way(n) for n in baselines))
    values = {(w.name, c): np.broadcast_to(metrics.get((w.name, c), 0.5), len(names)) for w in every for c in MEASURED}
    rows = {
        (w.name, n): SampleResult(w.name, n, 0, None, {c: float(values[w.name, c][i]) for c in MEASURED}, {}, {}, 9, 0.0)
        for w in every
        for i, n in enumerate(names)
    }
    return Evaluation(every, dict(MEASURED), tuple(names), rows, {}, {}, {})


def _randomised(curved: Sequence[str], names: Sequence[str], curves: Mapping[str, Sequence[float]]) -> Evaluation:
    told = {f"randomised_{k}": (np.arange(len(v)), np.array(v)) for k, v in curves.items() if len(v)}
    rows = {(METHOD, n): SampleResult(METHOD, n, 0, None, {}, told, {}, 9, 0.0) for n in curved}
    columns = MEASURES["model_randomization"].columns
    return Evaluation((Way(METHOD, LAWFUL),), dict(columns), tuple(names), rows, {}, {}, {})
