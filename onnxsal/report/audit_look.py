"""What an audit notes about every picture: the answer, the maps, where they lie, and small pictures of both; resumable."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from onnxsal.engine.method import get_method
from onnxsal.errors import InputError, MethodError, ModelError, PlanError, TargetError, UnsupportedError
from onnxsal.explainer import Explainer, Explanation
from onnxsal.facts.axes import image_axes
from onnxsal.graph.load import Source
from onnxsal.graph.provenance import model_sha256
from onnxsal.metrics.dataset import Dataset, Sample
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.record import Line, Record
from onnxsal.metrics.scorer import Scorer
from onnxsal.metrics.similarity import spearman
from onnxsal.report.audit_colours import colour_facts
from onnxsal.runtime.heatmap import overlay, scale_map
from onnxsal.runtime.preprocess import Preprocess

CHUNK = 8
"""Pictures that are looked at, and written down, together: always the same ones, so that a run that goes on finds the same digits."""

GRID = 4
"""Cells along each side of a picture in which relevance is counted."""

RIM = 0.1
"""The border of a picture: this share of each side, all around."""

SIDE, SMALL = 144, 96
"""Pixels of a picture in the report: the longer side at most, and at least (tiny pictures are enlarged, pixel by pixel)."""

TOP = 5

FAILS = (InputError, ModelError, TargetError)
"""What a model, or a map of it, ends with on a picture that was read: it does not take it, breaks off, or answers NaN."""

REFUSED = (PlanError, UnsupportedError, MethodError)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A model under audit: its plain scores, and how its pictures are prepared. ``options`` are ``convert``'s."""

    model: Source
    scorer: Scorer
    preprocess: Preprocess | None
    options: Mapping[str, Any]
    sha256: str
    file: str

    def explainer(self, way: Way, **more: Any) -> Explainer:
        """The explainer of one way."""
        edges = {} if self.preprocess is None else {"black": self.preprocess.black(), "white": self.preprocess.white()}
        given = {**edges, **self.options, **way.parameters, **more}
        return Explainer(self.model, way.method, providers=self.scorer.session.obtained, batch_size=CHUNK, **given)


def subject(model: Source, preprocess: Preprocess | None, providers: Any, options: Mapping[str, Any]) -> Subject:
    """Open a model for an audit."""
    scorer = Scorer(model, input=options.get("input"), output=options.get("output"), providers=providers, batch_size=CHUNK)
    file = "" if isinstance(model, bytes) or hasattr(model, "graph") else str(model)
    return Subject(model, scorer, preprocess, options, model_sha256(model), file)


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


