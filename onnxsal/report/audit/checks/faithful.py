"""Do the maps say more about the answer than maps that know nothing of the model? Places are taken away, and put back, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxsal.metrics.baselines import CALLED
from onnxsal.metrics.data_kind import DataKind
from onnxsal.metrics.statistics import Summary
from onnxsal.report.audit.blocks import Block, Cell, Table, Text
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import FAITHFUL, Evidence
from onnxsal.report.audit.verdict import FEW, Finding, Judgement, Severity

NOISE = "random"
"""The baseline that any map must beat. The others know a picture, where what the model looks at often lies in the middle or on edges."""

Told = Literal["better", "not told apart", "worse"]


def word(gap: Summary, larger: bool | None) -> Told:
    """On which side of 0 a mean difference lies with its interval, if ``larger`` is better (or smaller)."""
    apart = gap.low > 0 or gap.high < 0
    return "not told apart" if not apart else "better" if (gap.low > 0) == larger else "worse"


@dataclass(frozen=True)
class Compared:
    """A method minus a baseline, sample by sample, with 95 % intervals."""

    method: str
    baseline: str
    insertion: Summary
    insertion_is: Told
    deletion: Summary
    deletion_is: Told

    @property
    def words(self) -> set[Told]:
        """Of both metrics."""
        return {self.insertion_is, self.deletion_is}


@dataclass(frozen=True)
class Faithful(
    Check,
    name="faithful",
    title="Do the {maps} say more about the answer than {maps} that know nothing of the model?",
    seeks="{maps} that say less about the answer than noise, or than the {one} alone",
    order=50,
):
    """Insertion and deletion of each method beside those of every ignorant baseline."""

    rows: Sequence[Compared]

    @classmethod
    def measure(cls, evidence: Evidence) -> Faithful:
        found, rows = evidence.faithfulness, []
        for way, base in ((w.name, b) for w in evidence.ways for b in (w.name for w in found.ways if w.baseline)):
            gaps = [(found.difference(way, base, c), found.columns[c].larger) for c in FAITHFUL]
            insertion, deletion = ((gap, word(gap, larger)) for gap, larger in gaps)
            rows.append(Compared(way, base, *insertion, *deletion))
        return cls(rows)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        for row in self.rows:
            worse, better = row.words == {"worse"}, "better" in row.words and "worse" not in row.words
            apart = "insertion and deletion contradict each other" if row.words == {"better", "worse"} else "not told apart"
            shown = f"these {evidence.kind.many} do not show that the {evidence.kind.maps} say more than {CALLED[row.baseline]}"
            words = "" if worse or better else f"{apart}: {shown}"
            threshold = f"better than {CALLED[row.baseline]} by insertion or deletion, worse by neither (number: both together)"
            gain, n = row.insertion.mean - row.deletion.mean, min(row.insertion.n, row.deletion.n)
            wrong = _finding(row, evidence.kind) if worse else None
            yield Judgement.of(gain, threshold, n, FEW, method=row.method, words=words, wrong=wrong, undecided=not better)

    def show(self, evidence: Evidence) -> Iterator[Block]:
        known, kind = list(dict.fromkeys(row.baseline for row in self.rows)), evidence.kind
        maps, others = kind.maps, "the others" if known[1:] else "it"
        yield Text(
            f"The baselines are {maps} that know nothing of the model: {'; '.join(f'{k}: {CALLED[k]}' for k in known)}. "
            f"{maps.capitalize()} that are worse than noise are at fault. {maps.capitalize()} that are not better than {others} may be "
            f"right, but these {kind.many} do not show it."
        )
        heads = ("Method", "Baseline", "#Insertion [95 % interval]", "", "#Deletion [95 % interval]", "", f"#{kind.heading}")
        rows = [
            (r.method, r.baseline, r.insertion, _cell(r.insertion_is), r.deletion, _cell(r.deletion_is), min(r.insertion.n, r.deletion.n))
            for r in self.rows
        ]
        caption = f"Method minus baseline, {kind.one} by {kind.one}: a larger insertion is better, and a smaller deletion"
        yield Table(caption, heads, rows)


def _cell(told: Told) -> Cell:
    return Cell(told, mark="wrong" if told == "worse" else "")


def _finding(row: Compared, kind: DataKind) -> Finding:
    noise, other = row.baseline == NOISE, CALLED[row.baseline]
    places = f"random {kind.places}" if noise else f"{kind.places} by {other}"
    text = (
        f"Taking away what they call important lowers the score less than taking away {places} (area {row.deletion.mean:+.3f}), and "
        f"putting it back raises it less (area {row.insertion.mean:+.3f}; {kind.count(row.insertion.n)})."
    )
    return Finding(
        f"unfaithful-{row.method}" if noise else f"uninformed-{row.method}-{row.baseline}",
        Severity.WARNING,
        35 if noise else 12,
        f"The {kind.maps} of {row.method} say less about the answer than {'noise' if noise else other} does",
        text,
        f"Do not rely on these {kind.maps}."
        if noise
        else f"Do not take these {kind.maps} alone for what the model looks at: compare another method, or {kind.many} with the object "
        "elsewhere.",
    )
