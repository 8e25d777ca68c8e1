"""Which tensors may hold infinities or what is no number although the input of the model is finite, and which nodes that concerns.

A branch that is not taken may be such: 1 / x where x is 0, the logarithm of silence, a row of attention that is masked as a whole. The
output and its derivative are finite all the same, as long as a signal of 0 is never multiplied by an infinity. What operators state of
their edges (``ops/edges.py``), and the ranges of their inputs, tell at which nodes that could be; these alone are guarded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping

from onnxsal.facts.bodies import bodies_of, data_tensors
from onnxsal.facts.heads import squashed
from onnxsal.facts.ranges import bounds_of
from onnxsal.facts.solve import forward
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.ops.control import Repeat, frame_of
from onnxsal.ops.edges import INFINITE, any_of, held, met
from onnxsal.ops.guards import OWN
from onnxsal.ops.ranges import largest
from onnxsal.ops.registry import facts_of, family_of, spec_of
from onnxsal.ops.squashing import Kind
from onnxsal.ops.statements import ANY, Edge, Range, WildOf

FINITE = ("quantize", "recurrent", "loss")
"""Families whose outputs are taken to be finite whatever comes in: what they round or squash."""

WEIGHTED = ("linear", "recurrent", "normalization", "quantize")
"""Families whose constants are weights: these are taken to be finite, and not looked through."""

SMALL = 1e-30
"""Less than any number that is made of sizes."""

HALF_POWER = 0.999
"""Of a product of exponents that is 1 but for rounding."""


def mark(node: NodeView) -> None:
    """Tell a plan's own view of a node which of its numbers may not be finite, and whether it is a norm."""
    wild, norms = at_the_edge(node.model)
    node.wild, node.norm = wild.get(node.index, frozenset()), node.index in norms


Edges = tuple[dict[int, frozenset[int]], frozenset[int]]
"""(node -> its inputs that may not be finite, with ``OWN`` for its output and slope; nodes that are norms), by their indices."""


def at_the_edge(model: Model) -> Edges:
    """The nodes at which something may not be finite. Copies are as their originals."""
    return model.once("edges", lambda: _copied(model) if model.copies else _edges(model))


def _copied(model: Model) -> Edges:
    assert model.outer is not None
    wild, norms = at_the_edge(model.outer)
    copies = list(enumerate(model.copies))
    return {i: wild[k] for i, k in copies if k in wild}, frozenset(i for i, k in copies if k in norms)


def _edges(model: Model) -> Edges:
    known = wild_tensors(model)
    wild: dict[int, frozenset[int]] = {}
    norms = set()
    for node in model.nodes:
        of = _of(node, known)
        inputs = {i for i, name in enumerate(node.proto.input) if name and of(i)}
        own = _own(node)
        if own or any(name in known for name in node.proto.output):
            inputs.add(OWN)
        if inputs:
            wild[node.index] = frozenset(inputs)
        if Edge.STEEP in own and is_norm(node):
            norms.add(node.index)
    return wild, frozenset(norms)


# ----- which tensors -----


def wild_tensors(model: Model) -> dict[str, Edge]:
    """What the tensors may hold that nodes make, or that a graph of a node is given; finite ones are left out."""
    if model.within is not None:
        wild_tensors(model.within.model)  # which goes through its graphs
    return model.once("wild", lambda: _solved(model, {}))


def _solved(model: Model, seeds: Mapping[str, Edge]) -> dict[str, Edge]:
    fed = data_tensors(model)

    def step(node: NodeView, of: Callable[[int | str], Edge | None]) -> list[Edge | None]:
        if bodies_of(node):
            return _inside(node, of)
        found = _made(node, lambda i: of(i) or _constant(node, i), fed)
        return [found if y is not None and y.dtype in FLOATS | {0} and found else None for y in node.outputs]

    return forward(model.nodes, seeds, step)


