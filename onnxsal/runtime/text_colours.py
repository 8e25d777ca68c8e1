"""Colours of words: behind each the colour of its value, and letters that can be read on it."""

from __future__ import annotations

import numpy as np

from onnxsal.runtime.palettes import colours

RGB = tuple[int, int, int]

DARK, LIGHT = (0, 0, 0), (255, 255, 255)
"""Letters on light grounds, and on dark ones: one of the two has a contrast of at least 21^0.5 = 4.58 on any."""


def ground_of(value: float, largest: float) -> RGB:
    """The colour of a value in -largest..largest: blue below 0, red above, white at 0."""
    share = float(np.clip(value / largest, -1, 1))
    red, green, blue = (int(c) for c in colours(np.asarray([share]), "diverging")[0])
    return red, green, blue


def ink_on(ground: RGB) -> RGB:
    """Dark or light letters, whichever differ more from the ground in luminance (WCAG 2.2)."""
    return DARK if _contrast(DARK, ground) >= _contrast(LIGHT, ground) else LIGHT


def _contrast(one: RGB, other: RGB) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of the relative luminances, the larger first."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: RGB) -> float:
    parts = np.asarray(colour, np.float64) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def as_hex(colour: RGB) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
