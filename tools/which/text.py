"""Tables and numbers of the pages that scripts write."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsal.metrics.statistics import Summary


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def interval(summary: Summary, places: int = 3) -> str:
    """Mean [low, high]."""
    return f"{summary.mean:.{places}f} [{summary.low:.{places}f}, {summary.high:.{places}f}]"
