"""What a part of the page is made of; the page says how each looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxsal.metrics.statistics import Summary


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Cell:
    """A cell that is sorted by ``value``; ``mark`` sets it off ("wrong", "bad", "doubt", "good"), ``link`` leads to a place of the page,
    ``note`` stands below in small.
    """

    text: str
    value: float | None = None
    mark: str = ""
    link: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under heads; a head that begins with # is over numbers. Cells: text, numbers, means with their interval, or nothing."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | int | float | Summary | Cell | None]]


@dataclass(frozen=True)
class SampleLinks:
    """Links to samples of the data, with a word about each."""

    title: str
    names: Sequence[tuple[str, str]]


Block: TypeAlias = Text | Table | SampleLinks
