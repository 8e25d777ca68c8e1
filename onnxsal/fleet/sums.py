"""Statistics of many rows from those of their shards, the same to the last bit in whatever order and in however many steps they are added.

Nothing that is added is ever rounded: counts are whole numbers, sums of values and of squares are kept without rounding, and the weighted
sums of the bootstrap are rounded once, for each shard, to a fixed point, and added as whole numbers. So a merge of merges is the merge of
all their shards, and one that is written may be gone on with when more shards are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.fleet.bootstrap import RESAMPLES, interval, poisson_weights
from onnxsal.fleet.column_sums import ColumnSummary, ColumnSums
from onnxsal.fleet.exact import FixedSums, weighted_sums
from onnxsal.fleet.group_sums import GroupSums
from onnxsal.fleet.strata import Strata, StrataSum
from onnxsal.fleet.sums_file import Counts, SumsState, as_json, from_data, from_json
from onnxsal.limits import refuse_over


class MeanDifference(NamedTuple):
    """A difference of means with its 95 % interval."""

    mean: float
    low: float
    high: float


class Sums(SumsState):
    """The state of a shard or of many: made of rows, added by ``merged``, and asked for what it says."""

    @classmethod
    def of(
        cls,
        shard: str,
        seed: int,
        ids: Sequence[str],
        columns: Mapping[str, np.ndarray],
        counts: Mapping[str, Mapping[str, int]] | None = None,
        by: Mapping[str, Sequence[str]] | None = None,
        strata: Mapping[str, Sequence[str]] | None = None,
    ) -> Sums:
        """The state of one shard.

        ``columns``: name -> float64 [n], a number for each of ``ids`` [n]; one that is not finite is no value, and counted as missing.
        ``counts``: what -> which -> how many. ``by``: name -> the class of each row [n], for the means of every column by class;
        ``strata``: the same for the first rows of each class ('' = the row has none).
        Raises ``InputError`` where the lengths differ, and for more than 1,000 classes that means are kept of.
        """
        made = {name: np.asarray(values, np.float64) for name, values in columns.items()}
        for name in (*made, *(by or {}), *(strata or {}), *(counts or {}), *(which for each in (counts or {}).values() for which in each)):
            refuse_over("name_length", len(name), f"a name of the sums of shard '{shard}' is too long: {name[:60]}...")
        named = [*(by or {}).items(), *(strata or {}).items()]
        _refuse_uneven(len(ids), [*((n, v.shape) for n, v in made.items()), *((n, (len(c),)) for n, c in named)])
        weights, resampled, absent = _resampled(shard, seed, len(ids), made)
        return cls(
            (shard,),
            seed,
            len(ids),
            weights,
            {name: ColumnSums.of(values, ids, resampled[name], absent[name]) for name, values in made.items()},
            {what: {which: int(count) for which, count in each.items()} for what, each in (counts or {}).items()},
            {name: GroupSums.of(name, classes, made) for name, classes in (by or {}).items()},
            Strata.of(shard, seed, ids, strata or {}),
        )

    def column(self, name: str) -> ColumnSummary:
        """What is said of a column. Raises ``InputError`` for one that is not there."""
        return ColumnSummary.of(self._column(name), self.weights)

    def difference(self, a: str, b: str) -> MeanDifference:
        """mean(a) - mean(b) with its percentile bootstrap interval (NaN below two values), resampled in pairs: the rows have the same
        weights in both. A row that has a value in one of them only counts there; for the pairs alone, give their difference as a column.
        """
        one, two = self._column(a), self._column(b)
        if one.mean is None or two.mean is None:
            return MeanDifference(np.nan, np.nan, np.nan)
        mean = float(one.mean - two.mean)
        if min(one.n, two.n) < 2:
            return MeanDifference(mean, np.nan, np.nan)
        return MeanDifference(mean, *interval(one.resamples(self.weights) - two.resamples(self.weights)))

    def by_class(self, name: str, column: str) -> dict[str, tuple[int, float]]:
        """Class -> rows with a value in the column, and their mean; by the classes that were given as ``by[name]``."""
        if name not in self.groups:
            raise InputError(f"there are no classes '{name}'{near_miss(name, self.groups)}; known: {', '.join(self.groups) or 'none'}.")
        self._column(column)
        return self.groups[name].means(column)

    def first_of_each(self, name: str) -> dict[str, list[str]]:
        """Class -> the ids of the (at most eight) rows with the smallest hashes by the seed, by the classes given as ``strata[name]``."""
        return self.strata.of_each(name)

    def _column(self, name: str) -> ColumnSums:
        if name not in self.columns:
            raise InputError(f"there is no column '{name}'{near_miss(name, self.columns)}; known: {', '.join(self.columns) or 'none'}.")
        return self.columns[name]

    def as_json(self) -> str:
        """As text, the same for the same state; ``from_json`` reads it."""
        return as_json(self)

    @classmethod
    def from_json(cls, text: str, what: str = "the sums") -> Sums:
        """What ``as_json`` wrote. Raises ``InputError`` for anything else, which begins with ``what`` and names every key that is wrong."""
        return cls(**vars(from_json(text, what)))

    @classmethod
    def from_data(cls, data: Any, what: str = "the sums") -> Sums:
        """As ``from_json``, of a document that ``settings.parse_json`` has parsed."""
        return cls(**vars(from_data(data, what)))


class EndShards:
    """In which shard the samples lie that have the smallest and the largest value of each column, of many states that are seen."""

    def __init__(self) -> None:
        self._best: dict[tuple[str, int], tuple[tuple[float, str], str]] = {}

    def see(self, shard: str, sums: Sums) -> None:
        """The state of one more shard."""
        for name, column in sums.columns.items():
            for sign, end in ((1, column.lowest), (-1, column.highest)):
                if end:
                    mine = (sign * end[0][0], end[0][1]), shard
                    self._best[name, sign] = min(self._best.get((name, sign), mine), mine)

    @property
    def found(self) -> list[tuple[str, str]]:
        """(id, shard) of each end of each column, each once."""
        return list(dict.fromkeys((own, shard) for (_, own), shard in self._best.values()))


def _refuse_uneven(rows: int, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    for name, shape in shapes:
        if shape != (rows,):
            raise InputError(f"'{name}' has shape {list(shape)}; wanted one value for each of {rows} rows.")


def _resampled(
    shard: str, seed: int, rows: int, columns: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, FixedSums], dict[str, np.ndarray]]:
    """Over the rows of a shard, the sums [B] of weights, of weights times values, and of the weights of rows without a value."""
    ones, there = np.ones(rows), {name: np.isfinite(values) for name, values in columns.items()}
    parts = [ones, *(np.where(there[n], v, 0.0) for n, v in columns.items()), *(1.0 - there[n] for n in columns)]
    totals = [FixedSums.zero(RESAMPLES) for _ in parts]
    for part, weights in poisson_weights(seed, shard, rows):
        totals = [total + more for total, more in zip(totals, weighted_sums(weights, [p[part] for p in parts]), strict=True)]
    many = len(columns) + 1
    resampled = dict(zip(columns, totals[1:many], strict=True))
    return totals[0].whole(), resampled, dict(zip(columns, (t.whole() for t in totals[many:]), strict=True))


def merged(states: Iterable[Sums | tuple[str, Callable[[], Sums]]]) -> Sums:
    """The state of all shards: of states, or of pairs (name of the shard, what reads its state), read one after the other, none kept.

    In any order, and of states that are merged themselves, the result is the same to the last bit. A state without rows and columns adds
    its counts. Raises ``InputError`` for nothing, for a shard twice, for other columns, classes or seeds, and for a state under the name
    of another.
    """
    total: Sums | None = None
    shards, strata = set[str](), StrataSum()
    for given in states:
        state = _read(*given) if isinstance(given, tuple) else given
        if again := shards.intersection(state.shards):
            raise InputError(f"shard '{min(again)}' is there twice: its rows would count twice. Take one of the two away.")
        shards.update(state.shards)
        strata.add(state.strata)
        total = state if total is None else _added(total, state)
    if total is None:
        raise InputError("there are no sums to merge: no shard is done yet.")
    return replace(total, shards=tuple(sorted(shards)), strata=strata.total)


def _read(name: str, read: Callable[[], Sums]) -> Sums:
    state = read()
    if state.shards != (name,):
        raise InputError(f"the sums of shard '{name}' are those of {_words(state.shards)}: a file lies under another's name.")
    return state


def _words(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5:,} more' if len(names) > 5 else ''}" or "none"


def _added(one: Sums, two: Sums) -> Sums:
    """The sum of two states, but for the names of their shards and the first of their classes, which who adds many keeps."""
    if one.seed != two.seed:
        raise InputError(f"shard '{two.shards[0]}' was resampled with seed {two.seed}, others with {one.seed}: they do not add up.")
    if not (one.n or one.columns) or not (two.n or two.columns):
        return replace(one if one.n or one.columns else two, counts=_counts(one.counts, two.counts))
    kinds = (("columns", one.columns, two.columns), ("classes", one.groups, two.groups), ("strata", one.strata.by, two.strata.by))
    for kind, here, there in kinds:
        if set(here) != set(there):
            raise InputError(f"shard '{two.shards[0]}' has the {kind} {_words(sorted(there))}; others have {_words(sorted(here))}.")
    return Sums(
        one.shards,
        one.seed,
        one.n + two.n,
        one.weights + two.weights,
        {name: column + two.columns[name] for name, column in one.columns.items()},
        _counts(one.counts, two.counts),
        {name: group + two.groups[name] for name, group in one.groups.items()},
        one.strata,
    )


def _counts(one: Counts, two: Counts) -> Counts:
    found = {what: dict(each) for what, each in one.items()}
    for what, each in two.items():
        into = found.setdefault(what, {})
        for which, count in each.items():
            into[which] = into.get(which, 0) + count
    return found
