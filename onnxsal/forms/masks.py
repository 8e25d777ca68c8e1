"""A signal times the slope of an activation, where that is 0, 1 or made of few numbers.

The blocked forms multiply by HardSigmoid(y) = max(0, min(1, alpha y + beta)), which with a huge alpha is 1 on one side of a bound and 0 on
the other: the smallest normal number times ``STEEP`` is above 2, and the next number to 1, 3 or 6 is at least 2^-24 away, times ``FIRM``
far above 1. (A y below the smallest normal number counts as 0.) No beta is 0: OpenVINO takes its default for that. What asks y, and not the
activation's input, leaves the activation fused into the convolution before it.
"""

from __future__ import annotations

import math

from onnxsal.forms.choice import blocked, gate, places_of, products, small_of
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import mask

STEEP = 3e38
"""Makes 1 of every positive number that is not below the smallest normal one."""

FIRM = 2.0**40
"""Makes 1 of the distance of two neighbours of single precision around 1 to 8. A power of two, so a bound times it is exact."""


def where_positive(op: Emit, node: NodeView, y: Value, dy: Value) -> Value:
    """dy where y > 0, else 0, for a y that is never negative."""
    if products(op, node, y):
        return op.Mul(dy, _positive(op, y))
    return mask(op, op.Greater(y, 0.0), dy)


def where_inside(op: Emit, node: NodeView, y: Value, dy: Value, top: float) -> Value | None:
    """dy where 0 < y < ``top``, else 0, for a y between these; ``None`` where the layout cannot hold them."""
    if not products(op, node, y):
        return None
    return op.Mul(_under(op, y, dy, top), _positive(op, y))


def keeps_top(op: Emit, node: NodeView, y: Value, top: float, rest: Value) -> Value:
    """``rest``, what an activation keeps that is cut off at ``top``: ``top`` where y is there, else 0. In the layout the sum of a signal
    times it is known without either: ``top`` times what of the signal is lost there.
    """
    if products(op, node, y):
        count = float(math.prod(places_of(y)))

        def sums(dy: Value) -> Value:
            return op.Mul(op.Sub(_mean(op, dy, y), _mean(op, _under(op, y, dy, top), y)), top * count)

        op.cached(("sums", rest.name), lambda: sums)
    return rest


def channel_sums(op: Emit, dy: Value, kept: Value) -> Value | None:
    """The sums of dy times what a node keeps over all places of each channel, [N, C, 1, 1], where a form of them is known."""
    known = op.found(("sums", kept.name))
    return None if known is None else known(dy)


def _mean(op: Emit, value: Value, like: Value) -> Value:
    return op.declared(op.GlobalAveragePool(value), op.dtype, small_of(like))


def _under(op: Emit, y: Value, dy: Value, top: float) -> Value:
    """dy where y < ``top``, else 0."""
    return op.cached(("under", dy.name, y.name, top), lambda: op.Mul(dy, _below(op, y, top)))


def leaky(op: Emit, node: NodeView, sign: Value, dy: Value, alpha: float) -> Value:
    """dy where ``sign`` > 0, else alpha dy."""
    if products(op, node, sign):
        return op.Mul(dy, gate(op, _positive(op, sign), sign, 1.0 - alpha, alpha))
    return op.Where(op.Greater(sign, 0.0), dy, op.Mul(dy, alpha))


def hard_swish(op: Emit, node: NodeView, x: Value, dy: Value) -> Value:
    """(x / 3 + 1/2) dy where |x| < 3, dy above, 0 below: [x > -3] (1 + [x < 3] (x / 3 - 1/2)) dy."""
    if products(op, node, x):
        passed = op.Mul(dy, op.HardSigmoid(x, alpha=FIRM, beta=3 * FIRM))
        return op.Add(passed, op.Mul(passed, op.Mul(gate(op, x, x, 1 / 3, -0.5), _below(op, x, 3.0))))
    curve = op.Mul(dy, op.Add(op.Mul(x, 1 / 3), 0.5))
    return op.Where(op.Less(op.Abs(x), 3.0), curve, mask(op, op.Greater(x, 0.0), dy))


def complement(op: Emit, y: Value, like: Value) -> Value:
    """1 - y, of the shape of ``like``."""
    return gate(op, y, like, -1.0, 1.0) if blocked(op, like) else op.Sub(1.0, y)


def _positive(op: Emit, y: Value) -> Value:
    """1 where y > 0, else 0."""
    return op.cached(("positive", y.name), lambda: op.HardSigmoid(y, alpha=STEEP, beta=-1.0))


def _below(op: Emit, y: Value, top: float) -> Value:
    """1 where y < ``top``, else 0."""
    return op.cached(("below", y.name, top), lambda: op.HardSigmoid(y, alpha=-FIRM, beta=top * FIRM))
