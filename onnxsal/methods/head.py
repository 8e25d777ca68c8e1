"""The head: which class is explained, its score, and the signal that starts the walk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.ask.question import Question
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import recast, reshape_like, signal_type


@dataclass(frozen=True)
class Head:
    """Emitted once per graph: int64 ``explained_class`` [N] and ``score`` [N] of each sample, in the type that attributions have."""

    explained_class: Value
    score: Value


def scores(op: Emit, question: Question, start: Value) -> Value:
    """``start`` as one row of scores per sample [N, K], squashed to probabilities where the question asks for it."""
    value = start
    if question.squash:
        value = op.Softmax(value, axis=question.axis)
    if not question.batched:
        return op.Reshape(value, [1, -1])
    if start.shape is not None and len(start.shape) == 2:
        return value
    return op.Flatten(value, axis=1)


def emit_head(op: Emit, question: Question, start: Value, target: Value) -> Head:
    """The explained class (``target``, or the best class of each sample where it is negative) and its score."""
    rows = scores(op, question, start)
    best = op.ArgMax(rows, axis=1, keepdims=0)
    chosen = op.Where(op.Less(target, 0), best, target)
    return Head(chosen, recast(op, score_of(op, rows, chosen), signal_type(start), op.dtype))


def score_of(op: Emit, rows: Value, chosen: Value) -> Value:
    """rows[n, chosen[n]]; an index past the last class fails at run time rather than explaining something else."""
    return op.Squeeze(op.GatherElements(rows, op.Unsqueeze(chosen, [1]), axis=1), [1])


def probabilities(op: Emit, question: Question, start: Value) -> Value:
    """``start`` as probabilities, one row per sample, whether or not the question cuts the final Softmax or Sigmoid ("raw": as it is)."""
    if question.score != "logit":
        return scores(op, question, start)
    cut, shape = question.cut, start.shape
    single = shape is not None and all(d == 1 for d in question.sample_shape)
    if (cut is not None and cut.op_type == "Sigmoid") or (cut is None and single):
        return scores(op, question, op.Sigmoid(start))
    return scores(op, question, op.Softmax(start, axis=question.axis))


def emit_seed(op: Emit, question: Question, start: Value, chosen: Value) -> Value:
    """d score / d start in the shape and type of ``start``: one-hot for a logit, p_c (onehot - p) for a probability.

    Computed from ``start`` itself, so that it is right for every point of a path and every class given at run time.
    """
    shape, each = start.shape, question.sample_shape
    rows = scores(op, question, start)
    if shape is not None and all(isinstance(d, int) for d in each):
        classes = int(np.prod([d for d in each if isinstance(d, int)], dtype=np.int64))
        index = op.const(np.arange(classes, dtype=np.int64)[None, :])
    else:
        count = op.Squeeze(op.Shape(rows, start=1, end=2), [0])
        index = op.Unsqueeze(op.Range(0, count, 1), [0])
    hot = op.Cast(op.Equal(index, op.Unsqueeze(chosen, [1])), to=signal_type(start))
    if shape is None or len(shape) != 2 or not question.batched:
        hot = reshape_like(op, hot, start)
    if question.squash:
        p = op.Softmax(start, axis=question.axis)
        weighted = op.Mul(p, hot)
        return op.Sub(weighted, op.Mul(p, op.ReduceSum(weighted, [question.axis], keepdims=1)))
    return hot
