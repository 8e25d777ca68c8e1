"""Targets that name a place, in the graph: the number of a box, a pixel or a class becomes the score, or scores, that it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from onnxsal.ask.place import BOX, MASK, ROW
from onnxsal.ask.question import Question
from onnxsal.ask.reading import Reading
from onnxsal.errors import TargetError
from onnxsal.facts.selection import Picked, picks_of
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import dim_of

Extent = int | Value


@dataclass(frozen=True)
class Named:
    """What targets [N] name: ``chosen`` int64 [N], the flat index of a score (of a mask, the class), whether it ``exists`` [N], for a mask
    the ``weights`` [N, K] of all scores (one where a pixel is of the class); ``told``: int64 [N] by name, what more is told.
    """

    chosen: Value
    exists: Value
    weights: Value | None = None
    told: Mapping[str, Value] = field(default_factory=dict)


def emit_named(op: Emit, question: Question, start: Value, rows: Value, target: Value) -> Named:
    """The scores that ``target`` [1] or [N] names; ``rows`` are all [N, K]. -1: the box of the best score, the pixel of the best score, the
    class with the largest mask. What is named is decided here, once, and held wherever else the model is run.
    """
    reading = question.reading
    assert reading is not None
    start = question.model.value(reading.within) if reading.within else start
    if reading.kind == MASK:
        return _mask(op, question, reading, start, target)
    if reading.kind == BOX and reading.picked is not None:
        return _picked(op, question, reading.picked, start, rows, target)
    return (_box if reading.kind == BOX else _point)(op, question, reading, start, rows, target)


def _box(op: Emit, question: Question, reading: Reading, start: Value, rows: Value, target: Value) -> Named:
    """Candidate k of a raw head: its best class, or the one that is asked for."""
    classes, boxes = reading.axes
    scores, first, count = start, reading.first, reading.count
    if reading.of is not None:
        first, count = first + reading.of, 1
    if count is not None:
        scores = op.Slice(start, [first], [first + count], [classes])
    lead = 0 if question.batched else 1
    best = op.Reshape(op.ArgMax(scores, axis=classes, keepdims=0), [lead, -1])
    strongest = op.ArgMax(op.Reshape(op.ReduceMax(scores, [classes], keepdims=0), [lead, -1]), axis=1, keepdims=0)
    number = op.Where(op.Equal(target, -1), strongest, target)
    many = _size(op, start, boxes)
    exists = op.And(op.GreaterOrEqual(number, 0), op.Less(number, many))
    number = op.Clip(number, 0, many - 1 if isinstance(many, int) else op.Sub(many, 1))
    own = op.Squeeze(op.GatherElements(best, op.Unsqueeze(number, [1]), axis=1), [1])
    chosen = op.Add(_step(op, question, start, classes, op.Add(own, first)), _step(op, question, start, boxes, number))
    every = op.Add(op.Mul(number, 0), many)
    return Named(
        chosen,
        exists,
        told={"box_count": every, "explained_place": number, "explained_label": own if reading.of is None else op.Add(own, reading.of)},
    )


def _picked(op: Emit, question: Question, picked: Picked, start: Value, rows: Value, target: Value) -> Named:
    """Entry k of what the model chose for a sample: its place among all scores, followed through the choice on whole numbers."""
    places = op.Reshape(op.Range(0, op.Size(op.raw(start)), 1), op.Shape(op.raw(start)))
    for pick in picked.picks:
        rule = picks_of(pick.node)
        after = None if rule is None else rule(op, pick.node, places, pick.i, pick.j)
        if after is None:
            raise TargetError(f"{pick.node.label}: which elements it picks cannot be followed. Give the element of the output as a tuple.")
        places = after
    if picked.rows:
        index = op.Cast(question.model.value(picked.name), to=TensorProto.INT64)
        places = op.GatherND(places, index)
    flat = op.Reshape(places, [-1])
    flat = op.Compress(flat, op.GreaterOrEqual(flat, 0), axis=0)
    samples = op.Squeeze(op.Shape(rows, start=0, end=1), [0])
    each = op.Squeeze(op.Shape(rows, start=1, end=2), [0])
    # one more, of no sample: there may be none at all
    sample, flat = op.Concat(op.Div(flat, each), [-1], axis=0), op.Concat(op.Mod(flat, each), [0], axis=0)
    own = op.Equal(op.Unsqueeze(sample, [0]), op.Unsqueeze(op.Range(0, samples, 1), [1]))
    mine = op.Cast(own, to=TensorProto.INT64)
    rank, many = op.Sub(op.CumSum(mine, np.asarray(1)), 1), op.ReduceSum(mine, [1], keepdims=0)
    values = op.GatherElements(rows, op.Expand(op.Unsqueeze(flat, [0]), op.Shape(own)), axis=1)
    wide = op.Cast(values, to=TensorProto.DOUBLE)
    best = op.ArgMax(op.Where(own, wide, np.asarray(-np.inf)), axis=1, keepdims=1)
    number = op.Where(op.Equal(target, -1), op.Squeeze(op.GatherElements(rank, best, axis=1), [1]), target)
    hit = op.And(own, op.Equal(rank, op.Unsqueeze(number, [1])))
    chosen = op.ReduceSum(op.Mul(op.Cast(hit, to=TensorProto.INT64), op.Unsqueeze(flat, [0])), [1], keepdims=0)
    return Named(chosen, op.And(op.GreaterOrEqual(number, 0), op.Less(number, many)), told={"box_count": many, "explained_place": number})


def _point(op: Emit, question: Question, reading: Reading, start: Value, rows: Value, target: Value) -> Named:
    """The pixel row * 2^20 + column of the picture: its best class, or the one that is asked for, at the place that covers it."""
    x, picture = question.x, question.picture
    assert picture is not None
    classes, *places = reading.axes
    given = [op.Div(target, ROW), op.Mod(target, ROW)]
    sides = [_size(op, x, a) for a in picture[1:]]
    inside = op.GreaterOrEqual(target, 0)
    for at, side in zip(given, sides, strict=True):
        inside = op.And(inside, op.Less(at, side))
    at = [op.Div(op.Mul(op.Min(a, _less(op, s)), _size(op, start, p)), s) for a, s, p in zip(given, sides, places, strict=True)]
    if reading.of is None:
        ahead = [0, classes, *places] if question.batched or start.rank == 4 else [classes, *places]
        turned = start if ahead == sorted(ahead) else op.Transpose(start, perm=ahead)
        best = op.Reshape(op.ArgMax(turned, axis=len(ahead) - 3, keepdims=0), [0 if question.batched else 1, -1])
        number = op.Add(op.Mul(at[0], _size(op, start, places[1])), at[1])
        number = op.Add(op.Max(number, 0), op.Mul(op.Range(0, op.Squeeze(op.Shape(rows, start=0, end=1), [0]), 1), 0))
        own = op.Squeeze(op.GatherElements(best, op.Unsqueeze(number, [1]), axis=1), [1])
    else:
        own = op.Add(op.Mul(op.ArgMax(rows, axis=1, keepdims=0), 0), reading.of)
    chosen = op.Add(
        _step(op, question, start, classes, own), op.Add(*(_step(op, question, start, p, a) for p, a in zip(places, at, strict=True)))
    )
    any_one = op.Equal(target, -1)
    chosen = op.Where(any_one, op.ArgMax(rows, axis=1, keepdims=0), op.Max(chosen, 0))
    return Named(chosen, op.Or(inside, any_one), told={"explained_place": op.Add(op.Mul(own, 0), target), "explained_label": own})


def _mask(op: Emit, question: Question, reading: Reading, start: Value, target: Value) -> Named:
    """The class of that index at every pixel where it is the best one (of a single class: where its score is above 0)."""
    classes, *places = reading.axes
    count, rank = _size(op, start, classes), start.rank
    if count == 1:
        hits = op.Greater(start, 0.0)
    else:
        index = op.const(np.arange(count)) if isinstance(count, int) else op.Range(0, count, 1)
        index = op.Reshape(index, [-1 if a == classes else 1 for a in range(rank)])
        hits = op.Equal(op.ArgMax(start, axis=classes, keepdims=1), index)
    lead = 0 if question.batched else 1
    mine = op.Cast(hits, to=TensorProto.INT64)
    areas = op.Reshape(op.ReduceSum(mine, places, keepdims=0), [lead, -1])
    number = op.Where(op.Equal(target, -1), op.ArgMax(areas, axis=1, keepdims=0), target)
    known = op.And(op.GreaterOrEqual(number, 0), op.Less(number, count))
    number = op.Clip(number, 0, _less(op, count))
    area = op.Squeeze(op.GatherElements(areas, op.Unsqueeze(number, [1]), axis=1), [1])
    classes_of = op.Range(0, count, 1) if not isinstance(count, int) else op.const(np.arange(count))
    own = op.Equal(op.Unsqueeze(number, [1]), op.Unsqueeze(classes_of, [0]))  # [N, C]
    shape = [0 if question.batched else 1] if question.batched or rank == 4 else []
    own = op.Reshape(own, [*shape, *[-1 if a == classes else 1 for a in range(len(shape), rank)]])
    weights = op.Cast(op.And(hits, own), to=op.dtype)
    flat = op.Flatten(weights, axis=1) if question.batched else op.Reshape(weights, [1, -1])
    return Named(number, op.And(known, op.Greater(area, 0)), flat, {"mask_pixels": area})


def _size(op: Emit, value: Value, axis: int) -> Extent:
    known = value.dim(axis)
    return known if known is not None else op.Squeeze(dim_of(op, value, axis), [0])


def _less(op: Emit, size: Extent) -> Extent:
    return size - 1 if isinstance(size, int) else op.Sub(size, 1)


def _step(op: Emit, question: Question, start: Value, axis: int, number: Value) -> Value:
    """How far entry ``number`` of an axis is from the first one, in a sample's scores in one row."""
    for after in range(axis + 1, start.rank):
        number = op.Mul(number, _size(op, start, after))
    return number
