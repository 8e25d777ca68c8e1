"""Data cut into shards: what there is to read, in parts that can be read anywhere, in any order.

for shard in shards("pictures/"):              # or "s3://bucket/data.parquet", a manifest, a list of these
    shard.name                                 # what is in it: the same tomorrow, another where a file has changed
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

from onnxsal.errors import InputError
from onnxsal.fleet.folders import Folder, Stored
from onnxsal.fleet.listing import Discovered, Holder, gather_files, merged
from onnxsal.fleet.manifest import manifest_rows
from onnxsal.fleet.parquet import cut, named, opened, roles
from onnxsal.fleet.records import ByteSpan, csv_records, cut_records, lines_of, text_records
from onnxsal.fleet.shard import Loose, Shard, packed, stamp_of
from onnxsal.metrics.open_dataset import LABEL_COLUMNS, MASK_COLUMNS, NAME_COLUMNS
from onnxsal.runtime.array_rows import ArrayHead, StoredArrays
from onnxsal.runtime.libraries import library
from onnxsal.runtime.table_files import TEXTS, separator
from onnxsal.settings import as_text

__all__ = ["Shard", "shards"]

ROWS = 2048
"""Rows of a shard, where nothing else is asked for."""

MOST_BYTES = 2**30
"""Bytes of a shard at most, as they are stored (of Parquet and arrays: in memory), but for a single sample that has more."""

BESIDE = (*LABEL_COLUMNS, *MASK_COLUMNS, *NAME_COLUMNS)
"""Arrays that are no samples: what is known of each."""


def shards(data: Any, rows: int = ROWS, *, as_table: bool = False, columns: Mapping[str, str] | None = None) -> list[Shard]:
    """The shards of data, each up to ``rows`` rows and ``MOST_BYTES``; never two of one name.

    ``data`` is a folder of pictures (its sub-folders are the words of their labels; hidden files are left out), a picture, a .wav sound,
    a Parquet file or a folder of these (a column of bytes, of {bytes, path} as Hugging Face writes it, or of names of files), a .npy or
    .npz, a .txt with a text a line, a manifest (.csv, .tsv, .jsonl) that names files, the URL of any of these, or a list of these.
    ``as_table``: a CSV or Parquet file is a table whose columns the model takes. ``columns`` says which one holds what (content, id,
    label -> column), where names and types do not.

    The id of a sample is its place below the folder that was given (of several: below the one that they all lie in), else that of its
    id column, else FILE#ROW. Ids are unique but for those that the data give: these are taken as they are, so that one id in two shards is
    one id; within a shard the second sample of an id is called ID#2.

    Raises ``InputError`` where nothing is there, or where a file that holds several samples cannot be read.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"rows={rows!r} is no number of rows; give a whole number of 1 or more.")
    items = [data] if isinstance(data, str | PathLike) else data
    if not isinstance(items, list | tuple):
        raise InputError(f"data is a {type(data).__name__}; shards are made of paths, URLs, and lists of these.")
    found = gather_files(items, as_table)
    made = [shard for folder, files in merged(found) for shard in _loose(folder, files, rows)]
    for holder in found.holders:
        made += _CUT[holder.kind](holder, found, rows, columns)
    return list({shard.name: shard for shard in made}.values())


def _loose(folder: Folder, files: Iterable[tuple[Stored, Loose]], rows: int) -> Iterator[Shard]:
    """Files that are a sample each: up to ``rows`` of them, and up to ``MOST_BYTES``."""
    held: list[tuple[Stored, Loose]] = []
    begin = size = 0
    for one in files:
        if held and (len(held) == rows or size + one[0].size > MOST_BYTES):
            yield _of_files(folder, held, begin)
            begin, size, held = begin + len(held), 0, []
        held.append(one)
        size += one[0].size
    if held:
        yield _of_files(folder, held, begin)


def _of_files(folder: Folder, files: list[tuple[Stored, Loose]], begin: int) -> Shard:
    stamps = hashlib.sha256("\n".join(stamp_of(file) for file, _ in files).encode()).hexdigest()[:16]
    return Shard("files", folder.uri, stamps, begin, begin + len(files), listing=packed(loose for _, loose in files))


