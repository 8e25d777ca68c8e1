"""Does the model answer every sample, and does every map? What fails on some is told, and never left out in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import Evidence, Lost
from onnxsal.report.audit.notes import MAP, OTHER, OTHER_MAP
from onnxsal.report.audit.verdict import Finding, Judgement, Severity

TITLES = {
    MAP: "No {map} by {method} of {count}",
    OTHER: "The other model has no answer to {count}",
    OTHER_MAP: "No {map} of the other model by {method} of {count}",
    "model_randomization": "No {map} by {method} of {count} under random weights",
}
"""Of what may be lost; the rest are metrics, by their names."""

GRAVE = (MAP, OTHER, OTHER_MAP)
"""Serious: what was asked for was not given on the samples themselves."""


def unanswered(what: str, title: str, rows: Sequence[Lost], evidence: Evidence, severity: Severity = Severity.WARNING) -> Judgement:
    """What was not given for some of the samples that were read, which is a fault; ``title`` has places for count and method."""
    read, kind = evidence.read, evidence.kind
    names = list(dict.fromkeys(n for row in rows for n in row.pictures))
    methods = list(dict.fromkeys(row.method for row in rows))
    wrong = Finding(
        f"lost-{what.replace(' ', '-')}",
        severity,
        55 + len(names) / read,
        kind.say(title).format(count=f"{len(names)} of {kind.count(read)}", method=" and ".join(methods)),
        f"'{rows[0].pictures[0]}': {rows[0].why}",
        "What is said of the others says nothing about these. Look at them first: they may have something in common.",
        names,
    )
    method = methods[0] if len(methods) == 1 else ""
    return Judgement.of(len(names), f"no {kind.one}", read, 1, method=method, words=wrong.title, wrong=wrong)


@dataclass(frozen=True)
class Answers(
    Check, name="answers", title="Does the model answer every {one}?", seeks="{many} that the model, or a method, fails on", order=10
):
    """Of the samples that were ``read``, those to which the model has no answer, and what was ``lost`` of the others."""

    read: int
    failed: int
    lost: Sequence[Lost]

    @classmethod
    def measure(cls, evidence: Evidence) -> Answers:
        return cls(evidence.read, len(evidence.seen.failed), evidence.lost)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        wrong, one = self._finding(evidence) if self.failed else None, evidence.kind.one
        yield Judgement.of(self.failed, f"no {one}", self.read, 1, words=f"{evidence.kind.many} without an answer", wrong=wrong)
        for what in dict.fromkeys(row.what for row in self.lost):
            rows = [row for row in self.lost if row.what == what]
            title = TITLES.get(what, f"{what} could not be measured on {{count}} ({{method}})")
            yield unanswered(what, title, rows, evidence, Severity.SERIOUS if what in GRAVE else Severity.WARNING)

    def _finding(self, evidence: Evidence) -> Finding:
        lines = evidence.seen.failed
        first, labelled = next(iter(lines)), sum(line["label"] is not None for line in lines.values())
        counted = f" The {labelled} with a label count as wrong answers." if labelled else ""
        check = "Look for values that the model was not trained on" if evidence.kind.named else "Check the preprocessing"
        return Finding(
            "no-answer",
            Severity.SERIOUS,
            96 + self.failed / self.read,
            f"The model has no answer to {self.failed} of {evidence.kind.count(self.read)}",
            f"These {evidence.kind.many} could be read, and the model fails on them ('{first}': {lines[first]['why']}).{counted}",
            f"{check}; if that is right, the model is not fit for such {evidence.kind.many}.",
            list(lines),
        )
