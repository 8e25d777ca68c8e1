"""Joining and cutting: Concat, Split, Slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import Ints, ShapePart, calc, crop_or_pad, int_operand, pad_zeros, reshape_parts, scatter_back, sizes
from onnxsal.graph.helpers import axes_of, zeros_like
from onnxsal.ops.axes import along, within
from onnxsal.ops.picks import joined, moved
from onnxsal.ops.ranges import hull, same
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import APART, MIXED, Moved

BIG = 2**63 - 1


def ints(*values: int) -> np.ndarray:
    """An int64 array, for the cases."""
    return np.array(values, np.int64)


def _joined_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    return axis, MIXED if axis == int(node.attr("axis")) % node.x.rank else APART


@gradient_of(
    "Concat",
    family="movement",
    axes=_joined_axes,
    range=lambda node, of: hull(*(of(i) for i in range(len(node.inputs)))),
    fills=lambda node: len(node.inputs) > 1,
    picks=joined,
    bias="linear",
    cases=[
        case((2, 3), (2, 1), (2, 4), axis=1),
        case((2, 3), (4, 3), axis=-2),
        case((2, 3), axis=0),
        case((1, 2, 2), (2, 2, 2), fixed=(0,), axis=0),
        case((1, 2, 2), (2, 2, 2), (3, 2, 2), fixed=(1,), axis=0),
        case((2,), (3,), axis=0),
    ],
)
def concat(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_i = the part of dy that input i filled."""
    axis = node.attr("axis") % node.x.rank
    parts = [node.input(i) for i in range(len(node.inputs))]
    wanted = [i for i in range(len(parts)) if node.want(i)]
    if len(parts) == 1:
        return [dy]
    lengths = [sizes(op, p, [axis]) for p in parts]
    if len(wanted) == 1:
        (i,) = wanted
        start: Ints = ints(0)
        for length in lengths[:i]:
            start = calc(op).Add(start, length)
        cut = op.Slice(dy, start, calc(op).Add(start, lengths[i]), [axis])
        return [cut if i == j else None for j in range(len(parts))]
    known = [length for length in lengths if isinstance(length, np.ndarray)]
    split = np.concatenate(known) if len(known) == len(parts) else op.Concat(*lengths, axis=0)
    return list(op.Split(dy, split, axis=axis, outputs=len(parts)))


