"""Does a fixed place of the picture decide a class? The maps say where to look, the model says whether it is so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.metrics.dataset import Dataset, Sample
from onnxsal.metrics.scorer import Scorer
from onnxsal.report.audit_look import GRID, Seen, cell_edges

FEWEST = 3
"""Pictures of a class, and of other classes, that it takes to test one."""

MOST = 16
"""Pictures that are tested for each class, at most."""

DENSE = 1.5
"""How many times its share of the picture a place must hold of the maps to be tested."""

ROWS = ("upper", "upper middle", "lower middle", "lower")
COLUMNS = ("left", "left middle", "right middle", "right")


@dataclass(frozen=True)
class Mark:
    """A place at the border that was tested for a class: ``relevance`` is its share of the maps, ``area`` of the picture; ``copied``
    of ``onto`` pictures of other classes became the class when the place was copied into them; ``left`` of ``covered`` pictures of
    the class left it when the place was replaced by that of another picture; on ``failed`` of all these the model gave no answer.
    ``seen_by`` is the method whose maps led there.
    """

    cls: int
    cell: tuple[int, int]
    place: str
    seen_by: str
    relevance: float
    area: float
    copied: int
    onto: int
    left: int
    covered: int
    failed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"class": self.cls, **{k: v for k, v in self.__dict__.items() if k != "cls"}, "cell": list(self.cell)}


def place_name(cell: tuple[int, int]) -> str:
    """A cell in words."""
    row, column = cell
    if row in (0, GRID - 1) and column in (0, GRID - 1):
        return f"{ROWS[row]} {COLUMNS[column]} corner"
    if row in (0, GRID - 1):
        return f"{ROWS[row]} border, {COLUMNS[column]}"
    return f"{COLUMNS[column]} border, {ROWS[row]}"


def find_marks(seen: Seen, ways: Sequence[str], data: Dataset, scorer: Scorer, seed: int = 0) -> list[Mark]:
    """Test, for every predicted class with enough pictures, the places at the border where its maps are densest."""
    by_class: dict[int, list[str]] = defaultdict(list)
    for name in seen.names:
        by_class[seen.base[name]["top"][0][0]].append(name)
    found = []
    for cls, names in sorted(by_class.items()):
        rest = [n for n in seen.names if n not in set(names)]
        if len(names) < FEWEST or len(rest) < FEWEST:
            continue
        places = _densest(seen, ways, names)
        if places:
            rng = np.random.default_rng([seed, cls])
            found += _tested(places, cls, _read(data, names, rng), _read(data, rest, rng), scorer)
    return found


def _densest(seen: Seen, ways: Sequence[str], names: Sequence[str]) -> dict[tuple[int, int], tuple[str, float]]:
    """For each way the cell at the border that holds most of the maps of a class, if it holds clearly more than its share."""
    places: dict[tuple[int, int], tuple[str, float]] = {}
    for way in ways:
        rows = [seen.maps[way, n]["cells"] for n in names if (way, n) in seen.maps]
        if not rows:
            continue
        mean = np.mean(rows, 0).reshape(GRID, GRID)
        mean[1:-1, 1:-1] = 0
        row, column = np.unravel_index(int(mean.argmax()), mean.shape)
        share = float(mean.max())
        cell = (int(row), int(column))
        if share >= DENSE / GRID**2 and share > places.get(cell, ("", 0.0))[1]:
            places[cell] = (way, share)
    return places


def _read(data: Dataset, names: Sequence[str], rng: np.random.Generator) -> list[Sample]:
    kept = [names[i] for i in sorted(rng.permutation(len(names))[:MOST])]
    samples = []
    for name in kept:
        try:
            samples.append(data.read(name))
        except InputError:  # it was whole a moment ago; the report is about what was seen then
            continue
    return samples


def _tested(
    places: dict[tuple[int, int], tuple[str, float]], cls: int, inside: list[Sample], outside: list[Sample], scorer: Scorer
) -> list[Mark]:
    shape = inside[0].x.shape if inside else ()
    inside = [s for s in inside if s.x.shape == shape]
    outside = [s for s in outside if s.x.shape == shape]
    if len(inside) < FEWEST or len(outside) < FEWEST:
        return []
    own, others = (np.concatenate([s.x for s in part]) for part in (inside, outside))
    found = []
    for cell, (way, share) in places.items():
        axes = scorer.places(own).axes(own)
        cut = [slice(None)] * own.ndim
        for axis, number in zip(axes, cell, strict=True):
            edges = cell_edges(own.shape[axis])
            cut[axis] = slice(int(edges[number]), int(edges[number + 1]))
        where = tuple(cut)
        onto = others.copy()
        onto[where] = own[np.arange(len(others)) % len(own)][where]
        covered = own.copy()
        covered[where] = others[np.arange(len(own)) % len(others)][where]
        became, stayed = scorer.answers(onto), scorer.answers(covered)
        copied, failed = int((became == cls).sum()), int((became < 0).sum() + (stayed < 0).sum())
        left = int(((stayed != cls) & (stayed >= 0)).sum())
        area = float(np.prod([cut[a].stop - cut[a].start for a in axes]) / np.prod([own.shape[a] for a in axes]))
        found.append(Mark(cls, cell, place_name(cell), way, share, area, copied, len(others), left, len(own), failed))
    return found
