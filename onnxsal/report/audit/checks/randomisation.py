"""Do the maps depend on what the model has learnt? Its layers are drawn anew from the output down, and the maps compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxsal.metrics.data_kind import DataKind
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

COLUMNS = 4
"""Columns that a rank correlation takes: two or three have so few orders that many draws agree by chance."""

WEIGHTLESS = "the model stores no weights of layers that could be drawn anew"

ENOUGH = 4
"""Samples that it takes: a map under random weights is like the first one on all, or on none."""


@dataclass(frozen=True)
class Stages:
    """Likeness of the maps of a method to those under random weights, mean of ``n`` samples, as more and more ``layers`` are drawn."""

    method: str
    n: int
    layers: Sequence[int]
    spearman: Sequence[float]
    ssim: Sequence[float]


def stages(found: Evaluation, way: Way) -> Stages:
    """Both curves of one method; empty where no sample has one."""
    curves = {name: found.curve(way.name, f"randomised_{name}") for name in ("spearman", "ssim")}
    told = {name: [] if curve is None else curve[1].tolist() for name, curve in curves.items()}
    known = [curve for curve in curves.values() if curve is not None]
    layers = [int(a) for a in known[-1][0]] if known else []
    return Stages(way.name, max((curve[2] for curve in known), default=0), layers, **told)


@dataclass(frozen=True)
class Randomisation(
    Check,
    name="randomisation",
    title="Do the {maps} depend on what the model has learnt?",
    seeks="{maps} that stay what they are when the weights are drawn at random",
    order=40,
    limits={"randomisation": Quantity("rank correlation with {maps} under random weights", False, -1, 1, lost=("model_randomization",))},
):
    """Likeness of maps to those of models with random weights: after the first stage, and with every layer drawn anew. ``weights``:
    whether the model stores any. Of rows the signed order of the columns is compared, without SSIM.
    """

    rows: Sequence[Stages]
    drawn: int
    weights: bool = True

    @classmethod
    def measure(cls, evidence: Evidence) -> Randomisation:
        rows = [stages(evidence.randomised, w) for w in evidence.ways]
        return cls(rows, min(RANDOMISED, len(evidence.request.even(evidence.seen.names))), bool(evidence.randomised.columns))

    def changes(self, row: Stages) -> bool:
        """Whether rank correlation or SSIM falls below the limit.

        Both must stay for a map to fail: pixels that are zero whatever the weights are (on flat grounds) tie, and ties alone correlate.
        """
        return row.spearman[-1] < KEPT or (bool(row.ssim) and row.ssim[-1] < KEPT)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        kind, columns = evidence.kind, len(evidence.columns)
        threshold = f"rank correlation{'' if kind.named else ' or SSIM'} below {KEPT} with every layer drawn anew"
        if not self.weights:
            yield Judgement.none(WEIGHTLESS)
            return
        if kind.named and columns < COLUMNS:
            yield Judgement.of(None, threshold, columns, COLUMNS, words=f"{columns} of the {COLUMNS} columns that it takes")
            return
        better = " and ".join(r.method for r in self.rows if r.spearman and self.changes(r))
        for row in self.rows:
            last = row.spearman[-1] if row.spearman else None
            broken = last is not None and not self.changes(row)
            flat = f"the {kind.map} of a model with random weights has one value everywhere, so there is nothing to compare"
            wrong = self._finding(row, better, kind) if broken else None
            yield Judgement.of(last, threshold, row.n, ENOUGH, method=row.method, words="" if row.n else flat, wrong=wrong)

    def _finding(self, row: Stages, better: str, kind: DataKind) -> Finding:
        first, last = row.spearman[0], row.spearman[-1]
        hardly = last >= SAME
        structure = f" and an SSIM of {row.ssim[-1]:.2f}" if row.ssim else ""
        return Finding(
            f"randomisation-{row.method}",
            Severity.SERIOUS if hardly else Severity.WARNING,
            (70 if hardly else 15) + 10 * last,
            f"The {kind.map} of {row.method} {'hardly changes' if hardly else 'changes only in part'} when the weights are randomised",
            f"With every layer's weights drawn anew, the {kind.maps} still have a rank correlation of {last:.2f} with the original ones "
            f"({first:.2f} after the layers nearest the output; {kind.count(row.n)}){structure}: "
            f"{'what' if hardly else 'much of what'} they show comes from the {kind.one} and from how the network is built, not from what "
            f"it has learnt. This is about the method's {kind.maps}, not about the model.",
            f"Do not judge the model by the {kind.maps} of {row.method}{' alone' if not hardly else ''}; "
            + (f"those of {better} pass this check." if better else "use a method that passes this check."),
        )

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        if not self.weights:
            return {row.method: WEIGHTLESS for row in self.rows}

        def mean(row: Stages) -> Summary:
            last = row.spearman[-1] if row.spearman else float("nan")
            return Summary(last, last, last, row.n, self.drawn - row.n, 0.95)

        return {row.method: mean_or_why(mean(row)) for row in self.rows}

    def show(self, evidence: Evidence) -> Iterator[Block]:
        if not self.weights:
            return
        kind, last = evidence.kind, [(r.ssim[-1] if r.ssim else None,) for r in self.rows]
        ssim, caption = ((), "") if kind.named else (("#SSIM, all layers",), ", and SSIM")
        yield Table(
            f"Likeness of {kind.maps} to those of models whose layers are drawn anew, from the output down: rank correlation{caption}",
            ("Method", "#After the first stage", "#All layers", *ssim, f"#{kind.heading}"),
            [
                (r.method, *(r.spearman[at] if r.spearman else None for at in (0, -1)), *(s if ssim else ()), r.n)
                for r, s in zip(self.rows, last, strict=True)
            ],
        )
        if any(r.n < self.drawn for r in self.rows):
            why = "" if kind.named else ": Grad-CAM then finds nothing that speaks for the class"
            yield Text(
                f"Of {kind.count(self.drawn)}, those are left out whose {kind.map} under random weights has one value everywhere{why}."
            )
