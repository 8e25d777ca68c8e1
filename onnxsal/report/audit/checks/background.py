"""Do the maps lie on the object, or on its surroundings? Only masks of the objects can tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.statistics import Summary, summarise
from onnxsal.report.audit.blocks import Block, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.document import Number
from onnxsal.report.audit.evidence import CONFIDENCE, Evidence
from onnxsal.report.audit.verdict import FEW, Finding, Judgement, Severity, percent


@dataclass(frozen=True)
class OnObject:
    """``over``: share of the relevance that lies on the object, less the mean share of the picture that the object is (``covered``)."""

    method: str
    over: Summary
    covered: Number


@dataclass(frozen=True)
class Background(
    Check,
    name="background",
    title="Do the {maps} lie on the object?",
    seeks="attention on the background",
    order=62,
    of=(PICTURES, "columns lie neither on an object nor beside it"),
):
    """Relevance on the object, beside what its area would hold by chance."""

    rows: Sequence[OnObject]

    @classmethod
    def measure(cls, evidence: Evidence) -> Background:
        rows = []
        for name in (w.name for w in evidence.ways if evidence.data.masked):
            mass, chance = (evidence.faithfulness.values(name, column) for column in ("relevance_mass", "pointing_chance"))
            over = summarise(mass - chance, CONFIDENCE)
            rows.append(OnObject(name, over, float(np.mean(chance[~np.isnan(mass - chance)])) if over.n else None))
        return cls(rows)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        if not self.rows:
            yield Judgement.none("no masks were given")
        for row in self.rows:
            wrong = _finding(row, row.covered or 0.0) if row.over.high < 0 else None
            yield Judgement.of(row.over.mean, "0 or more, or an interval that reaches 0", row.over.n, FEW, method=row.method, wrong=wrong)

    def show(self, evidence: Evidence) -> Iterator[Block]:
        if self.rows:
            caption = "Share of the relevance that lies on the object, less the share of the picture that the object covers"
            yield Table(caption, ("Method", "#More than by chance [99 % interval]"), [(r.method, r.over) for r in self.rows])


def _finding(row: OnObject, covered: float) -> Finding:
    return Finding(
        f"background-{row.method}",
        Severity.SERIOUS,
        60 - 100 * row.over.mean,
        f"Attention lies on the background, not on the object ({row.method})",
        f"{percent(covered + row.over.mean)} of the relevance lie on the object, which covers {percent(covered)} of the picture "
        f"({row.over.n} pictures with masks): less than chance.",
        "The model may know the object by its surroundings. Test it on pictures of the object elsewhere.",
    )
