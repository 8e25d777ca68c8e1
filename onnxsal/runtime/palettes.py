"""Colours of maps: one palette for signed and one for unsigned values, of equal steps to the eye, told apart by colour-blind readers too.

The steps are equal in OKLab (B. Ottosson, "A perceptual color space for image processing", 2020), in which a Euclidean distance is a
difference that is seen. A palette is a path of straight lines there, cut into pieces of one length, along which lightness runs one way.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from onnxsal.runtime.session import Array

LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]]
)
LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099], [0.0259040371, 0.7827717662, -0.8086757660]]
)
"""Ottosson's two matrices: from linear sRGB to the responses of cones, and from their cube roots to L, a, b."""

CORNERS = {
    "diverging": ((0.5, 0.18, 260), (1, 0, 0), (0.5, 0.18, 33)),
    "heat": ((0.18, 0.06, 285), (0.34, 0.14, 300), (0.55, 0.2, 1), (0.76, 0.155, 62), (0.96, 0.09, 105)),
    "white_black": ((1, 0, 0), (0, 0, 0)),
}
"""Where the paths turn: lightness, chroma and hue in degrees, all within sRGB. ``diverging`` has two arms of one length, blue and
vermilion, which people without red or green cones see as blue and brown; ``heat`` grows from near black to yellow through purple and
orange."""

STEPS = 512
"""Pieces that a path is cut into; even, so that the middle of ``diverging`` is white."""

LEVELS = {"white_black": 255}
"""Colours that a palette is cut into (MATLAB's gray(255), upside down, linear in sRGB); the others are continuous."""


def oklab(pixels: Array) -> Array:
    """sRGB bytes [..., 3] in OKLab: lightness 0..1, a, b."""
    share = np.asarray(pixels, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ LMS.T) @ LAB.T


def from_oklab(places: Array) -> Array:
    """The inverse of ``oklab``, in 0..255, not rounded; what sRGB cannot show is clipped."""
    linear = np.clip((np.asarray(places) @ np.linalg.inv(LAB).T) ** 3 @ np.linalg.inv(LMS).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


@cache
def path(palette: str) -> Array:
    """sRGB [STEPS + 1, 3] in 0..255 of a palette, from its lowest value to its highest."""
    if palette in LEVELS:
        return np.linspace(255.0, 0.0, STEPS + 1)[:, None].repeat(3, 1)
    lightness, chroma, hue = np.array(CORNERS[palette], np.float64).T
    corners = np.stack([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], -1)
    reached = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1)))
    at = np.linspace(0, reached[-1], STEPS + 1)
    return from_oklab(np.stack([np.interp(at, reached, axis) for axis in corners.T], -1))


def colours(values: Array, palette: str) -> Array:
    """RGB bytes [..., 3] of values in -1..1 (diverging) or 0..1."""
    at = (np.asarray(values, np.float64) + 1) / 2 if palette == "diverging" else np.asarray(values, np.float64)
    if palette in LEVELS:
        top = LEVELS[palette] - 1
        at = np.minimum(np.floor(at * LEVELS[palette]), top) / top
    table, places = path(palette), np.linspace(0, 1, STEPS + 1)
    return np.rint(np.stack([np.interp(at, places, table[:, c]) for c in range(3)], -1)).astype(np.uint8)
