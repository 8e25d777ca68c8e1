"""Bounds of a layer's input, from those of the model's input: what rule z-box needs."""

from __future__ import annotations

from typing import Any

from onnxsal.backward.affine import Affine
from onnxsal.backward.walk import walk_of
from onnxsal.errors import MethodError, UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import like_shape
from onnxsal.graph.replay import dependents, replay, replica
from onnxsal.ops.registry import spec_of
from onnxsal.settings import numbers_of, shown

ELEMENTWISE = ("movement", "add", "product", "quantize")
"""Families in which every element is made of one element of the input (and constants), monotonically."""


def bounds_at(op: Emit, affine: Affine, low: Any, high: Any) -> tuple[Value, Value]:
    """The bounds in the shape of the layer's input. What normalises the input inside the model is applied to them too."""
    x = walk_of(op).input or affine.a
    ends = [_given(op, affine.node, x, value, name) for value, name in ((low, "low"), (high, "high"))]
    between = [] if x.name == affine.a.name else dependents(affine.node.model, x.name, [affine.a.name])
    if not between:
        return like_shape(op, ends[0], affine.a), like_shape(op, ends[1], affine.a)
    for node in between:
        spec = spec_of(node)
        if spec is None or (spec.family not in ELEMENTWISE and spec.scaling is None):
            raise UnsupportedError(
                f"{affine.node.label}: rule 'zbox' knows the bounds of '{x.name}', and {node.label} lies between. Take another input rule."
            )
    reached = []
    for end, side in zip(ends, ("low", "high"), strict=True):
        prefix = op.apart(f"{side}/{affine.node.name}")
        view = replica(affine.node.model, x.name, [affine.a.name], prefix)
        replay(op, view, f"{prefix}/{x.name}", like_shape(op, end, x))
        reached.append(view.value(f"{prefix}/{affine.a.name}"))
    return op.Min(*reached), op.Max(*reached)


def _given(op: Emit, node: NodeView, x: Value, given: Any, name: str) -> Value:
    """A bound as a tensor that broadcasts to x; a list of numbers is one per channel."""
    numbers = numbers_of(given)
    if numbers is None:
        raise MethodError(
            f"{node.label}: {name} = {shown(given)} is not a number. 'black' and 'white' need the preprocessing (--preprocess, or black= "
            "and white= in Python); else give the bound of the model's input as a number, or as one number per channel."
        )
    numbers = numbers.astype(op.np_dtype)
    if numbers.ndim == 1 and numbers.size > 1:
        axes = [a for a in ([1] if x.rank > 2 else []) + [x.rank - 1] if x.dim(a) in (None, numbers.size)]
        if not axes:
            raise MethodError(f"{node.label}: {name} has {numbers.size} numbers, but input '{x.name}' has shape {list(x.shape or ())}.")
        numbers = numbers.reshape([-1 if a == axes[0] else 1 for a in range(x.rank)])
    if numbers.ndim > x.rank:
        raise MethodError(f"{node.label}: {name} has {numbers.ndim} dimensions, input '{x.name}' has {x.rank}.")
    return op.const(numbers.reshape((1,) * (x.rank - numbers.ndim) + numbers.shape))
