"""Where the axes of an input are in every tensor: which axis counts samples, and which are channels, height and width of a picture.

Every operator states where it puts the axes of its inputs (``ops/``); here that is followed from the inputs on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import onnx

from onnxsal.errors import TargetError, near_miss
from onnxsal.facts.bodies import bodies_of, declare, every_node
from onnxsal.facts.solve import forward
from onnxsal.facts.spots import Spot as Spot
from onnxsal.facts.spots import Trace as Trace
from onnxsal.facts.spots import through_bodies
from onnxsal.graph import FLOATS, Model, NodeView, Value
from onnxsal.graph.infer import Dim, without_weights
from onnxsal.graph.model import captured
from onnxsal.ops.axes import FAMILIES
from onnxsal.ops.registry import facts_of, family_of, spec_of
from onnxsal.ops.statements import APART, INNER, MIXED, PARTS, SUMMED, Moved

_WORSE = {how: rank for rank, how in enumerate((APART, MIXED, PARTS, INNER, SUMMED))}


def moved(node: NodeView, i: int, axis: int, j: int = 0) -> Moved:
    """Where an axis of input i is in output j, as the operator or its family says."""
    rule = facts_of(node).axes or FAMILIES.get(family_of(node))
    seen = [*node.inputs, node.outputs[j]]
    return None if rule is None or any(v is not None and v.shape is None for v in seen) else rule(node, i, axis, j)


def trace(
    nodes: Iterable[NodeView],
    seeds: Mapping[str, Trace],
    adjust: Callable[[NodeView, Trace], Trace] | None = None,
    sizes: Mapping[int, int] | None = None,
    fixed_grids: bool = False,
) -> dict[str, Trace]:
    """The trace of every tensor that depends on the seeds, those in graphs that nodes run included. ``adjust`` may add to what follows for
    the first output of a node; ``sizes`` are those of the axes, where they are numbers; ``fixed_grids`` takes a grid that follows the data
    for a constant.

    An axis is ``APART`` in an output only if every input that depends on the seeds has it in the same place, apart.
    """

    insides: dict[str, Trace] = {}

    def step(node: NodeView, of: Callable[[int | str], Trace | None]) -> list[Trace | None]:
        if bodies_of(node):
            ends, inside_of = through_bodies(node, of, lambda nodes, seeds: trace(nodes, seeds, adjust, sizes, fixed_grids))
            insides.update(inside_of)
            return ends
        read = {i: known for i in range(len(node.proto.input)) if (known := of(i)) is not None}
        inside = any(of(name) is not None for name in captured(node.proto))
        if (not read and not inside) or facts_of(node).of_sizes:
            return []  # nothing of the input but its sizes
        if fixed_grids and len(read) == 1 and _follows(node):
            return [read[0], *[None] * (len(node.outputs) - 1)]
        outputs: list[Trace | None] = []
        for j, y in enumerate(node.outputs):
            found = {} if inside or y is None else _joined(node, read, j, sizes or {})
            outputs.append(found if adjust is None or j else adjust(node, found))
        return outputs

    return forward(nodes, seeds, step) | insides


def _follows(node: NodeView) -> bool:
    """Whether the node rounds to a grid that it takes from the data, and also tells."""
    spec = spec_of(node)
    return spec is not None and spec.family == "quantize" and len(node.outputs) > 1


def _joined(node: NodeView, read: Mapping[int, Trace], j: int, sizes: Mapping[int, int]) -> Trace:
    """What the inputs that are read say about output j, taken together."""
    found: dict[int, Spot] = {}
    for label in dict.fromkeys(label for known in read.values() for label in known):
        spots = [_of_input(node, i, known[label], j, sizes.get(label)) if label in known else None for i, known in read.items()]
        first = next((s for s in spots if s is not None), None)
        if first is not None:
            same = [s for s in spots if s is not None and (s.place, s.runs) == (first.place, first.runs)]
            hows = [s.how for s in same] + ([] if len(same) == len(spots) else [MIXED])
            apart = len(same) == len(spots) and all(s.apart for s in same)
            found[label] = first._replace(how=max(hows, key=_WORSE.__getitem__), apart=apart)
    return found


def _of_input(node: NodeView, i: int, spot: Spot, j: int, size: int | None) -> Spot | None:
    spec, shapes = spec_of(node), [v.static if v is not None else None for v in (node.optional(0), node.outputs[j])]
    if spec is not None and spec.keeps == "order" and size is not None and spot.runs and shapes[0] is not None and shapes[1] is not None:
        return _reshaped(shapes[0], spot, shapes[1], size)
    after = moved(node, i, spot.place, j)
    if after is None or (after[1] in (PARTS, INNER) and spot.how in (PARTS, INNER)):
        return None
    apart = spot.apart and after[1] in (APART, PARTS, INNER)
    return Spot(after[0], max(spot.how, after[1], key=_WORSE.__getitem__), 0 if after[1] in (PARTS, INNER) else spot.runs, apart)


def _reshaped(before: Sequence[int], spot: Spot, after: Sequence[int], size: int) -> Spot | None:
    """Elements that stay in their order: an index of the axis changes every so many elements, in whatever shape."""
    stride = spot.runs * math.prod(before[spot.place + 1 :])
    for place, length in enumerate(after):
        behind = math.prod(after[place + 1 :])
        if behind and stride % behind == 0 and length % (stride // behind * size) == 0 and length:
            runs = stride // behind
            if length == runs * size:
                whole = spot.how if spot.how in (APART, MIXED, SUMMED) else APART if spot.apart else MIXED
                return Spot(place, whole if runs == 1 else PARTS, runs, spot.apart)
            return Spot(place, INNER, runs, spot.apart)
    return None


# ----- samples -----


def row_axes(model: Model, rows: Collection[str], fixed_grids: bool = False) -> dict[str, int | None]:
    """Tensor -> the axis that counts samples, for every tensor that depends on the inputs ``rows``, which have it first.

    Index i of that axis depends on row i of these inputs alone, and there are as many. ``None``: that could not be proved. ``fixed_grids``
    takes a grid that follows the data for a constant.
    """
    return model.once(("row axes", tuple(rows), fixed_grids), lambda: _row_axes(model, rows, fixed_grids))


def _row_axes(model: Model, rows: Collection[str], fixed_grids: bool) -> dict[str, int | None]:
    found = trace(model.nodes, {name: {0: Spot(0)} for name in rows}, fixed_grids=fixed_grids)
    return {name: known[0].place if 0 in known and known[0].how is APART else None for name, known in found.items()}


def samples_axis(model: Model, name: str) -> int | None:
    """The axis of a tensor that is proved to be axis 0 of the first floating-point input (else of the first one), and of those as long."""
    sizes = {n: shape[0] for n in model.input_names if (shape := model.value(n).shape)}
    main = next((n for n in sizes if model.value(n).dtype in FLOATS), next(iter(sizes), ""))
    rows = tuple(n for n, size in sizes.items() if n == main or size == sizes[main] is not None)
    return model.once(("row axes", rows, False), lambda: _row_axes(model, rows, False)).get(name) if main else None


def origins(model: Model, x: Value, name: str) -> dict[int, int]:
    """Axis of a tensor -> the axis of ``x`` that it is, entry by entry and apart; those that could not be proved are left out."""
    found = trace(model.nodes, {x.name: {a: Spot(a) for a in range(x.rank)}}).get(name, {})
    return {spot.place: label for label, spot in found.items() if spot.how is APART}


# ----- pictures -----

Picture: TypeAlias = tuple[int | None, *tuple[int, ...]]
"""The axis of channels (``None``: the tensor has none, the model adds it), then the axes of places: one of a series, two of a picture
(height, width), three of a volume or a film (depth or time, height, width).
"""

LAYOUTS: dict[str, Picture] = {
    **{"NCHW": (1, 2, 3), "NHWC": (3, 1, 2), "NHW": (None, 1, 2)},
    **{"NCL": (1, 2), "NLC": (2, 1), "NCW": (1, 2), "NWC": (2, 1), "NL": (None, 1)},
    **{"NCDHW": (1, 2, 3, 4), "NDHWC": (4, 1, 2, 3), "NDHW": (None, 1, 2, 3)},
    **{"NCTHW": (1, 2, 3, 4), "NTHWC": (4, 1, 2, 3), "NTCHW": (2, 1, 3, 4)},
}
"""By the first letters of their axes; of several names for the same one, the first is told."""

PLACES = {1: ("place",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What the axes of places are called, by their number."""

