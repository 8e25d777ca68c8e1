"""``--fail-if``: limits on what an audit measured, which make it a gate."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.metrics.measures import ID_SCORE, MEASURES

SIGNS: dict[str, Callable[[float, float], bool]] = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}

WHOLE = {
    "findings": "number of findings",
    "serious": "number of serious findings",
    "damaged": "number of pictures that could not be read",
    "accuracy": "share of labelled pictures whose first answer is right",
    "agreement": "share of pictures on which both models agree (--against)",
}
"""Limits on the audit as a whole."""

BY_METHOD = {
    "residual": "largest relative error of the method's law",
    "unreached": "largest |1 - the share of the score that reaches the input| (relevance methods: lrp_*, deep_taylor)",
    "randomisation": "rank correlation with maps under random weights",
    "border": "relevance at the border over what its area would have by chance",
    "likeness": "mean rank correlation of both models' maps (--against)",
}
"""Limits on each method; the worst method counts, or the one named in [brackets]. Metrics (deletion, ...) are means over pictures."""

METRICS = (*(c for n in ("insertion", "deletion", "pointing_game", "relevance_mass") for c in MEASURES[n].columns), ID_SCORE)

FORM = re.compile(r"^\s*([a-z_0-9]+)\s*(?:\[([^\]]+)\])?\s*(>=|<=|>|<)\s*([-+0-9.eE]+)\s*$")


@dataclass(frozen=True)
class Limit:
    """``name[method] sign value``: what must not be."""

    text: str
    name: str
    method: str | None
    sign: str
    value: float


def read_limits(text: str | None, methods: Sequence[str], against: bool) -> list[Limit]:
    """The limits of ``--fail-if``, separated by commas. Raises ``InputError`` for what cannot be checked in this audit."""
    return [_limit(word, methods, against) for word in (text or "").split(",") if word.strip()]


def _limit(word: str, methods: Sequence[str], against: bool) -> Limit:
    match = FORM.match(word)
    known = (*WHOLE, *BY_METHOD, *METRICS)
    if match is None:
        raise InputError(f"--fail-if '{word.strip()}' is not of the form name>number, such as residual>1e-3 or deletion[gradcam]>0.3.")
    name, method, sign, number = match.groups()
    if name not in known:
        raise InputError(
            f"--fail-if '{word.strip()}': nothing called '{name}' is measured{near_miss(name, known)}. Known: {', '.join(known)}."
        )
    if name in ("agreement", "likeness") and not against:
        raise InputError(f"--fail-if '{word.strip()}': {name} compares two models; give --against MODEL.")
    if method is not None and (name in WHOLE or method not in methods):
        why = f"'{name}' is about no single method" if name in WHOLE else f"method '{method}' is not audited; {', '.join(methods)} are"
        raise InputError(f"--fail-if '{word.strip()}': {why}.")
    try:
        return Limit(word.strip(), name, method, sign, float(number))
    except ValueError as error:
        raise InputError(f"--fail-if '{word.strip()}': '{number}' is no number.") from error


def broken_limits(limits: Sequence[Limit], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every limit with what was measured, and whether it is broken; what could not be measured counts as broken."""
    told = []
    for limit in limits:
        values = _values(limit, facts)
        worst = max if limit.sign in (">", ">=") else min
        unknown = [(k, v) for k, v in values.items() if np.isnan(v)]
        method, value = (unknown or [worst(values.items(), key=lambda item: item[1])])[0] if values else (None, None)
        told_of = f" for {method}" if method else ""
        if value is None or np.isnan(value):
            words, value, broken = f"was not measured{told_of if unknown else ''}, so nobody knows", None, True
        else:
            words, broken = f"is {value:.4g}{told_of}", SIGNS[limit.sign](value, limit.value)
        told.append(
            {
                "limit": limit.text,
                "name": limit.name,
                "method": method or limit.method,
                "value": value,
                "broken": broken,
                "text": f"{limit.name} {words}; the limit is {limit.text}",
            }
        )
    return told


def _values(limit: Limit, facts: Mapping[str, Any]) -> dict[str, float]:
    found = {k: v for k, v in _all_values(limit.name, facts).items() if v is not None}
    return found if limit.method is None else {k: v for k, v in found.items() if k == limit.method}


def _all_values(name: str, facts: Mapping[str, Any]) -> dict[str, float | None]:
    against, accuracy = facts["against"], facts["accuracy"]
    if name == "findings":
        return {"": float(len(facts["findings"]))}
    if name == "serious":
        return {"": float(sum(f["severity"] == "serious" for f in facts["findings"]))}
    if name == "damaged":
        return {"": float(len(facts["data"]["damaged"]))}
    if name == "accuracy":
        return {"": accuracy["top1"] if accuracy else None}
    if name == "agreement":
        return {"": against["agree"] / against["n"] if against else None}
    if name == "likeness":
        return {r["method"]: r["likeness"]["mean"] for r in against["methods"] if r["likeness"]} if against else {}
    if name == "border":
        return {r["method"]: r["density"]["mean"] for r in facts["checks"]["rim"]}
    if name == "randomisation":
        return {r["method"]: r["spearman"][-1] if r["spearman"] else None for r in facts["sanity"]}
    if name in ("residual", "unreached"):
        rows: dict[str, list[float | None]] = {}
        for picture in facts["pictures"]:
            for method, one in picture["maps"].items():
                value = one["residual" if name == "residual" else "reached"]
                rows.setdefault(method, []).append(value if value is None or name == "residual" else abs(1 - value))
        return {k: _largest(v) for k, v in rows.items()}
    methods = {m["name"] for m in facts["methods"]}
    return {r["method"]: r["mean"] for r in facts["metrics"] if r["metric"] == name and r["method"] in methods}


def _largest(values: Sequence[float | None]) -> float | None:
    """NaN where a method that obeys a law has a picture without a number; ``None`` of a method that obeys none."""
    known = [v for v in values if v is not None]
    return (max(known) if len(known) == len(values) and not np.isnan(known).any() else float("nan")) if known else None
