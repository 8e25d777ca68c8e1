"""Shapley values: what each group of elements adds to the score, averaged over the orders in which groups may come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxsal.errors import MethodError
from onnxsal.graph import FLOATS, Emit, Value
from onnxsal.graph.assemble import Port
from onnxsal.graph.helpers import cast, zeros_like
from onnxsal.graph.infer import shape_text
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.elements import Size, as_number, as_row, as_scalar, plus, times
from onnxsal.methods.groups import Groups
from onnxsal.methods.points import Points, Samples, Scored, sampled_scores
from onnxsal.methods.several import Replaced, also_return, replaced_of
from onnxsal.methods.smooth import hashed
from onnxsal.settings import numbers_of, shown

FEW, MOST = 12, 20
"""So many groups are enumerated where nothing is asked for, and at most."""


@dataclass(frozen=True)
class References:
    """What absent groups are replaced by: ``count`` rows, of which ``row(body, numbers)`` gives some, broadcastable to [c, N, ...].

    ``built_in`` is how many there are where none are fed.
    """

    count: Size
    row: Callable[[Emit, Value], Value]
    built_in: int = 1


@wrap("shapley_sampling", starts="nothing", integers=True, estimates=True, keeps="completeness")
def shapley_sampling(build: Build) -> Result:
    """``phi_g = sum over coalitions S without g of |S|! (G - |S| - 1)! / G! (v(S + g) - v(S))``, v(S) the mean score where the groups
    of S are those of x and the others those of a row of the background. Castro, Gomez and Tejada 2009.

    Exact, over all coalitions, of up to 12 groups; else the mean over random orders of what each group adds when it comes, each row of the
    background met equally often. ``standard_error`` is that of this mean (0 where it is exact). A group's value is shared equally among its
    elements, so the attribution sums to f(x) - v(nothing), to rounding in both; residual: the relative error of that, with v(nothing) from
    runs of their own. Of other inputs that ``with_inputs`` names the attributions are outputs ``attribution/<input>``, which belong to that
    sum. Component ``shapley_sampling/values`` [N, groups].
    """
    op, replaced = build.op, replaced_of(build)
    groups, others = replaced[0].groups, replaced[1:]
    exact = _is_exact(build, groups)
    game = Game(replaced, _all_references(build, replaced))
    values, error, empty = (enumerated if exact else sampled)(build, game)
    build.component("shapley_sampling/values", lambda: values, 2)
    shared = op.Div(values, op.Max(groups.sizes, 1.0))
    attribution = groups.spread(build, shared)
    gained = op.Sub(build.head.score, empty)
    residual = build.relative_error(op.ReduceSum(values, [1], keepdims=0), gained)
    if error is not None:
        build.component("shapley_sampling/standard_error", lambda: error, 2)
    spread = zeros_like(op, build.question.x) if error is None else groups.spread(build, op.Div(error, op.Max(groups.sizes, 1.0)))
    also_return(build, others, "attribution", shared)
    if error is not None:
        also_return(build, others, "standard_error", op.Div(error, op.Max(groups.sizes, 1.0)))
    picture = build.question.picture
    pixels = None if picture is None else attribution if picture[0] is None else op.ReduceSum(attribution, [picture[0]], keepdims=0)
    return Result(attribution, residual, pixels, standard_error=spread)


def _is_exact(build: Build, groups: Groups) -> bool:
    """As the setting ``exact`` says, which from here on is true or false."""
    asked, count = build.settings["exact"], groups.count
    few = isinstance(count, int) and count <= FEW
    if asked is True and not (isinstance(count, int) and count <= MOST):
        told = (
            f"{count} groups have {2**count:,}"
            if isinstance(count, int)
            else "the number of groups is known only at run time, so is that of"
        )
        raise MethodError(f"method 'shapley_sampling': exact: {told} coalitions; of up to {MOST} groups all are evaluated.")
    build.settings["exact"] = few if asked == "auto" else asked
    return bool(build.settings["exact"])


# ----- what is absent -----


@dataclass(frozen=True)
class Game:
    """The inputs whose groups come and go, and what each is replaced by."""

    replaced: Sequence[Replaced]
    references: Sequence[References]

    @property
    def groups(self) -> Groups:
        return self.replaced[0].groups

    @property
    def rows(self) -> Size:
        return self.references[0].count

    def points(self, number: int, drawn: Callable[[Emit, Value], tuple[Value, Value]]) -> Points:
        """Of one input, where ``drawn`` says which groups are present [c, G] and what row the others are from [c]."""
        one, references = self.replaced[number], self.references[number]

        def points(body: Emit, numbers: Value) -> Value:
            present, row = drawn(body, numbers)
            return body.Where(one.groups.mask(body, present), one.x, references.row(body, row))

        return points

    def beside(self, drawn: Callable[[Emit, Value], tuple[Value, Value]]) -> dict[str, Points]:
        """Of all inputs but the first."""
        return {one.name: self.points(i, drawn) for i, one in enumerate(self.replaced) if i}


def _all_references(build: Build, replaced: Sequence[Replaced]) -> list[References]:
    """Those of each input; of a background as many rows in each. The record tells the shapes; the rows themselves are in the file."""
    given, found, shapes = build.settings["background"], [], {}
    for one in replaced:
        found.append(references_of(one.build))
        shapes[one.name] = one.build.settings["background"]
    if len({one.built_in for one in found}) > 1:
        told = ", ".join(f"{one.name} {reference.built_in}" for one, reference in zip(replaced, found, strict=True))
        raise MethodError(f"method 'shapley_sampling': the background has a different number of rows for each input ({told}).")
    build.settings["background"] = dict(shapes) if isinstance(given, Mapping) else shapes[replaced[0].name]
    return found


def references_of(build: Build) -> References:
    """The rows of the setting ``background``, [B, ...] with the shape of a sample behind, or else the one reference ``baseline``."""
    given = build.settings["background"]
    if isinstance(given, str) and not given:
        value = build.baseline()
        return References(1, lambda body, numbers: value)
    if not isinstance(base := build.settings["baseline"], str) or base:
        raise MethodError("method 'shapley_sampling': baseline and background both say what stands in for absent groups; give one of them.")
    rows = _background(build, given)
    count: Size = rows.static[0] if rows.static is not None else build.op.Squeeze(build.op.Shape(rows, end=1), [0])

    def row(body: Emit, numbers: Value) -> Value:
        picked = body.Gather(rows, numbers)
        return body.Unsqueeze(picked, [1]) if build.question.batched else picked

    return References(count, row, len(build.inputs[-1].default))  # type: ignore[arg-type]


def _background(build: Build, given: Any) -> Value:
    """The tensor ``background``: a constant, or an optional input of any number of rows."""
    x, array = build.question.x, numbers_of(given)
    sizes = (x.shape or ())[1 if build.question.batched else 0 :]
    kind = build.op.dtype if x.dtype in FLOATS else TensorProto.INT64
    fits = array is not None and array.ndim == len(sizes) + 1 and len(array) > 0
    if array is None or not fits or any(isinstance(d, int) and d != n for d, n in zip(sizes, array.shape[1:], strict=True)):
        raise MethodError(
            f"method 'shapley_sampling': background={shown(given)} is no array of samples like those of '{x.name}' "
            f"{shape_text(x.shape)}: rows first, then the axes of a sample."
        )
    if not np.isfinite(array.astype(np.float64)).all() or (kind == TensorProto.INT64 and (array != np.round(array)).any()):
        raise MethodError(f"method 'shapley_sampling': background={shown(given)} holds what '{x.name}' cannot hold.")
    array = np.ascontiguousarray(array.astype(np.int64 if kind == TensorProto.INT64 else build.op.np_dtype))
    build.settings["background"] = list(array.shape)  # the record tells its shape; the rows themselves are in the file
    shape = tuple(f"background_{i}" for i in range(array.ndim)) if build.optional else array.shape
    value = Value(build.name("background"), kind, shape)
    build.inputs.append(Port(value, kind, shape, array, build.optional))
    return value


# ----- all coalitions -----


def enumerated(build: Build, game: Game) -> tuple[Value, None, Value]:
    """(values [N, G], no error, v(nothing) [N]): one run for each coalition and row, each weighed for every group."""
    op, count, rows = build.op, game.groups.count, game.rows
    assert isinstance(count, int)
    inside = np.asarray([0.0, *(factorial(s - 1) * factorial(count - s) / factorial(count) for s in range(1, count + 1))])
    outside = np.asarray([*(factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)), 0.0])

    def coalitions(body: Emit, numbers: Value) -> Value:
        bits = body.Div(body.Unsqueeze(body.Div(numbers, rows), [1]), body.const(2 ** np.arange(count)[None]))
        return body.Equal(body.Mod(bits, 2), 1)

    def drawn(body: Emit, numbers: Value) -> tuple[Value, Value]:
        return body.cached("coalitions", lambda: coalitions(body, numbers)), body.Mod(numbers, rows)

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        body = chunk.body
        present = body.cached("coalitions", lambda: coalitions(body, chunk.numbers))
        size = body.ReduceSum(body.Cast(present, to=TensorProto.INT64), [1], keepdims=1)
        given, taken = (body.Gather(body.const(w.astype(body.np_dtype)), size) for w in (inside, outside))
        weights = body.Where(present, given, body.Neg(taken))
        moved = _moved(build, chunk)
        return [body.Add(states[0], body.MatMul(moved, weights)), _with_empty(body, states[1], moved, chunk.numbers, rows)]

    zero = op.Mul(build.head.score, 0.0)
    start = op.Expand(op.Unsqueeze(zero, [1]), op.const([1, count]))
    everything = 2**count
    what = f"of {everything:,} coalitions of {count} groups (all of them: exact){_of_rows(rows)}"
    samples = Samples(times(op, [everything, rows]), what)
    total, empty = sampled_scores(build, samples, game.points(0, drawn), [start, zero], update, beside=game.beside(drawn))
    return _over(op, total, rows), None, op.Add(build.head.score, _over(op, empty, rows))


def _of_rows(rows: Size) -> str:
    return (
        "" if rows == 1 else f" and each of {rows} rows of the background" if isinstance(rows, int) else " and each row of the background"
    )


def _with_empty(body: Emit, total: Value, moved: Value, numbers: Value, rows: Size) -> Value:
    """The sum of what the first runs say [N, c], in which every group is absent, one for each row."""
    first = cast(body, body.Less(numbers, rows))
    return body.Add(total, body.ReduceSum(body.Mul(moved, body.Unsqueeze(first, [0])), [1], keepdims=0))


def _over(op: Emit, total: Value, rows: Size) -> Value:
    return total if isinstance(rows, int) and rows == 1 else op.Div(total, as_number(op, rows))


# ----- random orders -----

_KEY = 2**31
"""Hashes times this, plus the group's number: below 2^63, and no two alike in one order."""