KINDS = {1: "series", 2: "pictures", 3: "volumes"}
"""What has so many axes of places."""


def picture_of(model: Model, x: Value, layout: str | None = None) -> Picture | None:
    """The axes of a picture, series or volume, ``None`` where a tensor is none: as ``layout`` says (a key of ``LAYOUTS``), else as the
    first operator on pictures that it comes to takes it, else, with four dimensions, as its shape looks.
    """
    if layout is None:
        used = used_as_picture(model, x)
        return image_axes(x.shape) if used is None else used[0]
    if layout not in LAYOUTS:
        like = [name for name in LAYOUTS if len(name) == len(str(layout))] or LAYOUTS
        raise TargetError(f"layout={layout!r} is unknown{near_miss(str(layout), like)}; known: {', '.join(LAYOUTS)}.")
    if x.shape is not None and len(x.shape) != len(layout):
        fitting = ", ".join(name for name in LAYOUTS if len(name) == len(x.shape)) or "none"
        raise TargetError(
            f"layout {layout} is for {KINDS[layout_places(LAYOUTS[layout])]} of {len(layout)} dimensions; '{x.name}' has shape "
            f"{list(x.shape)}. For that many: {fitting}."
        )
    return LAYOUTS[layout]


def layout_places(picture: Picture) -> int:
    """The number of axes of places."""
    return len(picture) - 1


