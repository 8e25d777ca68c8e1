"""Copies: outputs whose elements are elements of the inputs, and what of a signal lands on those that are constants.

A class token joined to the patches, a frame put around a picture, a branch not taken, a limit that was reached: relevance that arrives
at such an element ends there. It belongs to the score as a bias does, and is written down as one.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxsal.backward.book import Book
from onnxsal.backward.walk import walk_of
from onnxsal.errors import UnsupportedError
from onnxsal.facts.axes import moved
from onnxsal.graph import FLOATS, Emit, NodeView, Signals, Value
from onnxsal.graph.helpers import is_zero, like_shape, ones_like, zeros_like
from onnxsal.ops.registry import spec_of, vjp
from onnxsal.ops.statements import APART

COPIES = ("movement", "max_pool", "select")
"""Families whose outputs are elements of their inputs, but for scattered ones that meet (``is_copy``)."""


def is_copy(node: NodeView) -> bool:
    """Whether every element of the output is one of the inputs' (shared evenly where several are equal), or a constant put beside them."""
    spec = spec_of(node)
    return spec is not None and spec.family in COPIES and node.attr("reduction") not in ("add", "mul")


@dataclass(frozen=True)
class Constants:
    """What a copy takes from elsewhere than the tensors that are followed: the inputs ``given``, or what it ``fills`` in by itself."""

    given: tuple[int, ...]
    fills: bool

    @classmethod
    def of(cls, node: NodeView) -> Constants:
        """Inputs of the kind that is followed, which could have a derivative."""
        spec = spec_of(node)
        assert spec is not None
        followed = [i for i, wanted in enumerate(node.wants) if wanted]
        kinds = {node.input(i).dtype for i in followed} | FLOATS
        given = [i for i, v in enumerate(node.inputs) if v is not None and i not in (*followed, *spec.stops) and v.dtype in kinds]
        return cls(tuple(given), not given and len(followed) == 1 and spec.fills(node))

    def get_nothing(self, op: Emit, node: NodeView) -> bool:
        """Whether no relevance can land on them: there are none, or all are 0 where zeros get nothing."""
        if not self.given and not self.fills:
            return True
        return walk_of(op).zeros_get_nothing.get(node.y.name, False) and all(is_zero(node.const(i)) for i in self.given)


def accounted(op: Emit, node: NodeView, dys: Signals, book: Book) -> Signals:
    """The gradient of a copy, with the book's share of what lands on its constants, sum dy at the elements that are theirs."""
    constants = Constants.of(node)
    if constants.get_nothing(op, node):
        return vjp(op, node, dys)
    dy, *others = dys
    if dy is None or any(o is not None for o in others):
        raise UnsupportedError(f"{node.label}: what lands on its constants is known for its first output only; another one is explained.")
    view = _one_element_each(op, node, constants, book)
    if view is not None:
        signals = vjp(op, view, dys)
        landed = [signal for i, signal in enumerate(signals) if i in constants.given and signal is not None]
        answer = [signal if node.want(i) else None for i, signal in enumerate(signals)]
    else:
        landed, answer = [op.Mul(dy, _filled(op, node, constants))], list(vjp(op, node, dys))
    book.bias += [(book.total(op, node.y, signal), op.dtype) for signal in landed]
    return answer


def _one_element_each(op: Emit, node: NodeView, constants: Constants, book: Book) -> NodeView | None:
    """The node with its constants followed too, if their signals tell the samples apart; constants that are chosen from element by element
    are repeated until they do. ``None`` where they cannot: an element of a constant stands for several of the output.
    """
    spec = spec_of(node)
    assert spec is not None
    inputs = list(node.inputs)
    if constants.fills:
        return None
    if spec.family == "select":
        for i in constants.given if not book.alone else ():
            inputs[i] = Value(like_shape(op, node.input(i), node.y).name, 0, node.y.shape)
    elif not book.alone:
        samples = book.layout(node.y).samples
        if not all(any(_apart(node, i, axis, samples) for axis in range(node.input(i).rank)) for i in constants.given):
            return None
    view = node.replaced(inputs, node.y)
    view.wants = tuple(wanted or i in constants.given for i, wanted in enumerate(node.wants))
    return view


def _apart(node: NodeView, i: int, axis: int, samples: int | None) -> bool:
    """Whether an axis of a constant counts samples as the output's does, and is the same axis."""
    return axis == samples and moved(node, i, axis) == (samples, APART)


def _filled(op: Emit, node: NodeView, constants: Constants) -> Value:
    """1 at the elements of the output that come from constants, else 0: the node on ones, its constants at zero, taken off 1."""
    if node.attr("reduction") in ("max", "min"):
        raise UnsupportedError(
            f"{node.label}: it is not known to which sample the constants belong that are written there, and so not whose relevance they "
            "take. Explain one sample at a time."
        )
    inputs: list[Value | None] = []
    for i, value in enumerate(node.inputs):
        if value is None or (i in constants.given and node.may_omit(i)):
            inputs.append(None)
        elif i in constants.given:
            inputs.append(zeros_like(op, value))
        else:
            inputs.append(ones_like(op, value) if node.want(i) else value)
    return op.Sub(1.0, op.clone(node, inputs))
