"""Do the maps lie on the border of the pictures? Frames, captions and watermarks draw them there, and so does padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.statistics import Summary, summarise
from onnxsal.report.audit.blocks import Block, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import CONFIDENCE, Evidence, mean_or_why
from onnxsal.report.audit.map_notes import RIM
from onnxsal.report.audit.verdict import FEW, Finding, Judgement, MethodValues, Quantity, Severity, percent

DENSITY, LOW = 1.6, 1.3
"""Relevance at the border over what its area would hold by chance: the mean, and the lower end of its interval, that are too much."""


@dataclass(frozen=True)
class Density:
    """``density`` of the maps of a method on a border of this ``width`` (share of each side), whose ``area`` is a share of the picture."""

    method: str
    width: float
    area: float
    density: Summary


@dataclass(frozen=True)
class Border(
    Check,
    name="border",
    title="Do the {maps} lie on the border of the {many}?",
    seeks="attention on the border of the {many}",
    order=60,
    of=(PICTURES, "columns have no border"),
    limits={"border": Quantity("relevance at the border over what its area would have by chance", None)},
):
    """How dense each method's maps are at the border, compared with the whole picture."""

    rows: Sequence[Density]

    @classmethod
    def measure(cls, evidence: Evidence) -> Border:
        rows = []
        for way in evidence.ways:
            pairs = [evidence.seen.maps[way.name, n]["rim"] for n in evidence.request.even(evidence.seen.mapped(way.name))]
            area = float(np.mean([a for _, a in pairs])) if pairs else 0.0
            rows.append(Density(way.name, RIM, area, summarise([share / area for share, area in pairs], CONFIDENCE)))
        return cls(rows)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        for row in self.rows:
            d = row.density
            wrong = Finding(
                f"border-{row.method}",
                Severity.WARNING,
                20 + d.mean,
                f"Attention lies on the border of the pictures ({row.method})",
                f"The outer {percent(row.width)} of each side hold {d.mean:.1f} times the relevance that their area would have by chance "
                f"(99 % interval {d.low:.1f} to {d.high:.1f}, {d.n} pictures).",
                "Look whether frames, captions or watermarks are there. If not, the padding of the first layers may leave traces: compare "
                "with another method.",
            )
            threshold = f"at most {DENSITY}, or an interval that reaches below {LOW}"
            broken = d.mean > DENSITY and d.low > LOW
            yield Judgement.of(d.mean, threshold, d.n, FEW, method=row.method, wrong=wrong if broken else None)

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        return {row.method: mean_or_why(row.density) for row in self.rows}

    def show(self, evidence: Evidence) -> Iterator[Block]:
        caption = f"Relevance on the outer {percent(RIM)} of each side, compared with what its area would hold by chance (1)"
        yield Table(caption, ("Method", "#Density [99 % interval]"), [(r.method, r.density) for r in self.rows])
