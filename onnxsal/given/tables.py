"""Rows of a table, as a model is fed with them: columns matched by name, cells in the types that the model takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxsal.ask.guard import plain_model
from onnxsal.ask.question import Question
from onnxsal.ask.request import Ask
from onnxsal.errors import InputError, near_miss
from onnxsal.facts.gaps import takes_gaps
from onnxsal.facts.table_tensor import Slot, TableTensor, slots_of, table_at, table_tensor
from onnxsal.given.from_files import Feeding
from onnxsal.graph import Model
from onnxsal.graph.load import load_model
from onnxsal.graph.provenance import is_converted
from onnxsal.runtime.columns import NOTHING_TOLD, Grouped, ToldColumns, columns_beside, grouped
from onnxsal.runtime.session import Array, Tensor
from onnxsal.runtime.shown import ShownRow
from onnxsal.runtime.table_files import DataTable, numbers, open_table, words
from onnxsal.settings import SHOWN, listed, shown

HOW_TO_NAME = (
    'Name the model\'s columns in its order: columns = ["age", "income", ...] in \'{stem}.toml\' beside the model, or leave the others out '
    "of the table."
)


@dataclass(frozen=True)
class TableRows:
    """Rows as the model is fed: ``feed`` by input [N, ...], ``shown`` what each is shown as, ``beside`` the columns that are left out, as
    they were given; ``notes`` say what was taken as what, ``doubt`` why columns may have been taken for others ('' = they cannot).
    """

    feed: dict[str, Array]
    shown: tuple[ShownRow, ...]
    beside: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubt: str = ""

    def __len__(self) -> int:
        return len(self.shown)

    def part(self, rows: slice) -> TableRows:
        """Some of them."""
        return replace(self, feed={k: v[rows] for k, v in self.feed.items()}, shown=self.shown[rows])


def at_the_table(ask: Ask, table: DataTable, told: ToldColumns = NOTHING_TOLD, apart: Sequence[str] = ()) -> Ask:
    """The same request, made of a table: explained where all columns meet, unless it says where; and the elements of one column replaced
    together, by a method that knows groups and divides the score up among them.

    Columns meet in the model's only input, or in the inner tensor that ``facts.table_tensor`` finds.
    """
    proto = load_model(ask.model)
    if is_converted(proto):
        return ask
    model = plain_model(proto, None)
    found = table_tensor(model) if ask.input is None else table_at(model, ask.input)
    if found is None:
        return ask
    ask = ask if found.name in model.input_names else replace(ask, input=found.name)
    if not (ask.chosen.law and "groups" in ask.chosen.names) or "groups" in ask.parameters:
        return ask
    slots = slots_of(model)
    names, _ = _names(table, slots, told, apart)
    both = grouped(names, told.groups)
    together = [list(p) for p in _places(found, dict(zip(slots, names, strict=True)), both).values()]
    return replace(ask, parameters={**ask.parameters, "groups": together}) if any(len(p) > 1 for p in together) else ask


def given_rows(given: Any, ask: Ask, fed: Feeding) -> TableRows:
    """The rows of a table in whatever form (``runtime.table_files.is_table``), by what is known of the model's columns."""
    metadata = {p.key: p.value for p in fed.question.model.proto.metadata_props}
    return read_rows(open_table(given), fed, columns_beside(ask.model, metadata))


def read_rows(table: DataTable, fed: Feeding, told: ToldColumns = NOTHING_TOLD, apart: Sequence[str] = ()) -> TableRows:
    """The rows of a table as a model is fed with them; columns that are ``apart`` (labels) are none of the model's.

    Columns are found by their names: those of the model's inputs where each takes one column, those that are ``told``, else all of the
    table's in their order, where these are as many as the model takes. Missing numbers are NaN, for a model that fills them itself.
    Raises ``InputError`` for columns that are missing, and for cells that the model does not take, each with its row and column.
    """
    model = fed.question.model
    tensors = {t.name: t for t in fed.inputs}
    slots = [slot for slot in slots_of(model) if slot.input in tensors]
    if not slots or {slot.input for slot in slots} != set(tensors):
        listing = ", ".join(map(str, fed.inputs))
        raise InputError(f"{table.what}: the model is not fed with rows of columns, [N, columns], but with {listing}.")
    names, doubt = _names(table, slots, told, apart)
    notes: list[str] = []
    feed = {
        name: _input(model, tensors[name], [n for n, s in zip(names, slots, strict=True) if s.input == name], table) for name in tensors
    }
    beside = {name: cells for name, cells in table.columns.items() if name not in names}
    if beside:
        left = ", ".join(map(shown, [*beside][:SHOWN])) + (", ..." if len(beside) > SHOWN else "")
        notes.append(f"columns that the model does not take are left out: {left}")
    rows, more = _shown(table, fed.question, dict(zip(slots, names, strict=True)), told)
    return TableRows(feed, rows, beside, (*table.notes, *notes, *more), doubt)


# ----- names -----


def _names(table: DataTable, slots: Sequence[Slot], told: ToldColumns, apart: Sequence[str]) -> tuple[list[str], str]:
    """The column of the table for each slot, and why these may be others."""
    wanted, doubt = _wanted(table, slots, told, apart)
    missing = [name for name in wanted if name not in table.columns or name in apart]
    if missing:
        known = [name for name in table.columns if name not in apart]
        lines = [f"{table.what} has no column {shown(name)}{near_miss(name, known)}." for name in missing]
        lines[-1] += f" It has {', '.join(map(shown, known[:SHOWN]))}{', ...' if len(known) > SHOWN else ''}."
        raise InputError(listed(lines))
    return wanted, doubt


