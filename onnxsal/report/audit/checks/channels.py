"""Do red and blue reach the model in the order that it was trained on? Its own answers say so, with labels and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.exchanged import ORDERS, ColourExchange, LabelledColours, Reordered, colour_exchange, coloured, reordered
from onnxsal.report.audit.blocks import Block, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.checks.answers import unanswered
from onnxsal.report.audit.evidence import CONFIDENCE, Evidence, Lost
from onnxsal.report.audit.observe import FAILS
from onnxsal.report.audit.subject import CHUNK, Subject
from onnxsal.report.audit.verdict import FEW, Finding, Judgement, Severity

GAIN = 0.1
"""Nats by which the label's log-probability must rise, or without labels the entropy fall, when red and blue are exchanged."""

MANY = 10
"""Classes from which on certainty tells of the colours, where there are no labels."""


@dataclass(frozen=True)
class Channels(
    Check,
    name="channels",
    title="Do red and blue reach the model in the right order?",
    seeks="red and blue that reach the model exchanged",
    order=30,
    costly=True,
    of=(PICTURES, "columns have no colours"),
):
    """What exchanging the channels of the pictures with colours does (``None``: there are none); those on which the model then fails."""

    colours: ColourExchange | None
    lost: Sequence[Lost]

    @classmethod
    def measure(cls, evidence: Evidence) -> Channels:
        rows: list[Reordered] = []
        lost: dict[str, str] = {}
        for batch in evidence.data.batches(CHUNK, evidence.seen.names):
            rows += _asked(coloured(batch, evidence.own.scorer, evidence.own.preprocess), evidence.own, lost)
        failed = [Lost("colours", "", list(lost), next(iter(lost.values())))] if lost else []
        return cls(colour_exchange(rows, CONFIDENCE), failed)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        how = evidence.own.preprocess
        yield self._order("" if how is None else how.channels)
        if self.lost:
            yield unanswered("colours", "The model fails when the colours of {count} are exchanged", self.lost, evidence)

    def _order(self, now: str) -> Judgement:
        """By the labels, where enough pictures have one; else by how sure the answers are."""
        threshold = f"{{}} by at most {GAIN}, or an interval that reaches 0, or {{}}, with red and blue exchanged"
        by_labels = threshold.format("log-probability of the label rises", "fewer right answers")
        found = self.colours
        if found is None:
            words = "no picture is known to have colours that could be exchanged"
            return Judgement.of(None, by_labels, 0) if self.lost else Judgement.none(words)
        known, sure = found.labelled, found.certainty_gain
        if known is not None and known.n >= FEW:
            broken = known.gain.low > 0 and known.gain.mean > GAIN and known.right_exchanged >= known.right
            return Judgement.of(known.gain.mean, by_labels, known.n, wrong=_by_labels(known, now) if broken else None)
        if found.classes < MANY:
            words = f"a model of {found.classes} classes may well be surer of a wrong answer: labels of {FEW} such pictures would tell"
            return Judgement.of(None, by_labels, 0 if known is None else known.n, words=words)
        broken = sure.low > 0 and sure.mean > GAIN and min(found.orders, key=found.orders.__getitem__) == ORDERS[-1]
        by_certainty = threshold.format("entropy of the answer falls", "yet lower in another order")
        return Judgement.of(sure.mean, by_certainty, sure.n, wrong=_by_certainty(found, now) if broken else None)

    def show(self, evidence: Evidence) -> Iterator[Block]:
        if self.colours is not None:
            caption = "How undecided the model is (entropy, nats) when the channels come in another order"
            yield Table(caption, ("Order of the channels", "#Entropy"), [*self.colours.orders.items()])


def _asked(samples: Sequence[Sample], own: Subject, lost: dict[str, str]) -> list[Reordered]:
    """The answers to samples in every order; where the model fails, one by one, and what it fails on is ``lost``."""
    try:
        return reordered(samples, own.scorer, own.preprocess) if samples else []
    except FAILS as error:
        if len(samples) > 1:
            return [row for s in samples for row in _asked([s], own, lost)]
        lost[samples[0].name] = str(error)
        return []


def _by_labels(known: LabelledColours, now: str) -> Finding:
    gain = known.gain
    return _finding(
        90 + gain.mean,
        f"With red and blue exchanged, the model is right about {known.right_exchanged} of {known.n} labelled colour pictures "
        f"instead of {known.right}, and its log-probability of the right class rises by {gain.mean:.2f} on average (99 % interval "
        f"{gain.low:.2f} to {gain.high:.2f}). A model that is fed as it was trained gets worse by such an exchange.",
        now,
    )


def _by_certainty(found: ColourExchange, now: str) -> Finding:
    gain = found.certainty_gain
    return _finding(
        80 + gain.mean,
        f"With red and blue exchanged, the model is surer of its answers on {gain.n} colour pictures: the entropy of its "
        f"probabilities falls by {gain.mean:.2f} nats on average (99 % interval {gain.low:.2f} to {gain.high:.2f}), and in none of the "
        f"six orders of the channels is it lower ({found.orders[ORDERS[0]]:.2f} as fed, {found.orders[ORDERS[-1]]:.2f} exchanged). A "
        "model that is fed as it was trained gets less sure.",
        now,
        " Labels would make this sure: put the pictures into sub-folders named by their class.",
    )


def _finding(weight: float, text: str, now: str, more: str = "") -> Finding:
    """``now``: the order that the preprocessing has, if it is known."""
    other = {"RGB": "BGR", "BGR": "RGB"}.get(now, "the other order")
    advice = f'Check how the model was trained; if it was trained on {other}, set channels = "{other}" in the preprocessing'
    advice = f"{f'The preprocessing in use says {now}. ' if now else ''}{advice} and audit again.{more}"
    return Finding("channel-order", Severity.SERIOUS, weight, "Red and blue reach the model exchanged, it seems", text, advice)
