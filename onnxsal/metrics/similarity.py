"""How alike two maps are: rank correlation, structural similarity, correlation of their edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.explanation import Explanation
from onnxsal.metrics.input_places import InputPlaces, Maps, chosen_map, constant, flagged, sized_map
from onnxsal.runtime.libraries import library

SSIM_SIDE = 11
"""SSIM's Gaussian window of sigma 1.5 covers 11 x 11 pixels; smaller maps have no SSIM."""

CLIP = 99
"""Percentile that maps are clipped at before they are compared as pictures, so that single pixels do not set the scale."""


@dataclass(frozen=True)
class Similarity:
    """Likeness of two maps of each sample, [N] each, all in [-1, 1], 1 = the same.

    ``spearman`` of the signed maps, ``spearman_abs`` of their sizes; of the sizes as pictures ``ssim`` and the correlation of their edges,
    ``hog_spearman`` and ``hog_pearson``. All but the first are NaN where ``flags`` [N] say why, the first where one signed map is
    constant; ssim below 11 x 11 pixels or off pictures.
    """

    spearman: np.ndarray
    spearman_abs: np.ndarray
    ssim: np.ndarray
    hog_spearman: np.ndarray
    hog_pearson: np.ndarray
    flags: tuple[str, ...]


def similarity(first: Maps, second: Maps, places: InputPlaces) -> Similarity:
    """Compare explanations, attributions [N, ...] or maps [N, H, W] of the same samples, as Adebayo et al. 2018 (arXiv 1810.03292) do.

    Signed maps are sums over channels, sizes sums of absolute values; of an ``Explanation`` whose method makes a map of its own (FullGrad,
    Grad-CAM), that map is compared, for it is what people look at. As pictures, sizes are clipped at their 99th percentile and
    scaled to [0, 1]: SSIM with Gaussian weights and data range 1; histograms of oriented gradients with cells of 16 x 16 pixels
    (a third of the shorter side below 48), compared by Spearman as their code does and by Pearson as their paper says. Ties have
    their mean rank.
    """
    signed = [places.pooled(chosen_map(m, signed=True).astype(np.float64)) for m in (first, second)]
    sizes = [places.pooled(np.abs(_sized(m).astype(np.float64))) for m in (first, second)]
    flags = flagged(*((constant(m), f"the {which} map is constant") for m, which in zip(sizes, ("first", "second"), strict=True)))
    found = np.full((5, len(flags)), np.nan)
    for i, flag in enumerate(flags):
        found[0, i] = spearman(signed[0][i], signed[1][i])  # Grad-CAM has signs also where nothing speaks for the class
        if not flag:
            found[1:, i] = _row(sizes[0][i], sizes[1][i], places.picture)
    return Similarity(found[0], found[1], found[2], found[3], found[4], flags)


def _sized(maps: Maps) -> np.ndarray:
    return sized_map(maps) if isinstance(maps, Explanation) else np.asarray(maps)


def _row(first: np.ndarray, second: np.ndarray, picture: bool) -> list[float]:
    if not picture:
        return [spearman(first, second), *[np.nan] * 3]
    a, b = as_picture(first), as_picture(second)
    edges = hog(a), hog(b)
    return [spearman(first, second), ssim(a, b), spearman(*edges), pearson(*edges)]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two arrays in [-1, 1], ties having their mean rank; NaN where one is constant."""
    return pearson(_ranks(a), _ranks(b))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two arrays in [-1, 1]; NaN where one is constant."""
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    a, b = (v.ravel() - v.mean(dtype=np.float64) for v in (a, b))
    return float(np.clip((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)), -1, 1))


def _ranks(a: np.ndarray) -> np.ndarray:
    """The place of each value in ascending order, from 1; equal ones share the mean of theirs."""
    _, which, counts = np.unique(a, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which.ravel()])


def as_picture(sizes: np.ndarray) -> np.ndarray:
    """A map of sizes clipped at its 99th percentile and scaled to [0, 1] (scaled only, where nearly all of it is at one value)."""
    low, high = sizes.min(), np.percentile(sizes, CLIP)
    if high <= low:
        high = sizes.max()
    return np.asarray((np.clip(sizes, low, high) - low) / (high - low))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two pictures in [0, 1]: Gaussian window of sigma 1.5, data range 1; NaN below 11 x 11 pixels."""
    if min(a.shape) < SSIM_SIDE:
        return float("nan")
    return float(library("skimage.metrics").structural_similarity(a, b, gaussian_weights=True, data_range=1.0))


def hog(picture: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients: 9 orientations, cells of 16 x 16 pixels (smaller below 48), blocks of 3 x 3 cells."""
    cell = min(16, max(1, min(picture.shape) // 3))
    blocks = (3, 3) if min(picture.shape) >= 3 * cell else (1, 1)
    return np.asarray(library("skimage.feature").hog(picture, pixels_per_cell=(cell, cell), cells_per_block=blocks))
