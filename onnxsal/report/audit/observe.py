"""What an audit notes about every sample: the answer, the maps, and what a page shows of both; resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from onnxsal.engine.method import get_method
from onnxsal.errors import InputError, MethodError, ModelError, PlanError, TargetError, UnsupportedError
from onnxsal.metrics.data_kind import DataKind
from onnxsal.metrics.dataset import Dataset, Sample
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.record import Line, Record
from onnxsal.report.audit.map_notes import PictureLook
from onnxsal.report.audit.notes import BASE, MAP, OTHER, OTHER_MAP, Look, Noted
from onnxsal.report.audit.row_notes import RowLook
from onnxsal.report.audit.subject import CHUNK, Subject, key_of

LOOKS: dict[DataKind, type[Look]] = {look.kind: look for look in (PictureLook, RowLook)}
"""What is noted of each kind of data."""

FAILS = (InputError, ModelError, TargetError)
"""What a model, or a map of it, ends with on a sample that was read: it does not take it, breaks off, or answers NaN."""

REFUSED = (PlanError, UnsupportedError, MethodError)

Tell = Callable[[str], None]


@dataclass
class Seen:
    """Everything that was noted: lines by sample, and by way and sample. ``refused`` way -> why; ``damaged`` sample -> why it cannot
    be read. A sample that was read and has no answer is the model's failure, not the sample's: ``failed`` sample -> its label and why.
    ``lost`` (what, way, sample) -> why, of everything else that the model or a map of it failed to give. ``doubts`` way -> why all of its
    maps are to be read with care.
    """

    names: list[str] = field(default_factory=list)
    base: dict[str, Line] = field(default_factory=dict)
    maps: dict[tuple[str, str], Line] = field(default_factory=dict)
    other: dict[str, Line] = field(default_factory=dict)
    other_maps: dict[tuple[str, str], Line] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    other_refused: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    failed: dict[str, Line] = field(default_factory=dict)
    lost: dict[tuple[str, str, str], str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)

    @property
    def read(self) -> list[str]:
        """The samples that were read: those with an answer, then those on which the model fails."""
        return [*self.names, *self.failed]

    def label(self, name: str) -> int | None:
        """The label of a sample that was read."""
        found: int | None = (self.base.get(name) or self.failed[name])["label"]
        return found

    def mapped(self, way: str) -> list[str]:
        """The samples that have a map by one way."""
        return [n for n in self.names if (way, n) in self.maps]


class Looking:
    """The first part of an audit: every sample once, in fixed groups, part by part."""

    def __init__(self, kind: DataKind, own: Subject, other: Subject | None, ways: Sequence[Way], record: Record, tell: Tell) -> None:
        self.look, self.own, self.record, self.tell, self.seen = LOOKS[kind], own, record, tell, Seen()
        self.look.admit(own, other)
        self.parts = [*self._parts(own, ways, BASE, MAP, self.seen.refused)]
        if other is not None:
            self.parts += self._parts(other, ways, OTHER, OTHER_MAP, self.seen.other_refused)

    def all(self, data: Dataset) -> Seen:
        """Look at everything in ``data`` that was not looked at before."""
        for at in range(0, len(data.names), CHUNK):
            names = [n for n in data.names[at : at + CHUNK] if self._whole(data, n)]
            self.tell(f"{data.kind.many} {at + 1} to {min(at + CHUNK, len(data.names))} of {len(data.names)}")
            if not all(self._take(n, data.digest(n)) for n in names):
                samples = [s for batch in data.batches(CHUNK, names) for s in batch]
                for group in _same_shape(samples):
                    self._look(group)
        self.seen.damaged = {**data.damaged, **self.seen.damaged}
        self.seen.names = [n for n in data.names if n in self.seen.base and n not in self.seen.damaged]
        self.seen.failed = {n: self.seen.failed[n] for n in data.names if n in self.seen.failed}
        return self.seen

    def _parts(self, who: Subject, ways: Sequence[Way], answers: str, maps: str, refused: dict[str, str]) -> Iterator[Noted]:
        """The answers of a model, and its maps by every method that can explain it."""
        about = [version("onnxsal"), who.about, [] if who is self.own else self.own.about]
        yield Noted(answers, who, key_of(about))
        for way in ways:
            self.tell(f"building {way.name} into {who.ask.name or 'the model'}")
            try:
                explainer = who.explainer(way)
            except REFUSED as error:
                refused[way.name] = str(error)
                continue
            self.look.admit_maps(explainer)
            if doubt := "; ".join(filter(None, (explainer.conversion.question.doubt, explainer.session.rounds))):
                self.seen.doubts[way.name] = doubt
            yield Noted(maps, who, key_of([*about, get_method(way.method or "").sha256, way.parameters]), way.name, explainer)
        if len(refused) == len(ways):
            raise PlanError("no method can explain the model:\n" + "\n".join(f"{k}: {v}" for k, v in refused.items()))

    def _whole(self, data: Dataset, name: str) -> bool:
        if name not in data.damaged:
            try:
                data.digest(name)
            except InputError as error:
                data.damaged[name] = str(error)
        return name not in data.damaged

    def _take(self, name: str, digest: str) -> bool:
        """Whether everything about a sample was recorded by an earlier run; it is then taken over."""
        lines: dict[tuple[str, str], Line] = {}
        for part in self.parts:
            if part.wanted(lines):
                line = self.record.get(part.key, name, digest)
                if line is None:
                    return False
                lines[part.kind, part.name] = {**line, "way": part.name}  # under the name that the method has now
        self._keep(lines.values())
        return True

    def _keep(self, lines: Iterable[Line]) -> None:
        kept = {MAP: self.seen.maps, OTHER_MAP: self.seen.other_maps}
        for line in lines:
            kind, way, name = line["kind"], line["way"], line["sample"]
            if kind == BASE and "why" in line:
                self.seen.failed[name] = line
            elif "why" in line:
                self.seen.lost[kind, way, name] = line["why"]
            elif kind in kept:
                kept[kind][way, name] = line
            else:
                (self.seen.base if kind == BASE else self.seen.other)[name] = line

    def _look(self, group: list[Sample]) -> None:
        """Note everything about samples of one shape; where something fails, one by one."""
        noted: list[dict[tuple[str, str], Line]] = [{} for _ in group]
        look = self.look(group, self.own)
        for part in self.parts:
            if not all(part.wanted(lines) for lines in noted):
                continue
            try:
                made = look.at(part, noted)
            except FAILS as error:
                if len(group) > 1:
                    for sample in group:
                        self._look([sample])
                    return
                made = [{"label": group[0].label, "why": str(error)}]
            head = {"kind": part.kind, "key": part.key, "way": part.name}
            for sample, lines, one in zip(group, noted, made, strict=True):
                lines[part.kind, part.name] = {"sample": sample.name, "digest": sample.digest, **head, **one}
        self.record.put(line for lines in noted for line in lines.values())
        self._keep(line for lines in noted for line in lines.values())


def _same_shape(samples: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.x.shape, []).append(sample)
    return list(groups.values())