@dataclass(frozen=True)
class Draws:
    """Some runs [c]: which groups are ``present`` [c, G], the one that was taken ``out`` last (-1: none), whether it was the ``first`` of
    its order, and the ``row`` of the background."""

    present: Value
    out: Value
    first: Value
    row: Value


def _drawn(body: Emit, numbers: Value, groups: Groups, rows: Size, seed: Value) -> Draws:
    """After one run for each row of the background with every group absent, run e of an order replaces the groups that come last, one more
    in each run.
    """
    count, run = groups.count, body.Sub(numbers, rows)
    begun, run = body.GreaterOrEqual(run, 0), body.Max(run, 0)
    order, place = body.Div(run, count), body.Sub(body.Sub(count, 1), body.Mod(run, count))
    noise = hashed(body, order, as_scalar(body, count), seed)
    keys = body.Add(body.Mul(noise, _KEY), body.Unsqueeze(groups.numbers(body), [0]))
    ranked, coming = body.TopK(keys, as_row(body, count), axis=1, outputs=2)
    at = body.Unsqueeze(place, [1])
    present = body.And(body.Greater(keys, body.GatherElements(ranked, at, axis=1)), body.Unsqueeze(begun, [1]))
    out = body.Squeeze(body.GatherElements(coming, at, axis=1), [1])
    first = body.Equal(place, body.Sub(count, 1))
    return Draws(present, body.Where(begun, out, -1), first, body.Where(begun, body.Mod(order, rows), numbers))


