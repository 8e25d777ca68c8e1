"""The words of a text, coloured by what each adds, on matplotlib's axes (the extra ``plot``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnxsal.runtime.libraries import library
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownText
from onnxsal.runtime.text_colours import as_hex, ground_of, ink_on
from onnxsal.runtime.text_pieces import Piece, PieceKind, largest_value, text_pieces

SIZE = 11
"""Points of the letters."""

MARGIN = 0.12
"""Of the letters' size, the margin of the colour behind a word."""

GREY = "#767676"


def draw_text(ax: Any, shown: ShownText, values: Array) -> Any:
    """Draw the words on matplotlib axes, line by line as wide as these; returns ``ax``. ``values`` [L]: signed, one for each token.

    Each word stands on the colour of its value (blue below 0, red above), special tokens are grey, padding is left out. Raises
    ``InputError`` for values that do not fit, ``MissingLibraryError`` without matplotlib.
    """
    pieces = text_pieces(shown, values)
    largest = largest_value(pieces)
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    renderer = ax.figure.canvas.get_renderer() if hasattr(ax.figure.canvas, "get_renderer") else ax.figure._get_renderer()
    frame = ax.get_window_extent(renderer)
    line, x, y, part = SIZE * ax.figure.dpi / 72 * 1.9 / frame.height, 0.0, 1.0, 0
    for piece in _atoms(pieces):
        if piece.part != part or piece.text == "\n":
            x, y, part = 0.0, y - line, piece.part
            if piece.text == "\n":
                continue
        drawn = ax.text(0, y, piece.shown, va="top", parse_math=False, **_style(piece, largest))
        around = 0.0 if piece.kind is PieceKind.GAP else MARGIN * SIZE * ax.figure.dpi / 72 / frame.width
        width = drawn.get_window_extent(renderer).width / frame.width + 2 * around
        if x and x + width > 1:
            x, y = 0.0, y - line
        drawn.set_position((x + around, y))
        x += width
    _scale(ax, largest)
    return ax


def _atoms(pieces: list[Piece]) -> Iterator[Piece]:
    """Pieces, with gaps cut at line breaks."""
    for piece in pieces:
        if piece.kind is not PieceKind.GAP or "\n" not in piece.text:
            yield piece
            continue
        for number, text in enumerate(piece.text.split("\n")):
            if number:
                yield Piece(PieceKind.GAP, "\n", piece.part, piece.start, piece.end)
            if text:
                yield Piece(PieceKind.GAP, text, piece.part, piece.start, piece.end)


def _style(piece: Piece, largest: float) -> dict[str, Any]:
    if piece.kind is not PieceKind.WORD:
        small = piece.kind is PieceKind.SPECIAL
        return {"fontsize": SIZE * (0.75 if small else 1), "color": GREY}
    ground = ground_of(piece.value, largest)
    box = {"facecolor": as_hex(ground), "edgecolor": "none", "boxstyle": f"round,pad={MARGIN}"}
    return {"fontsize": SIZE, "color": as_hex(ink_on(ground)), "bbox": box}


def _scale(ax: Any, largest: float) -> None:
    """The colours with their numbers, beside the text."""
    colors, cm = library("matplotlib.colors"), library("matplotlib.cm")
    palette = colors.LinearSegmentedColormap.from_list("onnxsal", [as_hex(ground_of(share / 8, 1.0)) for share in range(-8, 9)])
    scale = cm.ScalarMappable(colors.Normalize(-largest, largest), palette)
    bar = ax.figure.colorbar(scale, ax=ax, location="bottom", shrink=0.4, aspect=30, pad=0.02, ticks=[-largest, 0, largest])
    bar.ax.set_xticklabels([f"against {-largest:+.3g}", "0", f"{largest:+.3g} for"], fontsize=SIZE * 0.75)
    bar.outline.set_visible(False)
