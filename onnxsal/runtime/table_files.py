"""Tables with named columns: from a CSV or Parquet file, or held by pandas or pyarrow; every cell as it was given until a model wants it.

The cells of a CSV are text: "01" is a category or the number 1 by what the model takes there, and nothing is guessed from how it looks.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.disk import open_regular
from onnxsal.errors import InputError, OnnxsalError
from onnxsal.limits import refuse_over
from onnxsal.runtime.libraries import library
from onnxsal.runtime.session import Array
from onnxsal.settings import SHOWN, as_text, listed, read_bytes, shown

TEXTS = {".csv": ",", ".tsv": "\t"}
"""Endings of files of text -> what stands between their cells."""

TABLES = (*TEXTS, ".parquet", ".pq")

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>"})
"""What stands for a missing number in a CSV, in lower case: what pandas writes and reads."""

TRUTH = {"true": 1.0, "false": 0.0}

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class DataTable:
    """``columns`` by name, in order, each an array [N] of whatever its cells are; ``source`` is the file, or what holds it; ``notes`` say
    what was read as what. ``called``: what each row is called, where that is not its number.
    """

    source: str
    columns: Mapping[str, Array]
    notes: tuple[str, ...] = ()
    called: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @property
    def what(self) -> str:
        """The table in an error."""
        return f"table '{self.source}'"

    def part(self, rows: slice | Sequence[int]) -> DataTable:
        """Some of its rows."""
        called = tuple(np.array(self.called, object)[rows]) if self.called else ()
        return DataTable(self.source, {name: cells[rows] for name, cells in self.columns.items()}, self.notes, called)


def is_table(given: object) -> bool:
    """Whether this is a table: the path of one, a DataFrame of pandas or polars, or a Table of pyarrow."""
    if isinstance(given, str | os.PathLike):
        return Path(given).suffix.lower() in TABLES
    return isinstance(given, DataTable) or hasattr(given, "column_names") or (hasattr(given, "columns") and hasattr(given, "dtypes"))


def open_table(given: Any) -> DataTable:
    """A table with its columns by name. Raises ``InputError`` where it cannot be read, has no rows, or has two columns of one name."""
    if isinstance(given, DataTable):
        return given
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        between = TEXTS.get(path.suffix.lower())
        table = _from_parquet(path) if between is None else table_of_text(_bytes_of(path), str(path), between)
    elif hasattr(given, "column_names"):
        table = table_of_arrow(given, type(given).__name__)
    else:
        names = [str(name) for name in given.columns]
        _refuse_twice(names, "the table")
        table = DataTable(type(given).__name__, {n: given[c].to_numpy() for n, c in zip(names, given.columns, strict=True)})
    if not len(table):
        raise InputError(f"{table.what} has no rows below its header ({', '.join(map(shown, list(table.columns)[:SHOWN])) or 'none'}).")
    return table


def _refuse_twice(names: Sequence[str], what: str) -> None:
    refuse_over("table_columns", len(names), f"{what} is too wide")
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise InputError(f"{what} has the column {shown(twice[0])} twice; columns are told apart by their names.")


def _bytes_of(path: Path) -> bytes:
    return read_bytes(path, f"table '{path}'", "table_bytes")


@contextmanager
def arrow_reads(what: str, how: str = "") -> Iterator[None]:
    """Makes whatever pyarrow raises on a damaged file an ``InputError`` about ``what``; ``how`` it was read, in words."""
    try:
        yield
    except OnnxsalError:
        raise
    except Exception as error:  # its exceptions share no base class
        raise InputError(f"{what} cannot be read{how}: {' '.join(str(error).split())[:300]}.") from error


def separator(first: str, usual: str) -> str:
    """What stands between the cells of a table whose first line this is: the ``usual``, unless other signs stand there and it does not."""
    return usual if usual in first else next((c for c in ";\t" if c in first), usual)


def table_of_text(data: bytes, source: str, between: str) -> DataTable:
    """The table that a file of text holds, its header in the first line. ``between`` its cells, unless that line has other signs."""
    what, notes = f"table '{source}'", []
    first = next(iter(as_text(data, what).splitlines()), "")
    if (other := separator(first, between)) != between:
        between = other
        notes.append(f"the cells of '{source}' are separated by {'tabs' if other == chr(9) else repr(other)}")
    refuse_over("table_columns", first.count(between) + 1, f"{what} is too wide")
    arrow, csv = library("pyarrow"), library("pyarrow.csv")
    plain = {f"f{i}": arrow.string() for i in range(first.count(between) + 1)}  # the names that pyarrow gives where it reads no header
    with arrow_reads(what):
        read = csv.read_csv(
            io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")),
            csv.ReadOptions(autogenerate_column_names=True, block_size=min(len(data) + 1, 2**31 - 1), use_threads=False),
            csv.ParseOptions(delimiter=between, newlines_in_values=True),
            csv.ConvertOptions(column_types=plain, strings_can_be_null=False),
        )
        cells = [column.to_numpy() for column in read.columns]
    names = [str(column[0]).strip() for column in cells]
    _refuse_twice(names, what)
    return DataTable(source, {n: column[1:] for n, column in zip(names, cells, strict=True) if n or len(cells) == 1}, tuple(notes))


def _from_parquet(path: Path) -> DataTable:
    what, parquet = f"table '{path}'", library("pyarrow.parquet")
    try:
        opened = open_regular(path)
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror or error}.") from error
    with opened, arrow_reads(what):
        file = parquet.ParquetFile(opened)
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
        refuse_over("array_bytes", sum(sizes), f"{what} is too large")
        return table_of_arrow(file.read(), str(path))


def table_of_arrow(table: Any, source: str) -> DataTable:
    """A Table of pyarrow, with its categories as what they stand for."""
    names = [str(name) for name in table.column_names]
    _refuse_twice(names, f"table '{source}'")
    columns = {}
    for name, column in zip(names, table.columns, strict=True):
        if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):  # categories
            column = column.cast(column.type.value_type)
        columns[name] = column.to_numpy()
    return DataTable(source, columns)


# ----- cells as a model takes them -----


def numbers(cells: Array, where: str) -> Array:
    """Cells as float64 [N], NaN where one is missing. Raises ``InputError`` naming the rows, from 1, that hold anything else."""
    if cells.dtype.kind in "fiub":
        found = cells.astype(np.float64)
    elif cells.dtype.kind in "OUST":
        found = np.array(list(_each(cells, _number, where, "is no number")), np.float64)
    else:
        raise InputError(f"{where} holds {cells.dtype}, which are no numbers; make numbers of them before (such as days since a date).")
    if np.isinf(found).any():
        raise InputError(f"{where}, row {int(np.flatnonzero(np.isinf(found))[0]) + 1}: infinity means nothing to a model.")
    return found


def words(cells: Array, where: str) -> Array:
    """Cells as text [N]. Raises ``InputError`` naming the rows, from 1, that are missing, or that are numbers with a fraction."""
    if cells.dtype.kind == "f":
        raise InputError(f'{where} holds numbers, and the model takes names there: a category is text, such as "3".')
    found = np.empty(len(cells), object)
    found[:] = list(_each(cells, _word, where, "is missing; the model takes a name there"))
    return found


def _each(cells: Array, read: Callable[[Any], Any], where: str, wrong: str) -> Iterator[Any]:
    mistakes = []
    for row, cell in enumerate(cells.tolist(), 1):
        made = read(cell)
        if made is None:
            mistakes.append(f"{where}, row {row}: {shown(cell)} {wrong}.")
        yield made
    if mistakes:
        raise InputError(listed(mistakes))


def missing(cell: Any) -> bool:
    """Whether a cell that is no text holds nothing: None, NaN, or the NA and NaT of pandas."""
    return cell is None or (isinstance(cell, float) and cell != cell) or type(cell).__name__ in ("NAType", "NaTType")


def _number(cell: Any) -> float | None:
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() in MISSING:
            return np.nan
        return float(text) if _NUMBER.fullmatch(text) else TRUTH.get(text.lower())
    if missing(cell):
        return np.nan
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _word(cell: Any) -> str | None:
    if isinstance(cell, float) or missing(cell):
        return None
    return str(cell) or None