def _wanted(table: DataTable, slots: Sequence[Slot], told: ToldColumns, apart: Sequence[str]) -> tuple[list[str], str]:
    inputs = list(dict.fromkeys(slot.input for slot in slots))
    if told.columns is not None:
        if len(told.columns) != len(slots) or len(set(told.columns)) < len(told.columns):
            raise InputError(f"columns names {len(set(told.columns))} different columns, and the model takes {len(slots)}: name each once.")
        return list(told.columns), ""
    if len(inputs) == len(slots) and (len(slots) > 1 or inputs[0] in table.columns):
        return inputs, ""
    own = [name for name in table.columns if name not in apart]
    if len(own) != len(slots):
        raise InputError(
            f"{table.what} has {len(own)} columns, and the model takes {len(slots)} without saying what they are called. {HOW_TO_NAME}"
        )
    doubt = "" if len(slots) == 1 else f"the model does not name its {len(slots)} columns: those of {table.what} are taken in their order"
    return own, doubt


# ----- cells -----


def _input(model: Model, tensor: Tensor, names: Sequence[str], table: DataTable) -> Array:
    """One input of the model, [N] or [N, columns]."""
    kind = tensor.dtype
    if kind is None or kind.kind not in "fiubOUS":
        raise InputError(f"input '{tensor.name}' is {tensor.type}, which no cell of a table becomes.")
    gaps = kind.kind == "f" and takes_gaps(model, tensor.name)
    columns = [_column(table, name, kind, gaps, tensor.name) for name in names]
    return columns[0] if tensor.shape is not None and len(tensor.shape) == 1 else np.stack(columns, 1)


def _column(table: DataTable, name: str, kind: np.dtype[Any], gaps: bool, into: str) -> Array:
    where = f"{table.what}, column {shown(name)}"
    if kind.kind in "OUS":
        return words(table.columns[name], where)
    found = numbers(table.columns[name], where)
    if not gaps and (empty := np.flatnonzero(np.isnan(found)) + 1).size:
        rows = ", ".join(map(str, empty[:SHOWN])) + (", ..." if len(empty) > SHOWN else "")
        raise InputError(
            f"{where}: {len(empty)} missing value(s), in row {rows}, and the model does not fill gaps in '{into}'. Fill them as it was "
            "done for training, or leave these rows out."
        )
    if kind.kind in "iu" and (broken := np.flatnonzero(found != np.rint(found)) + 1).size:
        raise InputError(f"{where}, row {broken[0]}: {found[broken[0] - 1]:g} is no whole number, which the model takes there.")
    if kind.kind in "iub" and (np.abs(found) > 2**53).any():
        raise InputError(f"{where}: whole numbers over 2^53 are not read exactly; the model would see others.")
    return found.astype(kind)


# ----- what is shown -----


def _shown(table: DataTable, question: Question, names: Mapping[Slot, str], told: ToldColumns) -> tuple[tuple[ShownRow, ...], list[str]]:
    """Every row, its columns those of groups as one; and which columns the explanation says nothing of."""
    at = table_at(question.model, question.x.name)
    both = grouped(list(names.values()), told.groups)
    places = {} if at is None else {question.x.name: _places(at, names, both)}
    (own,) = places.values() or ({},)
    silent = [name for name in both.names if at is not None and not own.get(name)]
    notes = [f"the explained '{question.x.name}' holds nothing of {', '.join(map(shown, silent))}, whose bars are 0"] if silent else []
    if at is None:
        notes.append(f"'{question.x.name}', which is explained, is not made of single columns: there are no sums by column")
    texts = {name for slot, name in names.items() if question.model.value(slot.input).dtype == TensorProto.STRING}
    cells = [_values(table, name, members, texts) for name, members in zip(both.names, both.members, strict=True)]
    return tuple(ShownRow(both.names, row, places) for row in zip(*cells, strict=True)), notes


def _places(at: TableTensor, names: Mapping[Slot, str], both: Grouped) -> dict[str, tuple[int, ...]]:
    """Column as it is shown -> the elements of the explained tensor that are made of it."""
    of = {column: name for name, columns in zip(both.names, both.members, strict=True) for column in columns}
    found: dict[str, tuple[int, ...]] = dict.fromkeys(both.names, ())
    for place, slot in enumerate(at.slots):
        if slot is not None:
            found[of[names[slot]]] += (place,)
    return found


def _as_given(cells: Array, name: str) -> Array:
    """Numbers as they are written: 0.1 in single precision is shown as 0.1."""
    found = numbers(cells, name)
    return found.astype(np.float32) if cells.dtype == np.float32 else found


def _values(table: DataTable, name: str, members: Sequence[str], texts: Collection[str]) -> Iterator[Any]:
    """The cells of a column as they were given: numbers (``None``: missing), or ``texts``; of a group the columns that are not 0 in each
    row, without the group's name.
    """
    if list(members) == [name]:
        cells = table.columns[name]
        yield from cells.tolist() if name in texts else (None if np.isnan(v) else float(str(v)) for v in _as_given(cells, name))
        return
    if text := set(texts).intersection(members):
        raise InputError(f"group '{name}': column {shown(min(text))} holds names, which the model encodes itself: it is one already.")
    parts = [numbers(table.columns[c], f"{table.what}, column {shown(c)}") for c in members]
    short = [c[len(name) + 1 :] if c.startswith(name) and len(c) > len(name) + 1 else c for c in members]
    for row in zip(*parts, strict=True):
        yield ", ".join(s if v == 1 else f"{s} {v:g}" for s, v in zip(short, row, strict=True) if v) or None
