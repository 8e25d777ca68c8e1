"""A factor per channel: as part of the kernel that the signal meets next, where ONNX Runtime folds it when it loads.

A product with a constant is unknown to the blocked layout.
"""

from __future__ import annotations

from onnxsal.graph import Emit, Value
from onnxsal.graph.emit import ON_CPU


def per_channel(op: Emit, g: Value, factor: Value, lifted: Value) -> Value:
    """``g`` times ``factor`` [C], ``lifted`` to the axes of ``g``. Who reads the product with a kernel may take the factor into that."""
    product = op.Mul(g, lifted)
    if op.runs_on == ON_CPU:
        op.cached(("scaled", product.name), lambda: (g, factor))
    return product


def taken_in(op: Emit, g: Value, weight: Value) -> tuple[Value, Value]:
    """A signal and the kernel [C, ...] that it meets: where the signal is ``per_channel``, what was scaled, and the kernel with it.

    The product is then read by nobody, and so not emitted.
    """
    scaled = op.found(("scaled", g.name))
    if scaled is None or weight.shape is None:
        return g, weight
    before, factor = scaled
    column = [-1, *[1] * (len(weight.shape) - 1)]
    key = ("scaled kernel", weight.name, factor.name)
    return before, Value(op.cached(key, lambda: op.Mul(weight, op.Reshape(factor, column))).name, 0, weight.shape)
