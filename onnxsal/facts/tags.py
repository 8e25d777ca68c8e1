"""Tag nodes by what they do, however the exporter wrote it: rules match tags, so they need not know spellings."""

from __future__ import annotations

import math

from onnxsal.facts.attention import softmax_parts
from onnxsal.facts.linear_layers import LAYER, TAIL, linear_layers
from onnxsal.facts.ranges import bounds_of
from onnxsal.facts.solve import reached
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.ops.registry import facts_of, family_of, spec_of
from onnxsal.ops.statements import ANY, UNSATURATED

RECTIFIER = "rectifier"
"""Zero below zero, the identity just above: Relu, Clip(0, .), Max(x, 0), and the QuantizeLinear that swallowed one of them."""

RESIDUAL = "residual"
"""An addition of activations: where a shortcut ends."""

PRODUCT = "product"
"""A product of activations: gates, squeeze-and-excite, attention."""

BATCHNORM = "batchnorm"
"""Batch normalisation in any of its forms that are nodes of their own (the fourth, folded into a layer, is none)."""

SOFTMAX = "softmax"
"""A softmax, or a part of one that is written out."""

SUMMED, MULTIPLIED = "scattered_sum", "scattered_product"
"""Scattered elements that are added, or multiplied, where they meet."""


def is_rectifier(node: NodeView) -> bool:
    """Whether the node cuts its input off at zero from below."""
    return facts_of(node).rectifies(node, lambda i: bounds_of(node.model, node.proto.input[i]))


def is_unsaturated(node: NodeView) -> bool:
    """Whether a node that saturates cuts nothing off, as its input lies within its ends whatever the input of the model is."""
    return facts_of(node).unsaturated(node, lambda i: bounds_of(node.model, node.proto.input[i]))


def is_relu(node: NodeView) -> bool:
    """Whether the node is max(x, 0) of its first input, element by element, and no more than that."""
    if family_of(node) not in ("activation", "select") or not is_rectifier(node) or node.x.shape != node.y.shape:
        return False
    rest = [i for i, v in enumerate(node.inputs) if i and v is not None]
    constant = {i: node.const(i) for i in rest}
    if any(v is None for v in constant.values()) or node.const(0) is not None:
        return False
    rule = facts_of(node).range
    return rule is not None and rule(node, lambda i: bounds_of(node.model, node.proto.input[i]) if i else ANY) == (0.0, math.inf)


def is_residual(node: NodeView, dependent: set[str]) -> bool:
    """Whether the node adds two activations or more (a bias, or a batch normalisation's shift, is a constant)."""
    return family_of(node) == "add" and len(_changing(node, dependent)) > 1


def is_product(node: NodeView, dependent: set[str]) -> bool:
    """Whether the node multiplies, divides or correlates activations with each other."""
    spec = spec_of(node)
    if spec is None or spec.roles is None or spec.family not in ("product", "linear"):
        return False
    changing, factors = _changing(node, dependent), spec.roles.factors
    return len(changing if factors is None or spec.family == "product" else changing.intersection(factors)) > 1


def _changing(node: NodeView, dependent: set[str]) -> set[int]:
    """The floating-point inputs that an input of the model can change."""
    return {i for i, v in enumerate(node.inputs) if v is not None and v.name in dependent and v.dtype in FLOATS | {0}}


def batchnorm_nodes(model: Model, dependent: set[str]) -> set[int]:
    """Indices of the nodes that make batch normalisations: the operator (one number per channel), or subtract, multiply, add and multiply,
    add with constants per channel.
    """
    found = set()
    for node in model.nodes:
        spec = spec_of(node)
        if spec is not None and spec.scaling is not None and spec.scaling.axis is not None:
            found.add(node.index)
        if not _per_channel(node, dependent, "product"):
            continue
        readers = model.consumers.get(node.y.name, [])
        if len(readers) == 1 and _per_channel(readers[0], dependent, "add"):
            found |= {node.index, readers[0].index}
            before = next((model.producer.get(n) for n in node.proto.input if n in dependent), None)
            alone = before is not None and len(model.consumers.get(before.y.name, [])) == 1
            if before is not None and alone and _per_channel(before, dependent, "add"):
                found.add(before.index)
    return found


def _per_channel(node: NodeView, dependent: set[str], family: str) -> bool:
    """Whether the node combines one activation with a constant that varies along one axis only."""
    if family_of(node) != family or len(node.inputs) != 2 or node.outputs[0] is None:
        return False
    constants = [v for v in node.inputs if v is not None and v.name not in dependent and v.static is not None]
    return len(constants) == 1 and sum(size != 1 for size in constants[0].static or ()) == 1


def tags_of(model: Model) -> dict[int, frozenset[str]]:
    """What each node does, by its index; nodes that do nothing of the kind are left out. Copies do what their originals do."""
    return model.once("tags", lambda: _copied(model) if model.copies else _tags(model))


def _copied(model: Model) -> dict[int, frozenset[str]]:
    assert model.outer is not None
    known = tags_of(model.outer)
    return {i: known[original] for i, original in enumerate(model.copies) if original in known}


def _tags(model: Model) -> dict[int, frozenset[str]]:
    dependent = reached(model, model.input_names)
    layers = linear_layers(model)
    holding = {
        RECTIFIER: {n.index for n in model.nodes if is_rectifier(n)},
        RESIDUAL: {n.index for n in model.nodes if is_residual(n, dependent)},
        PRODUCT: {n.index for n in model.nodes if is_product(n, dependent)},
        BATCHNORM: batchnorm_nodes(model, dependent),
        SUMMED: {n.index for n in model.nodes if family_of(n) == "movement" and n.attr("reduction") == "add"},
        MULTIPLIED: {n.index for n in model.nodes if family_of(n) == "movement" and n.attr("reduction") == "mul"},
        LAYER: {layer.node.index for layer in layers},
        UNSATURATED: {n.index for n in model.nodes if is_unsaturated(n)},
        SOFTMAX: set(softmax_parts(model)),
        TAIL: {n.index for layer in layers for n in layer.tail},
    }
    tagged = set().union(*holding.values())
    return {i: frozenset(tag for tag, nodes in holding.items() if i in nodes) for i in tagged}
