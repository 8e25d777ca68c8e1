"""Do two models give the same answers?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxsal.metrics.statistics import Summary, summarise
from onnxsal.metrics.two_models import refuse_unlike
from onnxsal.report.audit.blocks import Block, SampleLinks, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import CONFIDENCE, Evidence
from onnxsal.report.audit.subject import Subject
from onnxsal.report.audit.verdict import FEW, Finding, Judgement, MethodValues, Quantity, Severity, percent

AGREEMENT = 0.9
"""Share of samples that two models must agree on."""

ALONE = "no other model was given (--against)"


def other_file(other: Subject) -> str:
    """What the other model is called."""
    return f"'{other.name or 'the other model'}'"


@dataclass(frozen=True)
class Agreement(
    Check,
    name="agreement",
    title="Do the two models give the same answers?",
    seeks="{many} that the two models answer differently",
    order=100,
    limits={"agreement": Quantity("share of {many} on which the two models agree", True, high=1, whole=True)},
):
    """On ``agree`` of ``n`` samples both models give the same answer: not on one that one of them fails on. ``confidence_change``: of
    the probability of the first answer, on samples that both answer.
    """

    agree: int
    n: int
    confidence_change: Summary | None

    @classmethod
    def admit(cls, own: Subject, other: Subject | None) -> None:
        if other is not None:
            refuse_unlike(own.scorer, other.scorer)

    @classmethod
    def measure(cls, evidence: Evidence) -> Agreement:
        if evidence.other is None:
            return cls(0, 0, None)
        base, other = evidence.seen.base, evidence.seen.other
        both = [(*base[n]["top"][0], *other[n]["top"][0]) for n in evidence.seen.names if n in other]
        change = summarise([q - p for _, p, _, q in both], CONFIDENCE)
        return cls(sum(first == second for first, _, second, _ in both), evidence.read, change)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        if evidence.other is None:
            yield Judgement.none(ALONE)
            return
        share = self.agree / self.n
        wrong = Finding(
            "disagreement",
            Severity.SERIOUS,
            75 + 10 * (1 - share),
            "The two models give different answers",
            f"They agree on {self.agree} of {evidence.kind.count(self.n)} ({percent(share)}).",
            f"Do not put {other_file(evidence.other)} in place of the audited model before these {evidence.kind.many} are explained.",
            _missed(evidence),
        )
        yield Judgement.of(share, f"at least {AGREEMENT}", self.n, FEW, wrong=wrong if share < AGREEMENT else None)

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        return {"": self.agree / self.n if self.n else "no other model was compared"}

    def tell(self, evidence: Evidence) -> str:
        told = f"Both models give the same answer to {self.agree} of {evidence.kind.count(self.n)}{evidence.within(self.n)}."
        return told if self.n else ""

    def show(self, evidence: Evidence) -> Iterator[Block]:
        if evidence.other is not None:
            heads = ("#Same answer", f"#{evidence.kind.heading}", "#Change of the probability [99 % interval]")
            yield Table("Answers of both models", heads, [(self.agree, self.n, self.confidence_change)])
        if missed := _missed(evidence):
            yield SampleLinks(f"{evidence.kind.heading} that the models answer differently", [(n, "") for n in missed])


def _missed(evidence: Evidence) -> list[str]:
    return [p.name for p in evidence.pictures if p.against is not None and not p.against.agrees]
