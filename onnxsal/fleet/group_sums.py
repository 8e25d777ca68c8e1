"""Means of columns by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.errors import InputError
from onnxsal.fleet.exact import AT_ONCE, FixedSums, weighted_sums

CLASSES = 1000
"""Classes that the rows of one shard may have."""


@dataclass(frozen=True, eq=False)
class GroupSums:
    """The mergeable state of columns by class: for the ``classes`` [k], in order, of each column the number of rows with a value,
    int64 [k], and the sums of values [k]; ``rows`` int64 [k] counts those of each class.
    """

    classes: tuple[str, ...]
    rows: np.ndarray
    columns: dict[str, tuple[np.ndarray, FixedSums]]

    @classmethod
    def of(cls, name: str, classes: Sequence[str], columns: Mapping[str, np.ndarray]) -> GroupSums:
        """The state of columns float64 [n] by the class of each row; what is not finite is no value."""
        known = tuple(sorted(set(classes)))
        if len(known) > CLASSES:
            raise InputError(f"'{name}': means are kept for {CLASSES:,} classes at most, the rows of this shard have {len(known):,}.")
        where = {each: place for place, each in enumerate(known)}
        places = np.array([where[each] for each in classes], np.int64)
        totals = {c: (np.zeros(len(known), np.int64), FixedSums.zero(len(known))) for c in columns}
        for begin in range(0, len(places), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            member = np.arange(len(known))[:, None] == places[part]
            there = {c: np.isfinite(values[part]) for c, values in columns.items()}
            sums = weighted_sums(member, [np.where(there[c], values[part], 0.0) for c, values in columns.items()])
            for each, sum_ in zip(columns, sums, strict=True):
                count, total = totals[each]
                totals[each] = count + member @ there[each].astype(np.int64), total + sum_
        rows = np.bincount(places, minlength=len(known)).astype(np.int64)
        return cls(known, rows, {c: (count, total.rounded()) for c, (count, total) in totals.items()})

    def __add__(self, other: GroupSums) -> GroupSums:
        classes = tuple(sorted({*self.classes, *other.classes}))
        one, two = self._spread(classes), other._spread(classes)
        columns = {c: (count + two.columns[c][0], total + two.columns[c][1]) for c, (count, total) in one.columns.items()}
        return GroupSums(classes, one.rows + two.rows, columns)

    def _spread(self, classes: tuple[str, ...]) -> GroupSums:
        if classes == self.classes:
            return self
        where = {each: place for place, each in enumerate(classes)}
        places, many = [where[each] for each in self.classes], len(classes)
        return GroupSums(
            classes,
            _spread(self.rows, places, many),
            {c: (_spread(count, places, many), total.spread(places, many)) for c, (count, total) in self.columns.items()},
        )

    def means(self, column: str) -> dict[str, tuple[int, float]]:
        """Class -> rows with a value, and their mean (NaN where there are none)."""
        count, total = self.columns[column]
        return {c: (n, m) for c, n, m in zip(self.classes, count.tolist(), total.over(count).tolist(), strict=True)}


def _spread(counts: np.ndarray, places: Sequence[int], many: int) -> np.ndarray:
    found = np.zeros(many, np.int64)
    found[list(places)] = counts
    return found