def _inside(node: NodeView, of: Callable[[int | str], Edge | None]) -> list[Edge | None]:
    """Of a node that runs graphs: what they may make of what they are given, and read around them, however often they run."""
    known, made = frame_of(node), [Edge.NONE] * len(node.proto.output)
    for body in bodies_of(node):
        seeds = {name: of(name) or Edge.NONE for name in body.captured}
        carried = known.carried if isinstance(known, Repeat) else ()
        if isinstance(known, Repeat):
            given = [(c.inside, c.given) for c in carried] + [(r.inside, r.outside) for r in known.read]
            seeds |= {body.inputs[inside]: of(i) or _constant(node, i) for inside, i in given}
        while True:
            found = _solved(body.model, {name: edge for name, edge in seeds.items() if edge})
            after = {body.inputs[c.inside]: found.get(body.outputs[c.made], Edge.NONE) for c in carried}
            if all(edge | seeds[name] == seeds[name] for name, edge in after.items()):
                break
            seeds |= {name: edge | seeds[name] for name, edge in after.items()}
        body.model.keep("wild", found)
        results = [(c.result, body.inputs[c.inside]) for c in carried]
        results += [(s.outside, body.outputs[s.inside]) for s in known.stacked] if isinstance(known, Repeat) else enumerate(body.outputs)
        for i, name in results:
            made[i] |= found.get(name, Edge.NONE)
    return [edge or None for edge in made]


def _of(node: NodeView, known: dict[str, Edge]) -> WildOf:
    def of(i: int) -> Edge:
        name = node.proto.input[i] if i < len(node.proto.input) else ""
        return known[name] if name in known else _constant(node, i)

    return of


def _constant(node: NodeView, i: int) -> Edge:
    """What input i holds, if it is a constant."""
    value = node.optional(i)
    if value is None or family_of(node) in WEIGHTED or value.dtype not in FLOATS:
        return Edge.NONE
    return node.model.once(("held", value.name), lambda: Edge.NONE if (array := node.const(i)) is None else held(array))


def _made(node: NodeView, of: WildOf, fed: set[str]) -> Edge:
    """What the first output may hold (all outputs, where there are more)."""
    family, count = family_of(node), len(node.proto.input)
    own = _own(node) & ~Edge.STEEP
    if family in FINITE:
        return own
    came = [of(i) for i in range(count)]
    if family == "softmax":  # of minus infinity it makes 0; a row of nothing else is no number, and is taken to be replaced if it can be
        return Edge.NAN if came[0] & (Edge.NAN | Edge.ABOVE) or _is_chosen_from(node) else Edge.NONE
    if family == "select" and facts_of(node).wild is None:  # a mask stays; of what changes, the finite element is taken to be chosen
        came = [edge if node.proto.input[i] not in fed else Edge.NONE for i, edge in enumerate(came)]
        return own | met(*came) if any(came) else own
    if not any(came):
        return own | _beyond(node)
    return own | _within(node, _through(node, family, of, came))


def _through(node: NodeView, family: str, of: WildOf, came: list[Edge]) -> Edge:
    rule, every = facts_of(node).wild, any_of(came)
    if rule is not None:
        return rule(node, of, lambda i: _bounds(node, i))
    if family == "movement":
        return every
    if family == "average_pool":
        return met(*came)
    if family == "max_pool":
        return every & ~Edge.BELOW
    if family == "normalization":
        return Edge.NAN
    return every & Edge.NAN | (INFINITE | Edge.NAN if every & INFINITE else Edge.NONE)


def _within(node: NodeView, edge: Edge) -> Edge:
    """Without the infinities that the range of the output excludes."""
    low, high = bounds_of(node.model, node.proto.output[0])
    return edge & ~((Edge.BELOW if low > -math.inf else Edge.NONE) | (Edge.ABOVE if high < math.inf else Edge.NONE))


def _beyond(node: NodeView) -> Edge:
    """Infinite where the range of the output ends beyond what its type holds: a sum of two masks, a mask in half precision."""
    value = node.outputs[0]
    most = math.inf if value is None else largest(value.dtype)
    low, high = bounds_of(node.model, node.proto.output[0]) if value is not None else ANY
    if most in (math.inf, 0) or (high <= most and low >= -most):
        return Edge.NONE
    # a product with whole numbers that nothing but their type bounds says nothing of what they are
    ends = [abs(end) for n in node.proto.input if n for end in bounds_of(node.model, n) if math.isfinite(end)]
    reach = 4 * max(ends, default=0.0)
    over = Edge.ABOVE if most < high <= reach else Edge.NONE
    return over | (Edge.BELOW if -reach <= low < -most else Edge.NONE)


