"""What operators do to the range of values: the few forms that most of them share. An operator with a form of its own states it itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxsal.graph import NodeView
from onnxsal.ops.statements import ANY, Range, RangeOf, RangeRule

UNIT: Range = (0.0, 1.0)
SIGNED_UNIT: Range = (-1.0, 1.0)
NOT_NEGATIVE: Range = (0.0, math.inf)
ZERO: Range = (0.0, 0.0)


def hull(*parts: Range) -> Range:
    """The smallest range that holds all of these."""
    return min(p[0] for p in parts), max(p[1] for p in parts)


def product(a: Range, b: Range) -> Range:
    """The range of products."""
    corners = [0.0 if 0 in (p, q) else p * q for p in a for q in b]
    return min(corners), max(corners)


def sum_of(parts: Sequence[Range]) -> Range:
    """The range of sums."""
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def by_sign(node: NodeView, of: RangeOf) -> Range:
    """What sums any number of elements, or scales them by positive numbers, keeps no more than their sign."""
    low, high = of(0)
    return 0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf


def same(node: NodeView, of: RangeOf) -> Range:
    """The elements of the first input, or means and choices of them."""
    return of(0)


def with_zero(node: NodeView, of: RangeOf) -> Range:
    """As the first input, with zeros beside it."""
    return hull(of(0), ZERO)


def at(function: Callable[[float], Any], value: float) -> float:
    """A function of a real number at an end of a range, in double precision; overflow is infinite."""
    with np.errstate(all="ignore"):
        return float(function(np.float64(value)))


def growing(function: Callable[[Any], Any]) -> RangeRule:
    """A function of the first input, element by element, that never falls."""
    return lambda node, of: (at(function, of(0)[0]), at(function, of(0)[1]))


def bent(lowest: float) -> RangeRule:
    """Smooth relatives of the ReLU: between ``lowest`` and max(x, 0), and never negative where x is not."""
    return lambda node, of: (0.0 if of(0)[0] >= 0 else lowest, max(of(0)[1], 0.0))


def magnitude(a: Range) -> Range:
    """The range of |x|."""
    ends = abs(a[0]), abs(a[1])
    return 0.0 if a[0] <= 0 <= a[1] else min(ends), max(ends)


def inverse(a: Range) -> Range:
    """The range of 1 / x, where x cannot be 0."""
    return ANY if a[0] <= 0 <= a[1] else (1 / a[1], 1 / a[0])


def powers(node: NodeView, of: RangeOf) -> Range:
    """Products of any number of elements of the first input."""
    low, high = of(0)
    if low >= 0:
        return UNIT if high <= 1 else NOT_NEGATIVE
    return SIGNED_UNIT if low >= -1 and high <= 1 else ANY


def grid(dtype: int) -> Range:
    """Smallest and largest value of an element type: of the integers and truth values; anything for the others."""
    name = TensorProto.DataType.Name(dtype) if dtype in TensorProto.DataType.values() else ""
    if dtype == TensorProto.BOOL:
        return UNIT
    digits = name.removeprefix("U").removeprefix("INT")
    if not digits.isdigit():
        return ANY
    bits = int(digits)
    return (0.0, 2.0**bits - 1) if name.startswith("U") else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def largest(dtype: int) -> float:
    """The largest finite value of a floating-point type that numpy knows, else infinity."""
    known = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    return float(np.finfo(helper.tensor_dtype_to_np_dtype(dtype)).max) if dtype in known else math.inf


FAMILIES: dict[str, RangeRule] = {"max_pool": same, "average_pool": same, "movement": same}
"""What the operators of a family do to ranges, unless they state something else: choices, means and copies of elements."""
