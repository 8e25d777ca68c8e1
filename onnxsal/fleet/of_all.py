"""What the page of an audit says of all data, from the sums of its shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from onnxsal.fleet.clusters import Clusters, clusters
from onnxsal.fleet.drawn_sample import DrawnSample
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.merging import WholeRun
from onnxsal.fleet.numbers import NUMBERS, SIDE, TITLES
from onnxsal.fleet.run_files import rows_of
from onnxsal.fleet.strata import PER_CLASS
from onnxsal.fleet.sums import Sums
from onnxsal.report.audit.evidence import named
from onnxsal.report.audit.map_notes import centre_picture
from onnxsal.report.audit.population import ClassRow, Duplicates, MapCluster, Population, Reason, Statistic, grouped

EXAMPLES = 6
"""Samples that stand for a cluster."""


def population_of(place: Folder, whole: WholeRun, labels: Sequence[str] | None, drawn: DrawnSample) -> Population:
    """Everything that the shards of an audit say together: numbers by method, classes, and clusters of the small maps."""
    first = next(iter(whole.sums.values()))
    found, of_sample = [], {}
    for way, maps in drawn.maps.items():
        made = clusters(maps, whole.run.seed)
        found += list(_clusters(place, whole, way, made, drawn))
        of_sample[way] = {name: int(number) for name, number in zip(drawn.names, made.assign(maps), strict=True)}
    why = first.counts.get("why", {})
    share = whole.duplicates / max(whole.rows - whole.bad, 1)
    return Population(
        total=whole.total,
        explained=whole.rows - whole.bad,
        damaged=whole.bad,
        reasons=[Reason(words, count, "") for words, count in sorted(why.items(), key=lambda item: -item[1])],
        duplicates=Duplicates(whole.duplicates, share, list(whole.pairs)),
        stale=list(whole.stale),
        missing=whole.missing,
        seed=whole.run.seed,
        sample=_drawn_how(whole),
        statistics=[one for way, sums in whole.sums.items() for one in _statistics(way, sums)],
        classes=list(_classes(first, labels)),
        clusters=found,
        cluster_of=of_sample,
    )


def _drawn_how(whole: WholeRun) -> str:
    """How the sample was drawn, in words."""
    even = f"those whose id's hash is among the lowest {100 * whole.run.share:.3g} % of all hashes"
    count = sum(map(len, whole.added.values()))
    if not count:
        return even
    more = f"of every class, predicted or labelled, those with the lowest hashes ({PER_CLASS}, where there is room), and the extremes below"
    return f"{even}, and {grouped(count)} more, over which no mean is taken: {more}"


def _statistics(way: str, sums: Sums) -> Iterator[Statistic]:
    for name in NUMBERS:
        column = sums.column(name)
        if not column.n:
            continue
        low, median, high = (column.quantile(q) for q in (0.01, 0.5, 0.99))
        interval = [None if math.isnan(v) else v for v in (column.low, column.high)]
        ends = (column.min, column.min_id, low, median, high, column.max, column.max_id)
        yield Statistic(way, name, TITLES[name], column.n, column.mean, interval[0], interval[1], column.std, *ends)


def _classes(sums: Sums, labels: Sequence[str] | None) -> Iterator[ClassRow]:
    predicted, labelled, right = (sums.counts.get(name, {}) for name in ("predicted", "label", "right"))
    every = sorted({*predicted, *labelled}, key=lambda index: (-predicted.get(index, 0), int(index)))
    for index in every:
        answered = right.get(index, 0) if labelled else None
        yield ClassRow(named(int(index), labels), predicted.get(index, 0), labelled.get(index, 0), answered)


def _clusters(place: Folder, whole: WholeRun, way: str, made: Clusters, drawn: DrawnSample) -> Iterator[MapCluster]:
    """The clusters of the drawn maps, with how many maps of all data are nearest to each centre."""
    counted = np.zeros(len(made.centres), np.int64)
    for done in (d for d in whole.done if d.key == whole.run.keys[way]):
        small = [value for value in rows_of(place, done, ["small"]).column("small").to_pylist() if value is not None]
        if small:
            maps = np.stack([np.frombuffer(value, "<f2") for value in small]).astype(np.float32)
            counted += np.bincount(made.assign(maps), minlength=len(counted))
    total = int(counted.sum())
    for number, centre in enumerate(made.centres):
        picture = centre_picture(centre.reshape(SIDE, SIDE)) if centre.size == SIDE * SIDE else ""
        examples = [drawn.names[i] for i in made.examples(EXAMPLES)[number]]
        yield MapCluster(way, number, int(counted[number]), int(counted[number]) / total if total else None, picture, examples)
