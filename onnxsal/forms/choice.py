"""Which form is taken: what the blocked layout of ONNX Runtime's CPU provider can hold, and how a tensor enters it."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.emit import ON_CPU
from onnxsal.graph.window_attributes import window_attributes

ALIGNED = 4
"""A tensor enters the layout if its channels are a multiple of this."""

SMALLEST_BLOCK = 8
"""Tensors of fewer channels are not held in the layout at all."""


def blocked(op: Emit, *values: Value) -> bool:
    """Whether the file runs on the CPU, and these tensors can be in the layout: float32 [N, C, H, W], all sizes known but the batch."""
    return op.runs_on == ON_CPU and op.dtype == TensorProto.FLOAT and all(map(_fits, values))


def _fits(value: Value) -> bool:
    if value.shape is None or len(value.shape) != 4 or value.dtype not in (0, TensorProto.FLOAT):
        return False
    channels, places = value.dim(1) or 0, places_of(value)
    return len(places) == 2 and math.prod(places) > 1 and channels % ALIGNED == 0 and channels >= SMALLEST_BLOCK


def places_of(value: Value) -> list[int]:
    """The sizes of the axes of places of a tensor that is ``blocked``."""
    return [d for d in (value.shape or ())[2:] if isinstance(d, int)]


def small_of(value: Value) -> Value:
    """What one number per channel of such a tensor has for a shape, [N, C, 1, 1]; nameless."""
    return Value("", 0, (*(value.shape or ())[:2], *[1] * len(places_of(value))))


def products(op: Emit, node: NodeView, *values: Value) -> bool:
    """Whether a signal at ``node`` may be masked by products with 0: in the layout, and nothing on the way back can be infinite.

    0 times an infinity is no number, so a Where stays where a slope could be infinite (``NodeView.finite``).
    """
    return node.finite and blocked(op, *values)


def gate(op: Emit, value: Value, like: Value, factor: float = 1.0, shift: float = 0.0) -> Value:
    """``factor`` times ``value`` plus ``shift``, shaped like a tensor that the layout can hold, by a convolution: the one way into it.

    Without it a plain tensor that is added to others pulls them all out of it; ONNX Runtime makes such an addition part of the convolution.
    """
    channels = like.dim(1) or 0
    weight = op.const(np.full((channels, 1, 1, 1), factor, op.np_dtype))
    bias = op.const(np.full(channels, shift, op.np_dtype)) if shift else None
    return op.declared(op.Conv(value, weight, bias, **window_attributes(2, [1, 1], group=channels)), op.dtype, like)
