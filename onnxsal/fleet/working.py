"""One shard explained: a table with a row for each sample, damaged ones included. Knows no engine, and writes nothing.

table = work(explainer, shard)      # of pyarrow
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxsal.ask.request import Target
from onnxsal.errors import InputError, ModelError, TargetError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.feeding import FedBatch, Row, fed
from onnxsal.fleet.numbers import NUMBERS, THUMBNAIL, map_png, numbers_of, small_map
from onnxsal.fleet.strata import rank
from onnxsal.given.text import TextReader
from onnxsal.metrics.open_dataset import class_of
from onnxsal.metrics.record import Line
from onnxsal.runtime.libraries import library

NO_MAPS, SAMPLED, SMALL, EVERY = "none", "sample", "small", "all"
MAPS = (NO_MAPS, SAMPLED, SMALL, EVERY)
"""Which maps are kept as pictures: none, those of the drawn sample, small ones of all, or all."""

OF_SAMPLE = (SAMPLED, SMALL)
"""Those by which the maps of the sample are kept as they are, and others are not."""

FAILS = (InputError, ModelError, TargetError)
"""What a model, or a map of it, ends with on samples that were read."""

AHEAD = 2
"""Threads that read and decode ahead of the session."""


@dataclass(frozen=True)
class Keeping:
    """What is kept of each sample: ``maps`` is one of ``MAPS``; a sample is drawn where the hash of its id by ``seed`` lies below
    ``share`` of all hashes. ``target``: the class that is explained (``None``: the predicted one). ``added``: of a run, so many samples
    at most are added to the drawn ones when all is done, so that every class is among them. Raises ``InputError`` for others.
    """

    maps: str = SAMPLED
    share: float = 1.0
    seed: int = 0
    target: Target = None
    added: int = 0

    def __post_init__(self) -> None:
        if self.maps not in MAPS:
            raise InputError(f"maps '{self.maps}' are none of {', '.join(MAPS)}.")

    def drawn(self, name: str) -> bool:
        """Whether a sample is in the drawn sample: the same on every machine, whatever else there is."""
        return rank(name, self.seed) < self.share

    def longest(self, name: str) -> int | None:
        """The pixels along the longer side of the map that is kept of a sample: 0 = none is, ``None`` = it is kept as it is."""
        whole = self.maps == EVERY or (self.maps in OF_SAMPLE and self.drawn(name))
        return None if whole else THUMBNAIL if self.maps == SMALL else 0


def work(explainer: Explainer, shard: Shard, keeping: Keeping = Keeping(), ahead: int = AHEAD) -> Any:
    """The samples of a shard, explained: a ``pyarrow.Table`` with a row for each, in their order.

    Columns: ``id``, ``row`` (in the source), ``digest`` (SHA-256 of the sample's bytes, 32 hex digits), ``why`` (why there is no
    explanation, '' = there is one), ``label`` and ``predicted`` (classes, or null), ``target`` (the class explained), ``right``,
    ``sampled``, the ``NUMBERS`` (float64, null = no value), ``warnings``, ``small`` (the small map, float16 bytes, of ``small_shape``),
    and ``map`` (PNG) with ``map_scale`` where it is kept. Never raises for a sample: what is wrong with it is in ``why``.
    """
    return worked([explainer], shard, keeping, ahead)[0]


def worked(
    explainers: Sequence[Explainer],
    shard: Shard,
    keeping: Keeping,
    ahead: int = AHEAD,
    reader: TextReader | None = None,
    only: Collection[str] | None = None,
) -> list[Any]:
    """As ``work``, by several explainers of one model, which decode every sample once: a table for each; ``only`` of these ids."""
    first = explainers[0]
    label = partial(class_of, labels=first.labels)
    items = fed(shard, first.conversion.ask, first.fed, first.batch_size, ahead, label, reader, only)
    return explained(explainers, items, shard, keeping)


def explained(explainers: Sequence[Explainer], items: Iterable[FedBatch | Row], shard: Shard, keeping: Keeping) -> list[Any]:
    """As ``worked``, of rows that are read already."""
    lines: list[list[Line]] = [[] for _ in explainers]
    for item in items:
        for explainer, own in zip(explainers, lines, strict=True):
            own += [_bad(item, item.why)] if isinstance(item, Row) else _explained(explainer, item, keeping)
    return [as_table(sorted(own, key=lambda line: line["row"]), shard.name, keeping.seed) for own in lines]


def _explained(explainer: Explainer, batch: FedBatch, keeping: Keeping) -> Iterator[Line]:
    """A line for each sample of a batch; where the batch is refused each sample is tried alone."""
    try:
        found = explainer.explain(batch.feed, keeping.target)
    except FAILS as error:
        if len(batch.rows) == 1:
            yield _bad(batch.rows[0], str(error))
            return
        rows = set(explainer.conversion.question.samples)
        for i, row in enumerate(batch.rows):
            alone = {name: array[i : i + 1] if name in rows else array for name, array in batch.feed.items()}
            yield from _explained(explainer, FedBatch([row], alone, batch.pictures[i : i + 1]), keeping)
        return
    predicted = _predicted(found, explainer.conversion.question.output)
    for i, row in enumerate(batch.rows):
        yield _line(row, found[i], predicted[i], keeping)


def _predicted(found: Explanation, output: str) -> list[int | None]:
    """The class with the highest score of each sample, where the output is scores [N, C]; else the explained class is none it is known
    to predict.
    """
    scores = np.asarray(found.outputs[output]) if output in found.outputs else None
    if scores is None or scores.ndim != 2 or len(scores) != len(found) or scores.shape[1] < 2:
        return [None] * len(found)
    return [int(i) for i in scores.argmax(1)]


def _line(row: Row, one: Explanation, predicted: int | None, keeping: Keeping) -> Line:
    small, longest = small_map(one), keeping.longest(row.id)
    drawn = None if longest == 0 else map_png(one, longest)
    png, scale = (None, None) if drawn is None else drawn
    return {
        **_head(row, ""),
        "predicted": predicted,
        "target": int(np.asarray(one.target).ravel()[0]),
        "right": None if None in (predicted, row.label) else predicted == row.label,
        "sampled": keeping.drawn(row.id),
        **{name: None if np.isnan(value) else value for name, value in numbers_of(one).items()},
        "warnings": "; ".join(one.warnings),
        "small": None if small is None else small.astype("<f2").tobytes(),
        "small_shape": None if small is None else list(small.shape),
        "map": png,
        "map_scale": scale,
    }


def _head(row: Row, why: str) -> Line:
    return {"id": row.id, "row": row.row, "digest": row.digest, "why": why, "label": row.label}


def _bad(row: Row, why: str) -> Line:
    return {**_head(row, why), "sampled": False}


def as_table(lines: Sequence[Mapping[str, Any]], shard: str, seed: int) -> Any:
    """Lines as a table whose columns have the same types whatever is in them, and which says which shard it is of."""
    found = library("pyarrow").Table.from_pylist([dict(line) for line in lines], schema=schema())
    return found.replace_schema_metadata({SHARD: shard, SEED: str(seed)})


SHARD, SEED = "onnxsal.shard", "onnxsal.seed"
"""What the metadata of a table say: the name of its shard, and the seed by which its rows are resampled."""


def schema() -> Any:
    """The columns of ``work``, as pyarrow states them."""
    a = library("pyarrow")
    return a.schema(
        [
            *((name, a.string()) for name in ("id", "digest", "why")),
            *((name, a.int64()) for name in ("row", "label", "predicted", "target")),
            *((name, a.bool_()) for name in ("right", "sampled")),
            *((name, a.float64()) for name in NUMBERS),
            ("warnings", a.string()),
            ("small", a.binary()),
            ("small_shape", a.list_(a.int32())),
            ("map", a.binary()),
            ("map_scale", a.float64()),
        ]
    )


OF_MAPS = ("map", "map_scale")
"""Columns that are kept apart, in a file of maps."""
