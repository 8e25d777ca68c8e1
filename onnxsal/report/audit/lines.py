"""What a line may hold of the file in which an audit notes what is done: a schema for each kind of line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from onnxsal.metrics.record import KeptLine
from onnxsal.settings import FileName, Number, Phrase, Switch, Wanted, Whole, open_schema

Picture = Annotated[str, Wanted("a picture as a data URI", strict=True, pattern="^data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*$")]
Top = Annotated[list[tuple[Whole, Number]], Wanted("a list of [class, probability], the best first", min_length=1)]


@open_schema
class SampleLine(KeptLine):
    """What every line about a sample has."""

    kind: Phrase
    way: Phrase


@open_schema
class FailedLine(SampleLine):
    """What a model failed to give, and why."""

    why: FileName
    label: Whole | None = None


@open_schema
class AnswerLine(SampleLine):
    """A model's answer on a sample."""

    top: Top
    label: Whole | None = None
    right: Switch | None = None
    right5: Switch | None = None
    label_score: Number | None = None


@open_schema
class BaseLine(AnswerLine):
    """The answer of the audited model, with the picture if the sample is one."""

    size: tuple[Whole, Whole] = (0, 0)
    picture: Picture = ""


@open_schema
class MapLine(SampleLine):
    """A map: the numbers that every one has."""

    target: Whole
    score: Number | None
    residual: Number | None
    reached: Number | None
    warnings: list[FileName]
    empty: FileName


@open_schema
class PictureMapLine(MapLine):
    """A map of a picture: where it lies, and what it looks like."""

    rim: tuple[Number | None, Number | None]
    cells: list[Number | None]
    picture: Picture
    likeness: Number | None = None


@open_schema
class RowMapLine(MapLine):
    """The attribution of each column of a row."""

    columns: list[Number]
    likeness: Number | None = None


@open_schema
class ValueLine(KeptLine):
    """A result about all samples together, as text."""

    value: FileName


KINDS: dict[Any, type[KeptLine]] = {"base": BaseLine, "other": AnswerLine, "map": PictureMapLine, "other map": PictureMapLine}


def kind_of(line: Mapping[str, Any]) -> type[KeptLine]:
    """The schema of a line."""
    if "value" in line:
        return ValueLine
    if "columns" in line:
        return RowMapLine
    return FailedLine if "why" in line else KINDS.get(str(line.get("kind")), SampleLine)
