"""DeepLIFT: the score's difference from that of a reference input, split among the input's elements."""

from __future__ import annotations

from onnxsal.backward.walk import Walk
from onnxsal.engine.traverse import traverse
from onnxsal.errors import MethodError
from onnxsal.graph import Model, Value
from onnxsal.graph.helpers import like_shape, recast, signal_type
from onnxsal.graph.replay import dependents, reads_inputs, replay, replica
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import emit_seed, score_of, scores


@wrap("deeplift", keeps="summation to delta")
def deeplift(build: Build) -> Result:
    """``A = m (x - x0)`` with multipliers m; residual ``|sum A - (f(x) - f(x0))| / |f(x) - f(x0)|`` (summation to delta).

    The reference x0 is the tensor ``baseline``; the class is that of the input.
    """
    op, question = build.op, build.question
    if question.squash:
        raise MethodError("deeplift explains differences of a logit; a probability is no function that its rules know. Use score=logit.")
    x, start = question.x, question.start
    plan = build.plan()
    plan.refuse_graphs("the reference may run other graphs, or other steps, than the input does")
    prefix = op.apart("reference")
    view = replica(question.model, x.name, [start.name], prefix)
    reference = _reference(build, build.baseline(), view)
    replay(op, view, f"{prefix}/{x.name}", reference)
    twins = zip(dependents(question.model, x.name, [start.name]), view.nodes, strict=True)
    op.walk = Walk(reference={n.index: twin for n, twin in twins})
    seed = emit_seed(op, question, start, build.head.chosen)
    multipliers = traverse(op, plan, {start.name: seed})[x.name]
    moved = op.Sub(x, reference)
    attribution = build.contribution(op.Mul(multipliers, moved), moved)
    rows = scores(op, question, view.value(f"{prefix}/{start.name}"))
    rows = op.Expand(rows, op.Concat(op.Shape(build.head.chosen.target), [1], axis=0))
    before = recast(op, score_of(op, rows, build.head.chosen), signal_type(start), op.dtype)
    return Result(attribution, build.relative_error(build.sum_per_sample(attribution), op.Sub(build.head.score, before)))


def _reference(build: Build, baseline: Value, view: Model) -> Value:
    """The reference x0 as the model is fed with it: one sample for all, or as many as the baseline has rows. The rules compare it with
    every sample; where it is a constant, ONNX Runtime runs the model on it when it loads.

    One for each sample where the model's batch is fixed, or where it reads another input, which has a row for each.
    """
    op, question = build.op, build.question
    x = question.x
    if not question.batched or question.fixed_batch or reads_inputs(question.model, view):
        return like_shape(op, baseline, x)
    tail = [d for d in (x.shape or ())[1:] if isinstance(d, int)]
    whole = op.const([1, *tail]) if len(tail) == x.rank - 1 else op.Concat([1], op.Shape(op.raw(x), start=1), axis=0)
    return op.Expand(baseline, whole)
