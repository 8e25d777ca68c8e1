"""Sampling at positions that the model computes: GridSample and AffineGrid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import Ints, calc, float_size, shape_parts, sizes
from onnxsal.graph.helpers import cast, reshape_like, shape_of, zeros_like
from onnxsal.ops.axes import samples_only
from onnxsal.ops.ranges import with_zero
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import ANY, APART, MIXED, Moved, Range, RangeOf, Roles

KERNELS = {
    "nearest": (0, [[1.0]]),
    "linear": (0, [[1.0, -1.0], [0.0, 1.0]]),
    "cubic": (-1, [[0.0, -0.75, 1.5, -0.75], [1.0, 0.0, -2.25, 1.25], [0.0, 0.75, 1.5, -1.25], [0.0, 0.0, -0.75, 0.75]]),
}
"""Per mode: the first neighbour, and for each neighbour the polynomial in t (lowest power first) that is its weight.

t in [0, 1) is the distance from the element below; cubic is Keys' kernel with a = -0.75.
"""


@dataclass(frozen=True)
class AxisTaps:
    """The elements that each output point reads along one axis, [N, T, P]: indices, weights, slopes of the weights in the position."""

    index: Value
    weight: Value
    slope: Value


class Sampler:
    """What a GridSample reads: for each of P output points K elements of x, their weights and the slopes of these in the grid."""

    def __init__(self, op: Emit, node: NodeView) -> None:
        self.op = op
        self.x, self.grid = node.input(0), node.input(1)
        self.axes = list(range(2, self.x.rank))
        self.align = bool(node.attr("align_corners"))
        self.padding = node.attr("padding_mode")
        self.mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node.attr("mode"), node.attr("mode"))
        self.reads = len(KERNELS[self.mode][1])
        self.flat_grid = op.Reshape(self.grid, [0, -1, len(self.axes)])
        self.lines = [self._line(axis) for axis in self.axes]

    def coordinate(self, axis: int) -> Value:
        """The grid's entries for one axis [N, 1, P]; the last axis of x comes first."""
        return self.op.Unsqueeze(self.op.Gather(self.flat_grid, self.axes[-1] - axis, axis=2), [1])

    def scale(self, axis: int) -> Ints:
        """d position / d grid: half the length between the outermost positions."""
        size = float_size(self.op, self.x, axis)
        return calc(self.op).Mul(calc(self.op).Sub(size, 1.0) if self.align else size, 0.5)

    def position(self, axis: int) -> Value:
        """Where the points lie along one axis of x [N, 1, P]."""
        centre = calc(self.op).Mul(calc(self.op).Sub(float_size(self.op, self.x, axis), 1.0), 0.5)
        return self.op.Add(self.op.Mul(self.coordinate(axis), self.scale(axis)), centre)

    def _line(self, axis: int) -> AxisTaps:
        op, last = self.op, calc(self.op).Sub(float_size(self.op, self.x, axis), 1.0)
        position = self.position(axis)
        first, kernel = KERNELS[self.mode]
        polynomials = np.array(kernel, op.np_dtype)
        below = op.Round(position) if self.mode == "nearest" else op.Floor(position)
        t = op.Sub(position, below)
        powers = [op.Add(op.Mul(t, 0.0), 1.0), t]
        while len(powers) < polynomials.shape[1]:
            powers.append(op.Mul(powers[-1], t))
        joined = op.Concat(*powers[: polynomials.shape[1]], axis=1)
        derived = np.pad(polynomials[:, 1:] * np.arange(1, polynomials.shape[1], dtype=op.np_dtype), [(0, 0), (0, 1)])
        weight, slope = op.MatMul(polynomials, joined), op.MatMul(derived, joined)
        steps = np.arange(first, first + len(kernel), dtype=op.np_dtype).reshape(1, -1, 1)
        index = self._fold(op.Add(below, steps), last)
        inside = op.Min(op.Max(index, 0.0), last)
        if self.padding == "zeros":
            valid = cast(op, op.Equal(inside, index))
            weight, slope = op.Mul(valid, weight), op.Mul(valid, slope)
        return AxisTaps(op.Cast(inside, to=7), weight, slope)

    def _fold(self, index: Value, last: Ints) -> Value:
        """Indices outside reflected inside: about the outer elements, or about the edges half an element further out."""
        if self.padding != "reflection":
            return index
        op, edge = self.op, 0.0 if self.align else 0.5
        period = calc(op).Max(calc(op).Mul(calc(op).Add(last, 2 * edge), 2.0), 1.0)
        around = op.Mod(op.Abs(op.Add(index, edge)), period, fmod=1)
        return op.Sub(op.Min(around, op.Sub(period, around)), edge)

    def weights(self, slope_of: int | None = None) -> Value:
        """The weights [N, 1, K, P], or their slopes in the position along one axis: products over the axes."""
        factors = [line.slope if axis == slope_of else line.weight for axis, line in zip(self.axes, self.lines, strict=True)]
        total = factors[0]
        for k, factor in enumerate(factors[1:], 2):
            total = self._pairs("Mul", total, factor, k)
        return self.op.Unsqueeze(total, [1])

    def _pairs(self, operator: str, outer: Value, inner: Value, axes: int) -> Value:
        """All pairs of [N, S, P] and [N, T, P], as [N, S T, P]; S T = T^axes."""
        op = self.op
        pairs = getattr(op, operator)(op.Unsqueeze(outer, [2]), op.Unsqueeze(inner, [1]))
        return op.Reshape(pairs, [0, self.reads**axes, -1])

    def _numbers(self) -> Value:
        """The elements' numbers among those of one channel, for every channel [N, C, K P]."""
        op, total = self.op, self.lines[0].index
        for k, (axis, line) in enumerate(zip(self.axes[1:], self.lines[1:], strict=True), 2):
            total = self._pairs("Add", op.Mul(total, sizes(op, self.x, [axis])), line.index, k)
        return op.Expand(op.Reshape(total, [0, 1, -1]), shape_parts(op, [1, (self.x, 1), 1]))

    def spread(self, dy: Value) -> Value:
        """dy [N, C, 1, P]."""
        return self.op.Unsqueeze(self.op.Reshape(dy, [0, 0, -1]), [2])

    def add_back(self, dy: Value) -> Value:
        """dx: dy times the weights, added at the elements."""
        op = self.op
        updates = op.Reshape(op.Mul(self.spread(dy), self.weights()), [0, 0, -1])
        room = op.Reshape(zeros_like(op, self.x), [0, 0, -1])
        return reshape_like(op, op.ScatterElements(room, self._numbers(), updates, axis=2, reduction="add"), self.x)

    def read(self) -> Value:
        """x at the elements [N, C, K, P]."""
        op = self.op
        picked = op.GatherElements(op.Reshape(self.x, [0, 0, -1]), self._numbers(), axis=2)
        return op.Reshape(picked, [0, 0, self.reads ** len(self.axes), -1])


