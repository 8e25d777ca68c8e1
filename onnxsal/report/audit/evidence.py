"""What the checks of an audit look at: the models, the data, the maps and what was measured on them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.metrics.data_kind import DataKind
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.statistics import Summary
from onnxsal.report.audit.class_name import ClassName
from onnxsal.report.audit.document import Accuracy, Answer, SampleCard
from onnxsal.report.audit.notes import MAP
from onnxsal.report.audit.observe import Seen
from onnxsal.report.audit.population import Population
from onnxsal.report.audit.row_notes import columns_of_rows
from onnxsal.report.audit.subject import CHUNK, Subject

CONFIDENCE = 0.99
"""Of the intervals behind verdicts."""

FAITHFUL, LOCAL = ("insertion", "deletion"), ("pointing_game", "relevance_mass")
"""Metrics that are measured on every audit, and on pictures with masks."""

MEASURED = 48
"""Samples that they are measured on, drawn by the seed: each picture takes 58 runs of the model for each method."""

RANDOMISED, STAGES = CHUNK, 4
"""Samples that are explained again with random weights, and the stages in which these are drawn."""


@dataclass(frozen=True)
class Request:
    """What to audit, and how: a model, data, methods, and perhaps another model of the same classes. ``form``: statements of the provider
    of the model, printed as they are; ``command``: the command line, for the record. ``labels_column`` of a table holds the class of each
    row. ``offered``: the methods were not asked for by name, so one that cannot explain the model is left out, and no fault.
    ``population``: what is known of all data, where those given are a sample of them, and ``besides`` the names of samples that are not
    drawn evenly with the others (but so that no class is missing): no mean is taken over them. ``measured_on``: the names of the samples
    that the metrics are measured on, in place of ``measured`` that are drawn; one that cannot be read, or has no answer, is left out.
    """

    ask: Ask
    data: Any
    ways: Sequence[Way]
    masks: str | Path | None = None
    against: Ask | None = None
    samples: int | None = None
    measured: int = MEASURED
    seed: int = 0
    form: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    labels_column: str | None = None
    offered: bool = False
    population: Population | None = None
    besides: Collection[str] = ()
    measured_on: Collection[str] | None = None

    def even(self, names: Iterable[str]) -> list[str]:
        """Those of the names that were drawn evenly of all data: a mean over them is one of all."""
        return [name for name in names if name not in self.besides]


@dataclass(frozen=True)
class Lost:
    """``what`` was not given (a map, a metric by its name) by a ``method`` ('' = by the model) of some samples (``pictures``), and why of
    the first.
    """

    what: str
    method: str
    pictures: Sequence[str]
    why: str


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen before anything is judged. ``ways``: the methods that explain the model; ``faithfulness`` and
    ``randomised``: what was measured on maps, and on maps of models with random weights. ``kept`` gives a part that is costly from what
    an earlier run left, or makes and keeps it.
    """

    request: Request
    own: Subject
    other: Subject | None
    data: Dataset
    seen: Seen
    ways: Sequence[Way]
    faithfulness: Evaluation
    randomised: Evaluation
    pictures: Sequence[SampleCard]
    kept: Callable[[str, Callable[[], Any]], Any]

    @property
    def kind(self) -> DataKind:
        """What the data are, and what they are called."""
        return self.data.kind

    @property
    def columns(self) -> Sequence[str]:
        """The columns of rows."""
        return () if self.own.rows is None else columns_of_rows(self.own)

    def columns_by(self, method: str, even: bool = False) -> np.ndarray:
        """The attributions of all rows that have one by a method, [rows, columns]; of those alone that were drawn evenly."""
        of = {p.name: p.maps[method].by_column for p in self.pictures if method in p.maps}
        found = [of[name] for name in (self.request.even(of) if even else of)]
        return np.array(found, np.float64).reshape(len(found), len(self.columns))

    @property
    def read(self) -> int:
        """The samples that could be read."""
        return len(self.seen.read)

    def within(self, n: int) -> str:
        """In a sentence about ``n`` samples: of how many they are a sample ('' where the data are all)."""
        population = self.request.population
        return "" if population is None else f" (a sample: {population.of_n(n)})"

    def class_name(self, index: int) -> str:
        """A class as people call it."""
        label = named(index, self.request.ask.labels).label
        return f"'{label.split(',')[0]}' (class {index})" if label else f"class {index}"

    def predicted(self, index: int) -> list[str]:
        """The samples that the model takes for a class."""
        return [p.name for p in self.pictures if p.predicted[0].index == index]

    @cached_property
    def accuracy(self) -> Accuracy | None:
        """How often the audited model is right; ``None`` without labels."""
        return accuracy(self, self.seen.base)

    @cached_property
    def lost(self) -> Sequence[Lost]:
        """What was asked of the model or of a map, and not given: none of it is left out in silence."""
        rows: dict[tuple[str, str], tuple[list[str], str]] = {}
        for (what, way, name), why in self.seen.lost.items():
            rows.setdefault((what, way), ([], why))[0].append(name)
        for found in (self.faithfulness, self.randomised):
            for (way, name), metrics in found.lost.items():
                for metric, why in metrics.items():
                    if (MAP, way, name) not in self.seen.lost:
                        rows.setdefault((metric, way), ([], why))[0].append(name)
        order = {n: i for i, n in enumerate(self.seen.read)}
        return [Lost(what, way, sorted(set(names), key=order.__getitem__), why) for (what, way), (names, why) in rows.items()]

    def gap(self, method: str, parts: Sequence[str]) -> str:
        """Why a method's maps do not speak for all samples, where one of these ``parts`` was not given for some ('' = they do)."""
        failed = len(self.seen.failed)
        if failed:
            return f"the model has no answer to {failed} of {self.kind.count(self.read)}"
        for row in self.lost:
            if row.method == method and row.what in (MAP, *parts):
                what = f"{part_name(row.what, self.kind)} of {self.kind.count(len(row.pictures))}"
                return f"{what} could not be had ('{row.pictures[0]}': {row.why})"
        return ""


def accuracy(evidence: Evidence, lines: Mapping[str, Any]) -> Accuracy | None:
    """That of the model that ``lines`` are of: a labelled sample to which it has no answer is a wrong one; ``None`` without labels."""
    labels = {n: label for n in evidence.request.even(evidence.seen.read) if (label := evidence.seen.label(n)) is not None}
    if not labels:
        return None
    counted = Counter(labels.values())
    top1, top5 = (float(np.mean([lines.get(n, {}).get(key, False) for n in labels])) for key in ("right", "right5"))
    return Accuracy(len(labels), len(counted), top1, top5, max(counted.values()) / len(labels))


def named(index: int, labels: Sequence[str] | None) -> ClassName:
    """A class by index and label."""
    return ClassName(index, labels[index] if labels is not None and 0 <= index < len(labels) else None)


def answer(index: int, probability: float, labels: Sequence[str] | None) -> Answer:
    """The same with its probability."""
    return Answer(index, named(index, labels).label, probability)


def mean_or_why(found: Summary | None) -> float | str:
    """A mean over samples; a number that most of them are missing from is not enough to judge by."""
    if found is None or math.isnan(found.mean):
        return "nothing has a value"
    count = found.n + found.excluded
    return f"not enough data, {found.n} of {count} have a value" if found.n < found.excluded else found.mean


def part_name(what: str, kind: DataKind) -> str:
    """What is lost, in words: a map is called as those of the data are."""
    return re.sub(r"\bmap$", kind.map, what)