def rank_of(picture: Picture) -> int:
    """The number of dimensions of what has these axes beside that of samples."""
    return len(picture) + (picture[0] is not None)


def flat(picture: Picture | None) -> tuple[int, int, int] | None:
    """(channel, height, width) of a picture with channels; ``None`` for all else."""
    if picture is None or len(picture) != 3 or picture[0] is None:
        return None
    return picture[0], picture[1], picture[2]


def layout_text(picture: Picture) -> str:
    """The axes of a picture in words."""
    channel, *places = picture
    name = next((f"{name}: " for name, axes in LAYOUTS.items() if axes == picture), "")
    told = ["no channels" if channel is None else f"channels on axis {channel}"]
    told += [f"{name} on {axis}" for name, axis in zip(PLACES[len(places)], places, strict=True)]
    return name + ", ".join(told)


def used_as_picture(model: Model, x: Value) -> tuple[Picture, NodeView] | None:
    """The axes as the first convolution, pooling or the like reached from ``x`` sees them, whatever turns them on the way; and that node.

    ``None`` where no such operator is reached whose axes are those of ``x``. With other than four dimensions it must be one that slides a
    window over places: a normalisation or a mean over places would take anything for them.
    """
    if x.shape is None or not 2 <= len(x.shape) <= 5:
        return None
    return model.once(("used as picture", x.name), lambda: _first_use(model, x))


def _first_use(model: Model, x: Value) -> tuple[Picture, NodeView] | None:
    found = trace(model.nodes, {x.name: {a: Spot(a) for a in range(x.rank)}})
    for node in model.nodes:
        known = found.get(node.proto.input[0] if node.proto.input else "", {}) if facts_of(node).pictures else {}
        if known and node.x.shape is not None and (x.rank == node.x.rank == 4 or slides(node)):
            picture = _as_read(x, node.x, known)
            if picture is not None:
                return picture, node
    return None


def slides(node: NodeView) -> bool:
    """Whether an operator on pictures slides a window over their places."""
    return facts_of(node).pictures and (family_of(node) == "linear" or node.attr("kernel_shape") is not None)


def _as_read(x: Value, read: Value, known: Trace) -> Picture | None:
    """The axes of ``x``, as a tensor [N, C, ...] that is made of it has them. All must be there, but for one of a single entry, which can
    only be that of the channels; and axes of a single entry may be added on the way: channels, or places, as where a series is read as a
    picture of one line. Places are in the order of the input, in which a map is laid over it.
    """
    labels = {spot.place: label for label, spot in known.items() if spot.how in (APART, MIXED)}
    channel, places = labels.get(1), sorted(labels[a] for a in range(2, read.rank) if a in labels)
    lost = sorted({*range(x.rank)} - {label for label in (labels.get(0), channel, *places) if label is not None})
    if channel is None and len(lost) == 1 and x.dim(lost[0]) == 1:
        channel, lost = lost[0], []
    added = [a for a in range(1, read.rank) if a not in labels]
    if labels.get(0) != 0 or lost or not places or len(places) > 3 or any(read.dim(a) != 1 for a in added):
        return None
    return (channel, *places)


