"""What explaining a text leaves behind: a page with its words in colour, and its tokens and words in the record."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxsal.explanation import Explanation
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.shown import AnyShown, ShownText
from onnxsal.runtime.text_html import SMALL, text_html
from onnxsal.runtime.text_pieces import text_pieces, words_in
from onnxsal.untrusted import printable

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="generator" content="onnxsal">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<body style="margin:24px;background:#f6f6f6;color:#1a1a1a;font:16px/1.5 system-ui,sans-serif">
<h1 style="font-size:18px;margin:0 0 4px">{title}</h1>
<p style="margin:0 0 12px;{small}">{facts}</p>
{text}
{words}
</body>
</html>
"""

CELL = "padding:2px 12px 2px 0;text-align:{side};font-variant-numeric:tabular-nums"

LISTED = 20
"""Words that the page lists with their numbers."""


def text_record(one: Explanation, shown: AnyShown | None) -> dict[str, Any] | None:
    """The texts, each token and each word with its value, for JSON; ``None`` where no text is shown."""
    values = one.by_token
    if not isinstance(shown, ShownText) or values is None:
        return None
    row = values[0]
    tokens = [
        {"token": token, "value": float(value), "span": span, "word": word, "special": span is None and not padding, "padding": padding}
        for token, value, span, word, padding in zip(shown.tokens, row, shown.spans, shown.words, shown.padding, strict=True)
    ]
    words = [
        {"word": piece.text, "text": piece.part, "start": piece.start, "end": piece.end, "tokens": piece.tokens, "value": piece.value}
        for piece in words_in(text_pieces(shown, row))
    ]
    return {"texts": list(shown.texts), "tokens": tokens, "words": words}


def save_text_page(path: str, one: Explanation, facts: Mapping[str, Any], shown: ShownText, values: np.ndarray) -> str:
    """Write one page that needs nothing beside it: the texts in colour, what was explained, and the strongest words; returns its path."""
    target = facts["target"]
    named = f"class {target['index']}" if target["label"] is None else f"{target['label']} ({target['index']})"
    told = [f"score {facts['score']:.4g}", f"method {facts['method']}"]
    told = [f"like: {facts['like']}", *told] if "like" in facts else told
    told += [] if facts["residual"] is None else [f"residual {facts['residual']:.1e}"]
    told += [f"{name} {part:+.4g}" for name, part in facts["parts"].items() if name != "input"]
    page = PAGE.format(
        title=_safe(f"What each word adds to {named}"),
        facts=_safe(" · ".join(told)),
        small=SMALL,
        text=text_html(shown, values),
        words=_table(shown, values),
    )
    write_whole(path, page.encode())
    return path


def _safe(text: str) -> str:
    return html.escape(printable(text, keep=""))


def _table(shown: ShownText, values: np.ndarray) -> str:
    """The strongest words with their numbers."""
    strongest = sorted(words_in(text_pieces(shown, values)), key=lambda piece: -abs(piece.value))[:LISTED]
    left, right = CELL.format(side="left"), CELL.format(side="right")
    rows = "".join(f'<tr><td style="{left}"><bdi>{_safe(w.text)}</bdi></td><td style="{right}">{w.value:+.4g}</td></tr>' for w in strongest)
    caption = f'<caption style="{SMALL};text-align:left">Strongest words</caption>'
    return f'<table style="margin-top:12px;border-collapse:collapse;font-size:14px">{caption}{rows}</table>'
