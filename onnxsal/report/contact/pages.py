"""A contact sheet as pages of paper, drawn by matplotlib (the extra ``plot``): overlays in the largest size that needs few pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxsal.report.contact.table import ContactSheet, PictureRow, SheetColumn
from onnxsal.report.slide import MEANING, meaning
from onnxsal.runtime.figures import ALARM, INK, QUIET, bar_on, new_figure
from onnxsal.runtime.heatmap import on_original, overlay_on

PAPER, DPI = (11.69, 8.27), 150
"""Inches of A4, lying; 1754 x 1240 pixels."""
EDGE, HEAD, FOOT, GAP = 0.35, 0.75, 0.55, 0.07
"""Inches: the empty border, what stands above and below, and between two tiles."""
CAPTION = 0.34
"""Inches above a band of rows, for the names of its columns."""
WIDEST = 2.7
"""Inches of a tile at most."""
FEW = {1: 1.6, 2: 0.93}
"""Tiles shrink until one page suffices, at most to the first number of inches; else until two do; at their narrowest there are more."""


@dataclass(frozen=True)
class PageStrip:
    """Pictures side by side, each with some of the columns, and their height in inches; ``headed``: names of columns stand above."""

    rows: tuple[PictureRow, ...]
    columns: tuple[SheetColumn, ...]
    height: float
    headed: bool


def pages(sheet: ContactSheet) -> list[Any]:
    """The figures, one for each page. Raises ``MissingLibraryError`` without matplotlib."""
    for most, narrowest in FEW.items():
        wide = WIDEST
        laid = _laid(sheet, wide)
        while len(laid) > most and wide > narrowest:
            wide = max(narrowest, wide * 0.95)
            laid = _laid(sheet, wide)
        if len(laid) <= most:
            break
    return [_page(sheet, strips, wide, number, len(laid)) for number, strips in enumerate(laid, 1)]


def _laid(sheet: ContactSheet, wide: float) -> list[list[PageStrip]]:
    """The strips of every page, with tiles of this width."""
    room = PAPER[1] - 2 * EDGE - HEAD - FOOT
    found: list[list[PageStrip]] = [[]]
    left = room
    for strip in _strips(sheet, wide):
        again = PageStrip(strip.rows, strip.columns, strip.height, True)  # a page begins with the names
        needed = _tall(strip)
        if needed > left and found[-1]:
            found.append([])
            left, strip = room, again
        found[-1].append(strip)
        left -= _tall(strip)
    return found


def _tall(strip: PageStrip) -> float:
    return strip.height + GAP + (CAPTION if strip.headed else 0)


def _strips(sheet: ContactSheet, wide: float) -> Iterator[PageStrip]:
    """Band by band: as many columns as the page is wide, with every picture."""
    across = max(1, int((PAPER[0] - 2 * EDGE + GAP) / (wide + GAP)) - 1)
    bands = -(-len(sheet.columns) // across)
    each = -(-len(sheet.columns) // bands)
    tallest = PAPER[1] - 2 * EDGE - HEAD - FOOT - CAPTION - GAP
    beside = max(1, (across + 1) // (each + 1))  # pictures of few columns stand side by side
    shares = [size[1] / size[0] for size in (on_original(row.shown, 64)[0].size for row in sheet.rows)]
    for start in range(0, len(sheet.columns), each):
        for number in range(0, len(sheet.rows), beside):
            height = min(wide * max(shares[number : number + beside]), 1.5 * wide, tallest)
            yield PageStrip(sheet.rows[number : number + beside], sheet.columns[start : start + each], height, number == 0)


def _page(sheet: ContactSheet, strips: Sequence[PageStrip], wide: float, number: int, count: int) -> Any:
    figure = new_figure(*PAPER, dpi=DPI)
    told = f"sorted by {sheet.measure}" if sheet.measure and len(sheet.columns) > 1 else ""
    _write(figure, EDGE, EDGE, sheet.title, 13, INK, weight="bold")
    _write(figure, EDGE, EDGE + 0.27, "   ".join(filter(None, [told, f"page {number} of {count}" if count > 1 else ""])), 8, QUIET)
    _colours(figure, sheet)
    top = EDGE + HEAD
    for strip in strips:
        if strip.headed:
            _captions(figure, strip, top, wide, sheet.measure)
            top += CAPTION
        for row, left in zip(strip.rows, _lefts(strip, wide), strict=True):
            _row(figure, row, strip, (left, top), wide)
        top += strip.height + GAP
    return figure


def _write(figure: Any, left: float, top: float, text: str, size: float, colour: str, **more: Any) -> None:
    figure.text(left / PAPER[0], 1 - top / PAPER[1], text, fontsize=size, color=colour, va=more.pop("va", "top"), **more)


def _axes(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    return figure.add_axes((left / PAPER[0], 1 - (top + height) / PAPER[1], width / PAPER[0], height / PAPER[1]))


def _lefts(strip: PageStrip, wide: float) -> list[float]:
    """Where the pictures of a strip begin."""
    return [EDGE + number * (len(strip.columns) + 1) * (wide + GAP) for number in range(len(strip.rows))]


def _captions(figure: Any, strip: PageStrip, top: float, wide: float, measure: str) -> None:
    for start, (number, column) in itertools.product(_lefts(strip, wide), enumerate(strip.columns, 1)):
        left = start + number * (wide + GAP)
        mean = f"\n{_number(column.mean)}" if measure and column.mean is not None else "\n"
        _write(figure, left, top + CAPTION - 0.05, _cut(column.title, wide, 8) + mean, 8, INK, va="bottom", linespacing=1.1)


def _row(figure: Any, row: PictureRow, strip: PageStrip, corner: tuple[float, float], wide: float) -> None:
    """The picture itself with its one caption, and the overlays."""
    pixels, (left, top) = round(wide * DPI * 1.5), corner
    seen = _axes(figure, left, top, wide, strip.height)
    seen.imshow(on_original(row.shown, pixels)[0])
    seen.set_axis_off()
    label = "\n".join(_cut(text, wide, 7) for text in (row.title, row.note) if text)
    seen.text(0.02, 0.02, label, transform=seen.transAxes, fontsize=7, color="white", va="bottom", bbox=_box())
    for number, column in enumerate(strip.columns, 1):
        tile = row.tiles.get(column.title)
        if tile is None:
            continue
        axes = _axes(figure, left + number * (wide + GAP), top, wide, strip.height)
        axes.imshow(overlay_on(replace(row.shown, mark=tile.mark), tile.map, longest=pixels))
        axes.set_axis_off()
        told = "flat: it shows nothing" if tile.map.flat else " ".join(filter(None, [_number(tile.measured), tile.note]))
        if told:
            box = _box(ALARM if tile.map.flat else "black")
            axes.text(0.02, 0.02, _cut(told, wide, 6.5), transform=axes.transAxes, fontsize=6.5, color="white", va="bottom", bbox=box)


def _box(colour: str = "black") -> dict[str, Any]:
    return {"facecolor": colour, "alpha": 0.6, "edgecolor": "none", "pad": 1.5}


def _colours(figure: Any, sheet: ContactSheet) -> None:
    """What the colours mean, once, at the foot of the page."""
    for number, palette in enumerate(sheet.palettes):
        left, top = EDGE + number * (PAPER[0] - 2 * EDGE) / len(sheet.palettes), PAPER[1] - EDGE - 0.3
        bar_on(_axes(figure, left, top, 1.3, 0.13), palette, *MEANING[palette][:2]).tick_params(labelsize=7)
        _write(figure, left + 1.45, top - 0.02, meaning(palette).replace(". ", ".\n"), 7, INK)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def _cut(text: str, wide: float, size: float) -> str:
    """Text that fits into so many inches, in letters of this size."""
    most = max(4, int(wide * 72 / (0.56 * size)))
    return text if len(text) <= most else f"{text[: most - 1]}…"
