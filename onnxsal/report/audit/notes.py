"""What an audit notes of some samples together, whatever they are: both models' answers, and their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.metrics.data_kind import DataKind
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.record import Line
from onnxsal.metrics.similarity import spearman
from onnxsal.report.audit.subject import Subject

BASE, MAP, OTHER, OTHER_MAP = "base", "map", "other", "other map"
"""What is noted of a sample: its answer; and what may be lost: a map, the other model's answer, a map of the other model."""

TOP = 5
"""Classes that are noted of a sample."""


@dataclass(frozen=True)
class Noted:
    """One thing that is noted of a sample: its ``kind``, by which method of which model; ``key`` is what it depends on, as a hash."""

    kind: str
    who: Subject
    key: str
    name: str = ""
    explainer: Explainer | None = None

    def wanted(self, lines: Mapping[tuple[str, str], Line]) -> bool:
        """Whether it is to be had, after what was had before it: no map without an answer, no likeness without both maps."""
        needed = {MAP: [(BASE, "")], OTHER_MAP: [(BASE, ""), (OTHER, ""), (MAP, self.name)]}.get(self.kind, [])
        return all(n in lines and "why" not in lines[n] for n in needed)


class Look:
    """Samples of one shape, as both models are fed with them; maps are of the class that the audited model predicts.

    A kind of data says what is noted of a sample (``shown``) and of a map (``facts``), and in which ``order`` a map puts its places.
    """

    kind: ClassVar[DataKind]

    def __init__(self, group: list[Sample], own: Subject) -> None:
        self.group, self.own = group, own
        self.found: dict[str, np.ndarray | None] = {}

    @classmethod
    def admit(cls, own: Subject, other: Subject | None) -> None:
        """Raise ``InputError`` for two models that are not fed with the same."""

    @classmethod
    def admit_maps(cls, explainer: Explainer) -> None:
        """Raise ``InputError`` for an explainer whose maps cannot be shown."""

    def shown(self, i: int) -> Line:
        """What a page shows of a sample beside its maps."""
        raise NotImplementedError

    def facts(self, who: Subject, one: Explanation, i: int) -> Line:
        """The numbers of one map, beside those that every map has."""
        raise NotImplementedError

    def order(self, who: Subject, whole: Explanation) -> np.ndarray | None:
        """What two maps of a sample are compared by, [N, ...]: their rank correlation is the likeness of the reasons."""
        raise NotImplementedError

    def at(self, part: Noted, noted: Sequence[Mapping[tuple[str, str], Line]]) -> list[Line]:
        """One part of every sample."""
        x = np.concatenate([s.x if part.who is self.own else part.who.fed(s) for s in self.group])
        if part.explainer is None:
            told = [answers(scores, s.label) for scores, s in zip(part.who.scorer.probabilities(x), self.group, strict=True)]
            if part.kind == OTHER:
                return told
            return [{"label": s.label, **self.shown(i), **one} for i, (s, one) in enumerate(zip(self.group, told, strict=True))]
        whole = part.explainer.explain(x, np.array([lines[BASE, ""]["top"][0][0] for lines in noted]))
        lines = [{**map_numbers(whole[i]), **self.facts(part.who, whole[i], i)} for i in range(len(x))]
        order = self.order(part.who, whole)
        if part.kind == MAP:
            self.found[part.name] = order
            return lines
        return [{**one, "likeness": likeness(self.found[part.name], order, i)} for i, one in enumerate(lines)]


def answers(scores: np.ndarray, label: int | None) -> Line:
    """The best classes with their probabilities, and whether the first one is right."""
    best = np.argsort(-scores, kind="stable")[:TOP]
    told: Line = {"top": [[int(i), float(scores[i])] for i in best]}
    if label is not None:
        told |= {"label": label, "right": bool(best[0] == label), "right5": bool(label in best), "label_score": float(scores[label])}
    return told


def map_numbers(one: Explanation) -> Line:
    """The numbers that every map has. ``warnings`` are about this map: a doubt about all of them is told once, of the method."""
    return {
        "target": int(one.target[0]),
        "score": float(one.score[0]),
        "residual": None if one.residual is None else float(one.residual[0]),
        "reached": None if one.reached is None else float(one.reached[0]),
        "warnings": [w for w in one.warnings if w != one.doubt],
        "empty": one.empty,
    }


def likeness(first: np.ndarray | None, second: np.ndarray | None, i: int) -> float | None:
    """Rank correlation of two maps of sample ``i``; ``None`` where it has no meaning."""
    if first is None or second is None or first.shape != second.shape:
        return None
    found = spearman(first[i], second[i])
    return None if np.isnan(found) else found
