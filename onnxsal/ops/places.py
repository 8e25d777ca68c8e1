"""What operators do to places: where on the explained picture, series or volume the elements of an inner tensor come from.

An element is computed from a part of the picture: its place is the mean position of that part, and its spread tells how far the
positions lie apart that were averaged. Copies keep a place, windows and sums average the places of what they read, and of two
places that meet the sharper one wins: a residual stream stays where it is, whatever an attention over the whole picture adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxsal.graph import NodeView, Value
from onnxsal.graph.helpers import axes_of

_DIGITS = 6
"""Means of the same positions, summed in another order, are the same place."""

_MOST = 1 << 24
"""Tensors with more elements than this are not followed element by element."""

_INDICES = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
"""Types of operands that say where elements go; operands of other types are the elements."""


@dataclass(frozen=True)
class Places:
    """The position along each axis of places (of a picture its row and column) and the spread of every element, in turn along the first
    axis of ``at``, which is otherwise shaped like the tensor; an axis along which nothing varies has size 1.

    The spread is -1 where an element has no place (weights, class tokens), infinite where it comes from everywhere.
    """

    shape: tuple[int, ...]
    at: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        return np.asarray(self.at[-1])

    @property
    def count(self) -> int:
        """The number of axes of places."""
        return len(self.at) - 1


PlaceRule = Callable[[NodeView, Sequence[Places | None]], "Places | Sequence[Places | None] | None"]
"""(node with static shapes, places of its inputs; ``None``: an input that does not depend on the picture) -> places of its first output,
or of every output; ``None`` where they are not known."""


def places(shape: Sequence[int], at: np.ndarray) -> Places:
    """Places in the shortest form: rounded, one index of every axis along which nothing varies.

    Along an axis where only the spread varies, as among channels that went through different windows, the largest one stands for all.
    """
    at = np.round(at, _DIGITS)
    at = np.where(at[-1:] < 0, nowhere(at.ndim - 1, len(at) - 1), at)
    at = np.where(np.isinf(at[-1:]), everywhere([1] * (at.ndim - 1), len(at) - 1).at, at)
    for axis in range(1, at.ndim):
        if at.shape[axis] > 1:
            differ = [np.any(part != part.take([0], axis - 1)) for part in at]
            if not any(differ):
                at = at.take([0], axis)
            elif not any(differ[:-1]) and np.all(at[-1] >= 0):
                at = at.max(axis, keepdims=True)
    return Places(tuple(shape), at)


def nowhere(rank: int, count: int = 2) -> np.ndarray:
    """An ``at`` without places; ``count`` is the number of axes of places."""
    return np.asarray([0.0] * count + [-1.0]).reshape(count + 1, *[1] * rank)


def everywhere(shape: Sequence[int], count: int = 2) -> Places:
    """Every element comes from the whole picture."""
    return Places(tuple(shape), np.asarray([0.0] * count + [np.inf]).reshape(count + 1, *[1] * len(shape)))


def unplaced(shape: Sequence[int]) -> Places:
    """No element has a place."""
    return Places(tuple(shape), nowhere(len(shape)))


def _count(parts: Iterable[Places | None]) -> int:
    """The number of axes of places of the inputs that have some."""
    return next(p.count for p in parts if p is not None)


def merged(parts: Iterable[np.ndarray], rank: int) -> np.ndarray:
    """Elements that meet: the sharper place wins; two different places that are as sharp come from everywhere."""
    result: np.ndarray | None = None
    for part in parts:
        part = part.reshape(len(part), *[1] * (rank + 1 - part.ndim), *part.shape[1:])
        if result is None:
            result = part
            continue
        a, b = np.broadcast_arrays(result, part)
        sharper = (b[-1] >= 0) & ((a[-1] < 0) | (b[-1] < a[-1]))
        differ = (a[-1] >= 0) & (a[-1] == b[-1]) & np.any(a[:-1] != b[:-1], 0)
        result = np.where(sharper, b, a)
        result = np.where(differ, everywhere([1] * rank, len(part) - 1).at, result)
    return nowhere(rank) if result is None else result


def pooled(at: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The mean place of all elements along ``axes`` (of the tensor), which stay with size 1; the spread grows by what they span."""
    along = tuple(a + 1 for a in axes)
    if all(at.shape[a] == 1 for a in along):
        return at
    known = at[-1:] >= 0
    count = known.sum(along, keepdims=True)
    mean = np.where(known, at, 0).sum(along, keepdims=True)[:-1] / np.maximum(count, 1)
    high, low = (f(np.where(known, at[:-1], z), along, keepdims=True) for f, z in ((np.max, -np.inf), (np.min, np.inf)))
    span = np.where(count > 0, high - low, 0).max(0, keepdims=True)
    return np.where(count > 0, np.concatenate([mean, at[-1:].max(along, keepdims=True) + span]), nowhere(at.ndim - 1, len(at) - 1))


