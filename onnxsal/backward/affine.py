"""One step of relevance through an affine map: what every LRP rule is made of.

    Z = sum_t J(w_t) a_t + b        a forward run of the node on modified activations a_t and weights w_t
    s = R / Z                       of a dead sum, Z = 0, nothing arrives: every part of it is 0
    R_in = sum_t a_t * J(w_t)^T s   the node's own gradient, on the same weights

A rule says which (a_t, w_t) there are. What does not arrive at the input is written into the book: the share of the bias,
``sum s b``, and what leaks, ``sum R - sum s Z``: by the stabiliser, and where the sum is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import helper

from onnxsal.backward.book import Book
from onnxsal.backward.padding import present
from onnxsal.backward.walk import walk_of
from onnxsal.errors import UnsupportedError
from onnxsal.facts.ranges import not_negative
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import shape_parts
from onnxsal.graph.helpers import channel_sum, guard, ones_like, over, signed_epsilon, stabilise, zeros_like
from onnxsal.ops.registry import kept, spec_of, units_of, vjp
from onnxsal.ops.statements import Roles

TINY = 1e-20
"""Sums up to this are dead: their relevance leaks. Added to sums whose parts all have one sign, it divides by no zero, and what leaks is
TINY sum s: R of a dead sum, of any other less than rounding."""

BIASES = ("absorb", "ignore", "distribute")

MAPS = ("linear", "average_pool", "normalization", "product", "reduction", "resample", "movement", "add")
"""Families with operators that are affine maps of one input."""

Term = tuple[Value, Value | None]
"""A modified activation, and the weight it meets (``None``: the node's own)."""


@dataclass(frozen=True)
class Affine:
    """``z = J a + b`` in the view a rule takes of a node: folded batch normalisation included.

    ``flat`` are axes of z along which the bias is known to be constant.
    """

    node: NodeView
    position: int
    a: Value
    z: Value
    bias: Value | None
    weight_at: int | None = None
    weight: Value | None = None
    roles: Roles = field(default_factory=lambda: Roles((0,)))
    flat: tuple[int, ...] = ()

    def sum(self, op: Emit) -> tuple[Value, int]:
        """z and its sign; max(z, 0), which is never negative, where no relevance arrives for other z (see engine.rectified)."""
        behind = walk_of(op).rectified.get(self.z.name)
        return (self.z, 0) if behind is None else (behind, 1)

    def _inputs(self, op: Emit, a: Value, weight: Value | None) -> list[Value | None]:
        inputs = list(self.node.inputs)
        inputs[self.position] = a
        if self.weight_at is not None:
            inputs[self.weight_at] = self.weight if weight is None else weight
        return inputs

    def forward(self, op: Emit, a: Value, weight: Value | None = None, shift: Value | None = None) -> Value:
        """J(w) a, without the bias; ``shift`` [units] in its place."""
        if self.node.attr("training_mode"):
            raise UnsupportedError(
                f"{self.node.label}: it normalises by the statistics of the batch it is given, so it is no map of one sample; "
                "the rule needs one. Export the model in evaluation mode."
            )
        inputs = self._inputs(op, a, weight)
        for i in self.roles.shifts:
            own = self.node.optional(i)
            if own is not None:
                inputs[i] = None if self.node.may_omit(i) else zeros_like(op, own)
        if shift is not None:
            (place,) = self.roles.shifts
            inputs += [None] * (place + 1 - len(inputs))
            inputs[place] = shift
        made = op.clone(self.node, inputs)
        return Value(made.name, 0, self.z.shape)

    def backward(self, op: Emit, s: Value, weight: Value | None = None) -> Value:
        """J(w)^T s."""
        view = self.node.replaced(self._inputs(op, self.a, weight), self.z)
        made = vjp(op, view, [s, *[None] * (len(self.node.proto.output) - 1)])[self.position]
        assert made is not None
        return Value(made.name, 0, self.a.shape)

    def signed(self, op: Emit, sign: int, of: Value | None = None) -> Value:
        """The part of the weight (or of ``of``, in its place) whose effects have this sign: max(w, 0) or min(w, 0)."""
        weight = self.weight if of is None else of
        why = "it has no weight whose signs decide" if weight is None else self.roles.mixed(self.node)
        if weight is None or why:
            raise UnsupportedError(
                f"{self.node.label}: the rule needs the positive and negative parts of its weight, but {why}. "
                "Use lrp_epsilon, or a rule file that names rule 'epsilon' for this node."
            )
        upper = (sign > 0) != self.roles.flips(self.node)
        return op.cached(("part", weight.name, upper), lambda: op.Relu(weight) if upper else op.Min(weight, 0.0))

    @property
    def per_unit(self) -> bool:
        """Whether it takes a bias with one number for each unit, as a convolution does."""
        spec = spec_of(self.node)
        return spec is not None and spec.family == "linear" and self.roles.shifts == (2,) and self.z.shape is not None and self.z.rank > 2

    def positive_input(self) -> bool:
        """Whether the activation is never negative, whatever the model's input."""
        return not_negative(self.node.model, self.a.name)


def affine_of(op: Emit, node: NodeView) -> Affine:
    """The node as an affine map of its one active input; raises ``UnsupportedError`` where it is none."""
    spec = spec_of(node)
    assert spec is not None
    active = [i for i, wanted in enumerate(node.wants) if wanted]
    roles = spec.roles or (Roles((0,)) if spec.family in ("movement", "resample", "average_pool") else None)
    if roles is None or len(active) != 1 or (roles.factors is not None and active[0] not in roles.factors):
        names = [node.proto.input[i] for i in active]
        raise UnsupportedError(
            f"{node.label}: the rule takes affine maps of one tensor; this {spec.family} node is none of input(s) {names}. "
            "Products of activations take rule 'share', additions rule 'split'."
        )
    position, fold = active[0], node.fold
    factors = range(len(node.inputs)) if roles.factors is None else roles.factors
    others = [i for i in factors if i != position and node.optional(i) is not None]
    weight_at = others[0] if spec.family != "add" and len(others) == 1 else None
    weight = None if weight_at is None else node.input(weight_at)
    own = kept(op, node)
    flat = tuple(range(2, node.y.rank)) if own is not None and spec.family == "linear" and node.y.rank > 2 and roles.shifts == (2,) else ()
    if fold is None:
        return Affine(node, position, node.input(position), node.y, own, weight_at, weight, roles, flat)
    scale, shift = fold.scale_and_shift(op)
    folded = op.cached(("folded", node.input(fold.weight).name, node.index), lambda: fold.folded_weight(op, node.input(fold.weight), scale))
    folded = Value(folded.name, folded.dtype, node.input(fold.weight).shape)  # in half precision where nothing scales it
    bias = own if own is None or scale is None else op.Mul(own, fold.lift(op, scale))
    if shift is not None:
        bias = fold.lift(op, shift) if bias is None else op.Add(bias, fold.lift(op, shift))
    flat = tuple(a for a in range(1, node.y.rank) if a != fold.unit_axis)
    return Affine(node, position, node.input(position), fold.y(op), bias, fold.weight, folded, roles, flat)


@dataclass(frozen=True)
class Division:
    """One sum that relevance is divided by: its terms, the bias in it, the relevance that goes through it.

    ``total`` is the sum where it is known already. ``sign`` tells that it is never negative (1), never positive (-1), or either (0).
    ``spread`` gives the relevance of dead sums, of which the sign is known, to all inputs of the unit in equal parts, where it would leak.
    """

    terms: Sequence[Term]
    relevance: Value
    bias: Value | None = None
    total: Value | None = None
    sign: int = 0
    epsilon: float = 0.0
    spread: bool = False


def step(op: Emit, affine: Affine, part: Division) -> Value:
    """The relevance that one part sends to the input."""
    if part.sign:
        return _by_signed_sum(op, affine, part)
    total = _sum(op, affine, part, 0.0) if part.total is None else part.total
    if part.epsilon:
        signed = signed_epsilon(op, total, part.epsilon)
        s = over(op, affine.node, part.relevance, op.Add(total, signed))
        enter(op, affine, s, part.bias, lambda book: book.total(op, affine.node.y, s, signed))
    else:
        alive = _alive(op, total, 0)
        s = op.Div(part.relevance, op.Where(alive, total, float("inf")))
        enter(op, affine, s, part.bias, lost(op, affine, part.relevance, s, total))
    return _sent(op, affine, part, s)


def _by_signed_sum(op: Emit, affine: Affine, part: Division) -> Value:
    """Of a sum whose parts all have one sign: s = R / (Z + e) with that sign. What leaks, e sum s, is of dead sums: it can be spread."""
    added = float(part.sign * (part.epsilon or TINY))
    divisor = _sum(op, affine, part, added) if part.total is None else op.Add(part.total, added)
    s = over(op, affine.node, part.relevance, divisor)
    if part.spread:
        enter(op, affine, s, part.bias, None)
        return _sent(op, affine, part, s, share_among_inputs(op, affine, s, added))
    leaks(op, affine, s, part.bias, added)
    return _sent(op, affine, part, s)


def leaks(op: Emit, affine: Affine, s: Value, bias: Value | None, added: float) -> None:
    """Write down the bias's share, and what leaks where ``added`` stands in the divisor beside the sum: R - s Z = s ``added``."""
    enter(op, affine, s, bias, lambda book: op.Mul(book.total(op, affine.node.y, _over_flat(op, affine, s)), added))


def _sum(op: Emit, affine: Affine, part: Division, added: float) -> Value:
    """The sum of the terms and the bias, and ``added``: as the bias of a convolution, where the node is one."""
    channels, bias = affine.z.dim(1) if affine.per_unit else None, part.bias
    if channels is not None and (added or bias is not None):
        small = op.const(np.full((channels, *[1] * (affine.z.rank - 2)), added, op.np_dtype))
        shift = small if bias is None else op.Add(bias, small)
        (a, w), *others = part.terms
        parts = [affine.forward(op, a, w, op.Reshape(shift, [-1])), *(affine.forward(op, a, w) for a, w in others)]
    else:
        parts = [*(affine.forward(op, a, w) for a, w in part.terms), *([] if bias is None else [bias])]
        parts[0] = op.Add(parts[0], added) if added else parts[0]
    total = parts[0]
    for one in parts[1:]:
        total = op.Add(total, one)
    return Value(total.name, 0, affine.z.shape)


def _sent(op: Emit, affine: Affine, part: Division, s: Value, sent: Value | None = None) -> Value:
    """sum_t a_t * J(w_t)^T s, beside what was ``sent`` already."""
    for a, w in part.terms:
        back = affine.backward(op, s, w)
        share = guard(op, affine.node, back, op.Mul(a, back))
        sent = share if sent is None else op.Add(sent, share)
    assert sent is not None
    return sent


def _alive(op: Emit, total: Value, sign: int) -> Value:
    """Where a sum can be divided by."""
    if sign:
        return op.Greater(total, TINY) if sign > 0 else op.Less(total, -TINY)
    return op.Greater(op.Abs(total), TINY)


def by_live_sums(op: Emit, relevance: Value, total: Value, epsilon: float = 0.0, sign: int = 0) -> Value:
    """R / Z, stabilised; with epsilon = 0 it is 0 where Z is dead: the divisor is infinite there, so nothing is divided by zero."""
    if epsilon:
        return op.Div(relevance, stabilise(op, total, epsilon))
    return op.Div(relevance, op.Where(_alive(op, total, sign), total, float("inf")))


Leak = Callable[[Book], Value]


def lost(op: Emit, affine: Affine, relevance: Value, s: Value, total: Value) -> Leak:
    """sum R - sum s Z: what was not divided, or by more than the sum. A total of unknown shape may be the same for all samples."""

    def leak(book: Book) -> Value:
        return op.Sub(book.total(op, affine.node.y, relevance), book.total(op, affine.node.y, s, total))

    return leak


def enter(op: Emit, affine: Affine, s: Value, bias: Value | None, leak: Leak | None) -> None:
    """Write down the bias's share, sum s b, and the leak of one sum, if a book is kept."""
    book = walk_of(op).book
    if book is None:
        return
    if leak is not None:
        book.leak.append((leak(book), op.dtype))
    if bias is not None:
        book.bias.append((book.total(op, affine.node.y, _over_flat(op, affine, s), bias), op.dtype))


def _over_flat(op: Emit, affine: Affine, s: Value) -> Value:
    """s, summed along the axes on which the bias does not change, but for that of the samples."""
    book = walk_of(op).book
    samples = None if book is None or book.alone else book.layout(affine.node.y).samples
    axes = [axis for axis in affine.flat if axis != samples]
    return op.cached(("over flat", s.name), lambda: op.ReduceSum(s, axes, keepdims=1)) if axes else s


def fan_in(op: Emit, affine: Affine) -> tuple[Value, Value, Value]:
    """(ones like the activation, ones like the weight, how many inputs each element of z has: padding does not count).

    Of a convolution's samples one is enough: the others are the same. Ones are zeros where a Pad before the node filled in constants.
    """
    own = affine.weight
    why = "it has none" if own is None else affine.roles.mixed(affine.node)
    if own is None or why:
        raise UnsupportedError(f"{affine.node.label}: the rule counts the inputs of each unit by the node's weight, but {why}.")
    carried, alike = present(op, affine.node.model, affine.a), _slides(affine)
    ones = ones_like(op, affine.a) if carried is None else carried
    if carried is not None and alike:
        ones = op.Slice(carried, [0], [1], [0])
    elif alike and affine.a.shape is not None:
        size = shape_parts(op, [1, *((d if isinstance(d, int) else (affine.a, i + 1)) for i, d in enumerate(affine.a.shape[1:]))])
        ones = op.ConstantOfShape(size, value=helper.make_tensor("one", op.dtype, [1], [1.0]))
    weight = Value(op.cached(("ones", own.name), lambda: ones_like(op, own)).name, 0, own.shape)
    return ones, weight, affine.forward(op, ones, weight)


def _slides(affine: Affine) -> bool:
    """Whether the node moves its weight over the activation."""
    units = units_of(affine.node)
    return units is not None and bool(units.slides) and affine.position == 0


def share_among_inputs(op: Emit, affine: Affine, share: Value, factor: float = 1.0) -> Value:
    """``factor`` times a share of each element of z, in equal parts to all inputs of that element.

    Where every unit sees every channel of the input, one channel with a kernel of ones stands for all of them.
    """
    carried = present(op, affine.node.model, affine.a)
    thin = None if carried is not None else _one_channel(affine)
    if thin is None:
        share = share if factor == 1.0 else op.Mul(share, factor)
        _, weight, count = fan_in(op, affine)
        sent = affine.backward(op, by_live_sums(op, share, count), weight)
        if carried is None:
            return sent
        if (book := walk_of(op).book) is not None:  # units that see constants only, as at the corner of a wide frame
            book.bias.append((book.total(op, affine.node.y, op.Where(_alive(op, count, 1), 0.0, share)), op.dtype))
        return op.Mul(sent, carried)
    view, channels = thin
    _, weight, count = fan_in(op, view)
    summed = channel_sum(op, share, affine.z.shape)
    return view.backward(op, by_live_sums(op, summed, op.Mul(count, float(channels) / factor)), weight)


def _one_channel(affine: Affine) -> tuple[Affine, int] | None:
    """The map with one channel in and out, and how many channels it stands for; ``None`` where the node is no such convolution."""
    weight, units = affine.weight, units_of(affine.node)
    if units is None or units.groups(affine.node) != 1 or not _slides(affine) or weight is None:
        return None
    channels = affine.a.dim(1)
    if channels is None or weight.static is None or affine.a.shape is None or affine.z.shape is None:
        return None
    a = Value(affine.a.name, 0, (affine.a.shape[0], 1, *affine.a.shape[2:]))
    z = Value(affine.z.name, 0, (affine.z.shape[0], 1, *affine.z.shape[2:]))
    kernel = Value(f"{weight.name}/one channel", 0, (1, 1, *weight.static[2:]))  # only its shape is looked at
    return replace(affine, a=a, z=z, weight=kernel), channels
