"""Lines over one axis: scores while pixels go, likeness while weights are drawn anew."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnxsal.errors import InputError
from onnxsal.report.bars import COLOURS, SIZE, Font
from onnxsal.report.sheet import BACKGROUND, FAINT, INK

WIDTH, HEIGHT = 560, 320
LEFT, TOP, BELOW = 66, 62, 48
MARKS = ("disc", "square", "triangle", "cross", "diamond")
GRID, DOTTED = (225, 225, 225), (120, 120, 120)
SHARP = 2
"""Drawn this many times larger and shrunk, for smooth lines."""

Point = tuple[float, float]


def line_chart(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str = "",
    across: str = "",
    up: str = "",
    dotted: Collection[str] = (),
    log: bool = False,
) -> Image.Image:
    """Name -> (axis [K], values [K]) as lines of different colour and mark, their names beside them; NaN leaves a gap.

    Lines named in ``dotted`` are grey and dotted. ``log``: a logarithmic axis, of positive numbers only.
    """
    shown = {n: (np.asarray(x, np.float64), np.asarray(y, np.float64)) for n, (x, y) in lines.items()}
    values = np.concatenate([y for _, y in shown.values()]) if shown else np.empty(0)
    if not np.isfinite(values).any():
        raise InputError("a chart of lines needs at least one finite value.")
    axis = np.concatenate([x for x, _ in shown.values()])
    if log and axis.min() <= 0:
        raise InputError("a logarithmic axis takes positive numbers only.")
    ticks_y, ticks_x = _ticks(min(0.0, float(np.nanmin(values))), float(np.nanmax(values))), _across(axis, log)
    low, high = (np.log10(axis.min()), np.log10(axis.max())) if log else (float(axis.min()), float(axis.max()))
    font, large = (ImageFont.load_default((SIZE + more) * SHARP) for more in (0, 3))
    legend = max(font.getlength(name) for name in shown) / SHARP + 60
    size = (round(LEFT + WIDTH + legend + 12), TOP + HEIGHT + BELOW)
    size = (max(size[0], round(8 + large.getlength(title) / SHARP + 24)), size[1])
    image = Image.new("RGB", (size[0] * SHARP, size[1] * SHARP), BACKGROUND)
    draw = ImageDraw.Draw(image)

    def at(x: float, y: float) -> Point:
        place = (math.log10(x) if log else x) - low
        return (LEFT + WIDTH * place / ((high - low) or 1)) * SHARP, (
            TOP + HEIGHT * (1 - (y - ticks_y[0]) / (ticks_y[-1] - ticks_y[0]))
        ) * SHARP

    _frame(draw, at, ticks_x, ticks_y, axis, font)
    draw.text((8 * SHARP, 8 * SHARP), title, INK, large)
    draw.text(((LEFT + WIDTH // 2) * SHARP, (TOP + HEIGHT + 34) * SHARP), across, FAINT, font, "mm")
    draw.text((8 * SHARP, (TOP - 16) * SHARP), up, FAINT, font, "lm")
    number = 0
    for row, (name, (x, y)) in enumerate(shown.items()):
        colour = DOTTED if name in dotted else COLOURS[1:][number % (len(COLOURS) - 1)]
        mark = MARKS[row % len(MARKS)]
        _line(draw, [at(a, b) if math.isfinite(b) else None for a, b in zip(x, y, strict=True)], colour, name in dotted, mark)
        beside = (TOP + 10 + 20 * row) * SHARP
        ends = [((LEFT + WIDTH + 14) * SHARP, beside), ((LEFT + WIDTH + 44) * SHARP, beside)]
        _line(draw, [*ends], colour, name in dotted, "")
        _mark(draw, ((LEFT + WIDTH + 29) * SHARP, beside), colour, mark)
        draw.text(((LEFT + WIDTH + 50) * SHARP, beside), name, INK, font, "lm")
        number += name not in dotted
    return image.resize(size, Image.Resampling.LANCZOS)


def _frame(draw: ImageDraw.ImageDraw, at: object, ticks_x: list[float], ticks_y: list[float], axis: np.ndarray, font: Font) -> None:
    assert callable(at)
    for y in ticks_y:
        begin, end = at(float(axis.min()), y), at(float(axis.max()), y)
        draw.line((*begin, *end), INK if y == 0 else GRID, SHARP)
        draw.text((begin[0] - 8 * SHARP, begin[1]), f"{y:.3g}", FAINT, font, "rm")
    for x in ticks_x:
        foot = at(x, ticks_y[0])
        draw.line((*foot, foot[0], foot[1] + 5 * SHARP), FAINT, SHARP)
        draw.text((foot[0], foot[1] + 8 * SHARP), f"{x:.4g}", FAINT, font, "mt")


def _line(draw: ImageDraw.ImageDraw, points: list[Point | None], colour: tuple[int, int, int], dotted: bool, mark: str) -> None:
    for first, second in pairwise(points):
        if first is None or second is None:
            continue
        pieces = max(1, round(math.dist(first, second) / (4 * SHARP))) if dotted else 1
        for i in range(0, pieces, 2):
            ends = [tuple(a + (b - a) * min(j / pieces, 1) for a, b in zip(first, second, strict=True)) for j in (i, i + 1)]
            draw.line((*ends[0], *ends[1]), colour, 2 * SHARP)
    every = max(1, len(points) // 10)
    for i, point in enumerate(points):
        if mark and point is not None and i % every == 0:
            _mark(draw, point, colour, mark)


def _mark(draw: ImageDraw.ImageDraw, at: Point, colour: tuple[int, int, int], mark: str) -> None:
    (x, y), r = at, 4 * SHARP
    corners = {
        "square": [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)],
        "triangle": [(x - r, y + r), (x, y - r), (x + r, y + r)],
        "diamond": [(x - r, y), (x, y - r), (x + r, y), (x, y + r)],
    }
    if mark == "disc":
        draw.ellipse((x - r, y - r, x + r, y + r), colour)
    elif mark == "cross":
        draw.line((x - r, y - r, x + r, y + r), colour, SHARP)
        draw.line((x - r, y + r, x + r, y - r), colour, SHARP)
    else:
        draw.polygon(corners[mark], colour)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below ``low`` to above ``high``."""
    span = (high - low) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / 4))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if span / (unit * m) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _across(axis: np.ndarray, log: bool) -> list[float]:
    low, high = float(axis.min()), float(axis.max())
    if not log:
        return [t for t in _ticks(low, high) if low - 1e-9 <= t <= high + 1e-9]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low * (1 - 1e-9) <= m * 10.0**p <= high * (1 + 1e-9)]
