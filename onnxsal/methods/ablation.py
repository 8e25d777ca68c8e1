"""Feature ablation: what the score loses when one group of elements after the other is replaced."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsal.graph import Value
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.perturb import LAST
from onnxsal.methods.points import Points, Samples, Scored, sampled_scores
from onnxsal.methods.several import Replaced, also_return, replaced_of


@wrap("feature_ablation", starts="nothing", integers=True)
def feature_ablation(build: Build) -> Result:
    """``A_i = f(x) - f(x with the group of element i replaced by the baseline)``: each element of a group has all that the group tells.

    Groups are columns of a table, tokens, the cells of a grid over a picture, or what the setting ``groups`` says. The map of a picture is
    the mean over its channels. Of other inputs that ``with_inputs`` names the attributions are outputs ``attribution/<input>``. Components
    [N, groups]: ``feature_ablation/drop``, and ``feature_ablation/score``, the score left.
    """
    op, (first, *others) = build.op, replaced_of(build)
    groups = first.groups

    def hidden(one: Replaced) -> Points:
        value = one.build.baseline()
        return lambda body, numbers: body.Where(one.groups.mask(body, groups.one_hot(body, numbers)), value, one.x)

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        return [chunk.body.Concat(states[0], chunk.scores, axis=0)]

    clean = op.Unsqueeze(build.head.score, [0])  # a first row, so that the state is never empty
    samples = Samples(groups.count, groups.what)
    beside = {one.name: hidden(one) for one in others}
    (rows,) = sampled_scores(build, samples, hidden(first), [clean], update, beside=beside)
    left = op.Transpose(op.Slice(rows, [1], [LAST], [0]), perm=[1, 0])
    drop = op.Sub(op.Unsqueeze(build.head.score, [1]), left)
    build.component("feature_ablation/drop", lambda: drop, 2)
    build.component("feature_ablation/score", lambda: left, 2)
    also_return(build, others, "attribution", drop)
    attribution, picture = groups.spread(build, drop), build.question.picture
    map_ = None if picture is None else attribution if picture[0] is None else op.ReduceMean(attribution, [picture[0]], keepdims=0)
    return Result(attribution, None, map_)
