"""Where the samples and the picture are in inner tensors: their axes, followed forward from the explained input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxsal.facts.picture import CHANNELS_FIRST, Picture
from onnxsal.graph import Model, NodeView, Value
from onnxsal.graph.helpers import axes_of
from onnxsal.graph.infer import Dim, Shape, Types, infer, without_weights
from onnxsal.ops.registry import family_of

_KEEP_AXES = frozenset(
    {"activation", "elementwise", "add", "product", "select", "normalization", "softmax", "reduction", "max_pool", "average_pool"}
    | {"resample", "quantize"}
)
"""Families after which an axis is still the same axis, if the output has as many."""

_MOVE_WITHIN_AXES = frozenset(
    {"Identity", "Cast", "Dropout", "Concat", "Split", "Slice", "Pad", "Expand", "Trilu", "CenterCropPad", "ReverseSequence"}
)
"""Operators that move elements within axes."""

_REGROUPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


_DISTINCT = 1009
"""A batch size that no other size of a network is likely to be, or to divide."""


@dataclass(frozen=True)
class Layout:
    """What the axes of a tensor mean.

    ``samples`` is the axis that counts samples (``None``: unknown). If not ``whole``, it may also count parts of each sample, all
    parts of the first sample first. ``picture`` is (channel, height, width) of a tensor shaped like a picture.
    """

    samples: int | None
    whole: bool = True
    picture: Picture | None = None


def layouts(model: Model, x: Value, path: Sequence[NodeView], *, batched: bool, picture: Picture | None) -> dict[str, Layout]:
    """The layout of every tensor on the path from ``x``, whose first axis counts samples if ``batched``.

    Where symbolic sizes leave a doubt, as after a Reshape to computed sizes, they are inferred once more for a batch of 1009.
    """
    symbol = x.shape[0] if x.shape else None
    seed = Layout(0 if x.shape and batched else None, True, picture)
    found = _forward(x, seed, path, model.types, symbol)
    if isinstance(symbol, str) and batched and not all(known.samples is not None and known.whole for known in found.values()):
        found = _forward(x, seed, path, infer(with_batch(model.proto, x.name, symbol, _DISTINCT)).types, _DISTINCT)
    return found


def with_batch(proto: onnx.ModelProto, x: str, symbol: Dim, size: int) -> onnx.ModelProto:
    """The model, without its weights, with a number in place of the symbolic first size of ``x`` (an unnamed one: of ``x`` alone)."""
    light = without_weights(proto)
    del light.graph.value_info[:]
    for output in light.graph.output:
        output.type.tensor_type.ClearField("shape")
    for given in light.graph.input:
        dims = given.type.tensor_type.shape.dim
        for dim in dims if symbol is not None else dims[: given.name == x]:
            if symbol is None or dim.dim_param == symbol:
                dim.dim_value = size
    return light


def _forward(x: Value, seed: Layout, path: Iterable[NodeView], types: Types, size: Dim) -> dict[str, Layout]:
    found = {x.name: seed}

    def value(name: str) -> Value:
        return Value(name, *types.get(name, (0, None)))

    for node in path:
        inputs = [value(n) for n in node.proto.input]
        for name in filter(None, node.proto.output):
            y = value(name)
            if y.shape:
                found[name] = _layout(node, inputs, y, found, size)
            else:
                found[name] = Layout(None, False)
    return found


def _layout(node: NodeView, inputs: Sequence[Value], y: Value, found: dict[str, Layout], size: Dim) -> Layout:
    """The layout of an output, from those of the inputs."""
    shape = y.shape or ()
    sources = [(i, v) for i, v in enumerate(inputs) if v.name in found and v.shape]
    samples = _axis_of_size(shape, size) if isinstance(size, str) else None
    for i, _ in sources:
        samples = _follow(node, i, inputs, found[inputs[i].name].samples, y) if samples is None else samples
    if samples is None and size == _DISTINCT:
        samples = _axis_of_size(shape, size)
    whole = samples is not None and size is not None and shape[samples] == size
    picture = next((p for i, v in sources if (p := _picture(node, i, inputs, found[v.name].picture, y)) is not None), None)
    if samples != 0 or (not whole and isinstance(size, int) and isinstance(shape[0], int)):
        picture = None
    return Layout(samples, whole, picture)


def _axis_of_size(shape: Shape, size: Dim) -> int | None:
    """The axis of that size, if there is exactly one."""
    hits = [a for a, d in enumerate(shape) if d is not None and d == size]
    return hits[0] if len(hits) == 1 else None


def _follow(node: NodeView, i: int, inputs: Sequence[Value], axis: int | None, y: Value) -> int | None:
    """Where ``axis`` of input ``i`` is in the output."""
    source, shape = inputs[i], y.shape or ()
    if axis is None:
        return None
    if node.op_type in _REGROUPING:
        return regrouped_axis(source.shape or (), axis, shape)
    if node.op_type == "Transpose":
        return _permutation(node, source.rank).index(axis)
    if node.op_type == "Gather":
        return _after_gather(node, axis, source.rank, y.rank)
    shift = y.rank - source.rank
    if node.op_type.startswith("Reduce") and shift:
        axes = axes_of(node, source.rank, 1)
        return None if not axes or axis in axes else axis - sum(a < axis for a in axes)
    if node.op_type in ("MatMul", "Gemm") and i < 2:
        return _after_product(node, i, axis, source.rank, inputs[1 - i].shape, y.rank)
    if family_of(node) in _KEEP_AXES or node.op_type in _MOVE_WITHIN_AXES or node.op_type in CHANNELS_FIRST:
        return axis + shift if shift >= 0 else None
    return axis if axis == 0 and not shift and shape[0] == (source.shape or (None,))[0] is not None else None


def regrouped_axis(before: Sequence[Dim], axis: int, after: Sequence[Dim]) -> int | None:
    """The axis of a reshaped tensor along which the elements of one index of ``axis`` still lie together.

    It is the axis that begins where as many elements lie before it as before ``axis``: then its index is the old one times some
    number of parts. ``None`` where there is no such axis.
    """
    if axis == 0:
        return 0
    outer = _product(before[:axis])
    fitting = [j for j in range(len(after)) if None not in (*after[:j], *before[:axis]) and _product(after[:j]) == outer]
    same = [j for j in fitting if after[j] == before[axis]]
    larger = [j for j in fitting if after[j] != 1]
    return next(iter([*same, *larger, *fitting]), None)


def _product(dims: Sequence[Dim]) -> tuple[int, list[Dim]]:
    """Known sizes multiplied, and the symbols beside them."""
    return math.prod(d for d in dims if isinstance(d, int)), sorted((d for d in dims if not isinstance(d, int)), key=str)


def _after_product(node: NodeView, i: int, axis: int, rank: int, other: Shape | None, rank_after: int) -> int | None:
    """A matrix product sums over one axis of each factor; rows of the first and columns of the second stay."""
    if rank < 2 or other is None or len(other) < 2:
        return axis if i == 0 and axis < rank - 1 else None
    turned = bool(node.attr("transB" if i else "transA"))
    if axis < rank - 2:
        return axis + rank_after - rank
    summed = rank - (2 if bool(i) != turned else 1)
    return None if axis == summed else rank_after - (1 if i else 2)


def _permutation(node: NodeView, rank: int) -> list[int]:
    return [int(p) for p in node.attr("perm") or range(rank)[::-1]]


def _after_gather(node: NodeView, axis: int, rank: int, rank_after: int) -> int | None:
    """Gather puts the axes of its indices in place of one axis."""
    taken = int(node.attr("axis", 0)) % rank
    return None if axis == taken else axis if axis < taken else axis + rank_after - rank


def _picture(node: NodeView, i: int, inputs: Sequence[Value], picture: Picture | None, y: Value) -> Picture | None:
    """The picture axes of the output, as input ``i`` tells them."""
    source = inputs[i]
    if y.rank != 4:
        return None
    if node.op_type in CHANNELS_FIRST:
        return (1, 2, 3)
    if picture is None or source.rank != 4:
        return None
    if node.op_type == "Transpose":
        place = np.argsort(_permutation(node, 4))
        channel, height, width = (int(place[a]) for a in picture)
        return channel, height, width
    if node.op_type == "MatMul":  # a 1 x 1 convolution of channels that come last
        return picture if i == 0 and picture[0] == 3 and len(inputs[1].shape or ()) == 2 else None
    return picture if family_of(node) in _KEEP_AXES or node.op_type in _MOVE_WITHIN_AXES else None
