"""One map as a picture: scaled per map, coloured, laid over what the model saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from onnxsal.errors import InputError, near_miss
from onnxsal.runtime.marks import marked
from onnxsal.runtime.palettes import CORNERS, colours
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import Box, ShownPicture

PALETTES = tuple(CORNERS)
"""``diverging`` for signed maps, -1 blue, 0 white, 1 vermilion; the others run from 0 to 1."""

FAINT = 0.2
"""Below this share of the strongest value an overlay leaves the picture as it is."""
FULL = 0.7
"""From this share on an overlay covers the picture as far as it ever does."""
OPACITY = 0.85
"""How far that is."""
FIRST = {"diverging": 0.5, "heat": 0.5, "white_black": 0.0}
"""Where on a palette's arm the colours of an overlay begin: near zero they would lie on the picture as a haze of white or black."""
DIMMED = 0.5
"""What is left of a picture where the model did not see it; the rest is grey."""

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


def render_map(values: Array | Scaled, palette: str | None = None, percentile: float = 99.5) -> Image.Image:
    """The map alone, one pixel a value."""
    scaled = scale_map(values, palette, percentile)
    return Image.fromarray(colours(scaled.values, scaled.palette))


def ink(values: Array, palette: str) -> Array:
    """RGB bytes of an overlay: those of the palette from ``FIRST`` on, the values -1..1 or 0..1 in its remaining part."""
    strong = np.asarray(values, np.float64)
    return colours(np.sign(strong) * (FIRST[palette] + (1 - FIRST[palette]) * np.abs(strong)), palette)


def cover(values: Array, opacity: float = OPACITY) -> Array:
    """How far an overlay covers the picture, 0..1: nothing up to ``FAINT``, ``opacity`` from ``FULL`` on, in a straight line between."""
    return opacity * np.clip((np.abs(values) - FAINT) / (FULL - FAINT), 0, 1)


def overlay(
    picture: Array | Image.Image, values: Array | Scaled, palette: str | None = None, percentile: float = 99.5, opacity: float = OPACITY
) -> Image.Image:
    """The map over the picture that the model saw, which stays as it is where the map is weak.

    A coarse map is enlarged smoothly. ``picture`` must show what the map shows (``Preprocess.display``), not an uncropped original: that is
    ``overlay_on``.
    """
    scaled = scale_map(values, palette, percentile)
    seen = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if seen.ndim != 3 or seen.shape[2] != 3 or seen.dtype != np.uint8:
        raise InputError(f"the picture under a map is RGB bytes [H, W, 3], not {seen.dtype} {list(seen.shape)}.")
    _refuse_other_part(scaled.values, (seen.shape[0], seen.shape[1]))
    return _covered(Image.fromarray(seen), scaled, (0, 0, seen.shape[1], seen.shape[0]), opacity)


def overlay_on(shown: ShownPicture, values: Array | Scaled, opacity: float = OPACITY, longest: int | None = None) -> Image.Image:
    """The map over the whole original, in its own size; what the model did not see is dimmed, and framed off. What was asked about is
    marked, if it is a place.

    An original that is smaller than what the model saw is enlarged by a whole number, so that no value of the map is lost; one whose longer
    side is over ``longest`` pixels is reduced to that. Where only what the model saw is known the map lies on that.
    """
    scaled = scale_map(values)
    _refuse_other_part(scaled.values, (shown.seen.shape[0], shown.seen.shape[1]))
    whole, box = on_original(shown, longest)
    if _is_part(box, whole.size):
        whole = _dimmed(whole, box)
    found = _covered(whole, scaled, box, opacity)
    return found if shown.mark is None else marked(found, shown.mark, (shown.seen.shape[1], shown.seen.shape[0]), box)


def on_original(shown: ShownPicture, longest: int | None = None) -> tuple[Image.Image, Box]:
    """The picture that ``overlay_on`` lays a map over, before that, and the part of it that the model saw."""
    if shown.original is None or shown.box is None:
        whole, box = Image.fromarray(shown.seen), (0.0, 0.0, float(shown.seen.shape[1]), float(shown.seen.shape[0]))
    else:
        whole, box = shown.original, shown.box
    least = max(
        1, *(int(np.ceil(n / side - 1e-6)) for n, side in zip(shown.seen.shape[1::-1], (box[2] - box[0], box[3] - box[1]), strict=True))
    )
    size, method = (whole.width * least, whole.height * least), Image.Resampling.NEAREST
    if longest is not None and max(size) > longest:
        share = longest / max(size)
        size, method = (max(1, round(size[0] * share)), max(1, round(size[1] * share))), Image.Resampling.LANCZOS
    across, down = size[0] / whole.width, size[1] / whole.height
    whole = whole if size == whole.size else whole.resize((size[0], size[1]), method)
    return whole, (box[0] * across, box[1] * down, box[2] * across, box[3] * down)


def _is_part(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box leaves out half a pixel of a picture or more."""
    return max(box[0], box[1], size[0] - box[2], size[1] - box[3]) >= 0.5


def _dimmed(whole: Image.Image, box: Box) -> Image.Image:
    """The picture, grey and pale outside of a box, around which there is a line."""
    pale = Image.blend(Image.new("RGB", whole.size, (128, 128, 128)), whole.convert("L").convert("RGB"), DIMMED)
    inner = round(box[0]), round(box[1]), round(box[2]), round(box[3])
    pale.paste(whole.crop(inner), inner[:2])
    width = max(1, round(max(whole.size) / 400))
    outer = (inner[0] - width, inner[1] - width, inner[2] + width - 1, inner[3] + width - 1)
    ImageDraw.Draw(pale).rectangle(outer, outline=(255, 255, 255), width=width)
    return pale


def _covered(whole: Image.Image, scaled: Scaled, box: Box, opacity: float) -> Image.Image:
    """The map over the part ``box`` of a picture."""
    corner = int(np.floor(box[0])), int(np.floor(box[1]))
    room = min(whole.width, int(np.ceil(box[2]))) - corner[0], min(whole.height, int(np.ceil(box[3]))) - corner[1]
    strength = _enlarged(scaled.values, (box[0] - corner[0], box[1] - corner[1], box[2] - corner[0], box[3] - corner[1]), room)
    found = whole.copy()
    mask = Image.fromarray(np.rint(255 * cover(strength, opacity)).astype(np.uint8))
    found.paste(Image.fromarray(ink(strength, scaled.palette)), corner, mask)
    return found


def _enlarged(values: Array, box: Box, size: tuple[int, int]) -> Array:
    """``values`` [H, W] spread over ``box``, read at the centres of ``size`` (width, height) pixels; 0 outside of it."""
    (rows, columns), (left, top, right, bottom) = values.shape, box
    if (rows, columns) == (size[1], size[0]) and box == (0, 0, *size):
        return values
    across, down = columns / (right - left), rows / (bottom - top)
    plane = Image.fromarray(values.astype(np.float32))
    placed = plane.transform(size, Image.Transform.AFFINE, (across, 0, -left * across, 0, down, -top * down), Image.Resampling.BILINEAR)
    return np.asarray(placed)


def _refuse_other_part(values: Array, size: tuple[int, int]) -> None:
    """Raises ``InputError`` where a map has other proportions than what the model saw (up to the rounding of a coarse map)."""
    (rows, columns), (height, width) = values.shape, size
    if (rows, columns) != size and abs(rows * width / (columns * height) - 1) > 0.01 + 1 / min(rows, columns):
        raise InputError(f"a map of {rows}x{columns} does not lie on a picture of {height}x{width}: show the part that the model saw.")
