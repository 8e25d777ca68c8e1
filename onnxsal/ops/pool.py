"""Poolings: the largest element, the mean or the norm of each window, or of all there is in a channel."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from onnx import helper

from onnxsal.forms.enlarge import repeated
from onnxsal.forms.max_pool import Sliding, first_largest
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import calc, join
from onnxsal.graph.helpers import cast, like_shape, mask, reshape_like, zeros_like
from onnxsal.ops.axes import pictures, pooled
from onnxsal.ops.places import global_window, lost, windows
from onnxsal.ops.ranges import NOT_NEGATIVE, with_zero
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.windows import Window, gather, spread, window_of

# ----- the largest element -----


def _flat_zeros(op: Emit, x: Value) -> Value:
    """As many zeros as ``x`` has elements."""
    zero = helper.make_tensor("zero", op.dtype, [1], [0.0])
    return op.ConstantOfShape([math.prod(x.static)], value=zero) if x.static else op.Reshape(zeros_like(op, x), [-1])


def _axes(op: Emit, node: NodeView) -> list[Sliding] | None:
    """The windows along each axis of places, where sizes and padding are known and taps lie side by side."""
    if any(d != 1 for d in node.attr("dilations") or ()):
        return None
    window = window_of(op, node)
    numbers = [window.large, window.small, window.kernel, window.strides, window.begin]
    if not all(isinstance(n, np.ndarray) for n in numbers):
        return None
    return [Sliding(*map(int, n)) for n in zip(*numbers, strict=True)]


@gradient_of(
    "MaxPool",
    family="max_pool",
    axes=pictures,
    pictures=True,
    places=windows(channels=False),
    bias="zero",
    cases=[
        case((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        case((2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2]),
        case((2, 3, 6, 8), kernel_shape=[2, 3]),
        case((1, 2, 7, 7), kernel_shape=[3, 2], strides=[3, 2], ceil_mode=1, pads=[0, 1, 1, 0]),
        case((1, 2, 8, 7), kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2], pads=[2, 1, 0, 0]),
        case((1, 2, 5, 6), kernel_shape=[3, 3], strides=[2, 2], storage_order=1, outputs=2),
        case((2, 2, 5, 6), kernel_shape=[3, 3], strides=[2, 2], outputs=2),
        case((1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
        case((1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_LOWER"),
        case((1, 2, 5, 6), kernel_shape=[3, 2], auto_pad="VALID"),
        case((2, 2, 9), kernel_shape=[3], strides=[2]),
        case((1, 2, 4, 5, 4), kernel_shape=[2, 3, 2], strides=[2, 1, 2], pads=[0, 1, 1, 0, 1, 0]),
    ],
)
def max_pool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy added at the element that each window chose: its largest, the first of several."""
    own = node.x.name == node.proto.input[0]  # else a rule asks about another input
    if own and len(node.outputs) == 1 and (largest := first_largest(op, node, dy, lambda: _axes(op, node))) is not None:
        return [largest]
    indices = node.outputs[1] if own and len(node.outputs) > 1 and not node.attr("storage_order") else None
    if indices is None:  # not given, given column by column, or given for another input
        indices = op.clone(node, [node.x], outputs=2, storage_order=None)[1]
    kernel = np.asarray(node.attr("kernel_shape"))
    apart = np.all((np.asarray(node.attr("strides") or 1) >= kernel) & (np.asarray(node.attr("dilations") or 1) == 1))
    reduction = None if apart else "add"
    flat = op.ScatterElements(_flat_zeros(op, node.x), op.Reshape(indices, [-1]), op.Reshape(dy, [-1]), axis=0, reduction=reduction)
    return [reshape_like(op, flat, node.x)]


