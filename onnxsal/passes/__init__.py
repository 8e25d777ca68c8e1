"""Make the graph plain first: then rules stay short. ``prepare`` runs every pass in order and says what each changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxsal.errors import ModelError
from onnxsal.graph import Model
from onnxsal.graph.originals import Original
from onnxsal.graph.put_back import run_beside
from onnxsal.large import Apart, apart
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.passes.cast_first import cast_first
from onnxsal.passes.classical_types import CLASSICAL_TYPES
from onnxsal.passes.declarations import DECLARATIONS
from onnxsal.passes.expand_contrib import COMPLETE, EXPAND_CONTRIB, NAME_DOMAIN
from onnxsal.passes.explicit_pads import EXPLICIT_PADS
from onnxsal.passes.inline_functions import INLINE, Known, expand_bodies
from onnxsal.passes.name_nodes import NAME_NODES
from onnxsal.passes.order_logits import order_logits
from onnxsal.passes.raise_opset import RAISE_OPSET, SET_IR
from onnxsal.passes.ranks import declare_ranks
from onnxsal.passes.restate import RESTATE
from onnxsal.passes.samples_first import samples_first
from onnxsal.passes.shapes_of_loops import SHAPES_OF_LOOPS
from onnxsal.passes.sort import SORT
from onnxsal.passes.write_out import WRITE_OUT

__all__ = ["Comparison", "PassOutcome", "Pass", "Prepared", "passes", "prepare"]


TOLERANCE = 1e-5
"""A rewritten forward part must return the same outputs up to rounding."""


ONE_STEP = 1.0
"""A copy may round to the neighbour of what the node itself rounds to."""


@dataclass(frozen=True)
class Gap:
    """How far a tensor of a copy is from the original's: in steps of the grid where ``steps``, else relative to the largest element."""

    name: str
    size: float
    steps: bool


@dataclass(frozen=True)
class Comparison:
    """Largest difference of the outputs of two models that ran on the same data, relative to the largest output, and how they ran.

    ``limit`` is what rounding may make of it. Where no data was found on which they run, ``difference`` is ``None`` and ``note`` says why.
    ``gaps``: how far the copies of originals were from these.
    """

    difference: float | None
    note: str = ""
    limit: float = TOLERANCE
    gaps: tuple[Gap, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the difference is known and within the limit (NaN is not)."""
        return self.difference is not None and self.difference <= self.limit


Compare = Callable[[onnx.ModelProto | Apart, onnx.ModelProto, Mapping[str, str]], Comparison]
"""Runs the model before and after it was rewritten, and in the latter compares tensors in pairs: the original's with the copy's."""


@dataclass(frozen=True)
class Prepared:
    """The plain model, for each pass that did something what it did, and a reason to doubt that it is still the same ('' = none)."""

    model: Model
    log: list[str] = field(default_factory=list)
    rewritten: bool = False
    doubt: str = ""


ADDED: tuple[tuple[Callable[[Model], bool], str], ...] = (
    (cast_first, "cast first: integers that were moved and then made floating point are made so first, and moved then"),
    (samples_first, "samples first: outputs that count samples along another axis got a copy in which they come first"),
    (
        order_logits,
        "order logits: the logits stand in another order than the output, or times a number, so they were added as they belong to it",
    ),
)
"""What is added at the end, by what is known of the plain model, and what the log says of it."""


def passes(known: Known, example: Mapping[str, np.ndarray] | None = None) -> list[Pass]:
    """Every pass, in the order in which they run. ``known(domain, op_type)`` tells which operators need no expansion."""
    return [
        SORT,
        COMPLETE,
        declare_ranks(example),
        INLINE,
        NAME_DOMAIN,
        RAISE_OPSET,
        SET_IR,
        WRITE_OUT,
        RESTATE,
        EXPAND_CONTRIB,
        CLASSICAL_TYPES,
        expand_bodies(known),
        NAME_NODES,
        SHAPES_OF_LOOPS,
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
    originals: list[Original] = []
    refused: dict[str, str] = {}
    for step in passes(known, example):
        if step.rewrites and compare is not None and before is None and not step.requires(proto):
            before = apart(proto)
        outcome = step(proto)
        originals += outcome.originals
        refused |= outcome.refused
        if outcome.changed:
            log.append(f"{step.name}: {outcome.detail}")
            if step.rewrites:
                rewritten.append(step.name)
    doubt = ""
    if rewritten and compare is not None and before is not None:
        with run_beside(proto, originals) as pairs:
            found = compare(before, proto, pairs)
        line, doubt = _compared(found, ", ".join(rewritten))
        log += [line, *_gaps(found.gaps, originals)]
    model = Model(proto, originals=originals, refused=refused)
    for change, told in ADDED:
        if change(model):
            log.append(told)
            model = Model(proto, originals=originals, refused=refused)
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


def _gaps(gaps: Sequence[Gap], originals: Sequence[Original]) -> list[str]:
    """Lines for the log: how far copies are from their originals at most. Raises ``ModelError`` where one is farther than it may be."""
    owner = {name: original for original in originals for name in original.outputs}
    for gap in gaps:
        node, limit = owner[gap.name].node, ONE_STEP if gap.steps else owner[gap.name].limit
        if not gap.size <= limit:
            raise ModelError(
                f"node '{node.name}' ({node.op_type}) is explained by the same in floating point, which must agree with it to "
                f"{_size(limit, gap.steps)}, and is {_size(gap.size, gap.steps)} away at '{gap.name}'. Its integers overflow on this "
                "processor, as sums of 8-bit products do where it lacks VNNI, or it means something else here. Explain the float model, or "
                "quantise it with weights of 7 bits (reduce_range), which fit every processor, or in the QDQ format."
            )
    said = []
    for steps in (True, False):
        worst = max((gap for gap in gaps if gap.steps == steps), key=lambda gap: gap.size, default=None)
        if worst is not None:
            of, at = sum(gap.steps == steps for gap in gaps), owner[worst.name].node.name if worst.size else ""
            where = f", at node '{at}'" if at else ""
            said.append(f"copies in floating point beside {of} tensor(s): at most {_size(worst.size, steps)} from the model's own{where}")
    return said


def _size(size: float, steps: bool) -> str:
    return f"{size:g} step{'' if size == 1 else 's'} of the grid" if steps else f"{size:.1e} of the largest value"
