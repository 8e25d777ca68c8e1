"""What is noted of one picture and one map: the best classes, where the map lies, small copies that a page can hold."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from onnxsal.errors import InputError
from onnxsal.explanation import Explanation
from onnxsal.facts.axes import flat, image_axes
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.record import Line
from onnxsal.metrics.scorer import Scorer
from onnxsal.metrics.similarity import spearman
from onnxsal.runtime.heatmap import overlay, scale_map

GRID = 4
"""Cells along each side of a picture in which relevance is counted."""

RIM = 0.1
"""The border of a picture: this share of each side, all around."""

SIDE, SMALL = 144, 96
"""Pixels of a picture in the report: the longer side at most, and at least (tiny pictures are enlarged, pixel by pixel)."""

TOP = 5
"""Classes that are noted of a picture."""


def answers(scores: np.ndarray, label: int | None) -> Line:
    """The best classes with their probabilities, and whether the first one is right."""
    best = np.argsort(-scores, kind="stable")[:TOP]
    told: Line = {"top": [[int(i), float(scores[i])] for i in best]}
    if label is not None:
        told |= {"label": label, "right": bool(best[0] == label), "right5": bool(label in best), "label_score": float(scores[label])}
    return told


def map_facts(one: Explanation, shown: np.ndarray) -> Line:
    """The numbers of one map, where it lies, and its picture."""
    assert one.saliency_map is not None
    size = np.abs(one.saliency_map[0].astype(np.float64))
    return {
        "target": int(one.target[0]),
        "score": float(one.score[0]),
        "residual": None if one.residual is None else float(one.residual[0]),
        "reached": None if one.reached is None else float(one.reached[0]),
        "warnings": one.warnings,
        "rim": rim_share(size),
        "cells": cell_shares(size).ravel().tolist(),
        "picture": data_uri(np.asarray(overlay(shown, scale_map(one.saliency_map[0])))),
    }


def rim_width(length: int) -> int:
    """Pixels of the border along one side."""
    return max(1, round(length * RIM))


def rim_share(size: np.ndarray) -> list[float]:
    """Share of a map [H, W] on the border of the picture, and the share of the picture that the border is."""
    inner = tuple(slice(rim_width(s), s - rim_width(s)) for s in size.shape)
    rim = np.ones(size.shape, bool)
    rim[inner] = False
    total = size.sum()
    return [float(size[rim].sum() / total) if total > 0 else 0.0, float(rim.mean())]


def cell_edges(length: int) -> np.ndarray:
    """Where the cells of a side begin, and the last one ends."""
    return np.linspace(0, length, GRID + 1).round().astype(int)


def cell_shares(size: np.ndarray) -> np.ndarray:
    """Share of a map [H, W] in each cell of a grid."""
    rows, columns = (cell_edges(s)[:-1] for s in size.shape)
    sums = np.add.reduceat(np.add.reduceat(size, rows, 0), columns, 1)
    return np.asarray(sums / max(sums.sum(), 1e-300))


def likeness(first: np.ndarray | None, second: np.ndarray | None, i: int) -> float | None:
    """Rank correlation of the sizes of two maps of sample ``i``; ``None`` where it has no meaning."""
    if first is None or second is None or first.shape != second.shape:
        return None
    found = spearman(np.abs(first[i]), np.abs(second[i]))
    return None if np.isnan(found) else found


def picture_of(sample: Sample, scorer: Scorer) -> np.ndarray:
    """What the model sees, as RGB bytes [H, W, 3]; an array without known preprocessing is stretched to the range of bytes."""
    if sample.picture is not None:
        return sample.picture
    axes = flat(scorer.question.picture) or image_axes(sample.x.shape)
    if axes is None or sample.x.ndim != 4:
        raise InputError("the input is no picture [N, C, H, W] or [N, H, W, C]")
    values = np.moveaxis(sample.x, axes[0], -1)[0].astype(np.float64)
    values = values[..., :3] if values.shape[-1] >= 3 else values[..., :1].repeat(3, -1)
    low, high = values.min(), values.max()
    return np.rint((values - low) / ((high - low) or 1) * 255).astype(np.uint8)


def data_uri(pixels: np.ndarray) -> str:
    """A small copy of a picture that a page can hold: JPEG, or PNG where it was enlarged."""
    image = Image.fromarray(pixels)
    longer = max(image.size)
    buffer = io.BytesIO()
    if longer < SMALL:
        factor = -(-SMALL // longer)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        image.quantize(64).save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    if longer > SIDE:
        image = image.resize(
            (max(1, round(image.width * SIDE / longer)), max(1, round(image.height * SIDE / longer))), Image.Resampling.LANCZOS
        )
    image.save(buffer, "JPEG", quality=78, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
