"""How the number of a box, a pixel or a class picks a score: which tensor holds the scores, and which of its axes counts what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxsal.ask.place import BOX, MASK, Place
from onnxsal.ask.scores import Scores, scores_of
from onnxsal.errors import TargetError
from onnxsal.facts.axes import Picture, layouts, moved
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.heads import is_bounded
from onnxsal.facts.reach import reach
from onnxsal.facts.selection import Picked, picked, picked_rows
from onnxsal.graph import FLOATS, Model, Value
from onnxsal.graph.infer import shape_text
from onnxsal.ops.registry import facts_of, spec_of
from onnxsal.ops.statements import APART
from onnxsal.runtime.session import Feed

CORNERS = 4
"""Numbers that say where a box is."""


@dataclass(frozen=True)
class Reading:
    """A target is the number of a place (``ask.place``). ``of``: the class that is explained there (``None``: the best one).

        ``within``: the tensor that the axes are of, with elements in the order of the scores ('' = the scores themselves). ``axes``: that
    of classes, then that of boxes, or those of rows and columns (none: ``picked`` says which scores the model's own boxes have). Along
    the axis of classes these are entries ``first`` to ``first + count`` (``None``: all).
    """

    kind: str
    of: int | None
    axes: tuple[int, ...] = ()
    first: int = 0
    count: int | None = None
    picked: Picked | None = None
    within: str = ""


# ----- boxes -----


@dataclass(frozen=True)
class Listed:
    """The output ``name``, its scores, and, where it lists boxes, how a number names one of them and how that is known."""

    name: str
    scores: Scores
    reading: Reading | None = None
    found: Found | None = None


def boxes_of(model: Model, output: str | None, place: Place, score: str, feed: Feed | None) -> Listed:
    """The output that lists the boxes, the scores that they were chosen by or that belong to them, and how a number names one.

    Where the file ends in a choice (a suppression, the largest k) box k is entry k of what it chose, and its score is what the choice
    compared; the choice itself is held. Of a raw head box k is candidate k. Raises ``TargetError``.
    """
    if output is not None and output not in model.types:
        raise TargetError(f"the model has no output '{output}'; its outputs: {', '.join(model.output_names)}.")
    outputs = model.output_names if output is None else [output]
    cut = score == "logit"
    hits = [hit for name in outputs for hit in (*picked(model, name, cut), *picked_rows(model, name, cut))]
    if hits:
        return _chosen(model, hits, place, score, feed)
    labels = place.names
    raw = [found for name in outputs if (found := _raw(model, name, labels)) is not None]
    if len(raw) != 1:
        listing = ", ".join(f"'{n}' {shape_text(model.value(n).shape)}" for n in outputs)
        several = (
            "more than one lists boxes; name it: --output" if raw else "labels= (--labels) tells which axis holds 4 numbers and the scores"
        )
        raise TargetError(
            f"boxes were not found in the output(s) {listing}: none is picked by a suppression or the largest of scores that can be "
            f"followed back, and {several}. Otherwise give the element of the output as a tuple."
        )
    name, tensor, axes, first, count, how = raw[0]
    asked = scores_of(model, tensor, score, feed)
    of = place.of
    if of is not None and count is not None and of >= count:
        raise TargetError(f"class {of} is out of range: each box has {count} scores, 0 to {count - 1}.")
    whole = model.value(tensor).dim(axes[0])
    within = "" if asked.start.name == tensor else tensor
    reading = Reading(BOX, of, axes, first, None if first == 0 and count == whole else count, within=within)
    return Listed(name, asked, reading, how)


def _chosen(model: Model, hits: list[Picked], place: Place, score: str, feed: Feed | None) -> Listed:
    if place.of is not None:
        raise TargetError(
            "a class cannot be named here: the file ends in a choice of boxes, each with the score it was chosen by. Leave it out."
        )
    if len({hit.scores for hit in hits}) > 1:
        listing = ", ".join(f"'{hit.name}' (of '{hit.scores}')" for hit in hits)
        raise TargetError(f"boxes of several kinds were chosen: {listing}; name the output: --output.")
    hit = hits[0]
    value = model.value(hit.scores)
    what = f"box k is entry k of '{hit.name}', and its score is the one of '{hit.scores}' {shape_text(value.shape)} that it was chosen by"
    found = Found("boxes", what, Ground.PROVED, f"{hit.by.label} compares them; its choice is held")
    return Listed(hit.name, scores_of(model, hit.scores, score, feed), Reading(BOX, None, picked=hit, within=hit.scores), found)


Raw = tuple[str, str, tuple[int, ...], int, int | None, Found]
"""(output, tensor of scores, axes of classes and boxes, first class, how many classes, how that is known)."""


def _raw(model: Model, name: str, labels: Sequence[str] | None) -> Raw | None:
    value = model.value(name)
    if value.dtype not in FLOATS or value.shape is None or not 2 <= len(value.shape) <= 3:
        return None
    return _beside(model, value) or _columns(model, value, labels) or _by_labels(value, labels)


def _beside(model: Model, value: Value) -> Raw | None:
    """Scores [N, A, C] or [N, C, A] beside another output with the boxes [N, A, 4]."""
    last = value.rank - 1
    for other in (model.value(n) for n in model.output_names if n != value.name):
        shape = other.shape
        if other.dtype not in FLOATS or shape is None or len(shape) != value.rank or shape[-1] != CORNERS or shape[-2] is None:
            continue
        own = value.shape or ()
        if own[last] == CORNERS and own[last - 1] == shape[-2]:
            continue
        boxes = next((a for a in (last - 1, last) if own[a] == shape[-2]), None)
        if boxes is not None:
            classes = last if boxes == last - 1 else last - 1
            what = f"box k is entry k of axis {boxes} of '{value.name}' {shape_text(own)}, beside the boxes '{other.name}'"
            return value.name, value.name, (classes, boxes), 0, value.dim(classes), Found("boxes", what, Ground.PROVED)
    return None


@dataclass(frozen=True)
class Joint:
    """A part of a tensor along one of its axes: the tensor ``name`` that was joined there, along its own ``axis``. ``whole``: it holds all
    of the part, and not only that of some boxes.
    """

    name: str
    size: int | None
    axis: int
    whole: bool = True


def _columns(model: Model, value: Value, labels: Sequence[str] | None) -> Raw | None:
    """One output of boxes and scores, joined along an axis: 4 numbers first, then scores between 0 and 1."""
    for axis in (value.rank - 2, value.rank - 1):
        parts = _parts(model, value.name, axis)
        corners, k = 0, 0
        while k < len(parts) and corners < CORNERS:
            corners, k = corners + (parts[k].size or CORNERS + 1), k + 1
        rest = parts[k:]
        if corners != CORNERS or not rest or any(part.size is None or not is_bounded(model, part.name) for part in rest):
            continue
        boxes, last, size = 2 * value.rank - 3 - axis, rest[-1], rest[-1].size or 0
        extra = int(labels is not None and size == len(labels) + 1)  # the first of them says whether there is anything
        what = f"box k is entry k of axis {boxes} of '{value.name}' {shape_text(value.shape)}, 4 numbers and then scores along axis {axis}"
        why = f"{len(rest)} part(s) of these lie between 0 and 1{'; one more than labels, so the first is no class' if extra else ''}"
        found = Found("boxes", what, Ground.TOLD if extra else Ground.PROVED, why)
        if last.whole and model.value(last.name).rank == value.rank:
            return value.name, last.name, (last.axis, 2 * value.rank - 3 - last.axis), extra, size - extra, found
        start = CORNERS + sum(part.size or 0 for part in rest[:-1])
        return value.name, value.name, (axis, boxes), start + extra, size - extra, found
    return None


def _parts(model: Model, name: str, axis: int) -> list[Joint]:
    """What was joined along an axis of a tensor; one part where nothing was, or not the same for all boxes."""
    value, node = model.value(name), model.producer.get(name)
    whole = [Joint(name, value.dim(axis) if value.shape is not None else None, axis)]
    spec = None if node is None else spec_of(node)
    if node is None or spec is None or spec.family != "movement":
        return whole
    if spec.fills(node) and facts_of(node).picks is not None:
        found = [_parts(model, v.name, axis) for v in node.inputs if v is not None]
        if int(node.attr("axis")) % node.y.rank == axis:
            return [part for parts in found for part in parts]
        sizes = {tuple(part.size for part in parts) for parts in found}
        bounded = [all(is_bounded(model, parts[k].name) for parts in found) for k in range(len(found[0]))] if len(sizes) == 1 else []
        return [
            Joint(part.name if known else name, part.size, axis, False) for part, known in zip(found[0], bounded, strict=False)
        ] or whole
    if spec.keeps not in ("order", "elements", "place") or node.x.shape is None:
        return whole
    before = [a for a in range(node.x.rank) if moved(node, 0, a, 0) == (axis, APART) and node.x.dim(a) == value.dim(axis)]
    return _parts(model, node.x.name, before[0]) if len(before) == 1 else whole


def _by_labels(value: Value, labels: Sequence[str] | None) -> Raw | None:
    """As many labels as scores behind 4 numbers (or behind one more, which says whether there is anything) tell the axis."""
    if labels is None or value.shape is None:
        return None
    first = value.rank - 2
    fits = [(a, extra) for a in (first, first + 1) for extra in (0, 1) if value.shape[a] == CORNERS + extra + len(labels)]
    if len(fits) != 1:
        return None
    (axis, extra), boxes = fits[0], 2 * first + 1 - fits[0][0]
    what = f"box k is entry k of axis {boxes} of '{value.name}' {shape_text(value.shape)}, with 4 numbers and then scores along axis {axis}"
    found = Found("boxes", what, Ground.TOLD, f"there are {len(labels)} labels")
    return value.name, value.name, (axis, boxes), CORNERS + extra, len(labels), found


# ----- pixels -----


def pixels_of(model: Model, x: Value, picture: Picture | None, start: Value, batched: bool, place: Place) -> tuple[Reading, Found]:
    """How a pixel of the picture, or a class, names scores [N, C, h, w] of a segmenter. Raises ``TargetError`` where there are none."""
    if picture is None or len(picture) != 3 or start.shape is None:
        raise TargetError(f"target '{place.kind}' is for pictures [N, C, H, W]; '{x.name}' {shape_text(x.shape)} is none.")
    path = reach(model, [x.name], [start.name]).path
    known = layouts(model, x, path, batched=batched, picture=picture).get(start.name)
    axes = None if known is None else known.picture
    if axes is None or axes[0] is None or len(axes) != 3 or 1 == start.dim(axes[1]) == start.dim(axes[2]):
        raise TargetError(f"target '{place.kind}': the scores '{start.name}' {shape_text(start.shape)} have no place on '{x.name}'.")
    count = start.dim(axes[0])
    if place.of is not None and count is not None and place.of >= count:
        raise TargetError(f"class {place.of} is out of range: each pixel has {count} scores, 0 to {count - 1}.")
    sizes = [[start.dim(a) for a in axes[1:]], [x.dim(a) for a in picture[1:]]]
    scaled = (
        ""
        if sizes[0] == sizes[1]
        else f"; {_sides(sizes[0])} places for {_sides(sizes[1])} pixels, so a pixel means the place that covers it"
    )
    what = f"scores '{start.name}' {shape_text(start.shape)} of each pixel, classes on axis {axes[0]}"
    if place.kind == MASK:
        what += ": the sum of a class's scores over the pixels where it is the best one; these pixels are held"
    reading = Reading(place.kind, None if place.kind == MASK else place.of, (axes[0], *axes[1:]))
    return reading, Found("pixels", what + scaled, Ground.PROVED)


def _sides(sizes: Sequence[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in sizes)
