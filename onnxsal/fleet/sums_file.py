"""Sums as text: JSON that is checked key by key where it is read, arrays in it as base64."""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.fleet.bootstrap import RESAMPLES
from onnxsal.fleet.column_sums import WORST, ColumnSums, from_above
from onnxsal.fleet.exact import DIGIT, FURTHEST, FixedSums, number_of, text_of
from onnxsal.fleet.group_sums import GroupSums
from onnxsal.fleet.histogram import LAST, Histogram
from onnxsal.fleet.strata import KeptRow, Strata, rank
from onnxsal.settings import FileName, Number, Phrase, Wanted, Whole, checked, listed, parse_json, schema

FORMAT = 2

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, eq=False)
class SumsState:
    """The mergeable state of ``n`` rows of the ``shards``: columns of numbers, counts, means by class, and
    the first rows of each class.

    ``weights`` int64 [B] are the sums of the bootstrap's weights over all rows, drawn by ``seed`` and the name of the shard: a row has
    the same weights in every column, so that differences of columns are paired.
    """

    shards: tuple[str, ...]
    seed: int
    n: int
    weights: np.ndarray
    columns: dict[str, ColumnSums]
    counts: Counts
    groups: dict[str, GroupSums]
    strata: Strata


Count = Annotated[int, Wanted("a whole number from 0 to 2^53", strict=True, ge=0, le=2**53)]
Base64 = Annotated[str, Wanted("an array as base64", strict=True, pattern="^[A-Za-z0-9+/]*={0,2}$")]
Exact = Annotated[str, Wanted("a number like -0x1a3p-53", strict=True, max_length=1300)]
Ends = Annotated[list[tuple[Number, FileName]], Wanted(f"a list of at most {WORST} of [number, id]", max_length=WORST)]
Exponent = Annotated[int, Wanted(f"a whole number from -{FURTHEST} to {FURTHEST}", strict=True, ge=-FURTHEST, le=FURTHEST)]
Digits = Annotated[list[Base64], Wanted("a list of arrays as base64", min_length=1, max_length=2 * FURTHEST // DIGIT)]


@schema
class FixedLine:
    """``FixedSums``: base64 of its digits, lowest first."""

    exponent: Exponent
    digits: Digits


@schema
class ColumnLine:
    """A column's state."""

    n: Count
    missing: Count
    sum: Exact
    squares: Exact
    lowest: Ends
    highest: Ends
    bins: Base64
    in_bins: Base64
    resampled: FixedLine
    absent: Base64


@schema
class GroupColumnLine:
    """A column's state by class."""

    n: Base64
    sums: FixedLine


@schema
class GroupLine:
    """Classes and the columns by class."""

    classes: list[FileName]
    rows: Base64
    columns: dict[Phrase, GroupColumnLine]


@schema
class StrataLine:
    """The first rows of each class: their ids, the places of their shards in ``shards``, and by each naming the class of each."""

    ids: list[FileName]
    shards: Base64
    classes: dict[Phrase, list[FileName]]


@schema
class SumsLine:
    """A state as it is written; ``digest`` is the SHA-256 of all the rest."""

    format: Whole
    seed: Whole
    resamples: Whole
    shards: Annotated[list[FileName], Wanted("a list of at least one text", min_length=1)]
    n: Count
    weights: Base64
    columns: dict[Phrase, ColumnLine]
    counts: dict[Phrase, dict[FileName, Count]]
    groups: dict[Phrase, GroupLine]
    strata: StrataLine
    digest: Phrase


def as_json(sums: SumsState) -> str:
    """The text of a state: the same for the same state."""
    body = {
        "format": FORMAT,
        "seed": sums.seed,
        "resamples": RESAMPLES,
        "shards": list(sums.shards),
        "n": sums.n,
        "weights": _small(sums.weights),
        "columns": {name: _column(column) for name, column in sums.columns.items()},
        "counts": sums.counts,
        "groups": {
            name: {
                "classes": list(group.classes),
                "rows": _small(group.rows),
                "columns": {c: {"n": _small(n), "sums": _fixed(total)} for c, (n, total) in group.columns.items()},
            }
            for name, group in sums.groups.items()
        },
        "strata": _strata(sums.strata, sums.shards),
    }
    text = _text(body)
    return f'{text[:-1]},"digest":"{_digest(text)}"}}'


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _column(column: ColumnSums) -> dict[str, Any]:
    return {
        "n": column.n,
        "missing": column.missing,
        "sum": text_of(column.total),
        "squares": text_of(column.squares),
        "lowest": column.lowest,
        "highest": column.highest,
        "bins": _base64(column.histogram.keys, "<i4"),
        "in_bins": _small(column.histogram.counts),
        "resampled": _fixed(column.resampled),
        "absent": _small(column.absent),
    }


def _strata(strata: Strata, shards: Sequence[str]) -> dict[str, Any]:
    at = {shard: place for place, shard in enumerate(shards)}
    return {
        "ids": [row.id for row in strata.rows],
        "shards": _small(np.array([at[row.shard] for row in strata.rows], np.int64)),
        "classes": {name: [row.classes[i] for row in strata.rows] for i, name in enumerate(strata.by)},
    }


def _fixed(sums: FixedSums) -> dict[str, Any]:
    return {"exponent": sums.exponent, "digits": [_base64(digit, "<i8") for digit in sums.digits()]}


def _base64(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(array.astype(kind).tobytes()).decode("ascii")


def _small(counts: np.ndarray) -> str:
    """Counts in as few bytes each as the largest needs: 1, 2, 4 or 8, which their number tells."""
    most = int(counts.max(initial=0))
    return _base64(counts, next(kind for kind, end in (("<u1", 2**8), ("<u2", 2**16), ("<u4", 2**32), ("<i8", 2**63)) if most < end))


# ----- reading -----


def from_json(text: str, what: str) -> SumsState:
    """What ``as_json`` wrote; ``InputError`` for anything else."""
    return from_data(parse_json(text, what, names=True), what)


def from_data(data: Any, what: str) -> SumsState:
    """As ``from_json``, of a document that is parsed already."""
    line = checked(SumsLine, data, what)
    for key, found, wanted in (("format", line.format, FORMAT), ("resamples", line.resamples, RESAMPLES)):
        if found != wanted:
            raise InputError(f"{what}: {key} is {found}, this version of onnxsal knows {wanted}. Make the sums again.")
    reader = SumsReader(line)
    sums = reader.sums()
    body = {key: value for key, value in data.items() if key != "digest"}
    if not reader.mistakes and line.digest != _digest(_text(body)):
        reader.mistakes.append("digest is not that of the rest: something in it was changed")
    if sums is None or reader.mistakes:
        raise InputError(listed([f"{what}: {mistake}." for mistake in reader.mistakes]))
    return sums


class SumsReader:
    """Makes arrays of a checked ``SumsLine``; what does not fit together comes to stand in ``mistakes``."""

    def __init__(self, line: SumsLine) -> None:
        self.line, self.mistakes = line, list[str]()

    def sums(self) -> SumsState | None:
        """The state, or ``None`` where there are mistakes."""
        line = self.line
        self.want(_sorted(line.shards, None), "shards must be in order, none twice")
        weights = self.counts(line.weights, RESAMPLES, "weights")
        columns = {name: self.column(each, weights, f"columns.{name}") for name, each in line.columns.items()}
        groups = {name: self.group(each, f"groups.{name}") for name, each in line.groups.items()}
        strata = self.strata(line.strata)
        return None if self.mistakes else SumsState(tuple(line.shards), line.seed, line.n, weights, columns, line.counts, groups, strata)

    def want(self, fits: bool, mistake: str) -> None:
        """Note a mistake where something does not fit."""
        if not fits:
            self.mistakes.append(mistake)

    def array(self, text: str, kinds: Sequence[str], count: int | None, key: str) -> np.ndarray:
        """``count`` numbers (any number where that is ``None``) of one of ``kinds``, which their size tells; zeros where it is none."""
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error:
            data = None
        for kind in kinds:
            size = np.dtype(kind).itemsize
            if data is not None and (len(data) % size == 0 if count is None else len(data) == size * count):
                return np.frombuffer(data, kind).astype(np.int64)
        many = "" if count is None else f"{count:,} "
        self.want(False, f"{key} must be {many}whole numbers as base64, not {'broken base64' if data is None else f'{len(data):,} bytes'}")
        return np.zeros(count or 0, np.int64)

    def counts(self, text: str, count: int, key: str) -> np.ndarray:
        """Counts as ``_small`` wrote them."""
        found = self.array(text, ("<u1", "<u2", "<u4", "<i8"), count, key)
        self.want(bool((found >= 0).all()), f"{key} has negative counts")
        return found

    def fixed(self, line: FixedLine, count: int, key: str) -> FixedSums:
        """``count`` sums."""
        digits = [self.array(text, ("<i8",), count, f"{key}.digits[{i}]") for i, text in enumerate(line.digits)]
        for i, digit in enumerate(digits):
            least = 0 if i < len(digits) - 1 else -(2**DIGIT)
            self.want(bool(((digit >= least) & (digit < 2**DIGIT)).all()), f"{key}.digits[{i}] has numbers of more than {DIGIT} bits")
        return FixedSums.of_digits(digits, line.exponent)

    def exact(self, text: str, key: str) -> Fraction:
        """A number as ``text_of`` wrote it."""
        found = number_of(text)
        self.want(found is not None, f"{key} must be a number like -0x1a3p-53")
        return found or Fraction(0)

    def column(self, line: ColumnLine, weights: np.ndarray, key: str) -> ColumnSums:
        """A column's state, which must fit the number of rows and their weights."""
        self.want(line.n + line.missing == self.line.n, f"{key}.n and {key}.missing must add up to n")
        total, squares = self.exact(line.sum, f"{key}.sum"), self.exact(line.squares, f"{key}.squares")
        self.want(squares * line.n >= total * total, f"{key}.squares is less than squares can be with {key}.sum")
        ends = [self.ends(found, line.n, f"{key}.{name}") for name, found in (("lowest", line.lowest), ("highest", line.highest))]
        self.want(_sorted(ends[0], None) and _sorted(ends[1], from_above), f"{key}.lowest and {key}.highest must be in order")
        low, high = (Fraction(end[0][0]) if end else Fraction(0) for end in ends)
        self.want(line.n * low <= total <= line.n * high, f"{key}.sum must be between n times {key}.lowest and n times {key}.highest")
        self.want(
            squares <= line.n * max(-low, high) ** 2, f"{key}.squares is more than squares can be with {key}.lowest and {key}.highest"
        )
        keys = self.array(line.bins, ("<i4",), None, f"{key}.bins")
        self.want(bool((np.diff(keys) > 0).all() and (abs(keys) <= LAST).all()), f"{key}.bins must be in order, from {-LAST} to {LAST}")
        counts = self.counts(line.in_bins, len(keys), f"{key}.in_bins")
        self.want(bool((counts > 0).all()) and int(counts.sum()) == line.n, f"{key}.in_bins must add up to {key}.n")
        absent = self.counts(line.absent, RESAMPLES, f"{key}.absent")
        self.want(bool((absent <= weights).all()), f"{key}.absent must not be above weights")
        resampled = self.fixed(line.resampled, RESAMPLES, f"{key}.resampled")
        self.want(resampled.within(int(weights.max()) * max(-low, high)), f"{key}.resampled is more than weights times {key}.highest")
        histogram = Histogram(keys.astype(np.int32), counts)
        return ColumnSums(line.n, line.missing, total, squares, ends[0], ends[1], histogram, resampled, absent)

    def ends(self, found: list[tuple[float, Any]], rows: int, key: str) -> tuple[tuple[float, str], ...]:
        """The smallest or largest values."""
        self.want(len(found) == min(rows, WORST), f"{key} must have {min(rows, WORST)} rows, not {len(found)}")
        return tuple(found)

    def group(self, line: GroupLine, key: str) -> GroupSums:
        """Columns by class."""
        many = len(line.classes)
        self.want(_sorted(line.classes, None), f"{key}.classes must be in order, none twice")
        rows = self.counts(line.rows, many, f"{key}.rows")
        self.want(int(rows.sum()) == self.line.n, f"{key}.rows must add up to n")
        self.want(set(line.columns) == set(self.line.columns), f"{key}.columns must be those of columns")
        columns = {}
        for name, each in line.columns.items():
            count = self.counts(each.n, many, f"{key}.columns.{name}.n")
            self.want(bool((count <= rows).all()), f"{key}.columns.{name}.n must not be above {key}.rows")
            sums = self.fixed(each.sums, many, f"{key}.columns.{name}.sums")
            column = self.line.columns.get(name)
            most = max((abs(Fraction(end[0])) for end in (*column.lowest, *column.highest)), default=0) if column else 0
            self.want(sums.within(self.line.n * most), f"{key}.columns.{name}.sums is more than n times the largest value")
            columns[name] = (count, sums)
        return GroupSums(tuple(line.classes), rows, columns)

    def strata(self, line: StrataLine) -> Strata:
        """The first rows of each class."""
        many, by = len(line.ids), tuple(sorted(line.classes))
        at = self.counts(line.shards, many, "strata.shards")
        self.want(bool((at < len(self.line.shards)).all()), "strata.shards must be places in shards")
        self.want(many <= self.line.n, "strata.ids must not be more than n")
        for name in by:
            self.want(len(line.classes[name]) == many, f"strata.classes.{name} must have {many} classes, not {len(line.classes[name])}")
        if self.mistakes:
            return Strata()
        named = zip(*(line.classes[name] for name in by), strict=True) if by else [()] * many
        each = zip(line.ids, at.tolist(), named, strict=True)
        found = Strata(by, tuple(KeptRow(rank(own, self.line.seed), own, self.line.shards[i], classes) for own, i, classes in each))
        self.want(found.whole, "strata.ids must be the first of each class, in order")
        return found


def _sorted(values: Sequence[Any], key: Callable[[Any], Any] | None) -> bool:
    """Whether values are in order, none twice."""
    keys = list(values) if key is None else [key(value) for value in values]
    return all(a < b for a, b in itertools.pairwise(keys))
