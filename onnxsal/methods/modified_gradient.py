"""Relevance as value times a modified gradient, the score closed by the same book as FullGrad's: what every node keeps, by its kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from onnx import TensorProto

from onnxsal.backward.book import Book
from onnxsal.engine.plan import Plan, Step
from onnxsal.graph import Value
from onnxsal.graph.helpers import add_up, columns, recast, signal_type
from onnxsal.methods.bias_terms import BiasTerm, TermVisit, beyond_scores, decompose, survey, term_sum
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.fullgrad import parts_of
from onnxsal.methods.relevance import cuts_of


@wrap("modified_gradient", keeps="conservation", shares="relevance/shares", books=True)
def modified_gradient(build: Build) -> Result:
    """Attribution ``x * g_x`` with the modified gradient g; residual ``|sum x g_x + sum <g_y, r> - score| / |score|`` over all nodes;
    reached ``sum x g_x / score``.

    ``parts`` say by its kind what nodes keep. Components: ``relevance/shares`` [N, 3] (input, what nodes keep, 0: nothing leaks),
    ``booked/<node>`` [N] for each node that keeps something, and for every tensor that all paths pass ``relevance/<tensor>`` [N, 3]: the
    sum there, what nodes kept until there, 0.
    """
    op, question, plan = build.op, build.question, build.plan()
    met: dict[str, tuple[Value, int]] = {}
    sites = survey(build)
    places = {site.y.name: site.layout for site in sites.values() if site.step.node.outputs[0] is not None}
    book = Book(question.x if question.batched else None, places)
    attribution, terms, seed = decompose(build, sites, _meeting(plan, book, met))
    own, kept = build.sum_per_sample(attribution), [(t, term_sum(build, t)) for t in terms]
    outer = beyond_scores(build, seed)
    values = [*outer, *(value for _, value in kept)]
    booked = add_up(op, values) if values else None
    build.component("relevance/shares", lambda: columns(op, own, booked, None), 2)
    for name, (g, count) in met.items():
        build.component(f"relevance/{name}", _cut(build, book, name, g, [*outer, *(value for _, value in kept[:count])]), 2)
    for term, value in reversed(kept):
        build.component(f"booked/{term.site.name}", partial(Value, value.name), 1)
    residual = build.relative_error(own if booked is None else op.Add(own, booked), build.head.score)
    parts = parts_of(build, attribution, kept, outer[0] if outer else None)
    return Result(attribution, residual, reached=build.share_of_score(own), parts=parts)


def _meeting(plan: Plan, book: Book, met: dict[str, tuple[Value, int]]) -> TermVisit:
    """Notes the signal at the tensors that all paths pass, and how many terms there are behind the node that makes one."""
    wanted = set(cuts_of(plan, book))

    def look(step: Step, dys: list[Value | None], terms: Sequence[BiasTerm]) -> None:
        met.update({n: (g, len(terms)) for n, g in zip(step.node.proto.output, dys, strict=True) if n in wanted and g is not None})

    return look


def _cut(build: Build, book: Book, name: str, signal: Value, kept: list[Value]) -> Callable[[], Value]:
    """[N, 3] of a tensor that all paths pass: its relevance, what nodes kept until there, 0."""
    op, at = build.op, build.question.model.value(name)

    def column() -> Value:
        # in double precision: of a million terms the rounding of the sum would look like a loss
        wide = op.Mul(recast(op, signal, signal_type(at), TensorProto.DOUBLE), op.Cast(op.raw(at), to=TensorProto.DOUBLE))
        total = recast(op, book.total(op, at, wide), TensorProto.DOUBLE, op.dtype)
        return columns(op, total, add_up(op, kept) if kept else None, None)

    return column
