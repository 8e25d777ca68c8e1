"""Means with their uncertainty, and paired differences. Samples without a value are counted, never averaged away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.runtime.libraries import library

_AT_ONCE = 5_000_000
"""Resampled values held at a time."""


@dataclass(frozen=True)
class Summary:
    """Mean of ``n`` samples with its bootstrap confidence interval [low, high]; ``excluded`` samples were flagged and have no value."""

    mean: float
    low: float
    high: float
    n: int
    excluded: int
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {k: getattr(self, k) for k in ("mean", "low", "high", "n", "excluded")}

    def __str__(self) -> str:
        left_out = f", {self.excluded} without a value" if self.excluded else ""
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n}{left_out})"


def summarise(values: np.ndarray | Sequence[float], confidence: float = 0.95, resamples: int = 9999, seed: int = 0) -> Summary:
    """Mean and percentile bootstrap interval of values [N]; NaN marks a flagged sample, which is counted as excluded.

    The interval is NaN below two samples. Raises ``InputError`` for infinite values. Efron 1979 (scipy.stats.bootstrap).
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or np.isinf(array).any():
        raise InputError(f"values of shape {list(array.shape)} cannot be summarised: give one finite number (or NaN) for each sample.")
    kept = array[~np.isnan(array)]
    mean = float(kept.mean()) if len(kept) else float("nan")
    low, high = _interval(kept, confidence, resamples, seed)
    return Summary(mean, low, high, len(kept), len(array) - len(kept), confidence)


def paired(
    first: np.ndarray | Sequence[float],
    second: np.ndarray | Sequence[float],
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Summary:
    """Summary of ``first - second`` [N] sample by sample, over the samples that have both values."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InputError(f"paired values must belong to the same samples; shapes {list(a.shape)} and {list(b.shape)} differ.")
    return summarise(a - b, confidence, resamples, seed)


def _interval(values: np.ndarray, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), float("nan")
    if (values == values[0]).all():
        return float(values[0]), float(values[0])
    found = library("scipy.stats").bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