def _grid_bias(op: Emit, node: NodeView) -> Value | None:
    """y unless x is active, less J_grid grid where the grid is."""
    if not node.want(1):
        return None
    sampler = Sampler(op, node)
    rest = zeros_like(op, node.y) if node.want(0) else node.y
    if sampler.mode == "nearest":
        return rest
    elements = sampler.read()
    for axis in sampler.axes:
        move = op.Mul(sampler.coordinate(axis), sampler.scale(axis))
        change = op.ReduceSum(op.Mul(elements, sampler.weights(slope_of=axis)), [2], keepdims=0)
        rest = op.Sub(rest, op.Reshape(op.Mul(change, move), shape_of(op, node.y)))
    return rest


_OUT = np.array([[[[-0.3, 0.1], [1.37, -1.21], [0.77, 0.43]], [[-1.63, 0.2], [2.9, 0.31], [0.05, -0.9]]]])
"""A grid that leaves the image on every side, off the points where an interpolation has kinks."""


def _sampled_range(node: NodeView, of: RangeOf) -> Range:
    """Means of neighbours, and zeros outside; cubic interpolation overshoots."""
    return ANY if "cubic" in str(node.attr("mode")) else with_zero(node, of)


def _sampled_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """[N, C, ...] read at the places of a grid [N, ..., places]."""
    if i:
        return None if axis == node.input(1).rank - 1 else (axis + (axis > 0), APART)
    return axis, APART if axis < 2 else MIXED


