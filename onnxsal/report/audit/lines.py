"""What a line may hold of the file in which an audit notes what is done: a schema for each kind of line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from onnxsal.metrics.record import Kept
from onnxsal.settings import Number, Switch, Wanted, Whole, Word, open_schema

Picture = Annotated[str, Wanted("a picture as a data URI", strict=True, pattern="^data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*$")]
Top = Annotated[list[tuple[Whole, Number]], Wanted("a list of [class, probability], the best first", min_length=1)]


@open_schema
class Noted(Kept):
    """What every line about a picture has."""

    kind: Word
    way: Word


@open_schema
class Failed(Noted):
    """What a model failed to give, and why."""

    why: Word
    label: Whole | None = None


@open_schema
class Answered(Noted):
    """A model's answer on a picture."""

    top: Top
    label: Whole | None = None
    right: Switch | None = None
    right5: Switch | None = None
    label_score: Number | None = None


@open_schema
class Base(Answered):
    """The answer of the audited model, with the picture."""

    size: tuple[Whole, Whole] = (0, 0)
    picture: Picture = ""


@open_schema
class Mapped(Noted):
    """A map: its numbers, where it lies, and its picture."""

    target: Whole
    score: Number | None
    residual: Number | None
    reached: Number | None
    warnings: list[Word]
    rim: tuple[Number | None, Number | None]
    cells: list[Number | None]
    picture: Picture
    likeness: Number | None = None


@open_schema
class Value(Kept):
    """A result about all pictures together, as text."""

    value: Word


KINDS: dict[Any, type[Kept]] = {"base": Base, "other": Answered, "map": Mapped, "other map": Mapped}


def kind_of(line: Mapping[str, Any]) -> type[Kept]:
    """The schema of a line."""
    if "value" in line:
        return Value
    return Failed if "why" in line else KINDS.get(str(line.get("kind")), Noted)
