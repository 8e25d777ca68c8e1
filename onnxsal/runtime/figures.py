"""One explanation on axes of matplotlib (the extra ``plot``), and figures as bytes. No state of pyplot is touched: threads do not meet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from onnxsal.errors import InputError
from onnxsal.runtime.heatmap import Scaled, cover, ink, overlay, overlay_on, render_map, scale_map
from onnxsal.runtime.libraries import library
from onnxsal.runtime.palettes import colours
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import AnyShown, ShownPicture, ShownValues
from onnxsal.untrusted import printable

LONGEST = 1600
"""Pixels of the longer side of a picture on axes."""
LINES = 6
"""A series of more channels than these is drawn as a picture of its values, channels downwards."""
SLICES = 5
"""So many slices of a volume are drawn at most."""
BAND = 0.86
"""The part of its band that the line of a channel takes."""
STRIP = 0.28
"""The height of the map below the signal, in bands."""
INK, QUIET, ALARM = "#191919", "#5F5F5F", "#AA0000"


class ExplainedSample(Protocol):
    """What is drawn of an ``Explanation`` of one sample."""

    @property
    def saliency_map(self) -> Any:
        """[1, *places], or ``None``."""

    @property
    def shown(self) -> Sequence[AnyShown | None]:
        """What the sample is shown as."""


# ----- on axes -----


def draw_on(ax: Any, one: ExplainedSample, palette: str | None = None, percentile: float = 99.5) -> Any:
    """Draw the explanation of one sample on ``ax``, over what it is shown beside; returns ``ax``.

    Of a picture the overlay on the original; of a series a line for each channel, tinted by the map, above the map; of a volume the slices
    with the strongest map. ``palette`` and ``percentile`` as for ``scale_map``. Raises ``InputError`` where there is no map.
    """
    shown = one.shown[0] if one.shown else None
    if one.saliency_map is None:
        raise InputError("the explained input is no picture, series or volume, so there is no saliency map to plot; see .attribution.")
    return draw_map(ax, scale_map(np.asarray(one.saliency_map)[0], palette, percentile, np.ndim(one.saliency_map) - 1), shown)


def draw_map(ax: Any, scaled: Scaled, shown: AnyShown | None = None) -> Any:
    """A scaled map on ``ax``, alone or over what is ``shown``; returns ``ax``. Raises ``InputError`` where it does not lie on that."""
    places = scaled.values.ndim
    if places == 2:
        picture = overlay_on(shown, scaled, longest=LONGEST) if isinstance(shown, ShownPicture) else render_map(scaled)
        ax.imshow(picture, interpolation="nearest" if shown is None else "antialiased")
        ax.set_axis_off()
        return ax
    seen = shown if isinstance(shown, ShownValues) else None
    if seen is not None and (seen.values.ndim != places + 1 or seen.values.shape[1:] != scaled.values.shape):
        raise InputError(f"a map of {list(scaled.values.shape)} does not lie on {list(seen.values.shape)}: give [channels, places].")
    return _series(ax, scaled, seen) if places == 1 else _volume(ax, scaled, seen)


def _series(ax: Any, scaled: Scaled, seen: ShownValues | None) -> Any:
    """Bands from the top down: the channels, then the map. Across: places, or seconds where their rate is known."""
    count, rate = len(scaled.values), None if seen is None else seen.rate
    left, right = (at / (rate or 1) for at in (-0.5, count - 0.5))
    values = np.zeros((0, count)) if seen is None else np.where(np.isfinite(seen.values), seen.values, 0.0).astype(np.float64)
    bands = len(values) if len(values) <= LINES else LINES / 2
    ax.imshow(colours(scaled.values, scaled.palette)[None], extent=(left, right, -STRIP, 0), aspect="auto", interpolation="nearest")
    if len(values) > LINES:
        low, high = values.min(), values.max()
        shades = np.rint((values - low) / ((high - low) or 1) * 255).astype(np.uint8)
        grey = np.asarray(Image.fromarray(shades).convert("RGB"))
        _tint(ax, scaled, (left, right, 0.1, 0.1 + bands), grey)
        ax.set_yticks([0.1, 0.1 + bands], [f"channel {len(values) - 1}", "channel 0"])
    elif len(values):
        _tint(ax, scaled, (left, right, 0.1, 0.1 + bands))
        at = np.arange(count) / (rate or 1)
        ticks: dict[float, str] = {}
        for number, channel in enumerate(values):
            low, high = float(channel.min()), float(channel.max())
            foot = 0.1 + bands - number - 1 + (1 - BAND) / 2
            ax.plot(at, foot + BAND * ((channel - low) / (high - low) if high > low else np.full(count, 0.5)), color=INK, linewidth=1)
            ticks |= {foot: f"{low:.3g}", foot + BAND: f"{high:.3g}"} if high > low else {foot + BAND / 2: f"{low:.3g}"}
        ax.set_yticks(list(ticks), list(ticks.values()))
    else:
        ax.set_yticks([])
    ax.set(xlim=(left, right), ylim=(-STRIP, 0.1 + bands if len(values) else 0), xlabel="place" if rate is None else "seconds")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0, labelcolor=QUIET, labelsize="small")
    return ax


def _tint(ax: Any, scaled: Scaled, extent: tuple[float, float, float, float], below: Array | None = None) -> None:
    """The colours of an overlay over a part of ``ax``, on white or on RGB bytes ``below`` [C, L, 3]."""
    alpha, tint = cover(scaled.values)[None, :, None], ink(scaled.values, scaled.palette)[None].astype(np.float64)
    under = np.full((1, len(scaled.values), 3), 255.0) if below is None else below.astype(np.float64)
    ax.imshow(np.rint(alpha * tint + (1 - alpha) * under).astype(np.uint8), extent=extent, aspect="auto", interpolation="nearest")


def _volume(ax: Any, scaled: Scaled, seen: ShownValues | None) -> Any:
    """A row of slices along the first axis, those where the map is strongest."""
    chosen = strongest(np.abs(scaled.values).sum((1, 2)), SLICES)
    grey = None if seen is None else _as_bytes(seen.values)
    height, width = scaled.values.shape[1:]
    step = width + max(1, width // 12)
    row = np.full((height, step * len(chosen) - (step - width), 3), 255, np.uint8)
    for number, at in enumerate(chosen):
        part = Scaled(scaled.values[at], scaled.palette, scaled.low, scaled.high, scaled.flat)
        row[:, number * step : number * step + width] = render_map(part) if grey is None else overlay(grey[at], part)
    ax.imshow(row, interpolation="nearest")
    ax.set_yticks([])
    ax.set_xticks([number * step + width / 2 - 0.5 for number in range(len(chosen))], [f"slice {at}" for at in chosen])
    ax.set_xlabel(f"the strongest of {len(scaled.values)} slices" if len(scaled.values) > len(chosen) else "")
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="x", length=0)
    return ax


def strongest(sums: Array, most: int) -> tuple[int, ...]:
    """The numbers of up to ``most`` slices with the largest sums, in their order; where several are alike the first ones."""
    return tuple(np.sort(np.argsort(-sums, kind="stable")[:most]).tolist())


def _as_bytes(seen: Array) -> Array:
    """[C, D, H, W] as RGB bytes [D, H, W, 3]: three channels as colours, else their mean, stretched to the range of bytes."""
    values = np.where(np.isfinite(seen), seen, 0.0).astype(np.float64)
    values = values if len(values) == 3 else values.mean(0, keepdims=True).repeat(3, 0)
    low, high = values.min(), values.max()
    return np.rint(np.moveaxis((values - low) / ((high - low) or 1), 0, -1) * 255).astype(np.uint8)


def bar_on(ax: Any, palette: str, low: str, high: str, over: bool = True) -> Any:
    """The colours of a palette on ``ax`` as a bar, with words at its ends, as they are on white paper; ``over``: those of an overlay."""
    first = -1 if palette == "diverging" else 0
    ramp = np.linspace(first, 1, 512)
    shades = colours(ramp, palette).astype(np.float64)
    if over:
        alpha = cover(ramp)[:, None]
        shades = alpha * ink(ramp, palette) + (1 - alpha) * 255
    ax.imshow(np.rint(shades[None]).astype(np.uint8), extent=(first, 1, 0, 1), aspect="auto")
    ax.set_xticks([first, 1], [low, high])
    for label, side in zip(ax.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    ax.set_yticks([])
    ax.tick_params(length=0, labelcolor=QUIET)
    ax.spines[:].set_color("#BBBBBB")
    return ax


# ----- figures -----


def new_figure(width: float, height: float, dpi: int = 100) -> Any:
    """An empty white figure of this size in inches. Raises ``MissingLibraryError`` without matplotlib."""
    return library("matplotlib.figure").Figure(figsize=(width, height), dpi=dpi, facecolor="white")


def as_written(figure: Any) -> Any:
    """The figure, whose texts stand there as they are: a name may hold dollar signs, or what a terminal would obey."""
    for text in figure.findobj(library("matplotlib.text").Text):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    return figure


def png_of(figure: Any, tight: bool = False) -> bytes:
    """The figure as PNG that says who made it; ``tight``: grown or cut to what is drawn."""
    buffer = io.BytesIO()
    canvas = library("matplotlib.backends.backend_agg").FigureCanvasAgg(as_written(figure))
    canvas.print_figure(buffer, format="png", metadata={"Software": "onnxsal"}, bbox_inches="tight" if tight else None)
    return buffer.getvalue()


def image_of(figure: Any, tight: bool = False) -> Image.Image:
    """The figure in pixels, RGB (``png_of``)."""
    return Image.open(io.BytesIO(png_of(figure, tight))).convert("RGB")


SVG: Mapping[str, Any] = {"svg.hashsalt": "onnxsal", "svg.fonttype": "path"}
"""Letters as outlines, so that it looks the same everywhere; and the same bytes of the same figure."""


def svg_of(figure: Any) -> bytes:
    """The figure as SVG, its pictures inside."""
    buffer = io.BytesIO()
    with library("matplotlib").rc_context(SVG):
        canvas = library("matplotlib.backends.backend_svg").FigureCanvasSVG(as_written(figure))
        canvas.print_figure(buffer, format="svg", metadata={"Creator": "onnxsal", "Date": None})
    return buffer.getvalue()