def image_axes(shape: Sequence[object] | None) -> tuple[int, int, int] | None:
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

_OTHERS = (1013, 1019, 1021, 1031, 1033, 1039)
"""The same for other sizes that are open."""

_FEW = (37, 41, 43, 47, 53, 59)
"""The same, of few entries."""


@dataclass(frozen=True)
class Layout:
    """What the axes of a tensor mean.

    ``samples`` is the axis that counts samples (``None``: unknown). If not ``whole``, it may also count parts of each sample, all
    parts of the first sample first; with ``runs`` above 0 so many entries in turn belong to one sample, over and over again. ``picture`` is
    (channel, height, width) of a tensor shaped like a picture; like a series or a volume, where one of these is explained. ``single`` are
    the axes of one entry that a series has beside these, where it is read as a picture of one line.
    """

    samples: int | None
    whole: bool = True
    picture: Picture | None = None
    runs: int = 0
    single: tuple[int, ...] = ()


def layouts(model: Model, x: Value, path: Sequence[NodeView], *, batched: bool, picture: Picture | None) -> dict[str, Layout]:
    """The layout of every tensor on the path from ``x``, whose first axis counts samples if ``batched``.

    Where symbolic sizes leave a doubt, as after a Reshape to computed sizes, they are inferred once more for a batch of 1009, and where
    that leaves one, with numbers for all open sizes.
    """
    size = x.shape[0] if x.shape else None
    found = _layouts(x, path, size, batched, picture)
    if isinstance(size, str) and batched and not all(known.samples is not None and known.whole for known in found.values()):
        for number, view in enumerate(_numbered(model, x, size)):
            tried = _layouts(view.value(x.name), [view.nodes[n.index] for n in path], _DISTINCT, batched, picture)
            tried = {name: known if _tells_sizes(known) else Layout(None, False) for name, known in tried.items()}
            found = {name: known if number == 0 or found[name].samples is None else found[name] for name, known in tried.items()}
            if all(known.samples is not None for known in found.values()):
                break
    return found


def _tells_sizes(known: Layout) -> bool:
    """Whether no number that was made up for an open size is in it."""
    return not any(known.runs and known.runs % number == 0 for number in _OTHERS)


def numbered(model: Model, x: Value) -> Iterator[Model]:
    """The model as it is, then with numbers for sizes that are open: for its batch, for all of them, and for all of them small ones.

    Tables that are cut to a size, as of positions, hold no more than so many entries.
    """
    yield model
    batch = x.shape[0] if x.shape and isinstance(x.shape[0], str) else ""
    symbols = dict.fromkeys(d.dim_param for i in model.proto.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param)
    if batch:
        yield from _numbered(model, x, batch)
    for numbers in (_FEW,) if batch else (_OTHERS, _FEW) if symbols else ():
        yield model.once(("numbers", x.name, numbers), partial(_all_numbered, model, x, batch, symbols, numbers))


def _numbered(model: Model, x: Value, size: str) -> Iterator[Model]:
    """The model for a batch of 1009, with that number for the symbol ``size``; then with others for all open sizes of its inputs.

    An inner tensor's size may be no symbol of an input: then it is the first size of one on which it depends.
    """
    inputs = [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.proto.graph.input]
    symbols = dict.fromkeys(s for dims in inputs for s in dims if s)
    yield model.once(("batch", x.name), lambda: _declared(with_batch(model.proto, x.name, size, _DISTINCT)))
    for batch in [size] if size in symbols else dict.fromkeys(dims[0] for dims in inputs if dims and dims[0]):
        tried = model.once(("batch", x.name, batch), partial(_all_numbered, model, x, batch, symbols))
        if (tried.value(x.name).shape or (None,))[0] == _DISTINCT:
            yield tried
            return


def _all_numbered(model: Model, x: Value, batch: str, symbols: Iterable[str], numbers: Sequence[int] = _OTHERS) -> Model:
    proto = with_batch(model.proto, x.name, batch, _DISTINCT) if batch else model.proto
    for symbol, number in zip((s for s in symbols if s != batch), numbers, strict=False):
        proto = with_batch(proto, x.name, symbol, number)
    return _declared(proto)


def _declared(proto: onnx.ModelProto) -> Model:
    """The model, whose sizes are supposed, with what is known of the shapes of what its loops make."""
    declare(proto, supposed=True)
    return Model(proto, supposed=True)


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


