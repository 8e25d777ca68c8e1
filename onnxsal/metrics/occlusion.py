"""The windows under which pictures are hidden: where they lie, and what a map says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.metrics.curve import SCORES

LEAST_WINDOWS = 30
"""Fewer are too few to correlate."""


class OcclusionOptions(TypedDict, total=False):
    """The fields of ``OcclusionSettings``, as keywords."""

    window: int | Sequence[int] | None
    stride: int | Sequence[int] | None
    substrate: str
    score: str
    absolute: bool | None
    black: np.ndarray | float | None
    drop: np.ndarray | None


@dataclass(frozen=True)
class OcclusionSettings:
    """What ``occlusion_correlation`` can be told; the words are its own. Raises ``InputError`` for a score that is not known."""

    window: int | Sequence[int] | None = None
    stride: int | Sequence[int] | None = None
    substrate: str = "mean"
    score: str = "logit"
    absolute: bool | None = None
    black: np.ndarray | float | None = None
    drop: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise InputError(f"score '{self.score}' is not one of {', '.join(SCORES)}{near_miss(self.score, SCORES)}.")

    def over(self, shape: tuple[int, ...]) -> WindowGrid:
        """The windows over pictures of ``shape`` (H, W). Raises ``InputError`` where they are fewer than 30."""
        sizes, strides = (_both(given, min(shape), share) for given, share in ((self.window, 15 / 224), (self.stride, 8 / 224)))
        firsts = [np.r_[np.arange(0, max(s - w, 0), t), max(s - w, 0)] for s, w, t in zip(shape, sizes, strides, strict=True)]
        corners = np.stack(np.meshgrid(*firsts, indexing="ij"), -1).reshape(-1, 2)
        if len(corners) < LEAST_WINDOWS:
            what = f"{len(corners)} windows of {' x '.join(map(str, sizes))} pixels"
            raise InputError(f"{what} are too few to correlate: take a smaller window or stride, for {LEAST_WINDOWS} at least.")
        down, across = (_covered(f, s, w).astype(np.float64) for f, s, w in zip(firsts, shape, sizes, strict=True))
        return WindowGrid(corners, down, across)


@dataclass(frozen=True)
class WindowGrid:
    """R windows: ``corners`` [R, 2] are their first pixels; ``down`` [r, H] and ``across`` [c, W], 1 where a row of windows covers a
    row of pixels, and a column a column; R = r c.
    """

    corners: np.ndarray
    down: np.ndarray
    across: np.ndarray

    @property
    def hidden(self) -> np.ndarray:
        """Which pixels each window covers, bool [R, H W]."""
        return np.einsum("ry,cx->rcyx", self.down > 0, self.across > 0).reshape(len(self.corners), -1)

    def means(self, maps: np.ndarray) -> np.ndarray:
        """The mean of maps [N, H W] in each window, [N, R]."""
        whole = maps.reshape(len(maps), self.down.shape[1], self.across.shape[1])
        found = self.down @ whole @ self.across.T / np.outer(self.down.sum(1), self.across.sum(1))
        return np.asarray(found.reshape(len(maps), -1))


def _both(given: int | Sequence[int] | None, side: int, share: float) -> tuple[int, ...]:
    """Pixels of height and width: those given, else a share of the shorter side."""
    if isinstance(given, Sequence):
        return tuple(given)
    return (given or max(1, round(side * share)),) * 2


def _covered(first: np.ndarray, size: int, window: int) -> np.ndarray:
    """Which pixels of an axis the windows that begin at ``first`` cover: bool [R, size]."""
    pixels = np.arange(size)
    return np.asarray((pixels >= first[:, None]) & (pixels < first[:, None] + window))
