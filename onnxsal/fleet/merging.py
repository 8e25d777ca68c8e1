"""What all shards that are done say together: at any time, also while a run goes on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.fleet.added import AddedPart, added_ids, added_parts, without_maps
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.measuring import BETWEEN, EVALUATION
from onnxsal.fleet.numbers import NUMBERS
from onnxsal.fleet.resume import RunFile, every_shard, read_run
from onnxsal.fleet.run_files import REPORT, Done, PartDone, done_in, read_part, rows_of, summed
from onnxsal.fleet.sums import EndShards, Sums, merged
from onnxsal.metrics.baselines import BASELINES
from onnxsal.metrics.measures import MEASURES, columns_of
from onnxsal.metrics.record import packed
from onnxsal.untrusted import inert_cell

MOST_TOLD = 5
"""So many ids, names of shards and reasons stand in a message."""

PAIRS = 5
"""Pairs of samples of the same bytes that are told."""


@dataclass(frozen=True)
class WholeRun:
    """Everything that is done of a run: the sums by way, what the listing says now, and which bytes are there more than once.

    ``missing`` rows are in no shard that is done; ``stale`` shards are done, but their source has changed or is gone: they are not in the
    sums. ``every``: the shards that the data make now, by name, in order; none where they cannot be listed here, which ``unlisted`` tells.
    ``ends``: (id, shard) of the samples with the smallest and the largest value of each number.
    """

    run: RunFile
    sums: Mapping[str, Sums]
    done: Sequence[Done]
    bad: int
    rows: int
    total: int
    stale: Sequence[str]
    duplicates: int
    pairs: Sequence[tuple[str, str]]
    every: Mapping[str, Shard] = field(default_factory=dict)
    unlisted: str = ""
    ends: Sequence[tuple[str, str]] = ()

    @property
    def missing(self) -> int:
        """Rows of shards that are not done."""
        return max(self.total - self.rows, 0)

    @cached_property
    def added(self) -> dict[str, tuple[str, ...]]:
        """Shard -> ids of the samples that are added to the drawn ones; none before all is done, as others may come first yet."""
        if self.missing or self.unlisted:
            return {}
        return added_ids(next(iter(self.sums.values())).strata, self.ends, self.run)

    @cached_property
    def added_parts(self) -> list[AddedPart]:
        """The same as parts that workers are given."""
        return added_parts(self.added, self.every)


@dataclass(frozen=True)
class Merged:
    """A run merged, for people and for machines: ``facts`` are JSON, ``table`` is (heads, rows), ``files`` what was written."""

    headline: str
    table: tuple[Sequence[str], Sequence[Sequence[str]]]
    facts: dict[str, Any]
    warnings: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)


def merge(tables: Iterable[Any]) -> Sums:
    """What the tables of several shards say together, the same to the last bit in whatever order they come.

    Raises ``InputError`` for none, for a shard twice, and for a table that ``work`` did not make.
    """
    return merged(summed(table, NUMBERS) for table in tables)


def merge_run(place: Folder, whole: WholeRun | None = None) -> Merged:
    """Merge what is done of the run in a place (``whole``: where it is read already), and write report/summary.json and .csv there.

    Raises ``InputError`` where no run is there, nothing of it is done, or a file of it is damaged.
    """
    whole = whole_run(place) if whole is None else whole
    rows = summary_rows(whole)
    facts = {
        "onnxsal": version("onnxsal"),
        "verb": whole.run.verb,
        "samples": {"total": whole.total, "done": whole.rows, "missing": whole.missing, "bad": whole.bad, "duplicates": whole.duplicates},
        "sample": {"share": whole.run.share, "added": sum(map(len, whole.added.values()))},
        "stale": list(whole.stale),
        "counts": next(iter(whole.sums.values())).counts,
        "summary": rows,
    }
    files = {"summary": f"{REPORT}/summary.csv", "json": f"{REPORT}/summary.json"}
    place.write(files["summary"], _as_csv(rows))
    place.write(files["json"], (json.dumps(packed(facts), indent=2) + "\n").encode())
    named = {kind: f"{place.place}/{name}" for kind, name in files.items()}
    return Merged(_headline(whole), _table(whole, rows), packed(facts), [*_warnings(whole), *_unkept(place, whole)], named)


def whole_run(place: Folder) -> WholeRun:
    """Read everything that is done of the run in a place."""
    run = read_run(place)
    every, unlisted = _listed(run)
    total = sum(shard.end - shard.begin for shard in every.values()) if not unlisted else run.total
    ours = [done for done in done_in(place) if done.key in run.keys.values()]
    kept = [done for done in ours if unlisted or done.shard in every]
    if not kept:
        raise InputError(f"nothing of the run in '{place.place}' is done yet, or its data have changed altogether: run it first.")
    said: dict[str, list[PartDone]] = {}
    ends = {way: EndShards() for way in run.keys}
    sums = {way: merged(_read(place, [d for d in kept if d.key == key], said, ends[way])) for way, key in run.keys.items()}
    stale = sorted({done.shard for done in ours} - {done.shard for done in kept})
    first = said[next(iter(run.keys.values()))] if said else []
    count, pairs = _duplicates(place, [done for done in kept if done.key == next(iter(run.keys.values()))])
    bad = max((sum(part.bad for part in parts) for parts in said.values()), default=0)
    rows = sum(part.end - part.begin for part in first)
    found = [one for each in ends.values() for one in each.found]
    return WholeRun(run, sums, kept, bad, rows, total, stale, count, pairs, every, unlisted, found)


def _listed(run: RunFile) -> tuple[dict[str, Shard], str]:
    """The shards that the data make now, and why they cannot be listed here ('' = they can)."""
    try:
        return every_shard(run), ""
    except InputError as error:
        return {}, str(error)


def _read(place: Folder, done: Sequence[Done], said: dict[str, list[PartDone]], ends: EndShards) -> Iterator[Sums]:
    """The sums of shards, one after the other. Raises ``InputError`` where a shard has lost rows."""
    if not done:
        raise InputError(f"one of the methods of the run in '{place.place}' has no shard that is done: run it first.")
    for one in done:
        part, sums = read_part(place, one)
        said.setdefault(one.key, []).append(part)
        if part.rows > part.end - part.begin:
            raise InputError(f"'{one.name}' in {place.place} has {part.rows} rows of {part.end - part.begin}: remove it, and run again.")
        ends.see(one.shard, sums)
        yield sums


def _duplicates(place: Folder, done: Sequence[Done]) -> tuple[int, list[tuple[str, str]]]:
    """How many samples have the bytes of another one before them, and a few such pairs of ids. Holds 8 bytes of each sample."""
    codes, starts = [np.empty(0, np.uint64)], [0]
    for one in done:
        digests = [digest for digest in rows_of(place, one, ["digest"]).column("digest").to_pylist() if digest]
        codes.append(np.array([int(digest[:16], 16) for digest in digests], np.uint64))
        starts.append(starts[-1] + len(digests))
    every = np.concatenate(codes)
    order = np.argsort(every, kind="stable")
    again = np.flatnonzero(every[order][1:] == every[order][:-1])
    pairs = [(int(order[i]), int(order[i + 1])) for i in again[:PAIRS]]

    def name(place_of: int) -> str:
        number = int(np.searchsorted(starts, place_of, side="right")) - 1
        table = rows_of(place, done[number], ["id", "digest"])
        read = [row["id"] for row in table.to_pylist() if row["digest"]]
        return str(read[place_of - starts[number]])

    return len(again), [(name(first), name(second)) for first, second in pairs]


# ----- what is said -----


def summary_rows(whole: WholeRun) -> list[dict[str, Any]]:
    """A row for each number of each way: n, mean with its interval, spread, extremes with their samples, quantiles."""
    if EVALUATION in whole.sums:
        return _measured_rows(whole.sums[EVALUATION])
    return [
        {"method": way, "number": name, **numbers}
        for way, sums in whole.sums.items()
        for name in NUMBERS
        if (numbers := _numbers(sums, name))["n"]
    ]


def _numbers(sums: Sums, name: str) -> dict[str, Any]:
    found = sums.column(name)
    quantiles = {word: found.quantile(q) if found.n else None for word, q in (("q01", 0.01), ("median", 0.5), ("q99", 0.99))}
    named = ("n", "missing", "mean", "low", "high", "std", "min", "min_id", "max", "max_id")
    return {**{key: getattr(found, key) for key in named}, **quantiles}


def _measured_rows(sums: Sums) -> list[dict[str, Any]]:
    """Metric by metric and way by way, with the difference to the best baseline, as ``evaluate`` tells it."""
    known = columns_of(list(MEASURES.values()))
    ways: dict[str, list[str]] = {}
    for column in sums.columns:
        way, _, metric = column.rpartition(BETWEEN)
        ways.setdefault(metric, []).append(way)
    rows = []
    for metric, names in ways.items():
        larger = known[metric].larger if metric in known else None
        means = {way: sums.column(f"{way}{BETWEEN}{metric}").mean for way in names if way in BASELINES}
        means = {way: mean for way, mean in means.items() if np.isfinite(mean)}
        base = (max if larger else min)(means, key=lambda way: means[way]) if means and larger is not None else None
        for way in names:
            row: dict[str, Any] = {"metric": metric, "better": _BETTER[larger], "method": way}
            over = None if base in (None, way) else sums.difference(f"{way}{BETWEEN}{metric}", f"{base}{BETWEEN}{metric}")
            gap = {f"over_{name}": None if over is None else getattr(over, name) for name in ("mean", "low", "high")}
            rows.append({**row, **_numbers(sums, f"{way}{BETWEEN}{metric}"), "over": None if over is None else base, **gap})
    return rows


_BETTER = {True: "larger", False: "smaller", None: "neither"}


def _headline(whole: WholeRun) -> str:
    what = f"{whole.run.facts.get('model') or 'a model'}: {whole.rows:,} of {whole.total:,} samples done"
    return f"{what}, {whole.bad:,} of them without an explanation, {whole.duplicates:,} with the bytes of another."


def _table(whole: WholeRun, rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    of = "metric" if EVALUATION in whole.sums else "number"
    heads = ("method", of, "n", "mean", "95 % interval", "min", "median", "max")
    return heads, [
        (
            *(str(row["method"]), str(row[of]), f"{row['n']:,}", _shown(row["mean"]), f"{_shown(row['low'])} to {_shown(row['high'])}"),
            *(_shown(row[key]) for key in ("min", "median", "max")),
        )
        for row in rows
    ]


def _shown(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.4g}"


def _warnings(whole: WholeRun) -> Iterator[str]:
    if whole.unlisted:
        yield f"the data cannot be listed here, so what is stale or new is not known: {whole.unlisted}"
    if whole.missing:
        yield f"{whole.missing:,} of {whole.total:,} samples are in shards that are not done yet: every number is of the others."
    if whole.stale:
        some = several(len(whole.stale), "shard is", "shards are")
        yield f"{some} stale (files changed or are gone) and left out: {_few(whole.stale)}"
    why = next(iter(whole.sums.values())).counts.get("why", {})
    for words, count in sorted(why.items(), key=lambda item: -item[1])[:MOST_TOLD]:
        yield f"{count:,} without an explanation: {words}"
    if whole.pairs:
        some = several(whole.duplicates, "sample has", "samples have")
        yield f"{some} the bytes of another, such as {' and '.join(whole.pairs[0])}; they are counted."


def _unkept(place: Folder, whole: WholeRun) -> Iterator[str]:
    """Whether maps are missing of samples that are added."""
    left = without_maps(place, list(whole.run.keys.values()), whole.added_parts, whole.run.facts.get("maps", ""))
    if count := sum(len(part.ids) for part in left):
        some = several(count, "sample has", "samples have")
        yield f"{some} no map yet, which belong to the sample (the first of classes, ends of numbers): run the same command again."


def several(count: int, one: str, many: str) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_TOLD]) + (f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else "")


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: inert_cell(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows)
    return buffer.getvalue().encode()
