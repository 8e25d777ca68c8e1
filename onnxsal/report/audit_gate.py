"""``--fail-if``: limits on what an audit measured, which make it a gate. What could not be measured breaks every limit on it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnxsal.errors import InputError, near_miss
from onnxsal.metrics.measures import ID_SCORE, MEASURES, columns_of, run_for, with_derived
from onnxsal.report.audit_failures import MAP, OTHER_MAP, RANDOM

SIGNS: dict[str, Callable[[float, float], bool]] = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Quantity:
    """What a limit may be on: in words, whether ``larger`` is better (``None``: neither), and the range it has."""

    words: str
    larger: bool | None
    low: float = 0.0
    high: float = math.inf


WHOLE = {
    "findings": Quantity("number of findings", False),
    "serious": Quantity("number of serious findings", False),
    "damaged": Quantity("number of pictures that could not be read", False),
    "failed": Quantity("number of pictures that the model has no answer to", False),
    "accuracy": Quantity("share of labelled pictures whose first answer is right", True, 0, 1),
    "agreement": Quantity("share of pictures on which both models agree (--against)", True, 0, 1),
}
"""Limits on the audit as a whole."""

BY_METHOD = {
    "residual": Quantity("largest relative error of the method's law", False),
    "unreached": Quantity("largest |1 - the share of the score that reaches the input| (relevance methods: lrp_*, deep_taylor)", False),
    "randomisation": Quantity("rank correlation with maps under random weights", False, -1, 1),
    "border": Quantity("relevance at the border over what its area would have by chance", None),
    "likeness": Quantity("mean rank correlation of both models' maps (--against)", True, -1, 1),
}
"""Limits on each method; the worst method counts, or the one named in [brackets]. Metrics (deletion, ...) are means over pictures."""

_MEASURED = [MEASURES[n] for n in ("insertion", "deletion", "pointing_game", "relevance_mass")]
MEASURED_BY = {c: run_for(m) for m in with_derived(_MEASURED) for c in m.columns} | {"randomisation": (RANDOM,)}
"""Limit -> the metrics that it is made of."""

METRICS = {k: Quantity(c.title, c.larger, -1 if k == ID_SCORE else 0, 1) for k, c in columns_of(_MEASURED).items()}

KNOWN = {**WHOLE, **BY_METHOD, **METRICS}

FORM = re.compile(r"^([a-z_0-9]+)\s*(?:\[([^\]]+)\])?\s*(>=|<=|>|<)\s*([-+0-9.eE]+)$")

Values: TypeAlias = dict[str, "float | str"]
"""By method ('' = of the audit as a whole): the number, or why there is none."""


@dataclass(frozen=True)
class Limit:
    """``name[method] sign value``: what must not be. Raises ``InputError`` for one that could never be broken, or that bad values keep."""

    text: str
    name: str
    method: str | None
    sign: str
    value: float

    def __post_init__(self) -> None:
        what = f"--fail-if '{self.text}'"
        known = KNOWN.get(self.name)
        if known is None:
            raise InputError(f"{what}: nothing called '{self.name}' is measured{near_miss(self.name, KNOWN)}. Known: {', '.join(KNOWN)}.")
        if self.sign not in SIGNS or not math.isfinite(self.value):
            raise InputError(f"{what}: '{self.sign}{self.value}' is no limit: give one of {' '.join(SIGNS)} and a finite number.")
        if known.larger == (self.sign[0] == ">"):
            other = {">": "<", "<": ">"}[self.sign[0]] + self.sign[1:]
            why = f"{self.name} is better the {'larger' if known.larger else 'smaller'} it is"
            raise InputError(f"{what} says what must not be, and {why}: write {self.name}{other}{self.value:g}.")
        if not SIGNS[self.sign](known.high if self.sign[0] == ">" else known.low, self.value):
            span = f"between {known.low:g} and {known.high:g}" if math.isfinite(known.high) else f"{known.low:g} or more"
            raise InputError(f"{what} can never be broken: {self.name} is {span}.")


def read_limits(texts: str | Sequence[str], methods: Sequence[str], against: bool) -> list[Limit]:
    """The limits of every ``--fail-if`` (one, or several), each of which may hold several, separated by commas; all of them count.

    Raises ``InputError`` for what cannot be checked in this audit, and for an empty one: a variable that was not set is no limit.
    """
    given = [texts] if isinstance(texts, str) else texts
    return [_limit(word.strip(), methods, against) for text in given for word in text.split(",")]


def _limit(word: str, methods: Sequence[str], against: bool) -> Limit:
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
    if name in ("agreement", "likeness") and not against:
        raise InputError(f"--fail-if '{word}': {name} compares two models; give --against MODEL.")
    if method is not None and (name in WHOLE or method not in methods):
        why = f"'{name}' is about no single method" if name in WHOLE else f"method '{method}' is not audited; {', '.join(methods)} are"
        raise InputError(f"--fail-if '{word}': {why}.")
    return limit


def broken_limits(limits: Sequence[Limit], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every limit with what was measured, and whether it is broken; what could not be measured counts as broken."""
    return [_judged(limit, facts) for limit in limits]


