"""Under which name a book writes what a node keeps of the score: decided by what its constants are made of, never by their names.

What is said here holds for every walk that keeps a book: FullGrad's gradient, and gradients with some Jacobians replaced.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from onnxsal.facts.axes import Spot, Trace, trace
from onnxsal.facts.ranges import bounds_of
from onnxsal.facts.reach import data_tensors
from onnxsal.facts.solve import ancestors
from onnxsal.facts.tokens import Lookup, lookups
from onnxsal.facts.wild import level_axis
from onnxsal.graph import FLOATS, Model, NodeView, Value
from onnxsal.graph.model import captured
from onnxsal.ops.registry import facts_of, spec_of
from onnxsal.ops.statements import SUMMED

INPUT = "input"
"""What is explained."""

POSITION = "position"
"""A constant that differs from token to token, or from place to place: added as it is, looked up by counting, or added to the scores of an
attention."""

TOKEN_TYPE = "token type"
"""A row of a table with at most ``FEW`` rows, looked up by a second input; or the same row of a table for every token."""

CLASS_TOKEN = "class token"
"""Constants that are joined to the tokens along their axis: class tokens, registers, learned prompts."""

SOFTMAX = "softmax"
"""What a softmax keeps, and the tag of nodes that one is written out in."""

BIASES = "biases"
"""Constants that differ from channel to channel only: biases of layers, shifts of normalisations."""

FUNCTIONS = "functions"
"""What is left of functions that are not straight lines through 0, however they are written out: activations, products, normalisations
whose statistic follows their input, the link of a probability. Single numbers that are added on the way belong to them."""

CONSTANTS = "other constants"
"""Any other constant that is added, joined or chosen."""

BIASES_AND_CONSTANTS, LEAKS = "biases and constants", "leaks"
"""What is told by methods whose book does not tell biases and constants apart, and what stabilisers and dead sums lose."""

ORDER = (POSITION, TOKEN_TYPE, CLASS_TOKEN, SOFTMAX, BIASES, FUNCTIONS, CONSTANTS)
"""The order in which parts are told; inputs that are not explained come last."""

FEW = 8
"""A table that a second input picks from, with no more rows than this, tells types of tokens; a larger one is named after the input."""


@dataclass(frozen=True)
class BookEntry:
    """``name`` takes what a node keeps of the added ``constant``, which broadcasts to the node's output (``None``: all that is left)."""

    name: str
    constant: Value | None = None