@gradient_of(
    "GridSample",
    family="resample",
    axes=_sampled_axes,
    pictures=True,
    range=_sampled_range,
    bias=_grid_bias,
    cases=[
        case((2, 3, 4, 5), (2, 2, 3, 2), low=-0.9, high=0.9, opset=20),
        case((1, 2, 4, 5), _OUT, opset=20),
        case((1, 2, 4, 5), _OUT, align_corners=1, opset=20),
        case((1, 2, 4, 5), _OUT, padding_mode="border", opset=20),
        case((1, 2, 4, 5), _OUT, padding_mode="reflection", opset=20),
        case((1, 2, 4, 5), _OUT, padding_mode="reflection", align_corners=1, opset=20),
        case((1, 2, 4, 5), _OUT, mode="nearest", opset=20),
        case((1, 2, 4, 5), _OUT, mode="nearest", padding_mode="reflection", opset=20),
        case((1, 2, 4, 5), _OUT, mode="cubic", opset=20),
        case((1, 2, 4, 5), _OUT, mode="cubic", padding_mode="border", opset=20),
        case((1, 2, 4, 5), _OUT, mode="cubic", padding_mode="reflection", align_corners=1, opset=20),
        case((1, 2, 3, 4, 2), (1, 2, 1, 2, 3), low=-1.2, high=1.2, opset=20),
    ],
)
def grid_sample(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy times the weights, added at the elements read; dgrid = d position sum_k slope_k x_k dy (0 in mode nearest)."""
    sampler = Sampler(op, node)
    dx = sampler.add_back(dy) if node.want(0) else None
    dgrid: Value | None = None
    if node.want(1) and sampler.mode == "nearest":
        dgrid = zeros_like(op, sampler.grid)
    elif node.want(1):
        seen = op.ReduceSum(op.Mul(sampler.read(), sampler.spread(dy)), [1], keepdims=1)
        parts = []
        for axis in reversed(sampler.axes):
            slope = op.ReduceSum(op.Mul(seen, sampler.weights(slope_of=axis)), [1, 2], keepdims=0)
            parts.append(op.Unsqueeze(op.Mul(slope, sampler.scale(axis)), [2]))
        dgrid = reshape_like(op, op.Concat(*parts, axis=2), sampler.grid)
    return [dx, dgrid]


@gradient_of(
    "AffineGrid",
    family="linear",
    axes=samples_only,
    bias="zero",
    roles=Roles((0,)),
    cases=[
        case((2, 2, 3), np.array([2, 1, 3, 4]), opset=20),
        case((1, 2, 3), np.array([1, 2, 3, 2]), align_corners=1, opset=20),
        case((2, 3, 4), np.array([2, 1, 2, 3, 2]), opset=20),
    ],
)
def affine_grid(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dtheta = dy^T [positions, 1], where the positions are what the identity transform gives."""
    theta, size = node.input(0), node.input(1)
    n = size.dim(0)
    assert n is not None
    eye = np.eye(n - 2, n - 1, dtype=op.np_dtype)[None]
    known = node.ints(1)
    one = op.Concat([1], op.Slice(size, [1], [n]), axis=0) if known is None else op.const([1, *known[1:]])
    positions = op.Reshape(op.clone(node, [eye, one]), [1, -1, n - 2])
    with_one = op.Pad(positions, [0, 0, 0, 0, 0, 1], 1.0)
    flat = op.Reshape(dy, [0, -1, n - 2])
    return node.grads(reshape_like(op, op.MatMul(op.Transpose(flat, perm=[0, 2, 1]), with_one), theta))
