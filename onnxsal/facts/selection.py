"""What was picked out of scores: the boxes that a suppression, or the largest k, left of all candidates, followed back to their scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxsal.facts.heads import head_of
from onnxsal.facts.solve import reached
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.ops.picks import kept, moved
from onnxsal.ops.registry import facts_of, family_of, spec_of
from onnxsal.ops.statements import PickRule


@dataclass(frozen=True)
class Pick:
    """One node on the way from the scores to those that were picked: its output ``j`` holds elements of its input ``i``."""

    node: NodeView
    i: int
    j: int


@dataclass(frozen=True)
class Picked:
    """``scores``: the tensor of all candidates' scores; ``picks``: the nodes, in forward order, by way of which elements of it are in
    ``name``; ``by``: the node that compared them. ``rows``: ``name`` holds no scores, but a row for each that says where it is.
    """

    name: str
    scores: str
    picks: tuple[Pick, ...]
    by: NodeView
    rows: bool = False


def picks_of(node: NodeView) -> PickRule | None:
    """How to follow elements through a node; ``None``: its outputs hold others."""
    spec, stated = spec_of(node), facts_of(node).picks
    if stated is not None or spec is None:
        return stated
    return {"place": kept, "order": moved, "elements": moved}.get(spec.keeps)


def picked(model: Model, name: str, cut: bool) -> list[Picked]:
    """What the elements of a tensor are, of the scores that a node compared to choose among them; nothing where it chose otherwise.

    ``cut``: followed further back, to what a final sigmoid or softmax is computed from.
    """
    ranked = {t: node for node in comparing(model) for t in _ranked(model, node, cut)}
    hits = []
    for way in _ways(model, name, cut):
        deepest = next((k for k in reversed(range(len(way))) if way[k][0] in ranked), None)
        if deepest is not None:
            steps = tuple(pick for _, pick in reversed(way[: deepest + 1]) if pick is not None)
            hits.append(Picked(name, way[deepest][0], steps, ranked[way[deepest][0]]))
    return list(dict.fromkeys(hit for hit in hits if any(_chooses(model, pick) for pick in hit.picks)))


def picked_rows(model: Model, name: str, cut: bool) -> list[Picked]:
    """As ``picked``, where a tensor holds, row by row, the indices of what was chosen."""
    node = model.producer.get(name)
    while node is not None and (spec := spec_of(node)) is not None and spec.keeps == "place":
        node = model.producer.get(node.x.name)
    source = None if node is None else facts_of(node).compares
    if node is None or source is None or source >= len(node.inputs):
        return []
    compared, indices = node.input(source), node.outputs[0]
    if compared.shape is None or indices is None or compared.dtype not in FLOATS or (indices.shape or (None,))[-1] != compared.rank:
        return []
    (way,) = list(_ways(model, compared.name, cut))[:1]
    allowed = _ranked(model, node, cut)
    deepest = max(k for k, (tensor, _) in enumerate(way) if tensor in allowed)
    return [Picked(name, way[deepest][0], tuple(pick for _, pick in reversed(way[: deepest + 1]) if pick is not None), node, True)]


def comparing(model: Model) -> list[NodeView]:
    """The nodes that compare floating-point elements to choose among them."""
    found = []
    for node in model.nodes:
        i = facts_of(node).compares
        if i is not None and i < len(node.inputs) and node.inputs[i] is not None and node.input(i).dtype in FLOATS:
            found.append(node)
    return found


Trail = list[tuple[str, Pick | None]]
"""Tensors from the picked ones back, each with the node that made the one before of it (``None``: the same elements, or their logits)."""


def _ranked(model: Model, node: NodeView, cut: bool) -> list[str]:
    """Tensors all of whose elements the node compares: its input, before that was moved, or the largest along an axis was taken."""
    index = facts_of(node).compares
    names, name = list[str](), node.input(index or 0).name
    while True:
        names.append(name)
        before, maker = _logits(model, name) if cut else "", model.producer.get(name)
        if before:
            name = before
            continue
        spec = None if maker is None else spec_of(maker)
        whole = spec is not None and (spec.keeps in ("place", "order", "elements") or (spec.family == "max_pool" and not _is_choice(maker)))
        if maker is None or not whole or picks_of(maker) is None:
            return names
        name = maker.x.name


def _logits(model: Model, name: str) -> str:
    """What a final softmax or sigmoid is computed from, element by element in the same shape ('' = it is none)."""
    head = head_of(model, name)
    return "" if head is None or head.reshaped else head.logits


def _is_choice(node: NodeView | None) -> bool:
    return node is not None and facts_of(node).compares is not None


def _ways(model: Model, name: str, cut: bool, pick: Pick | None = None) -> Iterator[Trail]:
    """Every way back from a tensor along elements that were moved or picked; more than one where parts were joined."""
    here: tuple[str, Pick | None] = (name, pick)
    node = model.producer.get(name)
    before = _logits(model, name) if cut else ""
    if before:
        yield from ([here, *way] for way in _ways(model, before, cut))
        return
    if node is None or picks_of(node) is None:
        yield [here]
        return
    spec, j = spec_of(node), list(node.proto.output).index(name)
    several = spec is not None and spec.fills(node)
    inputs = range(len(node.inputs)) if several else (0,)
    for i in inputs:
        value = node.inputs[i]
        if value is not None and value.dtype in FLOATS:
            yield from ([here, *way] for way in _ways(model, value.name, cut, Pick(node, i, j)))


def _chooses(model: Model, pick: Pick) -> bool:
    """Whether which elements a node picks depends on values: it compares them, or what it picks by is made of such comparisons."""
    return (facts_of(pick.node).picks is not None and family_of(pick.node) == "max_pool") or any(
        v is not None and v.name in chosen(model) for k, v in enumerate(pick.node.inputs) if k != pick.i
    )


def chosen(model: Model) -> set[str]:
    """The tensors that depend on a choice."""
    outputs = [o for node in comparing(model) for o in node.proto.output if o]
    return model.once("chosen", lambda: reached(model, outputs, lambda node: not facts_of(node).of_sizes))
