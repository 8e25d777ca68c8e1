"""What is known of all data, where an audit looks at a sample of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxsal.report.audit.class_name import ClassName


@dataclass(frozen=True)
class Reason:
    """Why samples could not be used: ``count`` of them, of which ``example`` is one by its id."""

    why: str
    count: int
    example: str


@dataclass(frozen=True)
class Duplicates:
    """``count`` samples whose bytes another sample before them has, their ``share`` of those that were read, and a few ``pairs`` of ids."""

    count: int
    share: float | None
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Statistic:
    """A number that every sample has, of all ``n`` samples that have it: by a method (``way``; '' = of the model), under a ``name`` and in
    words (``title``). The mean has its 95 % interval [low, high]; 1 and 99 of 100 samples lie below ``q01`` and ``q99``; the ids are those
    of the samples at the ends ('' = not known).
    """

    way: str
    name: str
    title: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    std: float | None
    minimum: float | None
    minimum_id: str
    q01: float | None
    median: float | None
    q99: float | None
    maximum: float | None
    maximum_id: str


@dataclass(frozen=True)
class ClassRow:
    """Of all samples: how many the model takes for a class (``predicted``), have it as their label (``labelled``), and of those with the
    label are answered with it (``right``; ``None`` where no sample has a label).
    """

    of: ClassName
    predicted: int
    labelled: int
    right: int | None


@dataclass(frozen=True)
class MapCluster:
    """Maps by a method (``way``) that look alike: the ``number`` of the cluster, the ``n`` samples of all data that are in it and their
    ``share``, what its centre looks like (``picture``, a data URI by ``map_notes.centre_picture``; '' = none), and ``examples``:
    names of samples that are audited, the nearest to the centre first.
    """

    way: str
    number: int
    n: int
    share: float | None
    picture: str
    examples: Sequence[str]


@dataclass(frozen=True)
class Population:
    """All data, of which an audit looks at a sample. Of ``total`` samples so many were ``explained``, so many are ``damaged`` (could not be
    used, for these ``reasons``), and no shard has done the ``missing`` ones yet. ``stale``: shards whose source has changed since, not
    counted. ``sample`` says in words how the sample was drawn by ``seed``. ``cluster_of``: by method and name of a sample that is audited,
    the number of its cluster.
    """

    total: int
    explained: int
    damaged: int
    reasons: Sequence[Reason]
    duplicates: Duplicates
    stale: Sequence[str]
    missing: int
    seed: int
    sample: str
    statistics: Sequence[Statistic]
    classes: Sequence[ClassRow]
    clusters: Sequence[MapCluster]
    cluster_of: Mapping[str, Mapping[str, int]]

    def of_n(self, n: int) -> str:
        """So many of all: "n of N"."""
        return f"{grouped(n)} of {grouped(self.total)}"


def grouped(n: int) -> str:
    """A whole number as people read it, in groups of three."""
    return f"{n:,}".replace(",", "\u202f")
