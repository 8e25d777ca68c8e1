"""Scattered elements that are added where they meet: each position is a sum of its own, and its relevance is split as an addition's is."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsal.backward.registry import rule
from onnxsal.backward.residual import SMALLEST, SPLITS
from onnxsal.backward.walk import walk_of
from onnxsal.errors import MethodError, UnsupportedError
from onnxsal.graph import Emit, NodeView, Signals, Value
from onnxsal.graph.helpers import ones_like, signed_epsilon, zeros_like
from onnxsal.ops.indexing import Spots
from onnxsal.ops.registry import vjp


@rule("meet", families=("movement",))
def meet(op: Emit, node: NodeView, dys: Signals, *, how: str = "ratio", epsilon: float = 1e-6) -> Signals:
    """R_i = |x_i| J_i^T (R / sum_j |x_j|) of the elements that are added at a position (ratio), R / n of each of n (symmetric), or
    x_i J_i^T (R / (sum_j x_j + epsilon sgn)) (signed, not bounded).

    As in an addition, constants take nothing, but for positions at which nothing else arrives: what lands there is written down.
    """
    (r,) = dys
    assert r is not None
    if how not in SPLITS:
        raise MethodError(f"rule 'meet': how = '{how}' is not known; known: {', '.join(SPLITS)}.")
    if node.attr("reduction") != "add":
        raise UnsupportedError(f"{node.label}: rule 'meet' splits sums, and nothing is added here. Name another rule for it.")
    spots, followed = Spots(op, node), [i for i, wanted in enumerate(node.wants) if wanted]
    parts = {i: _size(op, node.input(i), how) if i in followed else zeros_like(op, node.input(i)) for i in (0, 2)}
    total = spots.put(parts[0], parts[2], "add")
    constant = op.Equal(_count(op, spots, followed) if how == "signed" else total, 0.0)
    if how == "signed":
        added = signed_epsilon(op, total, epsilon)
        s = op.Where(constant, 0.0, op.Div(r, op.Add(total, added)))
        _enter(op, node, leak=op.Mul(s, added))
    else:
        s = op.Div(r, op.Where(constant, float("inf"), total))
    _enter(op, node, bias=op.Where(constant, r, 0.0))
    return [op.Mul(parts[i], signal) if signal is not None else None for i, signal in enumerate(vjp(op, node, [s]))]


def _size(op: Emit, x: Value, how: str) -> Value:
    if how == "symmetric":
        return ones_like(op, x)
    return x if how == "signed" else op.Add(op.Abs(x), SMALLEST)


def _count(op: Emit, spots: Spots, followed: Sequence[int]) -> Value:
    """How many elements that are followed meet at each position."""
    ones = {i: ones_like(op, v) if i in followed else zeros_like(op, v) for i, v in ((0, spots.data), (2, spots.updates))}
    return spots.put(ones[0], ones[2], "add")


def _enter(op: Emit, node: NodeView, bias: Value | None = None, leak: Value | None = None) -> None:
    book = walk_of(op).book
    if book is not None and bias is not None:
        book.bias.append((book.total(op, node.y, bias), op.dtype))
    if book is not None and leak is not None:
        book.leak.append((book.total(op, node.y, leak), op.dtype))
