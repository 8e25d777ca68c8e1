"""Do the maps show anything? Those of one value everywhere are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.verdict import Finding, Judgement, Severity, percent

FLAT = 0.1
"""Share of maps that may show nothing."""


@dataclass(frozen=True)
class Empty:
    """The samples (``pictures``), of ``n``, whose map by a method shows nothing, and what the first such map says of itself."""

    method: str
    n: int
    pictures: Sequence[str]
    example: str


@dataclass(frozen=True)
class Flat(Check, name="flat", title="Do the {maps} show anything?", seeks="{maps} that show nothing", order=46):
    """Maps that show nothing."""

    rows: Sequence[Empty]

    @classmethod
    def measure(cls, evidence: Evidence) -> Flat:
        told = {w.name: {p.name: p.maps[w.name].empty for p in evidence.pictures if w.name in p.maps} for w in evidence.ways}
        return cls([Empty(k, len(of), [n for n, w in of.items() if w], next((w for w in of.values() if w), "")) for k, of in told.items()])

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        kind = evidence.kind
        for row in self.rows:
            share = len(row.pictures) / max(row.n, 1)
            title = f"{kind.maps.capitalize()} of {row.method} show nothing on {len(row.pictures)} of {kind.count(row.n)}"
            text, layer = f"{row.example[:1].upper()}{row.example[1:]}.", "" if kind.named else ", or another layer"
            advice = f"Use another method{layer}."
            wrong = Finding(f"flat-{row.method}", Severity.WARNING, 40 + share, title, text, advice, row.pictures)
            threshold = f"at most {percent(FLAT)} of the {kind.maps} show nothing"
            yield Judgement.of(share, threshold, row.n, 1, method=row.method, wrong=wrong if share > FLAT else None)
