"""A map of a picture, a series or a volume as one picture, alone or over what was explained."""

from __future__ import annotations

from PIL import Image

from onnxsal.runtime.figures import draw_map, image_of, new_figure
from onnxsal.runtime.heatmap import Scaled, overlay_on, render_map
from onnxsal.runtime.shown import AnyShown, ShownPicture, ShownValues

WIDTH, LINE, SLICE = 9.0, 1.1, 2.4
"""Inches: of a series or a row of slices across; of the line of a channel, and of the map below; of a row of slices."""


def draw(scaled: Scaled, shown: AnyShown | None = None) -> Image.Image:
    """The map alone, or over what is ``shown``: a picture, or the values of a series or volume (``runtime.figures.draw_map``).

    Pictures need no more than Pillow. Raises ``InputError`` where the map does not lie on what is shown, ``MissingLibraryError`` for
    series and volumes without matplotlib.
    """
    places = scaled.values.ndim
    if places == 2:
        return overlay_on(shown, scaled) if isinstance(shown, ShownPicture) else render_map(scaled)
    lines = min(3, len(shown.values)) if places == 1 and isinstance(shown, ShownValues) else 0
    figure = new_figure(WIDTH, SLICE if places == 3 else LINE * (lines + 0.6))
    draw_map(figure.add_axes((0, 0, 1, 1)), scaled, shown)
    return image_of(figure, tight=True)
