"""Which softmaxes are attention: their probabilities weight values in a matrix product of two activations.

Decided by data flow, never by names. A softmax that ends in scores, routes samples to parts of a network, is averaged into a map, or meets
a constant matrix weights no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxsal.facts.axes import Spot, trace
from onnxsal.facts.heads import squashed
from onnxsal.facts.reach import data_tensors
from onnxsal.facts.solve import ancestors, reached
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.ops.registry import family_of, spec_of
from onnxsal.ops.squashing import Kind


@dataclass(frozen=True)
class AttentionLayer:
    """``product = weights x values``: one softmax, and one matrix product in which it is a factor.

    ``softmax`` is the node that makes the probabilities (of one that is written out the last), ``nodes`` the indices of all that make
    them of ``scores`` ('' = they have no name). ``position`` is the input of ``product`` that the probabilities reach. ``axis`` of
    ``weights`` is the one that is normalised, ``query`` the one that stays in the product, ``key`` the one that is summed there
    (``None``: not known, or there are several).
    """

    softmax: NodeView
    nodes: frozenset[int]
    scores: str
    product: NodeView
    position: int
    axis: int
    query: int | None
    key: int | None

    @property
    def weights(self) -> str:
        """The probabilities."""
        return self.softmax.proto.output[0]

    @property
    def factor(self) -> str:
        """The probabilities as the product reads them: masked, copied, scaled or in another order."""
        return self.product.proto.input[self.position]


def attention_of(model: Model) -> tuple[AttentionLayer, ...]:
    """Every softmax that weights values, once for each product that it weights them in, in the order of the graph."""
    return model.once("attention", lambda: tuple(layer for node in model.nodes if _makes_softmax(node) for layer in _weighted(node)))


def _makes_softmax(node: NodeView) -> bool:
    """Whether the first output is a softmax of something the input can change, and no input is one already."""
    known, names = squashed(node.model), node.proto.output
    fact = known.get(names[0]) if names else None
    if fact is None or fact.kind != Kind.SOFTMAX or names[0] not in data_tensors(node.model):
        return False
    return not any(name in known and known[name].kind == Kind.SOFTMAX for name in node.proto.input)


def _weighted(softmax: NodeView) -> list[AttentionLayer]:
    """The products that the probabilities of a softmax are factors of."""
    model, weights, data = softmax.model, softmax.proto.output[0], data_tensors(softmax.model)
    carried, products, way = {weights}, list[tuple[NodeView, int]](), list[NodeView]()
    for node in model.nodes[softmax.index + 1 :]:
        hit = [i for i, name in enumerate(node.proto.input) if name in carried]
        others = [
            name for name in node.proto.input if name and name not in carried and name in data and model.value(name).dtype in FLOATS | {0}
        ]
        if not hit:
            continue
        if node.outputs[0] is not None and matrix_axes(node, hit[0]) is not None:
            products += [(node, hit[0])] if len(hit) == 1 and len(others) == 1 else []
        elif _passes(node, others):
            carried.add(node.proto.output[0])
            way.append(node)
    return [_layer(softmax, way, node, position) for node, position in products]


def matrix_axes(node: NodeView, i: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes of input ``i`` that stay in a matrix product, and those that it sums over; ``None`` where the node is no such product."""
    spec = spec_of(node)
    return None if spec is None or spec.roles is None else spec.roles.matrix(node, i)


def _passes(node: NodeView, others: list[str]) -> bool:
    """Whether what comes out are probabilities still: moved, chosen (by a mask, instead of a constant), scaled by a constant, rounded."""
    spec, family = spec_of(node), family_of(node)
    if family in ("movement", "quantize"):
        return True
    return not others and (family == "select" or (family == "product" and spec is not None and spec.scaling is not None))


def _layer(softmax: NodeView, way: list[NodeView], product: NodeView, position: int) -> AttentionLayer:
    scores, nodes = _parts(softmax)
    axis = squashed(softmax.model)[softmax.proto.output[0]].axis or 0
    query, key = _axes(softmax, way, product, position)
    return AttentionLayer(softmax, nodes, scores, product, position, axis, query, key)


def _parts(softmax: NodeView) -> tuple[str, frozenset[int]]:
    """The scores, and the indices of the nodes that make the probabilities of them."""
    model, fact = softmax.model, squashed(softmax.model)[softmax.proto.output[0]]
    scores = fact.logits or _exponents(softmax)
    made = ancestors(model, [softmax.y.name]) & reached(model, [scores]) if scores else set()
    return scores, frozenset(n.index for n in model.nodes if made.intersection(n.proto.output) - {scores}) | {softmax.index}


def _exponents(softmax: NodeView) -> str:
    """What exp is taken of, in exp(u) / sum exp(u)."""
    known = squashed(softmax.model)
    return next((f.logits for name in softmax.proto.input if (f := known.get(name)) is not None and f.kind == Kind.EXP), "")


def _axes(softmax: NodeView, way: list[NodeView], product: NodeView, position: int) -> tuple[int | None, int | None]:
    """The axes of the probabilities that are the rows, and the sum, of the product."""
    factor, y = product.input(position), softmax.y
    parts = None if factor.shape is None else matrix_axes(product, position)
    if parts is None or y.shape is None:
        return None, None
    found: Mapping[int, Spot] = trace(way, {y.name: {a: Spot(a) for a in range(y.rank)}}).get(factor.name, {})
    if factor.name == y.name:
        found = {a: Spot(a) for a in range(y.rank)}
    rows, summed = ([label for label, spot in found.items() if spot.place in part and spot.runs == 1] for part in parts)
    return _only(rows), _only(summed)


def _only(labels: list[int]) -> int | None:
    return labels[0] if len(labels) == 1 else None


def softmax_parts(model: Model) -> frozenset[int]:
    """Indices of all nodes that make softmaxes of what the input can change: the operators, and what others are written out in."""
    return model.once("softmax parts", lambda: frozenset().union(*(_parts(node)[1] for node in model.nodes if _makes_softmax(node))))
