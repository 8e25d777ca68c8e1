"""Scatter plots: the sum of relevance against the score, one panel per cut of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnxsal.metrics.conservation import Conservation
from onnxsal.report.sheet import BACKGROUND, FAINT, INK

SIDE, LEFT, TOP, BELOW, SIZE = 240, 72, 52, 48, 13
DOT = (0, 114, 178)


def conservation_plot(result: Conservation) -> Image.Image:
    """Sum of relevance over score for the last and first residual block and the input; on the line they are equal."""
    panels = []
    for name in result.shown():
        i = result.cuts.index(name)
        kind = "input" if i == len(result.cuts) - 1 else "block"
        panels.append(_panel(result.score, result.sums[:, i], f"{kind} {name}"))
    width, height = sum(p.width for p in panels), panels[0].height + 28
    image = Image.new("RGB", (width, height), BACKGROUND)
    ImageDraw.Draw(image).text((12, 8), f"{result.method}: relevance sum against score", INK, ImageFont.load_default(SIZE + 3))
    x = 0
    for panel in panels:
        image.paste(panel, (x, 28))
        x += panel.width
    return image


def _panel(score: np.ndarray, sums: np.ndarray, title: str) -> Image.Image:
    """One square panel with the line of equality; what is not finite is left out and counted."""
    font = ImageFont.load_default(SIZE)
    image = Image.new("RGB", (LEFT + SIDE + 20, TOP + SIDE + BELOW), BACKGROUND)
    draw = ImageDraw.Draw(image)
    finite = np.isfinite(score) & np.isfinite(sums)
    xs, ys = _range(score[finite]), _range(np.concatenate([sums[finite], score[finite]]))
    draw.rectangle((LEFT, TOP, LEFT + SIDE, TOP + SIDE), outline=(200, 200, 200))
    lost = f"   ({np.count_nonzero(~finite)} not finite)" if not finite.all() else ""
    draw.text((LEFT, TOP - 22), _short(title, font) + lost, INK, font)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + SIDE * (x - xs[0]) / (xs[1] - xs[0]), TOP + SIDE * (1 - (y - ys[0]) / (ys[1] - ys[0]))

    low, high = max(xs[0], ys[0]), min(xs[1], ys[1])
    if low < high:
        draw.line((*place(low, low), *place(high, high)), (200, 200, 200), 2)
    for x, y in zip(score[finite], sums[finite], strict=True):
        u, v = place(float(x), float(y))
        draw.ellipse((u - 3, v - 3, u + 3, v + 3), DOT)
    for share, value in ((0, xs[0]), (1, xs[1])):
        draw.text((LEFT + SIDE * share, TOP + SIDE + 6), f"{value:.3g}", FAINT, font, "ma")
    for share, value in ((1, ys[0]), (0, ys[1])):
        draw.text((LEFT - 6, TOP + SIDE * share), f"{value:.3g}", FAINT, font, "rm")
    draw.text((LEFT + SIDE / 2, TOP + SIDE + 24), "score", FAINT, font, "ma")
    return image


def _range(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Limits of an axis, a little wider than the values."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.08 * (high - low) if high > low else max(abs(high), 1.0) * 0.1
    return low - margin, high + margin


def _short(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, its middle left out where it is too wide."""
    while font.getlength(text) > SIDE and len(text) > 12:
        half = math.floor(len(text) / 2)
        text = text[: half - 2] + "…" + text[half + 1 :]
        text = text.replace("……", "…")
    return text
