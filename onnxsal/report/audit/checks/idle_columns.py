"""Is there a column on which nothing depends? Its attribution is exactly 0 in every row, whatever the method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.metrics.data_kind import ROWS
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.verdict import FEW, Finding, Judgement, MethodValues, Quantity, Severity

NAMES = 12
"""Columns that are named in a sentence, at most."""


@dataclass(frozen=True)
class IdleColumns(
    Check,
    name="idle_columns",
    title="Does every column count?",
    seeks="columns on which no answer depends",
    order=66,
    limits={"idle_columns": Quantity("number of columns on which nothing depends", False, whole=True)},
    of=(ROWS, "there are no named columns"),
):
    """The ``columns`` whose attribution is 0 in each of ``n`` rows by every method."""

    columns: Sequence[str]
    n: int

    @classmethod
    def measure(cls, evidence: Evidence) -> IdleColumns:
        found = [one[np.isfinite(one).all(1)] for one in (evidence.columns_by(w.name) for w in evidence.ways)]
        used = np.any([np.any(one, 0) for one in found], 0)
        n = min(map(len, found), default=0)
        return cls([c for c, counts in zip(evidence.columns, used, strict=True) if not counts] if n else [], n)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        names, more = ", ".join(f"'{c}'" for c in self.columns[:NAMES]), len(self.columns) - NAMES
        it = "they" if len(self.columns) > 1 else "it"
        wrong = Finding(
            "idle-columns",
            Severity.WARNING,
            22 + len(self.columns) / max(len(evidence.columns), 1),
            f"Nothing depends on {len(self.columns)} of {len(evidence.columns)} columns",
            f"The attribution of {names}{f' and {more} more' if more > 0 else ''} is exactly 0 in all {self.n} rows, by every method.",
            f"If the answers should depend on {'them' if it == 'they' else it}, look whether {it} may always have had the baseline's value "
            "here, or did not reach the model as in training. If not, leave out what the model does not need.",
        )
        yield Judgement.of(len(self.columns), "no column", self.n, FEW, wrong=wrong if self.columns else None)

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        return {"": float(len(self.columns)) if self.n else "no row has an attribution"}
