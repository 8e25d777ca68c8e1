"""Which layer of the other model is broken? Both models are run side by side, and what their layers store and give is compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.metrics.two_models import JUMP, OFF, ComparedLayer, Side, compare_layers
from onnxsal.report.audit.blocks import Block, Cell, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.checks.agreement import ALONE, other_file
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.subject import CHUNK
from onnxsal.report.audit.verdict import Finding, Judgement, Severity

SAMPLES = 6
"""How many are run through both models."""


@dataclass(frozen=True)
class LayerComparison(
    Check,
    name="layers",
    title="Does every layer of the other model do what it should?",
    seeks="layers of the other model that are broken",
    order=120,
    costly=True,
):
    """Both models layer by layer, on so many samples (``pictures``); ``why`` they cannot be compared so ('' = they can)."""

    rows: Sequence[ComparedLayer]
    pictures: int
    why: str

    @classmethod
    def measure(cls, evidence: Evidence) -> LayerComparison:
        own, other = evidence.own, evidence.other
        if other is None:
            return cls([], 0, ALONE)
        if not (own.scorer.single and other.scorer.single):
            return cls([], 0, f"a model takes batches of one size only, and {evidence.kind.many} are compared one by one")
        pairs = []
        for s in (s for batch in evidence.data.batches(CHUNK, evidence.seen.names[:SAMPLES]) for s in batch):
            pairs.append((s.x, other.fed(s)))
        rows = compare_layers(Side(own.ask.model, own.scorer), Side(other.ask.model, other.scorer), pairs)
        return cls(rows, len(pairs), "" if rows else "the models have no layers of the same name and operator")

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        if self.why or evidence.other is None:
            yield Judgement.none(self.why)
            return
        broken = [x for x in self.rows if x.broken]
        threshold = f"no layer whose weights are off by {OFF}, or its values by that and {JUMP:g} times what it reads"
        wrong = _finding(broken, other_file(evidence.other)) if broken else None
        words = f"broken layers, of {len(self.rows)} that both models have"
        yield Judgement.of(len(broken), threshold, self.pictures, 1, words=words, wrong=wrong)

    def show(self, evidence: Evidence) -> Iterator[Block]:
        heads = ("Layer", "Operator", "#Error of the weights", "#Error of the values", "#Error of what it reads")
        rows = [(Cell(x.name, mark="wrong" if x.broken else ""), x.op_type, x.weights, x.values, x.before) for x in self.rows]
        if rows:
            yield Table("Layers that both models have: relative errors of the other one's", heads, rows)


def _finding(layers: Sequence[ComparedLayer], other: str) -> Finding:
    """The layers at fault, the one with the clearest fault first; what follows it is not named."""
    first = max(layers, key=lambda x: np.nan_to_num([x.weights or 0, x.values or 0], nan=np.inf).max())
    words = []
    if first.weights is not None and not first.weights <= OFF:
        factor = _times(first.weights_factor)
        words.append(f"its weights are {factor} those of the audited model (relative error {first.weights:.2g})")
    if first.values is not None:
        words.append(
            f"what it computes is {_times(first.values_factor)} what it should be (relative error {first.values:.2g}, while "
            f"the error of what it reads is {first.before:.2g})"
        )
    more = f" The same holds for {', '.join(x.name for x in layers if x is not first)}." if len(layers) > 1 else ""
    return Finding(
        f"layer-{first.name}",
        Severity.SERIOUS,
        92,
        f"Layer '{first.name}' is broken in {other}",
        f"In layer '{first.name}' ({first.op_type}) of {other} " + ", and ".join(words) + f".{more}",
        "If this is a quantised model, the layer's scale or zero point is wrong: quantise it again and compare the scale with its "
        "neighbours'.",
    )


def _times(factor: float | None) -> str:
    return "unlike" if factor is None or not np.isfinite(factor) else f"{factor:.2g} times"
