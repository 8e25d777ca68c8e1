"""Where operators leave the finite numbers: what finite inputs may become (poles, roots, overflow), and what infinite ones become."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from onnx import numpy_helper

from onnxsal.graph import NodeView
from onnxsal.ops.ranges import at, largest
from onnxsal.ops.statements import Edge, EdgeRule, Range, RangeOf, WildOf, WildRule

INFINITE = Edge.ABOVE | Edge.BELOW
NOT_FINITE = INFINITE | Edge.NAN


# ----- what finite inputs may become -----


def over(a: Range, b: Range) -> Edge:
    """a / b: infinite where b is 0, and no number where a is 0 too."""
    if not b[0] <= 0 <= b[1]:
        return Edge.NONE
    return INFINITE | (Edge.NAN if a[0] <= 0 <= a[1] else Edge.NONE)


def quotient(node: NodeView, of: RangeOf) -> Edge:
    """The first input over the second."""
    return over(of(0), of(1))


def inverse(node: NodeView, of: RangeOf) -> Edge:
    """One over the first input."""
    return over((1.0, 1.0), of(0))


def remainder(node: NodeView, of: RangeOf) -> Edge:
    """What is left by a division by the second input."""
    return Edge.NAN if of(1)[0] <= 0 <= of(1)[1] else Edge.NONE


def domain(low: float, high: float, ends: Edge) -> EdgeRule:
    """A function of numbers between ``low`` and ``high``: what ``ends`` says at these, no number beyond."""

    def rule(node: NodeView, of: RangeOf) -> Edge:
        least, most = of(0)
        reached = least <= low or most >= high < math.inf
        beyond = least < low or most > high
        return (ends if reached else Edge.NONE) | (Edge.NAN if beyond else Edge.NONE)

    return rule


def overflowing(*ends: tuple[int, Callable[[Any], Any]]) -> EdgeRule:
    """Functions that grow exponentially: ``ends`` are the ends of the first input's range (0, 1) at which one grows, with the function."""

    def rule(node: NodeView, of: RangeOf) -> Edge:
        found = Edge.NONE
        for end, function in ends:
            value = at(function, of(0)[end])
            if abs(value) > largest(node.y.dtype) or math.isinf(value):
                found |= Edge.ABOVE if value > 0 else Edge.BELOW
        return found

    return rule


def power(node: NodeView, of: RangeOf) -> Edge:
    """x^b: a root at 0 for b < 1, a pole for b < 0, no number where x < 0 and b is not whole; of a changing b it grows exponentially."""
    exponent, (low, high) = node.const(1), of(0)
    if exponent is None or not exponent.size:
        above = Edge.ABOVE if math.inf in (high, abs(of(1)[0]), of(1)[1]) or low <= 0 else Edge.NONE
        return above | (Edge.STEEP if low <= 0 else Edge.NONE) | (Edge.NAN if low < 0 else Edge.NONE)
    b, found = np.asarray(exponent, np.float64), Edge.NONE
    if low <= 0 <= high:
        found |= Edge.STEEP if np.any((b > 0) & (b < 1)) else Edge.NONE
        found |= INFINITE if np.any(b < 0) else Edge.NONE
    return found | (Edge.NAN if low < 0 and np.any(b != np.round(b)) else Edge.NONE)


def exponent_of(node: NodeView) -> float:
    """The exponent of a power, where it is one known number (else 1)."""
    known = node.const(1)
    return float(known.reshape(-1)[0]) if known is not None and known.size == 1 else 1.0


def unless_positive(attribute: str) -> EdgeRule:
    """Divided by a root that only a number above 0 keeps from being 0."""
    return lambda node, of: Edge.NONE if float(node.attr(attribute)) > 0 else NOT_FINITE


def filled(node: NodeView, of: RangeOf) -> Edge:
    """A constant that the node makes of its attribute."""
    value = node.attr("value")
    return held(numpy_helper.to_array(value)) if value is not None else Edge.NONE


def held(array: np.ndarray) -> Edge:
    """What a constant holds."""
    if array.dtype.kind != "f" or not array.size:
        return Edge.NONE
    low, high = float(array.min()), float(array.max())
    if math.isnan(low) or math.isnan(high):
        return NOT_FINITE
    return (Edge.BELOW if low == -math.inf else Edge.NONE) | (Edge.ABOVE if high == math.inf else Edge.NONE)


# ----- what becomes of infinities -----


def limit(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """A function of the first input that never falls: infinities become its limits."""
    return wild(0)


def falling(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """A function of the first input that never grows."""
    return turned(wild(0))


def turned(edge: Edge) -> Edge:
    """Of the value with the other sign."""
    swapped = (Edge.BELOW if Edge.ABOVE in edge else Edge.NONE) | (Edge.ABOVE if Edge.BELOW in edge else Edge.NONE)
    return swapped | (edge & Edge.NAN)


def size(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """|x|, or something that grows with it."""
    return (Edge.ABOVE if wild(0) & INFINITE else Edge.NONE) | (wild(0) & Edge.NAN)


def increasing_from(low: float) -> WildRule:
    """A function that never falls and is not defined below ``low``."""
    return lambda node, wild, of: (wild(0) & ~Edge.BELOW) | (Edge.NAN if Edge.BELOW in wild(0) else Edge.NONE)


def summed(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """A sum of elements or tensors: no number where infinities of both signs meet."""
    return met(*(wild(i) for i in range(len(node.inputs))))


def difference(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """The first input less the second."""
    return met(wild(0), turned(wild(1)))


def any_of(edges: Iterable[Edge]) -> Edge:
    """What one of these may be."""
    found = Edge.NONE
    for edge in edges:
        found |= edge
    return found


def met(*edges: Edge) -> Edge:
    """What a sum of these may be."""
    found = any_of(edges)
    return found | Edge.NAN if found & INFINITE == INFINITE else found


def times(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """A product of two tensors: no number where 0 meets an infinity."""
    found = (wild(0) | wild(1)) & Edge.NAN
    for i in (0, 1):
        if wild(i) & INFINITE:
            low, high = of(1 - i)
            found |= (wild(i) if low >= 0 else turned(wild(i)) if high <= 0 else INFINITE) | (Edge.NAN if low <= 0 <= high else Edge.NONE)
    return found


def divided(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """A quotient: an infinite divisor makes 0 of it."""
    found = (wild(0) | wild(1)) & Edge.NAN
    if wild(0) & INFINITE:
        found |= (wild(0) if of(1)[0] >= 0 else INFINITE) | (Edge.NAN if wild(1) & INFINITE else Edge.NONE)
    return found


def by_weight(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """The logarithm of a sum of exponentials: elements of minus infinity have no weight in it, and it is finite beside them.

    A formula of such an operator guards itself: that an input is not finite says nothing of the output.
    """
    return wild(0)


def largest_of(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """The largest of some elements: of minus infinity and a number it is the number."""
    return _every(node, wild) & ~Edge.BELOW


def smallest_of(node: NodeView, wild: WildOf, of: RangeOf) -> Edge:
    """The smallest of some elements."""
    return _every(node, wild) & ~Edge.ABOVE


def _every(node: NodeView, wild: WildOf) -> Edge:
    return any_of([wild(i) for i in range(len(node.proto.input))])
