"""Maps of series and spectrograms under what was explained, along an axis of seconds where the rate is known. Needs matplotlib (extra
``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxsal.errors import InputError
from onnxsal.runtime.heatmap import Scaled, scale_map
from onnxsal.runtime.libraries import library
from onnxsal.runtime.palettes import colours
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownValues

LINES = 6
"""A series of more channels than these is drawn as a picture of its values, channels upwards."""

COLUMNS = 1200
"""Of more places than these, neighbours share a column: a line is drawn from their lowest to their highest, a map at its strongest."""

SIGNAL, SPECTRUM = "#1A1A1A", "Greys"


class SeriesAxis(NamedTuple):
    """The places of a series: ``edges`` [length + 1] between which each lies, and what they count, as the words at the axis."""

    edges: Array
    words: str

    @property
    def middles(self) -> Array:
        """Where each place is marked."""
        return (self.edges[:-1] + self.edges[1:]) / 2


def series_axis(rate: float | None, length: int) -> SeriesAxis:
    """Seconds of ``length`` places of which there are ``rate`` per second: place i begins at i / rate. Their numbers, where that is not
    known, each in the middle of its place. Raises ``InputError`` for a rate that is none.
    """
    if rate is None:
        return SeriesAxis(np.arange(length + 1) - 0.5, "place")
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"rate={rate} is no number of places per second; give one above 0.")
    return SeriesAxis(np.arange(length + 1) / rate, "seconds")


def is_spectrogram(shown: ShownValues) -> bool:
    """Whether values are those of a spectrogram [C, F, T], which neither a series [C, L] nor a volume [C, D, H, W] has."""
    return shown.values.ndim == 3


def panels(shown: ShownValues) -> int:
    """How many axes ``draw_series`` draws on: one for each channel, or one for all of many, and one for the map."""
    return 1 + (len(shown.values) if shown.values.ndim == 2 and len(shown.values) <= LINES else 1)


def draw_series(axes: Sequence[Any], shown: ShownValues, values: Array) -> Any:
    """The map ``values`` ([L] of a series, [F, T] of a spectrogram) under what was explained, on ``panels(shown)`` axes, the map on the
    last: each channel as a line tinted by the map, many channels and spectrograms as a picture with the lowest below.

    Raises ``InputError`` where the map does not lie on the values.
    """
    seen = np.where(np.isfinite(shown.values), shown.values, 0.0).astype(np.float64)
    if len(axes) != panels(shown):
        raise InputError(f"{len(axes)} axes were given to draw on, and these values take {panels(shown)}.")
    if seen.shape[1:] != np.shape(values) and not (seen.ndim == 3 and np.shape(values) == seen.shape[2:]):
        raise InputError(f"a map of {list(np.shape(values))} does not lie on values {list(seen.shape)}: give [channels, *places].")
    scaled, along = scale_map(values, places=np.ndim(values)), series_axis(shown.rate, seen.shape[-1])
    if seen.ndim == 2 and len(seen) <= LINES:
        for number, (ax, channel) in enumerate(zip(axes, seen, strict=False)):
            _line(ax, channel, scaled, along)
            ax.set_ylabel("" if len(seen) == 1 else f"channel {number}")
    else:
        picture = seen.mean(0) if seen.ndim == 3 else seen
        _picture(axes[0], picture, along, SPECTRUM)
        axes[0].set_ylabel("frequency (bin)" if seen.ndim == 3 else "channel")
    _map(axes[-1], scaled, along)
    for ax in axes:
        ax.set_xlim(along.edges[0], along.edges[-1])
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False)
    axes[-1].set_xlabel(along.words)
    return axes


def series_figure(shown: ShownValues, values: Array, title: str = "") -> Any:
    """The same on a matplotlib figure of its own."""
    count = panels(shown)
    tall = 2.2 if shown.values.ndim == 3 or len(shown.values) > LINES else 1.3
    below = tall if np.ndim(values) == 2 else 0.45
    size = (9.5, tall * (count - 1) + below + 0.9)
    figure = library("matplotlib.figure").Figure(figsize=size, dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots(count, 1, squeeze=False, height_ratios=[tall] * (count - 1) + [below])[:, 0]
    draw_series(axes, shown, values)
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


def _line(ax: Any, channel: Array, scaled: Scaled, along: SeriesAxis) -> None:
    """One channel, tinted by the map, the stronger the more."""
    low, high = float(channel.min()), float(channel.max())
    room = 0.08 * (high - low) or 1.0
    strength = _strongest(scaled.values)
    alpha = 0.85 * np.sqrt(np.abs(strength))[:, None]
    tint = (alpha * colours(strength, scaled.palette) + (1 - alpha) * 255) / 255
    box = (along.edges[0], along.edges[-1], low - room, high + room)
    ax.imshow(tint[None], extent=box, aspect="auto", interpolation="nearest", zorder=0)
    if len(channel) <= COLUMNS:
        ax.plot(along.middles, channel, color=SIGNAL, linewidth=1.0)
    else:
        parts = [shared(a) for a in (along.middles, channel)]
        at, lows, highs = ([f(p) for p in some] for f, some in ((np.mean, parts[0]), (np.min, parts[1]), (np.max, parts[1])))
        ax.fill_between(at, lows, highs, color=SIGNAL, linewidth=1.0)
    ax.set_ylim(low - room, high + room)


def _picture(ax: Any, values: Array, along: SeriesAxis, palette: str) -> None:
    """Values [rows, places] as a picture, row 0 lowest."""
    box = (along.edges[0], along.edges[-1], -0.5, len(values) - 0.5)
    ax.imshow(values, extent=box, aspect="auto", origin="lower", cmap=palette, interpolation="nearest")


def _map(ax: Any, scaled: Scaled, along: SeriesAxis) -> None:
    """The map itself: a strip, or of a spectrogram a picture."""
    rows = scaled.values if scaled.values.ndim == 2 else _strongest(scaled.values)[None]
    box = (along.edges[0], along.edges[-1], -0.5, len(rows) - 0.5)
    ax.imshow(colours(rows, scaled.palette), extent=box, aspect="auto", origin="lower", interpolation="nearest")
    ax.set_ylabel("map")
    if len(rows) == 1:
        ax.set_yticks([])


def shared(values: Array) -> list[Array]:
    """Neighbours that share a column of pixels: columns are as wide as each other, so that each place is drawn where it lies."""
    return np.split(values, np.rint(np.arange(1, COLUMNS) * (len(values) / COLUMNS)).astype(int))


def _strongest(values: Array) -> Array:
    """Of many places those that share a column of pixels as one: the value farthest from 0."""
    if len(values) <= COLUMNS:
        return values
    return np.asarray([part[np.argmax(np.abs(part))] for part in shared(values)])
