"""The metrics of ``evaluate``, one file each: found by being in this package, or named by another one (``onnxsal.metrics``)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from onnxsal.engine.plugins import load_metrics
from onnxsal.errors import InputError, near_miss
from onnxsal.metrics.data_kind import PICTURES, DataKind
from onnxsal.metrics.measure import STATED, Column, CurveAxes, Measure
from onnxsal.metrics.setting import Seed, SettingField, settings_in
from onnxsal.metrics.task import Measured, Task

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

DEFAULT_METRICS = ("insertion", "deletion", "id_score", "pixel_perturbation")


class _Measures(Mapping[str, Measure]):
    """Every metric by name, those of other packages among them, in the order of tables: those that are made of others come last.

    Other packages are imported when the table is first read. One that cannot be ends what measures (``refuse_broken``), and nothing else.
    """

    def _all(self) -> dict[str, Measure]:
        load_metrics()
        return {m.name: m for m in sorted(STATED.values(), key=lambda m: (bool(m.of), m.order, m.name))}

    def __getitem__(self, name: str) -> Measure:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


MEASURES: Mapping[str, Measure] = _Measures()
"""Everything that is measured on one sample at a time. ROAR and KAR retrain a model: see ``onnxsal.metrics.retrain``."""

ID_SCORE = "id_score"


@dataclass(frozen=True)
class _Own:
    """What an evaluation is told itself."""

    seed: Seed = 0


def refuse_broken() -> None:
    """Raise ``MethodError`` if another package says that it has metrics and cannot be imported."""
    for error in load_metrics():
        raise error


def settings_of(measures: Sequence[Measure]) -> dict[str, SettingField]:
    """What these metrics can be told, by name, each once; the seed, which is the evaluation's own too, comes last."""
    found = {name: field for m in measures for name, field in m.fields.items() if name != "seed"}
    return found | dict(settings_in(_Own))


class Settings(SimpleNamespace):
    """What the metrics can be told, as keywords: every setting of every metric, with its default where it is not given.

    ``protocol``, ``substrate``, ``step``, ``score`` of insertion and deletion (see ``CurveSettings``; ``None``: the protocol's own),
    ``removal`` (what stands for removed pixels) and ``percent`` of pixel perturbation, ``ties`` of all three, ``tolerance``, the pixels
    by which the pointing game may miss, ``stages`` of the randomisation, ``seed``. `onnxsal evaluate --help` lists all, those of other
    packages too. Raises ``TypeError`` for a setting that no metric has, ``InputError`` for a value that its metric does not take.
    """

    def __init__(self, **given: Any) -> None:
        refuse_broken()
        known = settings_of(list(MEASURES.values()))
        if unknown := [name for name in given if name not in known]:
            raise TypeError(f"no metric has a setting '{unknown[0]}'{near_miss(unknown[0], known)}; there are {', '.join(known)}.")
        super().__init__(**{name: given.get(name, field.default) for name, field in known.items()})
        for m in MEASURES.values():
            m.own(self)

    def changed(self, **given: Any) -> Settings:
        """The same with other values."""
        return Settings(**{**vars(self), **given})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings do not change: make others, Settings({name}=...).")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("settings do not change: make others.")

    def __hash__(self) -> int:  # type: ignore[override]  # a namespace that changes has none
        return hash(tuple(vars(self).items()))


def chosen_measures(names: Sequence[str]) -> list[Measure]:
    """The metrics of these names, in the order of the table.

    A metric that is made of others brings those along, and comes by itself where all of them are chosen: it costs nothing.
    """
    refuse_broken()
    for name in names:
        if name not in MEASURES:
            raise InputError(f"metric '{name}' is not one of {', '.join(MEASURES)}{near_miss(name, MEASURES)}.")
    if not names:
        raise InputError(f"no metric was named; there are {', '.join(MEASURES)}.")
    every = dict(MEASURES)
    wanted, todo = set(), list(names)
    while todo:
        wanted.add(name := todo.pop())
        todo += [m.name for m in every.values() if set(m.columns) & set(every[name].of)]
    return with_derived([m for m in every.values() if m.name in wanted])


def with_derived(measures: Sequence[Measure]) -> list[Measure]:
    """These metrics, and those that can be made of their columns."""
    found = list(measures)
    for m in MEASURES.values():
        if m.of and m not in found and set(m.of) <= {c for other in found for c in other.columns}:
            found.append(m)
    return found


def run_for(measure: Measure) -> tuple[str, ...]:
    """The metrics that are run for one: itself, or those that it is made of."""
    parts = [m for m in MEASURES.values() if set(m.columns) & set(measure.of)]
    return tuple(dict.fromkeys(name for m in parts for name in run_for(m))) or (measure.name,)


def columns_of(measures: Sequence[Measure], kind: DataKind = PICTURES) -> dict[str, Column]:
    """The columns of a table of these metrics, and of those that are made of them, in the words of a kind of data."""
    every = {name: column for m in with_derived(measures) for name, column in m.columns.items()}
    return {name: replace(column, title=kind.say(column.title)) for name, column in every.items()}


def axes_of_curves(kind: DataKind = PICTURES) -> dict[str, CurveAxes]:
    """The words at the axes of every curve, in those of a kind of data."""
    every = {name: axes for m in MEASURES.values() for name, axes in m.curves.items()}
    return {name: replace(axes, across=kind.say(axes.across)) for name, axes in every.items()}


__all__ = [
    "DEFAULT_METRICS",
    "ID_SCORE",
    "MEASURES",
    "Column",
    "CurveAxes",
    "Measure",
    "Measured",
    "Settings",
    "Task",
    "axes_of_curves",
    "chosen_measures",
    "columns_of",
    "refuse_broken",
    "run_for",
    "settings_of",
    "with_derived",
]
