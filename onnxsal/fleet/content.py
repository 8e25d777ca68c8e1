"""What the rows of a shard hold, before any model is fed with it: bytes of pictures and sounds, texts, arrays, tables."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from onnxsal.errors import InputError
from onnxsal.fleet.folders import Folder, file_at
from onnxsal.fleet.manifest import read_at
from onnxsal.fleet.parquet import RowRange, opened, record_batches, word_of
from onnxsal.fleet.records import bytes_of, csv_records, texts_in
from onnxsal.fleet.shard import Shard, unique
from onnxsal.metrics.open_dataset import LABEL_COLUMNS, MASK_COLUMNS, NAME_COLUMNS
from onnxsal.runtime.array_rows import StoredArrays
from onnxsal.runtime.libraries import library
from onnxsal.runtime.table_files import TEXTS, DataTable, separator, table_of_arrow, table_of_text
from onnxsal.untrusted import whole_text

ROWS_AT_ONCE = 16
"""Rows of arrays that are read together."""


class Content(NamedTuple):
    """A row: its number in the source, its id, the ``word`` that labels it ('' = none); ``load`` gives what it holds, or raises
    ``InputError``, and may do so in any thread; ``mask`` the bytes of its mask, where it has one; ``suffix`` is the ending of its file.
    """

    row: int
    id: str
    word: str
    load: Callable[[], Any]
    mask: Callable[[], bytes] | None = None
    suffix: str = ""


def contents(shard: Shard) -> Iterator[Content]:
    """Every row of a shard, in order, whatever happens: where the source cannot be read (any more), ``load`` says why."""
    row = shard.begin
    try:
        for one in _READ[shard.kind](shard):
            yield one
            row += 1
        if row != shard.end:
            raise InputError(f"'{shard.source}' holds {row - shard.begin} of the {len(shard)} rows that were listed.")
    except InputError as error:
        for number in range(row, shard.end):
            yield Content(number, shard.id(number), shard.word, partial(_raise, str(error)))


def _raise(why: str) -> Any:
    raise InputError(why)


def suffix_of(name: str) -> str:
    """The ending of a name, with its dot, in lower case."""
    return posixpath.splitext(name)[1].lower()


# ----- files -----


def _files(shard: Shard) -> Iterator[Content]:
    folder = Folder.of(shard.source)
    for row, one in enumerate(shard.files, shard.begin):
        mask = partial(read_at, folder, one.mask) if one.mask else None
        yield Content(row, one.id or one.name, one.word, partial(read_at, folder, one.name), mask, suffix_of(one.name))


# ----- Parquet -----


def _parquet(shard: Shard) -> Iterator[Content]:
    shard.refuse_changed()
    folder, name = file_at(shard.source)
    run, known = RowRange(shard.begin, shard.end), dict(shard.columns)
    wanted = [column for role, column in known.items() if role != "id"]
    with opened(folder, name) as file:
        ids = unique(_ids(file, shard, run))
        row = shard.begin
        for batch in record_batches(file, run, wanted):
            cells = batch.column(known["content"])
            words = batch.column(known["label"]).to_pylist() if "label" in known else [None] * len(cells)
            for i, word in enumerate(words):
                yield Content(row, ids[row - shard.begin], word_of(word) or shard.word, partial(_cell, cells[i], folder))
                row += 1


def _ids(file: Any, shard: Shard, run: RowRange) -> list[str]:
    """What the rows are called: by their column, else (and where its cell is empty) by their numbers."""
    column = shard.column("id")
    if column is None:
        return [shard.id(row) for row in range(run.begin, run.end)]
    cells = (cell for batch in record_batches(file, run, [column]) for cell in batch.column(column).to_pylist())
    return [whole_text(word_of(cell)) or shard.id(row) for row, cell in enumerate(cells, run.begin)]


def _cell(cell: Any, folder: Folder) -> bytes:
    """The bytes in a cell, or those of the file that it names. Raises ``InputError`` where it is empty."""
    held = cell.as_py()
    if isinstance(held, dict):
        held = held.get("bytes") or held.get("path")
    if not held:
        raise InputError("the cell is empty.")
    return bytes(held) if isinstance(held, bytes | bytearray | memoryview) else read_at(folder, str(held))


# ----- texts -----


def _texts(shard: Shard) -> Iterator[Content]:
    shard.refuse_changed()
    folder, name = file_at(shard.source)
    _, begin, end, first = shard.span
    found = texts_in(bytes_of(folder, name, (begin, end)), begin == 0, f"'{folder.place}/{name}'")
    for row, text in enumerate(found[shard.begin - first : shard.end - first], shard.begin):
        load = partial(_raise, str(text)) if isinstance(text, InputError) else partial(str, text)
        yield Content(row, shard.id(row), shard.word, load)


# ----- arrays -----


def _arrays(shard: Shard) -> Iterator[Content]:
    """Arrays by name, those with a row for each sample as a batch of one."""
    row = shard.begin
    for block, ids, words in _blocks(shard, ROWS_AT_ONCE):
        rows = block.rows
        for i, (own, word) in enumerate(zip(ids, words, strict=True)):
            held = {name: array[i : i + 1] if name in rows else array for name, array in block.arrays.items()}
            yield Content(row, own, word, partial(dict, held))
            row += 1


class ReadTogether(NamedTuple):
    """Some rows of arrays by name; ``rows`` are those that have one for each sample, ``beside`` what is known of each (labels, masks)."""

    arrays: dict[str, np.ndarray]
    rows: frozenset[str]
    beside: dict[str, np.ndarray]


def _blocks(shard: Shard, size: int) -> Iterator[tuple[ReadTogether, list[str], list[str]]]:
    """The rows of a shard of arrays, up to ``size`` at once, with their ids and the words of their labels."""
    shard.refuse_changed()
    folder, name = file_at(shard.source)
    with folder.open(name) as file:
        stored = StoredArrays(file, f"'{folder.place}/{name}'")
        heads, kinds = stored.heads, {"label": LABEL_COLUMNS, "mask": MASK_COLUMNS, "name": NAME_COLUMNS}
        beside = {kind: found for kind, names in kinds.items() if (found := next((n for n in names if n in heads), None))}
        samples = {n: head for n, head in heads.items() if n not in beside.values()}
        count = max((head.shape[0] for head in samples.values() if head.shape), default=0)
        for kind, own in beside.items():
            if heads[own].shape[:1] != (count,):
                raise InputError(f"'{folder.place}/{name}': {kind}s of shape {list(heads[own].shape)} do not belong to {count} samples.")
        rows = frozenset(n for n, head in samples.items() if head.shape[:1] == (count,))
        shared = {n: stored.whole(n) for n in samples if n not in rows}
        ids, words = _ids_of(stored, shard, beside.get("name")), _words_of(stored, shard, beside.get("label"))
        at = 0
        for taken in stored.rows([*rows, *beside.values()], shard.begin, shard.end, size):
            held = {kind: taken.pop(own) for kind, own in beside.items()}
            arrays = {n: taken[n] if n in rows else shared[n] for n in samples}
            some = slice(at, at + size)
            yield ReadTogether(arrays, rows, held), ids[some], words[some]
            at += size


def _ids_of(stored: StoredArrays, shard: Shard, name: str | None) -> list[str]:
    if name is None:
        return [shard.id(row) for row in range(shard.begin, shard.end)]
    cells = next(stored.rows([name], shard.begin, shard.end, len(shard)))[name].tolist()
    return unique([whole_text(word_of(cell)) or shard.id(row) for row, cell in enumerate(cells, shard.begin)])


def _words_of(stored: StoredArrays, shard: Shard, name: str | None) -> list[str]:
    if name is None:
        return [shard.word] * len(shard)
    labels = next(stored.rows([name], shard.begin, shard.end, len(shard)))[name]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"labels are {labels.dtype} {list(labels.shape)}; give the index of each sample's class, integers [N].")
    return ["" if label < 0 else str(label) for label in labels.tolist()]


def arrays_of(shard: Shard) -> dict[str, np.ndarray]:
    """All of a shard of arrays, as ``metrics.open_dataset`` reads a file: with names, and labels and masks where there are some."""
    (block, ids, words), *_ = _blocks(shard, len(shard))
    more = {f"{kind}s": array for kind, array in block.beside.items() if kind == "mask"}
    if "label" in block.beside:
        more["labels"] = np.array([int(word or -1) for word in words])
    return {**block.arrays, **more, "names": np.array(ids)}


# ----- tables -----


def table_of(shard: Shard) -> DataTable:
    """The rows of a table, with the columns of all of it. Raises ``InputError`` where a row has not as many cells as there are columns."""
    shard.refuse_changed()
    folder, name = file_at(shard.source)
    source, run = f"{folder.place}/{name}", RowRange(shard.begin, shard.end)
    between = TEXTS.get(posixpath.splitext(name)[1].lower())
    if between is None:
        with opened(folder, name) as file:
            whole = library("pyarrow").Table.from_batches(list(record_batches(file, run)), file.schema_arrow)
            return table_of_arrow(whole, source)
    header, begin, end, first = shard.span
    whole = table_of_text(bytes_of(folder, name, (0, header), (begin, end)), source, between)
    if len(whole) < shard.end - first:
        raise InputError(f"table '{source}' is read as {len(whole)} rows where {shard.end - first} were listed.")
    return whole.part(slice(shard.begin - first, shard.end - first))


def table_rows(shard: Shard) -> Iterator[DataTable | str]:
    """Every row of a table as a table of its own, or why it is none. Slower than all of them together: for where one of them is damaged."""
    shard.refuse_changed()
    folder, name = file_at(shard.source)
    between = TEXTS.get(posixpath.splitext(name)[1].lower())
    if between is None:
        whole = table_of(shard)
        yield from (DataTable(f"{whole.source}#{shard.begin + i}", whole.part(slice(i, i + 1)).columns) for i in range(len(whole)))
        return
    header, begin, end, first = shard.span
    data = bytes_of(folder, name, (0, header), (begin, end))
    head, lines = data[:header], data[header:]
    between = separator(head.decode("utf-8", "replace"), between)
    records = list(csv_records(iter(lines.splitlines(True)), between, f"table '{folder.place}/{name}'"))
    for row, extent in enumerate(records[shard.begin - first : shard.end - first], shard.begin):
        try:
            yield table_of_text(head + lines[extent.begin : extent.end], f"{folder.place}/{name}#{row}", between)
        except InputError as error:
            yield str(error)


_READ: dict[str, Callable[[Shard], Iterator[Content]]] = {"files": _files, "parquet": _parquet, "arrays": _arrays, "texts": _texts}


def refuse_kind(shard: Shard, kinds: Sequence[str], what: str) -> None:
    """Raise ``InputError`` for a shard of another kind."""
    if shard.kind not in kinds:
        raise InputError(f"'{shard.source}' is read as {shard.kind}, and {what} is made of {', '.join(kinds)}.")
