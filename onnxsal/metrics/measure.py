"""What a metric of ``evaluate`` is: the columns and curves that it gives, what it can be told and what it needs, and its run.

A metric is one file in ``measures/``, which states it with ``@measure`` (or ``@derived``, for one that is made of the columns of others).
It is found by being there; another package names its module in the entry point group ``onnxsal.metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from onnxsal.errors import MethodError, near_miss
from onnxsal.metrics.needs import NEEDS
from onnxsal.metrics.setting import SettingField, settings_in
from onnxsal.metrics.task import Measured, Task


@dataclass(frozen=True)
class Column:
    """A number per sample: whether ``larger`` is better (``None``: neither), and what it is, with ``DataKind.say``'s nouns in braces."""

    larger: bool | None
    title: str


@dataclass(frozen=True)
class CurveAxes:
    """The words at a curve's axes; ``across`` may have nouns in braces (``DataKind.say``), ``up`` a setting. ``log``: the axis across is
    logarithmic.
    """

    across: str
    up: str
    log: bool = False


@dataclass(frozen=True)
class Plain:
    """The settings of a metric that has none."""


@dataclass(frozen=True)
class Measure:
    """A metric as it is stated.

    ``run(task, settings)`` finds ``columns`` and ``curves``; ``settings`` is a dataclass whose fields with a ``Setting`` are those of
    ``evaluate`` and of its command. ``needs``: keys of ``NEEDS``; ``needs_with(settings)``: more of them, each with what follows from it in
    words. ``of``: the columns of other metrics that this one is made of by ``made``; then it runs nothing. ``order``: its place in tables.
    """

    name: str
    columns: Mapping[str, Column]
    run: Callable[[Task, Any], Measured] | None = None
    settings: type = Plain
    needs: tuple[str, ...] = ()
    needs_with: Callable[[Any], Mapping[str, str]] | None = None
    curves: Mapping[str, CurveAxes] = field(default_factory=dict)
    of: tuple[str, ...] = ()
    made: Callable[[Mapping[str, float]], dict[str, float]] | None = None
    order: int = 1000

    def __post_init__(self) -> None:
        if unknown := [n for n in self.needs if n not in NEEDS]:
            raise MethodError(f"metric '{self.name}' needs '{unknown[0]}'{near_miss(unknown[0], NEEDS)}; known: {', '.join(NEEDS)}.")

    @property
    def fields(self) -> Mapping[str, SettingField]:
        """What it can be told, by name."""
        return settings_in(self.settings)

    @property
    def module(self) -> str:
        """The module that states it."""
        return str(getattr(self.run or self.made, "__module__", ""))

    @property
    def uses(self) -> tuple[str, ...]:
        """The settings that its numbers depend on."""
        return tuple(self.fields)

    def own(self, settings: object) -> Any:
        """Its own settings out of those of an evaluation. Raises ``InputError`` for a value that it does not take."""
        return self.settings(**{name: getattr(settings, name) for name in self.uses})

    def needing(self, settings: object) -> dict[str, str]:
        """What it needs when it is told so -> why, where that follows from a setting."""
        more = {} if self.needs_with is None else self.needs_with(self.own(settings))
        return {**dict.fromkeys(self.needs, ""), **more}

    def measure(self, task: Task, settings: object) -> Measured:
        """Run it. Raises ``MethodError`` for a metric that gives what it does not state."""
        assert self.run is not None, f"metric '{self.name}' is made of others"
        found = self.run(task, self.own(settings))
        for kind, given, stated in (("column", found.values, self.columns), ("curve", found.curves, self.curves)):
            if unknown := [name for name in given if name not in stated]:
                raise MethodError(f"metric '{self.name}' gives a {kind} '{unknown[0]}', which it does not state.")
        return found

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The columns of a metric that is made of others, for one sample; none where one of those is missing."""
        return self.made(values) if self.made is not None and set(self.of) <= values.keys() else {}


STATED: dict[str, Measure] = {}
"""Every metric that a module has stated so far. Read ``onnxsal.metrics.measures.MEASURES``, which has imported all of them."""

S = TypeVar("S")
Run = Callable[[Task, S], Measured]
Made = Callable[[Mapping[str, float]], dict[str, float]]


def measure(
    name: str,
    columns: Mapping[str, Column],
    settings: type[S],
    *,
    curves: Mapping[str, CurveAxes] | None = None,
    needs: tuple[str, ...] = (),
    needs_with: Callable[[S], Mapping[str, str]] | None = None,
    order: int = 1000,
) -> Callable[[Run[S]], Run[S]]:
    """State a metric: the decorator of its run. Arguments as in ``Measure``. Raises ``MethodError`` for a name that is taken."""

    def state(run: Run[S]) -> Run[S]:
        _state(Measure(name, columns, run, settings, needs, needs_with, curves or {}, order=order))
        return run

    return state


def derived(name: str, columns: Mapping[str, Column], of: tuple[str, ...], *, order: int = 1000) -> Callable[[Made], Made]:
    """State a metric that is made of the columns ``of`` others, sample by sample: the decorator of column -> number, of one sample."""

    def state(made: Made) -> Made:
        _state(Measure(name, columns, of=of, made=made, order=order))
        return made

    return state


def _state(new: Measure) -> None:
    """Enter a metric. One column, curve or setting is of one metric, or of several that state it alike."""
    for other in STATED.values():
        if other.name == new.name:
            raise MethodError(f"two metrics are called '{new.name}': of {other.module} and of {new.module}.")
        for kind in ("columns", "curves"):
            if taken := [c for c in getattr(new, kind) if c in getattr(other, kind)]:
                raise MethodError(f"metrics '{other.name}' and '{new.name}' both give '{taken[0]}' as one of their {kind}.")
        if unlike := [n for n, f in new.fields.items() if other.fields.get(n, f) != f]:
            raise MethodError(f"metrics '{other.name}' and '{new.name}' state setting '{unlike[0]}' differently.")
    STATED[new.name] = new
