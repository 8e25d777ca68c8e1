"""Quantiles that merge: counts of values in bins whose width grows with the value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STEPS = 64
"""Bins from a power of two to the next. A bin's middle is within 1/128 of every value in it."""

LOWEST = -1074
"""Exponent of the smallest float64."""

LAST = (1024 - LOWEST + 1) * STEPS
"""No key is larger."""

RELATIVE_ERROR = 0.01


@dataclass(frozen=True, eq=False)
class Histogram:
    """``counts`` int64 [k] of the values in the bins ``keys`` int32 [k], in order; the order of keys is that of values.

    A value x = +-m 2^e with 1/2 <= m < 1 has the key +-(1 + 64 (e + 1074) + floor(64 (2 m - 1))), zero has the key 0. This is DDSketch
    (Masson, Rim & Lee 2019) with the logarithm replaced by straight lines between powers of two, which no library rounds differently;
    all bins are kept. Counts are whole numbers: merging is exact, in any order.
    """

    keys: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Histogram:
        """The histogram of finite float64 values [n]."""
        mantissas, exponents = np.frexp(np.abs(values))
        steps = np.floor((2 * mantissas - 1) * STEPS).astype(np.int32)
        keys = np.where(values == 0, 0, np.sign(values).astype(np.int32) * (1 + STEPS * (exponents - LOWEST) + steps))
        found, counts = np.unique(keys.astype(np.int32), return_counts=True)
        return cls(found, counts.astype(np.int64))

    def __add__(self, other: Histogram) -> Histogram:
        keys, places = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return Histogram(keys, counts)

    def quantile(self, q: float) -> float:
        """The q-quantile, q from 0 to 1, as ``numpy.quantile`` interpolates it: between the values of ranks floor and ceil of q (n - 1).

        Each of the two is within 1 % of the true one (of normal numbers: from 2.3e-308 on), hence the quantile too where both have one
        sign. NaN where there are no values.
        """
        if not len(self.keys):
            return math.nan
        ends = np.cumsum(self.counts)
        rank = q * float(ends[-1] - 1)
        below, above = (_middle(int(self.keys[np.searchsorted(ends, r, side="right")])) for r in (math.floor(rank), math.ceil(rank)))
        share = rank - math.floor(rank)
        return below if below == above else below * (1 - share) + above * share


def _middle(key: int) -> float:
    """The middle of a bin."""
    octave, step = divmod(abs(key) - 1, STEPS)
    middle = math.ldexp(0.5 + (step + 0.5) / (2 * STEPS), octave + LOWEST) if key else 0.0
    return math.copysign(middle, key)
