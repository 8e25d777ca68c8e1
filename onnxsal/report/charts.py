"""Charts: lines over one axis, grouped bars, relevance against the score. Drawn off-screen by matplotlib (the extra ``plot``)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from onnxsal.errors import InputError
from onnxsal.metrics.conservation import Conservation
from onnxsal.metrics.signal import SignalQuality
from onnxsal.runtime.figures import image_of, new_figure
from onnxsal.runtime.libraries import library

LinePoints: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Axis [K] and values [K]."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#882255", "#000000")
"""Told apart by colour-blind readers too: Okabe and Ito's, wine red in place of their yellow, which is faint on white."""
MARKS, DASHES, HATCHES = "os^vDPX<>*p", ("-", (0, (3, 1.5)), (0, (5, 1.5, 1, 1.5))), ("", "///", "...")
GREY, GRID, ALARM = "#737373", "#E1E1E1", "#AA0000"


def line_chart(
    lines: Mapping[str, LinePoints], title: str = "", across: str = "", up: str = "", dotted: Collection[str] = (), log: bool = False
) -> Image.Image:
    """Name -> points as lines of different colour, mark and dash, their names beside them; NaN leaves a gap.

    Lines named in ``dotted`` are grey and dotted. ``log``: a logarithmic axis, of positive numbers only. Raises ``InputError`` where no
    value is finite or a logarithmic axis is not positive, ``MissingLibraryError`` without matplotlib.
    """
    shown = {n: (np.asarray(x, np.float64), np.asarray(y, np.float64)) for n, (x, y) in lines.items()}
    if not any(np.isfinite(y).any() for _, y in shown.values()):
        raise InputError("a chart of lines needs at least one finite value.")
    if log and min(x.min() for x, _ in shown.values()) <= 0:
        raise InputError("a logarithmic axis takes positive numbers only.")
    figure, (axes,) = _figure(5.6, 3.2)
    axes.axhline(0, color=COLOURS[-1], linewidth=0.8)
    if log:
        ticks = library("matplotlib.ticker")
        axes.set_xscale("log")
        axes.xaxis.set(major_locator=ticks.LogLocator(subs=(1, 2, 5)), minor_locator=ticks.NullLocator())
        axes.xaxis.set_major_formatter("{x:.4g}")
    drawn = []
    for (x, y), style in zip(shown.values(), _styles(shown, dotted), strict=True):
        drawn += axes.plot(x, np.where(np.isfinite(y), y, np.nan), **style, markevery=max(1, len(x) // 10))
    axes.set(xlabel=across, ylabel=up)
    return _picture(figure, title, drawn, list(shown))


def bar_chart(groups: Mapping[str, Mapping[str, float]], title: str = "", axis: str = "", high: float = 1.0) -> Image.Image:
    """Group -> series -> value, from 0 to ``high``; what is not finite is shown as a cross. The name of a group stands below it, slanted.

    Raises ``InputError`` where there is no value, ``MissingLibraryError`` without matplotlib.
    """
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    if not series:
        raise InputError("a bar chart needs at least one value.")
    wide = 1 / (len(series) + 1.5)
    figure, (axes,) = _figure(max(0.15 * len(groups) / wide, 2.0), 2.6)
    bars = []
    for i, name in enumerate(series):
        at = np.asarray([g + (i + 1.25) * wide for g, values in enumerate(groups.values()) if name in values])
        tall = np.asarray([values[name] for values in groups.values() if name in values])
        known, turn = np.isfinite(tall), i // len(COLOURS)
        style = {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[turn % len(HATCHES)], "edgecolor": "white", "linewidth": 0}
        bars.append(axes.bar(at, np.where(known, tall, 0), 0.9 * wide, **style))
        axes.plot(at[~known], np.full(np.count_nonzero(~known), 0.03 * high), "x", color=ALARM)
    axes.set(xlim=(0, len(groups)), ylim=(min(0, axes.dataLim.y0), max(high, axes.dataLim.y1)), ylabel=axis)
    axes.set_xticks(np.arange(len(groups)) + 0.5, list(groups), rotation=30, ha="right", rotation_mode="anchor")
    return _picture(figure, title, bars, series)


def quality_chart(quality: SignalQuality, title: str = "signal quality") -> Image.Image:
    """Mean rho per layer and estimator, as Kindermans et al. 2017 show it (figure 3)."""
    return bar_chart(quality.means(), title, "rho")


def conservation_plot(result: Conservation) -> Image.Image:
    """Sum of relevance over score for the last and first residual block and the input; on the line they are equal.

    What is not finite is left out and counted. Raises ``MissingLibraryError`` without matplotlib.
    """
    figure, panels = _figure(2.4, 2.4, len(result.shown()))
    for axes, name in zip(panels, result.shown(), strict=True):
        i = result.cuts.index(name)
        finite = np.isfinite(result.score) & np.isfinite(result.sums[:, i])
        score, sums, lost = result.score[finite], result.sums[finite, i], np.count_nonzero(~finite)
        axes.plot(np.sort(score), np.sort(score), color=GREY)
        axes.plot(score, sums, "o", color=COLOURS[0])
        short = name if len(name) <= 30 else f"{name[:14]}…{name[-15:]}"
        kind = "input" if i == len(result.cuts) - 1 else "block"
        axes.set_title(f"{kind} {short}" + (f"\n({lost} not finite)" if lost else ""), size=9)
        axes.set_xlabel("score")
    panels[0].set_ylabel("sum of relevance")
    return _picture(figure, f"{result.method}: relevance sum against score")


def _styles(names: Collection[str], dotted: Collection[str]) -> Iterator[dict[str, Any]]:
    """Colour, dash and mark of each line. 8 colours and 11 marks make 88 pairs; baselines differ in their mark, full or hollow."""
    numbers = {True: itertools.count(), False: itertools.count()}
    for grey in (name in dotted for name in names):
        i = next(numbers[grey])
        mark = {"marker": MARKS[i % len(MARKS)], "markersize": 5}
        if grey:
            yield {"color": GREY, "linestyle": ":", "fillstyle": ("full", "none")[i // len(MARKS) % 2], **mark}
        else:
            yield {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)], **mark}


def _figure(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    """A figure of its own with panels of this size in inches."""
    figure = new_figure(width * panels, height)
    all_axes = figure.subplots(1, panels, squeeze=False, gridspec_kw={"left": 0, "bottom": 0, "right": 1, "top": 1})[0]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=GRID)
    return figure, all_axes


def _picture(figure: Any, title: str, drawn: Sequence[Any] = (), names: Sequence[str] = ()) -> Image.Image:
    """The figure below its title, ``names`` of what was drawn beside it; it grows until all of that is in it."""
    if drawn:
        figure.axes[0].legend(drawn, names, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, handlelength=4, fontsize=9)
    figure.text(0, 1.04 if drawn else 1.18, title, size=12)
    return image_of(figure, tight=True)
