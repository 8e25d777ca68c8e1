"""What operators do to the axes of tensors: the forms that many of them share. An operator with a form of its own states it itself.

A rule is asked where one axis of one input is found in one output, and how (``How``); ``None``: nowhere, or it is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxsal.graph import NodeView
from onnxsal.graph.helpers import axes_of
from onnxsal.graph.infer import Dim, Shape
from onnxsal.ops.statements import APART, INNER, MIXED, PARTS, SUMMED, AxesRule, Moved


def aligned(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Element by element, broadcast: axes line up from the last one on."""
    place = node.output(j).rank - node.input(i).rank + axis
    return None if place < 0 or _stretched(node, i, axis) else (place, APART)


def _stretched(node: NodeView, i: int, axis: int) -> bool:
    """Whether the axis has one entry, which is repeated."""
    place = node.y.rank - node.input(i).rank + axis
    own, after = (node.input(i).shape or ())[axis], (node.y.shape or ())[place] if place >= 0 else None
    return own == 1 and after != 1


def nowhere(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """No axis of an input is one of the output."""
    return None


def samples_only(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """The first axis of the first input stays apart; what the others become is not followed."""
    return (0, APART) if i == axis == 0 else None


def first_aligned(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """As ``aligned``, of the first input; the others are settings."""
    return aligned(node, i, axis, j) if i == 0 else None


def pictures(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """[N, C, ...] in and out: windows over the places of each channel alone."""
    return None if i else (axis, APART if axis < 2 else MIXED)


def pooled(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """[N, C, ...]: one entry for all places of a channel."""
    return None if i else (axis, APART if axis < 2 else SUMMED)


def convolution(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """[N, C, ...]: windows over places; channels are summed, and units take their place."""
    return None if i else (axis, APART if axis == 0 else SUMMED if axis == 1 else MIXED)


def each_sample(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """[N, C, ...]: samples apart; within each anything may meet anything along an axis."""
    return None if i else (axis, APART if axis == 0 else MIXED)


def along(*, default: int = -1, first: int | None = None) -> AxesRule:
    """All entries along one axis decide together (or are moved along it); the others are apart. Before opset 13 a Softmax and its like
    take all axes from theirs on (``first``: the version since when it is one axis).
    """

    def rule(node: NodeView, i: int, axis: int, j: int) -> Moved:
        if i or node.output(j).rank != node.x.rank:
            return None
        own = int(node.attr("axis", 1 if first and node.opset < first else default)) % max(node.x.rank, 1)
        mixed = axis >= own if first and node.opset < first else axis == own
        return axis, MIXED if mixed else APART

    return rule


def from_axis_on(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """All axes from one on are normalised together."""
    if i:
        return None
    own = int(node.attr("axis", -1)) % node.x.rank
    return (axis, MIXED if axis >= own else APART) if j == 0 else (axis, APART) if axis < own else None


def reduced(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Axes given as input 1 or attribute ``axes``, or one as ``axis``, are summed up; with ``keepdims`` one entry stays."""
    if i:
        return None
    rank = node.x.rank
    single = node.attr("axis")
    axes = [int(single) % rank] if single is not None else axes_of(node, rank, 1)
    if axes is None and (node.optional(1) is not None or node.attr("noop_with_empty_axes")):
        return (axis, APART) if node.optional(1) is None else None
    gone = axes or ([] if node.attr("noop_with_empty_axes") else list(range(rank)))
    if node.attr("keepdims", 1):
        return axis, SUMMED if axis in gone else APART
    return None if axis in gone else (axis - sum(a < axis for a in gone), APART)


def within(changed: Sequence[int] | None) -> AxesRule:
    """The elements of some axes are moved, left out or repeated along them (``None``: nobody knows which); the others are apart."""
    return lambda node, i, axis, j: None if i or changed is None else (axis, MIXED if axis in changed else APART)


def regrouped(before: Shape, axis: int, after: Shape) -> Moved:
    """The axis of a reshaped tensor along which the elements of one index of ``axis`` still lie together.

    It is as long, behind as many elements or before as many; or it is the first one, where all that follows is known to be one index's; or
    it begins where as many elements lie before it as before ``axis``: then each index became several, one after another (or several of the
    first axis became one). ``None`` where there is none.
    """
    size = before[axis]
    for place, other in enumerate(after):
        outer, inner = before[:axis], after[:place]
        if other is not None and other == size and None not in outer and (outer == inner or count(outer) == count(inner) != 0):
            return place, APART
    if axis == 0 and after and count(before[1:]) == count(after[1:]) != 0:
        return 0, APART
    if axis == 0 and after:
        joined = isinstance(size, int) and isinstance(after[0], int) and after[0] < size
        return 0, MIXED if joined else PARTS  # several indices became one, or each several
    return _ends_alike(before, axis, after) or _begins(before, axis, after)


def _ends_alike(before: Shape, axis: int, after: Shape) -> Moved:
    """The axis of the same length behind which as many elements lie, whatever was joined or split before it."""
    behind = before[axis:]
    fitting = [p for p in range(len(after)) if after[p] == before[axis] and None not in (*behind, *after[p:])]
    same = [p for p in fitting if _product(after[p + 1 :]) == _product(behind[1:])]
    return (same[-1], APART) if same and before[axis] != 1 else None


def _begins(before: Shape, axis: int, after: Shape) -> Moved:
    outer = _product(before[:axis])
    fitting = [j for j in range(len(after)) if None not in (*after[:j], *before[:axis]) and _product(after[:j]) == outer]
    larger = [j for j in fitting if after[j] != 1]
    place = next(iter([*larger, *fitting]), None)
    return None if place is None else (place, PARTS)


def joined_behind(before: Shape, axis: int, after: Shape) -> Moved:
    """The axis that ends where as many elements lie before the next one as behind ``axis``, if it begins further outside."""
    behind = _product(before[: axis + 1])
    ends = [j for j in range(len(after)) if None not in (*after[: j + 1], *before[: axis + 1]) and _product(after[: j + 1]) == behind]
    return (ends[0], INNER) if ends and after[ends[0]] != before[axis] else None


def _product(dims: Sequence[Dim]) -> tuple[int, list[Dim]]:
    """Known sizes multiplied, and the symbols beside them."""
    return math.prod(d for d in dims if isinstance(d, int)), sorted((d for d in dims if not isinstance(d, int)), key=str)


def count(shape: Sequence[Dim]) -> int:
    """Elements of a shape; 0 where they are not known."""
    return math.prod(d for d in shape if isinstance(d, int)) if all(isinstance(d, int) for d in shape) else 0


FAMILIES: dict[str, AxesRule] = dict.fromkeys(("activation", "elementwise", "add", "product", "select", "quantize"), aligned)
"""What the operators of a family do to axes, unless they state something else."""
