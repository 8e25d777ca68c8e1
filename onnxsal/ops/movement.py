"""Movement: copies, rearrangements and selections of elements by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import (
    Ints,
    Part,
    calc,
    crop_or_pad,
    identity_matrix,
    linear_adjoint,
    reshape_parts,
    scatter_axis,
    scatter_back,
    sizes,
)
from onnxsal.graph.helpers import axes_of, perm_inverse, reshape_like, shape_of, unbroadcast, zeros_like
from onnxsal.ops.registry import case, gradient_of


def ints(*values: int) -> np.ndarray:
    """An int64 array, for the cases."""
    return np.array(values, np.int64)


def as_int64(op: Emit, node: NodeView, i: int) -> Ints:
    """Integer input i: known integers if possible."""
    array = node.const(i)
    return array.reshape(-1).astype(np.int64) if array is not None else op.Cast(node.input(i), to=7)


# ----- the same elements in another shape or order -----


@gradient_of(
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    family="movement",
    bias="zero",
    cases={
        "Reshape": [
            case((2, 3, 4), ints(4, 6)),
            case((2, 3, 4), ints(0, -1)),
            case((2, 3, 4), ints(24)),
            case((2, 1, 3), ints(1, -1, 3, 1)),
            case((1,), ints()),
            case((2, 3), ints(3, -1), allowzero=1),
        ],
        "Flatten": [case((2, 3, 4)), case((2, 3, 4), axis=0), case((2, 3, 4), axis=-1), case((2, 3, 4, 5), axis=2), case((3,), axis=1)],
        "Squeeze": [case((1, 3, 1, 2)), case((1, 3, 1, 2), ints(0, -2)), case((2, 1), ints(1)), case((1, 3, 1), ints(2))],
        "Unsqueeze": [case((3, 2), ints(0)), case((3, 2), ints(-1, 1)), case((3,), ints(0, 2, 3)), case((2, 3), ints(1))],
    },
)
def reshape(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy in the shape of x."""
    return node.grads(reshape_like(op, dy, node.x))