def sampled(build: Build, game: Game) -> tuple[Value, Value, Value]:
    """(means [N, G], their standard errors, v(nothing) [N]).

    What a group adds is the score of the run before it was taken out less that of the run after: one score is all that is carried from
    chunk to chunk.
    """
    op, groups, rows, count = build.op, game.groups, game.rows, game.groups.count
    seed, asked = op.const(int(build.settings["seed"])), int(build.settings["n_samples"])
    orders, build.settings["n_samples"] = _orders(op, asked, rows), _orders(op, asked, game.references[0].built_in)

    def drawn(body: Emit, numbers: Value) -> Draws:
        return body.cached("drawn", lambda: _drawn(body, numbers, groups, rows, seed))

    def present(body: Emit, numbers: Value) -> tuple[Value, Value]:
        now = drawn(body, numbers)
        return now.present, now.row

    def update(chunk: Scored, states: Sequence[Value]) -> list[Value]:
        body, (last, empty, *moments), now = chunk.body, states, drawn(chunk.body, chunk.numbers)
        moved = _moved(build, chunk)
        before = body.Concat(body.Unsqueeze(last, [1]), body.Slice(moved, [0], [-1], [1]), axis=1)
        added = body.Sub(body.Where(body.Unsqueeze(now.first, [0]), 0.0, before), moved)
        left = body.Squeeze(body.Slice(moved, [-1], [2**31], [1]), [1])
        hot = cast(body, groups.one_hot(body, now.out))
        return [left, _with_empty(body, empty, moved, chunk.numbers, rows), *_moments(body, added, hot, moments)]

    zero = op.Mul(build.head.score, 0.0)
    nothing = op.ConstantOfShape(as_row(op, count), value=helper.make_tensor("zero", op.dtype, [1], [0.0]))
    start = op.Expand(op.Unsqueeze(zero, [1]), op.Concat(op.const([1]), as_row(op, count), axis=0))
    told = f"{count} groups" if isinstance(count, int) else f"groups, each a {groups.what}"
    what = f"prefix of each of {build.settings['n_samples']:,} random orders of {told}{_of_rows(rows)} alone"
    samples = Samples(plus(op, times(op, [orders, count]), rows), what)
    states, others = [zero, zero, start, start, nothing], game.beside(present)
    _, empty, mean, squares, seen = sampled_scores(build, samples, game.points(0, present), states, update, beside=others)
    variance = op.Div(squares, op.Max(op.Mul(seen, op.Sub(seen, 1.0)), 1.0))
    return mean, op.Sqrt(variance), op.Add(build.head.score, _over(op, empty, rows))


