"""What an operator may state of itself beside its gradient: how its inputs are multiplied and added, and what it does to facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Any, Literal

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.ops.places import PlaceRule
from onnxsal.ops.squashing import HeadRule


@dataclass(frozen=True)
class Roles:
    """How the inputs of an operator make its output, for rules that change some of them.

    It is linear in each of ``factors`` while the others stay (``None``: in every input); ``shifts`` are only added, ``negated`` inputs
    count with a minus sign, ``divisors`` divide. ``mixed(node)``
    says why the signs of a weight are not the signs of its effects ('' = every element of an input meets every element of the
    output in one element of the weight); ``flips(node)`` tells that these effects have the opposite signs. ``matrix(node, i)`` are,
    of input i of a matrix product, the axes that the output has and no other input (its rows), and those that are summed (``None``: it is
    no such product, or i no factor).
    """

    factors: tuple[int, ...] | None
    shifts: tuple[int, ...] = ()
    negated: tuple[int, ...] = ()
    divisors: tuple[int, ...] = ()
    mixed: Callable[[NodeView], str] = lambda node: ""
    flips: Callable[[NodeView], bool] = lambda node: False
    matrix: Callable[[NodeView, int], tuple[tuple[int, ...], tuple[int, ...]] | None] = lambda node, i: None


@dataclass(frozen=True)
class Scaling:
    """``y = factor x + summand``, element by element, in one input x of an operator while its other inputs are constants.

    ``parts(op, node, given, i)`` -> (factor, summand) where x is input i, from the inputs ``given``: ``None`` is 1 and 0, -1.0 a change
    of sign. ``op`` emits (``Emit``) or calculates (``graph.adjoints.NUMBERS``): one formula serves both. ``of`` lists the inputs that x
    may be (``None``: any), ``axis`` is that of x which the others run along (``None``: they are broadcast), ``holds(node)`` whether it
    is so.
    """

    parts: Callable[[Any, NodeView, Sequence[Any], int], tuple[Any, Any]]
    of: tuple[int, ...] | None = None
    axis: int | None = None
    holds: Callable[[NodeView], bool] = lambda node: True

    def takes(self, node: NodeView, i: int) -> bool:
        """Whether x may be input i."""
        return (self.of is None or i in self.of) and self.holds(node)


@dataclass(frozen=True)
class Gates:
    """The gates of a layer that carries a state: their ``names``, and what the ``stored`` bias of one of them (``None``: of all) makes of
    every output, ``J_b b`` (``None``: there is none, or it carries a signal itself). Of an output that is not there it is ``None``.
    """

    names: Callable[[NodeView], tuple[str, ...]]
    stored: Callable[[Emit, NodeView, str | None], Sequence[Value | None] | None]


@dataclass(frozen=True)
class Units:
    """A layer of units: ``y = scale W x + bias``, each unit with weights of its own in input 1 of the node.

    ``along(node)`` is the axis of the weight that counts units (``None``: there is one unit), ``axis(node)`` that of y, ``inputs(node)``
    the axis of x that the weights run along. ``slides``: W is moved over the picture; it "gathers" a weighted sum from each window, or
    "scatters" each element of x into a window of y, and the units of each of ``groups(node)`` see channels of their own. A weight that
    scatters counts the units of one group only.
    """

    along: Callable[[NodeView], int | None]
    axis: Callable[[NodeView], int]
    inputs: Callable[[NodeView], int]
    scale: Callable[[NodeView], float] = lambda node: 1.0
    groups: Callable[[NodeView], int] = lambda node: 1
    slides: Literal["", "gathers", "scatters"] = ""

    def count(self, node: NodeView) -> int | None:
        """How many units there are, where the weight's shape tells."""
        along = self.along(node)
        size = 1 if along is None else node.input(1).dim(along)
        return size if size is None or self.slides != "scatters" else size * self.groups(node)

    def weigh(self, op: Emit, node: NodeView, weight: Value, per_unit: Value) -> Value:
        """A weight with the weights of each unit times a number of its own (1-D, or one number for all)."""
        rank, along, groups = weight.rank, self.along(node), self.groups(node)
        if along is None:
            return op.Mul(weight, per_unit)
        along %= rank
        if self.slides == "scatters" and groups > 1:
            # [group * inputs, units / group, ...]: units are counted through the groups, on the second axis.
            size = [int(d) for d in weight.static or ()]
            split = op.Reshape(weight, [groups, size[0] // groups, *size[1:]])
            each = op.Expand(op.Reshape(per_unit, [-1]), [groups * size[1]])
            return op.Reshape(op.Mul(split, op.Reshape(each, [groups, 1, -1, *[1] * (rank - 2)])), size)
        last = along == rank - 1
        return op.Mul(weight, per_unit if last else op.Reshape(per_unit, [*[1] * along, -1, *[1] * (rank - 1 - along)]))


Keeps = Literal["", "place", "order", "elements"]
"""An output that is its first input again: each element at its "place", all in the same "order" in another shape, or all "elements"."""

Range = tuple[float, float]
"""Smallest and largest value that a tensor can take, whatever the input."""

ANY: Range = (-math.inf, math.inf)

RangeOf = Callable[[int], Range]
"""The range of input i; one that is not connected or not known is anywhere."""

RangeRule = Callable[[NodeView, RangeOf], Range]
"""(node, ranges of its inputs) -> range of its first output (of all, where an operator has many of a kind)."""


class Edge(Flag):
    """What may become of a tensor, or of a slope, although the input of the model is finite."""

    NONE = 0
    STEEP = auto()
    """The slope may be infinite where the output is not: a root at 0."""
    ABOVE = auto()
    """It may be infinite."""
    BELOW = auto()
    """It may be minus infinite."""
    NAN = auto()
    """It may be no number."""


EdgeRule = Callable[[NodeView, RangeOf], Edge]
"""(node, ranges of its inputs) -> what may become of its first output, and of its slope, where its inputs are finite."""

WildOf = Callable[[int], Edge]
"""What input i may hold: infinities, or what is no number."""

WildRule = Callable[[NodeView, WildOf, RangeOf], Edge]
"""(node, what its inputs may hold, their ranges) -> what its first output may hold because of them."""


class How(Enum):
    """How an axis of an input is found in an output."""

    APART = "index k is made from index k of it alone, and there are as many"
    MIXED = "the same axis: its entries are windows, mixtures, copies or a selection of those of the input"
    PARTS = "each index became several, one after another"
    INNER = "it was joined behind another axis: its indices are run through again and again"
    SUMMED = "its entries were summed up; units, or one entry, stand in their place"


APART, MIXED, PARTS, INNER, SUMMED = How

Moved = tuple[int, How] | None
"""Where an axis is in the output, and how; ``None``: nowhere, or nobody knows."""

AxesRule = Callable[[NodeView, int, int, int], Moved]
"""(node, input i, axis of it, output j) -> where that axis is in the output. What an input other than the first does is ``None`` too where
it is more than a setting that is the same for all."""


PickRule = Callable[[Emit, NodeView, Value, int, int], Value | None]
"""(op, node, other, i, j) -> what output j would hold if input i were ``other``, whole numbers shaped like it that say where they are from:
which elements were picked out of it, and where they were put. -1 stands for elements of other inputs; ``None``: it is not known."""


UNSATURATED = "unsaturated"
"""Tag of a node that cuts nothing off, whatever the input of the model is."""


@dataclass(frozen=True)
class Facts:
    """What an operator does to facts about tensors (``facts/`` solves them).

    ``range``: between which values its output lies; ``axes``: where axes of its inputs are in its outputs (``None``: as its family says,
    or not known). ``pictures``: the standard defines it on [N, C, ...]. ``rectifies`` tells whether it cuts its first input off at zero: 0
    below, the identity just above; ``unsaturated`` whether nothing that can arrive lies where it saturates. ``head``: what its first
    output is as a function of scores (``ops/squashing.py``); ``places``: where on a picture its elements come from (``ops/places.py``).
    """

    range: RangeRule | None = None
    axes: AxesRule | None = None
    pictures: bool = False
    rectifies: Callable[[NodeView, RangeOf], bool] = lambda node, of: False
    unsaturated: Callable[[NodeView, RangeOf], bool] = lambda node, of: False
    head: HeadRule | None = None
    edge: EdgeRule | None = None
    """What may become of finite inputs (``None``: nothing)."""
    wild: WildRule | None = None
    """What an output holds where its inputs are not finite (``None``: as the family)."""
    power: Callable[[NodeView], float] = lambda node: 1.0
    """The exponent of which its first output is a power, or a sum of powers, of its first input."""
    level: Callable[[NodeView], int] | None = None
    """The axis along which its first input may be shifted, every element by the same number, and all its outputs stay."""
    picks: PickRule | None = None
    """Which elements of an input its outputs hold (``None``: as what it ``keeps`` says, or its outputs hold others)."""
    compares: int | None = None
    """The input whose elements it compares with each other to pick some out of it, or out of another tensor."""
    of_sizes: bool = False
    """Whether its outputs depend on the sizes of its inputs only, not on their values."""
    places: PlaceRule | None = None
