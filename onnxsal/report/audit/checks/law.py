"""Do the maps account for the score? A method that promises a sum is held to it on every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxsal.engine.method import get_method
from onnxsal.methods.build import keeps_law, refined_by, wrapper_of
from onnxsal.metrics.data_kind import DataKind
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit.blocks import Block, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.document import Number
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.verdict import Finding, Judgement, MethodValues, Quantity, Severity, percent

EXACT, APPROXIMATE = 1e-3, 0.5
"""Relative error of a law that holds exactly; and of one that a sum only approximates, such as an integral along a path."""

UNREACHED = "largest |1 - the share of the score that reaches the input| (relevance methods: lrp_*, deep_taylor)"


@dataclass(frozen=True)
class Kept:
    """How the ``n`` maps of a method keep its ``law`` ('' = it has none): residuals may be ``limit``; those of the ``missed`` samples are
    larger, or no number (worst first; of the worst one, the share of the score that ``reached`` the input). ``residual`` and
    ``unreached`` (|1 - reached|) are the largest, ``None`` where one is no number. ``refined_by``: the parameter that lowers residuals.
    """

    method: str
    law: str
    books: bool
    refined_by: str
    limit: float
    n: int
    residual: Number
    unreached: Number
    missed: Sequence[str]
    reached: Number

    @classmethod
    def of(cls, evidence: Evidence, way: Way) -> Kept:
        """By one method, from the residuals that were noted."""
        name, method = way.name, get_method(way.method or "")
        law, refined = (method.law or "its parts sum to the score") if keeps_law(method) else "", refined_by(method)
        maps = {p.name: p.maps[name] for p in evidence.pictures if name in p.maps}
        errors = {n: _finite(m.residual) for n, m in maps.items() if law}
        limit = APPROXIMATE if refined else EXACT
        missed = sorted((n for n, e in errors.items() if e > limit), key=lambda n: -errors[n])
        away = [_finite(None if m.reached is None else abs(1 - m.reached)) for m in maps.values()]
        residual, unreached = (max(values, default=math.inf) for values in (errors.values(), away))
        reached = maps[missed[0]].reached if missed else None
        return cls(name, law, wrapper_of(method).books, refined, limit, len(maps), _number(residual), _number(unreached), missed, reached)


def _finite(value: Number) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _number(value: float) -> Number:
    return None if math.isinf(value) else value


@dataclass(frozen=True)
class Law(
    Check,
    name="law",
    title="Do the {maps} account for the score?",
    seeks="{maps} that do not account for the score",
    order=42,
    limits={
        "residual": Quantity("largest relative error of the method's law", False, law=True),
        "unreached": Quantity(UNREACHED, False, law=True),
    },
):
    """The relative error of each method's law on every sample."""

    rows: Sequence[Kept]

    @classmethod
    def measure(cls, evidence: Evidence) -> Law:
        return cls([Kept.of(evidence, way) for way in evidence.ways])

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        kind = evidence.kind
        for row in self.rows:
            if row.law:
                wrong, threshold = _finding(row, kind) if row.missed else None, f"at most {row.limit:g} of the score on every {kind.one}"
                yield Judgement.of(row.residual, threshold, row.n, 1, method=row.method, wrong=wrong)
            else:
                yield Judgement.none("the method promises no sum", row.method)

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        if limit == "unreached":
            return {r.method: _told(r.unreached, evidence.kind) for r in self.rows if r.books}
        return {r.method: _told(r.residual, evidence.kind) for r in self.rows if r.law}

    def show(self, evidence: Evidence) -> Iterator[Block]:
        rows = [(r.method, r.law, r.residual, r.limit, r.n, len(r.missed), r.unreached) for r in self.rows if r.law]
        heads = ("Method", "Law", "#Largest residual", "#At most", f"#{evidence.kind.heading}", "#Missed on", "#Not reached")
        yield Table("The residual of each method's law; and how much of the score does not reach the input, at most", heads, rows)


def _told(value: Number, kind: DataKind) -> float | str:
    return f"a {kind.one} has no number" if value is None else value


def _finding(row: Kept, kind: DataKind) -> Finding:
    worst = math.inf if row.residual is None else row.residual
    reached = "" if row.reached is None else f", where {percent(row.reached)} of the score reaches the input"
    return Finding(
        f"residual-{row.method}",
        Severity.WARNING if row.refined_by else Severity.SERIOUS,
        50 + min(worst, 10),
        f"The {kind.map} of {row.method} does not account for the score",
        f"{row.method} promises: {row.law}. On {len(row.missed)} of {kind.count(row.n)} the sum misses by more than {row.limit:g} of the "
        f"score (worst: {worst:.3g}, '{row.missed[0]}'{reached}).",
        f"Raise {row.refined_by}."
        if row.refined_by
        else f"Do not rely on these {kind.maps}; report the model to the authors of onnxsal if it computes in float32.",
        row.missed,
    )
