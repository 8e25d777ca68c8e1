"""A shard as a model is fed with it: batches of rows in order, read ahead in threads; a row that is damaged is told, and stops nothing.

for one in fed(shard, ask, feeding, 32):
    if isinstance(one, Row): ...            # it could not be read: one.why
    else: session.run(one.feed)             # one.rows, one.pictures

What a model is fed with is to the bit what ``explain`` and ``evaluate`` feed it with from the same files.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.errors import InputError, OnnxsalError
from onnxsal.facts.gaps import takes_gaps
from onnxsal.facts.table_tensor import Slot, slots_of
from onnxsal.fleet.content import Content, arrays_of, contents, refuse_kind, suffix_of, table_of, table_rows
from onnxsal.fleet.parquet import named, word_of
from onnxsal.fleet.shard import Shard, unique
from onnxsal.given.from_files import Feeding, feed_of_arrays, picture_sample
from onnxsal.given.prepared import preprocess_of
from onnxsal.given.sample import GivenSample, stacked
from onnxsal.given.seen import shown_arrays
from onnxsal.given.sounds import sound_feed
from onnxsal.given.tables import read_rows
from onnxsal.given.text import TextReader
from onnxsal.metrics.dataset import Dataset, Entry
from onnxsal.metrics.open_dataset import SampleReader, class_of, picture_in
from onnxsal.runtime.columns import ToldColumns, columns_beside
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import Tensor
from onnxsal.runtime.shown import ShownPicture
from onnxsal.runtime.sound import SOUNDS
from onnxsal.runtime.table_files import DataTable

LabelOf = Callable[[str], int | None]
"""The class that a word names, or ``None``."""


@dataclass(frozen=True)
class Row:
    """A row of a shard: ``row``, its number in the source; ``id``, unlike that of any other; ``digest``, the first 32 hex digits of the
    SHA-256 of what it holds ('' = it could not be read); ``label``, the index of its class; ``why`` no model could be fed with it
    ('' = it can).
    """

    id: str
    row: int
    digest: str
    label: int | None = None
    why: str = ""


@dataclass(frozen=True)
class FedBatch:
    """``rows`` of one shape, in order; ``feed``, the model's inputs, a row of each; ``pictures`` [H, W, 3] bytes as the model sees them,
    ``None`` of what is no picture.
    """

    rows: list[Row]
    feed: dict[str, np.ndarray]
    pictures: list[np.ndarray | None]


class Decoded(NamedTuple):
    """A row, and what the model is fed with for it (nothing, where it says why not)."""

    row: Row
    feed: dict[str, np.ndarray]
    picture: np.ndarray | None


def fed(
    shard: Shard,
    ask: Ask,
    feeding: Feeding,
    size: int,
    ahead: int = 2,
    label: LabelOf | None = None,
    reader: TextReader | None = None,
    only: Collection[str] | None = None,
) -> Iterator[FedBatch | Row]:
    """A shard as batches of up to ``size`` rows of one shape, in order, and the rows that are damaged, each as it is met.

    ``ahead`` threads (for texts one) read and decode before what is given out is used up, at most two batches; ``label`` says which class
    a word names (by ``ask.labels``, if it is not given); ``reader`` turns texts into inputs (by the tokenizer beside the model, if it is
    not given); ``only``: the rows with these ids. Never raises for what is wrong with a row, or with all of them; raises ``InputError``
    where nothing could be read with what is asked for: pictures without a preprocessing, texts without a tokenizer.
    """
    if size < 1 or ahead < 1:
        raise InputError(f"size={size} and ahead={ahead} must be 1 or more.")
    known = label or partial(class_of, labels=ask.labels)
    made: Iterator[Decoded]
    if shard.kind == "table":
        made = (one for one in _of_table(shard, ask, feeding, known) if only is None or one.row.id in only)
    else:
        maker = _Maker.of(shard, ask, feeding, reader)
        threads = 1 if shard.kind == "texts" else ahead  # a tokenizer is told where to cut off, and then reads: it is no two threads'
        rows = (one for one in contents(shard) if only is None or one.id in only)
        made = _ahead(rows, partial(_made, maker, known), threads, 2 * size)
    alone = any(tensor.name not in feeding.question.samples for tensor in feeding.inputs)  # what all samples share is no row of any
    yield from _batches(made, 1 if alone else size)


def _ahead(rows: Iterable[Content], make: Callable[[Content], Decoded], threads: int, most: int) -> Iterator[Decoded]:
    """What is made of each row, in order; up to ``most`` are made before they are asked for."""
    waiting: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(threads, "onnxsal-decode") as pool:
        try:
            for row in rows:
                waiting.append(pool.submit(make, row))
                if len(waiting) >= max(most, threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _batches(stream: Iterable[Decoded], size: int) -> Iterator[FedBatch | Row]:
    held: list[Decoded] = []
    for one in stream:
        if one.row.why:
            yield one.row
            continue
        if held and (len(held) == size or _shapes(held[0]) != _shapes(one)):
            yield _stacked(held)
            held = []
        held.append(one)
    if held:
        yield _stacked(held)


def _shapes(one: Decoded) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in one.feed.items()}


def _stacked(held: Sequence[Decoded]) -> FedBatch:
    return FedBatch([one.row for one in held], stacked([GivenSample(one.feed) for one in held]), [one.picture for one in held])


# ----- one row -----


class _Maker(NamedTuple):
    """How what a row holds becomes what a model is fed with."""

    ask: Ask
    feeding: Feeding
    kind: str
    reader: TextReader | None
    gaps: frozenset[str]

    @classmethod
    def of(cls, shard: Shard, ask: Ask, feeding: Feeding, reader: TextReader | None) -> _Maker:
        pictures = shard.kind == "parquet" or any(suffix_of(file.name) not in SOUNDS for file in shard.files)
        if pictures:
            preprocess_of(ask)  # says what is to be done where nothing is known
        if shard.kind == "texts" and reader is None:
            reader = TextReader.of(ask.model, feeding)
        gaps = frozenset(t.name for t in feeding.inputs if takes_gaps(feeding.question.model, t.name))
        return cls(ask, feeding, shard.kind, reader, gaps)

    def sample(self, held: Any, name: str, suffix: str) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """The inputs of one sample, and the picture that it is."""
        if self.kind == "texts":
            assert self.reader is not None
            (sample,) = self.reader.samples(held, [name])
        elif self.kind == "arrays":
            sample = self._arrays(held, name)
        elif suffix in SOUNDS:
            feed, _ = sound_feed(Path(name), self.feeding.question, self.feeding.inputs, self.feeding.rate, held)
            sample = GivenSample(feed)
        else:
            sample = picture_sample(held, name, name, self.ask, self.feeding)
        _refuse_misfit(sample.feed, self.feeding, self.gaps)
        shown = sample.shown
        if self.kind == "arrays" and shown is None:
            shown = next(iter(shown_arrays(self.feeding.question, self.ask.preprocess, sample.feed)), None)
        return sample.feed, shown.seen if isinstance(shown, ShownPicture) else None

    def _arrays(self, held: Mapping[str, np.ndarray], name: str) -> GivenSample:
        """As ``metrics.open_dataset`` takes them: an only array is that of the only input, and bytes that the model does not take are
        pictures.
        """
        ask, feeding = self.ask, self.feeding
        arrays = dict(held)
        only = feeding.inputs[0] if len(feeding.inputs) == 1 else None
        if only is not None and len(arrays) == 1:
            (values,) = arrays.values()
            if values.dtype == np.uint8 and only.dtype != np.uint8 and ask.preprocess is not None:
                return picture_sample(picture_in(values[0]), name, name, ask, feeding)
        return GivenSample(feed_of_arrays(arrays.get("", arrays), name, feeding.inputs, ()))


def _made(maker: _Maker, label: LabelOf, content: Content) -> Decoded:
    row = Row(content.id, content.row, "")
    try:
        row = replace(row, label=label(content.word) if content.word else None)
        held = content.load()
        row = replace(row, digest=digest_of(held))
        feed, picture = maker.sample(held, content.id, content.suffix)
    except OnnxsalError as error:
        return Decoded(replace(row, why=str(error)), {}, None)
    return Decoded(row, feed, picture)


def digest_of(held: Any) -> str:
    """32 hex digits of the SHA-256 of what a row holds: of arrays, with their names, types and shapes."""
    found = hashlib.sha256()
    if isinstance(held, Mapping):
        for name, array in sorted(held.items()):
            found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    else:
        found.update(held if isinstance(held, bytes) else str(held).encode("utf-8", "surrogatepass"))
    return found.hexdigest()[:32]


def _refuse_misfit(feed: Mapping[str, np.ndarray], feeding: Feeding, gaps: frozenset[str]) -> None:
    """Raise ``InputError`` where a model does not take a sample: other inputs, another shape or type, NaN where nothing fills it."""
    known = {tensor.name: tensor for tensor in feeding.inputs}
    if feed.keys() != known.keys():
        listing = ", ".join(map(str, feeding.inputs))
        raise InputError(f"it gives the input(s) {', '.join(feed) or 'none'}, and the model takes {listing}.")
    for name, array in feed.items():
        tensor = known[name]
        open_axes = (0,) if name in feeding.question.samples else ()
        if tensor.shape is not None:
            sizes = [None if i in open_axes or not isinstance(size, int) else size for i, size in enumerate(tensor.shape)]
            if array.ndim != len(sizes) or any(size not in (None, own) for size, own in zip(sizes, array.shape, strict=True)):
                raise InputError(f"it is {list(array.shape)} as input '{name}', and the model takes {tensor}.")
        texts = {"O", "U", "S"}
        if tensor.dtype is not None and array.dtype != tensor.dtype and not {array.dtype.kind, tensor.dtype.kind} <= texts:
            raise InputError(f"it is {array.dtype} as input '{name}', and the model takes {tensor}.")
        if array.dtype.kind == "f" and not np.isfinite(array).all() and (name not in gaps or np.isinf(array).any()):
            raise InputError(f"it holds NaN or infinite values in input '{name}'.")


# ----- rows of a table -----


def _of_table(shard: Shard, ask: Ask, feeding: Feeding, label: LabelOf) -> Iterator[Decoded]:
    """All rows at once, which is fast; one by one where one of them is damaged."""
    model = feeding.question.model
    told = columns_beside(ask.model, {p.key: p.value for p in model.proto.metadata_props})
    slots = [slot for slot in slots_of(model) if slot.input in {tensor.name for tensor in feeding.inputs}]
    try:
        whole = table_of(shard)
        apart = _apart(whole, shard, slots, told)
        made = read_rows(whole, feeding, told, apart.left_out).feed
        feeds: list[dict[str, np.ndarray] | str] = [{k: v[i : i + 1] for k, v in made.items()} for i in range(len(whole))]
        tables: list[DataTable | str] = [whole.part(slice(i, i + 1)) for i in range(len(whole))]
    except InputError as error:
        tables = _each_row(shard, str(error))
        apart = next((_apart(one, shard, slots, told) for one in tables if isinstance(one, DataTable)), _Apart())
        feeds = [_feed_of(one, feeding, told, apart) for one in tables]
    ids = unique([apart.cell(one, apart.id) or shard.id(row) for row, one in enumerate(tables, shard.begin)])
    for row, own, one, feed in zip(range(shard.begin, shard.end), ids, tables, feeds, strict=True):
        yield _decoded(Row(own, row, _digest_of(one)), apart.cell(one, apart.label) or shard.word, feed, label)


class _Apart(NamedTuple):
    """Columns that are none of the model's: those of ``id`` and ``label``; and which are to be ``left_out`` where it names none."""

    id: str | None = None
    label: str | None = None
    left_out: tuple[str, ...] = ()

    def cell(self, table: DataTable | str, column: str | None) -> str:
        """What a table of one row has in a column ('' = nothing)."""
        return "" if column is None or isinstance(table, str) else word_of(table.columns[column].tolist()[0])


