"""Attributions of a table's columns as charts: the bars of one row, the means and the swarm of many. Needs matplotlib (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.runtime.libraries import library
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownRow
from onnxsal.untrusted import printable

FOR, AGAINST, GREY = "#B2182B", "#2166AC", "#8C8C8C"
"""Bars above 0, below 0, and what no colour is for: red and blue that colour-blind readers tell apart."""

SCALE = "cividis"
"""The colours of a column's values, from the smallest to the largest: perceptually uniform, and safe for colour-blind eyes."""

MOST = 12
"""So many columns are drawn one by one; the others as one."""

CELL = 28
"""Characters of a name or a value that are shown."""

SPREAD = 0.38
"""How far a swarm reaches above and below its line."""


def draw_row(
    ax: Any, shown: ShownRow, values: Array, most: int = MOST, score: float | None = None, base: float | None = None, title: str = ""
) -> Any:
    """The attribution of each column of a row, ``values`` [columns], as signed bars, the largest on top, beside "name = value"; the
    smallest, beyond ``most``, are summed as one bar.

    ``base`` is the score without what the bars say, of a method by which base + sum = ``score``: that sum is written below. Returns
    ``ax``. Raises ``InputError`` where there is not one finite number for each column.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (len(shown.columns),) or not np.isfinite(values).all():
        raise InputError(f"a bar for each of {len(shown.columns)} columns takes as many finite numbers, not {list(values.shape)}.")
    apart, rest = cut(np.abs(values), most)
    names = [f"{cell(shown.columns[i])} = {cell(shown.values[i])}" for i in apart]
    sizes = values[apart].tolist()
    if rest:
        names.append(f"{len(rest)} others")
        sizes.append(float(values[rest].sum()))
    _bars(ax, names, sizes, [FOR if size > 0 else AGAINST for size in sizes])
    for place, size in enumerate(sizes):
        _beside(ax, place, size, f"{size:+.3g}")
    ax.axvline(0, color="black", linewidth=0.8)
    whole = "" if base is None or score is None else f"\n{base:.4g} without them {values.sum():+.4g} = {score:.4g}"
    ax.set_xlabel(f"attribution{whole}")
    ax.margins(x=0.16)
    return _plain(ax, title)


def draw_means(ax: Any, columns: Sequence[str], attributions: Array, most: int = MOST) -> Any:
    """The mean size of the attribution of each column over many rows, ``attributions`` [rows, columns]. Returns ``ax``."""
    means = np.abs(_finite(attributions, columns)).mean(0)
    order, rest = cut(means, most)
    names, sizes = [cell(columns[i]) for i in order], means[order].tolist()
    if rest:
        names.append(f"{len(rest)} others")
        sizes.append(float(means[rest].sum()))
    _bars(ax, names, sizes, [GREY] * len(sizes))
    for place, size in enumerate(sizes):
        _beside(ax, place, size, f"{size:.3g}")
    ax.set_xlabel("mean of |attribution|")
    ax.margins(x=0.16)
    return _plain(ax, "")


def draw_swarm(ax: Any, rows: Sequence[ShownRow], attributions: Array, most: int = MOST) -> Any:
    """A dot for each row and column at its attribution, ``attributions`` [rows, columns], coloured by the column's value from its smallest
    to its largest, grey where that is a name or missing; dots that would meet lie beside each other. Returns ``ax``.
    """
    columns = rows[0].columns
    array = _finite(attributions, columns)
    order, _ = cut(np.abs(array).mean(0), most)
    span = float(np.ptp(array[:, order])) or 1.0
    colours, unknown = library("matplotlib").colormaps[SCALE], False
    for place, column in enumerate(order):
        at = array[:, column]
        shares = value_shares([row.values[column] for row in rows])
        known = np.isfinite(shares)
        unknown |= not known.all()
        up = place - swarm(at, span)
        dots = {"s": 14, "linewidth": 0, "zorder": 3}
        ax.scatter(at[~known], up[~known], color=GREY, **dots)
        ax.scatter(at[known], up[known], c=colours(shares[known]), **dots)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(order)), [cell(columns[i]) for i in order])
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xlabel("attribution" + (" (grey: the value is a name, or missing)" if unknown else ""))
    ax.grid(axis="y", color="#E1E1E1", linestyle=":")
    scale = library("matplotlib.cm").ScalarMappable(cmap=SCALE)
    bar = ax.figure.colorbar(scale, ax=ax, ticks=[0, 1], fraction=0.04, pad=0.02, aspect=30)
    bar.ax.set_yticklabels(["low", "high"])
    bar.set_label("value of the column", labelpad=-14)
    return _plain(ax, "")


def summary_figure(rows: Sequence[ShownRow], attributions: Array, title: str = "", most: int = MOST) -> Any:
    """Many rows on a matplotlib figure of its own: the means beside the swarm."""
    lines = min(len(rows[0].columns), most) + (len(rows[0].columns) > most)
    figure = library("matplotlib.figure").Figure(figsize=(11, 1.4 + 0.36 * lines), dpi=120, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    draw_means(left, rows[0].columns, attributions, most)
    draw_swarm(right, rows, attributions, most)
    right.set_yticklabels([])
    right.set_ylim(left.get_ylim())
    figure.suptitle(printable(title, keep=""), parse_math=False)
    return figure


def row_figure(shown: ShownRow, values: Array, title: str = "", **more: Any) -> Any:
    """One row on a matplotlib figure of its own; ``more`` as of ``draw_row``."""
    lines = min(len(shown.columns), MOST)
    figure = library("matplotlib.figure").Figure(figsize=(7.5, 1.3 + 0.34 * lines), dpi=120, facecolor="white", layout="constrained")
    draw_row(figure.subplots(), shown, values, title=title, **more)
    return figure


def ordered(sizes: Array) -> list[int]:
    """Places by size, the largest first; equal ones in their order."""
    return [int(i) for i in np.argsort(-np.asarray(sizes), kind="stable")]


def swarm(at: Array, span: float, bins: int = 90) -> Array:
    """How far up or down each dot at ``at`` lies so that no two lie on each other: those of one bin in turn above and below the line.

    By the values alone, so the same values are drawn alike. ``span``: what the axis shows, of which a bin is a part.
    """
    number = np.floor(at / span * bins).astype(np.int64)
    offsets = np.zeros(len(at))
    for one in np.unique(number):
        inside = np.flatnonzero(number == one)
        inside = inside[np.argsort(at[inside], kind="stable")]
        turn = np.arange(len(inside))
        offsets[inside] = (turn + 1) // 2 * np.where(turn % 2, 1, -1)
    most = np.abs(offsets).max(initial=0)
    return offsets * min(0.06, SPREAD / most if most else 0)


def value_shares(cells: Sequence[Any]) -> Array:
    """Where each number lies between the smallest and the largest of its column, 0 to 1 (0.5 where all are alike); NaN of anything else.

    A few far ones do not take all colours: the ends are the 5th and 95th percentile.
    """
    found = np.array([float(c) if isinstance(c, int | float) and not isinstance(c, bool) else np.nan for c in cells])
    if not np.isfinite(found).any():
        return found
    low, high = np.nanpercentile(found, [5, 95])
    low, high = (low, high) if high > low else (np.nanmin(found), np.nanmax(found))
    return np.clip((found - low) / (high - low), 0, 1) if high > low else np.where(np.isfinite(found), 0.5, np.nan)


def cell(value: Any) -> str:
    """A name or a value, short and inert."""
    if value is None:
        return "missing"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = printable(str(value), keep="")
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def cut(sizes: Array, most: int) -> tuple[list[int], list[int]]:
    """Places by size, the largest first: those that are drawn one by one, and the others."""
    order = ordered(sizes)
    return (order, []) if len(order) <= most else (order[: most - 1], order[most - 1 :])


def _finite(attributions: Array, columns: Sequence[str]) -> Array:
    array = np.asarray(attributions, np.float64)
    if array.ndim != 2 or array.shape[1] != len(columns) or not len(array) or not np.isfinite(array).all():
        raise InputError(f"attributions of {len(columns)} columns are finite numbers [rows, columns], not {list(array.shape)}.")
    return array


def _bars(ax: Any, names: Sequence[str], sizes: Sequence[float], colours: Sequence[str]) -> None:
    ax.barh(range(len(sizes)), sizes, color=colours, height=0.72, zorder=2)
    ax.set_yticks(range(len(sizes)), names)
    ax.set_ylim(len(sizes) - 0.4, -0.6)


def _beside(ax: Any, place: int, size: float, text: str) -> None:
    """A number at the end of its bar."""
    ax.annotate(
        text,
        (size, place),
        (4 if size >= 0 else -4, 0),
        textcoords="offset points",
        va="center",
        ha="left" if size >= 0 else "right",
        size=9,
    )


def _plain(ax: Any, title: str) -> Any:
    """Without what nobody needs; names are not read as formulas."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if title:
        ax.set_title(printable(title, keep=""), loc="left", size=11)
    for text in ax.findobj(library("matplotlib.text").Text):
        text.set_parse_math(False)  # a name may hold dollar signs
    return ax
