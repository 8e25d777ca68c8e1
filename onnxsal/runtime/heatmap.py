"""One map as a picture: scaled per map, coloured, laid over what the model saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from onnxsal.errors import InputError, near_miss
from onnxsal.runtime.session import Array

PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "diverging": ((8, 48, 130), (90, 150, 215), (255, 255, 255), (235, 120, 90), (150, 5, 25)),
    "heat": ((0, 0, 0), (85, 15, 110), (190, 50, 80), (250, 140, 15), (255, 255, 170)),
    "white_black": ((255, 255, 255), (0, 0, 0)),
}
"""Evenly spaced anchors: ``diverging`` for signed maps, -1 blue, 0 white, 1 red; the others run from 0 to 1."""
LEVELS = {"white_black": 255}
"""Colours that a palette is cut into (MATLAB's gray(255), upside down); the others are continuous."""

NOISE = 1e-6
"""A range below this part of the largest value is rounding: stretching it would show structure that is not there."""


@dataclass(frozen=True)
class Scaled:
    """A map ready to be coloured: ``values`` [H, W] ([L] of a series, [D, H, W] of a volume) in -1..1 (diverging) or 0..1, and the values
    that the palette's ends stand for.

    ``flat`` tells that all values are equal (up to rounding), so the map says nothing; it is drawn as the palette's zero.
    """

    values: Array
    palette: str
    low: float
    high: float
    flat: bool


def scale_map(values: Array | Scaled, palette: str | None = None, percentile: float = 99.5, places: int = 2) -> Scaled:
    """Scale one map by its own values; the strongest ``100 - percentile`` percent are clipped (100: none). ``places``: its axes.

    A signed map is divided by the percentile of its absolute values, so that zero stays in the middle; an unsigned one runs from
    its minimum to the percentile. Without a ``palette`` a map with negative values is signed.
    """
    if isinstance(values, Scaled):
        return values
    data = _checked(values, places)
    palette = palette or ("diverging" if data.min() < 0 else "heat")
    if palette not in PALETTES:
        raise InputError(f"palette '{palette}' is none of {', '.join(PALETTES)}{near_miss(palette, PALETTES)}.")
    if not 0 < percentile <= 100:
        raise InputError(f"percentile {percentile} is not above 0 and up to 100.")
    lowest, highest = float(data.min()), float(data.max())
    if highest - lowest <= NOISE * max(abs(lowest), abs(highest)):
        return Scaled(np.zeros(data.shape), palette, lowest, highest, True)
    if palette == "diverging":
        size = np.abs(data)
        high = float(np.percentile(size, percentile)) or float(size.max())
        return Scaled(np.clip(data / high, -1, 1), palette, -high, high, False)
    high = float(np.percentile(data, percentile))
    high = high if high > lowest else highest  # nearly all of a sparse map is its minimum
    return Scaled(np.clip((data - lowest) / (high - lowest), 0, 1), palette, lowest, high, False)


def _checked(values: Array, places: int) -> Array:
    data = np.asarray(values, dtype=np.float64)
    data = data[0] if data.ndim == places + 1 and len(data) == 1 else data
    if data.ndim != places or data.size == 0:
        wanted = {1: "[L]", 2: "[H, W]", 3: "[D, H, W]"}[places]
        raise InputError(
            f"a map to draw is {wanted}; this one has shape {list(np.shape(values))}. Take one sample, and sum or index its channels."
        )
    bad = int(np.count_nonzero(~np.isfinite(data)))
    if bad:
        raise InputError(f"the map has {bad} NaN or infinite of {data.size} values: it cannot be drawn, and should not be trusted.")
    return data


def colours(values: Array, palette: str) -> Array:
    """RGB bytes of values in -1..1 (diverging) or 0..1."""
    at = (values + 1) / 2 if palette == "diverging" else values
    if palette in LEVELS:
        top = LEVELS[palette] - 1
        at = np.minimum(np.floor(at * LEVELS[palette]), top) / top
    anchors = np.asarray(PALETTES[palette], np.float64)
    places = np.linspace(0, 1, len(anchors))
    return np.rint(np.stack([np.interp(at, places, anchors[:, c]) for c in range(3)], -1)).astype(np.uint8)


def render_map(values: Array | Scaled, palette: str | None = None, percentile: float = 99.5) -> Image.Image:
    """The map alone, one pixel a value."""
    scaled = scale_map(values, palette, percentile)
    return Image.fromarray(colours(scaled.values, scaled.palette))


def overlay(
    picture: Array | Image.Image, values: Array | Scaled, palette: str | None = None, percentile: float = 99.5, opacity: float = 0.85
) -> Image.Image:
    """The map over the picture the model saw: the stronger a value, the more it covers; colours of the picture are muted.

    A coarse map is enlarged smoothly. ``picture`` must show what the map shows (``Preprocess.display``), not an uncropped original.
    """
    scaled = scale_map(values, palette, percentile)
    seen = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if seen.ndim != 3 or seen.shape[2] != 3 or seen.dtype != np.uint8:
        raise InputError(f"the picture under a map is RGB bytes [H, W, 3], not {seen.dtype} {list(seen.shape)}.")
    strength = _enlarged(scaled.values, (seen.shape[0], seen.shape[1]))
    alpha = opacity * np.sqrt(np.abs(strength))[..., None]
    grey = np.asarray(Image.fromarray(seen).convert("L"), np.float64)[..., None]
    muted = 0.35 * seen + 0.65 * grey
    if scaled.palette == "diverging":  # full colours from the start: near zero the palette's white would lie on the picture as a haze
        strength = np.sign(strength) * (1 + np.abs(strength)) / 2
    return Image.fromarray(np.rint(alpha * colours(strength, scaled.palette) + (1 - alpha) * muted).astype(np.uint8))


def _enlarged(values: Array, size: tuple[int, int]) -> Array:
    """``values`` in another size but the same proportions (up to the rounding of a coarse map)."""
    (rows, columns), (height, width) = values.shape, size
    if (rows, columns) == size:
        return values
    if abs(rows * width / (columns * height) - 1) > 0.01 + 1 / min(rows, columns):
        raise InputError(f"a map of {rows}x{columns} does not lie on a picture of {height}x{width}: show the part that the model saw.")
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR), np.float64)
