"""What the page says of all data where the audit looks at a sample: counts, statistics, classes and clusters as rows of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxsal.metrics.data_kind import DataKind
from onnxsal.report.audit.blocks import Cell
from onnxsal.report.audit.document import Document
from onnxsal.report.audit.page_words import called, number, percent
from onnxsal.report.audit.population import ClassRow, MapCluster, Population, Statistic, grouped

MOST_CLASSES = 50
"""Classes that have a row of their own."""

MOST_LISTED = 20
"""Reasons and shards that are listed one by one."""

THUMBNAILS = 4
"""Samples of a cluster that are shown beside its centre."""


@dataclass(frozen=True)
class Counted:
    """How the page writes numbers of samples: "n of N" where the audit is of a sample of all data."""

    kind: DataKind
    population: Population | None

    def of_all(self, n: int) -> str:
        """The number alone."""
        return number(n) if self.population is None else self.population.of_n(n)

    def samples(self, n: int) -> str:
        """The number with what is counted."""
        return self.kind.count(n) if self.population is None else f"{self.population.of_n(n)} {self.kind.many}"

    def cell(self, value: Any, head: str) -> Any:
        """What stands in a cell: a number of samples, as its head tells, is one of all."""
        counts = self.population is not None and head == f"#{self.kind.heading}" and isinstance(value, int)
        return Cell(self.of_all(value), value) if counts else value


def drawn_from(population: Population, n: int, kind: DataKind) -> str:
    """What a reader must know of every number that is of the sample."""
    how = f", by seed {population.seed}: {population.sample}" if population.sample else f", by seed {population.seed}"
    return f"A sample of {grouped(n)} drawn from {grouped(population.total)} {kind.many}{how}."


def statistic_heads(kind: DataKind) -> tuple[str, ...]:
    """Heads of the table of the statistics of one method; the spread is the standard deviation."""
    shares = ("#Mean [95\u00a0% interval]", "#Spread", "#Smallest", "#1\u00a0%", "#Median", "#99\u00a0%", "#Largest")
    return ("Of", f"#{kind.heading}", *shares)


def statistic_tables(population: Population, shown_at: Mapping[str, int]) -> Iterator[tuple[str, list[list[Any]]]]:
    """Method ('' = the model) and the lines under ``statistic_heads``, in the order of the statistics."""
    for way in dict.fromkeys(s.way for s in population.statistics):
        yield way, [_statistic(s, shown_at) for s in population.statistics if s.way == way]


def _statistic(found: Statistic, shown_at: Mapping[str, int]) -> list[Any]:
    interval = "" if found.low is None or found.high is None else f" [{number(found.low)}, {number(found.high)}]"
    ends = ((found.minimum, found.minimum_id), (found.maximum, found.maximum_id))
    low, high = (Cell(number(value), value, link=f"p{shown_at[name]}" if name in shown_at else "", note=name) for value, name in ends)
    middle = (found.q01, found.median, found.q99)
    head = [found.title or found.name, found.n, Cell(number(found.mean) + interval, found.mean)]
    return [*head, found.std, low, *middle, high]


CLASS_HEADS = ("Class", "#Predicted", "#Share", "#With this label", "#Right", "#Share right")
"""Heads of the table of classes."""


def class_table(population: Population) -> tuple[list[str], list[list[Any]], str]:
    """Heads and lines of the largest classes, and how much is in the rest ('' = no rest). Without labels there are no columns of them."""
    rows = sorted(population.classes, key=lambda row: (-max(row.predicted, row.labelled), row.of.index))
    labelled = any(row.right is not None for row in rows)
    used = len(CLASS_HEADS) if labelled else 3
    lines = [_class(row, population)[:used] for row in rows[:MOST_CLASSES]]
    return list(CLASS_HEADS[:used]), lines, _rest(rows[MOST_CLASSES:], labelled)


def _class(row: ClassRow, population: Population) -> list[Any]:
    right = None if row.right is None or not row.labelled else row.right / row.labelled
    share = row.predicted / population.explained if population.explained else None
    name = f"{called(row.of)} ({row.of.index})" if row.of.label else called(row.of)
    shares = [Cell(percent(s), s) for s in (share, right)]
    return [name, row.predicted, shares[0], row.labelled, row.right, shares[1]]


def _rest(rows: Sequence[ClassRow], labelled: bool) -> str:
    if not rows:
        return ""
    told = f"{grouped(len(rows))} smaller classes are left out: {grouped(sum(r.predicted for r in rows))} predicted"
    if labelled:
        told += f", {grouped(sum(r.labelled for r in rows))} with such a label, {grouped(sum(r.right or 0 for r in rows))} of these right"
    return f"{told}. All classes are in the JSON."


def right_of_all(population: Population) -> str:
    """How many of all that have a label are answered with it ('' = none has one)."""
    rows = [row for row in population.classes if row.right is not None]
    labelled = sum(row.labelled for row in rows)
    right = sum(row.right or 0 for row in rows)
    return f"{percent(right / labelled)}: {grouped(right)} of {grouped(labelled)} with a label" if labelled else ""


@dataclass(frozen=True)
class ClusterFilter:
    """A filter of the cards: its ``id``, the method whose clusters it is of, and for each number of a cluster how many cards are in it."""

    id: str
    way: str
    counts: Mapping[int, int]


def cluster_filters(document: Document, shown: Sequence[str]) -> list[ClusterFilter]:
    """One for each method whose samples (those that are ``shown``) lie in clusters."""
    if document.population is None:
        return []
    filters: list[ClusterFilter] = []
    for way, numbers in document.population.cluster_of.items():
        inside = sorted(numbers[name] for name in shown if name in numbers)
        if inside:
            filters.append(ClusterFilter(f"cluster{len(filters)}", way, {n: inside.count(n) for n in dict.fromkeys(inside)}))
    return filters


def clusters_by_way(population: Population) -> dict[str, list[MapCluster]]:
    """The clusters of each method, the largest first."""
    ways = dict.fromkeys(c.way for c in population.clusters)
    return {way: sorted((c for c in population.clusters if c.way == way), key=lambda c: (-c.n, c.number)) for way in ways}


def told_of_all(document: Document, shown_at: Mapping[str, int]) -> dict[str, Any]:
    """What the template is given of all data: "drawn" is '' where the audit looked at all. ``shown_at``: where a sample is shown."""
    population = document.population
    if population is None:
        return {"drawn": ""}
    return {
        "drawn": drawn_from(population, document.data.pictures, document.of),
        "statistic_heads": statistic_heads(document.of),
        "statistics": list(statistic_tables(population, shown_at)),
        "class_table": class_table(population),
        "right_of_all": right_of_all(population),
        "clusters_by_way": clusters_by_way(population),
        "most_listed": MOST_LISTED,
        "thumbnails": THUMBNAILS,
    }
