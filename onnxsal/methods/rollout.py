"""Attention followed through the layers: its matrices multiplied, weighted by the gradient (Chefer) or as they are (rollout).

Neither divides the score up, so neither keeps a law, and no residual is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxsal.ask.attended import Attended, attended
from onnxsal.backward.book import Book
from onnxsal.engine.plan import make_plan, refuse_graphs
from onnxsal.engine.traverse import traverse
from onnxsal.errors import PlanError
from onnxsal.facts.attention import AttentionLayer
from onnxsal.facts.axes import layouts
from onnxsal.facts.wild import wild_tensors
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import add_up, as_compute, cast, dim_of, recast, shape_of, signal_type
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import emit_seed
from onnxsal.methods.maps import share_among_channels, upsample

_LEAST = 1e-30
"""Below this all rows count as read by nobody."""

Matrix = Callable[[AttentionLayer], Value]
"""The attention of one softmax, averaged over its heads [N, L, L]."""


class _Tokens:
    """Attention tensors, and tensors of tokens, with the samples in front."""

    def __init__(self, build: Build) -> None:
        self.build, self.op, question = build, build.op, build.question
        self.known: Attended = attended(question)
        build.found += self.known.found_out()
        path = self.known.path
        refuse_graphs(build.method.name, path, "attention inside of them would be left out")
        self.book = Book(
            question.x if question.batched else None, layouts(question.model, question.x, path, batched=question.batched, picture=None)
        )

    def gradients(self, names: Sequence[str]) -> dict[str, Value]:
        """d score / d tensor, for each of ``names``, in the compute type of the attribution."""
        build, op, question = self.build, self.op, self.build.question
        start = question.start.name
        plan = make_plan(question.model, build.method, names, [start])
        build.plans[build.method.name, start, "\n".join(names)] = plan
        seed = emit_seed(op, question, question.start, build.head.chosen)
        signals = traverse(op, plan, {start: seed})
        return {name: recast(op, g, signal_type(question.model.value(name)), op.dtype) for name, g in signals.items()}

    def numbers(self, name: str) -> Value:
        """A tensor of the model in the compute type of the attribution."""
        value = self.build.question.model.value(name)
        return recast(self.op, as_compute(self.op, value), signal_type(value), self.op.dtype)

    def mean(self, value: Value, name: str, kept: Sequence[int]) -> Value:
        """The mean of a tensor laid out like ``name`` over all but the samples and the axes ``kept`` -> [N, *kept]."""
        op, like = self.op, self.build.question.model.value(name)
        samples = None if self.book.alone else self.book.layout(like)
        if samples is not None and (samples.runs or samples.samples in kept):
            raise PlanError(f"the samples in '{name}' are not in front of what belongs to them. Export the model with a batch of 1.")
        front = [] if samples is None or samples.samples is None else [samples.samples]
        order = [*front, *(a for a in range(like.rank) if a not in (*front, *kept)), *kept]
        moved = value if order == list(range(like.rank)) else op.Transpose(value, perm=order)
        x = self.build.question.x
        count = op.const([1]) if samples is None else dim_of(op, x, 0)
        sizes = [op.const([size]) if (size := like.dim(a)) is not None else dim_of(op, like, a) for a in kept]
        return op.ReduceMean(op.Reshape(moved, op.Concat(count, [-1], *sizes, axis=0)), [1], keepdims=0)

    def rows(self, gradient: Value) -> Value:
        """The share of each token in what the scores read of the last tensor of tokens -> [N, 1, L]; all shares of a sample add up to 1.

        ``read``: equal shares of the tokens that add anything to the score (a token is 0, or its gradient is, where it is masked or not
        looked at). ``contribution``: in proportion to sum_d max(h g, 0).
        """
        op, last, axis = self.op, self.known.last, self.known.rows
        added = op.Mul(self.numbers(last.name), gradient)
        if self.build.settings["rows"] == "contribution":
            share = self.mean(op.Relu(added), last.name, [axis])
        else:
            share = cast(op, op.Greater(self.mean(op.Abs(added), last.name, [axis]), 0.0))
        total = op.ReduceSum(share, [1], keepdims=1)
        return op.Unsqueeze(op.Div(share, op.Max(total, _LEAST)), [1])

    def result(self, row: Value) -> Result:
        """A number per token [N, 1, L], as an attribution of the explained tensor: shared equally among what belongs to a token."""
        build, op, x, known = self.build, self.op, self.build.question.x, self.known
        scores = op.Squeeze(row, [1])
        build.component(f"{build.method.name}/tokens", lambda: scores, 2)
        if known.grid is not None:
            grid = op.Gather(scores, op.const(list(known.grid.order)), axis=1)
            coarse = op.Reshape(grid, [0, 1, *known.grid.sizes])
            map_ = op.Squeeze(upsample(build, op, coarse), [1])
            return Result(share_among_channels(build, map_), None, map_)
        samples = 0 if build.question.batched else None
        others = [a for a in range(x.rank) if a not in (samples, known.tokens)]
        scores = scores if samples == 0 else op.Squeeze(scores, [0])
        wide = op.Expand(op.Unsqueeze(scores, others) if others else scores, shape_of(op, x))
        known_sizes = [size for a in others if (size := x.dim(a)) is not None]
        if len(known_sizes) == len(others):
            return Result(op.Div(wide, float(math.prod(known_sizes))))
        return Result(op.Div(wide, op.Div(cast(op, op.Size(wide)), cast(op, op.Size(scores)))))


def _sides(op: Emit, tokens: _Tokens, matrix: Matrix) -> list[Value]:
    """The matrix of every layer, from the last to the first: the mean over softmaxes that stand side by side."""
    found = []
    for side in reversed(tokens.known.layers):
        matrices = [matrix(layer) for layer in side]
        found.append(matrices[0] if len(matrices) == 1 else op.Mul(add_up(op, matrices), 1.0 / len(matrices)))
    return found


def _weights(tokens: _Tokens, layer: AttentionLayer) -> Value:
    """The probabilities; those of rows in which everything is masked, which are no numbers, are 0."""
    weights = tokens.numbers(layer.weights)
    wild = layer.weights in wild_tensors(tokens.build.question.model)
    return tokens.op.Where(tokens.op.IsNaN(weights), 0.0, weights) if wild else weights


def _axes(layer: AttentionLayer) -> list[int]:
    if layer.query is None or layer.key is None:
        raise PlanError(f"{layer.softmax.label}: which of its axes are queries and keys does not follow from the graph.")
    return [layer.query, layer.key]


@wrap("chefer")
def chefer(build: Build) -> Result:
    """``A_l = mean over heads of max(g A, 0)``, g the gradient of the score at the probabilities A; ``R = (I + A_L) ... (I + A_1)``; the
    attribution is the row of R that the score reads, or the mean of these rows. Chefer et al. 2021, arXiv 2103.15679 (rule for
    self-attention). Component ``chefer/tokens`` [N, L]: one number per token, class tokens included.
    """
    op, tokens = build.op, _Tokens(build)
    names = [layer.weights for side in tokens.known.layers for layer in side]
    gradients = tokens.gradients(list(dict.fromkeys([*names, tokens.known.last.name])))

    def matrix(layer: AttentionLayer) -> Value:
        weights = _weights(tokens, layer)
        product = op.Relu(op.Mul(weights, gradients[layer.weights]))
        return tokens.mean(op.Where(op.Equal(weights, 0.0), 0.0, product), layer.weights, _axes(layer))

    row = tokens.rows(gradients[tokens.known.last.name])
    for layer in _sides(op, tokens, matrix):
        row = op.Add(row, op.MatMul(row, layer))
    return tokens.result(row)


@wrap("attention_rollout", asks_class=False)
def attention_rollout(build: Build) -> Result:
    """``C = (I + A_L) / 2 ... (I + A_1) / 2`` with A_l the mean over heads of the probabilities; the attribution is the row of C that the
    score reads, or the mean of these rows: it does not depend on the class. Abnar and Zuidema 2020, arXiv 2005.00928. Component
    ``attention_rollout/tokens`` [N, L].
    """
    op, tokens = build.op, _Tokens(build)
    row = tokens.rows(tokens.gradients([tokens.known.last.name])[tokens.known.last.name])
    for layer in _sides(op, tokens, lambda layer: tokens.mean(_weights(tokens, layer), layer.weights, _axes(layer))):
        row = op.Mul(op.Add(row, op.MatMul(row, layer)), 0.5)
    return tokens.result(row)
