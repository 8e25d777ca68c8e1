"""Weighted sums: convolutions and matrix products. Each is multilinear in its operands, plus a bias."""

from __future__ import annotations

import math

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import unbroadcast
from onnxsal.ops.axes import aligned, convolution
from onnxsal.ops.places import matrix_product, spread_windows, windows
from onnxsal.ops.ranges import NOT_NEGATIVE
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import ANY, APART, SUMMED, Moved, Range, RangeOf, Roles, Units
from onnxsal.ops.windows import correlate, gather, spread, transposed_window_of, window_of


def _times(op: Emit, value: Value, factor: int) -> Value | None:
    if factor in (0, 1):
        return value if factor else None
    return op.Neg(value) if factor == -1 else op.Mul(value, float(factor))


def multilinear_bias(op: Emit, node: NodeView, factors: int, constant: Value | None, active: bool) -> Value | None:
    """r = (1 - n) y + (n - c) b for a multilinear y with bias b: n of its factors are active, and c is 1 if the bias is active."""
    first = _times(op, node.y, 1 - factors)
    second = None if constant is None else _times(op, constant, factors - int(active))
    return op.Add(first, second) if first is not None and second is not None else first or second


LARGE = 2**20
"""Of a weight with more elements it is not looked whether they are all positive: that is said of filter banks, not of learned layers."""


def _weighted_range(node: NodeView, of: RangeOf) -> Range:
    """What is not negative stays so where no weight and no bias is negative: energies in the bands of a filter bank."""
    weight = node.input(1).static
    if of(0)[0] < 0 or weight is None or math.prod(weight) > LARGE:
        return ANY
    rest = [i for i in range(1, len(node.inputs)) if node.optional(i) is not None]
    return NOT_NEGATIVE if all(of(i)[0] >= 0 for i in rest) and float(node.attr("alpha") or 1.0) >= 0 else ANY


# ----- convolutions -----


def _groups(node: NodeView) -> int:
    return int(node.attr("group", 1))


def _convolution_bias(op: Emit, node: NodeView) -> Value | None:
    """The bilinear rule, with the bias per channel."""
    bias = node.optional(2)
    return multilinear_bias(
        op, node, sum(node.wants[:2]), None if bias is None else op.Reshape(bias, [-1] + [1] * (node.x.rank - 2)), node.want(2)
    )


def _bias_gradient(op: Emit, node: NodeView, dy: Value) -> Value | None:
    """db = dy summed over everything but the channels."""
    return op.ReduceSum(dy, [0, *range(2, node.x.rank)], keepdims=0) if node.want(2) else None


