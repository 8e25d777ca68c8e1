"""Tag nodes by what they do, however the exporter wrote it: rules match tags, so they need not know spellings."""

from __future__ import annotations

import numpy as np

from onnxsal.graph import Model, NodeView
from onnxsal.passes.linear_layers import tag_linear_layers

RECTIFIER = "rectifier"
"""Zero below zero, the identity just above: Relu, Clip(0, .), Max(x, 0), and the QuantizeLinear that swallowed one of them."""


def _is_zero(array: np.ndarray | None) -> bool:
    return array is not None and array.size > 0 and not np.any(array)


def is_rectifier(node: NodeView) -> bool:
    """Whether the node clips its input at zero from below."""
    if node.domain:
        return False
    if node.op_type == "Relu":
        return True
    if node.op_type == "Clip":
        return _is_zero(node.const(1))
    if node.op_type == "Max":
        return any(_is_zero(node.const(i)) for i in range(len(node.inputs)))
    if node.op_type == "QuantizeLinear":
        zero_point = node.const(2)
        lowest = np.iinfo(zero_point.dtype).min if zero_point is not None and zero_point.dtype.kind in "iu" else None
        return (zero_point is None and node.attr("output_dtype") in (0, None)) or (lowest is not None and bool(np.all(zero_point == lowest)))
    return False


def tag_patterns(model: Model) -> None:
    """Fill ``model.tags``."""
    for node in model.nodes:
        if is_rectifier(node):
            model.tags[node.index] = model.tags.get(node.index, frozenset()) | {RECTIFIER}
    tag_linear_layers(model)
