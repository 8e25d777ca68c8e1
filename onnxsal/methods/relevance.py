"""Relevance: the score sent back through the network, every node's share accounted for."""

from __future__ import annotations

import dataclasses

import numpy as np
from onnx import TensorProto

from onnxsal.ask.question import begin
from onnxsal.backward.book import Book
from onnxsal.backward.walk import Walk
from onnxsal.engine.plan import Plan, Step
from onnxsal.engine.rectified import rectified, zeros_get_nothing
from onnxsal.engine.traverse import Visit, traverse
from onnxsal.errors import UnsupportedError
from onnxsal.facts.axes import layouts
from onnxsal.facts.booked import BIASES_AND_CONSTANTS, INPUT, LEAKS
from onnxsal.facts.reach import separators
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import add_up, columns, recast, reshape_like, signal_type
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import emit_seed, squashed

Cuts = dict[str, tuple[Value, int, int]]
"""Tensor -> its relevance, and how many entries the book's two lists had when it was met."""


def seed(build: Build, start: Value) -> Value:
    """The score at the explained class, 0 elsewhere."""
    op, question = build.op, build.question
    if question.binary:
        score = recast(op, build.head.score, op.dtype, signal_type(question.start))
        return reshape_like(op, score, start)
    hot = emit_seed(op, dataclasses.replace(question, link=""), question.start, build.head.chosen)
    relevance = op.Mul(hot, squashed(op, question, question.start, question.squash))
    return relevance if start.name == question.start.name else reshape_like(op, relevance, start)


def cuts_of(plan: Plan, book: Book) -> list[str]:
    """Tensors that every path from the scores to the input passes, from the scores on: what arrives there is all there is. Where it is not
    known which axis counts the samples, nobody's sum could be told.
    """
    path = [s.node for s in plan.steps]
    return [n for n in reversed(separators(path, plan.starts)) if n not in plan.wrt and book.tells(Value(n))]


@wrap("relevance", starts="score", keeps="conservation", shares="relevance/shares", books=True)
def relevance(build: Build) -> Result:
    """Attribution: the relevance R of each input element; residual ``|sum R + bias shares + leak - score| / |score|``; reached
    ``sum R / score``, without which the residual says only that nothing was mislaid.

    Shares of biases include what landed on constants (a class token, a frame, a limit that was reached) and on inputs that are not
    explained; ``leak`` is what stabilisers and dead sums lost. Components: ``relevance/shares`` [N, 3] (input, biases, leak), and for every
    tensor that all paths pass ``relevance/<tensor>`` [N, 3]: the sum there, and what biases and leaks took until there.
    """
    op, question = build.op, build.question
    start = begin(question)
    plan = build.plan(start.name)
    places = layouts(question.model, question.x, [s.node for s in plan.steps], batched=question.batched, picture=None)
    book = Book(question.x if question.batched else None, places)
    cuts: Cuts = {}
    op.walk = Walk(question.x, book, rectified(plan), zeros_get_nothing(plan))
    signals = traverse(op, plan, {start.name: seed(build, start)}, _meeting(cuts, cuts_of(plan, book), book))
    if question.x.name not in signals:
        raise UnsupportedError(
            f"no relevance arrives at '{question.x.name}': its paths to the score all lead through gates or shortcuts that are left out."
        )
    with op.named("arrived", signal_type(question.x)):
        arrived = _numbers(op, signals[question.x.name])
    own = build.sum_per_sample(arrived)
    bias, leak = (_total(op, entries) for entries in (book.bias, book.leak))
    build.component("relevance/shares", lambda: _numbers(op, columns(op, own, bias, leak)), 2)
    for name, (value, biases, leaks) in cuts.items():
        at = question.model.value(name)

        def column(value: Value = value, at: Value = at, biases: int = biases, leaks: int = leaks) -> Value:
            wide = recast(op, value, signal_type(at), TensorProto.DOUBLE)  # a million terms: rounding of the sum would look like a loss
            total = recast(op, book.total(op, at, wide), TensorProto.DOUBLE, op.dtype)
            return _numbers(op, columns(op, total, _total(op, book.bias[:biases]), _total(op, book.leak[:leaks])))

        build.component(f"relevance/{name}", column, 2)
    accounted = own
    for part in (bias, leak):
        accounted = accounted if part is None else op.Add(accounted, part)
    residual = build.relative_error(_numbers(op, accounted), build.head.score)
    named = {INPUT: own, BIASES_AND_CONSTANTS: bias, LEAKS: leak}
    parts = {name: _numbers(op, value) for name, value in named.items() if value is not None}
    return Result(arrived, residual, reached=build.share_of_score(own), parts=parts)


def _numbers(op: Emit, value: Value) -> Value:
    """Infinity where a value is none or not finite: relevance that outgrew its type says so, and is never NaN (0 infinity, or a
    difference of infinities)."""
    return op.Where(op.LessOrEqual(op.Abs(value), float(np.finfo(op.np_dtype).max)), value, float("inf"))


def _meeting(cuts: Cuts, names: list[str], book: Book) -> Visit:
    """A visitor that notes the relevance at the tensors that all paths pass."""
    wanted = set(names)

    def visit(step: Step, dys: list[Value | None]) -> None:
        for name, signal in zip(step.node.proto.output, dys, strict=True):
            if name in wanted and signal is not None:
                cuts[name] = (signal, len(book.bias), len(book.leak))

    return visit


def _total(op: Emit, entries: list[tuple[Value, int]]) -> Value | None:
    """The sum of entries of the book."""
    return add_up(op, [recast(op, value, kind, op.dtype) for value, kind in entries]) if entries else None