@gradient_of(
    "Transpose",
    family="movement",
    bias="zero",
    cases=[case((2, 3, 4)), case((2, 3, 4), perm=[1, 2, 0]), case((2, 3, 4, 5), perm=[0, 3, 1, 2]), case((3,))],
)
def transpose(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy with the axes permuted back."""
    perm = node.attr("perm") or list(range(node.x.rank))[::-1]
    return [op.Transpose(dy, perm=perm_inverse(perm))]


@gradient_of(
    "DepthToSpace",
    family="movement",
    bias="zero",
    cases=[case((2, 8, 2, 3), blocksize=2), case((2, 8, 2, 3), blocksize=2, mode="CRD"), case((1, 18, 1, 2), blocksize=3, mode="CRD")],
)
def depth_to_space(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = SpaceToDepth(dy), with the channels in the order of the mode."""
    block, x = node.attr("blocksize"), node.x
    if node.attr("mode") == "DCR":
        return [op.SpaceToDepth(dy, blocksize=block)]
    split = reshape_parts(op, dy, [(x, 0), (node.y, 1), (x, 2), block, (x, 3), block])
    return [reshape_like(op, op.Transpose(split, perm=[0, 1, 3, 5, 2, 4]), x)]


@gradient_of("SpaceToDepth", family="movement", bias="zero", cases=[case((2, 2, 4, 6), blocksize=2), case((1, 3, 3, 6), blocksize=3)])
def space_to_depth(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = DepthToSpace(dy)."""
    return [op.DepthToSpace(dy, blocksize=node.attr("blocksize"), mode="DCR")]


@gradient_of(
    "ReverseSequence",
    family="movement",
    bias="zero",
    cases=[case((4, 3, 2), ints(4, 1, 3)), case((3, 4), ints(2, 3, 4), batch_axis=0, time_axis=1)],
)
def reverse_sequence(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy reversed alike: the permutation is its own inverse."""
    return node.grads(op.clone(node, [dy, *node.inputs[1:]]))


# ----- copies of elements -----


@gradient_of(
    "Expand",
    family="movement",
    bias="zero",
    cases=[
        case((3, 1), ints(3, 4)),
        case((3, 1), ints(2, 1, 6)),
        case((1, 3, 1), ints(2, 1, 5)),
        case((2, 3), ints(1, 1)),
        case((1,), ints(3)),
    ],
)
def expand(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy summed over the stretched axes."""
    return node.grads(unbroadcast(op, dy, node.y, node.x))


@gradient_of(
    "Tile",
    family="movement",
    bias="zero",
    cases=[
        case((2, 3), ints(2, 3)),
        case((2, 3, 4), ints(1, 2, 1)),
        case((2, 3), ints(1, 1)),
        case((3,), ints(4)),
        case((2, 3), ints(1, 3)),
    ],
)
def tile(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy summed over the copies."""
    x, repeats = node.x, node.ints(1)
    if repeats is None:
        pairs = op.Concat(op.Reshape(node.input(1), [-1, 1]), op.Reshape(shape_of(op, x), [-1, 1]), axis=1)
        split = op.Reshape(dy, op.Reshape(pairs, [-1]), allowzero=1)
        return node.grads(op.ReduceSum(split, list(range(0, 2 * x.rank, 2)), keepdims=0))
    parts: list[Part] = []
    copies = []
    for axis, count in enumerate(repeats):
        if count != 1:
            copies.append(len(parts))
            parts.append(count)
        parts.append((x, axis))
    return node.grads(op.ReduceSum(reshape_parts(op, dy, parts), copies, keepdims=0) if copies else dy)


# ----- joining and cutting -----


@gradient_of(
    "Concat",
    family="movement",
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
            start = calc(op, "Add", start, length)
        cut = op.Slice(dy, start, calc(op, "Add", start, lengths[i]), [axis])
        return [cut if i == j else None for j in range(len(parts))]
    known = [length for length in lengths if isinstance(length, np.ndarray)]
    split = np.concatenate(known) if len(known) == len(parts) else op.Concat(*lengths, axis=0)
    return list(op.Split(dy, split, axis=axis, outputs=len(parts)))


@gradient_of(
    "Split",
    family="movement",
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
        before = calc(op, "Add", before, sizes(op, node.output(j), [axis]))
    length = calc(op, "Add", before, sizes(op, node.output(i), [axis]))
    part = dys[i]
    assert part is not None
    return crop_or_pad(op, part, before, calc(op, "Sub", sizes(op, node.x, [axis]), length), [axis], node.x.rank)


BIG = 2**63 - 1


@gradient_of(
    "Slice",
    family="movement",
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
    steps = as_int64(op, node, 4) if node.optional(4) is not None else np.ones(len(axes or []), np.int64)
    if axes is None or isinstance(steps, Value):
        return node.grads(scatter_back(op, dy, x, lambda numbers: op.clone(node, [numbers, *node.inputs[1:]])))
    back, stride = (steps < 0).astype(np.int64), np.abs(steps)
    whole, taken = sizes(op, x, axes), sizes(op, node.y, axes)
    start = as_int64(op, node, 1)
    start = calc(op, "Where", calc(op, "Less", start, 0), calc(op, "Add", start, whole), start)
    start = calc(op, "Min", calc(op, "Max", start, 0), calc(op, "Sub", whole, back))
    if back.any():
        turned = [a for a, b in zip(axes, back, strict=True) if b]
        dy = op.Slice(dy, [-1] * len(turned), [-BIG] * len(turned), turned, [-1] * len(turned))
        lowest = calc(op, "Add", start, calc(op, "Mul", calc(op, "Sub", taken, 1), back * steps))
        start = calc(op, "Min", lowest, whole)
    if (stride > 1).any():
        dy = _spread(op, dy, node.y, dict(zip(axes, stride.tolist(), strict=True)))
        taken = calc(op, "Mul", taken, stride)
    rest = calc(op, "Sub", calc(op, "Sub", whole, start), taken)
    return node.grads(crop_or_pad(op, dy, start, rest, axes, x.rank))


def _spread(op: Emit, g: Value, y: Value, strides: dict[int, int]) -> Value:
    """``g`` (shaped like ``y``) with ``stride - 1`` zeros after each element along the axes that have one."""
    spread = [a for a in sorted(strides) if strides[a] > 1]
    inner = [a + i + 1 for i, a in enumerate(spread)]
    room = [strides[a] - 1 for a in spread]
    g = crop_or_pad(op, op.Unsqueeze(g, inner), np.zeros_like(room), np.array(room), inner, y.rank + len(inner))
    parts: list[Part] = []
    for axis in range(y.rank):
        length, stride = y.dim(axis), strides.get(axis, 1)
        if stride == 1:
            parts.append((y, axis))
        else:
            parts.append(length * stride if length is not None else op.Mul(sizes(op, y, [axis]), stride))
    return reshape_parts(op, g, parts)


# ----- padding -----


def _pad_bias(op: Emit, node: NodeView) -> Value | None:
    """The constant around zeros; nothing where it is zero, another mode's, or itself explained."""
    value = node.const(2)
    absent = node.optional(2) is None or node.attr("mode") != "constant" or (value is not None and not np.any(value))
    if absent or (node.want(0) and node.want(2)):
        return None
    inputs = [zeros_like(op, v) if v is not None and node.want(i) else v for i, v in enumerate(node.inputs)]
    return op.clone(node, inputs)


@gradient_of(
    "Pad",
    family="movement",
    bias=_pad_bias,
    cases=[
        case((3, 4), ints(1, 0, 2, 3)),
        case((3, 4), ints(1, 2, 0, 1), np.array(1.5)),
        case((3, 4), ints(1, 2, 0, 1), np.array(1.5), fixed=(2,)),
        case((3, 4), ints(-1, 2, 1, -1)),
        case((3, 4), ints(-1, 2, 0, -1), np.array(0.5)),
        case((3, 4, 5), ints(1, 2), None, ints(-1)),
        case((3, 4, 5), ints(1, 0, 2, 1), None, ints(2, 0)),
        case((3, 4, 5), ints(0, 1, 2, 0, 3, 1), mode="reflect"),
        case((3, 4, 5), ints(2, 1, 3, 1), None, ints(-2, -1), mode="edge"),
        case((1, 3, 4, 5), ints(0, 0, 1, 2, 0, 0, 2, 1), mode="edge"),
        case((1, 3, 4), ints(0, 0, 3, 0, 0, 2), mode="reflect"),
        case((3, 4), ints(1, 2, 2, 1), mode="wrap", opset=19),
        case((3, 4), ints(0, 0, 0, 0)),
    ],
)
def pad(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = what dy has inside the frame (constant), plus what the frame copied, added back at its origin; dvalue = the rest of sum dy."""
    x, mode = node.x, node.attr("mode")
    axes = list(range(x.rank)) if node.optional(3) is None else axes_of(node, x.rank, 3)
    pads = as_int64(op, node, 1)
    if axes is not None and mode == "constant":
        half = len(axes)
        before = pads[:half] if isinstance(pads, np.ndarray) else op.Slice(pads, [0], [half])
        after = pads[half:] if isinstance(pads, np.ndarray) else op.Slice(pads, [half], [2 * half])
        dx = crop_or_pad(op, dy, calc(op, "Neg", before), calc(op, "Neg", after), axes, x.rank)
    elif axes is not None and isinstance(pads, np.ndarray):
        matrices = {}
        for axis, before, after in zip(axes, pads[: len(axes)].tolist(), pads[len(axes) :].tolist(), strict=True):
            if before or after:
                matrices[axis] = op.clone(node, [identity_matrix(op, x, axis), [0, before, 0, after]])
        dx = linear_adjoint(op, dy, x, matrices)
    else:
        numbered = [node.input(1), None, node.optional(3)]
        dx = scatter_back(op, dy, x, lambda numbers: op.clone(node, [numbers, *numbered]), fills=mode == "constant")
    answer = node.grads(dx if node.want(0) else None)
    if node.want(2):
        answer[2] = reshape_like(op, op.Sub(op.ReduceSum(dy, keepdims=0), op.ReduceSum(dx, keepdims=0)), node.input(2))
    return answer


@gradient_of(
    "CenterCropPad",
    family="movement",
    bias="zero",
    cases=[case((5, 6), ints(3, 9)), case((5, 6, 2), ints(8, 3), axes=[1, 0]), case((4, 7), ints(4), axes=[-1])],
)
def center_crop_pad(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy padded where x was cropped and cropped where it was padded; of an odd difference the smaller half comes first."""
    x = node.x
    axes = axes_of(node, x.rank) or list(range(x.rank))
    grown = calc(op, "Sub", sizes(op, node.y, axes), sizes(op, x, axes))
    before = calc(op, "Div", grown, 2)
    return node.grads(crop_or_pad(op, dy, calc(op, "Neg", before), calc(op, "Sub", before, grown), axes, x.rank))


# ----- selections -----


@gradient_of(
    "Trilu",
    family="movement",
    bias="zero",
    cases=[case((2, 3, 4)), case((3, 3), upper=0), case((3, 4), np.array(-1, np.int64)), case((4, 4), np.array(1, np.int64), upper=0)],
)
def trilu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = the same triangle of dy."""
    return node.grads(op.clone(node, [dy, *node.inputs[1:]]))


@gradient_of(
    "Compress",
    family="movement",
    bias="zero",
    cases=[
        case((3, 2), np.array([False, True, True])),
        case((3, 4), np.array([False, True, False, True]), axis=1),
        case((3, 4, 2), np.array([False, True, True]), axis=-2),
        case((3, 4), np.array([True, False, True]), axis=0),
        case((3, 4), np.array([False, True, False, False, True])),
    ],
)
def compress(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy at the elements that the condition kept, else 0."""
    x, axis = node.x, node.attr("axis")
    if axis is None:
        return node.grads(scatter_back(op, dy, x, lambda numbers: op.clone(node, [numbers, node.input(1)])))
    axis %= x.rank
    positions = op.Range(0, op.Reshape(sizes(op, x, [axis]), np.zeros(0, np.int64)), 1)
    return node.grads(scatter_axis(op, dy, op.Compress(positions, node.input(1), axis=0), x, axis))
