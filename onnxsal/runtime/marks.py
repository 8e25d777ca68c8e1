"""What was asked about, drawn on a picture: the outline of a box or a mask, a ring around a point."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import Box, ShownMark

LINES = (((0, 0, 0, 255), 3), ((255, 255, 255, 255), 1))
"""A white line with a black border, seen on any picture: colours, and widths in units of ``_unit``."""


def marked(picture: Image.Image, mark: ShownMark, seen: tuple[int, int], box: Box) -> Image.Image:
    """The picture with the mark: ``seen`` is the size (width, height) of what the model saw, ``box`` where that lies on the picture."""
    across, down = (box[2] - box[0]) / seen[0], (box[3] - box[1]) / seen[1]
    found, unit = picture.copy(), _unit(picture)
    pen = ImageDraw.Draw(found)
    if mark.box is not None:
        left, top, right, bottom = mark.box
        begin = box[0] + left * across, box[1] + top * down
        end = box[0] + right * across - 1, box[1] + bottom * down - 1
        place = (*begin, max(begin[0], end[0]), max(begin[1], end[1]))  # a box may be smaller than a pixel of the picture
        for colour, width in LINES:
            pen.rectangle(place, outline=colour, width=width * unit)
    if mark.point is not None:
        x, y = box[0] + mark.point[0] * across, box[1] + mark.point[1] * down
        for colour, width in LINES:
            pen.ellipse((x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit), outline=colour, width=width * unit)
    if mark.mask is not None:
        rim = _outline(mark.mask, (round(box[2]) - round(box[0]), round(box[3]) - round(box[1])), unit)
        found.paste((255, 255, 255), (round(box[0]), round(box[1])), Image.fromarray(rim))
    return found


def _unit(picture: Image.Image) -> int:
    """Pixels of a thin line."""
    return max(1, round(max(picture.size) / 500))


def _outline(mask: Array, size: tuple[int, int], width: int) -> Array:
    """The pixels just inside of a mask of this size (width, height), as bytes."""
    whole = np.asarray(Image.fromarray(np.asarray(mask, np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 0
    inner = np.pad(whole, width)
    for axis in (0, 1):
        inner = inner & np.roll(inner, width, axis) & np.roll(inner, -width, axis)
    return np.where(whole & ~inner[width:-width, width:-width], 255, 0).astype(np.uint8)


def mark_alone(mark: ShownMark, seen: tuple[int, int], longest: int) -> Image.Image:
    """The mark by itself on what the model saw, RGBA, clear elsewhere."""
    factor = max(1, longest // max(seen))
    size = seen[0] * factor, seen[1] * factor
    return marked(Image.new("RGBA", size, (0, 0, 0, 0)), mark, seen, (0, 0, *size))
