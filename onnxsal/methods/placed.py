"""Evidence: a map whose places sum to the score. What tensors and biases contribute is drawn where it is, and nothing is rescaled.

At a tensor A that every path passes, ``score = <g_A, A> + sum over later nodes <g_y, r>`` with the implicit bias r of ``fullgrad``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnxsal.ask.layers import layers_of
from onnxsal.engine.plan import Step
from onnxsal.facts.reach import separators
from onnxsal.facts.tags import RESIDUAL
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import add_up, channel_sum, columns, dim_of, recast, signal_type, times
from onnxsal.methods.bias_terms import BiasTerm, Site, beyond_scores, decompose, survey, term_sum
from onnxsal.methods.build import Build, Result, over_channels, places_axes, wrap
from onnxsal.methods.maps import picture_axes, places_of, share_among_channels, sides_of, spread, without_single


@dataclass
class Canvas:
    """Where contributions lie: maps [N, *places] by their size, and what has no place on the picture, per sample [N]."""

    build: Build
    maps: dict[tuple[object, ...], list[tuple[Site, Value]]] = field(default_factory=dict)
    unplaced: list[Value] = field(default_factory=list)

    def lay(self, term: BiasTerm, weight: float, absolute: bool = False) -> None:
        """``weight`` times the term: where it is, if that is known, and what of it has no place beside it.

        ``absolute``: the absolute values of what has a place, and nothing else.
        """
        build, op = self.build, self.build.op
        small = contribution_map(build, term, absolute)
        if small is None:
            self.unplaced.append(_scaled(op, term_sum(build, term), weight))
            return
        if term.site.layout.picture is None and not absolute:  # of all tokens, only those of the picture have a place
            rest = op.Sub(term_sum(build, term), op.ReduceSum(small, places_axes(places_of(build)), keepdims=0))
            self.unplaced.append(_scaled(op, rest, weight))
        self.maps.setdefault(self._size(term.site), []).append((term.site, _scaled(op, small, weight)))

    def _size(self, site: Site) -> tuple[object, ...]:
        """What maps must share to be added before they are enlarged; a size that is not known is shared with none."""
        sides = _sides(self.build, site)
        return (site.name,) if None in sides else (site.layout.whole, *sides)

    def drawn(self) -> Value:
        """All maps at the size of the picture [N, *places], every sum kept."""
        build, op, x = self.build, self.build.op, self.build.question.x
        known, sides = [x.dim(a) for a in picture_axes(build)[1:]], sides_of(build, op)
        parts = []
        for group in self.maps.values():
            site = group[0][0]
            whole = spread(op, add_up(op, [small for _, small in group]), _sides(build, site), known, sides)
            if not site.layout.whole:
                whole = op.ReduceSum(op.Reshape(whole, op.Concat(dim_of(op, x, 0), [-1], *sides, axis=0)), [1], keepdims=0)
            parts.append(whole)
        return add_up(op, parts)


def _sides(build: Build, site: Site) -> list[int | None]:
    """Height and width of a node's picture, or of its grid of tokens."""
    picture = site.layout.picture
    if picture is not None:
        return [site.y.dim(a) for a in picture[1:]]
    return list(layers_of(build.question).found[site.y.name].size)


def _scaled(op: Emit, value: Value, weight: float) -> Value:
    return value if weight == 1.0 else op.Mul(value, weight)


def contribution_map(build: Build, term: BiasTerm, absolute: bool = False) -> Value | None:
    """``sum_k g_k r_k``, or of absolute values, at every place of a node's output -> [N, *places]; ``None``: its places are not known."""
    op, site = build.op, term.site
    node, picture = site.step.node, site.layout.picture
    layer = layers_of(build.question).found.get(site.y.name) if picture is None and site.y.rank == 3 else None
    tokens = layer if layer is not None and layer.grid is not None else None
    if picture is None and tokens is None:
        return None
    with op.at(node):
        if picture == (1, *range(2, site.y.rank)) and site.channel == 1 and not node.wild and not absolute:
            small = op.Squeeze(channel_sum(op, term.signal, site.y.shape, term.bias), [1])
        else:
            product = times(op, node, term.signal, term.bias)
            product = tokens.maps(op, product) if tokens is not None else product
            small = over_channels(op, product, 1 if picture is None else picture[0], "sum_abs" if absolute else "sum")
            small = without_single(op, small, site.layout)
        return recast(op, small, signal_type(site.y), signal_type(build.question.x))


