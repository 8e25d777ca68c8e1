"""The layer that a class activation map is made of: found in the graph, or named by the user, and seen as [N, C, h, w]."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnxsal.ask.question import Question
from onnxsal.errors import TargetError, near_miss
from onnxsal.facts.axes import Picture, layouts
from onnxsal.facts.reach import reach
from onnxsal.graph import FLOATS, Emit, NodeView, Value
from onnxsal.graph.helpers import as_compute
from onnxsal.ops.registry import family_of

_TRAILING = frozenset({"MaxPool", "AveragePool", "LpPool", "Dropout", "Identity", "Cast"})
"""What may follow the last stage of convolutions before the picture ends; the map is taken in front of it."""

_EXTRA_TOKENS = 8
"""Class, distillation and register tokens that may stand beside the picture's own."""


@dataclass(frozen=True)
class Layer:
    """A tensor with a value per channel and place: ``picture`` are its axes (channel, height, width) if it has rank 4.

    Tokens [N, tokens, C] have a ``grid`` instead: the number of tokens before the picture's, and its height and width in tokens.
    """

    value: Value
    picture: Picture | None = None
    grid: tuple[int, int, int] | None = None

    @property
    def channels(self) -> int:
        """The axis of channels."""
        return self.picture[0] if self.picture else 2

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width, as far as known."""
        if self.grid:
            return self.grid[1:]
        assert self.picture is not None
        return self.value.dim(self.picture[1]), self.value.dim(self.picture[2])

    def __str__(self) -> str:
        kind = f", {self.grid[1]} x {self.grid[2]} tokens after {self.grid[0]} other(s)" if self.grid else ""
        return f"'{self.value.name}' {list(self.value.shape or ())}{kind}"

    def maps(self, op: Emit, value: Value) -> Value:
        """A tensor laid out like the layer (its activations, a signal at it) as [N, C, h, w]."""
        if self.grid is None:
            assert self.picture is not None
            order = [0, *self.picture]
            return value if order == [0, 1, 2, 3] else op.Transpose(value, perm=order)
        before, height, width = self.grid
        if self.value.dim(1) != height * width:
            value = op.Slice(value, [before], [before + height * width], [1])
        return op.Reshape(op.Transpose(value, perm=[0, 2, 1]), [0, 0, height, width])

    def activations(self, op: Emit) -> Value:
        """The layer itself as [N, C, h, w] in the compute type."""
        return self.maps(op, as_compute(op, self.value))


class Layers:
    """Every tensor between the explained picture and the scores that has places: stages of convolutions, and grids of tokens."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.path = reach(question.model, [question.x.name], [question.start.name]).path
        self._maker = {o: n for n in self.path for o in n.proto.output if o}

    @cached_property
    def found(self) -> dict[str, Layer]:
        """By tensor name, in forward order."""
        question, layers = self.question, {}
        if question.picture is None:
            return {}
        meaning = layouts(question.model, question.x, self.path, batched=question.batched, picture=question.picture)
        grid: tuple[int, int] | None = None
        behind: set[str] = set()  # a linear node; what comes before is the picture itself, prepared
        for node in self.path:
            y = node.outputs[0]
            if family_of(node) != "linear" and not behind.intersection(self._sources(node)):
                continue
            behind.update(node.proto.output)
            if y is None or y.name == question.start.name or y.dtype not in FLOATS or y.shape is None:
                continue
            picture = meaning[y.name].picture if y.name in meaning else None
            if picture is not None and 1 not in (y.dim(picture[1]), y.dim(picture[2])):
                layers[y.name] = layer = Layer(y, picture)
                grid = (layer.size[0] or 0, layer.size[1] or 0)
            elif (tokens := self._tokens(y, grid)) is not None:
                layers[y.name] = Layer(y, None, tokens)
        return layers

    def _tokens(self, y: Value, grid: tuple[int, int] | None) -> tuple[int, int, int] | None:
        """(other tokens in front, height, width) of [N, tokens, C]; the size is that of the patches, else a square."""
        if y.rank != 3 or y.dim(1) is None or y.dim(2) is None:
            return None
        count = y.dim(1) or 0
        if grid is None or not 0 <= count - grid[0] * grid[1] <= _EXTRA_TOKENS or not all(grid):
            side = next((s for own in (count, count - 1) if own > 1 and (s := math.isqrt(own)) ** 2 == own), None)
            if side is None:
                return None
            grid = (side, side)
        return self._in_front(count, grid), *grid

    def _in_front(self, count: int, grid: tuple[int, int]) -> int:
        """How many tokens stand before the picture's: what the Concat that adds them puts first."""
        own = grid[0] * grid[1]
        for node in self.path:
            if node.op_type == "Concat" and node.y.shape is not None and node.y.rank == 3 and int(node.attr("axis")) % 3 == 1:
                sizes = [v.dim(1) if v is not None and v.shape is not None else None for v in node.inputs]
                wanted = [i for i, v in enumerate(node.inputs) if node.want(i) and sizes[i] in (own, None)]
                if len(wanted) == 1 and all(isinstance(s, int) for s in sizes[: wanted[0]]):
                    before = sum(s for s in sizes[: wanted[0]] if s is not None)
                    if before + own <= count:
                        return before
        return count - own

    @property
    def chosen(self) -> Layer:
        """The last stage of convolutions before the picture ends in a pooling or a flattening; of tokens, the last attention's input.

        After its last attention a transformer reads the class token only, so later tokens of the picture have no gradient.
        """
        names = list(self.found)
        hits = self._frontier()
        if not hits:
            raise TargetError(
                f"no tensor between '{self.question.x.name}' and '{self.question.start.name}' is shaped like a picture or like a grid of "
                "tokens, so there is nothing to make a class activation map of. Name a tensor or node: --layer, or layer= in Python."
            )
        layer = self.found[max(hits, key=names.index)]
        if layer.grid is not None:
            return self._before_attention(layer) if layer.value.dim(1) != layer.grid[1] * layer.grid[2] else layer
        while (node := self._maker[layer.value.name]).op_type in _TRAILING and node.x.name in self.found:
            layer = self.found[node.x.name]
        return layer

    def _frontier(self) -> set[str]:
        """The layers that the scores are computed from without another layer in between."""
        hits, stack, seen = set(), [self.question.start.name], set()
        while stack:
            name = stack.pop()
            if name in seen or name not in self._maker:
                continue
            seen.add(name)
            for source in self._sources(self._maker[name]):
                if source in self.found:
                    hits.add(source)
                else:
                    stack.append(source)
        return hits

    @staticmethod
    def _sources(node: NodeView) -> list[str]:
        return [v.name for i, v in enumerate(node.inputs) if v is not None and node.want(i)]

    def _ancestors(self, names: Iterable[str]) -> set[str]:
        seen: set[str] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack += self._sources(self._maker[name]) if name in self._maker else []
        return seen

    def _before_attention(self, last: Layer) -> Layer:
        """The tokens that queries, keys and values of the last attention are all made of."""
        width = last.value.dim(2)
        for node in reversed(self.path):
            operands = self._attention_operands(node)
            if operands:
                shared = set.intersection(*(self._ancestors([name]) for name in operands))
                fitting = [v for n, v in self.found.items() if n in shared and v.grid == last.grid and v.value.dim(2) == width]
                if fitting:
                    return fitting[-1]
        return last

    def _attention_operands(self, node: NodeView) -> list[str]:
        """The weights and the values that an attention multiplies; queries, keys and values of a fused one."""
        if node.op_type == "Attention":
            return self._sources(node)
        if node.op_type != "MatMul" or len(self._sources(node)) < 2:
            return []
        made = self._maker.get(node.x.name)
        while made is not None and made.op_type in ("Dropout", "Cast", "Identity", "Where"):
            made = next((self._maker[n] for n in self._sources(made) if n in self._maker), None)
        return self._sources(node)[:2] if made is not None and made.op_type == "Softmax" else []

    def named(self, name: str) -> Layer:
        """The layer of a tensor, or of a node's first output. Raises ``TargetError`` with the candidates."""
        model = self.question.model
        nodes = {n.name: n for n in model.nodes}
        if name not in model.types and name in nodes:
            name = nodes[name].proto.output[0]
        listing = "; ".join(map(str, self.candidates)) or "none"
        if name not in model.types:
            raise TargetError(f"the model has no tensor or node '{name}'{near_miss(name, [*model.types, *nodes])}; candidates: {listing}.")
        if name in self.found:
            return self.found[name]
        value = model.value(name)
        if name not in self._maker:
            between = f"'{self.question.x.name}' and '{self.question.start.name}'"
            raise TargetError(f"layer '{name}' does not lie between {between}; candidates: {listing}.")
        if value.shape is not None and len(value.shape) == 4:
            return Layer(value, (1, 2, 3))
        shape = "of unknown rank" if value.shape is None else f"shaped {list(value.shape)}"
        raise TargetError(
            f"layer '{name}' is {shape}: neither a picture [N, C, h, w] nor a grid of tokens [N, tokens, C]; candidates: {listing}."
        )

    def pick(self, name: Any) -> Layer:
        """The layer of that name (a list with one name will do), or the chosen one where it is empty."""
        if isinstance(name, list | tuple):
            if len(name) != 1:
                raise TargetError(f"{len(name)} target layers were given ({', '.join(map(str, name))}); a map is made of one.")
            name = name[0]
        return self.named(str(name)) if name else self.chosen

    @property
    def candidates(self) -> Sequence[Layer]:
        """The chosen layer, then for every other size the last one that all paths to the scores cross, deepest first."""
        if not self.found:
            return []
        first = self.chosen
        sizes = {self.found[name].size: self.found[name] for name in self._crossed() if name in self.found}
        return [first, *(layer for layer in [*sizes.values()][::-1] if layer.size != first.size)]

    def _crossed(self) -> list[str]:
        """Tensors that every path from the explained input to the scores crosses, in forward order."""
        last_use = {source: i for i, node in enumerate(self.path) for source in self._sources(node)}
        crossed: list[str] = []
        live = {self.question.x.name}
        for i, node in enumerate(self.path):
            live |= {o for o in node.proto.output if last_use.get(o, -1) > i}
            live = {name for name in live if last_use.get(name, -1) > i}
            if len(live) == 1 and live <= set(node.proto.output):
                crossed += live
        return crossed
