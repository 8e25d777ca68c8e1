"""What is kept of one column of numbers, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from onnxsal.errors import InputError
from onnxsal.fleet.bootstrap import interval
from onnxsal.fleet.exact import FixedSums, moments, root
from onnxsal.fleet.histogram import Histogram

WORST = 8
"""Smallest and largest values that are kept with their rows."""


@dataclass(frozen=True, eq=False)
class ColumnSums:
    """The mergeable state of a column over some rows.

    ``n`` rows have a value, ``missing`` none; ``total`` and ``squares`` are the sums of values and of their squares, ``lowest`` and
    ``highest`` the first eight (value, id) from either end; ``resampled`` [B] the weighted sums of values, ``absent`` int64 [B] the
    weights of the rows without a value.
    """

    n: int
    missing: int
    total: Fraction
    squares: Fraction
    lowest: tuple[tuple[float, str], ...]
    highest: tuple[tuple[float, str], ...]
    histogram: Histogram
    resampled: FixedSums
    absent: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, ids: Sequence[str], resampled: FixedSums, absent: np.ndarray) -> ColumnSums:
        """The state of values float64 [n], those that are not finite counted as missing; the other two as ``bootstrap`` made them."""
        places = np.flatnonzero(np.isfinite(values))
        kept = values[places] + 0.0  # no zero has a sign: a tie is a tie
        total, squares = moments(kept)
        ends = [tuple((sign * v + 0.0, i) for v, i in _first(sign * kept, places, ids)) for sign in (1, -1)]
        missing = len(values) - len(kept)
        return cls(len(kept), missing, total, squares, ends[0], ends[1], Histogram.of(kept), resampled.rounded(), absent)

    def __add__(self, other: ColumnSums) -> ColumnSums:
        return ColumnSums(
            self.n + other.n,
            self.missing + other.missing,
            self.total + other.total,
            self.squares + other.squares,
            tuple(sorted(self.lowest + other.lowest)[:WORST]),
            tuple(sorted(self.highest + other.highest, key=from_above)[:WORST]),
            self.histogram + other.histogram,
            self.resampled + other.resampled,
            self.absent + other.absent,
        )

    @property
    def mean(self) -> Fraction | None:
        """The mean without rounding."""
        return self.total / self.n if self.n else None

    def resamples(self, weights: np.ndarray) -> np.ndarray:
        """Resampled means [B], from the ``weights`` [B] of all rows; NaN where no row with a value was drawn."""
        return self.resampled.over(weights - self.absent)

    def interval(self, weights: np.ndarray) -> tuple[float, float]:
        """The interval of the mean; NaN below two values."""
        if self.n < 2:
            return math.nan, math.nan
        if self.lowest[0][0] == self.highest[0][0]:
            return self.lowest[0][0], self.lowest[0][0]
        return interval(self.resamples(weights))


def from_above(pair: tuple[float, str]) -> tuple[float, str]:
    """Sorts (value, id) from the largest value down, and by id where values are the same."""
    return -pair[0], pair[1]


def _first(values: np.ndarray, places: np.ndarray, ids: Sequence[str]) -> list[tuple[float, str]]:
    """The first eight (value, id) in order."""
    if len(values) > WORST:
        close = values <= np.partition(values, WORST - 1)[WORST - 1]
        values, places = values[close], places[close]
    return sorted((v, ids[p]) for v, p in zip(values.tolist(), places.tolist(), strict=True))[:WORST]


@dataclass(frozen=True)
class ColumnSummary:
    """A column: ``n`` rows with a value and ``missing`` without, its ``mean`` with the 95 % percentile bootstrap interval [``low``,
    ``high``] (NaN below two values), ``std`` = sqrt(mean of (x - mean)^2), the smallest and the largest value with the row's id, and the
    eight ``lowest`` and ``highest`` as (value, id). Mean and std are those of exact sums, rounded once.
    """

    n: int
    missing: int
    mean: float
    std: float
    low: float
    high: float
    lowest: tuple[tuple[float, str], ...]
    highest: tuple[tuple[float, str], ...]
    histogram: Histogram

    @classmethod
    def of(cls, column: ColumnSums, weights: np.ndarray) -> ColumnSummary:
        """The summary of a state; ``weights`` int64 [B] of all rows."""
        mean = column.mean
        std = math.nan if mean is None else root(column.squares / column.n - mean * mean)
        low, high = column.interval(weights)
        about = (math.nan if mean is None else float(mean), std, low, high)
        return cls(column.n, column.missing, *about, column.lowest, column.highest, column.histogram)

    @property
    def min(self) -> float:
        """The smallest value; NaN where there is none."""
        return self.lowest[0][0] if self.lowest else math.nan

    @property
    def min_id(self) -> str:
        """The row of the smallest value, of several the first by id; '' where there is none."""
        return self.lowest[0][1] if self.lowest else ""

    @property
    def max(self) -> float:
        """The largest value; NaN where there is none."""
        return self.highest[0][0] if self.highest else math.nan

    @property
    def max_id(self) -> str:
        """The row of the largest value, of several the first by id; '' where there is none."""
        return self.highest[0][1] if self.highest else ""

    def quantile(self, q: float) -> float:
        """The q-quantile within 1 % (``Histogram.quantile``), never outside of the smallest and the largest value.

        Raises ``InputError`` for a ``q`` that is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise InputError(f"a quantile is asked for by a number from 0 to 1, not {q}.")
        if q in (0, 1) or not self.n:
            return self.max if q == 1 else self.min
        return min(max(self.histogram.quantile(q), self.min), self.max)
