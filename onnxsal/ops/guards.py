"""A branch that was not taken sends nothing: where the signal is 0, what a node sends is 0, also where its slope is no finite number.

Only nodes at which that can happen are guarded (``NodeView.wild``, found in ``facts/wild.py``). Functions of one tensor are guarded
here, behind their formula. Formulas that add up over several elements multiply by ``helpers.times`` before they do. Layers that mix
elements are asked about finite numbers instead: their own infinities only reach elements that are not finite either, where a signal other
than 0 makes the answer no number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from onnxsal.graph import Emit, NodeView, Signals, Value
from onnxsal.graph.helpers import guard
from onnxsal.ops.edges import by_weight
from onnxsal.ops.statements import Facts, Roles, Scaling

ONE_TENSOR = ("activation", "elementwise")
"""Families of functions of one tensor, element by element."""

MIXING = ("linear", "normalization", "reduction", "resample")
"""Families in which an element of the input meets many of the output."""


class Spec(Protocol):
    """What is asked of a registration."""

    @property
    def family(self) -> str: ...

    @property
    def facts(self) -> Facts: ...

    @property
    def roles(self) -> Roles | None: ...

    @property
    def scaling(self) -> Scaling | None: ...


def guarded(op: Emit, node: NodeView, dys: Signals, pull: Callable[[NodeView, Signals], Signals], spec: Spec) -> list[Value | None]:
    """What the formula ``pull(node, dys)`` answers, with 0 for signals of 0."""
    if not node.wild:
        return list(pull(node, dys))
    if spec.family in MIXING and spec.facts.wild is not by_weight and _reads_wild(node, spec):
        return list(pull(*_finite(op, node, dys)))
    answer = list(pull(node, dys))
    single = [v for v in node.inputs if v is not None]
    if spec.family in ONE_TENSOR and len(single) == 1 and not spec.facts.rectifies(node, lambda i: (-np.inf, np.inf)):
        return [None if v is None or dys[0] is None else guard(op, node, dys[0], v) for v in answer]
    return answer


def _reads_wild(node: NodeView, spec: Spec) -> bool:
    """Whether what the node sends depends on numbers that may not be finite."""
    wanted = {i for i, wants in enumerate(node.wants) if wants}
    if spec.scaling is not None and len(wanted) == 1 and all(spec.scaling.takes(node, i) for i in wanted):
        return bool(node.wild - wanted - {OWN})
    factors = () if spec.roles is None else spec.roles.factors
    if spec.roles is None or not (factors is None or wanted & set(factors)):
        return spec.roles is None
    return any(node.wild - {i, OWN} for i in wanted)


OWN = -1
"""Stands in ``NodeView.wild`` for the node's own output and slope."""


def _finite(op: Emit, node: NodeView, dys: Signals) -> tuple[NodeView, Signals]:
    """The node with 0 in place of what is not finite, and signals that are no number where they come from such elements."""
    most = float(np.finfo(op.np_dtype).max)

    def is_finite(value: Value) -> Value:
        return op.LessOrEqual(op.Abs(value), most)

    def cleaned(value: Value | None) -> Value | None:
        return None if value is None else Value(op.Where(is_finite(value), value, 0.0).name, 0, value.shape)

    inputs = [cleaned(v) if i in node.wild else v for i, v in enumerate(node.inputs)]
    signals = [
        dy if dy is None else op.Where(op.Or(is_finite(node.output(j)), op.Equal(dy, 0.0)), dy, float("nan")) for j, dy in enumerate(dys)
    ]
    output = cleaned(node.y)
    assert output is not None
    return node.replaced(inputs, output), signals
