"""Where on the explained picture inner tensors come from, and which of them hold a grid of tokens: found by data flow, never guessed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.facts.axes import Picture, with_batch
from onnxsal.facts.solve import forward
from onnxsal.graph import Model, NodeView, Value
from onnxsal.graph.infer import infer
from onnxsal.graph.model import captured
from onnxsal.ops.places import Places, nowhere, places
from onnxsal.ops.registry import facts_of

LOST = Places((), nowhere(0))
"""Of a tensor that depends on the picture in a way that is not followed: sizes known at run time only, a choice that depends on values."""


@dataclass(frozen=True)
class Grid:
    """Tokens in rows and columns, ``sizes`` of them (height and width; one number of a series, three of a volume): ``order`` are their
    numbers among ``count`` tokens, row by row.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]
    count: int

    @property
    def before(self) -> int | None:
        """How many other tokens stand in front, where the grid's own follow each other in order; else ``None``."""
        first = self.order[0]
        return first if self.order == tuple(range(first, first + len(self.order))) else None

    def __str__(self) -> str:
        others = self.count - len(self.order)
        if self.before is None:
            where = f"in another order, among {others} other(s)" if others else "in another order"
        else:
            behind = others - self.before
            where = f"after {self.before} other(s)" + (f" and before {behind}" if behind else "")
        return f"{' x '.join(map(str, self.sizes))} tokens {where}"


class Flow:
    """Places along ``path``, which starts at ``x``; one sample stands for all of a batch whose size is open."""

    def __init__(self, model: Model, x: Value, path: Sequence[NodeView], *, batched: bool) -> None:
        self.view = _of_one_sample(model, x) if batched and x.shape and not isinstance(x.shape[0], int) else model
        self.path = [_seen_in(self.view, node) for node in path]

    def from_picture(self, x: str, picture: Picture) -> dict[str, Places]:
        """The places of every tensor that depends on the picture, series or volume ``x``: each pixel is a place of its own."""
        shape = self.view.value(x).static
        if shape is None:
            return self.solve({x: LOST})
        along = picture[1:]
        at = np.zeros((len(picture), *(d if a in along else 1 for a, d in enumerate(shape))))
        for k, axis in enumerate(along):
            at[k] = np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - 1 - axis))
        return self.solve({x: places(shape, at)})

    def reaches(self, seeds: Mapping[str, Places], target: str) -> tuple[bool, bool] | None:
        """Whether the elements of ``seeds`` that have places reach any, and whether they reach every element of ``target``.

        ``None`` where it cannot be told.
        """
        found = self.solve(seeds).get(target)
        if found is None:
            return False, False
        return None if found is LOST else (bool((found.spread >= 0).any()), bool((found.spread >= 0).all()))

    def solve(self, seeds: Mapping[str, Places]) -> dict[str, Places]:
        """The places of all that depends on ``seeds``, whose own places are taken as given."""

        def step(node: NodeView, of: Callable[[int], Places | None]) -> Sequence[Places | None]:
            parts = [of(i) if node.want(i) else None for i in range(len(node.proto.input))]
            inner = any(name in self.reached for name in captured(node.proto))
            if all(p is None for p in parts) and not inner:
                found: Sequence[Places | None] = []
            elif inner or any(p is LOST for p in parts):
                found = [LOST] * len(node.proto.output)
            else:
                rule = facts_of(node).places
                made = None if rule is None else rule(node, parts)
                outputs = [made] if made is None or isinstance(made, Places) else made
                found = [LOST if p is None else p for p in outputs]
                found = [*found, *[LOST] * (len(node.proto.output) - len(found))]
            self.reached.update(name for name, p in zip(node.proto.output, found, strict=False) if p is not None)
            return [seeds.get(name, p) for name, p in zip(node.proto.output, found, strict=False)]

        self.reached = set(seeds)
        return forward(self.path, seeds, step)


def token_grid(found: Places, axis: int) -> Grid | None:
    """The grid of the tokens along ``axis``: those with the sharpest places, if these are all of h x w rows and columns (of a series or a
    volume likewise) and nothing else varies; the others (class tokens and the like) have no place, or come from everywhere.
    """
    count = found.shape[axis]
    at = np.moveaxis(found.at, axis + 1, -1).reshape(len(found.at), -1)
    if found.at.shape[axis + 1] != count or at.shape[1] != count:
        return None
    spread = np.where(at[-1] < 0, np.inf, at[-1])
    own = np.flatnonzero((spread == spread.min()) & np.isfinite(spread))
    lines = [np.unique(line) for line in at[:-1, own]]
    order = own[np.lexsort(at[-2::-1, own])]
    wanted = np.stack(np.meshgrid(*lines, indexing="ij")).reshape(found.count, -1)
    if len(own) < 2 or wanted.shape[1] != len(own) or np.any(at[:-1, order] != wanted):
        return None
    return Grid(tuple(map(len, lines)), tuple(map(int, order)), count)


def picture_axes(found: Places) -> Picture | None:
    """(channel, *places) of a tensor [N, ...] whose rows are different places along one axis, its columns along another, and so on."""
    rank, count = len(found.shape), found.count
    if rank != count + 2 or found.at.shape[1] > 1 or not found.at.size:
        return None
    varying = [[a for a in range(1, rank) if np.any(found.at[k] != found.at[k].take([0], a))] for k in range(count)]
    along = [v[0] for v in varying if len(v) == 1]
    if len(along) < count or len(set(along)) < count:
        return None
    (channel,) = set(range(1, rank)) - set(along)
    return (channel, *along) if all(np.all(np.diff(found.at[k], axis=a) > 0) for k, a in enumerate(along)) else None


def marked(shape: Sequence[int], order: Sequence[int], axis: int) -> Places:
    """A tensor in which the elements ``order`` along ``axis`` have places, and the others none: to see what these reach."""
    at = np.repeat(nowhere(len(shape)), shape[axis], axis + 1)
    np.moveaxis(at, axis + 1, 1)[2, list(order)] = 0
    return places(shape, at)


def _of_one_sample(model: Model, x: Value) -> Model:
    """The model as it is for one sample: the same nodes and weights, sizes in numbers."""
    assert x.shape
    light = with_batch(model.proto, x.name, x.shape[0], 1)
    known = infer(light)
    view = Model(light)
    view.__dict__["inferred"] = known
    for entry in [e for e in light.graph.input if e.name in model.initializers and not model.overridable(e.name)]:
        light.graph.input.remove(entry)
    view.initializers = model.initializers
    return view


def _seen_in(view: Model, node: NodeView) -> NodeView:
    """The node with the sizes of ``view``."""
    seen = copy.copy(node)
    seen.model = view
    for name in ("inputs", "outputs"):
        seen.__dict__.pop(name, None)
    return seen
