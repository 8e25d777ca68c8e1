"""One explained sample on one slide: the overlay, what was answered, what the colours mean. For a projector, so letters are large."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from onnxsal.runtime.figures import ALARM, INK, QUIET, bar_on, draw_map, new_figure
from onnxsal.runtime.heatmap import Scaled
from onnxsal.runtime.shown import AnyShown

SIZE, DPI = (40 / 3, 7.5), 144
"""Inches: 16 to 9; 1920 x 1080 pixels."""
BAR = "#2F6DB5"
WIDE = 38
"""Letters in a line beside the picture."""

MEANING = {
    "diverging": ("against", "for", "Orange-red speaks for the answer, blue against it. Where there is no colour, little depends on it."),
    "heat": ("less", "most", "The brighter the colour, the more the answer depends on that place. Where there is no colour, little does."),
    "white_black": ("less", "most", "The darker, the more the answer depends on that place."),
}
"""What stands at the ends of the colours, and what they mean."""


def meaning(palette: str) -> str:
    """What the colours of a palette mean, in a sentence or two."""
    return MEANING[palette][2]


def short(entry: Mapping[str, Any]) -> str:
    """A class by the first of its names, or by its number; a box or pixel by what it is called, with its class."""
    label = None if entry.get("label") is None else str(entry["label"]).split(",")[0]
    if "place" in entry:
        return str(entry["place"]) + (f": {label}" if label else "")
    return label or f"class {entry['index']}"


def sure(facts: Mapping[str, Any], index: int) -> str:
    """The probability of a class among the best, where the model returns probabilities; else ''."""
    found = next((e["output"] for e in facts["top"] if e["index"] == index), None)
    return f"{found:.1%}" if found is not None and facts["probabilities"] else ""


def slide(facts: Mapping[str, Any], title: str, scaled: Scaled, shown: AnyShown | None) -> Any:
    """A figure of matplotlib: ``facts`` is the record of the sample, ``title`` the method's name in words.

    Raises ``MissingLibraryError`` without matplotlib.
    """
    figure = new_figure(*SIZE, dpi=DPI)
    alone = scaled.values.ndim == 1
    draw_map(figure.add_axes((0.06, 0.3, 0.53, 0.5) if alone else (0.02, 0.06, 0.57, 0.88)), scaled, shown)
    target, against = facts["target"], facts["against"]
    head = short(target) + (f" rather than {short(against)}" if against else "")
    at = _lines(figure, 0.96, head, 26, INK, wide=21, most=3, weight="bold")
    told = "" if against or "place" in target else sure(facts, target["index"])
    said = f"{told} probable" if told else f"{'difference of scores' if against else 'score'} {facts['score']:.4g}"
    at = _lines(figure, at - 0.005, f"{said}, says {facts['model_name']}", 15, QUIET)
    at = _best(figure, at - 0.025, facts)
    at = _lines(figure, at - 0.025, f"Explained by {title}", 15, INK, wide=34, weight="bold")
    at = _lines(figure, at - 0.005, meaning(scaled.palette), 15, INK, most=4)
    if not scaled.flat:
        low, high, _ = MEANING[scaled.palette]
        axes = bar_on(figure.add_axes((0.63, at - 0.065, 0.3, 0.035)), scaled.palette, low, high, over=scaled.values.ndim == 2)
        axes.tick_params(labelsize=13)
        at -= 0.12
    for warning in facts["warnings"][:1]:
        at = _lines(figure, at - 0.01, warning, 11, ALARM, wide=54, most=3)
    law = [f"{name} {value:.1e}" for name in ("residual",) if (value := facts[name]) is not None]
    figure.text(0.02, 0.02, "   ".join([facts["name"], facts["method"], *law]), fontsize=10, color=QUIET, va="bottom")
    return figure


def _lines(figure: Any, top: float, text: str, size: float, colour: str, wide: int = WIDE, most: int = 2, **more: Any) -> float:
    """Wrapped text below ``top``, cut after the ``most`` lines; returns where it ends."""
    lines = textwrap.wrap(text, wide) or [""]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1][: wide - 1]}…"]
    figure.text(0.62, top, "\n".join(lines), fontsize=size, color=colour, va="top", linespacing=1.25, **more)
    return top - len(lines) * size * 1.3 / 72 / SIZE[1]


def _best(figure: Any, top: float, facts: Mapping[str, Any]) -> float:
    """The best classes as bars; returns where they end."""
    best: Sequence[Mapping[str, Any]] = facts["top"]
    if len(best) < 2:
        return top
    tall = 0.046 * len(best)
    axes = figure.add_axes((0.79, top - tall, 0.13, tall))
    values = [entry["output"] for entry in best]
    colours = [BAR if entry["index"] == facts["target"]["index"] else "#B8C4D2" for entry in best]
    axes.barh(range(len(best)), values, color=colours, height=0.62)
    axes.set(ylim=(len(best) - 0.5, -0.5), xlim=(min(0.0, *values), max(*values, 1e-9) if not facts["probabilities"] else 1))
    names = [short(entry) for entry in best]
    axes.set_yticks(range(len(best)), [n if len(n) <= 22 else f"{n[:21]}…" for n in names], fontsize=13)
    for number, value in enumerate(values):
        told = f"{value:.1%}" if facts["probabilities"] else f"{value:.3g}"
        axes.text(1.03, number, told, transform=axes.get_yaxis_transform(), fontsize=12, color=QUIET, va="center")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return top - tall
