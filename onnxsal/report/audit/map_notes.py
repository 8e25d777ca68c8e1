"""What is noted of one picture and of one map: where the map lies, small copies that a page can hold."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from onnxsal.errors import InputError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.facts.axes import flat, image_axes, layout_places
from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.record import Line
from onnxsal.metrics.scorer import Scorer
from onnxsal.report.audit.notes import Look
from onnxsal.report.audit.subject import Subject
from onnxsal.runtime.heatmap import overlay, render_map, scale_map

GRID = 4
"""Cells along each side of a picture in which relevance is counted."""

RIM = 0.1
"""The border of a picture: this share of each side, all around."""

SIDE, SMALL = 144, 96
"""Pixels of a picture in the report: the longer side at most, and at least (tiny pictures are enlarged, pixel by pixel)."""


class PictureLook(Look):
    """Pictures. What two maps are compared by is how much each pixel counts, for the class or against it."""

    kind = PICTURES

    def __init__(self, group: list[Sample], own: Subject) -> None:
        super().__init__(group, own)
        self.pictures = [picture_of(s, own.scorer) for s in group]

    @classmethod
    def admit_maps(cls, explainer: Explainer) -> None:
        axes = explainer.conversion.question.shown[1]
        if axes is None or layout_places(axes) != 2 or "saliency_map" not in [o.name for o in explainer.session.outputs]:
            raise InputError(
                "the explained input is no picture, and the data are no table with named columns: an audit shows maps of pictures, and the "
                "columns of rows; use `onnxsal evaluate`."
            )

    def shown(self, i: int) -> Line:
        return {"size": [*self.pictures[i].shape[:2]], "picture": data_uri(self.pictures[i])}

    def facts(self, who: Subject, one: Explanation, i: int) -> Line:
        assert one.saliency_map is not None
        size = np.abs(one.saliency_map[0].astype(np.float64))
        drawn = np.asarray(overlay(self.pictures[i], scale_map(one.saliency_map[0])))
        return {"rim": rim_share(size), "cells": cell_shares(size).ravel().tolist(), "picture": data_uri(drawn)}

    def order(self, who: Subject, whole: Explanation) -> np.ndarray | None:
        return None if whole.saliency_map is None else np.abs(whole.saliency_map)


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


def centre_picture(centre: np.ndarray) -> str:
    """The centre of a cluster of small maps [H, W] as a data URI, in the colours of maps: one with negative values is a signed one.

    Raises ``InputError`` for another shape, and for NaN or infinite values.
    """
    return data_uri(np.asarray(render_map(centre)))


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
