"""Parquet by the shard: which column holds what, where a file is cut, and some of its rows, never all of it in memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from onnxsal.errors import InputError, near_miss
from onnxsal.fleet.folders import Folder
from onnxsal.metrics.open_dataset import FILE_COLUMNS, LABEL_COLUMNS, NAME_COLUMNS
from onnxsal.runtime.libraries import library
from onnxsal.runtime.table_files import arrow_reads, missing
from onnxsal.settings import SHOWN, shown

ROLES = {
    "content": tuple(dict.fromkeys(("image", "picture", "file", "bytes", "path", "uri", "url", "file_name", *FILE_COLUMNS))),
    "id": tuple(dict.fromkeys(("id", "name", "key", *NAME_COLUMNS))),
    "label": tuple(dict.fromkeys(("label", "class", "target", "y", *LABEL_COLUMNS))),
}
"""What a column holds -> what it is called, in any case: the first name wins."""

AT_ONCE = 2**24
"""So many bytes of cells are held at once, about."""

MOST_AT_ONCE = 256
"""So many rows are decoded together at most."""

BUFFER = 2**23
"""Bytes that are read ahead of each column, and no less than a page; without, all that a row group has of it would lie in memory."""


class RowRange(NamedTuple):
    """Rows [``begin``, ``end``) of a file."""

    begin: int
    end: int


@contextlib.contextmanager
def opened(folder: Folder, name: str) -> Iterator[Any]:
    """A Parquet file. Whatever pyarrow raises within the block, on a damaged file, is an ``InputError``."""
    what = f"'{folder.place}/{name}'"
    reader = library("pyarrow.parquet").ParquetFile
    with arrow_reads(what, " as Parquet"), folder.open(name) as file, reader(file, buffer_size=BUFFER, pre_buffer=False) as parquet:
        yield parquet


# ----- which column holds what -----


def roles(schema: Any, what: str, asked: Mapping[str, str] | None = None) -> dict[str, str]:
    """Role -> column: the one that was asked for, else by its name, else (content) the only one that holds bytes.

    Raises ``InputError`` where no column holds pictures, or files, with the columns that there are.
    """
    found = named(schema.names, what, asked)
    types = {field.name: field.type for field in schema}
    if "content" in (asked or {}):
        kind = types[found["content"]]
        if not holds_bytes(kind) and not holds_text(kind):
            raise InputError(f"{what}: column {shown(found['content'])} is {kind}, and holds neither bytes nor names of files.")
    else:
        found["content"] = _content(types)
    if not found["content"]:
        listing = ", ".join(f"{shown(n)} ({types[n]})" for n in schema.names[:SHOWN])
        raise InputError(
            f"{what}: no column is known to hold pictures. It has {listing}. One of bytes, of {{bytes, path}} or of names of files is "
            f"called {', '.join(ROLES['content'])}, or told: columns={{'content': NAME}}. as_table=True reads a table whose columns the "
            "model takes."
        )
    return {role: column for role, column in found.items() if role == "content" or column != found["content"]}


def _content(types: Mapping[str, Any]) -> str:
    """The column of pictures ('' = it is not known): called so and of bytes, called so and of text, or the only one of bytes."""
    called = [name for word in ROLES["content"] for name in types if name.strip().lower() == word]
    with_bytes = [name for name, kind in types.items() if holds_bytes(kind)]
    fitting = [*(n for n in called if n in with_bytes), *(n for n in called if holds_text(types[n]))]
    return fitting[0] if fitting else with_bytes[0] if len(with_bytes) == 1 else ""


def named(columns: Sequence[str], what: str, asked: Mapping[str, str] | None = None) -> dict[str, str]:
    """Role -> column, by what was asked for, else by the names. Raises ``InputError`` for what is asked for and is not there."""
    if wrong := sorted(set(asked or {}) - set(ROLES)):
        raise InputError(f"columns= names {', '.join(wrong)}; what a column can hold is {', '.join(ROLES)}.")
    lower = [name.strip().lower() for name in columns]
    if twice := sorted({name for name in columns if list(columns).count(name) > 1}):
        raise InputError(f"{what} has the column {shown(twice[0])} twice.")
    found = {}
    for role, names in ROLES.items():
        if role in (asked or {}):
            column = (asked or {})[role]
            if column not in columns:
                listing = ", ".join(map(shown, columns[:SHOWN]))
                raise InputError(f"{what} has no column {shown(column)}{near_miss(column, columns)}. It has {listing}.")
            found[role] = column
        elif hit := next((columns[lower.index(name)] for name in names if name in lower), None):
            found[role] = hit
    return found


def holds_bytes(kind: Any) -> bool:
    """Whether cells of a type of pyarrow are bytes, or bytes with the name of their file beside them, as Hugging Face writes pictures."""
    types = library("pyarrow").types
    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind)


def holds_text(kind: Any) -> bool:
    """Whether cells of a type of pyarrow are text, also as categories."""
    types = library("pyarrow").types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def word_of(cell: Any) -> str:
    """A cell as the word that labels a sample: 3.0 is 3, and what is missing is no word."""
    if missing(cell):
        return ""
    if isinstance(cell, float) and cell == int(cell):
        return str(int(cell))
    return str(int(cell) if isinstance(cell, bool) else cell).strip()


# ----- where it is cut -----


def cut(parquet: Any, columns: Sequence[str] | None, rows: int, most: int) -> list[RowRange]:
    """Runs of up to ``rows`` rows, and of up to ``most`` bytes of these columns (all, if ``None``): at the end of a row group where that is
    possible, else into equal parts of one.
    """
    found: list[RowRange] = []
    held = at = begin = 0
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        count, size = group.num_rows, _size(group, columns)
        if at > begin and (at - begin + count > rows or held + size > most):
            found.append(RowRange(begin, at))
            begin, held = at, 0
        parts = max(-(-count // rows), -(-size // most))
        if parts > 1:
            ends = [at + count * i // parts for i in range(parts + 1)]
            found += [RowRange(a, b) for a, b in itertools.pairwise(ends) if b > a]
            begin = at + count
        else:
            held += size
        at += count
    return [*found, *([RowRange(begin, at)] if at > begin else [])]


def _size(group: Any, columns: Sequence[str] | None) -> int:
    """Bytes of some columns of a row group, as they lie in memory."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(
        max(c.total_uncompressed_size, c.total_compressed_size) for c in chunks if columns is None or _is_of(c.path_in_schema, columns)
    )


def _is_of(path: str, columns: Sequence[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)


# ----- some of its rows -----


def record_batches(parquet: Any, run: RowRange, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """The rows of a run in small record batches, in order; of the row groups around it no others, and of these no other columns.

    Raises ``InputError`` where the file has not so many rows.
    """
    starts, at = [], 0
    for number in range(parquet.metadata.num_row_groups):
        starts.append(at)
        at += parquet.metadata.row_group(number).num_rows
    if at < run.end:
        raise InputError(f"the file has {at} rows, and rows {run.begin} to {run.end} are asked for.")
    ends = [*starts[1:], at]
    groups = [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < run.end and b > run.begin and b > a]
    each = max((_size(parquet.metadata.row_group(i), columns) // max(ends[i] - starts[i], 1) for i in groups), default=0)
    size = max(1, min(MOST_AT_ONCE, AT_ONCE // max(each, 1)))
    at = starts[groups[0]]
    for batch in parquet.iter_batches(size, row_groups=groups, columns=None if columns is None else list(columns), use_threads=False):
        begin, end = max(run.begin - at, 0), min(run.end - at, batch.num_rows)
        if begin < end:
            yield batch.slice(begin, end - begin)
        at += batch.num_rows
        if at >= run.end:
            return
