"""``audit`` by the shard: everything is explained, a drawn sample is looked at as an audit does, and one page tells of both."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxsal.ask.request import FED, RUN
from onnxsal.errors import PlanError
from onnxsal.fleet.added import AddedPart, without_files
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.decoding import DecodedShard, Decoding, shard_of
from onnxsal.fleet.feeding import dataset
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.job import Explaining, Job, Taken, Worker, converted
from onnxsal.fleet.measuring import put_source, source_name
from onnxsal.fleet.run_files import Done
from onnxsal.fleet.strata import rank
from onnxsal.fleet.working import Keeping
from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.record import Record
from onnxsal.report.audit.evidence import Request
from onnxsal.report.audit.lines import kind_of
from onnxsal.report.audit.observe import REFUSED, Looking, Seen
from onnxsal.report.audit.run import measured_of
from onnxsal.report.audit.subject import Subject, key_of
from onnxsal.runtime.beside import as_metadata

AUDIT = "audit"
"""The folder of what was noted of the drawn samples, a file of lines for each shard."""

LOOKED, MEASURED = "samples", "metrics"


@dataclass(frozen=True)
class AuditJob:
    """What an audit asks of every shard: ``job`` explains all of it; of the drawn samples the lines of an audit are noted, and its metrics
    measured of a share of all samples, ``measured``.
    """

    job: Job
    request: Request
    measured: float

    @classmethod
    def of(cls, out: str, request: Request, keeping: Keeping, measured: float) -> AuditJob:
        """The job of an audit, whose methods that cannot explain the model are left out. Raises ``PlanError`` where none can."""
        kept, refused = [], {}
        for way in request.ways:
            try:
                converted(Job.of(out, request.ask, [way], keeping), way)
                kept.append(way)
            except REFUSED as error:
                refused[way.name] = str(error)
        if not kept:
            raise PlanError("no method can explain the model:\n" + "\n".join(f"{k}: {v}" for k, v in refused.items()))
        return cls(Job.of(out, request.ask, kept, keeping), request, measured)

    @property
    def out(self) -> str:
        """The place where it goes."""
        return self.job.out

    @property
    def keys(self) -> dict[str, str]:
        """The key of each way, by its name."""
        return dict(self.job.keys)

    @property
    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        request, ask = self.request, self.request.ask
        asked = {k: v for k, v in ask.given.items() if k not in (*RUN, *FED) and isinstance(v, str | int | float | bool | tuple | list)}
        known = {"known": as_metadata(ask.preprocess, ask.labels), "asked": asked, "measured": self.measured}
        told = {"form": dict(request.form), "command": list(request.command), "labels_column": request.labels_column}
        return {**self.job.facts, **known, **told, "measured_count": request.measured}

    def prepare(self) -> None:
        """Put the models where workers find them: the converted ones are there."""
        put_source(self.out, self.request.ask, self.job.sha256)

    def left_of(self, parts: Sequence[AddedPart]) -> list[AddedPart]:
        """Those of the parts of samples that are added that are not looked at, or whose maps are to be kept and are not."""
        unkept = {part.name for part in self.job.left_of(parts)}
        unseen = {part.name for part in without_files(Folder.of(self.out), AUDIT, parts, self.lines_of)}
        return [part for part in parts if part.name in unkept | unseen]

    def lines_of(self, part: AddedPart) -> list[str]:
        """The files of what is noted of a part."""
        return [lines_name(self.keys.values(), part.name, what) for what in (LOOKED, MEASURED)]

    def decoding(self) -> Decoding:
        """What decodes pictures for workers."""
        return self.job.decoding()

    def opened(self) -> Worker:
        """A worker that explains, looks and measures."""
        return Worker(Auditing(self))


def lines_name(keys: Iterable[str], part: str, what: str) -> str:
    """Where the lines about the drawn samples of a shard lie, or those about what was added of it."""
    return f"{AUDIT}/{key_of_lines(keys)}-{part}{ending(what)}"


def key_of_lines(keys: Iterable[str]) -> str:
    """What the names of the lines begin with, of a run with these keys."""
    return key_of(sorted(keys))


def ending(what: str) -> str:
    """How the names of lines end."""
    return f".{what}.jsonl"


class Auditing:
    """Notes what an audit looks at of the drawn samples of a shard, then explains all of it."""

    def __init__(self, job: AuditJob) -> None:
        self._job, self._place = job, Folder.of(job.out)
        self._taken = Taken(self._place)
        self._explaining = Explaining(job.job)
        source = self._taken.path(source_name(job.job.sha256, job.request.ask.name))
        self._request = replace(job.request, ask=replace(job.request.ask, model=source))
        self._looking: Looking | None = None

    def do(self, shard: Shard) -> tuple[int, int]:
        """Look, measure, explain, and write; returns as ``Explaining.do``."""
        self._note(shard)
        return self._explaining.do(shard)

    def do_block(self, block: DecodedShard) -> tuple[int, int]:
        """The same, of pictures that were decoded elsewhere; the drawn ones are read here again."""
        self._note(shard_of(block))
        return self._explaining.do_block(block)

    def do_added(self, part: AddedPart) -> tuple[int, int]:
        """Notes what an audit looks at of samples that are added, and keeps their maps."""
        if not all(map(self._place.exists, self._job.lines_of(part))):
            self._write(part.name, self._noted(part.shard, frozenset(part.ids).__contains__))
        return self._explaining.do_added(part)

    def _note(self, shard: Shard) -> None:
        if shard.kind != "table" and not all(self._place.exists(Done(key, shard.name).name) for key in self._job.keys.values()):
            self._write(shard.name, self._noted(shard, self._job.job.keeping.drawn))

    def _write(self, part: str, noted: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        for what, lines in noted.items():
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
            self._place.write(lines_name(self._job.keys.values(), part, what), text.encode())

    def _noted(self, shard: Shard, drawn: Callable[[str], bool]) -> dict[str, list[dict[str, Any]]]:
        """The lines about the drawn samples of a shard: what was seen, and what was measured."""
        looking = self._opened()
        ask, keeping = self._request.ask, self._job.job.keeping
        data = dataset(shard, looking.own.scorer.session.inputs[0], ask.preprocess, ask.labels)
        data = data.only([name for name in data.names if drawn(name)])
        looking.record, looking.seen = Record(kind=kind_of), Seen()
        seen = looking.all(data)
        answered = [name for name in seen.names if rank(name, keeping.seed) < self._job.measured]
        return {LOOKED: looking.record.lines(), MEASURED: self._measured(data.only(answered)) if answered else []}

    def _opened(self) -> Looking:
        """What looks at samples, opened with the first shard."""
        if self._looking is None:
            request = self._request
            own = Subject.of(request.ask)
            self._looking = Looking(PICTURES, own, None, self._job.job.ways, Record(kind=kind_of), lambda text: None)
        return self._looking

    def _measured(self, data: Dataset) -> list[dict[str, Any]]:
        """The lines of the metrics that an audit measures on samples."""
        assert self._looking is not None
        with tempfile.TemporaryDirectory(prefix="onnxsal-") as folder:
            state = Path(folder) / "metrics.jsonl"
            measured_of(self._request, self._looking.own, self._job.job.ways, data, state)
            return [json.loads(line) for line in state.read_text().splitlines()]
