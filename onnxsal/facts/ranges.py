"""Between which values a tensor lies whatever the input is: proves that an activation is never negative, or that a factor is a gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from onnxsal.facts.bodies import bodies_of
from onnxsal.facts.solve import forward
from onnxsal.graph import Model, NodeView
from onnxsal.ops.control import Repeat, frame_of
from onnxsal.ops.ranges import FAMILIES, grid
from onnxsal.ops.registry import facts_of, family_of, spec_of
from onnxsal.ops.statements import ANY, Range


def bounds_of(model: Model, name: str) -> Range:
    """Smallest and largest value of a tensor; ``ANY`` where nothing is known. NaN is not considered."""
    if model.within is not None:
        bounds_of(model.within.model, "")  # which goes through its graphs
    known = model.once("ranges", lambda: forward(model.nodes, {}, _step, lambda n: _given(model, n)))
    return known[name] if name in known else _given(model, name)


def not_negative(model: Model, name: str) -> bool:
    """Whether a tensor is never negative, whatever the input."""
    return bounds_of(model, name)[0] >= 0


def _given(model: Model, name: str) -> Range:
    """The range of a tensor that no node makes."""
    if model.outer is not None and name not in model.types:
        return bounds_of(model.outer, name)
    return model.once(("range", name), lambda: _stored(model, name))


def _stored(model: Model, name: str) -> Range:
    array = model.constant(name)
    if array is None or array.size == 0 or array.dtype.kind not in "fiub":
        return grid(model.value(name).dtype)
    return _sound((float(array.min()), float(array.max())))


def _step(node: NodeView, of: Callable[[int | str], Range | None]) -> list[Range]:
    """What a constant holds; else what the operator says, or its family, within what the element type can hold."""
    if node.outputs and node.outputs[0] is not None and node.model.constant(node.y.name) is not None:
        return [_stored(node.model, node.y.name)]
    if bodies_of(node):
        return _inside(node, of)
    rule = facts_of(node).range or FAMILIES.get(family_of(node))
    stated = ANY if rule is None else _sound(rule(node, lambda i: _or_any(of(i))))
    spec = spec_of(node)
    alike = spec is not None and spec.many
    limits = [ANY if y is None else grid(y.dtype) for y in node.outputs]
    return [_within(stated if i == 0 or alike else ANY, limit) for i, limit in enumerate(limits)]


def _inside(node: NodeView, of: Callable[[int | str], Range | None]) -> list[Range]:
    """Of a node that runs graphs: all that they may make, and what is given where no step may run."""
    known, found = frame_of(node), []
    for body in bodies_of(node):
        around, model = set(body.captured), body.model
        given = partial(_around, model, around, of)
        ranges = forward(model.nodes, {}, _step, given)
        model.keep("ranges", ranges)
        found.append([_or_any(ranges[name] if name in ranges else given(name)) for name in body.outputs])
    if isinstance(known, Repeat):
        parts = {c.result: [found[0][c.made], _or_any(of(c.given))] for c in known.carried}
        parts |= {s.outside: [found[0][s.inside]] for s in known.stacked}
    else:
        parts = {i: list(branches) for i, branches in enumerate(zip(*found, strict=True))}
    return [(min(low for low, _ in parts[i]), max(high for _, high in parts[i])) for i in range(len(node.proto.output))]


def _around(model: Model, around: set[str], of: Callable[[int | str], Range | None], name: str) -> Range:
    return _or_any(of(name)) if name in around else _given(model, name)


def _or_any(known: Range | None) -> Range:
    return ANY if known is None else known


def _sound(found: Range) -> Range:
    """Arithmetic with infinities that leaves no number says nothing."""
    return ANY if math.isnan(found[0]) or math.isnan(found[1]) else found


def _within(found: Range, limit: Range) -> Range:
    low, high = max(found[0], limit[0]), min(found[1], limit[1])
    return (low, high) if low <= high else limit
