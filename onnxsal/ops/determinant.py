"""Determinants."""

from __future__ import annotations

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import float_size
from onnxsal.graph.helpers import cast, dim_of, ones_like
from onnxsal.ops.registry import case, gradient_of

LARGEST = 64
"""Of larger matrices the minors would be too many: there are n^2 of n^2 elements."""


def _without_one(op: Emit, node: NodeView, size: int | None) -> Value:
    """[n, n - 1]: for each index the others."""
    if size is not None:
        return op.const(np.array([[k for k in range(size) if k != i] for i in range(size)], np.int64).reshape(size, size - 1))
    count = op.Squeeze(dim_of(op, node.x, node.x.rank - 1), [0])
    kept = op.Unsqueeze(op.Range(0, op.Sub(count, 1), 1), [0])
    left_out = op.Unsqueeze(op.Range(0, count, 1), [1])
    return op.Add(kept, op.Where(op.GreaterOrEqual(kept, left_out), np.asarray(1), np.asarray(0)))


def _degree(op: Emit, node: NodeView) -> Value:
    """y - J x = (1 - n) y: a determinant is of degree n."""
    size = float_size(op, node.x, node.x.rank - 1)
    number = op.Reshape(size, np.zeros(0, np.int64)) if isinstance(size, Value) else float(size[0])
    return op.Mul(node.y, op.Sub(1.0, number) if isinstance(number, Value) else 1.0 - number)


@gradient_of(
    "Det",
    family="reduction",
    bias=_degree,
    cases=[
        case((3, 3)),
        case((2, 4, 4)),
        case((2, 3, 1, 1)),
        case((2, 2, 2)),
        case(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])),
        case(np.zeros((3, 3))),
    ],
)
def det(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_ij = dy (-1)^(i + j) times the determinant without row i and column j, also where x has no inverse."""
    x, last = node.x, node.x.rank - 1
    size = x.dim(last) or x.dim(last - 1)
    if size == 1:
        return [op.Mul(op.Unsqueeze(dy, [-1, -2]), ones_like(op, x))]
    if size is not None and size > LARGEST:
        raise UnsupportedError(f"{node.label}: a gradient is known for matrices of up to {LARGEST} rows, not {size}.")
    others = _without_one(op, node, size)
    # [..., n, n - 1, n, n - 1]: row that is left out, rows, column that is left out, columns
    parts = op.Gather(op.Gather(x, others, axis=last - 1), others, axis=last + 1)
    order = [*range(last - 1), last - 1, last + 1, last, last + 2]
    minors = op.Det(op.Transpose(parts, perm=order))
    place = op.Range(0, op.Squeeze(dim_of(op, x, last), [0]), 1)
    sign = op.Sub(1.0, op.Mul(cast(op, op.Mod(op.Add(op.Unsqueeze(place, [1]), place), 2)), 2.0))
    return [op.Mul(op.Mul(minors, sign), op.Unsqueeze(dy, [-1, -2]))]
