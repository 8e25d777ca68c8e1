"""Make the graph plain first: then rules stay short. ``prepare`` runs every pass in order and says what each changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph import Model
from onnxsal.large import serialised
from onnxsal.passes.base import Outcome, Pass
from onnxsal.passes.expand_contrib import EXPAND_CONTRIB
from onnxsal.passes.explicit_pads import EXPLICIT_PADS
from onnxsal.passes.inline_functions import INLINE, Known, expand_bodies
from onnxsal.passes.name_nodes import NAME_NODES
from onnxsal.passes.order_logits import order_logits
from onnxsal.passes.raise_opset import RAISE_OPSET, SET_IR
from onnxsal.passes.sort import SORT

__all__ = ["Outcome", "Pass", "Prepared", "passes", "prepare"]

Compare = Callable[[bytes | onnx.ModelProto, onnx.ModelProto], float]
"""Largest difference of the outputs of two models on random input, relative to the largest output."""

TOLERANCE = 1e-5
"""A rewritten forward part must return the same outputs up to rounding."""


@dataclass(frozen=True)
class Prepared:
    """The plain model, and for each pass that did something what it did."""

    model: Model
    log: list[str] = field(default_factory=list)
    rewritten: bool = False


def passes(known: Known) -> list[Pass]:
    """Every pass, in the order in which they run. ``known(domain, op_type)`` tells which operators need no expansion."""
    return [SORT, INLINE, RAISE_OPSET, SET_IR, EXPAND_CONTRIB, expand_bodies(known), NAME_NODES, EXPLICIT_PADS]


def _snapshot(proto: onnx.ModelProto) -> bytes | onnx.ModelProto:
    """The model as it is now; as a copy where it outgrows what can be serialised in one piece."""
    data = serialised(proto)
    if data is not None:
        return data
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def prepare(proto: onnx.ModelProto, known: Known, compare: Compare | None = None) -> Prepared:
    """Run every pass on ``proto`` (changed in place).

    Where a pass replaced forward nodes, ``compare`` (if given) runs the model before and after; raises ``ModelError`` if the
    outputs differ by more than ``TOLERANCE``: then the rewrite was wrong for this model and no map could be trusted.
    """
    before: bytes | onnx.ModelProto | None = None
    log: list[str] = []
    rewritten: list[str] = []
    for step in passes(known):
        if step.rewrites and compare is not None and before is None and not step.requires(proto):
            before = _snapshot(proto)
        outcome = step(proto)
        if outcome.changed:
            log.append(f"{step.name}: {outcome.detail}")
            if step.rewrites:
                rewritten.append(step.name)
    if rewritten and compare is not None and before is not None:
        difference = compare(before, proto)
        log.append(f"outputs before and after {', '.join(rewritten)}: largest relative difference {difference:.1e}")
        if not difference <= TOLERANCE:
            raise ModelError(
                f"rewriting the model ({', '.join(rewritten)}) changed its outputs by {difference:.2e} relative; "
                f"at most {TOLERANCE:g} is allowed. "
                "Export the model with opset 18 or higher and without fused operators."
            )
    model = Model(proto)
    if order_logits(model):
        log.append(
            "order logits: the logits stand in another order than the output, or times a number, so they were added as they belong to it"
        )
        model = Model(proto)
    return Prepared(model, log, bool(rewritten))
