"""Grouped bars: one group per layer, one bar per estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from onnxsal.errors import InputError
from onnxsal.metrics.signal import SignalQuality
from onnxsal.report.sheet import ALARM, BACKGROUND, FAINT, INK

COLOURS = ((150, 150, 150), (86, 180, 233), (230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167))
"""Told apart by colour-blind readers too (Okabe and Ito)."""

Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

HEIGHT, BAR, SIZE = 260, 14, 13


def bar_chart(groups: Mapping[str, Mapping[str, float]], title: str = "", axis: str = "", high: float = 1.0) -> Image.Image:
    """Group -> series -> value, from 0 to ``high``; a NaN is shown as a cross. The name of a group stands below it, slanted."""
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    if not series:
        raise InputError("a bar chart needs at least one value.")
    font, large = ImageFont.load_default(SIZE), ImageFont.load_default(SIZE + 3)
    left, top, wide = 60, 66, BAR * len(series) + 22
    names = [_label(name, font) for name in groups]
    below = max(n.height for n in names) + 12
    legend = sum(24 + round(font.getlength(name)) + 16 for name in series)
    width = max(
        left + wide * len(groups) + max(names[-1].width - wide // 2, 0) + 24, left + legend, left + round(large.getlength(title)) + 24
    )
    image = Image.new("RGB", (width, top + HEIGHT + below), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((left, 10), title, INK, large)
    _legend(draw, series, left, font)
    for step in range(6):
        y = top + HEIGHT - HEIGHT * step // 5
        draw.line((left, y, left + wide * len(groups), y), (225, 225, 225) if step else INK)
        draw.text((left - 8, y), f"{high * step / 5:.2g}", FAINT, font, "rm")
    draw.text((left - 8, top - 18), axis, FAINT, font, "rm")
    for number, (values, name) in enumerate(zip(groups.values(), names, strict=True)):
        start = left + number * wide + 11
        for place, one in enumerate(series):
            if one in values:
                _bar(draw, start + place * BAR, top + HEIGHT, values[one] / high, COLOURS[place % len(COLOURS)], font)
        image.paste(name, (start, top + HEIGHT + 6))
    return image


def quality_chart(quality: SignalQuality, title: str = "signal quality") -> Image.Image:
    """Mean rho per layer and estimator, as Kindermans et al. 2017 show it (figure 3)."""
    return bar_chart(quality.means(), title, "rho")


def _bar(draw: ImageDraw.ImageDraw, x: int, base: int, share: float, colour: tuple[int, int, int], font: Font) -> None:
    if not math.isfinite(share):
        draw.text((x + BAR // 2, base - 8), "x", ALARM, font, "mm")
        return
    tall = round(HEIGHT * min(max(share, 0.0), 1.0))
    draw.rectangle((x, base - max(tall, 1), x + BAR - 3, base), fill=colour)


def _legend(draw: ImageDraw.ImageDraw, series: list[str], left: int, font: Font) -> None:
    x = left
    for place, name in enumerate(series):
        draw.rectangle((x, 36, x + 12, 48), fill=COLOURS[place % len(COLOURS)])
        draw.text((x + 18, 42), name, INK, font, "lm")
        x += 24 + round(font.getlength(name)) + 16


def _label(text: str, font: Font) -> Image.Image:
    """A name turned by 30 degrees, so that long ones do not overlap."""
    flat = Image.new("RGB", (round(font.getlength(text)) + 4, SIZE + 6), BACKGROUND)
    ImageDraw.Draw(flat).text((2, 1), text, INK, font)
    return flat.rotate(-30, Image.Resampling.BICUBIC, expand=True, fillcolor=BACKGROUND)
