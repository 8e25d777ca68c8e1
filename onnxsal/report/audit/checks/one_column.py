"""Does one column decide? What gives the answer away (a date of payment, a number that follows the class) takes all of the attribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsal.metrics.data_kind import ROWS
from onnxsal.metrics.statistics import Summary, summarise
from onnxsal.report.audit.blocks import Block, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import CONFIDENCE, Evidence, mean_or_why
from onnxsal.report.audit.verdict import FEW, Finding, Judgement, MethodValues, Quantity, Severity, percent

SHARE = 0.8
"""Mean share of the attribution, without signs, that one column may hold."""

COLUMNS = 3
"""Columns below which one of them may well hold most."""


@dataclass(frozen=True)
class Heaviest:
    """The ``column`` that holds most of the attribution by a method, and its ``share`` of each row's sum of absolute values."""

    method: str
    column: str
    share: Summary

    @property
    def decides(self) -> bool:
        """Whether it holds too much, and surely so."""
        return self.share.mean > SHARE and self.share.low > SHARE


@dataclass(frozen=True)
class OneColumn(
    Check,
    name="one_column",
    title="Does one column decide the answers?",
    seeks="a single column that the answers rest on, as on one that gives the class away",
    order=64,
    limits={"one_column": Quantity("mean share of the attribution that one column holds", False, high=1)},
    of=(ROWS, "there are no named columns"),
):
    """The heaviest column of each method."""

    rows: Sequence[Heaviest]

    @classmethod
    def measure(cls, evidence: Evidence) -> OneColumn:
        found = []
        for way in evidence.ways:
            sizes = np.abs(evidence.columns_by(way.name, even=True))
            whole = sizes.sum(1, keepdims=True)
            shares = sizes / np.where(whole > 0, whole, np.nan)  # of a row without any attribution no column has a share
            at = int(np.nansum(shares, 0).argmax())
            found.append(Heaviest(way.name, evidence.columns[at], summarise(shares[:, at], CONFIDENCE)))
        return cls(found)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        threshold = f"no column holds more than {percent(SHARE)} on average, or an interval that reaches it"
        columns, told = len(evidence.columns), set[str]()
        if columns < COLUMNS:
            yield Judgement.of(None, threshold, columns, COLUMNS, words=f"{columns} of the {COLUMNS} columns that it takes")
            return
        for row in self.rows:
            s = row.share
            wrong = self._finding(row, evidence) if row.decides else None
            found = Judgement.of(s.mean, threshold, s.n, FEW, method=row.method, words=f"'{row.column}'" if s.n >= FEW else "", wrong=wrong)
            yield replace(found, finding=None) if found.verdict.finding in told else found  # one finding for all methods that see it
            told.add(found.verdict.finding)

    def _finding(self, row: Heaviest, evidence: Evidence) -> Finding:
        by = [r for r in self.rows if r.decides and r.column == row.column and r.share.n >= FEW]
        shares = ", ".join(f"{r.method} {percent(r.share.mean)}" for r in by)
        return Finding(
            f"one-column-{row.column}",
            Severity.SERIOUS,
            78 + row.share.mean,
            f"The column '{row.column}' decides the answers",
            f"It holds most of the attribution on average: {shares} ({evidence.kind.count(row.share.n)}, {len(evidence.columns)} columns).",
            "Ask whether it is known at the time of the decision, and whether it follows from what is to be predicted (a date, an id, a "
            "field that is filled in afterwards): if so, the model has learnt a leak. Train without it and compare.",
        )

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        return {row.method: mean_or_why(row.share) for row in self.rows}

    def show(self, evidence: Evidence) -> Iterator[Block]:
        heads = ("Method", "Heaviest column", "#Share [99 % interval]")
        yield Table("Share of the attribution that the heaviest column holds", heads, [(r.method, r.column, r.share) for r in self.rows])
