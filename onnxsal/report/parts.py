"""The parts of an explanation side by side: FullGrad's layer maps, named."""

from __future__ import annotations

import numpy as np
from PIL import Image

from onnxsal.errors import MethodError
from onnxsal.explanation import Explanation
from onnxsal.report.sheet import tile
from onnxsal.runtime.drawn import draw
from onnxsal.runtime.heatmap import scale_map

WIDTH = 160
"""Pixels of one layer's map."""


def parts_of(one: Explanation) -> dict[str, np.ndarray]:
    """The components of one sample that are maps, [H, W] by name; of a series or volume [L] or [D, H, W].

    Of the components [1, n] of a series those are maps that have as many places as its map, or are called so.
    """
    whole = one.saliency_map
    if whole is None or whole.ndim == 3:
        return {name: value[0] for name, value in one.components.items() if value.ndim == 3 and min(value.shape[1:]) > 1}
    found = {name: value for name, value in one.components.items() if value.ndim == whole.ndim}
    return {n: v[0] for n, v in found.items() if whole.ndim > 2 or v.shape == whole.shape or n.endswith("/map")}


def parts_sheet(one: Explanation) -> Image.Image:
    """Every component of one sample that is a map [1, H, W] as a tile, in the order of the network, below its name.

    Each tile has its own colour scale; the checkerboard that strided layers leave is the model's, not the picture's. Raises
    ``MethodError`` where the method has no such parts.
    """
    maps = parts_of(one)
    if not maps:
        raise MethodError(f"method '{one.method}' has no parts that are maps; fullgrad and simple_fullgrad have one per layer.")
    titles = [name.rpartition("grad/")[2] for name in maps]
    drawn = [draw(scale_map(m, places=m.ndim)) for m in maps.values()]
    flat = all(m.ndim == 2 for m in maps.values())
    return tile(drawn, titles, None if flat else 1, WIDTH if flat else None)
