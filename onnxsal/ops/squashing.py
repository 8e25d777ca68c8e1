"""What a tensor says about scores: that it is their softmax or sigmoid, the logarithm of one, or a part of one that is written out.

Every operator registers its rule as ``head=``; ``facts/heads.py`` solves them. A rule may only say what holds for every input: it knows
formulas, never how one exporter names or orders its nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from onnxsal.graph import FLOATS, NodeView, Value
from onnxsal.graph.helpers import axes_of


class Kind(StrEnum):
    """The function of the scores u that a tensor holds."""

    SOFTMAX = "softmax"
    LOG_SOFTMAX = "log_softmax"
    SIGMOID = "sigmoid"
    LOG_SIGMOID = "log_sigmoid"
    SCORES = "scores"
    """u itself, or u less its largest along the axis."""
    LARGEST = "largest"
    """max u along the axis."""
    EXP = "exp"
    SUM = "sum"
    """sum exp(u) along the axis."""
    INVERSE = "inverse"
    """1 / sum exp(u) along the axis."""
    LOG_SUM = "log_sum"
    ONE_PLUS = "one_plus"
    """1 + exp(u)."""
    SOFTPLUS = "softplus"
    """log(1 + exp(u))."""
    ONE = "one"
    """The sum of their softmax along its axis."""
    TANH = "tanh"
    """level + slope tanh(u)."""


FINAL = {Kind.SOFTMAX: Kind.SOFTMAX, Kind.LOG_SOFTMAX: Kind.SOFTMAX, Kind.SIGMOID: Kind.SIGMOID, Kind.LOG_SIGMOID: Kind.SIGMOID}
"""What scores are squashed by for good -> the function that makes probabilities of them."""

_ALONG = (Kind.LARGEST, Kind.SUM, Kind.INVERSE, Kind.LOG_SUM, Kind.ONE)
"""Kinds that are constant along the axis."""

Spellings = tuple[tuple[str, float], ...]
"""(tensor, factor): the scores are each tensor times its factor; the first one is nearest."""


@dataclass(frozen=True)
class Squashed:
    """A tensor as a function of scores.

    ``axis`` is that of the classes, in the scores' own order; ``shifted`` tells that the scores stand less their largest along it, which
    changes no softmax. The tensor is ``height`` times the function (nan: a clip stands between, which keeps the order, not the values).
    ``perm`` is the order of axes behind Transposes (empty: the scores' own), ``reshaped`` tells that elements were regrouped, ``spread``
    that what was summed or maximised along the axis was copied along it again. Without ``scores`` nobody knows where they are.
    """

    kind: Kind
    scores: Spellings
    axis: int | None = None
    shifted: bool = False
    height: float = 1.0
    level: float = 0.0
    slope: float = 1.0
    perm: tuple[int, ...] = ()
    reshaped: bool = False
    spread: bool = False

    @property
    def exact(self) -> bool:
        """Whether the values are those of the function, and not only in the same order."""
        return math.isclose(self.height, 1.0, rel_tol=1e-6)

    @property
    def logits(self) -> str:
        """The tensor that holds the scores, up to ``factor`` ('' = not known)."""
        return self.scores[0][0] if self.scores else ""

    @property
    def factor(self) -> float:
        """What the tensor must be multiplied by to be the scores."""
        return self.scores[0][1] if self.scores else 1.0


SquashedOf = Callable[[int], Squashed | None]
HeadRule = Callable[[NodeView, SquashedOf], Squashed | None]
"""(node, what is known of its input i) -> what its first output is."""


# ----- what the rules are made of -----


def _scores(node: NodeView, i: int, of: SquashedOf) -> Squashed:
    """Input i as scores: what is known of how they are made, else the tensor itself."""
    fact = of(i)
    return fact if fact is not None and fact.kind == Kind.SCORES else Squashed(Kind.SCORES, ((node.proto.input[i], 1.0),))


def _pure(fact: Squashed | None, *kinds: Kind) -> Squashed | None:
    """The fact, if it is exactly one of these functions, in the scores' own order."""
    return fact if fact is not None and fact.kind in kinds and fact.exact and not fact.perm and not fact.reshaped else None


def _as_sigmoid(fact: Squashed, factor: float, kind: Kind = Kind.SIGMOID) -> Squashed:
    """The sigmoid of ``factor`` u: the tensor that is factor u, where one has a name, else the nearest one with its factor."""
    spelled = [(name, factor * own) for name, own in fact.scores]
    best = next((s for s in spelled if math.isclose(s[1], 1.0, rel_tol=1e-6)), None)
    return Squashed(kind, ((best[0], 1.0),) if best else (spelled[0],))


def _scaled(node: NodeView, i: int, of: SquashedOf, factor: float) -> Squashed | None:
    """Input i times a number: of scores another spelling, of a tanh another slope, of a probability, if positive, the same order."""
    fact = of(i)
    if fact is None or (fact.kind == Kind.SCORES and not fact.shifted):
        before = _scores(node, i, of).scores
        return Squashed(Kind.SCORES, ((node.proto.output[0], 1.0), *((name, factor * own) for name, own in before)))
    if fact.kind == Kind.TANH:
        return _bounded_tanh(replace(fact, level=factor * fact.level, slope=factor * fact.slope))
    return replace(fact, height=factor * fact.height) if fact.kind in FINAL and factor > 0 else None


def _bounded_tanh(fact: Squashed) -> Squashed:
    """a + b tanh(u): with |a| = |b| it is 2a sigmoid(2u), or 2a sigmoid(-2u)."""
    if fact.level > 0 and math.isclose(fact.level, abs(fact.slope), rel_tol=1e-6):
        return replace(_as_sigmoid(fact, math.copysign(2.0, fact.slope)), height=2 * fact.level)
    return fact


def _number(node: NodeView, i: int) -> float | None:
    """Input i as a number: a constant with the same value everywhere that does not stretch the other operand."""
    value, other = node.optional(i), node.optional(1 - i)
    if value is None or other is None or value.shape is None or other.shape is None or len(value.shape) > len(other.shape):
        return None
    if value.static is None or (math.prod(value.static) != 1 and value.static != other.static):
        return None
    array = node.const(i)
    if array is None or not array.size or array.dtype.kind not in "fiu":
        return None
    first = float(array.reshape(-1)[0])
    return first if array.size == 1 or bool(np.all(array == array.reshape(-1)[0])) else None


def _operands(node: NodeView, i: int, of: SquashedOf) -> tuple[float, Squashed | None] | None:
    """The number at input i and what is known of the other operand."""
    number = _number(node, i)
    return None if number is None else (number, of(1 - i))


def _same(a: Squashed, b: Squashed) -> bool:
    """Whether two facts are about the same scores."""
    return a.scores[0] == b.scores[0] and a.shifted == b.shifted


def _lined_up(node: NodeView, big: int, small: int, fact: Squashed) -> bool:
    """Whether input ``small``, constant along the fact's axis, is broadcast against input ``big`` along that very axis."""
    x, s = node.input(big), node.input(small)
    if x.shape is None or s.shape is None or len(x.shape) != len(s.shape) or fact.axis is None:
        return False
    others = all(not (isinstance(a, int) and isinstance(b, int)) or a == b for k, (a, b) in enumerate(_pairs(x, s)) if k != fact.axis)
    return others and (fact.spread or s.dim(fact.axis) == 1)


def _pairs(x: Value, s: Value) -> Sequence[tuple[object, object]]:
    return list(zip(x.shape or (), s.shape or (), strict=True))


def _reduced_axis(node: NodeView) -> int | None:
    """The one axis that the node reduces."""
    if node.x.shape is None:
        return None
    axes = axes_of(node, len(node.x.shape), 1)
    return axes[0] if axes is not None and len(axes) == 1 else None


# ----- rules of operators that squash -----


def softmax(node: NodeView, of: SquashedOf) -> Squashed | None:
    """Scores are what it reads; of scores less their largest, or of log-probabilities, those before them."""
    return _softmax(node, of, Kind.SOFTMAX)


def log_softmax(node: NodeView, of: SquashedOf) -> Squashed | None:
    """As Softmax."""
    return _softmax(node, of, Kind.LOG_SOFTMAX)


def _softmax(node: NodeView, of: SquashedOf, kind: Kind) -> Squashed:
    axis = int(node.attr("axis", -1))
    axis = axis % len(node.x.shape) if node.x.shape else axis
    fact = of(0)
    same = _pure(fact, Kind.LOG_SOFTMAX) or (fact if fact is not None and fact.kind == Kind.SCORES and fact.shifted else None)
    if same is not None and same.axis == axis:
        return Squashed(kind, same.scores, axis)
    return Squashed(kind, ((node.proto.input[0], 1.0),), axis)


def sigmoid(node: NodeView, of: SquashedOf) -> Squashed | None:
    """Scores are what it reads."""
    fact = _scores(node, 0, of)
    return Squashed(Kind.SIGMOID, ((node.proto.input[0], 1.0),) if fact.shifted else fact.scores)


def tanh(node: NodeView, of: SquashedOf) -> Squashed | None:
    """0 + 1 tanh(u)."""
    fact = _scores(node, 0, of)
    return None if fact.shifted else Squashed(Kind.TANH, fact.scores)


def softplus(node: NodeView, of: SquashedOf) -> Squashed | None:
    """log(1 + exp(u))."""
    fact = _scores(node, 0, of)
    return None if fact.shifted else Squashed(Kind.SOFTPLUS, fact.scores)


def exp(node: NodeView, of: SquashedOf) -> Squashed | None:
    """exp(u); of a logarithm what it is the logarithm of."""
    powers = {Kind.LOG_SOFTMAX: Kind.SOFTMAX, Kind.LOG_SIGMOID: Kind.SIGMOID, Kind.LOG_SUM: Kind.SUM, Kind.SOFTPLUS: Kind.ONE_PLUS}
    fact = of(0)
    if fact is not None and fact.kind in powers and fact.exact:
        return replace(fact, kind=powers[fact.kind])
    return replace(_scores(node, 0, of), kind=Kind.EXP)


def log(node: NodeView, of: SquashedOf) -> Squashed | None:
    """The logarithm of a probability, or of a part of one."""
    logarithms = {Kind.SOFTMAX: Kind.LOG_SOFTMAX, Kind.SIGMOID: Kind.LOG_SIGMOID, Kind.SUM: Kind.LOG_SUM, Kind.ONE_PLUS: Kind.SOFTPLUS}
    fact = of(0)
    return replace(fact, kind=logarithms[fact.kind]) if fact is not None and fact.kind in logarithms and fact.exact else None


def largest(node: NodeView, of: SquashedOf) -> Squashed | None:
    """max u along one axis."""
    axis, fact = _reduced_axis(node), _scores(node, 0, of)
    return None if axis is None or fact.shifted else Squashed(Kind.LARGEST, fact.scores, axis)


def sum_(node: NodeView, of: SquashedOf) -> Squashed | None:
    """sum exp(u) along one axis; the sum of a softmax along its own."""
    axis, fact, whole = _reduced_axis(node), _pure(of(0), Kind.EXP), _pure(of(0), Kind.SOFTMAX)
    if whole is not None and axis is not None and whole.axis == axis:
        return replace(whole, kind=Kind.ONE)
    if axis is None or fact is None or (fact.shifted and fact.axis != axis):
        return None
    return replace(fact, kind=Kind.SUM, axis=axis)


def log_sum(node: NodeView, of: SquashedOf) -> Squashed | None:
    """log sum exp(u), of exp(u)."""
    fact = sum_(node, of)
    return None if fact is None or fact.kind != Kind.SUM else replace(fact, kind=Kind.LOG_SUM)


def log_sum_exp(node: NodeView, of: SquashedOf) -> Squashed | None:
    """log sum exp(u), of u."""
    axis, fact = _reduced_axis(node), _scores(node, 0, of)
    if axis is None or (fact.shifted and fact.axis != axis):
        return None
    return replace(fact, kind=Kind.LOG_SUM, axis=axis)


# ----- arithmetic -----


def add(node: NodeView, of: SquashedOf) -> Squashed | None:
    """1 + exp(u); a + tanh(u); max u + log sum exp(u - max u)."""
    if len(node.inputs) != 2:
        return None
    for i in (0, 1):
        pair = _operands(node, i, of)
        if pair is not None:
            number, fact = pair
            return _plus(number, fact)
        top, rest = of(i), of(1 - i)
        if _pure(top, Kind.LARGEST) and _pure(rest, Kind.LOG_SUM) and top is not None and rest is not None:
            same = top.scores[0] == rest.scores[0] and top.axis == rest.axis and rest.shifted and node.x.shape == node.input(1).shape
            return replace(rest, shifted=False) if same else None
    return None


def _plus(number: float, fact: Squashed | None) -> Squashed | None:
    if fact is not None and fact.kind == Kind.EXP and not fact.shifted and number == 1:
        return replace(fact, kind=Kind.ONE_PLUS)
    return _bounded_tanh(replace(fact, level=fact.level + number)) if fact is not None and fact.kind == Kind.TANH else None


def subtract(node: NodeView, of: SquashedOf) -> Squashed | None:
    """u - max u; u - log sum exp(u); a - tanh(u); 1 - sigmoid(u) = sigmoid(-u); 0 - u."""
    left, right = of(0), of(1)
    first = _number(node, 0)
    if first is not None:
        return _less(node, first, right, of)
    second = _number(node, 1)
    if second is not None:
        return _plus(-second, left)
    u = _scores(node, 0, of)
    if right is None or right.perm or right.axis is None or u.scores[0] != right.scores[0] or not _lined_up(node, 0, 1, right):
        return None
    if right.kind == Kind.LARGEST and not u.shifted:
        return Squashed(Kind.SCORES, u.scores, right.axis, shifted=True)
    if right.kind == Kind.LOG_SUM and u.shifted == right.shifted and u.axis in (None, right.axis):
        return Squashed(Kind.LOG_SOFTMAX, u.scores[:1], right.axis)
    return None


def _less(node: NodeView, number: float, fact: Squashed | None, of: SquashedOf) -> Squashed | None:
    """number - fact."""
    if fact is not None and fact.kind == Kind.TANH:
        return _bounded_tanh(replace(fact, level=number - fact.level, slope=-fact.slope))
    if number == 1 and (p := _pure(fact, Kind.SIGMOID)) is not None:
        return _as_sigmoid(p, -1.0)
    return negated(node, of, 1) if number == 0 else None


def negated(node: NodeView, of: SquashedOf, i: int = 0) -> Squashed | None:
    """-u; -log(1 + exp(u)) = log sigmoid(-u)."""
    fact = of(i)
    if fact is not None and fact.kind == Kind.SOFTPLUS:
        return _as_sigmoid(fact, -1.0, Kind.LOG_SIGMOID)
    return _scaled(node, i, of, -1.0)


def multiply(node: NodeView, of: SquashedOf) -> Squashed | None:
    """A number times u; exp(u) times 1 / sum exp(u)."""
    for i in (0, 1):
        number = _number(node, i)
        if number:
            return _scaled(node, 1 - i, of, number)
        e, inverse = of(i), of(1 - i)
        if _pure(e, Kind.EXP) and _pure(inverse, Kind.INVERSE) and e is not None and inverse is not None:
            return _normalised(node, i, e, 1 - i, inverse)
    return None


def divide(node: NodeView, of: SquashedOf) -> Squashed | None:
    """u over a number; exp(u) / sum exp(u); a positive number over 1 + exp(u); exp(u) / (1 + exp(u)); a softmax over its sum."""
    above, below = of(0), of(1)
    number = _number(node, 1)
    if number:
        return _scaled(node, 0, of, 1.0 / number)
    if below is None:
        return None
    if below.kind == Kind.ONE_PLUS:
        first = _number(node, 0)
        if first is not None:
            return replace(_as_sigmoid(below, -1.0), height=first) if first > 0 else None
        return _as_sigmoid(below, 1.0) if above is not None and above.kind == Kind.EXP and _same(above, below) else None
    if below.kind == Kind.ONE:
        whole = _pure(above, Kind.SOFTMAX)
        return whole if whole is not None and _same(whole, below) and _lined_up(node, 0, 1, below) else None
    e = _pure(above, Kind.EXP)
    return None if e is None or below.kind != Kind.SUM else _normalised(node, 0, e, 1, below)


def _normalised(node: NodeView, big: int, e: Squashed, small: int, total: Squashed) -> Squashed | None:
    """exp(u) over its sum. Only where the largest was subtracted is it said whose softmax it is: else u may be no more than a step."""
    if not _same(e, total) or not _lined_up(node, big, small, total):
        return None
    return Squashed(Kind.SOFTMAX, e.scores[:1] if e.shifted else (), total.axis)


def reciprocal(node: NodeView, of: SquashedOf) -> Squashed | None:
    """1 / (1 + exp(u)) = sigmoid(-u); 1 / sum exp(u)."""
    fact = of(0)
    if fact is not None and fact.kind == Kind.ONE_PLUS:
        return _as_sigmoid(fact, -1.0)
    return replace(fact, kind=Kind.INVERSE) if fact is not None and fact.kind == Kind.SUM else None


# ----- what passes a fact on -----


def same(node: NodeView, of: SquashedOf) -> Squashed | None:
    """The same values in the same shape."""
    fact = of(0)
    return fact if fact is not None and node.y.dtype in FLOATS | {0} else None


def size(node: NodeView, of: SquashedOf) -> Squashed | None:
    """|p| = p."""
    fact = of(0)
    return fact if fact is not None and fact.kind in (Kind.SOFTMAX, Kind.SIGMOID) else None


def on_a_grid(node: NodeView, of: SquashedOf) -> Squashed | None:
    """Rounded to a grid, or back from it: the same but for the rounding, where one positive scale holds for all elements."""
    fact = of(0)
    if fact is None:
        return None
    scale = node.input(1).static
    return fact if scale is not None and math.prod(scale) == 1 else None


def clipped(node: NodeView, of: SquashedOf) -> Squashed | None:
    """The same order, as long as nothing is cut off."""
    fact = of(0)
    return replace(fact, height=math.nan) if fact is not None and fact.kind in FINAL else None


def reshaped(node: NodeView, of: SquashedOf) -> Squashed | None:
    """The same elements one after the other: of a probability the order stays; what is constant along an axis is lined up again later."""
    fact = of(0)
    if fact is None or (fact.kind not in FINAL and fact.kind not in _ALONG):
        return None
    if fact.kind in _ALONG:
        return replace(fact, spread=False)
    return replace(fact, perm=(), reshaped=True) if in_order(fact.perm, node.x) else None


def expanded(node: NodeView, of: SquashedOf) -> Squashed | None:
    """Copies along the axis that was reduced."""
    fact = of(0)
    if fact is None or fact.kind not in _ALONG or fact.axis is None or node.x.shape is None or node.y.shape is None:
        return None
    return replace(fact, spread=True) if len(node.x.shape) == len(node.y.shape) and node.x.dim(fact.axis) == 1 else None


def transposed(node: NodeView, of: SquashedOf) -> Squashed | None:
    """Another order of axes, noted for those who need the scores in it; regrouped elements must keep theirs."""
    fact = of(0)
    if fact is None or fact.kind not in FINAL or node.x.shape is None:
        return None
    rank = len(node.x.shape)
    perm = [int(p) for p in node.attr("perm") or range(rank)[::-1]]
    if fact.reshaped:
        return fact if in_order(perm, node.x, perm) else None
    before = fact.perm or tuple(range(rank))
    return replace(fact, perm=tuple(before[p] for p in perm))


def in_order(perm: Sequence[int], x: Value, order: Sequence[int] | None = None) -> bool:
    """Whether axes in the order ``perm`` leave the elements in place: only axes of length one moved.

    ``x`` is a tensor with these axes, taken in the order ``order`` (empty: as they are).
    """
    sizes = [x.dim(a) for a in (order if order is not None else range(len(perm)))]
    moved = [p for p, size in zip(perm, sizes, strict=True) if size != 1]
    return moved == sorted(moved)
