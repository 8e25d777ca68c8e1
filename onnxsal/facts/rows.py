"""Rows that stay apart: where samples that come in row by row lie in every tensor, as far as the graph proves it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from onnxsal.facts.picture import CHANNELS_FIRST
from onnxsal.graph import Model, NodeView
from onnxsal.graph.helpers import axes_of
from onnxsal.graph.infer import Shape
from onnxsal.graph.model import captured
from onnxsal.ops.registry import spec_of

Axes = Sequence[int | None]
"""For each input of a node the axis that counts samples; ``None``: it holds the same for all of them."""

_BY_ELEMENT = frozenset({"activation", "elementwise", "add", "product", "select", "quantize"})
"""Families that compute each element from the elements at the same place, broadcast."""

_ALSO_BY_ELEMENT = frozenset(
    {"Cast", "CastLike", "Identity", "Dropout", "Expand", "Ceil", "Floor", "Round", "Sign", "IsNaN", "IsInf", "Not", "And", "Or", "Xor"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
_NOT_BY_ELEMENT = frozenset({"Range", "DynamicQuantizeLinear"})

_EACH_PICTURE = CHANNELS_FIRST - {"DeformConv", "GridSample"}
"""Operators on [N, C, ...] that treat each of the N alone."""

_FROM_AXIS_ON = frozenset({"LayerNormalization", "RMSNormalization"})
_ALONG_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "Split", "TopK", "Concat"})


def row_axes(model: Model, rows: Collection[str]) -> dict[str, int | None]:
    """Tensor -> the axis that counts samples, for every tensor that depends on the inputs ``rows``, which have it first.

    Index i of that axis depends on row i of these inputs alone, and there are as many. ``None``: that could not be proved.
    """
    found: dict[str, int | None] = dict.fromkeys(rows, 0)
    for node in model.nodes:
        read = [n for n in (*node.proto.input, *captured(node.proto)) if n in found]
        if not read or (node.op_type in ("Shape", "Size") and not node.domain):
            continue  # nothing of the samples but their number
        doubtful = node.domain or any(found[n] is None for n in read) or any(n in found for n in captured(node.proto))
        axes = [found.get(n) for n in node.proto.input]
        after = None if doubtful else _after(node, axes)
        for place, name in enumerate(node.proto.output):
            if name:
                found[name] = _of_output(node, place, after)
    return found


def _of_output(node: NodeView, place: int, axis: int | None) -> int | None:
    """Outputs beside the first that hold samples another way."""
    if node.op_type in ("LSTM", "GRU", "RNN") and axis is not None:
        return axis - 1 if place and axis else axis
    return axis if place == 0 or node.op_type in ("Split", "TopK", "Dropout") else None


def _after(node: NodeView, axes: Axes) -> int | None:
    """The axis that counts samples in the first output."""
    kind = node.op_type
    if any(node.input(i).shape is None for i, a in enumerate(axes) if a is not None) or node.y.shape is None:
        return None
    spec = spec_of(node)
    if kind in _ALSO_BY_ELEMENT or (spec is not None and spec.family in _BY_ELEMENT and kind not in _NOT_BY_ELEMENT):
        return _aligned(node, axes)
    if kind in ("MatMul", "Gemm"):
        return _product(node, axes)
    if kind == "Einsum":
        return _einsum(node, axes)
    if kind == "Concat":
        own = {a for a in axes if a is not None}
        return own.pop() if len(own) == 1 and int(node.attr("axis")) % node.y.rank not in own else None
    if kind in ("LSTM", "GRU", "RNN"):
        return _recurrent(node, axes)
    if kind == "Gather":
        return _gather(node, axes)
    if kind == "GridSample":
        return 0 if all(a in (0, None) for a in axes) else None
    first = axes[0]
    if first is None or any(a is not None for a in axes[1:]):
        return None
    return _of_one(node, first)


def _of_one(node: NodeView, axis: int) -> int | None:
    """Operators whose first input alone holds samples."""
    kind, rank, shape = node.op_type, node.x.rank, node.y.shape or ()
    if kind in _EACH_PICTURE:
        return 0 if axis == 0 and not node.attr("training_mode") else None
    if kind == "Transpose":
        return list(node.attr("perm") or range(rank)[::-1]).index(axis)
    if kind == "Flatten":
        return 0 if axis == 0 and int(node.attr("axis", 1)) % (rank + 1) > 0 else None
    if kind == "Reshape":
        return _reshape(node, axis, node.x.shape or (), shape)
    if kind == "Resize":
        return axis if len(shape) == rank and shape[axis] is not None and shape[axis] == (node.x.shape or ())[axis] else None
    if kind in _FROM_AXIS_ON:
        return axis if axis < int(node.attr("axis", -1)) % rank else None
    if kind in _ALONG_AXIS:
        along = int(node.attr("axis", 0 if kind == "Split" else 1 if node.opset < 13 and "max" in kind else -1)) % rank
        apart = axis < along if node.opset < 13 and kind != "Split" else axis != along
        return axis if apart else None
    return _by_axes(node, axis, rank)


def _by_axes(node: NodeView, axis: int, rank: int) -> int | None:
    """Operators that are told on which axes they work."""
    kind = node.op_type
    if kind == "Pad":
        pads = node.ints(1, "pads")
        return axis if pads is not None and node.optional(3) is None and not (pads[axis] or pads[axis + rank]) else None
    if kind == "Tile":
        repeats = node.ints(1)
        return axis if repeats is not None and repeats[axis] == 1 else None
    if kind == "Slice":
        axes = axes_of(node, rank, 3)
        return axis if axes is not None and axis not in axes else None
    if kind == "CumSum":
        along = node.ints(1)
        return axis if along is not None and along[0] % rank != axis else None
    if kind in ("Squeeze", "Unsqueeze"):
        axes = axes_of(node, node.y.rank if kind == "Unsqueeze" else rank, 1)
        if axes is None or (kind == "Squeeze" and axis in axes):
            return None
        if kind == "Squeeze":
            return axis - sum(a < axis for a in axes)
        return [a for a in range(node.y.rank) if a not in axes][axis]
    if kind.startswith("Reduce") or kind in ("ArgMax", "ArgMin"):
        axes = axes_of(node, rank) if kind.startswith("Arg") else axes_of(node, rank, 1)
        axes = [int(node.attr("axis", 0)) % rank] if kind.startswith("Arg") else axes
        if not axes or axis in axes:
            return None
        return axis if node.attr("keepdims", 1) else axis - sum(a < axis for a in axes)
    return None


def _aligned(node: NodeView, axes: Axes) -> int | None:
    """Broadcasting lines axes up from the last one on."""
    from_right = {node.input(i).rank - a for i, a in enumerate(axes) if a is not None}
    return node.y.rank - from_right.pop() if len(from_right) == 1 else None


def _product(node: NodeView, axes: Axes) -> int | None:
    if node.op_type == "Gemm":
        return 0 if list(axes[1:]) in ([None], [None, None]) and axes[0] == int(bool(node.attr("transA"))) else None
    left, right = axes
    ranks = node.x.rank, node.input(1).rank
    if left is not None and right is not None:
        inside = left < ranks[0] - 2 and right < ranks[1] - 2
        return _aligned(node, axes) if inside else None
    if left is not None:
        return node.y.rank - ranks[0] + left if left < ranks[0] - 1 and ranks[1] > 1 else left if left < ranks[0] - 1 else None
    assert right is not None
    if right == ranks[1] - 1 and ranks[1] > 1:
        return node.y.rank - 1
    return node.y.rank - ranks[1] + right if right < ranks[1] - 2 and ranks[0] > 1 else None


def _einsum(node: NodeView, axes: Axes) -> int | None:
    left, arrow, right = str(node.attr("equation")).replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in left + right:
        return None
    letters = {terms[i][a] for i, a in enumerate(axes) if a is not None}
    letter = letters.pop() if len(letters) == 1 else "?"
    elsewhere = any(term.count(letter) for term, a in zip(terms, axes, strict=True) if a is None)
    return right.index(letter) if right.count(letter) == 1 and not elsewhere else None


def _recurrent(node: NodeView, axes: Axes) -> int | None:
    """X is [T, N, I], or [N, T, I] where layout is 1; the first output is [T, directions, N, H], or [N, T, directions, H]."""
    turned = bool(node.attr("layout"))
    for i, a in enumerate(axes):
        wanted = 0 if turned or i == 4 else 1  # 4: the lengths of the sequences [N]
        if a is not None and (i in (1, 2, 3) or i > 6 or a != wanted):
            return None
    return None if axes[0] is None else 0 if turned else 2


def _gather(node: NodeView, axes: Axes) -> int | None:
    data, indices = axes
    along = int(node.attr("axis", 0)) % node.x.rank
    if data is None:
        return along + (indices or 0)
    if indices is not None or data == along:
        return None
    return data if data < along else data + node.input(1).rank - 1


def _reshape(node: NodeView, axis: int, before: Shape, after: Shape) -> int | None:
    """The axis that is as long, behind as many elements; or the first one, where all that follows is known to be one sample's."""
    asked = node.ints(1)
    if asked is not None and not node.attr("allowzero") and asked[: axis + 1] == [0] * (axis + 1):
        return axis
    size = before[axis]
    for place, other in enumerate(after):
        outer, inner = before[:axis], after[:place]
        if other is not None and other == size and (outer == inner or _count(outer) == _count(inner) != 0) and None not in outer:
            return place
    same_rest = len(after) > 0 and _count(before[1:]) == _count(after[1:]) != 0
    return 0 if axis == 0 and same_rest else None


def _count(shape: Shape) -> int:
    """Elements of a shape; 0 where they are not known."""
    return math.prod(d for d in shape if isinstance(d, int)) if all(isinstance(d, int) for d in shape) else 0
