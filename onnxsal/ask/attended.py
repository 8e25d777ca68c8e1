"""Self-attention between the explained tensor and the scores: which layers, of which tokens, and which rows the scores read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxsal.ask.layers import layers_of
from onnxsal.ask.question import Question
from onnxsal.errors import PlanError
from onnxsal.facts.attention import AttentionLayer, attention_of, matrix_axes
from onnxsal.facts.axes import Spot, Trace, layout_places, moved, numbered, trace
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.places import Grid
from onnxsal.facts.reach import reach, separators
from onnxsal.facts.solve import ancestors
from onnxsal.graph import Model, NodeView, Value
from onnxsal.graph.infer import shape_text
from onnxsal.ops.registry import facts_of, family_of, spec_of
from onnxsal.ops.statements import APART, SUMMED

Seeds = dict[str, Trace]
"""Tensor -> its axis of tokens, as label 0."""


class _Walked:
    """What lies between the explained tensor and the scores, with the sizes of the model and, where these leave a doubt, in numbers."""

    def __init__(self, question: Question) -> None:
        found = reach(question.model, [question.x.name], [question.start.name])
        self.path, self.active, self.views = found.path, found.active, numbered(question.model, question.x)
        self.known: list[Model] = []

    def traces(self, seeds: Seeds) -> Iterator[dict[str, Trace]]:
        """Where the tokens are in every tensor that depends on the seeds, in one view of the sizes after the other."""
        for number in itertools.count():
            if number == len(self.known) and (view := next(self.views, None)) is not None:
                self.known.append(view)
            if number == len(self.known):
                return
            view = self.known[number]
            nodes = [view.nodes[n.index] for n in self.path]
            (name, seed), *_ = seeds.items()
            size = view.value(name).dim(seed[0].place)
            yield trace(nodes, seeds, sizes=None if size is None else {0: size})


@dataclass(frozen=True)
class Attended:
    """``layers`` of self-attention one after the other, in each the softmaxes that stand side by side (heads that were written one by one).

    ``tokens`` is the axis of the explained tensor that counts the tokens, or ``grid`` says which of them make the picture. ``last`` is the
    last tensor that holds tokens, along its axis ``rows``; ``read`` says in words which of them the scores read.
    """

    path: tuple[NodeView, ...]
    layers: tuple[tuple[AttentionLayer, ...], ...]
    tokens: int | None
    grid: Grid | None
    last: Value
    rows: int
    read: str

    def found_out(self) -> tuple[Found, ...]:
        """What was decided, for the plan and the metadata."""
        names = [layer.softmax.name for side in self.layers for layer in side]
        shown = ", ".join(names if len(names) < 5 else [*names[:2], "...", names[-1]])
        entries = [Found("attention", f"{len(self.layers)} layers: {shown}", Ground.PROVED)]
        if self.grid is not None:
            entries.append(Found("grid", str(self.grid), Ground.PROVED))
        return (*entries, Found("rows", self.read, Ground.PROVED, f"of '{self.last.name}' {shape_text(self.last.shape)}"))


def attended(question: Question) -> Attended:
    """The self-attention of a question. Raises ``PlanError`` where there is none, or not of the same tokens all the way."""
    model, x = question.model, question.x
    found = _Walked(question)
    # weights that no token asks for are a pooling: they only decide which rows are read
    own = [layer for layer in attention_of(model) if layer.weights in found.active and _scored(found, layer) is not None]
    if not own:
        raise PlanError(
            f"no softmax between '{x.name}' and '{question.start.name}' weights values by what they are to each other, so there is no "
            "attention to follow. Use a method that needs none, such as 'gradient' or 'fullgrad'."
        )
    sides = _one_after_the_other(own)
    tokens, grid, seeds = _begin(question, found, sides[0])
    for side in sides:
        for layer in side:
            if not _is_of(found, seeds, layer):
                raise _other_tokens(layer, x)
        seeds = {layer.product.y.name: {0: Spot(row)} for layer in side if (row := _row(layer)) is not None}
        if len(seeds) != len(side):
            raise _other_tokens(side[0], x)
    last, rows = _last(question, found, seeds)
    return Attended(tuple(found.path), sides, tokens, grid, last, rows, _reading(found, last, rows, question.start.name))


def _one_after_the_other(layers: Sequence[AttentionLayer]) -> tuple[tuple[AttentionLayer, ...], ...]:
    """The layers by how many others lie before them on the longest way."""
    depth: dict[int, int] = {}
    for i, layer in enumerate(layers):
        before = ancestors(layer.softmax.model, [layer.factor])
        depth[i] = max((depth[k] + 1 for k in range(i) if layers[k].product.y.name in before), default=0)
    return tuple(tuple(layer for i, layer in enumerate(layers) if depth[i] == d) for d in range(max(depth.values()) + 1))


def _other_tokens(layer: AttentionLayer, x: Value) -> PlanError:
    return PlanError(
        f"{layer.softmax.label} is no attention among the tokens of '{x.name}': its queries, its keys and its values are not all made "
        "of them, one by one and in their order (attention within windows, between two sequences, or over "
        "tokens whose number changes on the way). The matrices of all layers are multiplied, so their tokens must be the same: explain a "
        "tensor behind what is in the way (--input), or use another method."
    )


def _begin(question: Question, found: _Walked, side: Sequence[AttentionLayer]) -> tuple[int | None, Grid | None, Seeds]:
    """The axis of tokens of the explained tensor, or the grid that they make of a picture; and where they are before the first layer."""
    x = question.x
    for axis in range(int(question.batched), len(x.shape or ())):
        seeds: Seeds = {x.name: {0: Spot(axis)}}
        if (question.picture is None or layout_places(question.picture) != 2) and all(_is_of(found, seeds, layer) for layer in side):
            return axis, None, seeds
    if question.picture is None:
        raise _other_tokens(side[0], x)
    for name, layer in ((name, tokens) for name, one in layers_of(question).found.items() if (tokens := one.as_tokens) is not None):
        seeds = {name: {0: Spot(layer.tokens)}}
        if all(_is_of(found, seeds, one) for one in side):
            return None, layer.tokens_of, seeds
    raise PlanError(
        f"where on the picture the tokens lie that {side[0].softmax.label} weights does not follow from the graph. Give the grid's height "
        "and width: --grid 14x14, or grid=(14, 14) in Python; or explain the embedded patches (--input)."
    )


def _is_of(found: _Walked, seeds: Seeds, layer: AttentionLayer) -> bool:
    """Whether queries, keys and values of an attention are these tokens, one by one and in their order."""
    other, product = 1 - layer.position, _scored(found, layer)
    values = matrix_axes(layer.product, other)
    wanted = [] if values is None else [(layer.product.proto.input[other], values[1])]
    for i in (0, 1):
        parts = None if product is None else matrix_axes(product, i)
        wanted += [] if product is None or parts is None else [(product.proto.input[i], parts[0])]
    if len(wanted) < 3 or any(len(axes) != 1 for _, axes in wanted):
        return False
    return any(all(_at(traces, name, axis) for name, (axis,) in wanted) for traces in found.traces(seeds))


def _at(traces: dict[str, Trace], name: str, place: int) -> bool:
    spot = traces.get(name, {}).get(0)
    return spot is not None and spot.place == place and spot.how is APART and spot.runs == 1


def _scored(found: _Walked, layer: AttentionLayer) -> NodeView | None:
    """The product of two activations that the scores of an attention are, scaled, masked or moved: queries times keys. ``None``: there is
    none, as where they are a weighted sum of one token each.
    """
    made = {name: node for node in found.path for name in node.proto.output}
    todo, seen = [layer.scores or layer.weights], set[str]()
    while todo:
        node = made.get(name := todo.pop())
        if node is None or name in seen:
            continue
        seen.add(name)
        if family_of(node) != "linear":
            todo += [n for n, wanted in zip(node.proto.input, node.wants, strict=True) if wanted]
        elif sum(node.wants) > 1 and matrix_axes(node, 0) is not None:
            return node
    return None


def _row(layer: AttentionLayer) -> int | None:
    """The axis of the product that counts the queries."""
    parts = matrix_axes(layer.product, layer.position)
    if parts is None or len(parts[0]) != 1:
        return None
    place = moved(layer.product, layer.position, parts[0][0])
    return None if place is None or place[1] is not APART else place[0]


def _last(question: Question, found: _Walked, seeds: Seeds) -> tuple[Value, int]:
    """The last tensor that all ways to the scores pass and that holds the tokens still, with their axis; else the last product."""
    crossed = separators(found.path, [question.start.name])
    for traces in found.traces(seeds):
        holding = [(n, spot.place) for n in crossed if (spot := traces.get(n, {}).get(0)) is not None and _at(traces, n, spot.place)]
        if holding:
            return question.model.value(holding[-1][0]), holding[-1][1]
    name, seed = next(iter(seeds.items()))
    return question.model.value(name), seed[0].place


def _reading(found: _Walked, last: Value, rows: int, start: str) -> str:
    """Which tokens the scores read, in words."""
    readers = [n for n in found.path if last.name in n.proto.input]
    if last.name == start:
        return "the row of the score that is explained"
    if len(readers) == 1:
        node, family = readers[0], family_of(readers[0])
        place = moved(node, 0, rows)
        spec = spec_of(node)
        sums = family == "average_pool" or (family == "reduction" and spec is not None and spec.roles is not None)
        if sums and (place is None or place[1] is SUMMED) and facts_of(node).axes is not None:
            return "the mean of all rows that are not masked"
        index = node.const(1)
        if family == "movement" and index is not None and index.size == 1 and index.dtype.kind == "i":
            which = {0: "the first row (a class token)", -1: "the last row"}.get(
                int(index.reshape(-1)[0]), f"row {int(index.reshape(-1)[0])}"
            )
            return f"{which} alone"
    return "the rows that add anything to the score (not the masked ones), in equal parts"