@gradient_of(
    "Split",
    family="movement",
    axes=along(default=0),
    picks=moved,
    range=same,
    bias="zero",
    many=True,
    cases=[
        case((2, 6), ints(1, 3, 2), axis=1, outputs=3),
        case((2, 6), axis=-1, num_outputs=3, outputs=3),
        case((7, 2), num_outputs=3, outputs=3),
        case((6,), ints(2, 4), outputs=2),
        case((2, 3), ints(3), axis=1, outputs=1),
        case((2, 3, 4), ints(3, 0, 1), axis=2, outputs=3),
    ],
)
def split(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> list[Value | None]:
    """dx = the dy_i put together again; zeros where a part carries no signal."""
    axis = node.attr("axis") % node.x.rank
    arrived = [i for i, dy in enumerate(dys) if dy is not None]
    if len(arrived) == 1 and len(dys) > 1:
        return node.grads(_pad_part(op, node, dys, arrived[0], axis))
    filled = [dy if dy is not None else zeros_like(op, node.output(i)) for i, dy in enumerate(dys)]
    return node.grads(op.Concat(*filled, axis=axis) if len(filled) > 1 else filled[0])


def _pad_part(op: Emit, node: NodeView, dys: Sequence[Value | None], i: int, axis: int) -> Value:
    """The signal of the one part that has any, with zeros for the others."""
    before: Ints = ints(0)
    for j in range(i):
        before = calc(op).Add(before, sizes(op, node.output(j), [axis]))
    length = calc(op).Add(before, sizes(op, node.output(i), [axis]))
    part = dys[i]
    assert part is not None
    return pad_zeros(op, part, before, calc(op).Sub(sizes(op, node.x, [axis]), length), [axis], node.x.rank)


def _sliced_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    count = node.input(1).dim(0)
    given = axes_of(node, node.x.rank, 3) if node.optional(3) is not None else None if count is None else range(count)
    return within(given)(node, i, axis, j)


@gradient_of(
    "Slice",
    family="movement",
    axes=_sliced_axes,
    picks=moved,
    bias="zero",
    cases=[
        case((5, 6), ints(1, 2), ints(4, 5)),
        case((5, 6), ints(-3), ints(BIG), ints(1)),
        case((5, 6, 2), ints(0, 1), ints(5, 6), ints(-3, 1), ints(2, 3)),
        case((6, 5), ints(1), ints(6), ints(0), ints(2)),
        case((5, 6), ints(-1, 4), ints(-BIG, 0), ints(0, 1), ints(-1, -2)),
        case((5, 6), ints(20), ints(-20), ints(1), ints(-3)),
        case((5, 6), ints(-20), ints(20), ints(0)),
        case((7,), ints(1), ints(6), ints(0), ints(4)),
        case((5, 2), ints(3), ints(2), ints(0)),
        case((5, 2), ints(1), ints(2), ints(0), ints(-2)),
        case((2, 3), np.array([1], np.int32), np.array([3], np.int32), np.array([1], np.int32)),
    ],
)
def slice_(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy at the positions it was taken from, zeros between and around."""
    x, given = node.x, node.input(1)
    count = given.dim(0)
    axes = axes_of(node, x.rank, 3) if node.optional(3) is not None else None if count is None else list(range(count))
    steps = int_operand(op, node, 4) if node.optional(4) is not None else np.ones(len(axes or []), np.int64)
    if axes is None or isinstance(steps, Value):
        return node.grads(scatter_back(op, dy, x, lambda numbers: op.clone(node, [numbers, *node.inputs[1:]])))
    back, stride = (steps < 0).astype(np.int64), np.abs(steps)
    if back.any():
        turned = [a for a, b in zip(axes, back, strict=True) if b]
        dy = op.Slice(dy, [-1] * len(turned), [-BIG] * len(turned), turned, [-1] * len(turned))
    cut = [k for k in range(len(axes)) if not _whole(node, k, int(steps[k]))]
    axes, back, stride = [axes[k] for k in cut], back[cut], stride[cut]
    if not axes:
        return node.grads(dy)
    whole, taken, start = sizes(op, x, axes), sizes(op, node.y, axes), int_operand(op, node, 1)
    start = start[cut] if isinstance(start, np.ndarray) else op.Gather(start, cut) if len(cut) < len(steps) else start
    if isinstance(start, Value) or (start < 0).any():
        start = calc(op).Max(calc(op).Where(calc(op).Less(start, 0), calc(op).Add(start, whole), start), 0)
    start = calc(op).Min(start, calc(op).Sub(whole, back) if back.any() else whole)
    if back.any():
        lowest = calc(op).Sub(start, calc(op).Mul(calc(op).Sub(taken, 1), back * stride))
        start = calc(op).Min(lowest, whole)
    if (stride == 1).all():
        return node.grads(pad_zeros(op, dy, start, calc(op).Sub(calc(op).Sub(whole, start), taken), axes, x.rank))
    dy = _spread(op, dy, node.y, dict(zip(axes, stride.tolist(), strict=True)))
    rest = calc(op).Sub(calc(op).Sub(whole, start), calc(op).Mul(taken, stride))
    return node.grads(crop_or_pad(op, dy, start, rest, axes, x.rank))


def _whole(node: NodeView, k: int, step: int) -> bool:
    """Whether the k-th range of a Slice is known to be its whole axis, forwards or backwards."""
    starts, ends = node.const(1), node.const(2)
    if starts is None or ends is None or abs(step) != 1:
        return False
    start, end, far = int(starts[k]), int(ends[k]), 2**31 - 1
    return start == 0 and end >= far if step == 1 else start == -1 and end <= -far


def _spread(op: Emit, g: Value, y: Value, strides: dict[int, int]) -> Value:
    """``g`` (shaped like ``y``) with ``stride - 1`` zeros after each element along the axes that have one."""
    spread = [a for a in sorted(strides) if strides[a] > 1]
    inner = [a + i + 1 for i, a in enumerate(spread)]
    room = [strides[a] - 1 for a in spread]
    g = crop_or_pad(op, op.Unsqueeze(g, inner), np.zeros_like(room), np.array(room), inner, y.rank + len(inner))
    parts: list[ShapePart] = []
    for axis in range(y.rank):
        length, stride = y.dim(axis), strides.get(axis, 1)
        if stride == 1:
            parts.append((y, axis))
        else:
            parts.append(length * stride if length is not None else op.Mul(sizes(op, y, [axis]), stride))
    return reshape_parts(op, g, parts)
