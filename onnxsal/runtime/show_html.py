"""One sample beside its map, as HTML for a notebook: a picture in the page itself, or the elements that count most as a table."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from onnxsal.display import Panel, as_panel
from onnxsal.runtime.columns import by_column
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import AnyShown, ShownRow

SIDE = 320
"""Pixels of the longer side of a picture of pixels in a notebook: the page holds all of it."""

BEST = 10
"""So many elements of a sample that is no picture are listed."""


def picture_html(image: Image.Image, about: str, side: int = SIDE) -> str:
    """A picture as an ``img`` that holds its own PNG, no side over ``side`` pixels; ``about`` stands for it where it cannot be seen."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(about)}" style="max-width: 100%" src="data:image/png;base64,{data}">'


def elements_html(values: Array, shown: AnyShown | None) -> str:
    """The elements of one sample's attribution that are largest, either sign: their place, or the column of a table, and the number."""
    rows = [(name, f"{value:+.4g}") for name, value in strongest(values, shown)]
    return as_panel(Panel("", columns=("column" if isinstance(shown, ShownRow) else "place", "attribution"), rows=rows))


def strongest(values: Array, shown: AnyShown | None) -> list[tuple[str, float]]:
    """Up to ``BEST`` elements, or columns of a row (the sums of their elements), by the size of their attribution."""
    if isinstance(shown, ShownRow) and len(shown.places) == 1:
        sums = by_column(shown, values)
        named = [(f"{name} = {value}", float(own)) for name, value, own in zip(shown.columns, shown.values, sums, strict=True)]
        return sorted(named, key=lambda one: -abs(one[1]))[:BEST]
    best = np.argsort(-np.abs(values), axis=None, kind="stable")[:BEST]
    places_of = zip(*np.unravel_index(best, values.shape), strict=True)
    return [(", ".join(map(str, map(int, place))), float(values.flat[at])) for place, at in zip(places_of, best, strict=True)]