def _is_chosen_from(node: NodeView) -> bool:
    """Whether a choice reads the first output, copied or not: attention that replaces the NaN of rows masked as a whole."""
    readers = list(node.model.consumers.get(node.y.name, []))
    for reader in readers:
        if family_of(reader) == "movement" and len(reader.proto.output) == 1:
            readers += node.model.consumers.get(reader.proto.output[0], [])
    return any(family_of(r) == "select" for r in readers)


def level_axis(node: NodeView, path: Container[str]) -> int | None:
    """The axis (counted from the last) along which a shift of the first output changes nothing that reads it: that of a softmax.

    ``path`` has the names of the nodes that lead to the score: a shift of logits is not lost on them, whatever softmax comes after.
    """
    readers = node.model.consumers.get(node.y.name, [])
    reader = readers[0] if len(readers) == 1 and node.y.name not in node.model.output_names else None
    if reader is None or node.y.shape is None or reader.name not in path:
        return None
    spec = spec_of(reader)
    if spec is not None and spec.family == "movement" and spec.keeps == "place":
        return level_axis(reader, path)
    rule = facts_of(reader).level
    return None if rule is None else rule(reader) % node.y.rank - node.y.rank


# ----- the edges of one node -----


def _own(node: NodeView) -> Edge:
    """What may become of finite inputs at this node. One number that is made of sizes alone is taken to be finite."""
    rule = facts_of(node).edge
    if rule is None or node.outputs[0] is None or node.y.dtype not in FLOATS | {0}:
        return Edge.NONE
    return Edge.NONE if _is_made_of_sizes(node.model, node.y.name) else rule(node, lambda i: _bounds(node, i))


def _is_made_of_sizes(model: Model, name: str) -> bool:
    """Whether a tensor is one number that depends on sizes alone: a root of the number of channels, which is never 0."""
    static = model.value(name).static
    return static is not None and math.prod(static) == 1 and name not in data_tensors(model) and model.constant(name) is None


def _bounds(node: NodeView, i: int) -> Range:
    """The range of an input, and what is known of it as a part of a softmax that is written out."""
    if node.optional(i) is None:
        return ANY
    name = node.proto.input[i]
    low, high = bounds_of(node.model, name)
    if low == 0 and _is_made_of_sizes(node.model, name):
        return SMALL, high
    fact = squashed(node.model).get(name)
    if fact is not None and fact.shifted and fact.kind == Kind.SCORES:
        return low, min(high, 0.0)
    if fact is not None and fact.shifted and fact.kind == Kind.SUM:
        return max(low, 1.0), high
    return low, high


def is_norm(node: NodeView) -> bool:
    """Whether the node is a root of a sum of squares: where that is 0 each of them is, and so is the slope of each.

    Then 0 is a subgradient at 0. Of any other root the slope there is infinite, and stays so.
    """
    return _made_of_powers(node.model, node.proto.input[0], 1.0 / facts_of(node).power(node))


def _made_of_powers(model: Model, name: str, least: float) -> bool:
    """Whether a tensor is a sum, with positive weights, of powers with exponents of at least ``least`` (and constants)."""
    if model.constant(name) is not None:
        return bounds_of(model, name)[0] >= 0
    node = model.producer.get(name)
    spec = None if node is None else spec_of(node)
    if node is None or spec is None or bounds_of(model, name)[0] < 0:
        return False
    if spec.facts.power(node) >= HALF_POWER * least:
        return True
    inputs = [n for n in node.proto.input if n]
    if spec.family == "add" and not (spec.roles and spec.roles.negated):
        return all(_made_of_powers(model, n, least) for n in inputs)
    through = spec.family in ("average_pool", "movement") or (spec.family == "reduction" and spec.roles is not None)
    scaled = spec.family in ("product", "linear") and all(bounds_of(model, n)[0] >= 0 and model.constant(n) is not None for n in inputs[1:])
    return (through or scaled or spec.facts.rectifies(node, lambda i: ANY)) and _made_of_powers(model, inputs[0], least)
