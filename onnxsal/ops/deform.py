"""DeformConv: a convolution that reads its input at positions which another layer shifts."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import Ints, calc, join, sizes
from onnxsal.graph.helpers import cast, reshape_like
from onnxsal.ops.axes import convolution
from onnxsal.ops.grid import Sampler
from onnxsal.ops.linear import multilinear_bias
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import APART, Moved, Roles


class Deformed(Sampler):
    """What a DeformConv reads: its K taps at P = K x cells points, for each of N x offset groups images.

    The input is sampled bilinearly with zeros around it (``Sampler``), multiplied by the mask, and then meets the weight in one
    matrix product per group: y [N, G, O/G, cells] = W [G, O/G, C/G K] columns [N, G, C/G K, cells].
    """

    def __init__(self, op: Emit, node: NodeView) -> None:
        self.op, self.node = op, node
        self.weight, self.offset, self.mask = node.input(1), node.input(2), node.optional(4)
        self.axes = list(range(2, node.x.rank))
        shape = node.attr("kernel_shape") or [self.weight.dim(a) for a in self.axes]
        if None in shape or len(shape) != 2:
            raise UnsupportedError(
                f"{node.label}: kernel shape {shape}; a gradient is known for two spatial axes and a kernel of known size."
            )
        self.kernel: list[int] = [int(k) for k in shape]
        self.taps = int(np.prod(self.kernel))
        self.group, self.offset_group = node.attr("group", 1), node.attr("offset_group", 1)
        self.cells = sizes(op, self.offset, self.axes)
        self.count = calc(op).Mul(sizes(op, self.offset, [2]), sizes(op, self.offset, [3]))
        self.points = calc(op).Mul(self.count, self.taps)
        self.padding, self.mode, self.reads = "zeros", "linear", 2
        self.x = self._images(node.x)
        self.lines = [self._line(axis) for axis in self.axes]

    def _images(self, x: Value) -> Value:
        """x [N, C, H, W] with each offset group's channels as an image of its own."""
        if self.offset_group == 1:
            return x
        channels = calc(self.op).Div(sizes(self.op, x, [1]), self.offset_group)
        shape = (None, int(channels[0]) if isinstance(channels, np.ndarray) else None, *(x.shape or ())[2:])
        spatial = sizes(self.op, x, self.axes)
        return Value(self.op.Reshape(x, join(self.op, join(self.op, np.asarray([-1]), channels), spatial)).name, 0, shape)

    def per_point(self, value: Value, middle: int | Ints = 1) -> Value:
        """``value`` as [N x offset groups, middle, P]."""
        channels = np.asarray([middle]) if isinstance(middle, int) else middle
        return self.op.Reshape(value, join(self.op, join(self.op, np.asarray([-1]), channels), self.points))

    def shift(self, axis: int) -> Value:
        """How far the points are shifted along one axis [N, 1, P]."""
        split = self.op.Reshape(self.offset, join(self.op, np.asarray([-1, self.taps, len(self.axes)]), self.count))
        return self.per_point(self.op.Gather(split, axis - 2, axis=2))

    def position(self, axis: int) -> Value:
        """stride * cell + dilation * tap - begin + shift [N, 1, P]."""
        op, a = self.op, axis - 2
        stride, dilation, begin = ((self.node.attr(name) or [d] * 4)[a] for name, d in (("strides", 1), ("dilations", 1), ("pads", 0)))
        tap = np.unravel_index(np.arange(self.taps), self.kernel)[a].reshape(-1, 1, 1) * dilation - begin
        size = sizes(op, self.offset, [axis])
        cell: Ints = np.arange(int(size[0])) if isinstance(size, np.ndarray) else op.Range(0, op.Squeeze(size, [0]), 1)
        along = np.asarray([1, -1, 1] if a == 0 else [1, 1, -1])
        cell = cell.reshape(along) if isinstance(cell, np.ndarray) else op.Reshape(cell, along)
        place = calc(op).Add(calc(op).Mul(cell, stride), tap)
        place = cast(op, place) if isinstance(place, Value) else place.astype(op.np_dtype)
        whole = op.Expand(place, join(op, np.asarray([self.taps]), self.cells))
        return op.Add(self.shift(axis), op.Reshape(whole, [1, 1, -1]))

    @cached_property
    def filters(self) -> Value:
        """W [G, O/G, C/G K]."""
        inner = calc(self.op).Mul(sizes(self.op, self.weight, [1]), self.taps)
        return self.op.Reshape(self.weight, join(self.op, np.asarray([self.group, -1]), inner))

    def columns(self, values: Value) -> Value:
        """Values of the points [N x offset groups, channels, P] as [N, G, C/G K, cells], masked."""
        inner = calc(self.op).Mul(sizes(self.op, self.weight, [1]), self.taps)
        return self.op.Reshape(self.masked(values), join(self.op, join(self.op, np.asarray([-1, self.group]), inner), self.count))

    def masked(self, values: Value) -> Value:
        """Values of the points, times the mask."""
        return values if self.mask is None else self.op.Mul(values, self.per_point(self.mask))

    def per_group(self, dy: Value) -> Value:
        """dy [N, G, O/G, cells]."""
        return self.op.Reshape(dy, join(self.op, np.asarray([0, self.group, -1]), self.count))

    def sampled(self, slope_of: int | None = None) -> Value:
        """x at the points [N x offset groups, channels, P], or its slope along one axis."""
        return self.op.ReduceSum(self.op.Mul(self.read(), self.weights(slope_of)), [2], keepdims=0)


