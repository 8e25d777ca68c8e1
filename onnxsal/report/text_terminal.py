"""The words of a text in a terminal: on the colour of their values, and the strongest with their numbers, which needs no colour."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.style import Style as Look
from rich.table import Table
from rich.text import Text

from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownText
from onnxsal.runtime.text_colours import as_hex, ground_of, ink_on
from onnxsal.runtime.text_pieces import Piece, PieceKind, largest_value, text_pieces, words_in
from onnxsal.untrusted import printable

STRONGEST = 8
"""Words that are listed with their numbers."""

BAR = 12
"""Characters of the longest bar."""


def text_in_terminal(shown: ShownText, values: Array) -> RenderableType:
    """The texts with each word on the colour of its value, special tokens dim, and a table of the strongest words: sign, bar and number.

    ``values`` [L]: signed, one for each token. Where a terminal shows no colours (NO_COLOR, a file) the table says the same.
    """
    pieces = text_pieces(shown, values)
    largest = largest_value(pieces)
    texts = [_line([piece for piece in pieces if piece.part == part], largest) for part in range(len(shown.texts))]
    return Group(*texts, _strongest(pieces, largest), _rest(shown, pieces))


def _line(pieces: list[Piece], largest: float) -> Text:
    line = Text()
    for piece in pieces:
        if piece.kind is PieceKind.GAP:
            line.append(piece.shown)
        elif piece.kind is PieceKind.SPECIAL:
            line.append(f"{'' if not line or line.plain[-1:].isspace() else ' '}{piece.shown} ", Look(dim=True, italic=True))
        else:
            ground = ground_of(piece.value, largest)
            line.append(piece.shown, Look(color=as_hex(ink_on(ground)), bgcolor=as_hex(ground)))
    return line


def _strongest(pieces: list[Piece], largest: float) -> Table:
    """The words of the largest values, either sign, strongest first; the words last, as some run from right to left."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in (("", "left"), ("adds", "right"), ("word", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for piece in sorted(words_in(pieces), key=lambda piece: -abs(piece.value))[:STRONGEST]:
        length = round(BAR * abs(piece.value) / largest)
        bar = Text(("+" if piece.value > 0 else "-") * length, Look(color=as_hex(ground_of((0.8 if piece.value > 0 else -0.8), 1.0))))
        table.add_row(bar, f"{piece.value:+.4g}", Text(printable(piece.text, keep="")))
    return table


def _rest(shown: ShownText, pieces: list[Piece]) -> Text:
    """What all words and all special tokens add, and how much padding there was."""
    words, special = words_in(pieces), [piece for piece in pieces if piece.kind is PieceKind.SPECIAL]
    told = [f"{len(words)} words {sum(piece.value for piece in words):+.4g}"]
    told += [f"{len(special)} special tokens {sum(piece.value for piece in special):+.4g}"] if special else []
    told += [f"{sum(shown.padding)} padding"] if any(shown.padding) else []
    return Text(", ".join(told), Look(dim=True))
