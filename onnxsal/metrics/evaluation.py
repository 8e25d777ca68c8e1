"""What an evaluation found: numbers per way and sample, their means with intervals, their differences, their mean curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.display import Displayed, Panel
from onnxsal.engine.method import Method
from onnxsal.metrics.data_kind import PICTURES, DataKind
from onnxsal.metrics.measure import Column
from onnxsal.metrics.statistics import Summary, paired, summarise

RESAMPLES = 1999


@dataclass(frozen=True)
class Way:
    """A way to make maps: a method with parameters, or (without a method) one of the baselines, under the name it has in the table."""

    name: str
    method: str | Path | Method | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> bool:
        """Whether no model makes these maps."""
        return self.method is None


@dataclass(frozen=True)
class SampleResult:
    """What was found with one way on one sample; a column that is missing or NaN has a reason in ``flags`` (metric -> words)."""

    way: str
    sample: str
    target: int
    label: int | None
    values: dict[str, float]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    flags: dict[str, str]
    distinct: int
    tied: float


@dataclass(frozen=True, repr=False)
class Evaluation(Displayed):
    """Everything that ``evaluate`` found. ``refused`` way -> why, ``damaged`` sample -> why, ``facts`` the settings; ``lost`` (way, sample)
    -> metric -> why: the model, or a map of it, fails on a sample that was read, or on what the metric makes of it. ``kind``: of the data.
    """

    ways: tuple[Way, ...]
    columns: dict[str, Column]
    samples: tuple[str, ...]
    rows: dict[tuple[str, str], SampleResult]
    refused: dict[str, str]
    damaged: dict[str, str]
    facts: dict[str, Any]
    seed: int = 0
    lost: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    kind: DataKind = PICTURES

    def _panel(self) -> Panel:
        own, measured = [w for w in self.ways if not w.baseline], [c for c in self.columns if any(self.has(w.name, c) for w in self.ways)]
        rows = [
            (w.name if w in own else f"({w.name})", *(self._mean(w.name, column) for column in measured)) for w in (*own, *self._baselines)
        ]
        told = [f"{way} refused: {why}" for way, why in self.refused.items()]
        told += [f"left out: {sample}: {why}" for sample, why in self.damaged.items()]
        told += [f"{len({s for _, s in self.lost})} sample(s) lack a value: the model, or a map of it, fails there"] if self.lost else []
        title = f"Evaluation of {len(own)} method(s) and {len(self._baselines)} baseline(s) on {len(self.samples)} sample(s)"
        directions = [f"{c}: {self.columns[c].title}{_better(self.columns[c].larger)}" for c in measured]
        return Panel(title, directions, ("mean of", *measured), rows, told)

    @property
    def _baselines(self) -> list[Way]:
        return [w for w in self.ways if w.baseline]

    def _mean(self, way: str, column: str) -> str:
        values = self.values(way, column)
        return "" if np.isnan(values).all() else f"{np.nanmean(values):.4g}"

    def values(self, way: str, column: str) -> np.ndarray:
        """One column of one way, [N] in the order of ``samples``; NaN where a sample has no value."""
        return np.array([self._value(way, s, column) for s in self.samples], np.float64)

    def _value(self, way: str, sample: str, column: str) -> float:
        row = self.rows.get((way, sample))
        return np.nan if row is None else row.values.get(column, np.nan)

    def has(self, way: str, column: str) -> bool:
        """Whether a way was measured so at all (a map that no model made has no law, for instance)."""
        return any(column in row.values for row in self._of(way))

    def _of(self, way: str) -> Iterator[SampleResult]:
        return (self.rows[way, s] for s in self.samples if (way, s) in self.rows)

    def summary(self, way: str, column: str) -> Summary:
        """Mean, bootstrap confidence interval and n."""
        return summarise(self.values(way, column), resamples=RESAMPLES, seed=self.seed)

    def difference(self, first: str, second: str, column: str) -> Summary:
        """The same of ``first - second``, sample by sample."""
        return paired(self.values(first, column), self.values(second, column), resamples=RESAMPLES, seed=self.seed)

    def best_baseline(self, column: str) -> str | None:
        """The baseline with the best mean, or ``None`` where none is measured so or no direction is better."""
        larger = self.columns[column].larger
        means = {w.name: float(np.nanmean(v)) for w in self.ways if w.baseline and not np.isnan(v := self.values(w.name, column)).all()}
        if larger is None or not means:
            return None
        return (max if larger else min)(means, key=lambda name: means[name])

    def reasons(self, way: str) -> dict[str, int]:
        """Why samples have no value, "metric: words" -> how many."""
        found: dict[str, int] = {}
        for row in self._of(way):
            for metric, words in row.flags.items():
                found[f"{metric}: {words}"] = found.get(f"{metric}: {words}", 0) + 1
        return found

    def ties(self, way: str) -> tuple[float, float]:
        """Mean share of tied pixels, and mean number of distinct values, of the maps."""
        rows = list(self._of(way))
        return (float(np.mean([r.tied for r in rows])), float(np.mean([r.distinct for r in rows]))) if rows else (np.nan, np.nan)

    def curve(self, way: str, name: str) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Axis [K], mean [K] and n of a curve over the samples that have it; on a common axis where pictures differ in size."""
        found = [c for row in self._of(way) if (c := row.curves.get(name)) is not None and not np.isnan(c[1]).any()]
        if not found:
            return None
        axis = found[0][0]
        if any(len(a) != len(axis) or (a != axis).any() for a, _ in found):
            axis = np.linspace(max(a[0] for a, _ in found), min(a[-1] for a, _ in found), 101)
        return axis, np.mean([np.interp(axis, a, v) for a, v in found], axis=0), len(found)

    @property
    def curves(self) -> list[str]:
        """The names of the curves there are."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row.curves))


def _better(larger: bool | None) -> str:
    return "" if larger is None else f" ({'larger' if larger else 'smaller'} is better)"