def _deform_bias(op: Emit, node: NodeView) -> Value | None:
    """The multilinear rule over x, W and mask, with the bias; less J_offset offset where the offset is active."""
    bias = node.optional(3)
    factors = sum(node.want(i) for i in (0, 1, 4))
    rest = multilinear_bias(op, node, factors, None if bias is None else op.Reshape(bias, [-1, 1, 1]), node.want(3))
    if not node.want(2):
        return rest
    points = Deformed(op, node)
    moved = [op.Mul(points.sampled(slope_of=axis), points.shift(axis)) for axis in points.axes]
    change = reshape_like(op, op.MatMul(points.filters, points.columns(op.Add(*moved))), node.y)
    return op.Neg(change) if rest is None else op.Sub(rest, change)


def _offsets(*shape: int) -> np.ndarray:
    """Shifts that keep the positions off the elements, where the interpolation has kinks; some lead outside."""
    rng = np.random.default_rng(0)
    return np.asarray(rng.uniform(0.1, 0.9, shape) + rng.integers(-2, 2, shape))


def _deform_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """As a convolution; offsets and masks belong to samples."""
    return convolution(node, i, axis, j) if i == 0 else (0, APART) if i in (2, 4) and axis == 0 else None


@gradient_of(
    "DeformConv",
    family="linear",
    axes=_deform_axes,
    pictures=True,
    trained=(1, 3),
    bias=_deform_bias,
    roles=Roles((0, 1, 4), (3,), mixed=lambda node: "several taps of its kernel can meet the same element of the input"),
    cases=[
        case((1, 2, 4, 5), (3, 2, 2, 2), _offsets(1, 8, 3, 4), kernel_shape=[2, 2], opset=19),
        case((2, 2, 4, 5), (3, 2, 2, 2), _offsets(2, 8, 5, 6), (3,), (2, 4, 5, 6), pads=[1, 1, 1, 1], kernel_shape=[2, 2], opset=19),
        case(
            (1, 4, 5, 5),
            (2, 4, 3, 2),
            _offsets(1, 24, 3, 3),
            None,
            (1, 12, 3, 3),
            offset_group=2,
            kernel_shape=[3, 2],
            strides=[1, 2],
            pads=[0, 1, 0, 0],
            opset=19,
        ),
        case((2, 4, 5, 5), (4, 2, 2, 2), _offsets(2, 8, 3, 4), (4,), group=2, dilations=[2, 1], kernel_shape=[2, 2], opset=19),
        case(
            (1, 4, 4, 4),
            (4, 2, 2, 1),
            _offsets(1, 16, 2, 3),
            group=2,
            offset_group=4,
            kernel_shape=[2, 1],
            strides=[2, 2],
            pads=[1, 0, 0, 1],
            opset=19,
        ),
    ],
)
def deform_conv(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """columns = mask * x at the shifted points; dcolumns = W^T dy goes back to x, its positions and the mask; dW = dy columns^T."""
    points = Deformed(op, node)
    dy_groups = points.per_group(dy)
    channels = sizes(op, points.x, [1])
    dx = dw = doffset = db = dmask = None
    if node.want(0) or node.want(2) or node.want(4):
        dcolumns = op.MatMul(op.Transpose(points.filters, perm=[0, 2, 1]), dy_groups)
        dvalues = points.per_point(dcolumns, channels)
        dsampled = points.masked(dvalues)
        if node.want(0):
            dx = points.add_back(dsampled)
            dx = reshape_like(op, dx, node.x) if points.offset_group > 1 else dx
        if node.want(2):
            steps = [op.ReduceSum(op.Mul(dsampled, points.sampled(slope_of=a)), [1], keepdims=1) for a in points.axes]
            split = join(op, np.asarray([-1, points.taps, 1]), points.count)
            doffset = reshape_like(op, op.Concat(*[op.Reshape(s, split) for s in steps], axis=2), points.offset)
        if node.want(4) and points.mask is not None:
            dmask = reshape_like(op, op.ReduceSum(op.Mul(dvalues, points.sampled()), [1], keepdims=0), points.mask)
    if node.want(1):
        products = op.MatMul(dy_groups, op.Transpose(points.columns(points.sampled()), perm=[0, 1, 3, 2]))
        dw = reshape_like(op, op.ReduceSum(products, [0], keepdims=0), points.weight)
    if node.want(3):
        db = op.ReduceSum(dy, [0, 2, 3], keepdims=0)
    return node.grads(dx, dw, doffset, db, dmask)
