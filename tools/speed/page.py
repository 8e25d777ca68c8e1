"""The table of timings: on the terminal, and in docs/performance.md."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


@dataclass(frozen=True)
class Column:
    """``key`` of what was found, under ``head``, with so many ``digits`` behind the point."""

    head: str
    key: str
    digits: int

    def text(self, found: Mapping[str, Any]) -> str:
        value = found.get(self.key)
        return "" if value is None else f"{value:.{self.digits}f}"


COLUMNS = (
    Column("ratio", "ratio", 2),
    Column("best", "best", 2),
    Column("floor", "floor", 2),
    Column("a step", "per_step", 2),
    Column("wall ratio", "wall_ratio", 2),
    Column("wall ms", "wall_ms", 1),
    Column("peak MB", "peak_mb", 0),
    Column("convert s", "convert_s", 2),
    Column("convert MB", "convert_mb", 0),
    Column("size", "size", 3),
    Column("reorders", "reorders", 0),
)
WIDTH = 30


def head() -> str:
    return " ".join([f"{'method':{WIDTH}}", *(f"{c.head:>{max(8, len(c.head))}}" for c in COLUMNS)])


def line(name: str, found: Mapping[str, Any]) -> str:
    """A row for the terminal; what went wrong stands in place of its numbers."""
    if "failed" in found:
        return f"{name:{WIDTH}} {found['failed']}"
    return " ".join([f"{name:{WIDTH}}", *(f"{c.text(found):>{max(8, len(c.head))}}" for c in COLUMNS)])


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of one model as a table of the page."""
    lines = [f"| method | {' | '.join(c.head for c in COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, found in rows.items():
        cells = [found["failed"], *[""] * (len(COLUMNS) - 1)] if "failed" in found else [c.text(found) for c in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def marks(name: str) -> tuple[str, str]:
    """What stands before and behind the part of the page that is called so."""
    return f"<!-- {name}: written by tools/bench.py -->", f"<!-- end of {name} -->"


def part(text: str, name: str) -> str:
    """What stands between the marks of ``name``."""
    begin, end = marks(name)
    return text.split(begin)[1].split(end)[0].strip()


def write(name: str, made: str) -> None:
    """Put ``made`` between the marks of ``name`` in the page. Raises ``ValueError`` where the page has no such marks."""
    text, (begin, end) = PAGE.read_text(encoding="utf-8"), marks(name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{PAGE} has not one pair of marks '{begin}' ... '{end}'")
    PAGE.write_text(text.split(begin)[0] + f"{begin}\n\n{made}\n\n{end}" + text.split(end)[1], encoding="utf-8")


def machine() -> str:
    """The processor by its name."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", told.read_text(encoding="utf-8")) if told.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions(names: Iterable[str]) -> str:
    """The versions of packages, of those that are installed."""
    told = []
    for name in names:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(told)
