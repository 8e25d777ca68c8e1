"""The pictures along the path of integrated gradients, as the model is shown them."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from PIL import Image

from onnxsal.errors import MethodError
from onnxsal.facade.convert import Conversion
from onnxsal.methods.path import quadrature
from onnxsal.report.sheet import tile
from onnxsal.runtime.preprocess import Preprocess

WIDTH = 128
"""Pixels of one tile; the pictures are there to be compared, not studied."""


def path_sheet(conversion: Conversion, x: np.ndarray, preprocess: Preprocess) -> Image.Image:
    """Every point at which the conversion evaluates the gradient of the sample ``x`` [1, ...], from the baseline on, as a tile each."""
    settings = conversion.settings
    if not {"rule", "n_steps", "baseline"} <= set(settings):
        raise MethodError(
            f"method '{conversion.method.name}' follows no path from a baseline, so there is none to show; use integrated_gradients."
        )
    alphas, _ = quadrature(settings["rule"], settings["n_steps"])
    start = next(i for i in conversion.proto.graph.initializer if i.name == f"{conversion.prefix}baseline")
    baseline = np.asarray(numpy_helper.to_array(start), np.float64)
    pictures = [preprocess.pixels(baseline + alpha * (x - baseline))[0] for alpha in alphas]
    return tile(pictures, [f"{alpha:.3f}" for alpha in alphas], width=min(WIDTH, pictures[0].shape[1]))
