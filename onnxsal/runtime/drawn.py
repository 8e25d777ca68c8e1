"""A map of a series, a picture or a volume as one picture: a line above its map, the map over what the model saw, or a row of slices."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnxsal.errors import InputError
from onnxsal.runtime.heatmap import Scaled, colours, overlay, render_map
from onnxsal.runtime.session import Array

WIDTH = 900
"""Pixels of a series, and of a row of slices at most."""
SIDE = 180
"""Pixels of the longer side of a slice."""
SLICES = 5
"""So many slices of a volume are drawn at most."""
LINES = 6
"""A series of more channels than these is drawn as a picture of its values, channels downwards."""
LINE, STRIP, AXIS, MARGIN = 110, 28, 22, 12
"""Heights in pixels: of the line of one channel, of the map below it, of the axis of places; and the empty border."""
TYPE = 13
"""Size of letters in pixels."""
OPACITY = 0.85
INK, FAINT, BACKGROUND = (25, 25, 25), (105, 105, 105), (255, 255, 255)


def draw(scaled: Scaled, seen: Array | None = None) -> Image.Image:
    """The map alone, or over what was explained: ``seen`` is [C, L] of a series, RGB bytes [H, W, 3] of a picture, [C, D, H, W] of a
    volume.

    A series is a line for each channel (a picture of its values, where there are more than six), tinted by the map, above the map and the
    axis of places. A volume is a row of up to five slices along its first axis, those where the map is strongest, above the sum of its
    sizes for every slice. Raises ``InputError`` where the map does not lie on ``seen``.
    """
    places = scaled.values.ndim
    if places == 2:
        return render_map(scaled) if seen is None else overlay(seen, scaled)
    if seen is not None and (seen.ndim != places + 1 or seen.shape[1:] != scaled.values.shape):
        raise InputError(f"a map of {list(scaled.values.shape)} does not lie on {list(seen.shape)}: give [channels, places].")
    return _series(scaled, seen) if places == 1 else _volume(scaled, seen)


# ----- series -----


def _series(scaled: Scaled, seen: Array | None) -> Image.Image:
    count = len(scaled.values)
    panels = [] if seen is None else _signal(scaled, np.asarray(seen, np.float64))
    strip = Image.fromarray(colours(_columns(scaled.values, WIDTH)[None].repeat(STRIP, 0), scaled.palette))
    return _framed([*panels, strip, _axis(count)])


def _signal(scaled: Scaled, seen: Array) -> list[Image.Image]:
    """What was explained, each channel as a line, or all as a picture of values."""
    seen = np.where(np.isfinite(seen), seen, 0.0)
    if len(seen) <= LINES:
        return [_line(scaled, channel) for channel in seen]
    low, high = seen.min(), seen.max()
    bytes_ = np.rint((seen - low) / ((high - low) or 1) * 255).astype(np.uint8)
    height = int(np.clip(len(seen) * 3, LINE, 3 * LINE))
    method = Image.Resampling.BOX if seen.shape[1] > WIDTH else Image.Resampling.NEAREST
    grey = np.asarray(Image.fromarray(bytes_).resize((WIDTH, height), method))
    return [_tinted(scaled, grey[..., None].repeat(3, -1).astype(np.float64))]


def _line(scaled: Scaled, channel: Array) -> Image.Image:
    """One channel over the tint of the map; where many places share a column of pixels, from the lowest to the highest of them."""
    image = _tinted(scaled, np.full((LINE, WIDTH, 3), 255.0))
    low, high = float(channel.min()), float(channel.max())
    room = LINE - 11
    rows = 5 + room - (channel - low) / ((high - low) or 1) * room if high > low else np.full(len(channel), LINE / 2)
    pen = ImageDraw.Draw(image)
    if len(channel) <= WIDTH:
        across = (np.arange(len(channel)) + 0.5) * WIDTH / len(channel)
        pen.line(list(zip(across.tolist(), rows.tolist(), strict=True)), INK, 1 if len(channel) > WIDTH // 4 else 2)
    else:
        for column, part in enumerate(np.array_split(rows, WIDTH)):
            pen.line([(column, float(part.min())), (column, float(part.max()) + 1)], INK)
    pen.text((4, 1), f"{high:.3g}", FAINT, ImageFont.load_default(TYPE - 2))
    pen.text((4, LINE - 2), f"{low + 0.0:.3g}", FAINT, ImageFont.load_default(TYPE - 2), "ld")
    return image


def _tinted(scaled: Scaled, below: Array) -> Image.Image:
    """Colours of the map over ``below`` [h, WIDTH, 3], the stronger a value, the more of it, as ``overlay`` does with pictures."""
    strength = _columns(scaled.values, WIDTH)
    alpha = OPACITY * np.sqrt(np.abs(strength))[None, :, None]
    if scaled.palette == "diverging":
        strength = np.sign(strength) * (1 + np.abs(strength)) / 2
    return Image.fromarray(np.rint(alpha * colours(strength, scaled.palette)[None] + (1 - alpha) * below).astype(np.uint8))


def _columns(values: Array, width: int) -> Array:
    """A value for each column of pixels: that of its place, or of those that share it the one farthest from 0."""
    if len(values) <= width:
        return values[(np.arange(width) * len(values)) // width]
    parts = np.array_split(values, width)
    return np.asarray([part[np.argmax(np.abs(part))] for part in parts])


def _axis(count: int, marks: tuple[int, ...] = ()) -> Image.Image:
    """Numbers of places below a series of so many; ``marks`` are told instead of round numbers."""
    image = Image.new("RGB", (WIDTH, AXIS), BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(TYPE)
    pen.line([(0, 0), (WIDTH, 0)], FAINT)
    for at in marks or range(0, count, _step(count)):
        column = (at + 0.5) * WIDTH / count
        pen.line([(column, 0), (column, 5)], FAINT)
        half = font.getlength(str(at)) / 2
        pen.text((min(max(column, half), WIDTH - half), 6), str(at), FAINT, font, "ma")
    return image


def _step(count: int) -> int:
    """A round distance of up to ten marks."""
    size = 10 ** max(len(str(max(count // 10, 1))) - 1, 0)
    return next(s * size for s in (1, 2, 5, 10) if s * size * 10 >= count)


# ----- volumes -----


def _volume(scaled: Scaled, seen: Array | None) -> Image.Image:
    sums = np.abs(scaled.values).sum((1, 2))
    chosen = strongest(sums, SLICES)
    height, width = scaled.values.shape[1:]
    factor = min(SIDE / max(height, width), (WIDTH - MARGIN * (len(chosen) - 1)) / len(chosen) / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    row = Image.new("RGB", (WIDTH, size[1] + AXIS), BACKGROUND)
    grey = None if seen is None else _bytes(seen)
    pen, font = ImageDraw.Draw(row), ImageFont.load_default(TYPE)
    for number, at in enumerate(chosen):
        part = Scaled(scaled.values[at], scaled.palette, scaled.low, scaled.high, scaled.flat)
        image = render_map(part) if grey is None else overlay(grey[at], part)
        left = number * (size[0] + MARGIN)
        row.paste(image.resize(size, Image.Resampling.NEAREST), (left, AXIS))
        pen.text((left, 2), f"slice {at}", FAINT, font)
    total = float(sums.max()) or 1.0
    shares = Scaled(sums / total, "heat", 0.0, total, scaled.flat)
    strip = Image.fromarray(colours(_columns(shares.values, WIDTH)[None].repeat(STRIP // 2, 0), "heat"))
    return _framed([row, strip, _axis(len(sums), chosen)])


def strongest(sums: Array, most: int) -> tuple[int, ...]:
    """The numbers of up to ``most`` slices with the largest sums, in their order; where several are alike the first ones."""
    return tuple(np.sort(np.argsort(-sums, kind="stable")[:most]).tolist())


def _bytes(seen: Array) -> Array:
    """[C, D, H, W] as RGB bytes [D, H, W, 3]: three channels as colours, else their mean, stretched to the range of bytes."""
    values = np.where(np.isfinite(seen), seen, 0.0).astype(np.float64)
    values = values if len(values) == 3 else values.mean(0, keepdims=True).repeat(3, 0)
    low, high = values.min(), values.max()
    return np.rint(np.moveaxis((values - low) / ((high - low) or 1), 0, -1) * 255).astype(np.uint8)


def _framed(rows: list[Image.Image]) -> Image.Image:
    """Pictures below each other, with an empty border."""
    sheet = Image.new("RGB", (WIDTH + 2 * MARGIN, sum(r.height for r in rows) + 3 * (len(rows) - 1) + 2 * MARGIN), BACKGROUND)
    top = MARGIN
    for row in rows:
        sheet.paste(row, (MARGIN, top))
        top += row.height + 3
    return sheet
