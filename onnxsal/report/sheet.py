"""Several pictures on one: tiles in a grid, each below its title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnxsal.errors import InputError
from onnxsal.runtime.session import Array

BACKGROUND, INK = "white", (25, 25, 25)
GAP = 12
NOTE = 13
"""Type size in pixels."""


def tile(
    images: Sequence[Image.Image | Array], titles: Sequence[str] = (), columns: int | None = None, width: int | None = None
) -> Image.Image:
    """Pictures in a grid, by default as square as it goes, each below its title; ``width`` enlarges or shrinks each."""
    if not images:
        raise InputError("no pictures were given to tile.")
    if titles and len(titles) != len(images):
        raise InputError(f"{len(titles)} titles were given for {len(images)} pictures.")
    pictures = [_fit(i if isinstance(i, Image.Image) else Image.fromarray(i), width) for i in images]
    names = list(titles) or [""] * len(pictures)
    across = columns or int(np.ceil(np.sqrt(len(pictures))))
    return _framed(_stack([_titled(names[i : i + across], pictures[i : i + across], NOTE) for i in range(0, len(pictures), across)], GAP))


def _titled(titles: Sequence[str], images: Sequence[Image.Image], size: int) -> Image.Image:
    """Pictures in a line below their titles, the pictures starting at one height however long a title is."""
    heads = [_text(title, image.width, size) for title, image in zip(titles, images, strict=True)]
    return _stack([_side_by_side(heads), _side_by_side(images)])


def _text(text: str, width: int, size: int, colour: tuple[int, int, int] = INK) -> Image.Image:
    """Wrapped text in the given width; an empty picture for no text."""
    if not text:
        return Image.new("RGB", (width, 0), BACKGROUND)
    font = ImageFont.load_default(size)
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.extend(_pieces(word, font, width))
    line_height = round(size * 1.3)
    image = Image.new("RGB", (width, line_height * len(lines) + 2), BACKGROUND)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((0, number * line_height), line, colour, font)
    return image


def _pieces(word: str, font: Any, width: int) -> list[str]:
    """A word too long for a line, cut."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _fit(image: Image.Image, width: int | None) -> Image.Image:
    """The picture ``width`` pixels wide; enlarged without smoothing, so that single values stay visible."""
    image = image.convert("RGB")
    if width is None or image.width == width:
        return image
    method = Image.Resampling.NEAREST if width > image.width else Image.Resampling.LANCZOS
    return image.resize((width, max(1, round(image.height * width / image.width))), method)


def _stack(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    shown = [i for i in images if i.height] or list(images[:1])
    sheet = Image.new("RGB", (max(i.width for i in shown), sum(i.height for i in shown) + gap * (len(shown) - 1)), BACKGROUND)
    top = 0
    for image in shown:
        sheet.paste(image, (0, top))
        top += image.height + gap
    return sheet


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (sum(i.width for i in images) + GAP * (len(images) - 1), max(i.height for i in images)), BACKGROUND)
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + GAP
    return sheet


def _framed(image: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (image.width + 2 * GAP, image.height + 2 * GAP), BACKGROUND)
    sheet.paste(image, (GAP, GAP))
    return sheet
