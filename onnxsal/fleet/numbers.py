"""What is kept of one explanation when there are millions: a few numbers, and a small map."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from onnxsal.explanation import Explanation

SIDE = 16
"""Cells along each side of a small map."""

THUMBNAIL = 56
"""Pixels of the longer side of a map that is kept small."""

FEW = 1024
"""An attribution of at most so many elements (a row of a table, the tokens of a text) is kept whole where there is no map."""

TOP, RIM = 0.1, 0.1
"""The share of a map's places that ``concentration`` looks at, and of each side of a picture that is its rim."""

TITLES = {
    "score": "score that is explained",
    "residual": "error of the method's law",
    "reached": "share of the score that reaches the input",
    "total": "sum of the attribution's sizes",
    "positive": "sum of what speaks for the class",
    "negative": "sum of what speaks against it",
    "concentration": "share of the map in its largest tenth",
    "entropy": "evenness of the map (1: everywhere the same)",
    "rim": "share of the map along the border",
    "centre_y": "centre of the map, from the top",
    "centre_x": "centre of the map, from the left",
}
"""Columns of numbers, in order, and what each is called; a row has no value in those that mean nothing for it."""

NUMBERS = tuple(TITLES)


def numbers_of(one: Explanation) -> dict[str, float]:
    """The numbers of the explanation of a single sample, NaN where there is none.

    ``score``, ``residual`` and ``reached`` are the explanation's own. Of the attribution r (any shape): ``positive`` = sum max(r, 0),
    ``negative`` = sum min(r, 0), ``total`` = sum |r|. Of m = |map| (of |r| where there is no map), as shares p = m / sum m:
    ``concentration`` = the sum of the largest tenth of p, in [0, 1]; ``entropy`` = -sum p log p / log n, in [0, 1], 1 where all places
    count the same. Of the map of a picture also ``rim`` = sum p over a tenth of each side along the border, and the centre of p,
    ``centre_y`` and ``centre_x`` in [0, 1] from the top and from the left. All sums are in float64.
    """
    signed = np.asarray(one.attribution, np.float64)
    size = np.abs(signed if one.saliency_map is None else np.asarray(one.saliency_map, np.float64))
    size = size.reshape(size.shape[1:] if size.ndim > 1 else size.shape)
    found = {name: float("nan") for name in NUMBERS}
    found["score"] = _number(one.score)
    found["residual"], found["reached"] = _number(one.residual), _number(one.reached)
    found["positive"], found["negative"] = float(np.maximum(signed, 0).sum()), float(np.minimum(signed, 0).sum())
    found["total"] = float(np.abs(signed).sum())
    total = size.sum()
    if not np.isfinite(total) or total <= 0:
        return found
    share = size / total
    found["concentration"], found["entropy"] = _concentration(share), _entropy(share)
    if one.saliency_map is not None and share.ndim == 2:
        found |= _places(share)
    return found


def _number(values: Any) -> float:
    return float("nan") if values is None else float(np.asarray(values).ravel()[0])


def _concentration(share: np.ndarray) -> float:
    flat = share.ravel()
    most = max(1, round(flat.size * TOP))
    return float(np.partition(flat, flat.size - most)[-most:].sum())


def _entropy(share: np.ndarray) -> float:
    kept = share[share > 0]
    return float(-(kept * np.log(kept)).sum() / np.log(share.size)) if share.size > 1 else float("nan")


def _places(share: np.ndarray) -> dict[str, float]:
    height, width = share.shape
    inner = tuple(slice(edge, side - edge) for side in share.shape for edge in [max(1, round(side * RIM))])
    rows, columns = share.sum(1), share.sum(0)
    return {
        "rim": float(1 - share[inner].sum()),
        "centre_y": float((rows * (np.arange(height) + 0.5)).sum() / height),
        "centre_x": float((columns * (np.arange(width) + 0.5)).sum() / width),
    }


def small_map(one: Explanation) -> np.ndarray | None:
    """The map of a picture as means over 16 x 16 cells, float32 [16, 16], of a smaller one over fewer; without a map the attribution
    itself, float32 [n], where it has at most 1,024 elements; else ``None``.
    """
    if one.saliency_map is not None and one.saliency_map.ndim == 3:
        return cell_means(np.asarray(one.saliency_map[0], np.float64), SIDE).astype(np.float32)
    flat = np.asarray(one.attribution, np.float32).reshape(-1)
    return flat if flat.size <= FEW else None


def cell_means(values: np.ndarray, side: int) -> np.ndarray:
    """Means of values [H, W] over a grid of at most ``side`` x ``side`` cells whose sides differ by one place at most."""
    edges = [np.linspace(0, length, min(side, length) + 1).round().astype(int) for length in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, edges[0][:-1], 0), edges[1][:-1], 1)
    return np.asarray(sums / np.outer(np.diff(edges[0]), np.diff(edges[1])))


def map_png(one: Explanation, longest: int | None = None) -> tuple[bytes, float] | None:
    """The map of a picture as a PNG of 8 bits, and the value that 255 stands for; ``None`` where there is no map of a picture.

    A pixel is round(255 |m| / max |m|); a signed map has a second plane, 255 where m < 0. ``longest``: brought to so many pixels at most
    along its longer side, by means over cells.
    """
    if one.saliency_map is None or one.saliency_map.ndim != 3:
        return None
    values = np.asarray(one.saliency_map[0], np.float64)
    values = values if longest is None else cell_means(values, longest)
    scale = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(scale):
        return None
    planes = [np.rint(np.abs(values) * (255 / scale if scale else 0.0)).astype(np.uint8)]
    if (values < 0).any():
        planes.append(np.where(values < 0, 255, 0).astype(np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(planes[0] if len(planes) == 1 else np.stack(planes, -1)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), scale


def map_values(png: bytes, scale: float) -> np.ndarray:
    """The map [H, W] that ``map_png`` wrote, float32, with the error of 8 bits."""
    planes = np.asarray(Image.open(io.BytesIO(png)), np.float32)
    sign = 1 if planes.ndim == 2 else np.where(planes[..., 1] > 127, -1, 1)
    return np.asarray((planes if planes.ndim == 2 else planes[..., 0]) * (scale / 255) * sign, np.float32)
