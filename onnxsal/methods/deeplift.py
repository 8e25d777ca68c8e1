"""DeepLIFT: the score's difference from that of a reference input, split among the input's elements."""

from __future__ import annotations

from onnxsal.backward.walk import Walk
from onnxsal.engine.traverse import traverse
from onnxsal.errors import MethodError
from onnxsal.graph.helpers import like_shape, recast, signal_type
from onnxsal.graph.replay import dependents, replay, replica
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
    reference = like_shape(op, build.baseline(), x)
    view = replica(question.model, x.name, [start.name], prefix)
    replay(op, view, f"{prefix}/{x.name}", reference)
    twins = zip(dependents(question.model, x.name, [start.name]), view.nodes, strict=True)
    op.walk = Walk(reference={n.index: twin for n, twin in twins})
    seed = emit_seed(op, question, start, build.head.chosen)
    multipliers = traverse(op, plan, {start.name: seed})[x.name]
    moved = op.Sub(x, reference)
    attribution = build.contribution(op.Mul(multipliers, moved), moved)
    rows = scores(op, question, view.value(f"{prefix}/{start.name}"))
    before = recast(op, score_of(op, rows, build.head.chosen), signal_type(start), op.dtype)
    return Result(attribution, build.relative_error(build.sum_per_sample(attribution), op.Sub(build.head.score, before)))
