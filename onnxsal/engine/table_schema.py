"""What the keys of a method's table must be, before anything is read from it; what they mean is checked as it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from onnxsal.settings import Number, Phrase, Phrases, Switch, Wanted, numbers_of, open_schema, validated


@open_schema
class RowSchema:
    """A row; its other keys are parameters of the rule that it uses."""

    op: Phrases = ()
    family: Phrases = ()
    position: Phrases = ()
    name: Phrases = ()
    tag: Phrases = ()
    when: dict[Phrase, Any] | None = None
    always: Switch = False
    use: Phrase = ""
    why: Phrase = ""
    factor: Phrases = ()


@open_schema
class ParameterSchema:
    """``[parameters.NAME]``."""

    default: Any = ""
    doc: Phrase = ""
    choices: list[Any] | None = None
    aliases: list[Phrase] | None = None
    kind: Phrase = ""
    minimum: Number = 0.0


@open_schema
class TableSchema:
    """The table of a method."""

    extends: Phrase = ""
    name: Phrase = ""
    title: Phrase = ""
    source: Phrase = ""
    formula: Phrase = ""
    aliases: list[Phrase] | None = None
    wrap: Phrase = ""
    law: Phrase = ""
    seed: Phrase = ""
    times_input: Switch = False
    partial: Switch = False
    of: Any = ""
    parameters: dict[Phrase, Any] | None = None
    fixed: dict[Phrase, Any] | None = None
    preset: dict[Phrase, dict[Phrase, Any]] | None = None
    normalise: list[RowSchema] | None = None
    rule: list[RowSchema] | None = None
    refuse: list[RowSchema] | None = None
    constant: list[RowSchema] | None = None


def wrong_types(table: Mapping[str, Any]) -> Iterator[str]:
    """Every value in a table that is not of the type of its key."""
    yield from validated(TableSchema, table)[1]
    parameters = table.get("parameters")
    for name, one in parameters.items() if isinstance(parameters, dict) else ():
        if isinstance(one, dict):
            yield from (f"parameter '{name}': {mistake}" for mistake in validated(ParameterSchema, one)[1])


def _numeric(value: Any) -> Any:
    """The value, if numpy takes it for finite numbers."""
    array = numbers_of(value)
    if array is None or not np.isfinite(array).all():
        raise ValueError
    return value


KINDS: dict[Any, Any] = {
    float: Number,
    str: Phrase,
    bool: Switch,
    Any: Annotated[Any, Wanted("a number or a list of numbers", before=_numeric)],
}
"""The annotation of a rule's parameter -> what a table may give for it."""


def wrong_value(name: str, value: Any, kind: Any) -> str:
    """What is wrong with the value of a rule's parameter that is annotated ``kind`` ('' = nothing)."""
    if kind not in KINDS:
        return f"'{name}' is filled in by the method, not by a table."
    wrong = validated(KINDS[kind], value)[1]
    return f"{name}: {wrong[0]}" if wrong else ""
