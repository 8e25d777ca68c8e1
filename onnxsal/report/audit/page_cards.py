"""Which samples have a card on the page, where they are too many for all to have one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

from onnxsal.report.audit.blocks import Block, SampleLinks
from onnxsal.report.audit.document import Document, SampleCard

T = TypeVar("T")

MOST_CARDS = 200
"""Samples that are shown, at most."""

MOST_BYTES = 10_000_000
"""Bytes of a page, at most."""

NAMED_SHARE = 0.75
"""How much of the room the samples may take that something names; the rest is for samples of every class, whatever was found."""


def cards_in_turn(document: Document, blocks: Mapping[str, Sequence[Block]], weigh: Callable[[SampleCard], int]) -> list[SampleCard]:
    """The samples that have a card, the most telling first; ``weigh`` gives the bytes of a card.

    Those that stand for a cluster or at an end of the statistics of all data, and the worst of each finding and of each check that names
    some, one from each in turn; then some of each predicted class. All, where there is room for all.
    """
    by_name = {p.name: p for p in document.pictures}
    named = [by_name[n] for n in _in_turn(_named(document, blocks)) if n in by_name]
    every = [*_taken(named, NAMED_SHARE, weigh), *_in_turn(_classes(document)), *named]
    return _taken(every, 1, weigh)


def _taken(samples: Sequence[SampleCard], share: float, weigh: Callable[[SampleCard], int]) -> list[SampleCard]:
    """The first of them, each once, that fit into a share of the room."""
    taken: dict[str, SampleCard] = {}
    weight = 0
    for sample in samples:
        if sample.name in taken:
            continue
        weight += weigh(sample)
        if len(taken) + 1 > share * MOST_CARDS or weight > share * MOST_BYTES:
            break
        taken[sample.name] = sample
    return list(taken.values())


def _named(document: Document, blocks: Mapping[str, Sequence[Block]]) -> list[Sequence[str]]:
    """Lists of names, the most telling of each list first."""
    clusters = () if document.population is None else document.population.clusters
    ends = [] if document.population is None else [name for s in document.population.statistics for name in (s.minimum_id, s.maximum_id)]
    links = [block for rows in blocks.values() for block in rows if isinstance(block, SampleLinks)]
    return [
        *(c.examples for c in clusters),
        ends,
        *(f.pictures for f in document.findings),
        *([n for n, _ in block.names] for block in links),
    ]


def _classes(document: Document) -> list[list[SampleCard]]:
    """The samples by predicted class, the largest first."""
    classes: dict[int, list[SampleCard]] = defaultdict(list)
    for sample in document.pictures:
        classes[sample.predicted[0].index].append(sample)
    return sorted(classes.values(), key=len, reverse=True)


def _in_turn(lists: Sequence[Sequence[T]]) -> Iterator[T]:
    """The first of each list, then the second of each, and so on."""
    nothing = object()
    for row in zip_longest(*lists, fillvalue=nothing):
        yield from (one for one in row if one is not nothing)  # type: ignore[misc]
