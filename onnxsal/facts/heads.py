"""How a model's scores end: which tensor holds the logits behind a softmax or sigmoid, however it is spelled, and what cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from onnxsal.facts.ranges import bounds_of
from onnxsal.facts.solve import forward
from onnxsal.graph import FLOATS, GRID, Model, NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.registry import facts_of, spec_of
from onnxsal.ops.squashing import FINAL, Squashed, in_order

LOGITS = "onnxsal/logits/"
"""Before the name of an output: its logits in its own order and size, where the model has them only in another one."""

FIRST = "onnxsal/samples_first/"
"""Before the name of an output whose samples lie along another axis than the first: the same with the samples first."""


def head_of(model: Model, name: str) -> Squashed | None:
    """The softmax, sigmoid or logarithm of one that a tensor is, with its logits in the order of the tensor; ``None``: it is not known
    to be one. Its ``logits`` are '' where they have no name (``passes/order_logits`` gives them one for outputs).
    """
    fact = squashed(model).get(name)
    if fact is None or fact.kind not in FINAL:
        return None
    own = LOGITS + name
    if in_place(model, name, fact):
        return fact
    if own not in model.producer or fact.axis is None:
        return replace(fact, scores=((own, 1.0),), perm=()) if own in model.producer else replace(fact, scores=())
    axis = fact.perm.index(fact.axis % len(fact.perm)) if fact.perm else fact.axis
    return replace(fact, scores=((own, 1.0),), axis=axis, perm=())


def in_place(model: Model, name: str, fact: Squashed) -> bool:
    """Whether the logits are a tensor of the model in the order of the tensor ``name``."""
    return not fact.scores or (fact.factor == 1.0 and (not fact.perm or in_order(fact.perm, model.value(name))))


def squashed(model: Model) -> dict[str, Squashed]:
    """What every tensor says about scores, as far as anything is known."""
    return model.once("squashed", lambda: forward(model.nodes, {}, _step))


def _step(node: NodeView, of: Callable[[int], Squashed | None]) -> list[Squashed | None]:
    rule = facts_of(node).head
    return [] if rule is None or node.outputs[0] is None else [rule(node, of)]


def is_bounded(model: Model, name: str) -> bool:
    """Whether a tensor is proved to lie between 0 and 1."""
    low, high = bounds_of(model, name)
    return low >= 0 and high <= 1


def may_be_bounded(model: Model, name: str) -> bool:
    """Whether a tensor could lie between 0 and 1 for every input, as far as the graph alone tells.

    Where it could not, no run need be looked at. What weighted sums, rectifiers, pools and statistics make of the input has no bound;
    exponentials, what is itself bounded, what is divided by a changing number and what nobody knows may have one, and so may sums of
    such and products in which all changing factors are such.
    """
    return model.once("may be bounded", lambda: _possible_ones(model)).get(name, False)


def _possible_ones(model: Model) -> dict[str, bool]:
    """For every tensor that changes with the model's inputs."""
    given: Iterable[str] = model.input_names
    return forward(model.nodes, dict.fromkeys(given, False), _possible)


def _possible(node: NodeView, of: Callable[[int], bool | None]) -> list[bool | None]:
    spec, model, outputs = spec_of(node), node.model, len(node.proto.output)
    if facts_of(node).of_sizes or (all(of(i) is None for i in range(len(node.inputs))) and not captured(node.proto)):
        return []
    if spec is None:
        return [True] * outputs
    known = {i: of(i) for i, v in enumerate(node.inputs) if v is not None and v.dtype in FLOATS | GRID | {0}}
    inner = {i: found for i, found in known.items() if found is not None}
    low, high = bounds_of(model, node.proto.output[0])
    least = bounds_of(model, node.proto.input[0])[0]
    if low >= -1 and high <= 1:
        return [True] * outputs
    if spec.roles is not None and inner.keys() & set(spec.roles.divisors):
        return [inner.get(0, True) or least >= 0] * outputs  # divided by what changes
    if spec.family in ("product", "linear"):
        return [bool(inner) and all(inner.values())] * outputs
    never_linear = spec.family in ("elementwise", "softmax", "recurrent", "loss") and spec.bias != "zero"
    return [any(inner.values()) or never_linear or (spec.family == "normalization" and least >= 0)] * outputs
