"""A class as a document names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassName:
    """A class by index and label."""

    index: int
    label: str | None
