"""Look before converting: the plan of a method, and what there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxsal.engine.method import Method, known_methods
from onnxsal.engine.plan import Plan, no_walk
from onnxsal.facade.convert import DEFAULT_METHOD, conversion
from onnxsal.graph.load import Source
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, REGISTRY, OpSpec


def plan(model: Source, method: str | Path | Method = DEFAULT_METHOD, **options: Any) -> Plan:
    """Which rule crosses which node, and why; ``print(plan(...))`` shows the table. Nothing is returned that could be run.

    ``options`` are those of ``convert``, and the plan is the one that a conversion walks by (of several, the last); ``Plan.found`` and
    ``Plan.doubt`` say what was found out about the model. Raises as ``convert``, and ``MethodError`` for a method that only runs the
    model forward.
    """
    made = conversion(model, method, **options)
    if not made.plans:
        raise no_walk(made.method)
    return replace(made.plans[-1], found=made.question.found, doubt=made.question.doubt)


def methods() -> dict[str, Method]:
    """Every method by name: those that come with onnxsal, and those that other installed packages add."""
    return dict(known_methods())


def ops() -> dict[str, OpSpec | str]:
    """Every known operator: how it is explained (``OpSpec``), or why it carries no derivative (``str``)."""
    merged: dict[str, OpSpec | str] = {f"{d}.{o}" if d else o: spec for (d, o), spec in REGISTRY.items()}
    merged |= {f"{d}.{o}" if d else o: reason for (d, o), reason in NOT_DIFFERENTIABLE.items()}
    return dict(sorted(merged.items()))
