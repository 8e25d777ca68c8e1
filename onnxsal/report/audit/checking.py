"""What a check of an audit is: what is measured, the typed facts, the verdict, the value of a gate, the part of the page.

A check is one file in ``checks/``: a frozen dataclass of facts that derives from ``Check``. It is found by being there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import ClassVar, Self

from onnxsal.metrics.data_kind import DataKind
from onnxsal.report.audit.blocks import Block
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.subject import Subject
from onnxsal.report.audit.verdict import Judgement, MethodValues, Quantity

CHECKS: dict[str, type[Check]] = {}


class Check:
    """One question to a model and its maps. The fields of a subclass are its facts, as they stand in the JSON (NaN as null).

    ``title`` is the question, ``seeks`` what a failed one means (both with nouns in braces, ``DataKind.say``), ``order`` its place on the
    page; ``limits`` what --fail-if can be on. ``costly`` facts are kept by a run that is cut short. ``of``: the only kind of data that is
    asked this, and ``since`` why no other is (as a clause); a check without is asked of every kind.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    seeks: ClassVar[str]
    order: ClassVar[int]
    limits: ClassVar[Mapping[str, Quantity]]
    costly: ClassVar[bool]
    of: ClassVar[DataKind | None]
    since: ClassVar[str]

    def __init_subclass__(
        cls,
        *,
        name: str,
        title: str,
        seeks: str,
        order: int,
        limits: Mapping[str, Quantity] | None = None,
        costly: bool = False,
        of: tuple[DataKind, str] | None = None,
    ) -> None:
        cls.name, cls.title, cls.seeks, cls.order, cls.limits, cls.costly = name, title, seeks, order, limits or {}, costly
        cls.of, cls.since = (None, "") if of is None else of
        if CHECKS.get(name, cls).__qualname__ != cls.__qualname__:
            raise TypeError(f"two checks are called '{name}'")
        CHECKS[name] = cls

    @classmethod
    def idle(cls, kind: DataKind) -> str:
        """Why it is no question to data of a kind ('' = it is one)."""
        return "" if cls.of in (None, kind) else cls.since

    @classmethod
    def admit(cls, own: Subject, other: Subject | None) -> None:
        """Raise ``InputError`` for models that can never be asked this; it is called before anything is looked at."""

    @classmethod
    def measure(cls, evidence: Evidence) -> Self:
        """The facts."""
        raise NotImplementedError

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        """What they say, of each method or of the model."""
        raise NotImplementedError

    def value(self, limit: str, evidence: Evidence) -> MethodValues:
        """The numbers that one of ``limits`` is on."""
        raise NotImplementedError

    def tell(self, evidence: Evidence) -> str:
        """What the page's first screen says in plain words, whether it is well or not ('' = nothing)."""
        return ""

    def show(self, evidence: Evidence) -> Iterator[Block]:
        """What the page shows beside the verdicts."""
        yield from ()


@cache
def checks() -> tuple[type[Check], ...]:
    """Every check, in the order of the page."""
    from onnxsal.report.audit import checks as room

    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
    return tuple(sorted(CHECKS.values(), key=lambda check: (check.order, check.name)))
