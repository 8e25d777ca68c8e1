"""What an audit notes about every picture: the answer, the maps, where they lie, and small pictures of both; resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.engine.method import get_method
from onnxsal.errors import InputError, MethodError, ModelError, PlanError, TargetError, UnsupportedError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.facts.axes import layout_places
from onnxsal.graph.provenance import model_sha256
from onnxsal.metrics.dataset import Dataset, Sample
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.record import Line, Record
from onnxsal.metrics.scorer import Scorer
from onnxsal.report.audit.map_notes import answers, data_uri, likeness, map_facts, picture_of
from onnxsal.runtime.preprocess import Preprocess

CHUNK = 8
"""Pictures that are looked at, and written down, together: always the same ones, so that a run that goes on finds the same digits."""

BASE, MAP, OTHER, OTHER_MAP = "base", "map", "other", "other map"
"""What is noted of a picture: its answer; and what may be lost: a map, the other model's answer, a map of the other model."""

FAILS = (InputError, ModelError, TargetError)
"""What a model, or a map of it, ends with on a picture that was read: it does not take it, breaks off, or answers NaN."""

REFUSED = (PlanError, UnsupportedError, MethodError)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A model under audit: what is asked of it, and its plain scores."""

    ask: Ask
    scorer: Scorer
    sha256: str

    @classmethod
    def of(cls, ask: Ask) -> Subject:
        """Open a model for an audit."""
        scorer = Scorer.of(replace(ask, batch_size=CHUNK))
        return cls(replace(ask.on(scorer.session.obtained), batch_size=CHUNK), scorer, model_sha256(ask.model))

    @property
    def preprocess(self) -> Preprocess | None:
        """How its pictures are prepared."""
        return self.ask.preprocess

    def asked(self, way: Way) -> Ask:
        """What is asked of it by one method."""
        return self.ask.by(way.method, way.parameters)

    def explainer(self, way: Way, **more: Any) -> Explainer:
        """The explainer of one method."""
        return Explainer.of(replace(self.asked(way), **more))

    @property
    def about(self) -> list[Any]:
        """What every number of it depends on, but for the method."""
        return [self.sha256, self.scorer.session.obtained, repr(self.preprocess), self.ask.told]


@dataclass
class Seen:
    """Everything that was noted: lines by picture, and by way and picture. ``refused`` way -> why; ``damaged`` picture -> why it cannot
    be read. A picture that was read and has no answer is the model's failure, not the picture's: ``failed`` picture -> its label and why.
    ``lost`` (what, way, picture) -> why, of everything else that the model or a map of it failed to give.
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

    @property
    def read(self) -> list[str]:
        """The pictures that were read: those with an answer, then those on which the model fails."""
        return [*self.names, *self.failed]

    def label(self, name: str) -> int | None:
        """The label of a picture that was read."""
        found: int | None = (self.base.get(name) or self.failed[name])["label"]
        return found

    def mapped(self, way: str) -> list[str]:
        """The pictures that have a map by one way."""
        return [n for n in self.names if (way, n) in self.maps]


@dataclass(frozen=True)
class Noted:
    """One thing that is noted of a picture: its ``kind``, by which method of which model; ``key`` is what it depends on, as a hash."""

    kind: str
    who: Subject
    key: str
    name: str = ""
    explainer: Explainer | None = None

    def wanted(self, lines: Mapping[tuple[str, str], Line]) -> bool:
        """Whether it is to be had, after what was had before it: no map without an answer, no likeness without both maps."""
        needed = {MAP: [(BASE, "")], OTHER_MAP: [(BASE, ""), (OTHER, ""), (MAP, self.name)]}.get(self.kind, [])
        return all(n in lines and "why" not in lines[n] for n in needed)


class Looking:
    """The first part of an audit: every picture once, in fixed groups, part by part."""

    def __init__(self, own: Subject, other: Subject | None, ways: Sequence[Way], record: Record, tell: Tell) -> None:
        self.own, self.record, self.tell, self.seen = own, record, tell, Seen()
        self.parts = [*self._parts(own, ways, BASE, MAP, self.seen.refused)]
        if other is not None:
            self.parts += self._parts(other, ways, OTHER, OTHER_MAP, self.seen.other_refused)

    def all(self, data: Dataset) -> Seen:
        """Look at everything in ``data`` that was not looked at before."""
        for at in range(0, len(data.names), CHUNK):
            names = [n for n in data.names[at : at + CHUNK] if self._whole(data, n)]
            self.tell(f"pictures {at + 1} to {min(at + CHUNK, len(data.names))} of {len(data.names)}")
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
            axes = explainer.conversion.question.shown[1]
            if axes is None or layout_places(axes) != 2 or "saliency_map" not in [o.name for o in explainer.session.outputs]:
                raise InputError("the explained input is no picture, and an audit shows maps of pictures; use `onnxsal evaluate`.")
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
        """Whether everything about a picture was recorded by an earlier run; it is then taken over."""
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
        """Note everything about pictures of one shape; where something fails, picture by picture."""
        noted: list[dict[tuple[str, str], Line]] = [{} for _ in group]
        look = Look(group, self.own)
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


class Look:
    """Pictures of one shape, as both models are fed with them; maps are of the class that the audited model predicts."""

    def __init__(self, group: list[Sample], own: Subject) -> None:
        self.group, self.own = group, own
        self.shown = [picture_of(s, own.scorer) for s in group]
        self.found: dict[str, Explanation] = {}

    def at(self, part: Noted, noted: Sequence[Mapping[tuple[str, str], Line]]) -> list[Line]:
        """One part of every picture."""
        x = np.concatenate([s.x for s in self.group])
        if part.who is not self.own and part.who.preprocess is not None:
            x = part.who.preprocess.normalise(np.stack(self.shown))
        if part.explainer is None:
            told = [answers(scores, s.label) for scores, s in zip(part.who.scorer.probabilities(x), self.group, strict=True)]
            if part.kind == OTHER:
                return told
            rows = zip(self.group, self.shown, told, strict=True)
            return [{"label": s.label, "size": [*p.shape[:2]], "picture": data_uri(p), **one} for s, p, one in rows]
        whole = part.explainer.explain(x, np.array([lines[BASE, ""]["top"][0][0] for lines in noted]))
        facts = [map_facts(whole[i], picture) for i, picture in enumerate(self.shown)]
        if part.kind == MAP:
            self.found[part.name] = whole
            return facts
        first = self.found[part.name].saliency_map
        return [{**one, "likeness": likeness(first, whole.saliency_map, i)} for i, one in enumerate(facts)]


def key_of(value: Any) -> str:
    """A short hash of anything; arrays count by their bytes."""

    def told(part: Any) -> str:
        return hashlib.sha256(part.tobytes()).hexdigest() if isinstance(part, np.ndarray) else repr(part)

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=told).encode()).hexdigest()[:20]


def _same_shape(samples: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.x.shape, []).append(sample)
    return list(groups.values())
