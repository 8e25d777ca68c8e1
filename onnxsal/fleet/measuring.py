"""``evaluate`` by the shard: every method by every metric on the samples of a shard, as numbers that can be added up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.disk import read_bytes
from onnxsal.engine.method import get_method
from onnxsal.errors import InputError
from onnxsal.fleet.added import AddedPart
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.decoding import Decoding
from onnxsal.fleet.feeding import dataset, table
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.job import Taken, Worker, of_one_size, put_model, sha256_of
from onnxsal.fleet.run_files import MODELS, Done, counts_in, numbers_in, write_part
from onnxsal.fleet.sums import Sums
from onnxsal.fleet.working import Keeping
from onnxsal.graph.load import load_model, size_on_disk
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.evaluate import Work, evaluated
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.open_rows import open_rows
from onnxsal.metrics.record import packed
from onnxsal.metrics.scorer import Scorer
from onnxsal.report.audit.subject import key_of
from onnxsal.runtime.libraries import library
from onnxsal.runtime.session import Tensor

EVALUATION = "evaluation"
"""What the only key of an evaluation is called: all methods are measured together."""

BETWEEN = "|"
"""Between the method and the metric in the name of a column."""


@dataclass(frozen=True)
class MeasureJob:
    """What is measured of every shard: the methods of ``work`` by its metrics, on a model that lies in the place ``out``."""

    out: str
    ask: Ask
    work: Work
    keeping: Keeping
    sha256: str
    key: str

    @classmethod
    def of(cls, out: str, ask: Ask, work: Work, keeping: Keeping) -> MeasureJob:
        """The job of a request, with its key."""
        ways = [w if isinstance(w, Way) else Way(w, w) for w in work.methods]
        sha256 = sha256_of(ask)
        methods = [[w.name, "" if w.method is None else get_method(w.method).sha256, packed(dict(w.parameters))] for w in ways]
        told = [ask.told, repr(ask.preprocess), methods, list(work.metrics), repr(work.settings), str(work.target), list(ask.labels or ())]
        key = key_of([version("onnxsal"), sha256, *told, keeping.share])
        return cls(out, ask, replace(work, methods=tuple(ways)), keeping, sha256, key)

    @property
    def keys(self) -> dict[str, str]:
        """The key, by the name of what it is of."""
        return {EVALUATION: self.key}

    def left_of(self, parts: Sequence[AddedPart]) -> list[AddedPart]:
        """Nothing: what is measured is drawn evenly, so that its means are those of all samples."""
        return []

    def decoding(self) -> Decoding:
        """Raises ``InputError``: decoding takes no share of the time that measuring takes."""
        raise InputError("evaluate decodes nothing apart, as measuring takes all of its time: leave --decode-workers out.")

    def opened(self) -> Worker:
        """A worker that measures."""
        return Worker(Measuring(self))

    def prepare(self) -> None:
        """Put the model as it was given where workers find it, once."""
        put_source(self.out, self.ask, self.sha256)

    @property
    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        methods = [w.name if isinstance(w, Way) else str(w) for w in self.work.methods]
        drawn = {"seed": self.keeping.seed, "share": self.keeping.share, "added": self.keeping.added}
        return {"model": self.ask.name, "sha256": self.sha256, "methods": methods, "metrics": list(self.work.metrics), **drawn}


def source_name(sha256: str, name: str) -> str:
    """Where the model as it was given lies in the place of a run, under its own ``name``."""
    return f"{MODELS}/source-{sha256[:20]}/{name or 'model.onnx'}"


def put_source(out: str, ask: Ask, sha256: str) -> None:
    """Put the model as it was given where workers find it, once."""
    place, name = Folder.of(out), source_name(sha256, ask.name)
    if place.exists(name):
        return
    if isinstance(ask.model, str | os.PathLike) and size_on_disk(Path(ask.model)) == os.path.getsize(ask.model):
        place.write(name, read_bytes(ask.model))  # the same bytes: what is said of the file is said of this one
    else:
        put_model(load_model(ask.model), place, name)


class Measuring:
    """Measures a shard, and writes its rows and sums."""

    def __init__(self, job: MeasureJob) -> None:
        self._job, self._place = job, Folder.of(job.out)
        self._taken = Taken(self._place)
        self._ask = of_one_size(replace(job.ask, model=self._taken.path(source_name(job.sha256, job.ask.name))))

    @cached_property
    def _tensor(self) -> Tensor:
        """The input that pictures and arrays go into."""
        return Scorer.of(self._ask).session.inputs[0]

    def do(self, shard: Shard) -> tuple[int, int]:
        """Measure and write; returns its rows, and how many of them have no value by any method."""
        rows = shard.end - shard.begin
        if self._place.exists(Done(self._job.key, shard.name).name):
            return rows, 0
        lines = self._measured(shard)
        names = [name for name in dict.fromkeys(name for line in lines for name in line) if BETWEEN in name]
        arrow = library("pyarrow")
        found = arrow.Table.from_pylist([dict.fromkeys(names) | line for line in lines], schema=_schema(names))
        sums = Sums.of(shard.name, self._job.keeping.seed, found.column("id").to_pylist(), numbers_in(found, names), counts_in(found))
        write_part(self._place, self._job.key, shard, found, sums)
        return rows, sum(bool(line["why"]) for line in lines)

    def _measured(self, shard: Shard) -> list[dict[str, Any]]:
        """A line for each drawn sample of a shard."""
        work, drawn = replace(self._job.work, samples=None, state=None, progress=None), self._job.keeping.drawn
        if shard.kind == "table":
            rows = open_rows(self._ask, table(shard), work.labels_column)
            ids = {name: shard.id(shard.begin + i) for i, name in enumerate(rows.data.names)}
            work = replace(work, columns=rows.places, model=self._ask.model, labels_column=None)
            ask, data = rows.ask, rows.data.only([name for name in ids if drawn(ids[name])])
        else:
            ask, data = self._ask, dataset(shard, self._tensor, self._ask.preprocess, self._ask.labels)
            ids = {name: name for name in data.names}
            data = data.only([name for name in ids if drawn(name)])
        if not len(data):
            return []
        try:
            found = evaluated(ask, replace(work, data=data))
        except InputError:
            if len(data.damaged) < len(data):
                raise
            return [_head(name, data, why, ids) for name, why in data.damaged.items()]
        return _lines(found, data, ids)


def _head(name: str, data: Dataset, why: str, ids: Mapping[str, str]) -> dict[str, Any]:
    digest = "" if name in data.damaged else data.digest(name)
    return {"id": ids[name], "digest": digest, "why": why, "label": data.label(name)}


def _lines(found: Evaluation, data: Dataset, ids: Mapping[str, str]) -> list[dict[str, Any]]:
    """A line for each sample: its values by way and metric; why there are none, where the model or its maps fail."""
    lines = [_head(name, data, why, ids) for name, why in found.damaged.items()]
    for name in found.samples:
        values: dict[str, Any] = {}
        for way in found.ways:
            row = found.rows.get((way.name, name))
            for metric, value in ({} if row is None else row.values).items():
                values[f"{way.name}{BETWEEN}{metric}"] = None if np.isnan(value) else float(value)
        lost = {why for (_, sample), metrics in found.lost.items() if sample == name for why in metrics.values()}
        why = "" if values else "; ".join(sorted(lost))
        lines.append({**_head(name, data, why, ids), **values})
    return sorted(lines, key=lambda line: str(line["id"]))


def _schema(names: Sequence[str]) -> Any:
    a = library("pyarrow")
    head = [(name, a.string()) for name in ("id", "digest", "why")]
    head += [(name, a.int64()) for name in ("label", "predicted")] + [("right", a.bool_())]
    return a.schema([*head, *((name, a.float64()) for name in names)])