def _apart(table: DataTable, shard: Shard, slots: Sequence[Slot], told: ToldColumns) -> _Apart:
    """Which columns a model does not take: by name, where it or its file names those that it takes; else so that as many are left as it
    takes.
    """
    inputs = {slot.input for slot in slots}
    found = named(list(table.columns), table.what, dict(shard.columns))
    own, word = found.get("id"), found.get("label")
    taken = set(told.columns or ()) if told.columns is not None else inputs
    if told.columns is not None or (len(inputs) == len(slots) and (len(slots) > 1 or inputs & set(table.columns))):
        return _Apart(None if own in taken else own, None if word in taken else word)
    ways = [_Apart(), _Apart(None, word), _Apart(own), _Apart(own, word)]
    ways = [way._replace(left_out=tuple(column for column in way[:2] if column is not None)) for way in ways]
    return next((way for way in ways if len(table.columns) - len(way.left_out) == len(slots)), ways[0])


def _each_row(shard: Shard, why: str) -> list[DataTable | str]:
    """Every row alone, or why it cannot be read; where even that cannot be told, all of them say why the whole could not."""
    try:
        found = list(table_rows(shard))
    except InputError:
        found = []
    return found if len(found) == len(shard) else [why] * len(shard)


def _feed_of(table: DataTable | str, feeding: Feeding, told: ToldColumns, apart: _Apart) -> dict[str, np.ndarray] | str:
    try:
        return table if isinstance(table, str) else read_rows(table, feeding, told, apart.left_out).feed
    except InputError as error:
        return str(error)


