"""The words that a person reads of an audit: on the page whatever is seen or read aloud, in the JSON every text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

from onnxsal.metrics.data_kind import PICTURES, ROWS

FOREIGN = {PICTURES: r"\brows?\b", ROWS: r"\b(pixels?|pictures?|maps?|images?)\b"}
"""Kind of data -> words that are another kind's."""


def visible(page: str) -> str:
    """The text of a page, with what stands for pictures and what is read aloud."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    spoken = re.findall(r'\b(?:alt|aria-label|placeholder|title|data-many)="([^"]*)"', body)
    return unescape(" ".join([re.sub(r"<[^>]*>", " ", body), *spoken]))


def texts(part: Any) -> Iterator[str]:
    """Every text of a JSON that is no key."""
    if isinstance(part, str):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from texts(inner)


def foreign(text: str, kind: Any) -> list[str]:
    """What a text says of data of a kind in the words of another, with what stands around."""
    return [text[max(0, m.start() - 40) : m.end() + 20] for m in re.finditer(FOREIGN[kind], text, re.IGNORECASE)]