def _joins(node: NodeView, spot: Spot | None) -> bool:
    """Whether a node joins constants to the places of a series, along their axis."""
    spec, axis = spec_of(node), node.attr("axis")
    if spot is None or spec is None or axis is None or spec.family != "movement":
        return False
    return bool(spec.fills(node)) and int(axis) % node.y.rank == spot.place


_ADDED = -1
"""Stands for the axis of channels where the input has none: it begins behind the first operator on pictures."""


def _labels(picture: Picture | None) -> tuple[int, ...]:
    return () if picture is None else tuple(_ADDED if a is None else a for a in picture)


def _layouts(x: Value, path: Sequence[NodeView], size: Dim, batched: bool, picture: Picture | None) -> dict[str, Layout]:
    labels = [0] if batched and x.shape else []
    wanted = _labels(picture)
    seed: Trace = {a: Spot(a) for a in dict.fromkeys([*labels, *(a for a in wanted if a != _ADDED)])}

    def taken_as_picture(node: NodeView, found: Trace) -> Trace:
        """An operator on pictures makes one of what it is given, whatever was known of it before."""
        if len(wanted) == 2 and _joins(node, found.get(wanted[1])):  # a class token: what follows is no line of places alone
            return {label: spot for label, spot in found.items() if label != wanted[1]}
        if not wanted or not facts_of(node).pictures or node.y.shape is None or all(a in found for a in wanted):
            return found
        if node.y.rank == 1 + len(wanted):
            return {**found, **{label: Spot(place, MIXED) for place, label in enumerate(wanted, 1)}}
        channel, *places = wanted  # beside axes of places that were added on the way
        inside = all(a in found and found[a].place > 1 for a in places) and found.get(0, Spot(0)).place == 0
        return {**found, channel: Spot(1, MIXED)} if inside and channel not in found else found

    traces = trace(path, {x.name: seed}, taken_as_picture, {0: size} if isinstance(size, int) else {}, fixed_grids=True)
    values = {x.name: x, **{v.name: v for n in every_node(path) for v in n.outputs[: 1 if _follows(n) else None] if v is not None}}
    values |= {n: body.model.value(n) for node in every_node(path) for body in bodies_of(node) for n in body.inputs}
    return {name: _layout(value, traces.get(name, {}), size, bool(labels), picture) for name, value in values.items()}


def _layout(y: Value, known: Trace, size: Dim, batched: bool, picture: Picture | None) -> Layout:
    if not y.shape:
        return Layout(None, False)
    spot = known.get(0) if batched else None
    place, how = (None, SUMMED) if spot is None else (spot.place, spot.how)
    named = _axis_of_size(y.shape, size) if batched and (isinstance(size, str) or size == _DISTINCT) else None
    samples = place if how in (APART, MIXED) else named if named is not None else place if how in (PARTS, INNER) else None
    parted = spot is not None and named is None and how in (PARTS, INNER)
    length = None if samples is None else y.shape[samples]
    if isinstance(length, int) and isinstance(size, int) and length % max(size, 1):
        samples = None  # no whole number of parts of each sample
    whole = samples is not None and size is not None and length == size
    wanted = _labels(picture)
    axes = tuple(known[a].place for a in wanted if a in known and known[a].how not in (PARTS, INNER))
    grey = wanted[:1] == (_ADDED,) and len(y.shape) == len(wanted)  # as the input: no channels yet
    single = tuple(a for a in range(1, len(y.shape)) if a not in axes) if len(wanted) == 2 and not grey else ()
    single = single if all(y.shape[a] == 1 for a in single) else ()
    shaped = bool(wanted) and len(axes) == len(set(axes)) == len(wanted) - grey == len(y.shape) - 1 - len(single)
    if samples != 0 or (parted and how is INNER) or (not whole and isinstance(size, int) and isinstance(y.shape[0], int)):
        shaped = False
    runs = spot.runs if spot is not None and parted and how is INNER else 0
    return Layout(samples, whole, ((None, *axes) if grey else (axes[0], *axes[1:])) if shaped else None, runs, single if shaped else ())


def _axis_of_size(shape: Sequence[Dim], size: Dim) -> int | None:
    """The axis of that size, if there is exactly one."""
    hits = [a for a, d in enumerate(shape) if d is not None and d == size]
    return hits[0] if len(hits) == 1 else None