def _judged(limit: Limit, facts: Mapping[str, Any]) -> dict[str, Any]:
    values = _values(limit, facts)
    numbers = {k: v for k, v in values.items() if isinstance(v, float) and not math.isnan(v)}
    missing = {k: v if isinstance(v, str) else "there is no number" for k, v in values.items() if k not in numbers}
    value: float | None = None
    if missing or not values:
        method, why = next(iter(missing.items())) if missing else ("", "no method that was audited has it")
        words = f"was not measured{f' for {method}' if method else ''}: {why}"
    else:
        worst = max if limit.sign[0] == ">" else min
        method, value = worst(numbers.items(), key=lambda item: item[1])
        words = f"is {value:.4g}{f' for {method}' if method else ''}"
    return {
        "limit": limit.text,
        "name": limit.name,
        "method": method or limit.method,
        "value": value,
        "broken": value is None or SIGNS[limit.sign](value, limit.value),
        "text": f"{limit.name} {words}; the limit is {limit.text}",
    }


def _values(limit: Limit, facts: Mapping[str, Any]) -> Values:
    """The number of every method that a limit is on; of one whose maps are not all there, why not."""
    if limit.name in WHOLE:
        return {"": _whole(limit.name, facts)}
    found = dict(_by_method(limit.name, facts))
    return {k: _gap(limit.name, k, facts) or v for k, v in found.items() if limit.method in (None, k)}


def _whole(name: str, facts: Mapping[str, Any]) -> float | str:
    against, accuracy, data = facts["against"], facts["accuracy"], facts["data"]
    if name == "accuracy":
        return float(accuracy["top1"]) if accuracy else "no picture has a label"
    if name == "agreement":
        return float(against["agree"] / against["n"]) if against and against["n"] else "no other model was compared"
    if name in ("damaged", "failed"):
        return float(len(data[name]))
    return float(sum(name == "findings" or f["severity"] == name for f in facts["findings"]))


def _by_method(name: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, float | str]]:
    """Methods that a quantity is no matter of (a law, for one that obeys none) are left out."""
    own = {m["name"]: m for m in facts["methods"]}
    for method in (m for m in own.values() if m["refused"] and (m["law"] or name not in ("residual", "unreached"))):
        yield method["name"], f"it cannot explain the model ({method['refused']})"
    if name in ("residual", "unreached"):
        yield from _worst(name, facts["pictures"]).items()
    elif name == "border":
        yield from ((r["method"], _mean(r["density"])) for r in facts["checks"]["rim"])
    elif name == "likeness":
        yield from (
            (r["method"], str(r["refused"] or "") or _mean(r["likeness"])) for r in (facts["against"] or {"methods": []})["methods"]
        )
    elif name == "randomisation":
        drawn = facts["settings"]["randomised"]
        for r in facts["sanity"]:
            yield r["method"], _mean({"mean": (r["spearman"] or [None])[-1], "n": r["n"], "excluded": drawn - r["n"]})
    else:
        rows = {r["method"]: r for r in facts["metrics"] if r["metric"] == name}
        needs_mask = "mask" in MEASURES[MEASURED_BY[name][0]].needs
        nothing = "no picture has a mask" if needs_mask and not facts["data"]["masked"] else "no picture has a value"
        yield from ((k, _mean(rows[k]) if k in rows else nothing) for k, m in own.items() if not m["refused"])


def _mean(row: Mapping[str, Any] | None) -> float | str:
    """A mean over pictures; a number that most of them are missing from is not enough to judge by."""
    if row is None or row["mean"] is None or math.isnan(row["mean"]):
        return "no picture has a value"
    count = row["n"] + row["excluded"]
    return f"not enough data, {row['n']} of {count} pictures have a value" if row["n"] < row["excluded"] else float(row["mean"])


def _worst(name: str, pictures: Sequence[Mapping[str, Any]]) -> Values:
    """The largest over all pictures, or that one of them has no number; nothing of a method that obeys no law."""
    rows: dict[str, list[float | None]] = {}
    for picture in pictures:
        for method, one in picture["maps"].items():
            value = one["residual" if name == "residual" else "reached"]
            rows.setdefault(method, []).append(value if value is None or name == "residual" else abs(1 - value))
    found: Values = {}
    for method, row in rows.items():
        numbers = [v for v in row if v is not None and not math.isnan(v)]
        if any(v is not None for v in row):
            found[method] = max(numbers) if len(numbers) == len(row) else f"{len(row) - len(numbers)} of {len(row)} pictures have no number"
    return found


def _gap(name: str, method: str, facts: Mapping[str, Any]) -> str:
    """Why a method's maps do not speak for all pictures ('' = they do)."""
    failed = facts["data"]["failed"]
    if failed:
        return f"the model has no answer to {len(failed)} of {len(failed) + len(facts['pictures'])} pictures"
    asked = (MAP, *MEASURED_BY.get(name, ()), *((OTHER_MAP,) if name == "likeness" else ()))
    for row in facts["lost"]:
        if row["method"] == method and row["what"] in asked:
            return f"{row['what']} of {len(row['pictures'])} pictures could not be had ('{row['pictures'][0]}': {row['why']})"
    return ""
