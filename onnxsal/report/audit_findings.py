"""What an audit found, in plain words, worst first. Every finding has a number behind it that is in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from onnxsal.metrics.evaluation import Evaluation
from onnxsal.report import audit_failures as of_failures
from onnxsal.report import audit_findings_maps as of_maps
from onnxsal.report import audit_findings_model as of_model
from onnxsal.report.audit_finding import FEW, SERIOUS, WARNING, Facts, Finding, finding, percent

ALIKE = 0.5
"""Rank correlation of two models' maps below which they answer for different reasons."""

AGREEMENT = 0.9


def find(facts: Facts, evaluations: Sequence[Evaluation]) -> list[Finding]:
    """Every finding, worst first."""
    found = [f for judge in JUDGES for f in judge(facts, evaluations)]
    return sorted(found, key=lambda f: (f["severity"] != SERIOUS, -f["weight"]))


def against(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """The other model is broken, answers otherwise, or for other reasons."""
    told = facts["against"]
    if told is None:
        return
    other = f"'{told['model']['file'] or 'the other model'}'"
    broken = [x for x in told["layers"] if x["broken"]]
    if broken:
        yield _broken(broken, other)
    agreement = told["agree"] / told["n"]
    missed = [p["name"] for p in facts["pictures"] if p["against"] and not p["against"]["agrees"]]
    if agreement < AGREEMENT and told["n"] >= FEW:
        yield finding(
            "disagreement",
            SERIOUS,
            75 + 10 * (1 - agreement),
            "The two models give different answers",
            f"They agree on {told['agree']} of {told['n']} pictures ({percent(agreement)}).",
            f"Do not put {other} in place of the audited model before these pictures are explained.",
            missed,
        )
    doubtful = [r for r in told["methods"] if r["likeness"] and r["likeness"]["n"] >= FEW and r["likeness"]["high"] < ALIKE]
    if doubtful:
        worst = sorted(
            (p for p in facts["pictures"] if p["against"] and p["against"]["mean_likeness"] is not None),
            key=lambda p: p["against"]["mean_likeness"],
        )
        listing = ", ".join(f"{r['method']} {r['likeness']['mean']:.2f}" for r in doubtful)
        yield finding(
            "reasons",
            WARNING,
            45 + 10 * (1 - min(r["likeness"]["mean"] for r in doubtful)),
            "The two models answer for different reasons",
            f"The rank correlation of their maps of the same class is low: {listing} (1 is the same map, 0 no relation).",
            "Look at the pictures whose reasons changed most; they are named here, worst first.",
            [p["name"] for p in worst],
        )


def _broken(layers: Sequence[Facts], other: str) -> Finding:
    """The layers at fault, the one with the clearest fault first; what follows it is not named."""
    first = max(layers, key=lambda x: max(x["weights"] or 0, x["values"] or 0))
    words = []
    if first["weights"] is not None and not first["weights"] <= 0.25:
        words.append(
            f"its weights are {_times(first['weights_factor'])} those of the audited model (relative error {first['weights']:.2g})"
        )
    if first["values"] is not None:
        words.append(
            f"what it computes is {_times(first['values_factor'])} what it should be (relative error {first['values']:.2g}, while "
            f"the error of what it reads is {first['before']:.2g})"
        )
    more = f" The same holds for {', '.join(x['name'] for x in layers if x is not first)}." if len(layers) > 1 else ""
    return finding(
        f"layer-{first['name']}",
        SERIOUS,
        92,
        f"Layer '{first['name']}' is broken in {other}",
        f"In layer '{first['name']}' ({first['op_type']}) of {other} " + ", and ".join(words) + f".{more}",
        "If this is a quantised model, the layer's scale or zero point is wrong: quantise it again and compare the scale with its "
        "neighbours'.",
    )


def _times(factor: float | None) -> str:
    return "unlike" if factor is None or not np.isfinite(factor) else f"{factor:.2g} times"


Judge: TypeAlias = Callable[[Facts, Sequence[Evaluation]], Iterator[Finding]]

JUDGES: tuple[Judge, ...] = (
    of_failures.failures,
    *(of_model.channels, of_model.marks, of_model.rims, of_model.background, of_model.accuracy),
    *(of_maps.sanity, of_maps.laws, of_maps.biases, of_maps.flat, of_maps.faithful, of_maps.refused),
    against,
)
