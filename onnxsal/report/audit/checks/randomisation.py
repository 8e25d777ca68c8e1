"""Do the maps depend on what the model has learnt? Its layers are drawn anew from the output down, and the maps compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.statistics import Summary
from onnxsal.report.audit.blocks import Block, Table, Text
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import RANDOMISED, Evidence, mean_or_why
from onnxsal.report.audit.verdict import Finding, Judgement, MethodValues, Quantity, Severity

KEPT = 0.5
"""Rank correlation and SSIM with the maps of a model with random weights from which on a map does not depend on them enough."""

SAME = 0.8
"""Rank correlation from which on it hardly depends on them at all."""

ENOUGH = 4
"""Pictures that it takes: a map under random weights is like the first one on all, or on none."""


@dataclass(frozen=True)
class Stages:
    """Likeness of the maps of a method to those under random weights, mean of ``n`` pictures, as more and more ``layers`` are drawn."""

    method: str
    n: int
    layers: Sequence[int]
    spearman: Sequence[float]
    ssim: Sequence[float]


def stages(found: Evaluation, way: Way) -> Stages:
    """Both curves of one method; empty where no picture has one."""
    curves = {name: found.curve(way.name, f"randomised_{name}") for name in ("spearman", "ssim")}
    told = {name: [] if curve is None else curve[1].tolist() for name, curve in curves.items()}
    known = [curve for curve in curves.values() if curve is not None]
    layers = [int(a) for a in known[-1][0]] if known else []
    return Stages(way.name, max((curve[2] for curve in known), default=0), layers, **told)


@dataclass(frozen=True)
class Randomisation(
    Check,
    name="randomisation",
    title="Do the maps depend on what the model has learnt?",
    seeks="maps that stay what they are when the weights are drawn at random",
    order=40,
    limits={"randomisation": Quantity("rank correlation with maps under random weights", False, -1, 1, lost=("model_randomization",))},
):
    """Likeness of maps to those of models with random weights: after the first stage, and with every layer drawn anew."""

    rows: Sequence[Stages]
    drawn: int

    @classmethod
    def measure(cls, evidence: Evidence) -> Randomisation:
        return cls([stages(evidence.randomised, w) for w in evidence.ways], min(RANDOMISED, len(evidence.seen.names)))

    def changes(self, row: Stages) -> bool:
        """Whether rank correlation or SSIM falls below the limit.

        Both must stay for a map to fail: pixels that are zero whatever the weights are (on flat grounds) tie, and ties alone correlate.
        """
        return row.spearman[-1] < KEPT or (bool(row.ssim) and row.ssim[-1] < KEPT)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        better = " and ".join(r.method for r in self.rows if r.spearman and self.changes(r))
        for row in self.rows:
            last = row.spearman[-1] if row.spearman else None
            broken = last is not None and not self.changes(row)
            words = "" if row.n else "the map of a model with random weights has one value everywhere, so there is nothing to compare"
            threshold = f"rank correlation or SSIM below {KEPT} with every layer drawn anew"
            wrong = self._finding(row, better) if broken else None
            yield Judgement.of(last, threshold, row.n, ENOUGH, method=row.method, words=words, wrong=wrong)

    def _finding(self, row: Stages, better: str) -> Finding:
        first, last = row.spearman[0], row.spearman[-1]
        hardly = last >= SAME
        structure = f" and an SSIM of {row.ssim[-1]:.2f}" if row.ssim else ""
        return Finding(
            f"randomisation-{row.method}",
            Severity.SERIOUS if hardly else Severity.WARNING,
            (70 if hardly else 15) + 10 * last,
            f"The map of {row.method} {'hardly changes' if hardly else 'changes only in part'} when the weights are randomised",
            f"With every layer's weights drawn anew, the maps still have a rank correlation of {last:.2f} with the original ones "
            f"({first:.2f} after the layers nearest the output; {row.n} pictures){structure}: "
            f"{'what' if hardly else 'much of what'} they show comes from the picture and from how the network is built, not from what it "
            "has learnt. This is about the method's maps, not about the model.",
            f"Do not judge the model by the maps of {row.method}{' alone' if not hardly else ''}; "
            + (f"those of {better} pass this check." if better else "use a method that passes this check."),
        )

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        def mean(row: Stages) -> Summary:
            last = row.spearman[-1] if row.spearman else float("nan")
            return Summary(last, last, last, row.n, self.drawn - row.n, 0.95)

        return {row.method: mean_or_why(mean(row)) for row in self.rows}

    def show(self, evidence: Evidence) -> Iterator[Block]:
        yield Table(
            "Likeness of maps to those of models whose layers are drawn anew, from the output down: rank correlation, and SSIM",
            ("Method", "#After the first stage", "#All layers", "#SSIM, all layers", "#Pictures"),
            [(r.method, *(v[at] if v else None for v, at in ((r.spearman, 0), (r.spearman, -1), (r.ssim, -1))), r.n) for r in self.rows],
        )
        if any(r.n < self.drawn for r in self.rows):
            yield Text(
                f"Of {self.drawn} pictures, those are left out whose map under random weights has one value everywhere: Grad-CAM then "
                "finds nothing that speaks for the class."
            )