@gradient_of(
    "GlobalMaxPool",
    family="max_pool",
    axes=pooled,
    pictures=True,
    places=global_window,
    bias="zero",
    cases=[case((2, 3, 4, 5)), case((2, 3, 6)), case((1, 2, 2, 3, 2)), case((2, 3, 1, 1))],
)
def global_max_pool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy at the largest element of each channel (the first of several), 0 elsewhere."""
    x = node.x
    shape = None if x.static is None else (math.prod(x.static[:2]), math.prod(x.static[2:]))
    rows = Value(op.Flatten(x, axis=2).name, 0, shape)
    spots = op.ScatterElements(zeros_like(op, rows), op.ArgMax(rows, axis=1), op.Reshape(dy, [-1, 1]), axis=1)
    return [reshape_like(op, spots, x)]


@gradient_of(
    "MaxUnpool",
    family="movement",
    range=with_zero,
    fills=lambda node: True,
    places=lost,
    bias="zero",
    cases=[
        case((1, 2, 2, 2), np.asarray([[[[1, 3], [8, 15]], [[16, 19], [28, 30]]]]), kernel_shape=[2, 2], strides=[2, 2]),
        case((1, 1, 2, 2), np.asarray([[[[4, 4], [4, 8]]]]), kernel_shape=[2, 2], strides=[1, 1]),
        case((1, 1, 2, 2), np.asarray([[[[6, 8], [16, 18]]]]), np.asarray([1, 1, 5, 5]), kernel_shape=[2, 2], strides=[2, 2]),
        case((1, 1, 3), np.asarray([[[0, 3, 4]]]), kernel_shape=[2], strides=[2]),
    ],
)
def max_unpool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy at the element that x was written to; where several were written to one, the last one stayed.

    Indices count the elements of y, as ONNX Runtime reads them, also where ``output_shape`` makes y larger than the windows reach.
    """
    indices = node.input(1)
    dx = op.Gather(op.Reshape(dy, [-1]), indices)
    kernel, strides = np.asarray(node.attr("kernel_shape")), np.asarray(node.attr("strides") or 1)
    if np.all(strides >= kernel):
        return node.grads(dx)
    # Windows that overlap can hold the same largest element. Floats count the writers: no provider lacks that maximum.
    count = op.const(math.prod(node.x.static)) if node.x.static else op.Size(op.raw(node.x))
    writer = cast(op, op.Range(1, op.Add(count, 1), 1))
    last = op.ScatterElements(_flat_zeros(op, node.y), op.Reshape(indices, [-1]), writer, axis=0, reduction="max")
    stayed = op.Equal(op.Gather(last, indices), reshape_like(op, writer, node.x))
    return node.grads(mask(op, stayed, dx))


# ----- means and norms -----


def _boxes(op: Emit, g: Value, x: Value, window: Window, value: float) -> Value:
    """The adjoint of summing every window: each element of x gets ``value`` times ``g`` of all windows that it lies in."""
    kernel = [int(k) for k in np.asarray(window.kernel)]
    box = op.const(np.full([1, 1, *kernel], value, op.np_dtype))
    channels = x.dim(1)
    if channels is not None:
        weight = op.Expand(box, [channels, 1] + [1] * len(kernel)) if channels > 1 else box
        return spread(op, g, Value(weight.name, 0, (channels, 1, *kernel)), window, group=channels, mirrored=True, like=x)
    # How many channels there are is not known: each counts as a sample of its own.
    alone = op.Reshape(g, join(op, np.asarray([-1, 1]), window.small))
    return reshape_like(op, spread(op, alone, box, window, mirrored=True), x)


def _divisor(op: Emit, node: NodeView, window: Window) -> Value | float:
    """How many elements each window averages: all taps, or those inside x (count_include_pad: inside the padding)."""
    kernel = np.asarray(window.kernel)
    include = bool(node.attr("count_include_pad"))
    padded = not (window.pads is not None and not np.any(window.pads))
    spilling = window.ceil and (window.slack is None or bool(np.any(window.slack < 0)))
    if not spilling and (include or not padded):
        return float(math.prod(kernel))
    counted, view = window.large, window
    if include:
        counted = calc(op).Add(calc(op).Add(window.large, window.begin), window.end)
        none = np.zeros_like(window.strides)
        view = dataclasses.replace(window, large=counted, begin=none, end=none)
    one = helper.make_tensor("one", op.dtype, [1], [1.0])
    ones = op.ConstantOfShape(join(op, np.asarray([1, 1]), counted), value=one)
    return gather(op, ones, op.const(np.ones([1, 1, *kernel], op.np_dtype)), view)


