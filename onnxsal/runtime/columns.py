"""What is told of a model's columns beside it or in its metadata, and attributions as one number for each column."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import ShownRow
from onnxsal.settings import Phrase, Phrases, checked, open_schema, parse_json, read_config, shown

COLUMN_KEYS = ("columns", "groups")
"""Keys of ``<stem>.toml`` that are about the columns of tables, not about pictures."""

METADATA_KEYS = ("onnxsal.columns", "feature_names")
"""Keys of a model's metadata that may hold the names of its columns, a JSON list."""

SEPARATORS = "=_:.-/ "
"""What may stand between the name of a group and the categories of its columns."""


@open_schema
class ToldColumns:
    """``columns``: their names, in the order in which the model takes them. ``groups``: name -> the columns that are one, as names or
    patterns such as "colour=*".
    """

    columns: Phrases | None = None
    groups: dict[Phrase, Phrases] = field(default_factory=dict)


NOTHING_TOLD = ToldColumns()


def columns_beside(model: object, metadata: Mapping[str, str] | None = None) -> ToldColumns:
    """What ``<stem>.toml`` beside a model says of its columns, where the model is a file, else its metadata."""
    path = Path(model) if isinstance(model, str | os.PathLike) else Path()
    file = path.with_suffix(".toml") if path.name else path
    told = checked(ToldColumns, read_config(file), f"'{file}'") if os.path.isfile(file) else NOTHING_TOLD
    key = next((key for key in METADATA_KEYS if key in (metadata or {})), "")
    if told.columns is not None or not key:
        return told
    where = f"the metadata of '{path}', {key},"
    return ToldColumns(checked(Phrases, parse_json((metadata or {})[key], where), where), told.groups)


def as_column_metadata(told: ToldColumns) -> dict[str, str]:
    """Metadata of a model file that say what its columns are called."""
    return {} if told.columns is None else {METADATA_KEYS[0]: json.dumps(list(told.columns), ensure_ascii=False)}


def groups_of_columns(groups: Mapping[str, Sequence[str]], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group -> its columns, of those of a model: named, by a pattern, or (an empty list) those that begin with the group's name.

    Raises ``InputError`` for a group without columns, one that is called like another column, and columns in two groups.
    """
    found, taken = {}, dict[str, str]()
    for name, patterns in groups.items():
        own = [c for c in columns if (any(fnmatch.fnmatchcase(c, p) for p in patterns) if patterns else _begins(c, name))]
        missing = [p for p in patterns if not fnmatch.filter(columns, p)]
        if missing or not own:
            wanted = missing[0] if missing else f"{name}=..."
            near = (
                near_miss(wanted, columns) if missing else near_miss(name, [re.split(f"[{re.escape(SEPARATORS)}]", c)[0] for c in columns])
            )
            known = ", ".join(map(shown, columns[:20]))
            raise InputError(f"group '{name}': no column is called {shown(wanted)}{near}; the model's are {known}.")
        if name in columns and name not in own:
            raise InputError(f"group '{name}' is called like a column that is not in it; give it another name.")
        if twice := [c for c in own if c in taken]:
            raise InputError(f"column {shown(twice[0])} is in the groups '{taken[twice[0]]}' and '{name}'; it can be in one.")
        taken |= dict.fromkeys(own, name)
        found[name] = tuple(own)
    return found


def _begins(column: str, group: str) -> bool:
    return column.startswith(group) and column[len(group) : len(group) + 1] in SEPARATORS and len(column) > len(group) + 1


@dataclass(frozen=True)
class Grouped:
    """Columns put together: their ``names`` and the ``members`` of each, in the order of the first member."""

    names: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]


def grouped(columns: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Grouped:
    """Columns as they are shown: those of a group as one."""
    of = {c: name for name, members in groups_of_columns(groups, columns).items() for c in members}
    names = dict.fromkeys(of.get(c, c) for c in columns)
    members = {name: tuple(c for c in columns if of.get(c, c) == name) for name in names}
    return Grouped(tuple(names), tuple(members.values()))


def by_column(shown: ShownRow, attribution: Array) -> Array:
    """The attribution of each column of a row, float64 [columns]: the signed sum over the elements [F] that the column became.

    0 of a column that became none. Raises ``InputError`` where it is not known which they are.
    """
    if len(shown.places) != 1:
        raise InputError("which elements of the explained tensor belong to which column is not known, so there is no sum by column.")
    (places,) = shown.places.values()
    flat = np.asarray(attribution, np.float64).reshape(-1)
    return np.array([flat[list(places.get(name, ()))].sum() for name in shown.columns])
