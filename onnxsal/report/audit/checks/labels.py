"""Is the model right? Its answers are compared with the labels of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxsal.metrics.data_kind import DataKind
from onnxsal.report.audit.blocks import Block, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.document import Accuracy
from onnxsal.report.audit.evidence import Evidence, accuracy
from onnxsal.report.audit.verdict import Finding, Judgement, MethodValues, Quantity, Severity, percent

GUESSES = 1.5
"""How many times as often as by guessing a model must be right for its answers to have to do with the labels."""

LABELLED, CLASSES = 20, 3
"""Samples with a label that it takes to tell, and classes below which guessing is right too often for this."""

NORMAL = 2.576
"""Standard errors on either side of a share that its 99 % interval reaches."""


@dataclass(frozen=True)
class Labels(
    Check,
    name="labels",
    title="Is the model right?",
    seeks="answers that have nothing to do with the labels",
    order=20,
    limits={"accuracy": Quantity("share of labelled {many} that the model is right about", True, high=1, whole=True)},
):
    """How often the model, and the ``other`` one, is right."""

    own: Accuracy | None
    other: Accuracy | None

    @classmethod
    def measure(cls, evidence: Evidence) -> Labels:
        return cls(evidence.accuracy, None if evidence.other is None else accuracy(evidence, evidence.seen.other))

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        threshold = f"more than {GUESSES} times what guessing would be right about"
        own, kind = self.own, evidence.kind
        if own is None:
            words = f"no {kind.one} has a label, so whether the answers are right is not known"
            yield Judgement.of(None, threshold, 0, LABELLED, words=words)
        elif own.classes < CLASSES:
            low = own.top1 - NORMAL * (own.top1 * (1 - own.top1) / own.n) ** 0.5
            words = f"calling every {kind.one} the most frequent of {own.classes} classes is right about {percent(own.most)}"
            told = {"words": words, "undecided": low <= own.most}
            yield Judgement.of(own.top1, f"above {own.most:.2g} with its 99 % interval", own.n, LABELLED, **told)
        else:
            broken = own.top1 <= GUESSES / own.classes
            threshold = f"above {GUESSES / own.classes:.2g}: {threshold} ({own.classes} classes)"
            yield Judgement.of(own.top1, threshold, own.n, LABELLED, wrong=_finding(own, kind) if broken else None)

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        return {"": self.own.top1 if self.own else f"no {evidence.kind.one} has a label"}

    def tell(self, evidence: Evidence) -> str:
        if self.own is None:
            return ""
        return f"It is right about {percent(self.own.top1)} of {self.own.n} labelled {evidence.kind.many}{evidence.within(self.own.n)}."

    def show(self, evidence: Evidence) -> Iterator[Block]:
        rows = [(who, a.top1, a.top5, a.n, a.classes) for who, a in (("this model", self.own), ("the other", self.other)) if a is not None]
        heads = ("Model", "#First answer", "#One of five", f"#{evidence.kind.heading}", "#Classes")
        if rows:
            yield Table(f"Share of the labelled {evidence.kind.many} about which the model is right", heads, rows)


def _finding(own: Accuracy, kind: DataKind) -> Finding:
    return Finding(
        "labels",
        Severity.SERIOUS,
        95,
        "The model's answers have nothing to do with the labels",
        f"It is right about {percent(own.top1)} of {own.n} labelled {kind.many} of {own.classes} classes; guessing would do as well.",
        f"Check {'the column' if kind.named else 'the preprocessing, the file'} of labels, and whether the classes are in the same order.",
    )
