"""The gradient, and the rectifier rules that differ from it only at activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxsal.backward.copies import accounted, is_copy
from onnxsal.backward.registry import rule
from onnxsal.backward.walk import walk_of
from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.ops.quantize import straight_through
from onnxsal.ops.registry import family_of, vjp


def _copies_zeros(node: NodeView, parameters: Mapping[str, Any], arrives: bool) -> bool:
    return arrives and is_copy(node)


@rule("gradient", vanishes=_copies_zeros)
def gradient(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> Sequence[Value | None]:
    """dx_i = J_i^T dy. Of relevance, what a copy sends to constants is written down."""
    book = walk_of(op).book
    return vjp(op, node, dys) if book is None or not is_copy(node) else accounted(op, node, dys, book)


RECTIFIERS = ("activation", "select", "quantize")
"""Families in which a rectifier can come: Relu and Clip, Max(x, 0), and the QuantizeLinear that swallowed one of them."""


@rule("guided", families=RECTIFIERS)
def guided(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> Sequence[Value | None]:
    """dx = J^T max(dy, 0): for a ReLU 1[z > 0] 1[dy > 0] dy. Springenberg et al. 2014, arXiv 1412.6806."""
    return vjp(op, node, [None if dy is None else op.Relu(dy) for dy in dys])


@rule("deconvnet", families=RECTIFIERS)
def deconvnet(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> Sequence[Value | None]:
    """dx = max(dy, 0), whatever the sign of z. Zeiler and Fergus 2013, arXiv 1311.2901."""
    signal = None if dys[0] is None else op.Relu(dys[0])
    if signal is not None and family_of(node) == "quantize":
        if any(node.wants[1:]):
            raise UnsupportedError(f"{node.label}: rule 'deconvnet' takes a rectifier whose grid is stored; this one follows the data.")
        signal = straight_through(op, node, signal)
    return [signal if wanted else None for wanted in node.wants]