_AVERAGES = [
    case((2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2]),
    case((2, 3, 7, 8), kernel_shape=[2, 3], strides=[2, 3]),
    case((2, 3, 5, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case((1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case((1, 2, 7, 8), kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 1, 0]),
    case((1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case((1, 2, 7, 8), kernel_shape=[4, 3], strides=[4, 3], ceil_mode=1, pads=[1, 0, 2, 1], opset=22),
    case((1, 2, 6, 9), kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1, pads=[0, 1, 0, 0], opset=22),
    case((1, 2, 8, 8), kernel_shape=[3, 3], strides=[3, 2], auto_pad="SAME_UPPER"),
    case((1, 2, 8, 8), kernel_shape=[4, 3], strides=[3, 1], auto_pad="SAME_LOWER"),
    case((1, 2, 8, 8), kernel_shape=[4, 3], auto_pad="VALID"),
    case((1, 1, 5, 5), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case((2, 2, 9), kernel_shape=[3], strides=[2], pads=[1, 1]),
    case((1, 2, 4, 5, 4), kernel_shape=[2, 3, 2], strides=[2, 1, 2], pads=[0, 1, 1, 0, 1, 0]),
]


@gradient_of(
    "AveragePool",
    family="average_pool",
    axes=pictures,
    pictures=True,
    range=with_zero,
    places=windows(channels=False),
    bias="zero",
    cases=[
        *_AVERAGES,
        case((2, 3, 5, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        case((1, 2, 7, 8), kernel_shape=[4, 3], strides=[4, 3], ceil_mode=1, pads=[1, 0, 2, 1], count_include_pad=1, opset=22),
        case((1, 2, 8, 8), kernel_shape=[3, 3], strides=[3, 2], auto_pad="SAME_UPPER", count_include_pad=1),
        case((1, 2, 8, 9), kernel_shape=[2, 3], dilations=[3, 2], strides=[1, 2], pads=[1, 2, 1, 0], opset=19),
        case((1, 2, 8, 9), kernel_shape=[2, 3], dilations=[3, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1, opset=19),
    ],
)
def average_pool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = the sum of dy / n over the windows that an element lies in, each of n counted elements."""
    window = window_of(op, node)
    count = _divisor(op, node, window)
    if isinstance(count, float):
        return [_boxes(op, dy, node.x, window, 1.0 / count)]
    return [_boxes(op, op.Div(dy, count), node.x, window, 1.0)]


@gradient_of(
    "GlobalAveragePool",
    family="average_pool",
    axes=pooled,
    pictures=True,
    places=global_window,
    bias="zero",
    cases=[case((2, 3, 4, 5)), case((2, 3, 6)), case((1, 2, 2, 3, 2))],
)
def global_average_pool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy / n, repeated over the n elements of each channel."""
    sizes = [node.x.dim(a) for a in range(2, node.x.rank)]
    known = [s for s in sizes if s is not None]
    if len(known) == len(sizes):
        return [repeated(op, dy, node.x, 1.0 / max(math.prod(known), 1))]  # of no elements there is no gradient
    scaled = op.Div(dy, cast(op, op.Div(op.Size(op.raw(node.x)), op.Max(op.Size(op.raw(node.y)), 1))))
    return [like_shape(op, scaled, node.x)]


def _norm_parts(op: Emit, node: NodeView, dy: Value) -> tuple[Value, Value]:
    """What a p-norm's gradient multiplies: sign(x) |x|^(p-1) on the side of x, dy y^(1-p) on the side of y (0 where y = 0)."""
    p = int(node.attr("p", 2))
    if p == 1:
        return op.Sign(node.x), dy
    inner = node.x if p == 2 else op.Mul(op.Sign(node.x), op.Pow(op.Abs(node.x), float(p - 1)))
    scaled = op.Div(dy, node.y if p == 2 else op.Pow(node.y, float(p - 1)))
    return inner, mask(op, op.Greater(node.y, 0.0), scaled)


@gradient_of(
    "LpPool",
    family="reduction",
    axes=pictures,
    pictures=True,
    range=NOT_NEGATIVE,
    places=windows(channels=False),
    bias="zero",
    cases=[
        *_AVERAGES,
        case((2, 3, 5, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], p=1, kinks=[0.0]),
        case((2, 3, 5, 6), kernel_shape=[3, 2], strides=[2, 2], p=3, kinks=[0.0]),
        case((1, 2, 8, 9), kernel_shape=[2, 3], dilations=[3, 2], strides=[1, 2], pads=[1, 2, 1, 0]),
    ],
)
def lp_pool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = sign(x) |x|^(p-1) times the sum of dy y^(1-p) over the windows that an element lies in."""
    inner, outer = _norm_parts(op, node, dy)
    return [op.Mul(inner, _boxes(op, outer, node.x, window_of(op, node), 1.0))]


@gradient_of(
    "GlobalLpPool",
    family="reduction",
    axes=pooled,
    pictures=True,
    range=NOT_NEGATIVE,
    places=global_window,
    bias="zero",
    cases=[case((2, 3, 4, 5)), case((2, 3, 6), p=1, kinks=[0.0]), case((1, 2, 2, 3, 2), p=3, kinks=[0.0])],
)
def global_lp_pool(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = sign(x) |x|^(p-1) dy y^(1-p); the derivative at x = 0, y = 0 is 0."""
    return [op.Mul(*_norm_parts(op, node, dy))]
