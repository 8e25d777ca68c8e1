"""The head: which class is explained, its score, and the signal that starts the walk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import TensorProto, helper

from onnxsal.ask.question import Contrast, Question
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import recast, reshape_like, signal_type
from onnxsal.methods.named import emit_named


@dataclass(frozen=True)
class Chosen:
    """Whose score is explained, int64 [N] each: y_target, less ``weight`` times y_against where there is one."""

    target: Value
    against: Value | None = None
    weight: float = 1.0
    weights: Value | None = None
    """Of a sum of several scores, instead of one: how much each counts, [N, K]."""

    def each(self, change: Callable[[Value], Value], of_rows: Callable[[Value], Value] | None = None) -> Chosen:
        """The same of other samples: both classes, each changed; ``of_rows`` changes what has a row for each sample."""
        weights = None if self.weights is None or of_rows is None else of_rows(self.weights)
        against = None if self.against is None else change(self.against)
        return replace(self, target=change(self.target), against=against, weights=weights)

    def less(self, op: Emit, of: Callable[[Value], Value]) -> Value:
        """of(target) - weight of(against), with ``of`` linear in the score."""
        own = of(self.target)
        if self.against is None:
            return own
        other = of(self.against)
        return op.Sub(own, other if self.weight == 1 else op.Mul(other, float(self.weight)))


@dataclass(frozen=True)
class Head:
    """Emitted once per graph: the classes that are ``chosen``, and the ``score`` [N] of each sample, in the type that attributions have.

    ``exists`` [N] is false where a class that is asked for does not exist, or is compared with itself; the walk then starts from the
    nearest one that does, and what it returns is no answer (``Build.told``). ``None``: that was known not to be when the graph was written.
    """

    chosen: Chosen
    score: Value
    exists: Value | None = None
    told: Mapping[str, Value] = field(default_factory=dict)
    """What more is told of each sample, int64 [N] by name."""


def scores(op: Emit, question: Question, start: Value) -> Value:
    """``start`` as one row of scores per sample [N, K], squashed to probabilities where the question asks for it.

    A single sigmoid has two: -z and z, or 1 - p and p.
    """
    return _rows(op, question, squashed(op, question, start, question.squash), question.score == "probability")


def squashed(op: Emit, question: Question, start: Value, link: str) -> Value:
    """``start`` after a softmax over its classes, after a sigmoid, or ('') as it is."""
    if not link:
        return start
    return op.Softmax(start, axis=question.axis) if link == "softmax" else op.Sigmoid(start)


def _rows(op: Emit, question: Question, value: Value, probabilities: bool) -> Value:
    """A tensor shaped like the scores as one row per sample [N, K]."""
    if not question.batched:
        rows = op.Reshape(value, [1, -1])
    elif value.shape is not None and len(value.shape) == 2:
        rows = value
    else:
        rows = op.Flatten(value, axis=1)
    if not question.binary:
        return rows
    return op.Concat(op.Sub(1.0, rows) if probabilities else op.Neg(rows), rows, axis=1)


def emit_head(op: Emit, question: Question, start: Value, target: Value | None, checked: bool = False) -> Head:
    """The explained class (``target``, or the best class of each sample where it is -1, or where there is no target) and its score.

    A class exists where it is -1 or one of 0 ... K - 1. ``checked``: all of ``target`` are known to be.
    """
    rows = scores(op, question, start)
    if question.reading is not None:
        named = emit_named(op, question, start, rows, op.const([-1]) if target is None else target)
        classes = Chosen(named.chosen, weights=named.weights)
        return Head(classes, recast(op, score_of(op, rows, classes), signal_type(start), op.dtype), named.exists, named.told)
    chosen, exists = op.ArgMax(rows, axis=1, keepdims=0), None
    if target is not None:
        chosen = op.Where(op.Equal(target, -1), chosen, target)
    if target is not None and not checked:
        count = class_count(op, question, rows)
        last = op.const(count - 1) if isinstance(count, int) else op.Sub(count, 1)
        chosen = op.Clip(chosen, 0, last)
        exact = isinstance(count, int) and count <= 2**24  # float32 tells whole numbers apart up to there
        exists = _within(op, target, last, TensorProto.FLOAT if exact else TensorProto.DOUBLE)
    classes = Chosen(chosen)
    if question.contrast is not None:
        classes, differ = _contrast(op, question, rows, chosen, question.contrast)
        exists = differ if exists is None else op.And(exists, differ)
    return Head(classes, recast(op, score_of(op, rows, classes), signal_type(start), op.dtype), exists)


def _contrast(op: Emit, question: Question, rows: Value, chosen: Value, contrast: Contrast) -> tuple[Chosen, Value]:
    """The classes with what they are compared with, and where that is another class [N]."""
    if contrast.against is None:
        other = op.Squeeze(rivals(op, question, rows, chosen, 1), [1])
        return Chosen(chosen, other, contrast.weight), op.Not(op.Equal(chosen, other))
    asked, count = op.const(contrast.against), class_count(op, question, rows)
    differ = op.Not(op.Equal(chosen, asked))
    if isinstance(count, Value):  # only the run tells whether there is such a class
        differ, asked = op.And(differ, op.Less(asked, count)), op.Min(asked, op.Sub(count, 1))
    return Chosen(chosen, op.Expand(asked, op.Shape(chosen)), contrast.weight), differ


def rivals(op: Emit, question: Question, rows: Value, chosen: Value, count: int) -> Value:
    """The best ``count`` classes [N, count] beside the one that is chosen, best first; of equal ones the first."""
    own = op.Unsqueeze(chosen, [1])
    classes = class_count(op, question, rows)
    places = op.const(np.arange(classes - 1)[None]) if isinstance(classes, int) else op.Unsqueeze(op.Range(0, op.Sub(classes, 1), 1), [0])
    others = op.Add(places, op.Cast(op.GreaterOrEqual(places, own), to=TensorProto.INT64))
    values = op.GatherElements(rows, others, axis=1)
    if count == 1:
        best = op.ArgMax(values, axis=1, keepdims=1)
    else:  # half precision has no TopK everywhere, and loses nothing in float32
        wide = values if rows.dtype == TensorProto.DOUBLE else op.Cast(values, to=TensorProto.FLOAT)
        best = op.TopK(wide, op.const([count]), axis=1, outputs=2)[1]
    return op.GatherElements(others, best, axis=1)


def _within(op: Emit, target: Value, last: Value, kind: int) -> Value:
    """-1 <= target <= last, compared in floating-point ``kind``: OpenVINO drops the upper half of an int64, but not before this Cast."""
    number = op.Cast(target, to=kind)
    least = np.asarray(-1, helper.tensor_dtype_to_np_dtype(kind))
    return op.Equal(number, op.Clip(number, op.const(least), op.Cast(last, to=kind)))


def class_count(op: Emit, question: Question, rows: Value) -> int | Value:
    """The number of classes K, as a scalar of the graph (from the ``rows`` of scores [N, K]) where it is known at run time only."""
    known = question.class_count
    return known if known is not None else op.Squeeze(op.Shape(rows, start=1, end=2), [0])


def score_of(op: Emit, rows: Value, chosen: Chosen) -> Value:
    """rows[n, c[n]] of classes c that exist: of the target, less that of what it is compared with; or the weighted sum of several."""
    if chosen.weights is not None:
        return op.ReduceSum(op.Mul(rows, op.CastLike(chosen.weights, rows)), [1], keepdims=0)
    return chosen.less(op, lambda classes: op.Squeeze(op.GatherElements(rows, op.Unsqueeze(classes, [1]), axis=1), [1]))


def probabilities(op: Emit, question: Question, start: Value) -> Value:
    """``start`` as probabilities, one row per sample, whatever the score is ("raw": as it is)."""
    return _rows(op, question, squashed(op, question, start, question.link), True)


def emit_seed(op: Emit, question: Question, start: Value, chosen: Chosen) -> Value:
    """d score / d start in the shape and type of ``start``: one-hot for a logit, p_c (onehot - p) for a probability of a softmax.

    Of a single sigmoid, 1 for the positive class and -1 for the negative one; times p (1 - p) for a probability.

    Of a contrast, that of the target less ``weight`` times that of the other class.

    Computed from ``start`` itself, so that it is right for every point of a path and every class given at run time.
    """
    if chosen.weights is not None:
        return _weighed(op, question, start, chosen.weights)
    hot = chosen.less(op, lambda classes: _signs(op, start, classes) if question.binary else _one_hot(op, question, start, classes))
    hot = op.declared(hot, signal_type(start), start)  # the target's own size is no symbol of the model
    return hot if not question.squash else _squashed_seed(op, question, start, hot)


def _weighed(op: Emit, question: Question, start: Value, weights: Value) -> Value:
    """The weights of several scores as the derivative of their sum."""
    hot = reshape_like(op, op.Cast(weights, to=signal_type(start)), start)
    return hot if not question.squash else _squashed_seed(op, question, start, hot)


def _squashed_seed(op: Emit, question: Question, start: Value, hot: Value) -> Value:
    """What comes back through the softmax or sigmoid that is still to be applied to ``start``."""
    p = squashed(op, question, start, question.squash)
    weighted = op.Mul(p, hot)
    if question.squash == "sigmoid":
        return op.Mul(weighted, op.Sub(1.0, p))
    return op.Sub(weighted, op.Mul(p, op.ReduceSum(weighted, [question.axis], keepdims=1)))


def _signs(op: Emit, start: Value, chosen: Value) -> Value:
    """1 where the positive class is explained, -1 where the negative one is."""
    sign = op.Cast(op.Sub(op.Mul(chosen, 2), 1), to=signal_type(start))
    return reshape_like(op, sign, start)


def _one_hot(op: Emit, question: Question, start: Value, chosen: Value) -> Value:
    """1 at the explained class, 0 elsewhere."""
    shape, count = start.shape, question.class_count
    if count is not None:
        index = op.const(np.arange(count, dtype=np.int64)[None, :])
    else:
        index = op.Unsqueeze(op.Range(0, class_count(op, question, scores(op, question, start)), 1), [0])
    hot = op.Cast(op.Equal(index, op.Unsqueeze(chosen, [1])), to=signal_type(start))
    return hot if shape is not None and len(shape) == 2 and question.batched else reshape_like(op, hot, start)