# ----- rules -----


def same(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """Element by element."""
    shape = _shape(node)
    return None if shape is None else places(shape, merged([p.at for p in parts if p is not None], len(shape)))


def first(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """Element by element of the first input; others are scales and shifts."""
    return parts[0]


def lost(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """What depends on values is not followed."""
    return None


def mixed(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """Every element of the output depends on all elements."""
    shape = _shape(node)
    return None if shape is None else everywhere(shape, _count(parts))


def along(axes: Callable[[NodeView, int], Sequence[int]]) -> PlaceRule:
    """Element by element, but statistics over ``axes(node, rank)`` reach the elements that have no place, too."""

    def rule(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
        source = parts[0]
        if source is None:
            return None
        own = source.at
        return places(source.shape, np.where(own[-1:] < 0, pooled(own, axes(node, len(source.shape))), own))

    return rule


def from_axis(node: NodeView, rank: int) -> Sequence[int]:
    """Axes from ``axis`` on."""
    return range(int(node.attr("axis", -1)) % rank, rank)


def one_axis(node: NodeView, rank: int) -> Sequence[int]:
    """The ``axis`` alone."""
    return [int(node.attr("axis", -1)) % rank]


def spatial(node: NodeView, rank: int) -> Sequence[int]:
    """Axes behind the channels."""
    return range(2, rank)


def behind_samples(node: NodeView, rank: int) -> Sequence[int]:
    """All axes but the first."""
    return range(1, rank)


def reduced(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """The mean over the axes that the node names, or over all."""
    rank = len(parts[0].shape) if parts[0] is not None else 0
    axes = axes_of(node, rank, 1)
    if axes is None and node.optional(1) is not None:
        return None
    axes = axes or ([] if node.attr("noop_with_empty_axes") else [*range(rank)])
    return _without(node, parts[0], axes, bool(node.attr("keepdims", 1)))


def global_window(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """The mean over all but samples and channels."""
    return None if parts[0] is None else _without(node, parts[0], range(2, len(parts[0].shape)), True)


def _without(node: NodeView, source: Places | None, axes: Sequence[int], keep: bool) -> Places | None:
    shape = _shape(node)
    if source is None or shape is None:
        return None
    at = pooled(source.at, axes)
    return places(shape, at if keep else at.squeeze(tuple(a + 1 for a in axes)))


def matrix_product(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """Each factor's mean over what is summed; rows and columns from different places make elements that come from everywhere."""
    shape = _shape(node)
    if shape is None:
        return None
    vectors = [node.input(i).rank == 1 for i in range(2)]
    rank, sources = len(shape) + sum(vectors), []
    for i, part in enumerate(parts[:2]):
        if part is None:
            continue
        at = part.at.swapaxes(1, 2) if node.attributes.get("transB" if i else "transA") else part.at
        own = len(part.shape)
        sources.append(pooled(at, [0 if own == 1 else own - 2 + (i == 0)]))
    at = product(sources, rank)
    at = at.squeeze(tuple(1 + rank - 2 + i for i in range(2) if vectors[i]))
    bias = parts[2] if len(parts) > 2 else None
    return places(shape, at if bias is None else merged([at, bias.at], len(shape)))


def product(sources: Sequence[np.ndarray], rank: int) -> np.ndarray:
    """Factors that are as sharp and vary along different axes come from everywhere; said at once, without the table of all pairs."""
    full = [s.reshape(len(s), *[1] * (rank + 1 - s.ndim), *s.shape[1:]) for s in sources]
    for a, s in enumerate(full):
        for t in full[:a]:
            vary = [{axis for axis in range(1, rank + 1) if u.shape[axis] > 1} for u in (s, t)]
            if vary[0] - vary[1] and vary[1] - vary[0] and s[-1].min() == t[-1].min():
                return everywhere([1] * rank, len(s) - 1).at
    return merged(full, rank)


# ----- windows -----


def windows(channels: bool) -> PlaceRule:
    """The mean over each window of a convolution (which also sums over the ``channels`` of a group) or of a pooling.

    Beyond the border the places go on as they went before it, so that padding moves none.
    """

    def rule(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
        source, shape = parts[0], _shape(node)
        if source is None or shape is None or any(p is not None for p in parts[1:]):
            return None
        at, rank = source.at, len(source.shape)
        at = _grouped(at, int(node.attr("group", 1)), shape[1]) if channels else at
        for i in range(rank - 2):
            kernel, stride, dilation = _geometry(node, i)
            begin = _begin(node, i, rank - 2, source.shape[2 + i], shape[2 + i], (kernel - 1) * dilation + 1, stride)
            index = np.arange(shape[2 + i])[:, None] * stride - begin + np.arange(kernel) * dilation
            at = _taps(at, 2 + i, index)
        return places(shape, at)

    return rule


def spread_windows(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """A transposed convolution: each output lies between the inputs whose windows cover it."""
    source, shape = parts[0], _shape(node)
    if source is None or shape is None or any(p is not None for p in parts[1:]):
        return None
    at, rank = _grouped(source.at, int(node.attr("group", 1)), shape[1]), len(source.shape)
    for i in range(rank - 2):
        kernel, stride, dilation = _geometry(node, i)
        extent = (kernel - 1) * dilation + 1
        pads = node.attr("pads")
        total = stride * (source.shape[2 + i] - 1) + extent - shape[2 + i]
        begin = pads[i] if pads is not None else total // 2
        at = _between(at, 2 + i, (np.arange(shape[2 + i]) + begin - (extent - 1) / 2) / stride)
    return places(shape, at)


def resized(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """Each output lies between the inputs that it is interpolated from."""
    source, shape, mode = parts[0], _shape(node), str(node.attr("coordinate_transformation_mode", "half_pixel"))
    if source is None or shape is None or mode == "tf_crop_and_resize":
        return None
    at = source.at
    for axis, (before, after) in enumerate(zip(source.shape, shape, strict=True)):
        if before != after:
            out = np.arange(after)
            if mode == "align_corners":
                index = out * ((before - 1) / max(after - 1, 1))
            else:
                index = out * (before / after) if mode == "asymmetric" else (out + 0.5) * (before / after) - 0.5
            at = _between(at, axis, index)
    return places(shape, at)


def _geometry(node: NodeView, i: int) -> tuple[int, int, int]:
    """Kernel, stride and dilation along one spatial axis."""
    given = node.attr("kernel_shape")
    weight = node.optional(1)
    kernel = given[i] if given is not None else (weight.shape or ())[2 + i] if weight is not None else 1
    return int(kernel or 1), *(int((node.attr(name) or [1] * (i + 1))[i]) for name in ("strides", "dilations"))  # type: ignore[return-value]


def _begin(node: NodeView, i: int, count: int, before: int, after: int, extent: int, stride: int) -> int:
    """The padding before the first element."""
    auto = node.attr("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return int((node.attr("pads") or [0] * 2 * count)[i])
    total = max((after - 1) * stride + extent - before, 0)
    return {"SAME_UPPER": total // 2, "SAME_LOWER": total - total // 2}.get(auto, 0)


def _grouped(at: np.ndarray, groups: int, channels: int) -> np.ndarray:
    """The mean over the channels of each group, for each channel that is made of it."""
    if at.shape[2] == 1:
        return at
    parts = [pooled(part, [1]) for part in np.split(at, groups, 2)]
    return np.repeat(np.concatenate(parts, 2), channels // groups, 2)


def _read(at: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    """Places at (a vector of) positions along an axis, which go on beyond its ends as they went before them."""
    last = at.shape[axis + 1] - 1
    inside = np.clip(index, 0, last)
    found = at.take(inside, axis + 1)
    beyond = (index - inside).reshape(-1, *[1] * (at.ndim - 2 - axis))
    if last and np.any(beyond):
        ends = (at.take([1], axis + 1) - at.take([0], axis + 1), at.take([last], axis + 1) - at.take([last - 1], axis + 1))
        step = np.where(beyond < 0, *ends) * beyond
        step[-1] = 0
        found = np.where(found[-1:] < 0, found, found + step)
    return np.asarray(found)


def _taps(at: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    """The mean over the taps of each window; ``index`` is [windows, taps]."""
    if at.shape[axis + 1] == 1:
        return at
    read = np.stack([_read(at, axis, index[:, k]) for k in range(index.shape[1])], -1)
    return np.asarray(pooled(read, [read.ndim - 2])[..., 0])


def _between(at: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    """Places at fractional positions; the spread grows by the distance to the neighbours that are averaged."""
    if at.shape[axis + 1] == 1:
        return at
    lower = np.floor(index).astype(np.int64)
    a, b = _read(at, axis, lower), _read(at, axis, lower + 1)
    share = (index - lower).reshape(-1, *[1] * (at.ndim - 2 - axis))
    both = np.where(share > 0, a + (b - a) * share, a)
    both[-1] = np.where(share[None][0] > 0, np.maximum(a[-1], b[-1]) + np.abs(b - a)[:-1].max(0), a[-1])
    return np.where(share > 0, np.where((a[-1:] < 0) | (b[-1:] < 0), nowhere(at.ndim - 1, len(at) - 1), both), a)


# ----- movement -----


def moved(node: NodeView, parts: Sequence[Places | None]) -> Sequence[Places | None]:
    """Copies: the node itself, run on the numbers of the elements, tells which element comes from where; 0 is a filling."""
    feeds: dict[int, np.ndarray] = {}
    table = [nowhere(0, _count(parts)).reshape(-1, 1)]
    count = 1
    for i, value in enumerate(node.inputs):
        part = parts[i] if i < len(parts) else None
        if value is None:
            continue
        if part is not None:
            numbers = np.arange(count, count + part.spread.size, dtype=np.int32).reshape(part.spread.shape)
            feeds[i] = np.broadcast_to(numbers, part.shape)
            table.append(part.at.reshape(len(part.at), -1))
            count += numbers.size
        elif value.dtype in _INDICES:
            known = node.const(i)
            if known is None:
                return []
            feeds[i] = known
        elif value.static is None:
            return []
        else:
            feeds[i] = np.zeros(value.static, np.int32)
    if any(f.size > _MOST for f in feeds.values()):
        return []
    every = np.concatenate(table, 1)
    return [places(numbers.shape, every[:, _short(numbers)]) for numbers in run_on_numbers(node, feeds)]


def moved_without_sums(node: NodeView, parts: Sequence[Places | None]) -> Sequence[Places | None]:
    """Copies, unless elements that meet are added or compared."""
    return moved(node, parts) if node.attr("reduction", "none") == "none" else []


def _short(numbers: np.ndarray) -> np.ndarray:
    """One index of every axis along which nothing varies."""
    for axis, size in enumerate(numbers.shape):
        if size > 1 and not np.any(numbers != numbers.take([0], axis)):
            numbers = numbers.take([0], axis)
    return numbers


def run_on_numbers(node: NodeView, feeds: dict[int, np.ndarray]) -> list[np.ndarray]:
    """The node on numbers of elements; nothing, where the reference evaluator refuses what the standard allows (a negative padding, fewer
    indices than rows): then its places are not known, and said so.
    """
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    proto.domain = ""
    for i in range(len(proto.input)):
        proto.input[i] = f"i{i}" if i in feeds else ""
    for i in range(len(proto.output)):
        proto.output[i] = f"o{i}"
    inputs = [helper.make_tensor_value_info(f"i{i}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for i, a in feeds.items()]
    graph = helper.make_graph([proto], "numbers", inputs, [onnx.ValueInfoProto(name=o) for o in proto.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    try:
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, {f"i{i}": a for i, a in feeds.items()})]
    except Exception:  # numpy raises several kinds here, without a common base
        return []


def _shape(node: NodeView) -> tuple[int, ...] | None:
    value: Value | None = node.outputs[0]
    return None if value is None else value.static


DEFAULTS: dict[str, PlaceRule] = {
    "activation": same,
    "elementwise": same,
    "add": same,
    "product": same,
    "select": same,
    "normalization": first,
    "softmax": along(one_axis),
    "movement": moved,
    "quantize": first,
    "recurrent": mixed,
}
"""What the operators of a family do to places, where they do not say otherwise; other families are not followed."""
