"""Text that somebody else wrote (names of files, nodes, tensors, classes), made fit to be read: nothing in it acts, nothing is lost."""

from __future__ import annotations

import re

_BYTE = re.compile("[\udc80-\udcff]")
"""A byte of a file name that is not UTF-8, as Python holds it."""

_MISTAKEN = re.compile("\\\\(?=\\\\*(?:x[0-9a-f]{2}|[\udc80-\udcff]))")
"""A backslash that would be taken for the beginning of such a byte."""

_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
"""Control characters, line breaks that only some programs know, and what turns the direction of text or hides in it."""

_SURROGATE = re.compile("[\ud800-\udfff]")

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of a cell that spreadsheets calculate (also in full width), and of one that is quoted already."""


def whole_text(text: str) -> str:
    r"""Text that every encoding of Unicode can hold: bytes of file names that are not UTF-8 as ``\xff``.

    A backslash before what reads like one is doubled, so that two names never become one (``as_it_was`` turns it back).
    """
    if not _SURROGATE.search(text):
        return _MISTAKEN.sub(r"\\\\", text)
    text = _BYTE.sub(lambda m: f"\\x{ord(m[0]) - 0xDC00:02x}", _MISTAKEN.sub(r"\\\\", text))
    return _SURROGATE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def as_it_was(text: str) -> str:
    """The name that ``whole_text`` was made of."""

    def back(found: re.Match[str]) -> str:
        slashes, digits = found[1], found[2]
        half = "\\" * (len(slashes) // 2)
        return half + (chr(0xDC00 + int(digits, 16)) if len(slashes) % 2 else f"x{digits}")

    return re.sub(r"(\\+)x([0-9a-f]{2})", back, text)


def printable(text: str, keep: str = "\n") -> str:
    r"""Text that a terminal or a page shows and does not obey: control characters, and those that turn its direction, as ``\x1b``.

    Those in ``keep`` stay.
    """
    return _ACTING.sub(lambda m: m[0] if m[0] in keep else _escaped(m[0]), whole_text(text))


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def inert_cell(text: str) -> str:
    """A cell of a table that no spreadsheet calculates: what begins like a formula gets an apostrophe."""
    text = whole_text(text)
    return f"'{text}" if text.startswith(FORMULA) else text
