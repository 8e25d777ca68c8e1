"""Files of lines by the shard: where each record of a CSV and each text begins and ends, in bytes, so that a part can be read alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

from onnxsal.errors import InputError
from onnxsal.fleet.folders import Folder
from onnxsal.given.text import lines_in

BUFFER = 2**20
"""Bytes that are read at once."""

BOM = b"\xef\xbb\xbf"


class ByteSpan(NamedTuple):
    """Bytes [``begin``, ``end``) of a file, which hold so many ``records``."""

    begin: int
    end: int
    records: int = 1


def lines_of(file: Any) -> Iterator[bytes]:
    """The lines of an open file, with what ends them."""
    return iter(io.BufferedReader(file, BUFFER))


def csv_records(lines: Iterator[bytes], between: str, what: str) -> Iterator[ByteSpan]:
    """Where the records of a CSV lie, its header first; lines with nothing in them are none. Line breaks within quotes end no record.

    Raises ``InputError`` for a quote that nothing closes.
    """
    at = 0
    for line in lines:
        begin, at = at, at + len(line)
        if b'"' in line:
            quoted = _Pulled(line, lines)
            try:
                next(csv.reader(quoted, delimiter=between, strict=False), None)
            except csv.Error as error:
                raise InputError(f"{what} cannot be read: {error}, in the record at byte {begin:,}.") from error
            at = begin + quoted.bytes
        elif not line.strip(b"\r\n"):
            continue
        yield ByteSpan(begin, at)


class _Pulled:
    """Lines as the csv module takes them, one after the other, and how many bytes it has taken."""

    def __init__(self, first: bytes, rest: Iterator[bytes]) -> None:
        self._next, self._rest, self.bytes = first, rest, 0

    def __iter__(self) -> _Pulled:
        return self

    def __next__(self) -> str:
        line = self._next or next(self._rest)
        self._next = b""
        self.bytes += len(line)
        return line.decode("latin-1")  # quotes and separators are ASCII, whatever else the bytes are


def text_records(lines: Iterator[bytes]) -> Iterator[ByteSpan]:
    """Where the texts of a file lie, one a line, without empty ones; a line in which others end with \\r alone counts as all of them."""
    at = 0
    for line in lines:
        begin, at = at, at + len(line)
        plain = line.rstrip(b"\r\n")
        many = b"\r" in plain or not b" " < plain.lstrip()[:1] < b"\x7f"  # else it begins with a letter, and is one text
        count = len(lines_in(_decoded(line, begin == 0, "replace"))) if many else 1
        if count:
            yield ByteSpan(begin, at, count)


def texts_in(data: bytes, first: bool, what: str) -> list[str | InputError]:
    """The texts that ``text_records`` counts in a part of a file, its ``first`` or another; what is wrong with one in its place."""
    try:
        _refuse_nul(text := _decoded(data, first), what)
        return [*lines_in(text)]
    except (UnicodeDecodeError, InputError):
        return [text for at, line in enumerate(data.splitlines(True)) for text in _each(line, first and at == 0, what)]


def _each(line: bytes, first: bool, what: str) -> Iterator[str | InputError]:
    for text in lines_in(_decoded(line, first, "surrogateescape")):
        try:
            text.encode()
            _refuse_nul(text, what)
            yield text
        except UnicodeEncodeError as error:
            yield InputError(f"{what} cannot be read here: it is not UTF-8 text ({error.reason}).")
        except InputError as error:
            yield error


def _refuse_nul(text: str, what: str) -> None:
    if "\0" in text:
        raise InputError(f"{what} cannot be read: it is not text, it holds NUL bytes.")


def _decoded(data: bytes, first: bool, errors: str = "strict") -> str:
    """Bytes as text with line breaks in one form; at the beginning of a file without a byte order mark."""
    text = (data.removeprefix(BOM) if first else data).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def bytes_of(folder: Folder, name: str, *extents: tuple[int, int]) -> bytes:
    """Parts of a file, one after the other. Raises ``InputError`` where it ends before them."""
    with folder.open(name) as file:
        parts = []
        for begin, end in extents:
            file.seek(begin)
            parts.append(bytes(file.read(end - begin)))
            if len(parts[-1]) < end - begin:
                raise InputError(f"'{folder.place}/{name}' ends before byte {end:,}.")
    return b"".join(parts)


def cut_records(records: Iterator[ByteSpan], rows: int, most: int) -> Iterator[tuple[ByteSpan, int]]:
    """Runs of records, up to ``rows`` and up to ``most`` bytes, each with the number of records before it."""
    run, before = ByteSpan(0, 0, 0), 0
    for record in records:
        if run.records and (run.records + record.records > rows or record.end - run.begin > most):
            yield run, before
            before += run.records
            run = ByteSpan(0, 0, 0)
        run = ByteSpan(run.begin if run.records else record.begin, record.end, run.records + record.records)
    if run.records:
        yield run, before
