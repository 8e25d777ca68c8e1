"""``--fail-if``: limits on what an audit measured, which make it a gate. What could not be measured breaks every limit on it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from onnxsal.engine.method import get_method
from onnxsal.errors import InputError, near_miss
from onnxsal.methods.build import keeps_law
from onnxsal.metrics.data_kind import PICTURES, DataKind
from onnxsal.metrics.measures import MEASURES, run_for, with_derived
from onnxsal.report.audit.checking import Check, checks
from onnxsal.report.audit.document import JudgedLimit
from onnxsal.report.audit.evidence import FAITHFUL, LOCAL, Evidence, mean_or_why
from onnxsal.report.audit.verdict import Finding, MethodValues, Quantity, Severity

SIGNS: dict[str, Callable[[float, float], bool]] = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


WHOLE = {
    "findings": Quantity("number of findings", False, whole=True),
    "serious": Quantity("number of serious findings", False, whole=True),
    "damaged": Quantity("number of {many} that could not be read", False, whole=True),
    "failed": Quantity("number of {many} that the model has no answer to", False, whole=True),
}
"""Limits on the audit as a whole; the checks and the metrics bring the others."""


@cache
def quantities() -> dict[str, Quantity]:
    """Everything that a limit can be on, by name."""
    of_checks = {name: quantity for check in checks() for name, quantity in check.limits.items()}
    measures = with_derived([MEASURES[n] for n in (*FAITHFUL, *LOCAL)])
    columns = [(name, column, m) for m in measures for name, column in m.columns.items()]
    metrics = {n: Quantity(c.title, c.larger, -1.0 if m.of else 0.0, 1.0, lost=run_for(m)) for n, c, m in columns}
    return {**WHOLE, **of_checks, **metrics}


FORM = re.compile(r"^([a-z_0-9]+)\s*(?:\[([^\]]+)\])?\s*(>=|<=|>|<)\s*([-+0-9.eE]+)$")


@dataclass(frozen=True)
class Limit:
    """``name[method] sign value``: what must not be. Raises ``InputError`` for one that bad values keep."""

    text: str
    name: str
    method: str | None
    sign: str
    value: float

    def __post_init__(self) -> None:
        what = f"--fail-if '{self.text}'"
        known = quantities().get(self.name)
        if known is None:
            raise InputError(
                f"{what}: nothing called '{self.name}' is measured{near_miss(self.name, quantities())}. Known: {', '.join(quantities())}."
            )
        if self.sign not in SIGNS or not math.isfinite(self.value):
            raise InputError(f"{what}: '{self.sign}{self.value}' is no limit: give one of {' '.join(SIGNS)} and a finite number.")
        if known.larger == (self.sign[0] == ">"):
            other = {">": "<", "<": ">"}[self.sign[0]] + self.sign[1:]
            why = f"{self.name} is better the {'larger' if known.larger else 'smaller'} it is"
            raise InputError(f"{what} says what must not be, and {why}: write {self.name}{other}{self.value:g}.")

    @property
    def idle(self) -> str:
        """Why no measurement could ever break it ('' = one could)."""
        known = quantities()[self.name]
        if SIGNS[self.sign](known.high if self.sign[0] == ">" else known.low, self.value):
            return ""
        span = f"between {known.low:g} and {known.high:g}" if math.isfinite(known.high) else f"{known.low:g} or more"
        return f"--fail-if '{self.text}' can never be broken: {self.name} is {span}."


def idle_for(name: str, kind: DataKind) -> str:
    """Why a limit is on nothing that data of a kind have ('' = they have it)."""
    check = next((c for c in checks() if name in c.limits), None)
    if check is not None:
        return check.idle(kind)
    lies = kind is not PICTURES and any("picture" in MEASURES[n].needs for n in quantities()[name].lost)
    return f"{kind.places} lie nowhere" if lies else ""


def read_limits(texts: str | Sequence[str], methods: Sequence[str], against: bool, kind: DataKind = PICTURES) -> list[Limit]:
    """The limits of every ``--fail-if`` (one, or several), each of which may hold several, separated by commas; all of them count.

    Raises ``InputError`` for what cannot be checked in this audit, for an empty one (a variable that was not set is no limit), and where
    none could ever be broken.
    """
    given = [texts] if isinstance(texts, str) else texts
    limits = [_limit(word.strip(), methods, against, kind) for text in given for word in text.split(",")]
    if limits and all(limit.idle for limit in limits):
        refuse_idle_limits(limits)
    return limits


def refuse_idle_limits(limits: Sequence[Limit]) -> None:
    """Raise ``InputError`` for a limit that could never be broken: what it should have kept from passing is not known."""
    for limit in limits:
        if limit.idle:
            raise InputError(limit.idle)


def _limit(word: str, methods: Sequence[str], against: bool, kind: DataKind) -> Limit:
    if not word:
        raise InputError("--fail-if is empty, or holds an empty limit, which would let everything pass: give name>number, or leave it out.")
    match = FORM.match(word)
    if match is None:
        raise InputError(f"--fail-if '{word}' is not of the form name>number, such as residual>1e-3 or deletion[gradcam]>0.3.")
    name, method, sign, number = match.groups()
    try:
        limit = Limit(word, name, method, sign, float(number))
    except ValueError as error:
        raise InputError(f"--fail-if '{word}': '{number}' is no number.") from error
    if why := idle_for(name, kind):
        raise InputError(f"--fail-if '{word}': {name} is nothing that {kind.many} have, for {why}.")
    if name in ("agreement", "likeness") and not against:
        raise InputError(f"--fail-if '{word}': {name} compares two models; give --against MODEL.")
    if method is not None and (quantities()[name].whole or method not in methods):
        why = (
            f"'{name}' is about no single method"
            if quantities()[name].whole
            else f"method '{method}' is not audited; {', '.join(methods)} are"
        )
        raise InputError(f"--fail-if '{word}': {why}.")
    return limit


def judged_limits(
    limits: Sequence[Limit], evidence: Evidence, results: Mapping[str, Check], findings: Sequence[Finding]
) -> list[JudgedLimit]:
    """Every limit with what was measured, and whether it is broken; what could not be measured counts as broken."""
    return [judged(limit, _values(limit, evidence, results, findings)) for limit in limits]


def judged(limit: Limit, values: MethodValues) -> JudgedLimit:
    """A limit on numbers by method: the worst counts, and one that is missing breaks it."""
    numbers = {k: v for k, v in values.items() if isinstance(v, float) and math.isfinite(v)}
    missing = {k: v if isinstance(v, str) else "there is no number" for k, v in values.items() if k not in numbers}
    value: float | None = None
    if missing or not values:
        method, why = next(iter(missing.items())) if missing else ("", "no method that was audited has it")
        words = f"was not measured{f' for {method}' if method else ''}: {why}"
    else:
        worst = max if limit.sign[0] == ">" else min
        method, value = worst(numbers.items(), key=lambda item: item[1])
        words = f"is {value:.4g}{f' for {method}' if method else ''}"
    broken = value is None or SIGNS[limit.sign](value, limit.value)
    return JudgedLimit(limit.text, limit.name, method or limit.method, value, broken, f"{limit.name} {words}; the limit is {limit.text}")


def _values(limit: Limit, evidence: Evidence, results: Mapping[str, Check], findings: Sequence[Finding]) -> MethodValues:
    """The number of every method that a limit is on; of one that is refused, or whose maps are not all there, why not."""
    quantity = quantities()[limit.name]
    check = next((c for c in results.values() if limit.name in c.limits), None)
    if why := idle_for(limit.name, evidence.kind):
        return {"": why}
    if quantity.whole:
        counts = {"damaged": len(evidence.seen.damaged), "failed": len(evidence.seen.failed)}
        counts |= {"findings": len(findings), "serious": sum(f.severity is Severity.SERIOUS for f in findings)}
        return {"": float(counts[limit.name])} if check is None else check.value(limit.name, evidence)
    found = _means(limit.name, evidence) if check is None else check.value(limit.name, evidence)
    refusing = [w for w in evidence.request.ways if w.name in evidence.seen.refused]
    asked = [w for w in refusing if not evidence.request.offered or w.name == limit.method]
    concerned = [w for w in asked if not quantity.law or keeps_law(get_method(w.method or ""))]
    refused = {w.name: f"it cannot explain the model ({evidence.seen.refused[w.name]})" for w in concerned}
    told = {k: evidence.gap(k, quantity.lost) or v for k, v in found.items()} | refused
    return {k: v for k, v in told.items() if limit.method in (None, k)}


def _means(metric: str, evidence: Evidence) -> MethodValues:
    """The mean of a metric of every method."""
    found, names = evidence.faithfulness, [w.name for w in evidence.ways]
    masked = any("mask" in MEASURES[n].needs for n in quantities()[metric].lost)
    nothing = evidence.kind.say("no {one} has a mask" if masked and not evidence.data.masked else "no {one} has a value")
    return {n: mean_or_why(found.summary(n, metric)) if metric in found.columns and found.has(n, metric) else nothing for n in names}