def _digest_of(table: DataTable | str) -> str:
    if isinstance(table, str):
        return ""
    return digest_of("\n".join(f"{name} {cells.tolist()[0]!r}" for name, cells in table.columns.items()))


def _decoded(row: Row, word: str, feed: dict[str, np.ndarray] | str, label: LabelOf) -> Decoded:
    if isinstance(feed, str):
        return Decoded(replace(row, why=feed), {}, None)
    try:
        return Decoded(replace(row, label=label(word) if word else None), feed, None)
    except OnnxsalError as error:
        return Decoded(replace(row, why=str(error)), {}, None)


# ----- hashes -----


def digests(shard: Shard) -> dict[int, str]:
    """The hash of each row of a shard, by its number in the source, as ``Row.digest`` has it; a row that cannot be read has none."""
    if shard.kind == "table":
        return {row: _digest_of(one) for row, one in enumerate(table_rows(shard), shard.begin)}
    found = {}
    for content in contents(shard):
        with suppress(OnnxsalError):
            found[content.row] = digest_of(content.load())
    return found


# ----- data sets -----


def dataset(shard: Shard, tensor: Tensor, preprocess: Preprocess | None = None, labels: Sequence[str] | None = None) -> Dataset:
    """A shard as data for metrics and audits, as ``metrics.open_dataset`` makes it of files: a sample a row, called by its id. What is
    damaged is found when it is read. Of Parquet and arrays the whole shard lies in memory.

    Raises ``InputError`` for texts, tables (``metrics.open_rows`` takes ``table(shard)``) and sounds, which it does not read.
    """
    refuse_kind(shard, ("files", "parquet", "arrays"), "a data set of samples")
    how = SampleReader(tensor, preprocess, labels)
    if shard.kind == "arrays":
        return how.arrays(arrays_of(shard), shard.source)
    if sounds := [file.name for file in shard.files if suffix_of(file.name) in SOUNDS]:
        raise InputError(f"'{sounds[0]}' is a sound, which no metric reads: give arrays (.npy), or pictures.")
    return Dataset([_entry(how, content) for content in contents(shard)])


def _entry(how: SampleReader, content: Content) -> Entry:
    return how.picture(content.load, content.id, how.label(content.word) if content.word else None, content.mask)


def table(shard: Shard) -> DataTable:
    """The rows of a shard of a table. Raises ``InputError`` for any other, and where a row has not as many cells as there are columns."""
    refuse_kind(shard, ("table",), "a table")
    return table_of(shard)