def _moved(build: Build, chunk: Scored) -> Value:
    """How far each run's score is from that of the input itself, [N, c]: sums of small numbers round less."""
    body = chunk.body
    return body.Transpose(body.Sub(chunk.scores, body.Unsqueeze(build.head.score, [0])), perm=[1, 0])


def _orders(op: Emit, asked: int, rows: Size) -> Size:
    """As many orders as are asked for, or a few more: each row of the background is met equally often."""
    if isinstance(rows, int):
        return -(-asked // rows) * rows
    return op.Mul(op.Div(op.Add(op.Sub(rows, 1), asked), rows), rows)


def _moments(body: Emit, added: Value, hot: Value, states: Sequence[Value]) -> list[Value]:
    """Running mean and sum of squared deviations [N, G] of each group, and how often it was seen [G], by Chan's update.

    ``added`` [N, c] is what the groups of ``hot`` [c, G] add.
    """
    mean, squares, before = states
    now = body.ReduceSum(hot, [0], keepdims=0)
    often = body.Max(now, 1.0)
    found = body.Div(body.MatMul(added, hot), often)
    apart = body.Sub(added, body.MatMul(found, body.Transpose(hot, perm=[1, 0])))
    within = body.MatMul(body.Mul(apart, apart), hot)
    after = body.Add(before, now)
    share = body.Div(now, body.Max(after, 1.0))
    moved = body.Where(body.Greater(now, 0.0), body.Sub(found, mean), 0.0)
    between = body.Mul(body.Mul(moved, moved), body.Mul(before, share))
    return [body.Add(mean, body.Mul(moved, share)), body.Add(squares, body.Add(within, between)), after]
