"""The bootstrap of rows that no machine holds together: every row has a weight of its own in each resample."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from onnxsal.fleet.exact import AT_ONCE

RESAMPLES = 1000
"""Resamples B. The ends of an interval vary by about 2 % of its width with the draw."""

CONFIDENCE = 0.95


def _thresholds() -> np.ndarray:
    """2^32 P(w <= k) for k = 0, 1, ... while it is below 2^32: a number of 32 bits is at or above as many of them as its weight is."""
    below, found = 0.0, list[int]()
    for k in range(20):
        below += math.exp(-1) / math.factorial(k)
        found.append(round(2**32 * below))
    return np.array([t for t in found if t < 2**32], np.uint32)


def poisson_weights(seed: int, shard: str, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Weights w ~ Poisson(1), uint8 [B, m], for the rows of a shard in parts of at most 4,096.

    A bootstrap of n rows draws each Binomial(n, 1/n) times; as n grows that is Poisson(1), independent from row to row, so a shard can
    draw for itself (Hanley & MacGibbon 2006; Chamandy et al. 2012). The stream is Philox (Salmon et al. 2011) keyed by the SHA-256 of
    seed and shard. The weights are read off its bits by the distribution function: numpy's ``poisson`` may change with its version.
    """
    key = hashlib.sha256(f"{seed} {shard}".encode("utf-8", "surrogateescape")).digest()[:16]
    stream, thresholds = np.random.Philox(key=int.from_bytes(key, "little")), _thresholds()
    for begin in range(0, rows, AT_ONCE):
        count = min(AT_ONCE, rows - begin)
        bits = np.asarray(stream.random_raw(count * RESAMPLES // 2)).astype("<u8").view("<u4")
        weights = np.zeros(bits.shape, np.uint8)
        for threshold in thresholds:
            weights += bits >= threshold
        yield slice(begin, begin + count), weights.reshape(count, RESAMPLES).T


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resampled statistics [B] (Efron 1979); those that have no value (NaN) are left out."""
    kept = resampled[~np.isnan(resampled)]
    if not len(kept):
        return math.nan, math.nan
    low, high = np.quantile(kept, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
