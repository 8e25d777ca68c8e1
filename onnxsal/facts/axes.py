"""Where the axes of an input are in every tensor: which axis counts samples, and which are channels, height and width of a picture.

Every operator states where it puts the axes of its inputs (``ops/``); here that is followed from the inputs on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxsal.errors import TargetError, near_miss
from onnxsal.facts.solve import forward
from onnxsal.graph import Model, NodeView, Value
from onnxsal.graph.infer import Dim, without_weights
from onnxsal.graph.model import captured
from onnxsal.ops.axes import FAMILIES, innermost
from onnxsal.ops.registry import facts_of, family_of
from onnxsal.ops.statements import APART, INNER, MIXED, PARTS, SUMMED, How, Moved

Trace = Mapping[int, tuple[int, How]]
"""Axis of the input -> where it is in a tensor, and how it got there. What depends on the input has a trace, if only an empty one."""

_WORSE = {how: rank for rank, how in enumerate((APART, MIXED, PARTS, INNER, SUMMED))}


def moved(node: NodeView, i: int, axis: int, j: int = 0) -> Moved:
    """Where an axis of input i is in output j, as the operator or its family says."""
    rule = facts_of(node).axes or FAMILIES.get(family_of(node))
    seen = [*node.inputs, node.outputs[j]]
    return None if rule is None or any(v is not None and v.shape is None for v in seen) else rule(node, i, axis, j)


def trace(
    nodes: Iterable[NodeView], seeds: Mapping[str, Trace], adjust: Callable[[NodeView, Trace], Trace] | None = None
) -> dict[str, Trace]:
    """The trace of every tensor that depends on the seeds. ``adjust`` may add to what follows for the first output of a node.

    An axis is ``APART`` in an output only if every input that depends on the seeds has it in the same place, apart.
    """

    def step(node: NodeView, of: Callable[[int | str], Trace | None]) -> list[Trace | None]:
        read = {i: known for i in range(len(node.proto.input)) if (known := of(i)) is not None}
        inside = any(of(name) is not None for name in captured(node.proto))
        if (not read and not inside) or facts_of(node).of_sizes:
            return []  # nothing of the input but its sizes
        outputs: list[Trace | None] = []
        for j, y in enumerate(node.outputs):
            found = {} if inside or y is None else _joined(node, read, j)
            outputs.append(found if adjust is None or j else adjust(node, found))
        return outputs

    return forward(nodes, seeds, step)


def _joined(node: NodeView, read: Mapping[int, Trace], j: int) -> Trace:
    """What the inputs that are read say about output j, taken together."""
    found: dict[int, tuple[int, How]] = {}
    for label in dict.fromkeys(label for known in read.values() for label in known):
        places = [_of_input(node, i, known, label, j) for i, known in read.items()]
        first = next((p for p in places if p is not None), None)
        if first is None:
            continue
        agree = all(p is not None and p[0] == first[0] for p in places)
        how = max((p[1] for p in places if p is not None and p[0] == first[0]), key=_WORSE.__getitem__)
        found[label] = first[0], how if agree else max(how, MIXED, key=_WORSE.__getitem__)
    return found


def _of_input(node: NodeView, i: int, known: Trace, label: int, j: int) -> Moved:
    if label not in known:
        return None
    place, before = known[label]
    after = moved(node, i, place, j)
    if after is None or before is not INNER or after[1] is not PARTS:
        return None if after is None else (after[0], max(before, after[1], key=_WORSE.__getitem__))
    back = innermost(node.input(i).shape or (), place, node.output(j).shape or ())  # what was joined is taken apart again
    return None if back is None else (back, MIXED)


# ----- samples -----


def row_axes(model: Model, rows: Collection[str]) -> dict[str, int | None]:
    """Tensor -> the axis that counts samples, for every tensor that depends on the inputs ``rows``, which have it first.

    Index i of that axis depends on row i of these inputs alone, and there are as many. ``None``: that could not be proved.
    """
    found = trace(model.nodes, {name: {0: (0, APART)} for name in rows})
    return {name: known[0][0] if 0 in known and known[0][1] is APART else None for name, known in found.items()}


def origins(model: Model, x: Value, name: str) -> dict[int, int]:
    """Axis of a tensor -> the axis of ``x`` that it is, entry by entry and apart; those that could not be proved are left out."""
    found = trace(model.nodes, {x.name: {a: (a, APART) for a in range(x.rank)}}).get(name, {})
    return {place: label for label, (place, how) in found.items() if how is APART}


# ----- pictures -----

Picture = tuple[int, int, int]
"""The axes of channels, height and width."""

LAYOUTS: dict[str, Picture] = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}


def picture_of(model: Model, x: Value, layout: str | None = None) -> Picture | None:
    """The picture axes of a tensor, ``None`` where it is no picture: as ``layout`` says ("NCHW" or "NHWC"), else as the first operator
    on pictures that it comes to takes it, else as its shape looks.
    """
    if layout is None:
        used = used_as_picture(model, x)
        return image_axes(x.shape) if used is None else used[0]
    if layout not in LAYOUTS:
        raise TargetError(f"layout={layout!r} is unknown{near_miss(str(layout), LAYOUTS)}; known: {', '.join(LAYOUTS)}.")
    if x.shape is not None and len(x.shape) != 4:
        raise TargetError(f"layout {layout} is for pictures of four dimensions; '{x.name}' has shape {list(x.shape)}.")
    return LAYOUTS[layout]


def layout_text(picture: Picture) -> str:
    """The axes of a picture in words."""
    names = [f"{name}: " for name, axes in LAYOUTS.items() if axes == picture]
    return f"{''.join(names)}channels on axis {picture[0]}, height on {picture[1]}, width on {picture[2]}"


def used_as_picture(model: Model, x: Value) -> tuple[Picture, NodeView] | None:
    """The axes as the first convolution, pooling or the like reached from ``x`` sees them, whatever turns them on the way; and that node.

    ``None`` where no such operator is reached, or ``x`` has not four dimensions.
    """
    if x.shape is None or len(x.shape) != 4:
        return None
    return model.once(("used as picture", x.name), lambda: _first_use(model, x))


def _first_use(model: Model, x: Value) -> tuple[Picture, NodeView] | None:
    found = trace(model.nodes, {x.name: {a: (a, APART) for a in range(4)}})
    for node in model.nodes:
        known = found.get(node.proto.input[0] if node.proto.input else "", {}) if facts_of(node).pictures else {}
        labels = {place: label for label, (place, how) in known.items() if how in (APART, MIXED)}
        if len(labels) == 4 and labels.get(0) == 0:
            return (labels[1], labels[2], labels[3]), node
    return None


def image_axes(shape: Sequence[object] | None) -> Picture | None:
    """(channel, height, width) axes of an image tensor [N, C, H, W] or [N, H, W, C] by its shape alone; ``None`` if it is not an image.

    A picture has 1, 3 or 4 channels; where neither axis says so, a rank-4 tensor is taken as [N, C, H, W].
    """
    if shape is None or len(shape) != 4:
        return None
    if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        return 3, 1, 2
    return 1, 2, 3


# ----- both, in every tensor -----

_DISTINCT = 1009
"""A batch size that no other size of a network is likely to be, or to divide."""


@dataclass(frozen=True)
class Layout:
    """What the axes of a tensor mean.

    ``samples`` is the axis that counts samples (``None``: unknown). If not ``whole``, it may also count parts of each sample, all
    parts of the first sample first, or (``inner``) the first part of all samples first. ``picture`` is (channel, height, width) of a tensor
    shaped like a picture.
    """

    samples: int | None
    whole: bool = True
    picture: Picture | None = None
    inner: bool = False


def layouts(model: Model, x: Value, path: Sequence[NodeView], *, batched: bool, picture: Picture | None) -> dict[str, Layout]:
    """The layout of every tensor on the path from ``x``, whose first axis counts samples if ``batched``.

    Where symbolic sizes leave a doubt, as after a Reshape to computed sizes, they are inferred once more for a batch of 1009.
    """
    size = x.shape[0] if x.shape else None
    found = _layouts(x, path, size, batched, picture)
    if isinstance(size, str) and batched and not all(known.samples is not None and known.whole for known in found.values()):
        numbered = model.once(("batch", x.name), lambda: Model(with_batch(model.proto, x.name, size, _DISTINCT)))
        found = _layouts(numbered.value(x.name), [numbered.nodes[n.index] for n in path], _DISTINCT, batched, picture)
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


def _layouts(x: Value, path: Sequence[NodeView], size: Dim, batched: bool, picture: Picture | None) -> dict[str, Layout]:
    labels = [0] if batched and x.shape else []
    seed: Trace = {a: (a, APART) for a in dict.fromkeys([*labels, *(picture or ())])}

    def taken_as_picture(node: NodeView, found: Trace) -> Trace:
        """An operator on pictures makes one of what it is given, whatever was known of it before."""
        if picture is None or not facts_of(node).pictures or node.y.shape is None or node.y.rank != 4 or all(a in found for a in picture):
            return found
        return {**found, **{label: (place, MIXED) for label, place in zip(picture, (1, 2, 3), strict=True)}}

    traces = trace(path, {x.name: seed}, taken_as_picture)
    values = {x.name: x, **{v.name: v for n in path for v in n.outputs if v is not None}}
    return {name: _layout(value, traces.get(name, {}), size, bool(labels), picture) for name, value in values.items()}


def _layout(y: Value, known: Trace, size: Dim, batched: bool, picture: Picture | None) -> Layout:
    if not y.shape:
        return Layout(None, False)
    place, how = known.get(0, (None, SUMMED)) if batched else (None, SUMMED)
    named = _axis_of_size(y.shape, size) if batched and (isinstance(size, str) or size == _DISTINCT) else None
    samples = place if how in (APART, MIXED) else named if named is not None else place if how in (PARTS, INNER) else None
    inner = named is None and how is INNER
    length = None if samples is None else y.shape[samples]
    if isinstance(length, int) and isinstance(size, int) and length % max(size, 1):
        samples = None  # no whole number of parts of each sample
    whole = samples is not None and size is not None and length == size
    found = [known[a] for a in picture if a in known] if picture is not None else []
    axes = tuple(place for place, how in found if how is not PARTS)
    shaped = len(y.shape) == 4 and len(axes) == 3 and len(set(axes)) == 3
    if samples != 0 or inner or (not whole and isinstance(size, int) and isinstance(y.shape[0], int)):
        shaped = False
    return Layout(samples, whole, (axes[0], axes[1], axes[2]) if shaped else None, inner)


def _axis_of_size(shape: Sequence[Dim], size: Dim) -> int | None:
    """The axis of that size, if there is exactly one."""
    hits = [a for a, d in enumerate(shape) if d is not None and d == size]
    return hits[0] if len(hits) == 1 else None
