"""Make the graph plain first: then rules stay short. ``prepare`` runs every pass in order and says what each changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxsal.errors import ModelError
from onnxsal.graph import Model
from onnxsal.large import Apart, apart
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.passes.cast_first import cast_first
from onnxsal.passes.declarations import DECLARATIONS
from onnxsal.passes.expand_contrib import EXPAND_CONTRIB
from onnxsal.passes.explicit_pads import EXPLICIT_PADS
from onnxsal.passes.inline_functions import INLINE, Known, expand_bodies
from onnxsal.passes.name_nodes import NAME_NODES
from onnxsal.passes.order_logits import order_logits
from onnxsal.passes.raise_opset import RAISE_OPSET, SET_IR
from onnxsal.passes.ranks import declare_ranks
from onnxsal.passes.sort import SORT

__all__ = ["Comparison", "PassOutcome", "Pass", "Prepared", "passes", "prepare"]


TOLERANCE = 1e-5
"""A rewritten forward part must return the same outputs up to rounding."""


@dataclass(frozen=True)
class Comparison:
    """Largest difference of the outputs of two models that ran on the same data, relative to the largest output, and how they ran.

    ``limit`` is what rounding may make of it. Where no data was found on which they run, ``difference`` is ``None`` and ``note`` says why.
    """

    difference: float | None
    note: str = ""
    limit: float = TOLERANCE

    @property
    def accepted(self) -> bool:
        """Whether the difference is known and within the limit (NaN is not)."""
        return self.difference is not None and self.difference <= self.limit


Compare = Callable[[onnx.ModelProto | Apart, onnx.ModelProto], Comparison]
"""Runs the model before and after it was rewritten."""


@dataclass(frozen=True)
class Prepared:
    """The plain model, for each pass that did something what it did, and a reason to doubt that it is still the same ('' = none)."""

    model: Model
    log: list[str] = field(default_factory=list)
    rewritten: bool = False
    doubt: str = ""


def passes(known: Known, example: Mapping[str, np.ndarray] | None = None) -> list[Pass]:
    """Every pass, in the order in which they run. ``known(domain, op_type)`` tells which operators need no expansion."""
    return [
        SORT,
        declare_ranks(example),
        INLINE,
        RAISE_OPSET,
        SET_IR,
        EXPAND_CONTRIB,
        expand_bodies(known),
        NAME_NODES,
        EXPLICIT_PADS,
        DECLARATIONS,
    ]


def prepare(
    proto: onnx.ModelProto, known: Known, compare: Compare | None = None, example: Mapping[str, np.ndarray] | None = None
) -> Prepared:
    """Run every pass on ``proto`` (changed in place). ``example`` (data of some inputs) tells what the model leaves open.

    Where a pass replaced forward nodes, ``compare`` (if given) runs the model before and after; raises ``ModelError`` if the
    outputs differ by more than rounding: then the rewrite was wrong for this model and no map could be trusted. Where they
    could not be compared the result is in ``doubt``.
    """
    before: Apart | None = None
    log: list[str] = []
    rewritten: list[str] = []
    for step in passes(known, example):
        if step.rewrites and compare is not None and before is None and not step.requires(proto):
            before = apart(proto)
        outcome = step(proto)
        if outcome.changed:
            log.append(f"{step.name}: {outcome.detail}")
            if step.rewrites:
                rewritten.append(step.name)
    doubt = ""
    if rewritten and compare is not None and before is not None:
        line, doubt = _compared(compare(before, proto), ", ".join(rewritten))
        log.append(line)
    model = Model(proto)
    if cast_first(model):
        log.append("cast first: integers that were moved and then made floating point are made so first, and moved then")
        model = Model(proto)
    if order_logits(model):
        log.append(
            "order logits: the logits stand in another order than the output, or times a number, so they were added as they belong to it"
        )
        model = Model(proto)
    return Prepared(model, log, bool(rewritten), doubt)


def _compared(found: Comparison, rewritten: str) -> tuple[str, str]:
    """A line for the log and the doubt that is left ('' = none)."""
    if found.difference is None:
        doubt = f"the model was rewritten ({rewritten}) and its outputs before and after were not compared: {found.note}"
        return f"outputs before and after {rewritten}: not compared: {found.note}", doubt
    note = f" ({found.note})" if found.note else ""
    if not found.accepted:
        raise ModelError(
            f"rewriting the model ({rewritten}) changed its outputs by {found.difference:.2e} relative{note}; "
            f"at most {found.limit:.2g} is allowed. "
            "Export the model with opset 18 or higher and without fused operators."
        )
    return f"outputs before and after {rewritten}: largest relative difference {found.difference:.1e}{note}", ""