def _manifest(holder: Holder, found: Discovered, rows: int, columns: Mapping[str, str] | None) -> Iterable[Shard]:
    alone = len(found.holders) == 1 and not found.loose
    prefix = "" if alone else f"{found.called(holder.place)}:"
    return _loose(holder.folder, manifest_rows(holder.folder, holder.file, columns, prefix), rows)


def _parquet(holder: Holder, found: Discovered, rows: int, columns: Mapping[str, str] | None) -> Iterable[Shard]:
    with opened(holder.folder, holder.file.name) as file:
        known = roles(file.schema_arrow, f"'{holder.place}'", columns)
        for run in cut(file, [known["content"]], rows, MOST_BYTES):
            yield _of_holder(holder, found, "parquet", run.begin, run.end, columns=tuple(known.items()), word=_hive(holder.file.name))


def _hive(name: str) -> str:
    """The class that a folder called class=WORD says of all that is in it."""
    parts = (part.partition("=") for part in posixpath.dirname(name).split("/"))
    return next((word for key, equals, word in parts if equals and key.lower() in LABEL_COLUMNS), "")


def _table(holder: Holder, found: Discovered, rows: int, columns: Mapping[str, str] | None) -> Iterable[Shard]:
    what, suffix = f"table '{holder.place}'", posixpath.splitext(holder.file.name)[1].lower()
    if suffix not in TEXTS:
        with opened(holder.folder, holder.file.name) as file:
            known = tuple(named(file.schema_arrow.names, what, columns).items())
            for run in cut(file, None, rows, MOST_BYTES):
                yield _of_holder(holder, found, "table", run.begin, run.end, columns=known)
        return
    with holder.folder.open(holder.file.name) as file:
        lines = lines_of(file)
        first = next(lines, b"")
        between = separator(as_text(first, what), TEXTS[suffix])
        records = csv_records(_again(first, lines), between, what)
        header = next(records, ByteSpan(0, 0))
        asked = tuple((columns or {}).items())  # the header is read with the rows, and says what it is called
        for extent, before in cut_records(records, rows, MOST_BYTES):
            span = (header.end, extent.begin, extent.end, before)
            yield _of_holder(holder, found, "table", before, before + extent.records, columns=asked, span=span)


def _again(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _texts(holder: Holder, found: Discovered, rows: int, columns: Mapping[str, str] | None) -> Iterable[Shard]:
    with holder.folder.open(holder.file.name) as file:
        for extent, before in cut_records(text_records(lines_of(file)), rows, MOST_BYTES):
            span = (0, extent.begin, extent.end, before)
            yield _of_holder(holder, found, "texts", before, before + extent.records, span=span)


def _arrays(holder: Holder, found: Discovered, rows: int, columns: Mapping[str, str] | None) -> Iterable[Shard]:
    with holder.folder.open(holder.file.name) as file:
        heads = StoredArrays(file, f"'{holder.place}'").heads
    samples = {name: head for name, head in heads.items() if name not in BESIDE}
    count = max((head.shape[0] for head in samples.values() if head.shape), default=0)
    each = max(sum(_row_bytes(head, count) for head in heads.values()), 1)
    step = max(1, min(rows, MOST_BYTES // each))
    for begin in range(0, count, step):
        yield _of_holder(holder, found, "arrays", begin, min(begin + step, count))


def _row_bytes(head: ArrayHead, count: int) -> int:
    return head.row_bytes if head.shape[:1] == (count,) else 0


def _of_holder(holder: Holder, found: Discovered, kind: str, begin: int, end: int, **more: Any) -> Shard:
    called = found.called(holder.place)
    return Shard(kind, holder.folder.at(holder.file.name), stamp_of(holder.file), begin, end, called, **more)


def _none_empty(cut_up: Any) -> Any:
    """A cutter of files that hold many samples, which refuses one that holds none."""

    def refusing(holder: Holder, found: Discovered, rows: int, columns: Mapping[str, str] | None) -> list[Shard]:
        library("pyarrow")  # opens all of them, also where they lie on this disk
        made = list(cut_up(holder, found, rows, columns))
        if not made:
            raise InputError(f"'{holder.place}' holds no samples.")
        return made

    return refusing


_CUT = {
    "parquet": _none_empty(_parquet),
    "arrays": _none_empty(_arrays),
    "table": _none_empty(_table),
    "texts": _none_empty(_texts),
    "manifest": _none_empty(_manifest),
}
