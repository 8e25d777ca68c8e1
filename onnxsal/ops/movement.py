"""Movement: copies, rearrangements, padding and selections of elements by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import (
    ShapePart,
    calc,
    crop_or_pad,
    frame_back,
    int_operand,
    reshape_parts,
    scatter_axis,
    scatter_back,
    sizes,
)
from onnxsal.graph.helpers import axes_of, perm_inverse, reshape_like, shape_of, unbroadcast, zeros_like
from onnxsal.ops import squashing
from onnxsal.ops.axes import each_sample, first_aligned, joined_behind, regrouped, within
from onnxsal.ops.picks import moved
from onnxsal.ops.ranges import ZERO, hull, with_zero
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.slicing import ints
from onnxsal.ops.statements import APART, MIXED, Moved, Range, RangeOf

# ----- the same elements in another shape or order -----


def _regrouped_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """An axis that is taken out or put in moves the others; in another shape, what can be told from the sizes."""
    if i or node.x.shape is None or node.y.shape is None:
        return None
    if node.op_type in ("Squeeze", "Unsqueeze"):
        return _shifted(node, axis)
    asked = node.ints(1) if node.op_type == "Reshape" else None
    if asked is not None and not node.attr("allowzero") and asked[: axis + 1] == [0] * (axis + 1):
        return axis, APART
    return regrouped(node.x.shape, axis, node.y.shape) or joined_behind(node.x.shape, axis, node.y.shape)


def _shifted(node: NodeView, axis: int) -> Moved:
    put_in, rank = node.op_type == "Unsqueeze", node.x.rank
    axes = axes_of(node, node.y.rank if put_in else rank, 1)
    if axes is None and not put_in and node.optional(1) is None:
        axes = [a for a, d in enumerate(node.x.shape or ()) if d == 1]
    if axes is None or (not put_in and axis in axes):
        return None
    return ([a for a in range(node.y.rank) if a not in axes][axis] if put_in else axis - sum(a < axis for a in axes)), APART


@gradient_of(
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    family="movement",
    head=squashing.reshaped,
    axes=_regrouped_axes,
    keeps="order",
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


def _permuted_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    perm = list(node.attr("perm") or range(node.x.rank)[::-1])
    return (perm.index(axis), APART) if axis in perm else None  # a file that no runtime has opened yet may permute too few


@gradient_of(
    "Transpose",
    family="movement",
    head=squashing.transposed,
    axes=_permuted_axes,
    keeps="elements",
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
    axes=each_sample,
    pictures=True,
    keeps="elements",
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


@gradient_of(
    "SpaceToDepth",
    family="movement",
    axes=each_sample,
    pictures=True,
    keeps="elements",
    bias="zero",
    cases=[case((2, 2, 4, 6), blocksize=2), case((1, 3, 3, 6), blocksize=3)],
)
def space_to_depth(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = DepthToSpace(dy)."""
    return [op.DepthToSpace(dy, blocksize=node.attr("blocksize"), mode="DCR")]


def _reversed_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Reversed along the time; the lengths belong to the samples."""
    if i:
        return int(node.attr("batch_axis")), APART
    return axis, MIXED if axis == int(node.attr("time_axis")) else APART


@gradient_of(
    "ReverseSequence",
    family="movement",
    axes=_reversed_axes,
    keeps="elements",
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
    head=squashing.expanded,
    axes=first_aligned,
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


def _tiled_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    repeats = node.ints(1)
    return within(None if repeats is None else [a for a, n in enumerate(repeats) if n != 1])(node, i, axis, j)


@gradient_of(
    "Tile",
    family="movement",
    axes=_tiled_axes,
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
    parts: list[ShapePart] = []
    copies = []
    for axis, count in enumerate(repeats):
        if count != 1:
            copies.append(len(parts))
            parts.append(count)
        parts.append((x, axis))
    return node.grads(op.ReduceSum(reshape_parts(op, dy, parts), copies, keepdims=0) if copies else dy)


# ----- padding -----


def _pad_bias(op: Emit, node: NodeView) -> Value | None:
    """The constant around zeros; nothing where it is zero, another mode's, or itself explained."""
    value = node.const(2)
    absent = node.optional(2) is None or node.attr("mode") != "constant" or (value is not None and not np.any(value))
    if absent or (node.want(0) and node.want(2)):
        return None
    inputs = [zeros_like(op, v) if v is not None and node.want(i) else v for i, v in enumerate(node.inputs)]
    return op.clone(node, inputs)


def _pad_range(node: NodeView, of: RangeOf) -> Range:
    """As x; a constant frame holds its value, 0 if none is given."""
    if node.attr("mode") != "constant":
        return of(0)
    return hull(of(0), ZERO if node.optional(2) is None else of(2))


