"""Manifests: files of text that name a sample a row, with an id, a label and a mask where there are columns of these."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from onnxsal.errors import InputError
from onnxsal.fleet.folders import Folder, Stored, file_at
from onnxsal.fleet.parquet import ROLES, named, word_of
from onnxsal.fleet.shard import Loose, unique
from onnxsal.metrics.open_dataset import MASK_COLUMNS
from onnxsal.runtime.table_files import TEXTS, separator
from onnxsal.settings import SHOWN, shown
from onnxsal.untrusted import whole_text


def manifest_rows(folder: Folder, file: Stored, asked: Mapping[str, str] | None, prefix: str = "") -> list[tuple[Stored, Loose]]:
    """The samples that a manifest names, in its order, each with an id of its own: that of its column, else its file as it is written
    there, behind ``prefix``; the second of one id is called ID#2. What is known of each file on this disk comes with it.

    Raises ``InputError`` where the manifest cannot be read, and where no column names files. A file that is not there is found when it is
    read.
    """
    what = f"manifest '{folder.place}/{file.name}'"
    with folder.open(file.name) as opened, io.TextIOWrapper(io.BufferedReader(opened, 2**20), "utf-8-sig", newline="") as text:
        try:
            rows = list(_cells(text, posixpath.splitext(file.name)[1].lower(), asked, what))
        except (csv.Error, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{what} cannot be read: {error}.") from error
    if not rows:
        raise InputError(f"{what} has no rows: one names a sample.")
    ids = unique([cells.get("id") or f"{prefix}{whole_text(cells['content']) or f'#{i}'}" for i, cells in enumerate(rows)])
    named_files = (
        Loose(cells["content"], own, cells.get("label", ""), cells.get("mask", "")) for cells, own in zip(rows, ids, strict=True)
    )
    return [(_stored(folder, loose.name), loose) for loose in named_files]


def _cells(text: TextIO, suffix: str, asked: Mapping[str, str] | None, what: str) -> Iterator[dict[str, str]]:
    """Role -> cell, of each row."""
    if suffix not in TEXTS:
        yield from _json_cells(text, asked, what)
        return
    first = text.readline()
    between = separator(first, TEXTS[suffix])
    header = next(csv.reader(_with_rest(first, text), delimiter=between), [])
    found = _found([name.strip() for name in header], asked, what)
    at = {role: [name.strip() for name in header].index(column) for role, column in found.items()}
    for row in csv.reader(text, delimiter=between):
        if row:
            yield {role: row[i].strip() if i < len(row) else "" for role, i in at.items()}


def _with_rest(first: str, text: TextIO) -> Iterator[str]:
    yield first
    yield from text


def _json_cells(text: TextIO, asked: Mapping[str, str] | None, what: str) -> Iterator[dict[str, str]]:
    found: dict[str, str] = {}
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        row: Any = json.loads(line)
        if not isinstance(row, dict):
            raise InputError(f"{what}, line {number}: it holds a {type(row).__name__}, not keys and values.")
        found = found or _found(list(row), asked, what)
        yield {role: word_of(row.get(column)) for role, column in found.items()}


def _found(columns: list[str], asked: Mapping[str, str] | None, what: str) -> dict[str, str]:
    found = named([column for column in columns if column], what, asked)
    if "content" not in found:
        listing = ", ".join(map(shown, columns[:SHOWN])) or "none"
        raise InputError(
            f"{what} has the columns {listing}; it needs one that names files: {', '.join(ROLES['content'])}. A table whose columns the "
            "model takes is read with as_table=True."
        )
    mask = next((column for column in columns if column.lower() in MASK_COLUMNS), None)
    return found | ({"mask": mask} if mask is not None else {})


def _stored(folder: Folder, name: str) -> Stored:
    """What is known of a file; nothing of one that is elsewhere, where each question is a request, and of one that is not there."""
    if folder.local is None or "://" in name or not name:
        return Stored(name, 0, "")
    try:
        about = os.stat(folder.local / name)
    except (OSError, ValueError):
        return Stored(name, 0, "")
    return Stored(name, about.st_size, str(about.st_mtime_ns))


def read_at(folder: Folder, name: str) -> bytes:
    """What a file holds that a manifest in ``folder`` names: by its place from there, or by its URI. Raises ``InputError``."""
    if not name:
        raise InputError("no file is named.")
    if "://" in name:
        return _read(*file_at(name))
    if folder.local is not None or not (name.startswith("/") or ".." in name.split("/")):
        return folder.read(name)
    if name.startswith("/"):
        raise InputError(f"'{name}' is a place on one machine, and the manifest lies in '{folder.place}'.")
    scheme, _, rest = folder.at(name).partition("://")
    return _read(*file_at(f"{scheme}://{posixpath.normpath(rest)}"))


def _read(folder: Folder, name: str) -> bytes:
    return folder.read(name)