@dataclass
class Crossing:
    """The cuts that a walk passes: additions of activations, by node, that every path from the input to the scores passes and whose
    places are known. ``met`` are these with the signals at them, last first, once the walk is done.
    """

    sites: dict[str, Site]
    names: list[str]
    met: list[BiasTerm] = field(default_factory=list)

    def visit(self, step: Step, dys: list[Value | None]) -> None:
        """The walk's visitor."""
        name, signal = step.node.name, dys[0]
        if name in self.names and signal is not None:
            self.met.append(BiasTerm(replace(self.sites[name], channel=None), signal, step.node.y))


def crossings(build: Build) -> Crossing:
    """The cuts of a question."""
    sites, steps = survey(build), build.plan().steps
    passed = set(separators([s.node for s in steps], [build.question.start.name])) - {build.question.start.name}

    def placed(site: Site) -> bool:
        return site.layout.picture is not None or (site.y.rank == 3 and site.y.name in layers_of(build.question).found)

    added = [s.node.name for s in steps if RESIDUAL in s.node.tags and s.node.y.name in passed]
    return Crossing(sites, [name for name in added if placed(sites[name])])


@wrap("evidence", keeps="completeness", shares="evidence/shares", columns=("tensors at the cuts", "biases with a place", "without a place"))
def evidence(build: Build) -> Result:
    """Map ``mean over cuts l of [up(sum_k A_l g_l) + sum over later nodes of up(sum_k g_y r)]``; attribution: shared among channels.

    The cuts are the input and the additions of activations that every path passes; ``up`` keeps the sum of a map. Residual
    ``|sum of the map + what has no place - score| / |score|``: biases of dense layers have no place, nor have other tokens than the
    picture's. Component ``evidence/shares`` [N, 3]: what tensors, biases with a place, and what has none contribute to the score.
    """
    op = build.op
    picture_axes(build)
    cuts = crossings(build)
    at_input, terms, seed = decompose(build, cuts.sites, lambda step, dys, terms: cuts.visit(step, dys))
    share = 1.0 / (1 + len(cuts.met))
    before = [1.0 - share * sum(_later(cut.site, term.site) for cut in cuts.met) for term in terms]
    tensors, biases = Canvas(build), Canvas(build)
    for cut in cuts.met:
        tensors.lay(cut, share)
    for term, weight in zip(terms, before, strict=True):
        biases.lay(term, weight)
    return _told(build, _scaled(op, over_channels(op, at_input, picture_axes(build)[0]), share), tensors, biases, seed)


def _later(cut: Site, other: Site) -> bool:
    """Whether the cut comes no earlier than the other node: its tensor holds what that node's bias adds."""
    return cut.step.node.index >= other.step.node.index


def _told(build: Build, at_input: Value, tensors: Canvas, biases: Canvas, seed: Value) -> Result:
    """The map, its law, and the parts of the score."""
    op = build.op
    own = add_up(op, [at_input, *([tensors.drawn()] if tensors.maps else [])])
    placed = biases.drawn() if biases.maps else None
    map_ = own if placed is None else op.Add(own, placed)
    without: Sequence[Value] = [*tensors.unplaced, *biases.unplaced, *beyond_scores(build, seed)]
    rest = add_up(op, without) if without else None
    along = places_axes(places_of(build))
    total = op.ReduceSum(map_, along, keepdims=0)
    residual = build.relative_error(total if rest is None else op.Add(total, rest), build.head.score)

    def parts() -> Value:
        sums = [None if m is None else op.ReduceSum(m, along, keepdims=0) for m in (own, placed)]
        assert sums[0] is not None
        return columns(op, sums[0], sums[1], rest)

    build.component("evidence/shares", parts, 2)
    return Result(share_among_channels(build, map_), residual, map_)
