"""What a check ends with: one of four outcomes with its number and threshold, and the finding that a failed one always has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

FEW = 8
"""Samples below which no mean is judged."""

NAMED = 20
"""Samples that a finding names, at most."""


class Outcome(StrEnum):
    """What a check ends with. One that could not be made is no reason to trust anything: neither it nor a failed one is ever green."""

    FAILED = "failed"
    TOO_FEW = "not enough data"
    PASSED = "passed"
    NOT_APPLICABLE = "not applicable"


class Severity(StrEnum):
    """Serious: the model, its data or a map is wrong. Warning: read with care."""

    SERIOUS = "serious"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """What is wrong, in plain words; ``weight`` orders those of one severity; ``pictures``: the samples that it is about."""

    id: str
    severity: Severity
    weight: float
    title: str
    text: str
    advice: str
    pictures: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "pictures", tuple(self.pictures[:NAMED]))


@dataclass(frozen=True)
class Verdict:
    """What a check says of one ``method`` ('' = of the model): the number, its ``threshold`` in words, and ``n`` samples behind it of
    the ``needs`` that it takes. ``finding`` is the id of what is wrong ('' = nothing), ``words`` why there is no number, or a remark.
    """

    outcome: Outcome
    method: str
    value: float | None
    threshold: str
    n: int
    needs: int
    words: str
    finding: str


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the finding that a failed one always has."""

    verdict: Verdict
    finding: Finding | None = None

    @classmethod
    def of(
        cls,
        value: float | None,
        threshold: str,
        n: int,
        needs: int = FEW,
        *,
        method: str = "",
        words: str = "",
        wrong: Finding | None = None,
        undecided: bool = False,
    ) -> Judgement:
        """Failed where something is ``wrong``, passed where not; not enough data below ``needs`` samples, where the number is
        ``undecided`` (it tells neither), or where there is none.
        """
        number = None if value is None or not math.isfinite(value) else float(value)
        unknown = n < needs or (wrong is None and (undecided or number is None))
        outcome = Outcome.TOO_FEW if unknown else Outcome.FAILED if wrong else Outcome.PASSED
        found = wrong if outcome is Outcome.FAILED else None
        if n < needs and not words:
            words = f"{n} of the {needs} that it takes"
        return cls(Verdict(outcome, method, number, threshold, n, needs, words, "" if found is None else found.id), found)

    @classmethod
    def none(cls, words: str, method: str = "", outcome: Outcome = Outcome.NOT_APPLICABLE, threshold: str = "") -> Judgement:
        """No number, and why."""
        return cls(Verdict(outcome, method, None, threshold, 0, 0, words, ""))


@dataclass(frozen=True)
class Quantity:
    """What a limit may be on: in words (nouns in braces, ``DataKind.say``), whether ``larger`` is better (``None``: neither), its range.

    ``whole``: it is one number for the audit, and else one for each method. ``lost``: what must not be missing of any sample for it to
    be known. ``law``: it is no matter of a method that obeys none.
    """

    words: str
    larger: bool | None
    low: float = 0.0
    high: float = math.inf
    whole: bool = False
    lost: tuple[str, ...] = ()
    law: bool = False


MethodValues: TypeAlias = Mapping[str, "float | str"]
"""By method ('' = the audit as a whole): the number, or why there is none."""


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.0f} %"
