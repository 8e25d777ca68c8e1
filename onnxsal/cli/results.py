"""What ``explain`` and ``demo`` leave behind: the files of each explained sample, the contact sheet, and the table of all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.cli.shell import say, show, show_json, show_table
from onnxsal.disk import refuse_loss
from onnxsal.errors import InputError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.facts.tokens import INTEGERS
from onnxsal.given.prepared import preprocess_of
from onnxsal.given.sample import GivenSample
from onnxsal.report.artefacts import PICTURE, TOP, Style, record, save_artefacts
from onnxsal.report.asked_place import asked_place
from onnxsal.report.contact.html_page import contact_page
from onnxsal.report.contact.pages import pages
from onnxsal.report.contact.table import PictureRow, Tile, contact_sheet
from onnxsal.report.parts import parts_of, parts_sheet
from onnxsal.report.path_sheet import path_sheet
from onnxsal.report.slide import short, slide, sure
from onnxsal.report.text_files import text_record
from onnxsal.runtime.figures import png_of, svg_of
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.heatmap import scale_map
from onnxsal.runtime.libraries import has, library
from onnxsal.runtime.pictures import save_picture
from onnxsal.runtime.providers import as_text
from onnxsal.runtime.series_figure import is_spectrogram
from onnxsal.runtime.shown import ShownPicture, ShownValues

MOST_SLIDES = 6
"""So many explained samples have a slide each unless that is asked for; of more there is the contact sheet."""

MOST_ROWS = 60
"""Pictures on a contact sheet at most."""

SHEET = "contact_sheet"

PLOT = "matplotlib"

NO_PLOT = "Slides, contact sheets as PNG or SVG, and drawings of series and volumes need matplotlib: pip install 'onnxsal[plot]'."


@dataclass(frozen=True)
class ResultFiles:
    """What is written: ``style`` of maps; ``show_path``: the pictures along a path of integration; ``slides``: one for each sample
    (``None``: of the first few); ``svg``: slides and sheets as SVG too; ``boxes``: how four numbers tell
    a box (``report.asked_place``).
    """

    style: Style = field(default_factory=Style)
    show_path: bool = False
    slides: bool | None = None
    svg: bool = False
    boxes: str | None = None


class Results:
    """What a command made of its samples: files are written as each comes in (``add``), what holds all of them at the end (``finish``)."""

    def __init__(self, out: Path, layout: ResultFiles = ResultFiles(), planned: int = 1) -> None:
        """``planned``: how many samples and columns there will be. Raises ``MissingLibraryError`` where slides are asked for in vain, and
        ``OutputError`` where a sheet would replace files of others.
        """
        self.out, self.layout = out, layout
        if layout.slides or layout.svg:
            library(PLOT)
        self.plots = has(PLOT)
        self.slides = self.plots and layout.slides is not False and (bool(layout.slides) or planned <= MOST_SLIDES)
        self.records: list[dict[str, Any]] = []
        self.rows: dict[str, PictureRow] = {}
        self.warned: dict[str, list[str]] = {}
        self.left_out = 0
        self.places = ""
        self.needs_plot = False
        for kind in ("png", "html"):
            refuse_loss(out / f"{SHEET}.{kind}")

    def add(
        self,
        explainer: Explainer,
        sample: GivenSample,
        one: Explanation,
        called: str = "",
        row: str = "",
        column: str = "",
        also: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write everything about one explained sample, and note its map for the sheet, in this ``row`` and ``column``.

        Its method is ``called`` so; where these words are '', the names of sample and method are taken. Returns its record, with what it
        shall hold ``also``.
        """
        ask, question = explainer.conversion.ask, explainer.conversion.question
        base = self.base(sample.name, called or explainer.method)
        counted = question.x.name if question.x.dtype in INTEGERS else ""
        ids = sample.feed.get(counted if question.tokens is None else question.tokens.ids)
        numbers = record(one, question, ask.labels, ids)
        facts = {"source": sample.source, "model": str(ask.model), **numbers, "text": text_record(one, sample.shown), **(also or {})}
        if isinstance(sample.shown, ShownPicture) and question.reading is not None:
            place = asked_place(one, question, sample.shown, self.layout.boxes)
            sample = replace(sample, shown=replace(sample.shown, mark=place.mark))
            self.places = self.places or place.told
        files = self._beside(explainer, sample, one, base) | self._slide(explainer, sample, one, facts, base)
        files = save_artefacts(base, one, facts, sample.shown, self.layout.style, files)
        for warning in facts["warnings"]:
            self.warned.setdefault(warning, []).append(near(sample.source))
        found = {**facts, "files": files}
        self.records.append(found)
        self._keep(sample, one, found, row or sample.name, column or explainer.method)
        return found

    def base(self, name: str, method: str) -> Path:
        """What the files of a sample begin with."""
        return self.out / f"{name}.{re.sub('[^0-9A-Za-z_.=+-]', '-', method)}"

    def _beside(self, explainer: Explainer, sample: GivenSample, one: Explanation, base: Path) -> dict[str, str]:
        """The parts of the map, and the pictures along a path, where there are such."""
        ask, question, found = explainer.conversion.ask, explainer.conversion.question, {}
        parts = parts_of(one)
        drawable = self.plots or all(part.ndim == PICTURE for part in parts.values())
        if drawable and (parts or (ask.components and one.components)):  # parts of a product are returned unasked
            found["components"] = str(save_picture(parts_sheet(one), f"{base}.components.png"))
        if self.layout.show_path:
            if question.source not in sample.feed:
                raise InputError(f"--show-path tiles pictures; '{question.x.name}', which is explained, is none that is fed.")
            sheet = path_sheet(explainer.conversion, sample.feed[question.source], preprocess_of(ask))
            found["path"] = str(save_picture(sheet, f"{base}.path.png"))
        return found

    def _slide(self, explainer: Explainer, sample: GivenSample, one: Explanation, facts: Mapping[str, Any], base: Path) -> dict[str, str]:
        """The slide, of a sample that has a map and something to lay it over."""
        if one.saliency_map is None:
            return {}
        self.needs_plot |= not self.plots
        if not self.slides or sample.shown is None:
            return {}
        if isinstance(sample.shown, ShownValues) and is_spectrogram(sample.shown) and one.saliency_map.ndim == 2:
            return {}  # its map has no axis of frequencies that a slide could show; the overlay has both axes
        style, places = self.layout.style, one.saliency_map.ndim - 1
        scaled = scale_map(one.saliency_map[0], style.palette, style.percentile, places)
        told = {**facts, "name": Path(sample.source).name or sample.name, "model_name": explainer.conversion.ask.name}
        figure = slide(told, explainer.conversion.method.title, scaled, sample.shown)
        found = {"slide": str(write_whole(f"{base}.slide.png", png_of(figure)))}
        if self.layout.svg:
            found["slide_svg"] = str(write_whole(f"{base}.slide.svg", svg_of(figure)))
        return found

    def _keep(self, sample: GivenSample, one: Explanation, facts: Mapping[str, Any], row: str, column: str) -> None:
        """Note the map of a picture as a tile of the sheet."""
        if one.saliency_map is None or not isinstance(sample.shown, ShownPicture):
            return
        if row not in self.rows and len(self.rows) == MOST_ROWS:
            self.left_out += 1
            return
        best = facts["top"][0] if facts["top"] else None
        note = " ".join(filter(None, [short(best), sure(facts, best["index"])])) if best else ""
        kept = self.rows.setdefault(row, PictureRow(Path(sample.source).name or row, sample.shown, note))
        other = best is not None and ("place" in facts["target"] or facts["target"]["index"] != best["index"])
        held = facts.get("occlusion_correlation")
        measured = facts["residual"] if held is None else held["pearson"]
        scaled = scale_map(one.saliency_map[0].astype(np.float32), self.layout.style.palette, self.layout.style.percentile)
        called = short(facts["target"])
        kept.tiles[column] = Tile(scaled, measured, called if other and called not in column else "", sample.shown.mark)

    def sheet(self, title: str) -> dict[str, str]:
        """Write the contact sheet, where there are two maps of pictures or more; the files by kind."""
        if sum(len(row.tiles) for row in self.rows.values()) < 2:
            return {}
        held = any(facts.get("occlusion_correlation") for facts in self.records)
        measure = "correlation with occlusion" if held else "residual, what a map leaves unexplained"
        made = contact_sheet(title, list(self.rows.values()), measure, larger_is_better=held)
        found = {"contact_page": str(write_whole(self.out / f"{SHEET}.html", contact_page(made, version("onnxsal"))))}
        if self.plots:
            for number, figure in enumerate(pages(made), 1):
                name = self.out / (SHEET if number == 1 else f"{SHEET}-{number}")
                key = "contact_sheet" if number == 1 else f"contact_sheet_{number}"
                found[key] = str(write_whole(f"{name}.png", png_of(figure)))
                if self.layout.svg:
                    found[f"{key}_svg"] = str(write_whole(f"{name}.svg", svg_of(figure)))
        return found

    def warnings(self) -> None:
        """Say every warning once, with the samples that it is about."""
        for text, sources in self.warned.items():
            names = list(dict.fromkeys(sources))
            say(f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {text}", "warning")

    def finish(self, title: str, json: bool) -> None:
        """The sheet, the warnings, and the records as JSON or as a table."""
        files = self.sheet(title)
        self.warnings()
        if json:
            show_json([{**facts, "files": {**facts["files"], **files}} for facts in self.records])
            return
        tell(self.records)
        for path in files.values():
            show(f"contact sheet: {near(path)}")
        if self.places:
            show(self.places)
        if self.left_out:
            show(f"the contact sheet holds the first {MOST_ROWS} pictures")
        if self.needs_plot:
            show(NO_PLOT)


def tell(records: Sequence[dict[str, Any]]) -> None:
    """The records as a table."""
    methods = len({facts["method"] for facts in records}) > 1
    columns = ("sample", *(["method"] if methods else []), "predicted", "explained", "score", "residual", "reached", "ms", "picture")
    rows = [row(r) for r in records]
    rows = [(r[0], facts["method"], *r[1:]) for r, facts in zip(rows, records, strict=True)] if methods else rows
    show_table(columns, rows, ("score", "residual", "reached", "ms"))
    strongest = [token for facts in records for token in strongest_tokens(facts)]
    if strongest:
        show_table(("sample", "token", "id", "attribution"), strongest, ("token", "id", "attribution"))
    if names := list(records[0]["parts"]):
        told = [(near(r["source"]), *(f"{r['parts'][n]:+.4g}" if n in r["parts"] else "" for n in names)) for r in records]
        show_table(("sample", *names), told, names)
    tell_providers(records[0])


def tell_providers(facts: Mapping[str, Any]) -> None:
    """What it was computed on, where options were set there that decide how exact the numbers are."""
    if facts["provider_options"]:
        show(f"computed on {as_text(facts['providers'], facts['provider_options'])}")


def row(facts: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table: what was explained, its numbers, and the picture to look at."""
    files = facts["files"]
    return (
        near(facts["source"]),
        named(facts["top"][0]) if facts["top"] else "",
        named(facts["target"]) + (f" rather than {named(facts['against'])}" if facts["against"] else ""),
        f"{facts['score']:.4g}",
        *law(facts),
        f"{facts['seconds'] * 1000:.0f}",
        near(files.get("overlay") or files.get("map") or files.get("words") or files.get("tokens") or files["attribution"]),
    )


def strongest_tokens(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """The tokens of the largest attributions, either sign, in their order: the input, the place, the id and the attribution of each."""
    told = facts["tokens"]
    if told is None or not told["ids"] or facts["text"] is not None:
        return []
    values, ids = np.asarray(told["attribution"]), np.asarray(told["ids"])
    best = np.sort(np.argsort(-np.abs(values.reshape(-1)), kind="stable")[:TOP])
    places = zip(*np.unravel_index(best, values.shape), strict=True)
    return [(near(facts["source"]), ", ".join(map(str, p)), str(ids[p]), f"{values[p]:+.4g}") for p in places]


def law(facts: dict[str, Any]) -> tuple[str, str]:
    """The error of the method's law, and the share of the score at the input without which that of a relevance method tells little."""
    residual, reached = facts["residual"], facts["reached"]
    return "" if residual is None else f"{residual:.1e}", "" if reached is None else f"{reached:.1%}"


def near(path: str) -> str:
    """A path as seen from the present folder, where it lies below it."""
    whole, folder = os.path.abspath(path), os.path.join(os.getcwd(), "")
    return whole.removeprefix(folder) if whole.startswith(folder) else path


def named(entry: dict[str, Any]) -> str:
    """A class by its label, or its number."""
    which = entry.get("place", entry["index"])
    return str(which) if entry["label"] is None else f"{entry['label']} ({which})"