class Booked:
    """Names for the nodes of a model on the way from ``x``, whose axes ``places`` count tokens, or places of a picture.

    ``path``: the names of these nodes.
    """

    def __init__(self, model: Model, x: Value, places: tuple[int, ...], path: Container[str]) -> None:
        self.model = model
        self.x = x
        self.places = places
        self.path = path

    def parts(self, node: NodeView, held: bool) -> list[BookEntry]:
        """Who takes what a node on the path keeps, given what it wants; only the last may take the rest. ``held``: the rule that crosses
        the node takes its statistic, or its gates, as constants.
        """
        spec = spec_of(node)
        family = "" if spec is None else spec.family
        if family == "softmax" or SOFTMAX in node.tags:
            return [BookEntry(SOFTMAX)]
        if family == "recurrent" and held:
            names = dict.fromkeys(self._state(v) for i, v in enumerate(node.inputs) if v is not None and not node.want(i))
            return [BookEntry(" and ".join(names))]
        if family == "linear" or (family == "normalization" and (held or _is_affine(node))):
            return [BookEntry(BIASES)]
        if family == "normalization":
            return [*_shift(node), BookEntry(FUNCTIONS)]
        if family not in ("add", "movement", "select"):
            return [BookEntry(FUNCTIONS)]
        found = self._constants(node)
        names = dict.fromkeys(part.name for part in found)
        if len(names) < 2:
            return [BookEntry(next(iter(names), FUNCTIONS if family == "select" else CONSTANTS))]
        simple = family == "add" and _is_sum(node) and level_axis(node, self.path) is None
        return found if simple else [BookEntry(" and ".join(names))]

    def _state(self, value: Value) -> str:
        """What an input of a recurrent layer is that carries no signal: its weights, or a state that is fed."""
        return self._fed(value.name) if value.dtype in FLOATS and value.name in data_tensors(self.model) else BIASES

    def _constants(self, node: NodeView) -> list[BookEntry]:
        """The floating-point inputs that carry no signal, sums of them taken apart."""
        constants = [v for i, v in enumerate(node.inputs) if v is not None and not node.want(i) and v.dtype in FLOATS]
        return [BookEntry(self._name(node, term), term) for v in constants for term in self._terms(v)]

    def _terms(self, value: Value) -> Iterator[Value]:
        """The tensors that a constant is the sum of."""
        node = self.model.producer.get(value.name)
        if node is None or not _is_sum(node):
            yield value
            return
        for part in node.inputs:
            if part is not None:
                yield from self._terms(part)

    def _name(self, node: NodeView, value: Value) -> str:
        """What a constant of a node is."""
        before = ancestors(self.model, [value.name], _read_values)
        if self.x.name in before:
            return FUNCTIONS  # it depends on what is explained, and a rule holds it constant
        looked_up = dict.fromkeys(self._looked_up(one) for one in lookups(self.model) if one.value.name in before)
        if looked_up:
            return " and ".join(looked_up)
        if value.name in data_tensors(self.model):
            return self._fed(value.name)
        spec = spec_of(node)
        places = self._places_of(node.y)
        if spec is not None and spec.family == "movement":
            joined = spec.fills(node) and node.attr("axis") is not None and node.attr("axis") % node.y.rank in places
            return CLASS_TOKEN if joined else CONSTANTS
        varying = {node.y.rank - value.rank + axis for axis, size in enumerate(value.shape or ()) if size != 1}
        if level_axis(node, self.path) is not None or varying & places:
            return POSITION
        if len(varying) == 1 and spec is not None and spec.family == "add":
            return BIASES
        return CONSTANTS if varying else FUNCTIONS

    def _looked_up(self, one: Lookup) -> str:
        """What the rows of a table are."""
        if one.ids:
            return TOKEN_TYPE if one.rows is not None and one.rows <= FEW else f"lookup of '{one.ids}'"
        low, high = bounds_of(self.model, one.node.input(1).name)
        return TOKEN_TYPE if low == high else POSITION

    def _fed(self, name: str) -> str:
        """The inputs whose values a tensor depends on."""
        before = ancestors(self.model, [name], _read_values)
        return f"input {' and '.join(repr(n) for n in self.model.input_names if n in before)}"

    def _places_of(self, y: Value) -> set[int]:
        """The axes of a tensor that count tokens or places."""
        return {spot.place for spot in self._traces.get(y.name, {}).values() if spot.how is not SUMMED}

    @cached_property
    def _traces(self) -> Mapping[str, Trace]:
        return trace(self.model.nodes, {self.x.name: {axis: Spot(axis) for axis in self.places}})


def _read_values(node: NodeView) -> list[str]:
    """The tensors on whose values, not only sizes, the outputs depend."""
    return [] if facts_of(node).of_sizes else [*filter(None, node.proto.input), *captured(node.proto)]


def _is_affine(node: NodeView) -> bool:
    """Whether constants do no more than scale and shift the one wanted input: a batch normalisation."""
    spec = spec_of(node)
    if spec is None or spec.scaling is None or sum(node.wants) != 1:
        return False
    return spec.scaling.takes(node, node.wants.index(True))


def _shift(node: NodeView) -> list[BookEntry]:
    """What a normalisation over the last axes adds at last: the second of the tensors that training fits, where it is no activation."""
    spec = spec_of(node)
    shift = node.optional(spec.trained[-1]) if spec is not None and len(spec.trained) > 1 else None
    alone = shift is not None and not node.want(node.inputs.index(shift))
    return [BookEntry(BIASES, shift)] if alone else []


def _is_sum(node: NodeView) -> bool:
    """Whether the output is the sum of the inputs, no more and no less."""
    spec = spec_of(node)
    return spec is not None and spec.family == "add" and spec.scaling is not None and spec.roles is not None and not spec.roles.negated
