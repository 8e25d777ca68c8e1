"""Do two models answer for the same reasons? Their maps of the same class are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsal.metrics.statistics import Summary, summarise
from onnxsal.report.audit.blocks import Block, SampleLinks, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.checks.agreement import ALONE
from onnxsal.report.audit.evidence import CONFIDENCE, Evidence, mean_or_why
from onnxsal.report.audit.notes import OTHER_MAP
from onnxsal.report.audit.verdict import FEW, NAMED, Finding, Judgement, MethodValues, Quantity, Severity

ALIKE = 0.5
"""Rank correlation of two models' maps below which they answer for different reasons."""


@dataclass(frozen=True)
class Likeness:
    """Rank correlation of both models' maps by a method; ``refused``: why it cannot explain the other model."""

    method: str
    refused: str | None
    likeness: Summary | None


@dataclass(frozen=True)
class Reasons(
    Check,
    name="reasons",
    title="Do the two models answer for the same reasons?",
    seeks="other reasons for the same answers",
    order=110,
    limits={"likeness": Quantity("rank correlation of the {maps} of the two models", True, -1, 1, lost=(OTHER_MAP,))},
):
    """How alike the maps of both models are."""

    rows: Sequence[Likeness]

    @classmethod
    def measure(cls, evidence: Evidence) -> Reasons:
        seen, rows = evidence.seen, []
        for way in evidence.ways if evidence.other is not None else ():
            like = [seen.other_maps[way.name, n]["likeness"] for n in seen.names if (way.name, n) in seen.other_maps]
            found = summarise([np.nan if v is None else v for v in like], CONFIDENCE) if like else None
            rows.append(Likeness(way.name, seen.other_refused.get(way.name), found))
        return cls(rows)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        if not self.rows:
            yield Judgement.none(ALONE)
        doubtful = {r.method: r.likeness for r in self.rows if r.likeness and r.likeness.n >= FEW and r.likeness.high < ALIKE}
        told = False
        for row in self.rows:
            if row.refused:
                yield Judgement.none(row.refused, row.method)
                continue
            mean, n = (None, 0) if row.likeness is None else (row.likeness.mean, row.likeness.n)
            wrong = self._finding(doubtful, evidence) if row.method in doubtful else None
            found = Judgement.of(mean, f"{ALIKE}, or an interval that reaches it", n, FEW, method=row.method, wrong=wrong)
            yield replace(found, finding=None) if told else found  # one finding for all methods
            told = told or found.finding is not None

    def _finding(self, doubtful: dict[str, Summary], evidence: Evidence) -> Finding:
        return Finding(
            "reasons",
            Severity.WARNING,
            45 + 10 * (1 - min(s.mean for s in doubtful.values())),
            "The two models answer for different reasons",
            f"The rank correlation of their {evidence.kind.maps} of the same class is low: "
            f"{', '.join(f'{k} {s.mean:.2f}' for k, s in doubtful.items())} (1 is the same {evidence.kind.map}, 0 no relation).",
            f"Look at the {evidence.kind.many} whose reasons changed most; they are named here, worst first.",
            [name for _, name in _changed(evidence)],
        )

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        return {row.method: row.refused or mean_or_why(row.likeness) for row in self.rows}

    def show(self, evidence: Evidence) -> Iterator[Block]:
        if self.rows:
            caption = f"Rank correlation of the {evidence.kind.maps} of both models, of the same class"
            rows = [(r.method, "refused" if r.refused else r.likeness) for r in self.rows]
            yield Table(caption, ("Method", "#Likeness [99 % interval]"), rows)
        if changed := _changed(evidence)[:NAMED]:
            yield SampleLinks(f"{evidence.kind.heading} whose reasons changed most", [(name, f"{like:.2f}") for like, name in changed])


def _changed(evidence: Evidence) -> list[tuple[float, str]]:
    """Mean likeness and name, the least alike first."""
    known = [(p.against.mean_likeness, p.name) for p in evidence.pictures if p.against is not None and p.against.mean_likeness is not None]
    return sorted(known, key=lambda pair: pair[0])
