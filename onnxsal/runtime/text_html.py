"""The words of a text, coloured by what each adds, as HTML that needs nothing beside it."""

from __future__ import annotations

import html

import numpy as np

from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownText
from onnxsal.runtime.text_colours import as_hex, ground_of, ink_on
from onnxsal.runtime.text_pieces import Piece, PieceKind, largest_value, text_pieces, words_in
from onnxsal.untrusted import printable

BOX = (
    "background:#fff;color:#1a1a1a;padding:12px 16px;border:1px solid #ddd;border-radius:6px;max-width:60rem;"
    "font:16px/1.9 system-ui,-apple-system,'Segoe UI',sans-serif"
)
BAR = "display:inline-block;width:160px;height:10px;border:1px solid #ccc"
SMALL = "font-size:12px;line-height:1.4;color:#595959"
SPECIAL = "color:#767676;font-size:11px;border:1px dotted #bbb;border-radius:3px;padding:0 3px;margin:0 2px"
PARAGRAPH = "margin:0 0 8px;white-space:pre-wrap;overflow-wrap:anywhere"
WORD = "border-radius:3px;padding:2px 1px"


def text_html(shown: ShownText, values: Array) -> str:
    """A ``<div>`` with each text as a paragraph: words on the colour of their value (red speaks for, blue against), their numbers on hover
    and, the strongest colour's, beside the scale; special tokens faint; padding only counted.

    ``values`` [L]: signed, one for each token; a word has the sum of its tokens. Everything that comes from the text or the tokenizer is
    escaped. Raises ``InputError`` for values that do not fit.
    """
    pieces = text_pieces(shown, values)
    largest = largest_value(pieces)
    parts = "".join(
        f'<p dir="auto" style="{PARAGRAPH}">{_paragraph(pieces, part, shown, values, largest)}</p>' for part in range(len(shown.texts))
    )
    return f'<div class="onnxsal-text" style="{BOX}">{parts}{_scale(largest)}{_sums(shown, pieces)}</div>'


def _paragraph(pieces: list[Piece], part: int, shown: ShownText, values: Array, largest: float) -> str:
    return "".join(_piece(piece, shown, values, largest) for piece in pieces if piece.part == part)


def _piece(piece: Piece, shown: ShownText, values: Array, largest: float) -> str:
    text = html.escape(piece.shown)
    if piece.kind is PieceKind.GAP:
        return text
    title = html.escape(hover_text(piece, shown, values))
    if piece.kind is PieceKind.SPECIAL:
        return f'<span title="{title}" style="{SPECIAL}">{text}</span>'
    ground = ground_of(piece.value, largest)
    style = f"{WORD};background:{as_hex(ground)};color:{as_hex(ink_on(ground))}"
    return f'<span tabindex="0" title="{title}" style="{style}">{text}</span>'


def hover_text(piece: Piece, shown: ShownText, values: Array) -> str:
    """A word or token with its value, and of a word of several tokens those of each: "playing +0.031 = play +0.020 ##ing +0.011"."""
    own = f"{printable(piece.text, keep='')} {piece.value:+.4g}"
    if len(piece.tokens) < 2:
        return own
    each = [f"{printable(shown.tokens[i], keep='')} {float(values[i]):+.4g}" for i in piece.tokens]
    return f"{own} = {' '.join(each)}"


def _scale(largest: float) -> str:
    """The colours from the strongest against to the strongest for, with their numbers."""
    stops = ",".join(as_hex(ground_of(share, 1.0)) for share in np.linspace(-1, 1, 9))
    bar = f'<span style="{BAR};background:linear-gradient(90deg,{stops})"></span>'
    return f'<div style="{SMALL}">against {-largest:+.3g} {bar} {largest:+.3g} for</div>'


def _sums(shown: ShownText, pieces: list[Piece]) -> str:
    """What all words, and all special tokens, add, and how much padding there was."""
    words = sum(piece.value for piece in words_in(pieces))
    special = [piece.value for piece in pieces if piece.kind is PieceKind.SPECIAL]
    told = [f"words {words:+.4g}", f"special tokens {sum(special):+.4g}" if special else "", _padding(shown)]
    return f'<div style="{SMALL}">{" · ".join(filter(None, told))}</div>'


def _padding(shown: ShownText) -> str:
    count = sum(shown.padding)
    return f"{count} token{'' if count == 1 else 's'} of padding" if count else ""
