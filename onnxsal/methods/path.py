"""Integrated gradients: the gradient averaged along the straight path from a baseline, times the displacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import like_shape, recast, shape_of, signal_type, zeros_like
from onnxsal.graph.replay import replay, replica
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import score_of, scores
from onnxsal.methods.points import Samples, Walked, sampled_walks


def quadrature(rule: str, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points alpha in [0, 1] and weights of a rule with ``n_steps`` evaluations (``trapezoid``: n_steps intervals).

    ``gausslegendre``, ``trapezoid``, ``riemann_left``, ``riemann_right`` and ``riemann_middle`` have weights that sum to 1.
    ``endpoints_sum`` is the sum of n_steps equally spaced gradients with both ends, not divided by their number.
    """
    n = int(n_steps)
    if rule == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(n)
        return (points + 1) / 2, weights / 2
    if rule == "trapezoid":
        weights = np.full(n + 1, 1 / n)
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, n + 1), weights
    if rule == "endpoints_sum":
        return np.linspace(0, 1, n), np.ones(n)
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[rule]
    return (np.arange(n) + shift) / n, np.full(n, 1 / n)


@wrap("path", keeps="completeness", refined_by="n_steps")
def integrated_gradients(build: Build) -> Result:
    """``A = (x - x0) * sum_k w_k grad f_c(x0 + alpha_k (x - x0))``; residual ``|sum A - (f(x) - f(x0))| / |f(x) - f(x0)|``.

    Sundararajan et al. 2017, arXiv 1703.01365. Weights that do not sum to 1 (``endpoints_sum``) are normalised for the
    residual, not for the attribution.
    """
    op, question, head = build.op, build.question, build.head
    baseline = build.baseline()
    delta = op.Sub(question.x, baseline)
    alphas, weights = quadrature(build.settings["rule"], build.settings["n_steps"])
    rank = question.x.rank

    def column(body: Emit, values: np.ndarray, numbers: Value) -> Value:
        picked = body.Gather(body.const(values.astype(body.np_dtype)), numbers)
        return body.Reshape(picked, [-1, *[1] * rank])

    def points(body: Emit, numbers: Value) -> Value:
        return body.Add(baseline, body.Mul(column(body, alphas, numbers), delta))

    def update(chunk: Walked, states: Sequence[Value]) -> list[Value]:
        weighted = chunk.body.Mul(chunk.signals, column(chunk.body, weights, chunk.numbers))
        return [chunk.body.Add(states[0], chunk.body.ReduceSum(weighted, [0], keepdims=0))]

    samples = Samples(len(alphas))
    (total,) = sampled_walks(build, samples, points, [zeros_like(op, question.x)], update)
    attribution = build.contribution(op.Mul(delta, total), delta)
    gained = op.Sub(head.score, _score_at_baseline(build, baseline))
    explained = build.sum_per_sample(attribution)
    if not np.isclose(weights.sum(), 1):
        explained = op.Div(explained, float(weights.sum()))
    return Result(attribution, build.relative_error(explained, gained))


def _score_at_baseline(build: Build, baseline: Value) -> Value:
    """The score of the explained class at the baseline, from a replica of the forward part."""
    op, question = build.op, build.question
    prefix = op.apart("baseline")
    view = replica(question.model, question.x.name, [question.start.name], prefix)
    full = like_shape(op, baseline, question.x) if baseline.static != question.x.static else baseline
    replay(op, view, f"{prefix}/{question.x.name}", op.Expand(full, shape_of(op, question.x)) if full is baseline else full)
    rows = scores(op, question, view.value(f"{prefix}/{question.start.name}"))
    return recast(op, score_of(op, rows, build.head.chosen), signal_type(question.start), op.dtype)
