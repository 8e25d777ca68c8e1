"""What stands where a pixel is taken away."""

from __future__ import annotations

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.metrics.input_places import InputPlaces
from onnxsal.runtime.libraries import library

SUBSTRATES = ("blur", "black", "mean", "zero_norm")

BLUR_LENGTH = 11
BLUR_SIGMA = 5.0


def substrate(name: str, x: np.ndarray, places: InputPlaces, black: np.ndarray | float | None = None) -> np.ndarray:
    """The pictures [N, ...] that show through where pixels of ``x`` are removed, in the model's input space.

    "zero_norm": zeros, the mean colour of a model that subtracts it. "black": a black pixel, whose value in the model's input is
    ``black`` (``Preprocess.black()``). "mean": each channel's mean over each picture; of a table each column's over all rows. "blur":
    Gaussian, sigma 5, cut to 11 x 11,
    zeros around the picture, as RISE does; likewise along the axes of a series or a volume.
    """
    if name not in SUBSTRATES:
        raise InputError(f"substrate '{name}' is not one of {', '.join(SUBSTRATES)}{near_miss(name, SUBSTRATES)}.")
    if name == "zero_norm":
        return np.zeros_like(x)
    if name == "mean" and places.means is not None:
        return np.broadcast_to(places.means.astype(x.dtype), x.shape)
    if name == "mean":
        mean = x.mean(places.axes(x), keepdims=True, dtype=np.float64)
        return np.broadcast_to(mean.astype(x.dtype), x.shape)
    if name == "blur":
        return _blurred(x, places)
    if black is None:
        raise InputError("substrate 'black' is a black pixel after preprocessing: give its value, black=preprocess.black().")
    try:
        return np.broadcast_to(np.asarray(black, x.dtype), x.shape)
    except ValueError as error:
        raise InputError(f"black has shape {list(np.shape(black))}, which does not broadcast over inputs {list(x.shape)}.") from error


def _blurred(x: np.ndarray, places: InputPlaces) -> np.ndarray:
    """Each channel convolved with a truncated Gaussian kernel; the kernel is a product, so one axis after the other."""
    if not places.ordered and not places.picture:
        raise InputError(
            f"substrate 'blur' is for pictures, series and volumes; inputs {list(x.shape)} are none. Choose zero_norm or mean."
        )
    ndimage = library("scipy.ndimage")
    middle = np.zeros(BLUR_LENGTH)
    middle[BLUR_LENGTH // 2] = 1
    kernel = ndimage.gaussian_filter1d(middle, BLUR_SIGMA)
    blurred = x.astype(np.float64)
    for axis in places.axes(x):
        blurred = ndimage.convolve1d(blurred, kernel, axis=axis, mode="constant")
    return np.asarray(blurred.astype(x.dtype))
