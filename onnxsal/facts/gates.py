"""Which factors of products rules may hold constant: scales of normalisers, attention weights, gates; and how the others share.

Found by data flow from the explained tensors alone, whatever the exporter wrote: masks, sizes, positions and rotations do not depend
on them, so they are no factors here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxsal.facts.attention import attention_of, softmax_parts
from onnxsal.facts.ranges import bounds_of
from onnxsal.graph import Model, NodeView
from onnxsal.ops.registry import spec_of
from onnxsal.ops.statements import ANY

SCALE, ATTENTION, SELF_GATE, GATE, UNBOUNDED_GATE = "scale", "attention", "self_gate", "gate", "unbounded_gate"
FACTORS = {
    SCALE: "what the other factor is divided by, or a root of a sum or mean: the statistic of a normaliser",
    ATTENTION: "a softmax that weights the other factor",
    SELF_GATE: "a function of the other factor, element by element, as in x sigmoid(x)",
    GATE: "a factor between 0 and a bound beside one that is not: a sigmoid",
    UNBOUNDED_GATE: "what an activation ends beside what none does: the gate of SwiGLU",
}
"""What a factor of a product may be to the others, in the order in which it is looked for."""

Kinds = dict[int, dict[int, str]]
"""Index of a node -> its input -> what that is."""


def factors_of(node: NodeView) -> list[int]:
    """The inputs that carry a signal and are multiplied with each other (a divisor is one too)."""
    spec = spec_of(node)
    if spec is None or spec.roles is None or spec.family not in ("product", "linear"):
        return []
    roles = spec.roles
    return [i for i, wanted in enumerate(node.wants) if wanted and (roles.factors is None or i in (*roles.factors, *roles.divisors))]


def constant_factors(path: Sequence[NodeView]) -> Kinds:
    """Of every product on a path (nodes in forward order, with what they want) the factors that could be held constant.

    One at least of the factors of a node is none of these.
    """
    made = {name: node for node in path for name in node.proto.output if name}
    found: Kinds = {}
    for node in path:
        takers, kinds = [] if node.index in softmax_parts(node.model) else factors_of(node), dict[int, str]()
        for kind in FACTORS if len(takers) > 1 else ():
            held = _of_kind(kind, node, takers, made, found)
            if held and len(held) < len(takers):
                kinds |= dict.fromkeys(held, kind)
                takers = [i for i in takers if i not in held]
        if kinds:
            found[node.index] = kinds
    return found


def _of_kind(kind: str, node: NodeView, takers: Sequence[int], made: Mapping[str, NodeView], found: Kinds) -> list[int]:
    names, spec = {i: node.proto.input[i] for i in takers}, spec_of(node)
    assert spec is not None
    if kind == SCALE:
        divisors = () if spec.roles is None else spec.roles.divisors
        return [i for i in takers if i in divisors or _is_scale(names[i], made)]
    if kind == ATTENTION:
        if spec.family == "product":  # weights and values multiplied first, and summed by a node of their own
            return [i for i in takers if _is_softmax(names[i], made)]
        layers = (layer for layer in attention_of(node.model) if layer.product.index == node.index)
        return [layer.position for layer in layers if layer.position in takers]
    if kind == GATE:
        return bounded(node.model, names)
    if spec.family != "product":
        return []
    if kind == SELF_GATE:
        return [i for i in takers if any(_is_made_of(names[i], names[j], made) for j in takers if j != i)]
    return [i for i in takers if _ends_in_activation(names[i], made, found)]


def bounded(model: Model, names: Mapping[int, str]) -> list[int]:
    """Of the factors of a product (input -> tensor) the gates: between 0 and a bound, 1 before any other, beside one that is not."""
    ranges = {i: bounds_of(model, name) for i, name in names.items()}
    for most in (1.0, math.inf):
        gates = [i for i, (low, high) in ranges.items() if low >= 0 and high <= most and high < math.inf]
        if gates and len(gates) < len(names):
            return gates
    return []


def _one(node: NodeView) -> str:
    """The one input that a node has its signal from ('' = there are several)."""
    wanted = {name for name, wants in zip(node.proto.input, node.wants, strict=True) if wants}
    return wanted.pop() if len(wanted) == 1 else ""


def _is_scale(name: str, made: Mapping[str, NodeView]) -> bool:
    """Whether a factor is an inverse, or a root of a reduction: what is done to it in between moves it, scales it or adds a constant."""
    rooted = False
    while (node := made.get(name)) is not None and (spec := spec_of(node)) is not None:
        factors, power = factors_of(node), spec.facts.power(node)
        above = [i for i in factors if spec.roles is not None and i not in spec.roles.divisors]
        if power < 0 or (factors and not above):
            return True
        if spec.family in ("reduction", "average_pool"):
            return rooted or (spec.roles is None and spec.bias == "zero")  # a norm is a root in itself
        rooted = rooted or power == ROOT
        if power != ROOT and spec.family not in ("movement", "product", "add", "select"):
            return False
        name = node.proto.input[above[0]] if len(above) == 1 else _one(node)
    return False


def _is_softmax(name: str, made: Mapping[str, NodeView]) -> bool:
    """Whether a factor holds the probabilities of a softmax: moved, chosen or scaled by constants."""
    while (node := made.get(name)) is not None:
        if node.index in softmax_parts(node.model):
            return True
        spec = spec_of(node)
        if spec is None or spec.family not in ("movement", "select", "product"):
            return False
        name = _one(node)
    return False


ROOT = 0.5
"""The exponent of a root."""

PLACEWISE = ("activation", "elementwise", "add", "product", "select")
"""Families that make each element of one element of every operand, but for what is broadcast."""


def _is_made_of(name: str, value: str, made: Mapping[str, NodeView]) -> bool:
    """Whether a tensor is a function of ``value`` alone, element by element. A constant times ``value`` counts as it."""
    same = set[str]()
    while value not in same:
        same.add(value)
        node = made.get(value)
        if node is not None and node.x.shape == node.y.shape and _is_placewise(node) and _is_scaling(node):
            value = _one(node) or value
    todo, seen = [name], set[str]()
    while todo:
        name = todo.pop()
        if name in same or name in seen:
            seen.add(name)
            continue
        node = made.get(name)
        if node is None or not _is_placewise(node):
            return False
        seen.add(name)
        todo += [n for n, wants in zip(node.proto.input, node.wants, strict=True) if wants]
    return bool(seen & same)


def _is_placewise(node: NodeView) -> bool:
    spec = spec_of(node)
    shapes = {v.shape for i, v in enumerate(node.inputs) if v is not None and node.want(i)}
    return spec is not None and (spec.family in PLACEWISE or spec.keeps == "place") and shapes == {node.y.shape}


def _is_scaling(node: NodeView) -> bool:
    """Whether the node copies its one input, or multiplies it by constants."""
    spec = spec_of(node)
    assert spec is not None
    divisors = () if spec.roles is None else spec.roles.divisors
    scales = spec.family == "product" and len(factors_of(node)) == 1 and factors_of(node)[0] not in divisors
    return scales or spec.keeps == "place"


def _ends_in_activation(name: str, made: Mapping[str, NodeView], found: Kinds) -> bool:
    """Whether a factor comes from an activation, or from x h(x), with nothing but movement and scaling in between."""
    while (node := made.get(name)) is not None:
        spec = spec_of(node)
        if spec is None or spec.family in ("activation", "elementwise") or spec.facts.rectifies(node, lambda i: ANY):
            return spec is not None
        if found.get(node.index):
            return spec.family == "product" and not set(found[node.index].values()) <= {SCALE}
        if spec.family not in ("movement", "product", "add", "select"):
            return False
        name = _one(node)
    return False


def shares(path: Sequence[NodeView]) -> dict[int, dict[int, float]]:
    """What part of the signal each factor of a product takes: equal parts for all factors of a chain of products, whatever its order.

    (x1 x2) x3 gives a third to each. Between the products of a chain tensors may be moved and multiplied by constants.
    """
    count: dict[str, int] = {}
    found = {}
    for node in path:
        spec, factors = spec_of(node), factors_of(node)
        divisors = () if spec is None or spec.roles is None else spec.roles.divisors
        own, name = 1, _one(node)
        if len(factors) > 1 and not set(factors) & set(divisors) and node.index not in softmax_parts(node.model):
            each = {i: count.get(node.proto.input[i], 1) for i in factors}
            own = sum(each.values())
            found[node.index] = {i: n / own for i, n in each.items()}
        elif spec is not None and spec.family in ("movement", "product", "select") and name:
            own = count.get(name, 1)
        count |= dict.fromkeys(filter(None, node.proto.output), own)
    return found
