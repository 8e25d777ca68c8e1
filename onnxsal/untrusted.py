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


_OF_NODE = (
    re.compile(r"\(op_type:(?P<op>[\w.]+)(?:, node name: (?P<name>[^)]*))?\): *"),
    re.compile(r"Node \((?P<name>[^)]*)\) Op \((?P<op>\w+)\) *"),
    re.compile(r'(?:This is an invalid model\. )?In Node, \("(?P<name>[^"]*)", (?P<op>\w+), .*?\) : .*, Error '),
)
"""How onnx and ONNX Runtime say which node they speak of."""

_MARKS = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |\[\w*(?:Inference|TypeInference)Error\] *|Inference error\(s\): |"
    r"\S+\.(?:cc|h|cpp|hpp|cu|cuh):\d+: \w+: Assertion `[^`]*` failed: "
)
"""Status codes, kinds of errors, places in C++ sources, and conditions written in C++."""


def library_text(error: BaseException) -> str:
    """What onnx or ONNX Runtime says, in one line: without codes, source locations and C++ signatures, its nodes named as we name them.

    A text whose blanks the library left open ('%s') says nothing, and nothing is returned.
    """
    text = _MARKS.sub("", str(error))
    while match := re.search(r"\S+\.(?:cc|h|cpp|hpp|cu|cuh):\d+ ", text):
        text = text[: match.start()] + _after_signature(text[match.end() :])
    for of_node in _OF_NODE:
        text = of_node.sub(lambda m: f"node '{m['name'] or ''}' ({m['op']}): ", text)
    text = " ".join(text.split()).rstrip(".")
    return "" if re.search(r"%(?:s|l*[du])", text) else text


def _after_signature(text: str) -> str:
    """What follows the C++ function signature that starts ``text``: everything after its balanced parentheses, or all of it."""
    start, depth = text.find("("), 0
    for at in range(start, len(text)) if start >= 0 else ():
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[at + 1 :].removeprefix(" const")
    return text


def inert_cell(text: str) -> str:
    """A cell of a table that no spreadsheet calculates: what begins like a formula gets an apostrophe."""
    text = whole_text(text)
    return f"'{text}" if text.startswith(FORMULA) else text