class Looking:
    """The first part of an audit: every picture once, in fixed groups."""

    def __init__(self, own: Subject, other: Subject | None, ways: Sequence[Way], record: Record, tell: Tell) -> None:
        self.own, self.other, self.ways, self.record, self.tell = own, other, list(ways), record, tell
        self.seen = Seen()

    def all(self, data: Dataset) -> Seen:
        """Look at everything in ``data`` that was not looked at before."""
        explainers = self._explainers(self.own, self.seen.refused)
        others = {} if self.other is None else self._explainers(self.other, self.seen.other_refused)
        for at in range(0, len(data.names), CHUNK):
            names = [n for n in data.names[at : at + CHUNK] if self._whole(data, n)]
            self.tell(f"pictures {at + 1} to {min(at + CHUNK, len(data.names))} of {len(data.names)}")
            if not all(self._take(data, n, explainers, others) for n in names):
                samples = [s for batch in data.batches(CHUNK, names) for s in batch]
                for group in _same_shape(samples):
                    self._look(group, explainers, others)
        self.seen.damaged = {**data.damaged, **self.seen.damaged}
        self.seen.names = [n for n in data.names if n in self.seen.base and n not in self.seen.damaged]
        self.seen.failed = {n: self.seen.failed[n] for n in data.names if n in self.seen.failed}
        return self.seen

    def _explainers(self, who: Subject, refused: dict[str, str]) -> dict[str, tuple[Way, Explainer]]:
        found = {}
        for way in self.ways:
            self.tell(f"building {way.name} into {who.file or 'the model'}")
            try:
                explainer = who.explainer(way)
            except REFUSED as error:
                refused[way.name] = str(error)
                continue
            if "saliency_map" not in [o.name for o in explainer.session.outputs]:
                raise InputError("the explained input is no picture, and an audit shows maps of pictures; use `onnxsal evaluate`.")
            found[way.name] = (way, explainer)
        if not found:
            raise PlanError("no method can explain the model:\n" + "\n".join(f"{k}: {v}" for k, v in refused.items()))
        return found

    def _whole(self, data: Dataset, name: str) -> bool:
        if name not in data.damaged:
            try:
                data.digest(name)
            except InputError as error:
                data.damaged[name] = str(error)
        return name not in data.damaged

    # ----- what is known already -----

    def _keys(self, who: Subject, way: Way | None = None) -> str:
        """What a line depends on, as a hash."""
        made = [] if way is None else [get_method(way.method or "").sha256, way.parameters]
        pair = [] if who is self.own else [self.own.sha256, repr(self.own.preprocess)]
        told = {k: v for k, v in who.options.items() if v is not None}
        return key_of([version("onnxsal"), who.sha256, who.scorer.session.obtained, repr(who.preprocess), told, made, pair])

    def _take(self, data: Dataset, name: str, explainers: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
        """Whether everything about a picture was recorded by an earlier run; it is then taken over."""
        digest = data.digest(name)

        def known(who: Subject, ways: Mapping[str, Any]) -> dict[str, Line | None]:
            return {w: self.record.get(self._keys(who, way), name, digest) for w, (way, _) in ways.items()}

        base = self.record.get(self._keys(self.own), name, digest)
        found = {} if base is None or "why" in base else known(self.own, explainers)
        lines: list[Line | None] = [base, *_of_ways(found)]
        if self.other is not None:
            second = self.record.get(self._keys(self.other), name, digest)
            both = {} if second is None or "why" in second else {w: o for w, o in others.items() if _good(found.get(w))}
            lines += [second, *_of_ways(known(self.other, both))]
        whole = [line for line in lines if line is not None]
        if len(whole) < len(lines):
            return False
        self._keep(whole)
        return True

    def _keep(self, lines: Sequence[Line]) -> None:
        kept = {"map": self.seen.maps, "other map": self.seen.other_maps}
        for line in lines:
            kind, way, name = line["kind"], line.get("way", ""), line["sample"]
            if kind == "base" and "why" in line:
                self.seen.failed[name] = line
            elif "why" in line:
                self.seen.lost[kind, way, name] = line["why"]
            elif kind in kept:
                kept[kind][way, name] = line
            else:
                (self.seen.base if kind == "base" else self.seen.other)[name] = line
            if "unordered" in line:
                self.seen.lost["colours", "", name] = line["unordered"]

    # ----- what is new -----

    def _look(self, group: list[Sample], explainers: Mapping[str, Any], others: Mapping[str, Any]) -> None:
        """Note everything about pictures of one shape; where something fails, picture by picture."""
        try:
            lines = self._lines(group, explainers, others)
        except FAILS:
            if len(group) == 1:
                raise
            for sample in group:
                self._look([sample], explainers, others)
            return
        self.record.put(lines)
        self._keep(lines)

    def _part(self, group: list[Sample], who: Subject, kind: str, way: Way | None, make: Callable[[], list[Line]]) -> list[Line]:
        """One line for each picture of a group; for a single one that fails, why."""
        head: Line = {"kind": kind, "key": self._keys(who, way), **({} if way is None else {"way": way.name})}
        try:
            made = make()
        except FAILS as error:
            if len(group) > 1:
                raise
            made = [{"label": group[0].label, "why": str(error)}]
        return [{"sample": s.name, "digest": s.digest, **head, **one} for s, one in zip(group, made, strict=True)]

    def _lines(self, group: list[Sample], explainers: Mapping[str, Any], others: Mapping[str, Any]) -> list[Line]:
        x = np.concatenate([s.x for s in group])
        shown = [picture_of(s, self.own.scorer) for s in group]
        lines = self._part(group, self.own, "base", None, partial(self._base, group, x, shown))
        target = None if any("why" in line for line in lines) else np.array([line["top"][0][0] for line in lines])
        found: dict[str, Explanation] = {}

        def mapped(name: str, explainer: Explainer) -> list[Line]:
            found[name] = explainer.explain(x, target)
            return [map_facts(found[name][i], picture) for i, picture in enumerate(shown)]

        if target is not None:
            for name, (way, explainer) in explainers.items():
                lines += self._part(group, self.own, "map", way, partial(mapped, name, explainer))
        return lines if self.other is None else [*lines, *self._other_lines(self.other, group, shown, target, found, others)]

    def _base(self, group: list[Sample], x: np.ndarray, shown: Sequence[np.ndarray]) -> list[Line]:
        """The answers, and what becomes of them when the colours are exchanged."""
        scores = self.own.scorer.probabilities(x)
        told: Line = {}
        try:
            order = colour_facts(group, x, scores, self.own.scorer, self.own.preprocess)
        except FAILS as error:
            if len(group) > 1:
                raise
            order, told = [None], {"unordered": str(error)}
        return [
            {
                "label": s.label,
                "size": [*shown[i].shape[:2]],
                "picture": data_uri(shown[i]),
                **answers(scores[i], s.label),
                "order": order[i],
            }
            | told
            for i, s in enumerate(group)
        ]

    def _other_lines(
        self,
        other: Subject,
        group: list[Sample],
        shown: Sequence[np.ndarray],
        target: np.ndarray | None,
        found: Mapping[str, Explanation],
        others: Mapping[str, Any],
    ) -> list[Line]:
        """The same of the model it is compared with, asked about the same class."""
        prepared = other.preprocess
        x = np.concatenate([s.x for s in group]) if prepared is None else prepared.normalise(np.stack(shown))

        def answered() -> list[Line]:
            return [answers(scores, s.label) for scores, s in zip(other.scorer.probabilities(x), group, strict=True)]

        def mapped(name: str, explainer: Explainer) -> list[Line]:
            again = explainer.explain(x, target)
            like = [likeness(found[name].saliency_map, again.saliency_map, i) for i in range(len(group))]
            return [{**map_facts(again[i], shown[i]), "likeness": like[i]} for i in range(len(group))]

        lines = self._part(group, other, "other", None, answered)
        if any("why" in line for line in lines):
            return lines
        for name, (way, explainer) in others.items():
            if name in found:
                lines += self._part(group, other, "other map", way, partial(mapped, name, explainer))
        return lines


def _good(line: Line | None) -> bool:
    return line is not None and "why" not in line


def _of_ways(lines: Mapping[str, Line | None]) -> list[Line | None]:
    """Recorded lines under the names that the ways have now."""
    return [None if line is None else {**line, "way": way} for way, line in lines.items()]


def key_of(value: Any) -> str:
    """A short hash of anything."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:20]


def _same_shape(samples: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.x.shape, []).append(sample)
    return list(groups.values())


def answers(scores: np.ndarray, label: int | None) -> Line:
    """The best classes with their probabilities, and whether the first one is right."""
    best = np.argsort(-scores, kind="stable")[:TOP]
    told: Line = {"top": [[int(i), float(scores[i])] for i in best]}
    if label is not None:
        told |= {"label": label, "right": bool(best[0] == label), "right5": bool(label in best), "label_score": float(scores[label])}
    return told


def map_facts(one: Explanation, shown: np.ndarray) -> Line:
    """The numbers of one map, where it lies, and its picture."""
    assert one.saliency_map is not None
    size = np.abs(one.saliency_map[0].astype(np.float64))
    return {
        "target": int(one.target[0]),
        "score": float(one.score[0]),
        "residual": None if one.residual is None else float(one.residual[0]),
        "reached": None if one.reached is None else float(one.reached[0]),
        "warnings": one.warnings,
        "rim": rim_share(size),
        "cells": cell_shares(size).ravel().tolist(),
        "picture": data_uri(np.asarray(overlay(shown, scale_map(one.saliency_map[0])))),
    }


def rim_width(length: int) -> int:
    """Pixels of the border along one side."""
    return max(1, round(length * RIM))


def rim_share(size: np.ndarray) -> list[float]:
    """Share of a map [H, W] on the border of the picture, and the share of the picture that the border is."""
    inner = tuple(slice(rim_width(s), s - rim_width(s)) for s in size.shape)
    rim = np.ones(size.shape, bool)
    rim[inner] = False
    total = size.sum()
    return [float(size[rim].sum() / total) if total > 0 else 0.0, float(rim.mean())]


def cell_edges(length: int) -> np.ndarray:
    """Where the cells of a side begin, and the last one ends."""
    return np.linspace(0, length, GRID + 1).round().astype(int)


def cell_shares(size: np.ndarray) -> np.ndarray:
    """Share of a map [H, W] in each cell of a grid."""
    rows, columns = (cell_edges(s)[:-1] for s in size.shape)
    sums = np.add.reduceat(np.add.reduceat(size, rows, 0), columns, 1)
    return np.asarray(sums / max(sums.sum(), 1e-300))


def likeness(first: np.ndarray | None, second: np.ndarray | None, i: int) -> float | None:
    """Rank correlation of the sizes of two maps of sample ``i``; ``None`` where it has no meaning."""
    if first is None or second is None or first.shape != second.shape:
        return None
    found = spearman(np.abs(first[i]), np.abs(second[i]))
    return None if np.isnan(found) else found


def picture_of(sample: Sample, scorer: Scorer) -> np.ndarray:
    """What the model sees, as RGB bytes [H, W, 3]; an array without known preprocessing is stretched to the range of bytes."""
    if sample.picture is not None:
        return sample.picture
    axes = scorer.question.picture or image_axes(sample.x.shape)
    if axes is None or sample.x.ndim != 4:
        raise InputError("the input is no picture [N, C, H, W] or [N, H, W, C]")
    values = np.moveaxis(sample.x, axes[0], -1)[0].astype(np.float64)
    values = values[..., :3] if values.shape[-1] >= 3 else values[..., :1].repeat(3, -1)
    low, high = values.min(), values.max()
    return np.rint((values - low) / ((high - low) or 1) * 255).astype(np.uint8)


def data_uri(pixels: np.ndarray) -> str:
    """A small copy of a picture that a page can hold: JPEG, or PNG where it was enlarged."""
    image = Image.fromarray(pixels)
    longer = max(image.size)
    buffer = io.BytesIO()
    if longer < SMALL:
        factor = -(-SMALL // longer)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        image.quantize(64).save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    if longer > SIDE:
        image = image.resize(
            (max(1, round(image.width * SIDE / longer)), max(1, round(image.height * SIDE / longer))), Image.Resampling.LANCZOS
        )
    image.save(buffer, "JPEG", quality=78, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
