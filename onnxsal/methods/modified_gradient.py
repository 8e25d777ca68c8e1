"""Relevance as value times a modified gradient, the score closed by the same book as FullGrad's: what every node keeps, by its kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from onnx import TensorProto

from onnxsal.backward.book import Book
from onnxsal.engine.plan import Plan, Step
from onnxsal.engine.traverse import Visit, traverse
from onnxsal.facts.tags import SOFTMAX
from onnxsal.graph import Value
from onnxsal.graph.helpers import add_up, columns, recast, signal_type
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.fullgrad import BiasTerm, Site, noting, survey, term_sum
from onnxsal.methods.head import emit_seed
from onnxsal.methods.relevance import cuts_of

KINDS = ("bias", "constant", "softmax", "function")
"""What may keep a part of the score: a bias of a layer; a constant that was added or joined (positions, masks, a class token); a softmax;
any other function that is not 0 at 0."""


def kind_of(site: Site) -> str:
    """What the bias term of a node is (``KINDS``)."""
    if site.step.family == "softmax" or SOFTMAX in site.step.node.tags:
        return "softmax"
    if site.step.family in ("linear", "normalization", "recurrent") or (site.explicit and site.channel is not None):
        return "bias"
    return "constant" if site.step.family in ("add", "movement", "select") else "function"


@wrap("modified_gradient", keeps="conservation", shares="relevance/shares", books=True)
def modified_gradient(build: Build) -> Result:
    """Attribution ``x * g_x`` with the modified gradient g; residual ``|sum x g_x + sum <g_y, r> - score| / |score|`` over all nodes;
    reached ``sum x g_x / score``.

    Components: ``relevance/shares`` [N, 3] (input, what nodes keep, 0: nothing leaks), ``booked/<kind>`` [N] for each kind of node
    that keeps something (bias, constant, softmax, function), ``booked/<node>`` [N] for each of them, and for every tensor that all paths
    pass ``relevance/<tensor>`` [N, 3]: the sum there, what nodes kept until there, 0.
    """
    op, question, plan = build.op, build.question, build.plan()
    terms: list[BiasTerm] = []
    met: dict[str, tuple[Value, int]] = {}
    seed = emit_seed(op, question, question.start, build.head.explained_class)
    sites = survey(build)
    places = {site.y.name: site.layout for site in sites.values() if site.step.node.outputs[0] is not None}
    book = Book(question.x if question.batched else None, places)
    visit = _both(noting(sites, terms, op), _meeting(plan, book, met, terms))
    signal = traverse(op, plan, {question.start.name: seed}, visit)[question.x.name]
    attribution = build.contribution(op.Mul(signal, question.x), question.x)
    own, kept = build.sum_per_sample(attribution), [(t.site, term_sum(build, t)) for t in terms]
    of_kind = {kind: [value for site, value in kept if kind_of(site) == kind] for kind in KINDS}
    outer = []
    if not question.weighted:
        at_start = recast(op, build.sum_of_scores(op.Mul(seed, question.start)), signal_type(question.start), op.dtype)
        outer = [op.Sub(build.head.score, at_start)]
        of_kind["softmax"] += outer
    values = [*outer, *(value for _, value in kept)]
    booked = add_up(op, values) if values else None
    build.component("relevance/shares", lambda: columns(op, own, booked, None), 2)
    for name, (g, count) in met.items():
        build.component(f"relevance/{name}", _cut(build, book, name, g, [*outer, *(value for _, value in kept[:count])]), 2)
    for kind, found in of_kind.items():
        if found:
            build.component(f"booked/{kind}", partial(add_up, op, found), 1)
    for site, value in reversed(kept):
        build.component(f"booked/{site.name}", partial(Value, value.name), 1)
    residual = build.relative_error(own if booked is None else op.Add(own, booked), build.head.score)
    return Result(attribution, residual, reached=build.share_of_score(own))


def _both(first: Visit, second: Visit) -> Visit:
    def visit(step: Step, dys: list[Value | None]) -> None:
        first(step, dys)
        second(step, dys)

    return visit


def _meeting(plan: Plan, book: Book, met: dict[str, tuple[Value, int]], terms: list[BiasTerm]) -> Visit:
    """A visitor that notes the signal at the tensors that all paths pass, and how many terms there were before the node that makes one."""
    wanted = set(cuts_of(plan, book))
    before = 0

    def visit(step: Step, dys: list[Value | None]) -> None:
        nonlocal before
        met.update({n: (g, before) for n, g in zip(step.node.proto.output, dys, strict=True) if n in wanted and g is not None})
        before = len(terms)

    return visit


def _cut(build: Build, book: Book, name: str, signal: Value, kept: list[Value]) -> Callable[[], Value]:
    """[N, 3] of a tensor that all paths pass: its relevance, what nodes kept until there, 0."""
    op, at = build.op, build.question.model.value(name)

    def column() -> Value:
        # in double precision: of a million terms the rounding of the sum would look like a loss
        wide = op.Mul(recast(op, signal, signal_type(at), TensorProto.DOUBLE), op.Cast(op.raw(at), to=TensorProto.DOUBLE))
        total = recast(op, book.total(op, at, wide), TensorProto.DOUBLE, op.dtype)
        return columns(op, total, add_up(op, kept) if kept else None, None)

    return column
