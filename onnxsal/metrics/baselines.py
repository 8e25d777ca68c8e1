"""Maps that know nothing of the model: what a method must beat before its map can be said to show the model."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from onnxsal.errors import InputError
from onnxsal.metrics.input_places import InputPlaces
from onnxsal.runtime.libraries import library


def baseline_maps(name: str, x: np.ndarray, places: InputPlaces, seed: int = 0) -> np.ndarray:
    """Maps [N, places] of the samples ``x`` [N, ...].

    "random": noise, drawn by ``seed`` and the sample's own values, so that it depends on no batch. "centre": nearness to the middle of the
    picture. "edges": the size of the grey picture's gradient (Sobel). The last two are for pictures only.
    """
    if name not in BASELINES:
        raise InputError(f"baseline '{name}' is not one of {', '.join(BASELINES)}.")
    if name != "random" and not places.picture:
        raise InputError(f"baseline '{name}' is for pictures; inputs {list(x.shape)} are none.")
    return np.stack([BASELINES[name](one, places, seed) for one in x[:, None]])


def _random(one: np.ndarray, places: InputPlaces, seed: int) -> np.ndarray:
    own = zlib.crc32(np.ascontiguousarray(one).tobytes())
    return np.random.default_rng([seed, own]).random(places.shape)


def _centre(one: np.ndarray, places: InputPlaces, seed: int) -> np.ndarray:
    rows, columns = (np.arange(s) - (s - 1) / 2 for s in places.shape)
    distance = np.hypot(rows[:, None], columns)
    return np.asarray(1 - distance / distance.max()) if distance.max() > 0 else np.ones(places.shape)


def _edges(one: np.ndarray, places: InputPlaces, seed: int) -> np.ndarray:
    return np.asarray(library("skimage.filters").sobel(places.pooled(one.astype(np.float64))[0]))


CALLED = {"random": "random noise", "centre": "nearness to the middle of the picture", "edges": "the edges in the picture"}
"""What each shows, in words."""

BASELINES: dict[str, Callable[[np.ndarray, InputPlaces, int], np.ndarray]] = {"random": _random, "centre": _centre, "edges": _edges}