def _padded_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Only the axes with a frame change."""
    pads = node.ints(1)
    axes = list(range(node.x.rank)) if node.optional(3) is None else axes_of(node, node.x.rank, 3)
    if pads is None or axes is None:
        return None
    return within([a for k, a in enumerate(axes) if pads[k] or pads[k + len(axes)]])(node, i, axis, j)


def _pads_with_a_value(node: NodeView) -> bool:
    """Whether constants are put around x; unknown amounts may be some."""
    pads = node.ints(1, "pads")
    return node.attr("mode") == "constant" and (pads is None or any(p > 0 for p in pads))


def _copied_once(x: Value, axes: Sequence[int], pads: np.ndarray, mode: str) -> bool:
    """Whether each side of the frame copies an entry once, or the edge alone: a wrapped frame may go round several times."""
    rooms = [x.dim(a) for a in axes]
    cut = np.minimum(pads, 0).reshape(2, -1).sum(0)
    return mode != "wrap" or all(d is not None and d + c >= n for d, c, n in zip(rooms, cut, pads.reshape(2, -1).max(0), strict=True))


@gradient_of(
    "Pad",
    family="movement",
    axes=_padded_axes,
    range=_pad_range,
    fills=_pads_with_a_value,
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
        case((3, 4), ints(-1, 9, 2, -1), mode="wrap", opset=19),
        case((5, 4), ints(-1, 2, 3, -1), mode="reflect"),
        case((3, 4), ints(-2, 5, 5, -1), mode="edge"),
        case((3, 4), ints(0, 0, 0, 0)),
    ],
)
def pad(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = what dy has inside the frame (constant), plus what the frame copied, added back at its origin; dvalue = the rest of sum dy."""
    x, mode = node.x, node.attr("mode")
    axes = list(range(x.rank)) if node.optional(3) is None else axes_of(node, x.rank, 3)
    pads = int_operand(op, node, 1)
    if axes is not None and mode == "constant":
        half = len(axes)
        before = pads[:half] if isinstance(pads, np.ndarray) else op.Slice(pads, [0], [half])
        after = pads[half:] if isinstance(pads, np.ndarray) else op.Slice(pads, [half], [2 * half])
        dx = crop_or_pad(op, dy, calc(op).Neg(before), calc(op).Neg(after), axes, x.rank)
    elif axes is not None and isinstance(pads, np.ndarray) and _copied_once(x, axes, pads, mode):
        dx = dy
        for axis, before, after in zip(axes, pads[: len(axes)].tolist(), pads[len(axes) :].tolist(), strict=True):
            if before or after:
                dx = frame_back(op, dx, x, axis, before, after, mode)
    else:
        numbered = [node.input(1), None, node.optional(3)]
        dx = scatter_back(op, dy, x, lambda numbers: op.clone(node, [numbers, *numbered]), fills=mode == "constant")
    answer = node.grads(dx if node.want(0) else None)
    if node.want(2):
        answer[2] = reshape_like(op, op.Sub(op.ReduceSum(dy, keepdims=0), op.ReduceSum(dx, keepdims=0)), node.input(2))
    return answer


def _cropped_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    return within(axes_of(node, node.x.rank) or range(node.x.rank))(node, i, axis, j)


@gradient_of(
    "CenterCropPad",
    family="movement",
    axes=_cropped_axes,
    range=with_zero,
    fills=lambda node: True,
    bias="zero",
    cases=[case((5, 6), ints(3, 9)), case((5, 6, 2), ints(8, 3), axes=[1, 0]), case((4, 7), ints(4), axes=[-1])],
)
def center_crop_pad(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy padded where x was cropped and cropped where it was padded; of an odd difference the smaller half comes first."""
    x = node.x
    axes = axes_of(node, x.rank) or list(range(x.rank))
    grown = calc(op).Sub(sizes(op, node.y, axes), sizes(op, x, axes))
    before = calc(op).Div(grown, 2)
    return node.grads(crop_or_pad(op, dy, calc(op).Neg(before), calc(op).Sub(before, grown), axes, x.rank))


# ----- selections -----


@gradient_of(
    "Trilu",
    family="movement",
    axes=first_aligned,
    range=with_zero,
    fills=lambda node: True,
    bias="zero",
    cases=[case((2, 3, 4)), case((3, 3), upper=0), case((3, 4), np.array(-1, np.int64)), case((4, 4), np.array(1, np.int64), upper=0)],
)
def trilu(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = the same triangle of dy."""
    return node.grads(op.clone(node, [dy, *node.inputs[1:]]))


def _compressed_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    along = node.attr("axis")
    return within(None if along is None else [int(along) % node.x.rank])(node, i, axis, j)


@gradient_of(
    "Compress",
    family="movement",
    axes=_compressed_axes,
    picks=moved,
    compares=1,
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
