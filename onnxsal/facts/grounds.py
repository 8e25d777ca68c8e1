"""How a fact is known. A guess is no ground: what is not proved, seen or told is not known, and said to be so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Ground(StrEnum):
    """Where a fact comes from."""

    PROVED = "proved from the graph"
    SEEN = "seen in a run"
    TOLD = "told by the user"


@dataclass(frozen=True)
class Found:
    """One thing found out about a model: ``what`` (samples, layout, head, grid, layer), what it is in words, how it is known, and the
    detail that shows it ('' = nothing to add).
    """

    what: str
    value: str
    ground: Ground
    why: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.ground}{f': {self.why}' if self.why else ''})"

    def as_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return {key: str(value) for key, value in asdict(self).items()}


def fact_lines(found: Iterable[Found], doubt: str = "") -> list[str]:
    """What was found out about a model and how, one line each, and what is doubtful."""
    return [f"{fact.what:<9}{fact}" for fact in found] + ([f"{'doubt':<9}{doubt}"] if doubt else [])
