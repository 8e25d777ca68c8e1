"""The rows of each class whose ids have the smallest hashes: the same however the data are cut, and in whatever order shards are added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from onnxsal.errors import InputError
from onnxsal.untrusted import whole_text

PER_CLASS = 8
"""Rows that are kept of each class."""

LEAST = 1024
"""Rows that are gathered before the first of them are looked for."""

BITS = 53
"""Bits of a hash that are used: a float64 holds them all."""


def rank(name: str, seed: int) -> float:
    """The hash of an id by a seed as a number in [0, 1), evenly spread over ids, which depends on these two alone."""
    found = hashlib.blake2b(whole_text(name).encode(), digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(found, "big") >> (64 - BITS)) / 2**BITS


class KeptRow(NamedTuple):
    """A row: the ``rank`` of its ``id``, its ``shard``, and its class by each naming, '' where it has none."""

    rank: float
    id: str
    shard: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Strata:
    """The mergeable state: by each of the namings ``by``, in order (predicted classes, labels), the ``PER_CLASS`` rows of each class that
    come first by (rank, id, shard); all of them together, in that order (bottom-k sampling; Cohen & Kaplan 2007, "Summarizing data using
    bottom-k sketches").
    """

    by: tuple[str, ...] = ()
    rows: tuple[KeptRow, ...] = ()

    @classmethod
    def of(cls, shard: str, seed: int, ids: Sequence[str], classes: Mapping[str, Sequence[str]]) -> Strata:
        """The state of the rows of one shard; ``classes``: naming -> the class of each of ``ids`` [n], '' = none."""
        by = tuple(sorted(classes))
        each = zip(ids, zip(*(classes[name] for name in by), strict=True), strict=True) if by else ()
        return cls(by, _first(KeptRow(rank(own, seed), own, shard, named) for own, named in each if any(named)))

    @property
    def whole(self) -> bool:
        """Whether it is a state that ``of`` can make: the first rows of each class, in order."""
        return self.rows == _first(self.rows)

    def of_each(self, name: str) -> dict[str, list[str]]:
        """Class -> the ids of its first rows, in order. Raises ``InputError`` for a naming that is not there."""
        if name not in self.by:
            raise InputError(f"there are no classes '{name}'; known: {', '.join(self.by) or 'none'}.")
        at, found = self.by.index(name), dict[str, list[str]]()
        for row in self.rows:
            if row.classes[at]:
                found.setdefault(row.classes[at], []).append(row.id)
        return {named: found[named][:PER_CLASS] for named in sorted(found)}

    def first(self, most: int) -> list[KeptRow]:
        """At most so many of the rows: those that come first in a class of theirs, then those that come second, and so on."""
        return [row for row, _ in sorted(_placed(self.rows), key=lambda pair: (pair[1], pair[0]))[:most]]


class StrataSum:
    """Adds up many states: in time that goes with their rows, since the first are looked for again only when the rows have doubled."""

    def __init__(self) -> None:
        self._by: tuple[str, ...] = ()
        self._rows: list[KeptRow] = []
        self._most = LEAST

    def add(self, strata: Strata) -> None:
        """Add a state."""
        self._by = strata.by or self._by
        self._rows += strata.rows
        if len(self._rows) > 2 * self._most:
            self._rows = list(_first(self._rows))
            self._most = max(LEAST, len(self._rows))

    @property
    def total(self) -> Strata:
        """The state of all rows."""
        return Strata(self._by, _first(self._rows))


def _first(rows: Iterable[KeptRow]) -> tuple[KeptRow, ...]:
    return tuple(row for row, place in _placed(sorted(rows)) if place < PER_CLASS)


def _placed(rows: Sequence[KeptRow]) -> list[tuple[KeptRow, int]]:
    """Rows in order, each with the number of those of its class before it, the least by any naming."""
    seen, found = dict[tuple[int, str], int](), []
    for row in rows:
        own = [(at, named) for at, named in enumerate(row.classes) if named]
        found.append((row, min((seen.get(key, 0) for key in own), default=PER_CLASS)))
        for key in own:
            seen[key] = seen.get(key, 0) + 1
    return found
