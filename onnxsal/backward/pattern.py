"""Learned patterns: the signal crosses a linear layer by its patterns instead of its weights. Kindermans et al. 2017, arXiv 1705.05598."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.backward.registry import rule
from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.ops.registry import vjp


@rule("patterns", families=("linear",))
def patterns(
    op: Emit, node: NodeView, dys: Sequence[Value | None], *, kernel: np.ndarray | None = None, times_weight: bool = False
) -> Sequence[Value | None]:
    """dx = J^T dy with ``kernel`` in place of the weight: the patterns a (PatternNet), or w * a (PatternAttribution, ``times_weight``)."""
    if kernel is None:
        raise UnsupportedError(
            f"{node.label}: the rule 'patterns' needs learned patterns; use the methods patternnet or pattern_attribution."
        )
    learned = op.const(np.asarray(kernel, op.np_dtype))
    return vjp(op, node.replaced([node.x, learned, *node.inputs[2:]], node.y), dys)


@rule("through", families=("add", "product", "normalization"))
def through(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> Sequence[Value | None]:
    """dx = dy: what the node does belongs to the linear layer before it."""
    return [dys[0] if wanted else None for wanted in node.wants]
