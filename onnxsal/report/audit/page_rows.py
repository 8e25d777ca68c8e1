"""What the page shows of rows: the bars of each, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from onnxsal.report.audit.blocks import Cell
from onnxsal.report.audit.document import Document, SampleCard
from onnxsal.runtime.figures import image_of
from onnxsal.runtime.row_figure import MOST, cell, cut, ordered, summary_figure
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownRow


@dataclass(frozen=True)
class ColumnBar:
    """A column beside its value, its attribution, and where its bar begins and how wide it is, in percent of the place for bars."""

    text: str
    size: float
    left: float
    wide: float


def bars_of(row: SampleCard, columns: Sequence[str], method: str) -> Iterator[ColumnBar]:
    """The bars of a row by a method, the largest first; the smallest, beyond ``MOST``, are summed as one."""
    values = np.array(row.maps[method].by_column, np.float64)
    apart, rest = cut(np.abs(values), MOST)
    named = [(f"{cell(columns[i])} = {cell(row.values[i])}", float(values[i])) for i in apart]
    if rest:
        named.append((f"{len(rest)} others", float(values[rest].sum())))
    whole = max(abs(size) for _, size in named) or 1.0
    for text, size in named:
        wide = 50 * abs(size) / whole
        yield ColumnBar(text, size, 50 if size > 0 else 50 - wide, wide)


def signed(size: float) -> str:
    """An attribution as people read it."""
    return f"{size:+.3g}" if size else "0"


def attributions_of(document: Document) -> Iterator[tuple[str, list[SampleCard], Array]]:
    """Method, the rows that have an attribution by it, and these [rows, columns]."""
    for method in (m.name for m in document.methods if not m.refused):
        rows = [p for p in document.pictures if method in p.maps]
        if rows and document.data.columns:
            yield method, rows, np.array([p.maps[method].by_column for p in rows], np.float64)


def summary_images(document: Document) -> Iterator[tuple[str, str, Image.Image]]:
    """Title, the same in words, and picture of all rows by each method: the means beside the swarm."""
    columns = tuple(document.data.columns)
    for method, rows, values in attributions_of(document):
        shown = [ShownRow(columns, tuple(p.values)) for p in rows]
        sizes = np.abs(values).mean(0)
        largest = ", ".join(f"{columns[i]} {sizes[i]:.3g}" for i in ordered(sizes)[:MOST])
        title = f"{method}, {document.of.count(len(rows))}, each for the class that it is taken for"
        yield title, f"Mean size of the attribution by column: {largest}.", image_of(summary_figure(shown, values))


def column_means(document: Document) -> tuple[list[str], list[list[Any]]]:
    """The methods as heads over numbers, and a line for each column: the mean size of its attribution by each, the largest first."""
    means = {method: np.abs(values).mean(0) for method, _, values in attributions_of(document)}
    if not means:
        return [], []
    shares = [m / m.sum() if m.sum() else m for m in means.values()]
    order = ordered(np.mean(shares, 0))
    lines = [[document.data.columns[i], *(Cell(f"{m[i]:.3g}", float(m[i])) for m in means.values())] for i in order]
    return [f"#{method}" for method in means], lines
