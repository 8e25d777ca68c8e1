"""Rows of a table as data for metrics and audits: what is changed is its columns, where all of them meet in the model.

Behind that tensor [N, F] the model is a model of its own, which is what is measured; before it each row is encoded once. A column that
became several elements (categories that are one-hot) is taken away and put back whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxsal.ask.class_names import names_in
from onnxsal.ask.guard import plain_model
from onnxsal.ask.question import ask as question_of
from onnxsal.ask.request import Ask
from onnxsal.errors import InputError, near_miss
from onnxsal.facts.part import part_of
from onnxsal.facts.table_tensor import TableTensor, slots_of, table_tensor
from onnxsal.given.from_files import Feeding
from onnxsal.given.tables import TableRows, read_rows
from onnxsal.graph import Model
from onnxsal.graph.load import load_model
from onnxsal.metrics.data_kind import PICTURES, ROWS, DataKind
from onnxsal.metrics.dataset import Dataset, Entry
from onnxsal.metrics.input_places import InputPlaces
from onnxsal.metrics.open_dataset import LABEL_COLUMNS
from onnxsal.runtime.columns import columns_beside
from onnxsal.runtime.session import Array, Tensor, open_session
from onnxsal.runtime.shown import ShownRow
from onnxsal.runtime.table_files import DataTable, is_table, missing, open_table
from onnxsal.settings import SHOWN, listed, shown

METHODS = ("integrated_gradients", "input_x_gradient", "feature_ablation", "shapley_sampling")
"""For tables, where none are asked for: two by gradients, two that only run the model, as trees need."""

METRICS = ("insertion", "deletion", "id_score")
"""For tables, where none are asked for."""


@dataclass(frozen=True)
class RowsWork:
    """``ask`` of the model behind the table, ``data`` its rows as it is fed with them, ``places`` the columns that can be changed;
    ``shown`` what each row is shown as, by name; ``rows`` as they were read; ``inputs`` what the whole model is fed with.
    """

    ask: Ask
    data: Dataset
    places: InputPlaces
    shown: dict[str, ShownRow]
    rows: TableRows
    inputs: tuple[Tensor, ...]


def takes_rows(ask: Ask, data: object) -> bool:
    """Whether ``data`` is a table whose rows are what the model is fed with (not a list of pictures)."""
    if not is_table(data):
        return False
    proto = load_model(ask.model)
    stored = {t.name for t in proto.graph.initializer}
    ranks = [len(i.type.tensor_type.shape.dim) for i in proto.graph.input if i.name not in stored]
    return bool(ranks) and all(rank in (1, 2) for rank in ranks)


def kind_given(ask: Ask, data: object, labels_column: str | None, masks: object, preprocess: object = None) -> DataKind:
    """Whether data are rows or pictures. Raises ``InputError`` for what is asked for of the other kind (see ``refuse_misused``)."""
    return ROWS if refuse_misused(takes_rows(ask, data), labels_column, masks, preprocess) else PICTURES


def refuse_misused(of_rows: bool, labels_column: str | None, masks: object, preprocess: object = None) -> bool:
    """``of_rows``. Raises ``InputError`` for what is asked for of the other kind of data."""
    if of_rows and preprocess is not None:
        raise InputError(
            "preprocess= (--preprocess) says how pictures are prepared, and these data are rows of a table, whose cells go to the model as "
            "they are. What its columns are called, and which belong together, stands in a TOML beside it (docs/tabular.md)."
        )
    if of_rows and masks is not None:
        raise InputError("masks= (--masks) is for pictures: rows of a table have no places where an object could lie.")
    if not of_rows and labels_column is not None:
        raise InputError("labels_column= (--labels-column) is for tables of rows that the model is fed with; these data are no such table.")
    return of_rows


def open_rows(ask: Ask, data: Any, labels_column: str | None = None) -> RowsWork:
    """The rows of a table as data for a model. ``labels_column`` holds the class of each row, as a name or an index; by default the one
    that is called label, class, target or y, if the model does not take it.

    Raises ``InputError`` where the columns do not meet in one tensor, and as ``given.tables.read_rows``.
    """
    if ask.input is not None:
        raise InputError(f"a table is measured where all of its columns meet, which the graph tells; leave input={ask.input!r} out.")
    model = plain_model(load_model(ask.model), None)
    found = table_tensor(model)
    if found is None:
        raise InputError(
            "the columns of a table do not meet in one tensor of this model in which each element is made of one column, so there is "
            "nothing that could be changed column by column. The rows themselves can be explained: `onnxsal explain`."
        )
    table, told = open_table(data), columns_beside(ask.model, _metadata(model))
    labels_column = _labels_column(table, {slot.input for slot in slots_of(model)} | set(told.columns or ()), labels_column)
    apart = [] if labels_column is None else [labels_column]
    question = question_of(model, found.name, ask.output, batched=ask.batched)
    session = open_session(part_of(model, [found.name]), ask.resolved, threads=ask.threads)
    rows = read_rows(table, Feeding(question, session.inputs), told, apart)
    x = rows.feed[found.name] if found.name in rows.feed else session.run(rows.feed)[found.name]
    names = ask.labels or names_in(question)
    classes = [None] * len(x) if labels_column is None else _classes(table, labels_column, names)
    places = _places(found, rows, x)
    behind = ask
    if found.name not in model.input_names:
        behind = replace(ask, model=part_of(model, model.output_names, True, [model.value(found.name)]).whole())
    notes = [*rows.notes, *filter(None, [rows.doubt])]
    notes += [f"column {shown(labels_column)} was taken as the labels"] if labels_column is not None else []
    named = list(table.called) or [f"row {i}" for i in range(1, len(x) + 1)]
    entries = [_entry(name, x[i : i + 1], classes[i]) for i, name in enumerate(named)]
    return RowsWork(behind, Dataset(entries, notes, ROWS), places, dict(zip(named, rows.shown, strict=True)), rows, tuple(session.inputs))


def _metadata(model: Model) -> dict[str, str]:
    return {p.key: p.value for p in model.proto.metadata_props}


def _entry(name: str, x: Array, label: int | None) -> Entry:
    return Entry(name, lambda: (x, None, None), lambda: [np.ascontiguousarray(x).tobytes()], label)


def _places(found: TableTensor, rows: TableRows, x: Array) -> InputPlaces:
    """The columns as places, in the order in which the tensor has them: so a tensor with an element for each has them as they are."""
    (places,) = rows.shown[0].places.values()
    owner = {element: name for name, elements in places.items() for element in elements}
    numbers: dict[str, int] = {}
    column = tuple(numbers.setdefault(owner.get(i, f"constant {i}"), len(numbers)) for i in range(len(found.slots)))
    return InputPlaces((len(numbers),), None, column=column, means=x.astype(np.float64).mean(0))


# ----- labels -----


def _labels_column(table: DataTable, taken: set[str], asked: str | None) -> str | None:
    if asked is not None:
        if asked not in table.columns:
            known = ", ".join(map(shown, list(table.columns)[:SHOWN]))
            raise InputError(f"{table.what} has no column {shown(asked)}{near_miss(asked, table.columns)} for the labels; it has {known}.")
        if asked in taken:
            raise InputError(f"column {shown(asked)} is one that the model takes, so it holds no labels. Name another.")
        return asked
    return next((name for name in table.columns if name.lower() in LABEL_COLUMNS and name not in taken), None)


def _classes(table: DataTable, column: str, names: Sequence[str] | None) -> list[int | None]:
    """The index of the class of each row: by the names of the classes, where the model or its labels have some, else by number."""
    known = {name: i for i, name in enumerate(names or ())}
    numbered = not any(name.isdecimal() for name in known)  # else "7" is the name of a class, whatever its index
    found: list[int | None] = []
    mistakes = []
    for row, cell in enumerate(table.columns[column].tolist(), 1):
        word = (
            "" if missing(cell) else f"{cell:g}" if isinstance(cell, float) else str(int(cell) if isinstance(cell, bool) else cell).strip()
        )
        index = known.get(word, int(word) if numbered and word.isascii() and word.isdecimal() and len(word) < 10 else None)
        if word and index is None:
            what = (
                f"no class is called so{near_miss(word, known)}"
                if names
                else "no names of classes are known: give indices, or --labels FILE"
            )
            mistakes.append(f"{table.what}, column {shown(column)}, row {row}: {shown(word)}: {what}.")
        found.append(index)
    if mistakes:
        raise InputError(listed(mistakes))
    return found


def with_columns_together(ask: Ask, places: InputPlaces) -> Ask:
    """The same request, in which a method that knows groups and divides the score up among them replaces the elements of a column
    together.
    """
    apart = len(places.column) == places.count
    if apart or not (ask.chosen.law and "groups" in ask.chosen.names) or "groups" in ask.parameters:
        return ask
    return replace(ask, parameters={**ask.parameters, "groups": np.array(places.column)})