@gradient_of(
    "Conv",
    family="linear",
    axes=convolution,
    range=_weighted_range,
    pictures=True,
    trained=(1, 2),
    places=windows(channels=True),
    bias=_convolution_bias,
    roles=Roles((0, 1), (2,)),
    units=Units(along=lambda node: 0, axis=lambda node: 1, inputs=lambda node: 1, groups=_groups, slides="gathers"),
    cases=[
        case((2, 6, 5, 6), (7, 6, 3, 3), (7,), pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        case((2, 6, 5, 6), (7, 6, 3, 2), pads=[0, 1, 2, 0]),
        case((1, 3, 6, 6), (4, 3, 3, 3), (4,), pads=[1, 1, 1, 1]),
        case((1, 3, 6, 6), (4, 3, 3, 3), pads=[0, 1, 1, 0]),
        case((2, 6, 7, 8), (5, 6, 3, 3), (5,), strides=[2, 2], pads=[1, 1, 1, 1]),
        case((2, 6, 7, 8), (5, 6, 3, 3), strides=[2, 2], pads=[0, 0, 1, 1]),
        case((1, 6, 7, 9), (5, 6, 3, 2), strides=[3, 2], dilations=[2, 1], pads=[2, 1, 0, 0]),
        case((1, 6, 8, 8), (5, 6, 1, 1), (5,), strides=[2, 2]),
        case((2, 6, 4, 5), (8, 6, 1, 1)),
        case((2, 6, 7, 6), (6, 1, 3, 3), (6,), group=6, pads=[1, 1, 1, 1]),
        case((2, 6, 7, 6), (12, 1, 3, 3), group=6, strides=[2, 2], pads=[1, 1, 1, 1]),
        case((2, 6, 5, 6), (4, 3, 3, 3), (4,), group=2, pads=[1, 1, 1, 1]),
        case((2, 6, 6, 6), (9, 2, 2, 3), group=3, strides=[2, 1], dilations=[1, 2], pads=[1, 0, 0, 2]),
        case((2, 5, 9), (3, 5, 4), (3,), pads=[5, 4], strides=[1]),
        case((2, 5, 9), (3, 5, 3), pads=[2, 1], strides=[2], dilations=[2]),
        case((1, 5, 4, 5, 4), (3, 5, 3, 2, 2), (3,), pads=[1, 0, 1, 1, 1, 0]),
        case((1, 2, 5, 5, 4), (2, 2, 3, 2, 2), strides=[2, 2, 1], pads=[1, 0, 1, 1, 1, 0]),
        case((1, 6, 7, 8), (5, 6, 3, 4), auto_pad="SAME_UPPER"),
        case((1, 6, 7, 8), (5, 6, 3, 4), auto_pad="SAME_LOWER", strides=[2, 2]),
        case((1, 6, 7, 8), (5, 6, 3, 4), auto_pad="SAME_UPPER", strides=[2, 3], kernel_shape=[3, 4]),
        case((1, 6, 7, 8), (5, 6, 3, 4), auto_pad="SAME_UPPER", strides=[5, 5]),
        case((1, 6, 7, 8), (5, 6, 3, 4), auto_pad="VALID", strides=[2, 1]),
        case((1, 6, 5, 5), (5, 6, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1], fixed=[1]),
    ],
)
def conv(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx[s p + d k - b] += dy[p] W[k];  dW[k] = sum_p dy[p] x[s p + d k - b];  db = sum dy."""
    window, weight, group = window_of(op, node), node.input(1), node.attr("group", 1)
    dx = spread(op, dy, weight, window, group, like=node.x) if node.want(0) else None
    dw = correlate(op, node.x, dy, weight, window, group) if node.want(1) else None
    return node.grads(dx, dw, _bias_gradient(op, node, dy))


@gradient_of(
    "ConvTranspose",
    family="linear",
    axes=convolution,
    pictures=True,
    trained=(1, 2),
    places=spread_windows,
    bias=_convolution_bias,
    roles=Roles((0, 1), (2,)),
    units=Units(along=lambda node: 1, axis=lambda node: 1, inputs=lambda node: 1, groups=_groups, slides="scatters"),
    cases=[
        case((2, 3, 4, 5), (3, 4, 3, 3), (4,)),
        case((2, 3, 4, 5), (3, 4, 3, 3), (4,), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        case((2, 3, 4, 5), (3, 4, 2, 3), strides=[3, 2], pads=[0, 1, 1, 0], output_padding=[2, 0]),
        case((1, 3, 4, 5), (3, 4, 3, 2), strides=[2, 1], dilations=[2, 3], pads=[1, 2, 1, 0]),
        case((2, 4, 4, 4), (4, 3, 3, 3), (6,), group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        case((2, 4, 4, 4), (4, 1, 3, 3), group=4),
        case((1, 3, 4, 3), (3, 2, 3, 3), strides=[2, 2], output_shape=[8, 7]),
        case((1, 3, 4, 3), (3, 2, 3, 3), (2,), strides=[2, 2], output_shape=[8, 6], auto_pad="SAME_UPPER"),
        case((1, 3, 4, 3), (3, 2, 3, 4), strides=[2, 2], output_shape=[8, 6], auto_pad="SAME_LOWER"),
        case((1, 3, 4, 3), (3, 2, 3, 3), strides=[2, 2], output_shape=[10, 8], output_padding=[1, 1]),
        case((1, 3, 4, 3), (3, 2, 5, 4), strides=[2, 2], auto_pad="SAME_UPPER"),
        case((1, 3, 4, 3), (3, 2, 5, 4), strides=[2, 1], auto_pad="SAME_LOWER"),
        case((1, 3, 4, 3), (3, 2, 3, 4), strides=[2, 2], auto_pad="VALID"),
        case((2, 3, 5), (3, 2, 4), (2,), strides=[2], pads=[1, 2]),
        case((1, 2, 3, 2, 3), (2, 2, 2, 3, 2), (2,), strides=[2, 1, 2], pads=[0, 1, 0, 0, 1, 1]),
    ],
)
def conv_transpose(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx[p] = sum_k dy[s p + d k - b] W[k];  dW[k] = sum_p x[p] dy[s p + d k - b];  db = sum dy."""
    window, weight, group = transposed_window_of(op, node), node.input(1), node.attr("group", 1)
    dx = gather(op, dy, weight, window, group) if node.want(0) else None
    dw = correlate(op, dy, node.x, weight, window, group) if node.want(1) else None
    return node.grads(dx, dw, _bias_gradient(op, node, dy))


# ----- matrix products -----


def _gemm_bias(op: Emit, node: NodeView) -> Value | None:
    """The bilinear rule, with beta C as the bias."""
    c, beta = node.optional(2), node.attr("beta", 1.0)
    return multilinear_bias(op, node, sum(node.wants[:2]), c if c is None or beta == 1.0 else op.Mul(c, float(beta)), node.want(2))


def _gemm_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Rows of A and columns of B stay; what is summed gives way to the units."""
    if i == 2:
        return aligned(node, i, axis, j)
    turned = bool(node.attr("transB" if i else "transA"))
    if axis == (int(not turned) if i else int(turned)):
        return i, APART
    return (1, SUMMED) if i == 0 else None


def _gemm_matrix(node: NodeView, i: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Rows of A, columns of B; the others are summed."""
    if i > 1:
        return None
    row = int(bool(node.attr("transB" if i else "transA"))) ^ i
    return (row,), (1 - row,)


@gradient_of(
    "Gemm",
    family="linear",
    axes=_gemm_axes,
    range=_weighted_range,
    trained=(0, 1, 2),
    places=matrix_product,
    bias=_gemm_bias,
    roles=Roles((0, 1), (2,), flips=lambda node: float(node.attr("alpha", 1.0)) < 0, matrix=_gemm_matrix),
    units=Units(
        along=lambda node: 0 if node.attr("transB") else 1,
        axis=lambda node: 1,
        inputs=lambda node: 0 if node.attr("transA") else 1,
        scale=lambda node: float(node.attr("alpha", 1.0)),
    ),
    cases=[
        case((3, 4), (4, 5), (5,)),
        case((3, 4), (5, 4), (5,), transB=1),
        case((4, 3), (4, 5), (3, 1), transA=1, alpha=0.5, beta=1.5),
        case((4, 3), (5, 4), (3, 5), transA=1, transB=1, alpha=2.0),
        case((3, 4), (4, 5)),
        case((3, 4), (4, 5), (), beta=0.5),
        case((3, 4), (4, 5), (1, 5)),
        case((1, 4), (4, 5), (1, 5)),
    ],
)
def gemm(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dA' = alpha dY B'^T;  dB' = alpha A'^T dY;  dC = beta dY summed to the shape of C (A', B': transposed where asked)."""
    trans_a, trans_b = bool(node.attr("transA")), bool(node.attr("transB"))
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    a, b, c = node.x, node.input(1), node.optional(2)

    def product(left: Value, right: Value, trans_left: bool, trans_right: bool) -> Value:
        scale = None if alpha == 1.0 else alpha
        return op.Gemm(left, right, alpha=scale, transA=int(trans_left) or None, transB=int(trans_right) or None)

    da = db = dc = None
    if node.want(0):
        da = product(b, dy, trans_b, True) if trans_a else product(dy, b, False, not trans_b)
    if node.want(1):
        db = product(dy, a, True, trans_a) if trans_b else product(a, dy, not trans_a, False)
    if node.want(2) and c is not None:
        dc = unbroadcast(op, dy if beta == 1.0 else op.Mul(dy, beta), node.y, c)
    return node.grads(da, db, dc)


def _swapped(op: Emit, value: Value, rank: int) -> Value:
    """The transposes of a stack of matrices."""
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matmul_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Rows of the first and columns of the second stay, and the axes of stacks; what is summed over rows gives way to the units."""
    own, other = node.input(i).rank, node.input(1 - i).rank
    if axis < own - 2:
        place = aligned(node, i, axis, j) if other > 1 else (axis, APART)
        return place if other > 1 or place is None else (axis, APART)
    if i == 0 and axis == own - 2:
        return (node.y.rank - (2 if other > 1 else 1), APART)
    if i == 0:
        return (node.y.rank - 1, SUMMED) if other > 1 else None
    return (node.y.rank - 1, APART) if axis == own - 1 and own > 1 else None


def _matmul_matrix(node: NodeView, i: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows of the first, columns of the second; a vector has none, and its elements are summed."""
    last = node.input(i).rank - 1
    if last == 0:
        return (), (0,)
    return ((last,), (last - 1,)) if i else ((last - 1,), (last,))


@gradient_of(
    "MatMul",
    family="linear",
    axes=_matmul_axes,
    range=_weighted_range,
    trained=(0, 1),
    places=matrix_product,
    bias="product",
    roles=Roles((0, 1), matrix=_matmul_matrix),
    units=Units(
        along=lambda node: None if node.input(1).rank == 1 else node.input(1).rank - 1,
        axis=lambda node: node.y.rank - 1,
        inputs=lambda node: node.x.rank - 1,
    ),
    cases=[
        case((3, 4), (4, 5)),
        case((2, 3, 4), (4, 5)),
        case((2, 1, 3, 4), (5, 4, 2)),
        case((3, 4), (2, 4, 5)),
        case((2, 3, 4), (1, 4, 5)),
        case((4,), (4,)),
        case((4,), (4, 3)),
        case((4,), (2, 4, 3)),
        case((3, 4), (4,)),
        case((2, 3, 4), (4,)),
        case((2, 1, 1, 4), (1, 3, 4, 1)),
    ],
)
def matmul(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dA = dY B^T;  dB = A^T dY, summed over the axes along which an operand was repeated."""
    a, b = node.x, node.input(1)
    if a.rank == b.rank == 1:
        return [op.Mul(dy, b) if node.want(0) else None, op.Mul(dy, a) if node.want(1) else None]
    # A vector counts as a matrix with one row (left) or one column (right).
    row, column = a.rank == 1, b.rank == 1
    batch = (node.y.shape or ())[: node.y.rank - 2 + row + column]
    inner = (a.shape or ())[-1]
    dy = op.Unsqueeze(dy, [-2 if row else -1]) if row or column else dy
    da = db = None
    if node.want(0):
        right = op.Unsqueeze(b, [0]) if column else _swapped(op, b, b.rank)
        g = op.MatMul(dy, right)
        da = unbroadcast(op, g, Value(g.name, 0, (*batch, 1 if row else (a.shape or ())[-2], inner)), a)
    if node.want(1) and b.rank <= 2 and not row:
        # One matrix for the whole stack: one product of all rows.
        db = op.Gemm(_flat(op, a, a.rank), _flat(op, dy, len(batch) + 2), transA=1)
        db = op.Squeeze(db, [1]) if column else db
    elif node.want(1):
        g = op.MatMul(op.Unsqueeze(a, [1]) if row else _swapped(op, a, a.rank), dy)
        db = unbroadcast(op, g, Value(g.name, 0, (*batch, inner, (b.shape or ())[-1])), b)
    return [da, db]


def _flat(op: Emit, value: Value, rank: int) -> Value:
    """A stack of matrices as one matrix with all their rows."""
    return value if rank == 2 else op.Flatten(value, axis=rank - 1)
