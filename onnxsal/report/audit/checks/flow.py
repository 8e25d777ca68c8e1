"""Where does the score go: through the layers to the input, or into biases? For methods that divide it up, on some samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxsal.engine.method import get_method
from onnxsal.explainer import Explainer
from onnxsal.methods.build import Wrapper, wrapper_of
from onnxsal.metrics.conservation import conservation
from onnxsal.metrics.data_kind import DataKind
from onnxsal.report.audit.blocks import Block, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.document import Number
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.subject import CHUNK
from onnxsal.report.audit.verdict import Finding, Judgement, Severity, percent

ESCAPED = 0.5
"""Share of the score that biases may take."""


@dataclass(frozen=True)
class Passage:
    """A cut that all paths pass, or a part of the score: mean share of the score, means of what biases and leaks took, worst error."""

    place: str
    share: Number
    bias: Number = None
    leak: Number = None
    error: Number = None


@dataclass(frozen=True)
class Passed:
    """Where the score of ``n`` samples goes. ``books``: the method writes it down, cut by cut, from the score to the input."""

    method: str
    books: bool
    n: int
    rows: Sequence[Passage]
    warnings: Sequence[str]


@dataclass(frozen=True)
class ScoreFlow(
    Check,
    name="flow",
    title="Where does the score go?",
    seeks="relevance that leaves through biases, or is not conserved",
    order=44,
    costly=True,
):
    """Relevance at each cut, or the parts of the full gradient, as shares of the score."""

    rows: Sequence[Passed]

    @classmethod
    def measure(cls, evidence: Evidence) -> ScoreFlow:
        rows = []
        for way in evidence.ways:
            wrapper = wrapper_of(get_method(way.method or ""))
            names = evidence.seen.mapped(way.name)[:CHUNK] if wrapper.shares else []
            xs = [s.x for batch in evidence.data.batches(CHUNK, names) for s in batch]
            passed, warnings = _passed(evidence.own.explainer(way, components=True), wrapper, xs) if xs else ([], [])
            rows.append(Passed(way.name, wrapper.books, len(xs), passed, warnings))
        return cls(rows)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        for row in self.rows:
            if not row.books:
                words = (
                    "what its parts hold is shown, and nothing is judged"
                    if row.rows
                    else "the method does not write down where the score goes"
                )
                yield Judgement.none(words, row.method)
                continue
            taken = abs(row.rows[-1].bias or 0.0) if row.rows else None
            escaped = _escaped(row, taken, evidence.kind) if taken is not None and taken > ESCAPED else None
            yield Judgement.of(taken, f"biases take at most {ESCAPED} of the score", row.n, 1, method=row.method, wrong=escaped)
            yield Judgement.of(len(row.warnings), "no warning on the way", row.n, 1, method=row.method, wrong=_unconserved(row))

    def show(self, evidence: Evidence) -> Iterator[Block]:
        heads = ("Cut or part", "#Share", "#Taken by biases", "#Leak", "#Worst error")
        for row in (r for r in self.rows if r.rows):
            what = "relevance at each cut that all paths pass, from the score to the input" if row.books else "what the score is made of"
            caption = f"{row.method}: {what}, as shares of the score, means over {evidence.kind.count(row.n)}"
            yield Table(caption, heads, [(p.place, p.share, p.bias, p.leak, p.error) for p in row.rows])


def _passed(explainer: Explainer, wrapper: Wrapper, xs: Sequence[np.ndarray]) -> tuple[list[Passage], list[str]]:
    """The passages of some samples, and what a test of conservation warns of."""
    if wrapper.books:
        found = conservation(explainer, xs)
        means = [found.share(part).mean(0).tolist() for part in (found.sums, found.bias, found.leak)]
        errors = np.abs(found.error).max(0).tolist()
        return [Passage(*row) for row in zip(found.cuts, *means, errors, strict=True)], list(found.warnings)
    told = [explainer.explain(x) for x in xs]
    score = np.concatenate([t.score for t in told]).astype(np.float64)
    whole = np.copysign(np.maximum(np.abs(score), 1e-6), score)
    shares = np.concatenate([t.components[wrapper.shares] for t in told]).astype(np.float64) / whole[:, None]
    rows = [Passage(place, float(mean)) for place, mean in zip(wrapper.columns, shares.mean(0), strict=True)]
    rest = float(np.abs(shares.sum(1) - score / whole).max())
    return [*rows, Passage("all together", float(shares.sum(1).mean()), error=rest)], []


def _escaped(row: Passed, taken: float, kind: DataKind) -> Finding:
    last = row.rows[-1]
    size, place = max(((abs((b.bias or 0) - (a.bias or 0)), b.place) for a, b in pairwise(row.rows)), default=(0.0, last.place))
    text = (
        f"{percent(taken)} of the score never reaches a {kind.place}: biases take it, most of it just before '{place}' ({percent(size)}). "
        f"The {kind.places} of the {kind.map} stand for {percent(last.share or 0.0)} of the score."
    )
    shown = "" if kind.named else ", or FullGrad, which shows them"
    advice = f"Read the {kind.map} as a part of the answer only{', or' if kind.named else ','} use a rule that leaves biases out{shown}."
    return Finding(f"biases-{row.method}", Severity.WARNING, 30 + taken, f"Relevance leaves through biases ({row.method})", text, advice)


def _unconserved(row: Passed) -> Finding | None:
    text = " ".join(f"{words[:1].upper()}{words[1:]}." for words in row.warnings)
    title = f"Relevance is not conserved ({row.method})"
    return Finding(f"flow-{row.method}", Severity.WARNING, 25, title, text, "Use another rule.") if text else None
