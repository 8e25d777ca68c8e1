"""Orders of the pixels of a map, with a stated answer to ties."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass

import numpy as np

from onnxsal.errors import InputError, near_miss

TIES = ("random", "stable", "inclusive")

TIED_SHARE_LIMIT = 0.1


class TieWarning(UserWarning):
    """So many pixels share their value with others that the order of the pixels is largely not the map's own."""


@dataclass(frozen=True)
class Tied:
    """``distinct`` [N]: different values in each map; ``share`` [N] in [0, 1]: share of its pixels whose value others have too."""

    distinct: np.ndarray
    share: np.ndarray


def ranks(maps: np.ndarray, ties: str = "random", seed: int = 0, ascending: bool = False) -> np.ndarray:
    """Place of each pixel in the order by value: int32 [N, P] from maps [N, P], 0 = largest (smallest where ``ascending``).

    Pixel p belongs to the first k exactly if its rank is below k. ``ties``: "random" breaks them by a seed (of ``seed`` and of the
    map itself, so that a map's order does not depend on its batch); "stable" in raster order; "inclusive" gives tied pixels one
    rank, so that a threshold takes all or none of them, and the first k may be more than k pixels.
    """
    if ties not in TIES:
        raise InputError(f"ties='{ties}' is not one of {', '.join(TIES)}{near_miss(ties, TIES)}.")
    return np.stack([_ranks(row if ascending else -row, ties, seed) for row in _signed(maps)])


def _signed(maps: np.ndarray) -> np.ndarray:
    """As floating point, so that values can be negated."""
    return maps if maps.dtype.kind == "f" else maps.astype(np.float64)


def _ranks(row: np.ndarray, ties: str, seed: int) -> np.ndarray:
    """Ranks of one map, smallest first."""
    count = len(row)
    if ties == "inclusive":
        return np.searchsorted(np.sort(row), row, side="left").astype(np.int32)
    if ties == "stable":
        order = np.argsort(row, kind="stable")
    else:
        content = zlib.crc32(np.ascontiguousarray(row + 0.0).tobytes())  # + 0.0: minus zero is zero
        mixed = np.random.default_rng([seed, content]).permutation(count)
        order = mixed[np.argsort(row[mixed], kind="stable")]
    place = np.empty(count, np.int32)
    place[order] = np.arange(count, dtype=np.int32)
    return place


def tied(maps: np.ndarray, warn: bool = True) -> Tied:
    """How many distinct values maps [N, P] have, and the share of pixels that are tied; warns above 0.1."""
    counts = [np.unique(row, return_counts=True)[1] for row in maps]
    found = Tied(np.array([len(c) for c in counts]), np.array([c[c > 1].sum() / c.sum() for c in counts]))
    many = int((found.share > TIED_SHARE_LIMIT).sum())
    if warn and many:
        warnings.warn(
            f"{many} of {len(maps)} maps have more than {TIED_SHARE_LIMIT:.0%} of their pixels tied (up to {found.share.max():.0%}, "
            f"down to {found.distinct.min()} distinct values). Ties broken at random add noise but no bias; "
            "'stable' and 'inclusive' flatter such maps.",
            TieWarning,
            stacklevel=3,
        )
    return found
