"""The layer that a class activation map is made of: found in the graph, or named by the user, and seen as [N, C, *places]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

from onnxsal.ask.place import BOX
from onnxsal.ask.question import Question
from onnxsal.errors import TargetError, near_miss
from onnxsal.facts.axes import Layout, Picture, layouts
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.places import LOST, Flow, Grid, marked, picture_axes, token_grid
from onnxsal.facts.reach import reach, separators
from onnxsal.facts.solve import ancestors
from onnxsal.graph import FLOATS, Emit, NodeView, Value
from onnxsal.graph.helpers import as_compute
from onnxsal.ops.places import Places, everywhere, unplaced
from onnxsal.ops.registry import facts_of, family_of, spec_of

_UNMIXED = frozenset({"movement", "activation", "elementwise", "add", "product", "select", "quantize", "softmax", "normalization"})
"""Families after which an element is still the same element."""


LAID = {1: "a series [N, C, l]", 2: "a picture [N, C, h, w]", 3: "a volume [N, C, d, h, w]"}
"""How a layer is laid out that is no grid of tokens, by the number of axes of places."""


@dataclass(frozen=True)
class TargetLayer:
    """A tensor with a value per channel and place: ``picture`` are its axes (channel, *places) if it is laid out in these.

    A tensor of tokens has a ``grid`` of them along the axis ``tokens`` instead; ``samples`` is its axis of samples.
    """

    value: Value
    picture: Picture | None = None
    tokens_of: Grid | None = None
    tokens: int = 1
    samples: int = 0

    @property
    def channels(self) -> int:
        """The axis of channels."""
        if self.picture is None:
            return 3 - self.tokens - self.samples
        assert self.picture[0] is not None
        return self.picture[0]

    @property
    def grid(self) -> tuple[int, ...] | None:
        """The number of tokens before the picture's (of all others, where these stand among them), and its height and width in tokens (or
        other places, of a series or volume).
        """
        own = self.tokens_of
        if own is None:
            return None
        return own.count - len(own.order) if own.before is None else own.before, *own.sizes

    @property
    def size(self) -> tuple[int | None, ...]:
        """The number of places along each axis of them, as far as known."""
        if self.tokens_of is not None:
            return self.tokens_of.sizes
        assert self.picture is not None
        return tuple(self.value.dim(a) for a in self.picture[1:])

    def __str__(self) -> str:
        return f"'{self.value.name}' {list(self.value.shape or ())}{f', {self.tokens_of}' if self.tokens_of else ''}"

    def of(self, value: Value) -> TargetLayer:
        """The same layer in another run of the model, where it is called ``value``."""
        return replace(self, value=value)

    @property
    def as_tokens(self) -> TargetLayer | None:
        """The layer as a grid of tokens; of a series [N, l, C] each place is one. ``None`` where it holds none."""
        if self.tokens_of is not None:
            return self
        count = self.value.dim(1) if self.picture == (2, 1) else None
        return None if count is None else TargetLayer(self.value, None, Grid((count,), tuple(range(count)), count))

    def places(self, shape: Sequence[int]) -> Places:
        """Its own elements are marked with a place, other tokens are not."""
        if self.tokens_of is None:
            return everywhere(shape)
        return marked(shape, self.tokens_of.order, self.tokens)

    def maps(self, op: Emit, value: Value) -> Value:
        """A tensor laid out like the layer (its activations, a signal at it) as [N, C, *places]."""
        own = self.tokens_of
        if own is None:
            assert self.picture is not None
            order = [0, self.channels, *self.picture[1:]]
            return value if order == sorted(order) else op.Transpose(value, perm=order)
        if own.before is None:
            value = op.Gather(value, op.const(list(own.order)), axis=self.tokens)
        elif own.count != len(own.order):
            value = op.Slice(value, [own.before], [own.before + len(own.order)], [self.tokens])
        perm = [self.samples, self.channels, self.tokens]
        value = value if perm == [0, 1, 2] else op.Transpose(value, perm=perm)
        return op.Reshape(value, [0, 0, *own.sizes])

    def activations(self, op: Emit) -> Value:
        """The layer itself as [N, C, *places] in the compute type."""
        return self.maps(op, as_compute(op, self.value))


def _trails(node: NodeView) -> bool:
    """Whether a node may follow the last stage of convolutions before the picture ends: a pool, or a copy. The map is taken in front."""
    spec = spec_of(node)
    pools = facts_of(node).pictures and family_of(node) in ("max_pool", "average_pool", "reduction")
    return pools or (spec is not None and spec.keeps == "place")


class Layers:
    """Every tensor between the explained picture and the scores that has places: stages of convolutions, and grids of tokens."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.path = reach(question.model, [question.x.name], [question.start.name]).path
        self._maker = {o: n for n in self.path for o in n.proto.output if o}

    @cached_property
    def flow(self) -> Flow:
        """Data flow between the explained picture and the scores."""
        model, x, batched = self.question.model, self.question.x, self.question.batched
        return model.once(("flow", x.name, self.question.start.name, batched), lambda: Flow(model, x, self.path, batched=batched))

    @cached_property
    def places(self) -> dict[str, Places]:
        """Where on the picture each tensor comes from."""
        x, picture, flow = self.question.x.name, self.question.picture, self.flow
        if picture is None:
            return {}
        return self.question.model.once(("places", flow, picture), lambda: flow.from_picture(x, picture))

    @cached_property
    def found(self) -> dict[str, TargetLayer]:
        """By tensor name, in forward order."""
        question, layers = self.question, {}
        if question.picture is None:
            return {}
        meaning = layouts(question.model, question.x, self.path, batched=question.batched, picture=question.picture)
        for y in self._behind_linear:
            layer = self._layer(y, meaning.get(y.name))
            if layer is not None:
                layers[y.name] = layer
        return layers

    @cached_property
    def _behind_linear(self) -> list[Value]:
        """First outputs behind a linear node; what comes before is the picture itself, prepared. Nor are the scores themselves, in another
        order or through functions of single elements, a layer.
        """
        behind: set[str] = set()
        scores = ancestors(self.question.model, [self.question.start.name], self._unmixed)
        values = []
        for node in self.path:
            if family_of(node) == "linear" or behind.intersection(self._sources(node)):
                behind.update(node.proto.output)
                y = node.outputs[0]
                if y is not None and y.name not in scores and y.dtype in FLOATS and y.shape is not None:
                    values.append(y)
        return values

    def _unmixed(self, node: NodeView) -> list[str]:
        """What the node reads, unless it sums over elements."""
        own = self._maker.get(node.proto.output[0]) if family_of(node) in _UNMIXED else None
        return [] if own is None else self._sources(own)

    def _layer(self, y: Value, layout: Layout | None) -> TargetLayer | None:
        """The tensor as a layer, if it is one: a picture by its layout or by its places, tokens by their places."""
        known = self.places.get(y.name)
        known = None if known is LOST else known
        given, places = self.question.grid, len(self.question.places)
        if y.rank == places + 2 and given is None:
            picture = layout.picture if layout is not None else None
            in_front = not self.question.batched or (layout is not None and layout.samples == 0 and layout.whole)
            by_places = picture_axes(known) if known is not None and in_front else None
            picture = by_places or picture
            if picture is not None and not self._summed(y, picture) and not self._joined(known, picture):
                return TargetLayer(y, picture)
        if y.rank == 3:
            samples = 0 if not self.question.batched else layout.samples if layout is not None and layout.whole else None
            if samples is None or (not self.question.batched and y.dim(0) != 1):
                return None
            for axis in (a for a in range(3) if a != samples):
                grid = token_grid(known, axis) if known is not None else self._told(y, samples, axis)
                if grid is not None and given in (None, grid.sizes):
                    return TargetLayer(y, None, grid, axis, samples)
        return None

    def _summed(self, y: Value, picture: Picture) -> bool:
        """Whether the places along an axis (of a volume along two) are summed up to one: a layer lies in front of that."""
        one = [y.dim(a) == 1 != self.question.x.dim(b) for a, b in zip(picture[1:], self.question.places, strict=True)]
        return sum(one) > (1 if len(one) == 3 else 0)

    @staticmethod
    def _joined(known: Places | None, picture: Picture) -> bool:
        """Whether other tokens, such as a class token, stand along the one axis of places of a series."""
        grid = token_grid(known, picture[1]) if known is not None and len(picture) == 2 else None
        return grid is not None and len(grid.order) < grid.count

    def _told(self, y: Value, samples: int, axis: int) -> Grid | None:
        """The grid that the user tells, for tokens whose places are not known: these must be all that there are."""
        given, count = self.question.grid, self.flow.view.value(y.name).dim(axis)
        if count is None or given is None or y.name not in self.places or axis != (0 if samples else 1) or count != given[0] * given[1]:
            return None
        return Grid(given, tuple(range(count)), count)

    @cached_property
    def chosen(self) -> TargetLayer:
        """The last stage of convolutions before the picture ends in a pooling or a flattening; of tokens, the last that all of the grid
        passes on its way to the scores.

        After its last attention a transformer reads the class token only: later tokens of the picture do not reach the scores.
        """
        hits = self._frontier()
        if not hits:
            self._no_layer()
        layer = self._within(self._last([*hits]))
        self._no_doubt(layer)
        while _trails(node := self._maker[layer.value.name]) and node.x.name in self.found and layer.grid is None:
            layer = self.found[node.x.name]
        return layer

    def _no_layer(self) -> NoReturn:
        given, start = self.question.grid, f"between '{self.question.x.name}' and '{self.question.start.name}'"
        if given is not None:
            tokens = [y for y in self._behind_linear if y.rank == 3]
            proved = {g for y in tokens if (p := self.places.get(y.name)) not in (None, LOST) for a in (0, 1, 2) if (g := token_grid(p, a))}
            sizes = ", ".join(sorted({f"{' x '.join(map(str, g.sizes))} ({g.count} tokens)" for g in proved}))
            counts = ", ".join(sorted({str(list(y.shape or ())) for y in tokens})) or "none"
            unknown = f"Tensors of rank 3: {counts}; where their tokens come from is not known, so a grid must account for all of them."
            known = f"Grids that the graph proves: {sizes}." if sizes else unknown
            raise TargetError(f"grid={given}: no tensor {start} holds {given[0]} x {given[1]} tokens. {known}")
        self._no_doubt(None)
        raise TargetError(
            f"no tensor {start} is shaped like a picture or like a grid of "
            "tokens, so there is nothing to make a class activation map of. Name a tensor or node: --layer, or layer= in Python."
        )

    def _no_doubt(self, layer: TargetLayer | None) -> None:
        """Behind the layer there must be no tokens whose grid is not known: they would be the layer."""
        begin = -1 if layer is None else self._maker[layer.value.name].index
        for y in self._behind_linear:
            node = self._maker[y.name]
            if y.rank == 3 and node.index > begin and self.places.get(y.name) is LOST and family_of(node) == "linear" and y.dim(1) != 1:
                raise TargetError(
                    f"'{y.name}' {list(y.shape or ())} may be a grid of tokens, but where on the picture each of them lies does not follow "
                    "from the graph (sizes known at run time only, or a choice that depends on values). Give the grid's height and width: "
                    "--grid 14x14, or grid=(14, 14) in Python, or name a layer of convolutions: --layer."
                )

    def _last(self, hits: list[str]) -> TargetLayer:
        """Of the last layers the one that every score depends on; else the last layer of all that every score depends on.

        A layer is not taken if no score depends on it.
        """
        if len(hits) == 1 and self._reaches(hits[0])[0]:
            return self.found[hits[0]]
        for among, every in (({*hits}, 1), (self.found, 1), (self.found, 0)):
            # from the end, and no farther than needed: each is a walk through the whole model
            name = next((n for n in reversed(self._by_depth) if n in among and self._reaches(n)[every]), None)
            if name is not None:
                break
        else:
            self._no_layer()
        last = self.found[name]
        if last.grid is None:
            return last
        crossed = (n for n in reversed(self._crossed()) if n in among and self.found[n].size == last.size and self._reaches(n)[every])
        return self.found[next(crossed, name)]

    @cached_property
    def _depth(self) -> dict[str, int]:
        """The number of linear nodes on the longest way to each tensor, which no exporter changes."""
        depth: dict[str, int] = {}
        for node in self.path:
            own = max((depth.get(source, 0) for source in self._sources(node)), default=0) + (family_of(node) == "linear")
            depth.update(dict.fromkeys(node.proto.output, own))
        return depth

    @cached_property
    def _by_depth(self) -> list[str]:
        """Layers by their depth, then in forward order."""
        return sorted(self.found, key=lambda name: self._depth[name])

    @cached_property
    def patches(self) -> TargetLayer:
        """The patch embedding [N, tokens, D]: of the grids of tokens that all paths to the scores cross, those with the fewest linear
        nodes before them, and the last of these: with positions and class tokens, before any attention.
        """
        found = [self.found[name].as_tokens for name in self._crossed() if name in self.found]
        crossed = [layer for layer in found if layer is not None and layer.tokens == 1]
        if not crossed:
            self._no_doubt(None)
            between = f"'{self.question.x.name}' and '{self.question.start.name}'"
            raise TargetError(f"the picture is not cut into tokens: no tensor between {between} that all paths cross is a grid of them.")
        least = min(self._depth[layer.value.name] for layer in crossed)
        return [layer for layer in crossed if self._depth[layer.value.name] == least][-1]

    def _reaches(self, name: str, without: str = "") -> tuple[bool, bool]:
        """Whether any score depends on the layer's own elements, and whether every one does (not by way of the tensor ``without``)."""
        view, layer = self.flow.view, self.found[name]
        shapes = [view.value(n).static for n in (name, without) if n]
        if any(shape is None for shape in shapes):
            return not without or name == without, True
        seeds = {n: layer.places(s) if n == name else unplaced(s) for n, s in zip((name, without), shapes, strict=False) if s is not None}
        return self.flow.reaches(seeds, self.question.start.name) or (True, True)

    def _within(self, last: TargetLayer) -> TargetLayer:
        """The last tokens, as wide as ``last``, by way of which alone the tokens of ``last`` reach the scores: behind the norm in front of
        the last attention, of whichever nodes that is made.
        """
        if last.tokens_of is None:
            return last
        names = list(self.found)
        for name in reversed(names[names.index(last.value.name) + 1 :]):
            layer = self.found[name]
            same = layer.tokens_of == last.tokens_of and layer.value.dim(layer.channels) == last.value.dim(last.channels)
            if same and not self._reaches(last.value.name, without=name)[0] and self._reaches(name)[0]:
                return layer
        return last

    def found_out(self, name: Any = "") -> tuple[Found, ...]:
        """The layer (the one ``name`` names, if any) and its grid, and how they are known."""
        layer = self.pick(name)
        ground = Ground.TOLD if name else Ground.PROVED
        why = "" if name else "the last before the picture's places are summed up" if layer.picture else "the last that all tokens pass"
        entries = [Found("layer", f"'{layer.value.name}' {list(layer.value.shape or ())}", ground, why)]
        if layer.tokens_of is not None:
            told = self.places.get(layer.value.name) is LOST
            why = "" if told else "followed from the picture to its tokens"
            entries.append(Found("grid", str(layer.tokens_of), Ground.TOLD if told else Ground.PROVED, why))
        return tuple(entries)

    def _frontier(self) -> dict[str, None]:
        """The layers that the scores are computed from without another layer in between."""
        hits, stack, seen = dict[str, None](), [self.question.start.name], set()
        while stack:
            name = stack.pop()
            if name in seen or name not in self._maker:
                continue
            seen.add(name)
            for source in self._sources(self._maker[name]):
                if source in self.found:
                    hits[source] = None
                else:
                    stack.append(source)
        return hits

    @staticmethod
    def _sources(node: NodeView) -> list[str]:
        return [v.name for i, v in enumerate(node.inputs) if v is not None and node.want(i)]

    def named(self, name: str) -> TargetLayer:
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
        places = len(self.question.places)
        if value.shape is not None and len(value.shape) == places + 2:
            return TargetLayer(value, (1, *range(2, places + 2)))
        shape = "of unknown rank" if value.shape is None else f"shaped {list(value.shape)}"
        raise TargetError(f"layer '{name}' is {shape}: neither {LAID[places]} nor a grid of tokens [N, tokens, C]; candidates: {listing}.")

    def every(self, name: Any) -> list[TargetLayer]:
        """The layers of those names (a list, or names with commas between them); without any the chosen one, or where a box is explained
        the last of each scale that its score may come from.
        """
        if isinstance(name, str) and "," in name and name not in self.question.model.types:
            name = [part.strip() for part in name.split(",")]
        if isinstance(name, list | tuple) and len(name) > 1:
            return [self.named(str(one)) for one in name]
        reading = self.question.reading
        scales = self._frontier() if not name and reading is not None and reading.kind == BOX else {}
        found = [self.found[one] for one in self.found if one in scales and self._reaches(one)[0]]
        return found if len(found) > 1 else [self.pick(name)]

    def pick(self, name: Any) -> TargetLayer:
        """The layer of that name (a list with one name will do), or the chosen one where it is empty."""
        if isinstance(name, list | tuple):
            if len(name) != 1:
                raise TargetError(f"{len(name)} target layers were given ({', '.join(map(str, name))}); a map is made of one.")
            name = name[0]
        return self.named(str(name)) if name else self.chosen

    @property
    def candidates(self) -> Sequence[TargetLayer]:
        """The chosen layer, then for every other size the last one that all paths to the scores cross, deepest first."""
        if not self.found:
            return []
        first = self.chosen
        sizes = {self.found[name].size: self.found[name] for name in self._crossed() if name in self.found}
        return [first, *(layer for layer in [*sizes.values()][::-1] if layer.size != first.size)]

    def _crossed(self) -> list[str]:
        """Tensors that every path from the explained input to the scores crosses, in forward order."""
        return separators(self.path, [self.question.start.name])


def layers_of(question: Question) -> Layers:
    """The layers of a question, found once: several parts of a conversion ask for them."""
    key = ("layers", question.x.name, question.start.name, question.picture, question.samples, question.grid, question.reading)
    return question.model.once(key, lambda: Layers(question))
