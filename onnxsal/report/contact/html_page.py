"""A contact sheet as one HTML page that needs nothing but a browser: it zooms, and turns maps on and off."""

from __future__ import annotations

import base64
import importlib.resources
import io
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from onnxsal.report.contact.table import ContactSheet, PictureRow, Tile
from onnxsal.report.slide import MEANING, meaning
from onnxsal.runtime.heatmap import cover, ink, on_original
from onnxsal.runtime.marks import mark_alone
from onnxsal.runtime.palettes import colours
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownPicture
from onnxsal.untrusted import printable

PACKAGE = "onnxsal.report.contact"
LONGEST = 720
"""Pixels of the longer side of a picture."""
LEVELS = 255
"""Colours of a map."""
FINEST = 256
"""Pixels of the longer side of a map: finer ones are reduced to that."""


def contact_page(sheet: ContactSheet, version: str) -> bytes:
    """The page. Everything that comes from files (names, labels) is escaped."""
    environment = Environment(
        loader=PackageLoader(PACKAGE, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = {column.title: number for number, column in enumerate(sheet.columns)}
    text = environment.get_template("page.html.j2").render(
        sheet=sheet,
        version=version,
        css=Markup(_own("page.css")),
        js=Markup(_own("page.js")),
        rows=[_row(number, row, numbers) for number, row in enumerate(sheet.rows)],
        bars=[
            {"uri": _bar(palette), "low": MEANING[palette][0], "high": MEANING[palette][1], "words": meaning(palette)}
            for palette in sheet.palettes
        ],
    )
    return printable(text, keep="\n\t").encode()


def _own(name: str) -> str:
    return importlib.resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _row(number: int, row: PictureRow, columns: dict[str, int]) -> dict[str, Any]:
    """A picture and its maps; the picture is there once, as a background that all of its tiles share."""
    whole, box = on_original(row.shown, LONGEST)
    share = [100 * at / side for at, side in zip(box, (*whole.size, *whole.size), strict=True)]
    place = {"left": share[0], "top": share[1], "width": share[2] - share[0], "height": share[3] - share[1]}
    tiles = [(columns[title], title, _tile(tile, row.shown)) for title, tile in row.tiles.items()]
    return {
        "number": number,
        "title": row.title,
        "note": row.note,
        "uri": _uri(_jpeg(whole), "jpeg"),
        "size": whole.size,
        "place": {name: f"{value:.3f}" for name, value in place.items()},
        "tiles": sorted(tiles, key=lambda found: found[0]),
    }


def _tile(tile: Tile, shown: ShownPicture) -> dict[str, Any]:
    values = tile.map.values
    if max(values.shape) > FINEST:
        size = [max(1, round(side * FINEST / max(values.shape))) for side in values.shape]
        values = np.asarray(Image.fromarray(values.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX), np.float64)
    seen = shown.seen.shape[1], shown.seen.shape[0]
    tones, maps = _levels(values, tile.map.palette)
    return {
        "over": tones,
        "map": maps,
        "mark": None if tile.mark is None else _uri(_png(mark_alone(tile.mark, seen, LONGEST)), "png"),
        "flat": tile.map.flat,
        "low": f"{tile.map.low:.3g}",
        "high": f"{tile.map.high:.3g}",
        "measured": tile.measured,
        "note": tile.note,
    }


def _levels(values: Array, palette: str) -> tuple[str, str]:
    """Data URIs of what an overlay lays over a picture, with how far it covers it, and of the map alone, both in 255 levels."""
    first = -1 if palette == "diverging" else 0
    steps = np.linspace(first, 1, LEVELS)
    levels = Image.fromarray(np.rint((values - first) / (1 - first) * (LEVELS - 1)).astype(np.uint8))
    found = []
    for tones, more in (
        (ink(steps, palette), {"transparency": np.rint(255 * cover(steps)).astype(np.uint8).tobytes()}),
        (colours(steps, palette), {}),
    ):
        image, buffer = levels.copy(), io.BytesIO()
        image.putpalette(tones.tobytes())
        image.save(buffer, "PNG", optimize=True, **more)
        found.append(_uri(buffer.getvalue(), "png"))
    return found[0], found[1]


def _bar(palette: str) -> str:
    return _levels(np.linspace(-1 if palette == "diverging" else 0, 1, 256)[None], palette)[0]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
