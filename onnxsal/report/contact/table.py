"""What a contact sheet holds: pictures in rows, methods and targets in columns, a map where they meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxsal.errors import InputError
from onnxsal.runtime.heatmap import Scaled
from onnxsal.runtime.shown import ShownMark, ShownPicture


@dataclass(frozen=True)
class Tile:
    """The map of one picture by one method; ``measured``: what maps are compared by (``None``: not known); ``note``: a few words;
    ``mark``: what was asked about, if it is a place.
    """

    map: Scaled
    measured: float | None = None
    note: str = ""
    mark: ShownMark | None = None


@dataclass
class PictureRow:
    """A picture, what stands beside it, and its tiles by the titles of their columns."""

    title: str
    shown: ShownPicture
    note: str = ""
    tiles: dict[str, Tile] = field(default_factory=dict)


@dataclass(frozen=True)
class SheetColumn:
    """A method or a target, with the mean of what was measured over the pictures (``None``: nothing was)."""

    title: str
    mean: float | None = None


@dataclass(frozen=True)
class ContactSheet:
    """``measure``: what the numbers of the tiles are, in a few words ('' = there are none)."""

    title: str
    columns: tuple[SheetColumn, ...]
    rows: tuple[PictureRow, ...]
    measure: str = ""

    @property
    def palettes(self) -> list[str]:
        """Those that its maps are drawn in."""
        return list(dict.fromkeys(tile.map.palette for row in self.rows for tile in row.tiles.values()))


def contact_sheet(title: str, rows: Sequence[PictureRow], measure: str = "", larger_is_better: bool = True) -> ContactSheet:
    """The sheet of these rows, its columns sorted by the mean of what was measured; those of which nothing was measured come last, in their
    order. Raises ``InputError`` without a map.
    """
    titles = list(dict.fromkeys(name for row in rows for name in row.tiles))
    if not titles:
        raise InputError("a contact sheet needs at least one picture with a map.")
    sign = -1 if larger_is_better else 1
    found = [SheetColumn(name, _mean([row.tiles[name].measured for row in rows if name in row.tiles])) for name in titles]
    columns = sorted(found, key=lambda column: math.inf if column.mean is None else sign * column.mean)
    known = any(column.mean is not None for column in columns)
    return ContactSheet(title, tuple(columns), tuple(replace(row) for row in rows), measure if known else "")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None
