"""LRN: division by what neighbouring channels hold."""

from __future__ import annotations

from dataclasses import replace

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import reshape_like
from onnxsal.ops.axes import within
from onnxsal.ops.normalization import nothing
from onnxsal.ops.ranges import by_sign
from onnxsal.ops.registry import Held, case, gradient_of
from onnxsal.ops.statements import ANY, Range, RangeOf


def _window(op: Emit, t: Value, before: int, after: int) -> Value:
    """Mean of ``t`` [N, C, ...], over the channels c - before ... c + after (absent ones count as 0), as [N, 1, C, positions].

    Pads that differ are written as a Pad: the CUDA provider's pooling only honours equal ones.
    """
    rows = op.Unsqueeze(op.Reshape(t, [0, 0, -1]), [1])
    if before != after:
        rows = op.Pad(rows, [0, 0, before, 0, 0, 0, after, 0])
        return op.AveragePool(rows, kernel_shape=[before + after + 1, 1])
    return op.AveragePool(rows, kernel_shape=[before + after + 1, 1], pads=[before, 0, after, 0], count_include_pad=1)


def _lrn(op: Emit, node: NodeView) -> tuple[int, int, Value]:
    """How far the window reaches down and up, and d = bias + alpha mean(x^2)."""
    before, after = (node.attr("size") - 1) // 2, node.attr("size") // 2
    squares = reshape_like(op, _window(op, op.Mul(node.x, node.x), before, after), node.x)
    return before, after, op.Add(op.Mul(squares, node.attr("alpha")), node.attr("bias"))


def _lrn_bias(op: Emit, node: NodeView) -> Value:
    """r = 2 beta y (1 - bias / d)."""
    _, _, d = _lrn(op, node)
    return op.Mul(op.Mul(node.y, 2.0 * node.attr("beta")), op.Sub(1.0, op.Div(node.attr("bias"), d)))


def _held_lrn(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy d^-beta."""
    _, _, d = _lrn(op, node)
    return [op.Mul(dy, op.Pow(d, -node.attr("beta")))]


_EVEN = "ONNX Runtime runs LRN with an odd size only"


def _lrn_range(node: NodeView, of: RangeOf) -> Range:
    """x over a positive number."""
    return by_sign(node, of) if float(node.attr("bias")) >= 0 and float(node.attr("alpha")) >= 0 else ANY


@gradient_of(
    "LRN",
    family="normalization",
    axes=within([1]),
    pictures=True,
    range=_lrn_range,
    held=Held(_held_lrn, nothing),
    bias=_lrn_bias,
    cases=[
        case((2, 5, 2, 2), size=3, alpha=0.8, beta=0.6, bias=1.3),
        replace(case((2, 5, 2, 2), size=4, alpha=0.8, beta=0.75, bias=0.7), static_only=_EVEN),
        replace(case((1, 4, 1, 3), size=2, alpha=0.5), static_only=_EVEN),
        case((3, 3, 2, 1), size=7, alpha=0.5, beta=1.5),
        case((2, 2, 3, 1), size=1, alpha=0.5),
    ],
)
def lrn(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy d^-beta - 2 alpha beta x mean'(dy x d^(-beta-1)), y = x d^-beta; mean' runs over the mirrored window."""
    before, after, d = _lrn(op, node)
    direct = op.Mul(dy, op.Pow(d, -node.attr("beta")))
    spread = reshape_like(op, _window(op, op.Div(op.Mul(direct, node.x), d), after, before), node.x)
    return [op.Sub(direct, op.Mul(op.Mul(node.x, 2.0 * node.attr("alpha") * node.attr("beta")), spread))]
