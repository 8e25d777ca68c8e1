"""The parts of an explanation side by side: FullGrad's layer maps, named."""

from __future__ import annotations

import numpy as np
from PIL import Image

from onnxsal.errors import MethodError
from onnxsal.explanation import Explanation
from onnxsal.report.sheet import tile
from onnxsal.runtime.heatmap import render_map, scale_map

WIDTH = 160
"""Pixels of one layer's map."""


def parts_of(one: Explanation) -> dict[str, np.ndarray]:
    """The components of one sample that are maps, [H, W] by name."""
    return {name: value[0] for name, value in one.components.items() if value.ndim == 3 and min(value.shape[1:]) > 1}


def parts_sheet(one: Explanation) -> Image.Image:
    """Every component of one sample that is a map [1, H, W] as a tile, in the order of the network, below its name.

    Each tile has its own colour scale; the checkerboard that strided layers leave is the model's, not the picture's. Raises
    ``MethodError`` where the method has no such parts.
    """
    maps = parts_of(one)
    if not maps:
        raise MethodError(f"method '{one.method}' has no parts that are maps; fullgrad and simple_fullgrad have one per layer.")
    titles = [name.rpartition("grad/")[2] for name in maps]
    return tile([render_map(scale_map(m)) for m in maps.values()], titles, width=WIDTH)
