"""Does a fixed place of the picture decide a class? The maps say where to look, the model says whether it is so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.exchanged import PlaceExchange, exchange_place
from onnxsal.report.audit.blocks import Block, Cell, Table
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.checks.answers import unanswered
from onnxsal.report.audit.evidence import Evidence, Lost
from onnxsal.report.audit.map_notes import GRID, cell_edges
from onnxsal.report.audit.verdict import Finding, Judgement, Outcome, Severity, Verdict, percent

FEWEST, MOST = 3, 16
"""Pictures of a class, and of other classes, that it takes to test one; and that are tested for each class, at most."""

DENSE = 1.5
"""How many times its share of the picture a place must hold of the maps to be tested."""

DECIDED = 0.5
"""Share of pictures that a place must turn into a class for the place to decide the class."""

ROWS = ("upper", "upper middle", "lower middle", "lower")
COLUMNS = ("left", "left middle", "right middle", "right")


@dataclass(frozen=True)
class Mark:
    """A ``place`` at the border (``cell``: its row and column) that was tested for class ``index``, and what exchanging it does;
    ``relevance`` is its share of the maps of the method it was ``seen_by``.
    """

    index: int
    cell: tuple[int, int]
    place: str
    seen_by: str
    relevance: float
    exchange: PlaceExchange

    @property
    def share(self) -> float:
        """Of pictures of other classes that the place turned into the class."""
        return self.exchange.copied / self.exchange.onto


def place_name(cell: tuple[int, int]) -> str:
    """A cell in words."""
    row, column = cell
    if row in (0, GRID - 1) and column in (0, GRID - 1):
        return f"{ROWS[row]} {COLUMNS[column]} corner"
    if row in (0, GRID - 1):
        return f"{ROWS[row]} border, {COLUMNS[column]}"
    return f"{COLUMNS[column]} border, {ROWS[row]}"


@dataclass(frozen=True)
class Marks(
    Check,
    name="marks",
    title="Does a place at the border decide a class?",
    seeks="a watermark or another mark at the border that decides a class",
    order=35,
    costly=True,
    of=(PICTURES, "columns have no place at a border"),
):
    """For every class that the model gives (``classes``) and that can be ``tested``: the places at the border where its maps are densest.
    Copied into pictures of other classes, a place that decides the class turns them into it.
    """

    classes: int
    tested: Sequence[int]
    rows: Sequence[Mark]

    @classmethod
    def measure(cls, evidence: Evidence) -> Marks:
        classes = sorted({p.predicted[0].index for p in evidence.pictures})
        rows: list[Mark] = []
        tested = []
        for index in classes:
            own = evidence.predicted(index)
            rest = [n for n in evidence.seen.names if n not in set(own)]
            places = _densest(evidence, own)
            if places is None or min(len(own), len(rest)) < FEWEST:
                continue
            if places:
                inside, outside = _inputs(evidence, index, own, rest)
                if min(len(inside), len(outside)) < FEWEST:
                    continue
                rows += [_tested(evidence, index, cell, *seen, inside, outside) for cell, seen in places.items()]
            tested.append(index)
        return cls(len(classes), tested, rows)

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        threshold = f"less than {percent(DECIDED)} of the pictures into which the place is copied become the class"
        count = f"{len(self.tested)} of the {self.classes} classes that the model gives could be tested"
        pictures = len(evidence.seen.names)
        worst = max(self.rows, key=lambda m: m.share, default=None)
        if not self.tested:
            words = f"{count}: it takes {FEWEST} pictures that the model takes for a class, and {FEWEST} of the same size for others"
            yield Judgement.of(None, threshold, pictures, 2 * FEWEST, words=words)
        elif worst is None:
            words = f"{count}, and there is nothing to test: no place at the border holds {DENSE} times its share of the maps of a class"
            yield Judgement(Verdict(Outcome.PASSED, "", None, threshold, pictures, 2 * FEWEST, words, ""))
        for mark in [m for m in self.rows if m.share >= DECIDED] or ([worst] if worst else []):
            wrong = self._finding(mark, evidence) if mark.share >= DECIDED else None
            words = f"{mark.place}, {evidence.class_name(mark.index)}; {count}"
            yield Judgement.of(mark.share, threshold, mark.exchange.onto, FEWEST, words=words, wrong=wrong)
        if lost := [m for m in self.rows if m.exchange.failed]:
            title = "The model fails when a place of other pictures is copied into {count}"
            yield unanswered("marks", title, [_lost(m, evidence) for m in lost], evidence)

    def _finding(self, mark: Mark, evidence: Evidence) -> Finding:
        e, name = mark.exchange, evidence.class_name(mark.index)
        lose = f" Covering it makes {e.left} of {e.covered} pictures lose the class." if e.left else ""
        return Finding(
            f"mark-{mark.index}-{mark.cell[0]}{mark.cell[1]}",
            Severity.SERIOUS,
            85 + 5 * (mark.share + e.left / e.covered),
            f"The {mark.place} decides {name}: a watermark or another mark outside the object",
            f"Copying the {mark.place} ({percent(e.area)} of the picture) of pictures of {name} into {e.onto} pictures of other classes "
            f"turns {e.copied} of them ({percent(mark.share)}) into it.{lose} {percent(mark.relevance)} of the maps by {mark.seen_by} "
            "lie there.",
            "Look at that place in the pictures named here: what is there (a logo, a date, a frame) is not what the class means. Remove "
            "it from the training pictures, or put it into pictures of every class, and train again.",
            evidence.predicted(mark.index),
        )

    def show(self, evidence: Evidence) -> Iterator[Block]:
        heads = ("Class", "Place", "Seen by", "#Share of the maps", "Turned into the class", "Lost the class when covered")
        rows = [
            (
                evidence.class_name(m.index),
                m.place,
                m.seen_by,
                m.relevance,
                Cell(f"{m.exchange.copied} of {m.exchange.onto}", m.share, "wrong" if m.share >= DECIDED else ""),
                Cell(f"{m.exchange.left} of {m.exchange.covered}", m.exchange.left / m.exchange.covered),
            )
            for m in self.rows
        ]
        if rows:
            yield Table("Places at the border that were copied into pictures of other classes", heads, rows)


def _densest(evidence: Evidence, names: Sequence[str]) -> dict[tuple[int, int], tuple[str, float]] | None:
    """For each method the cell at the border that holds most of the maps of a class, if it holds clearly more than its share: the cell,
    the method and the share. ``None`` where the class has no map.
    """
    places: dict[tuple[int, int], tuple[str, float]] = {}
    maps = evidence.seen.maps
    cells = {w.name: [maps[w.name, n]["cells"] for n in names if (w.name, n) in maps] for w in evidence.ways}
    for way in (w for w, rows in cells.items() if rows):
        mean = np.mean(cells[way], 0).reshape(GRID, GRID)
        mean[1:-1, 1:-1] = 0
        cell, share = divmod(int(mean.argmax()), GRID), float(mean.max())
        if share >= DENSE / GRID**2 and share > places.get(cell, ("", 0.0))[1]:
            places[cell] = (way, share)
    return places if any(cells.values()) else None


def _inputs(evidence: Evidence, index: int, *groups: Sequence[str]) -> list[list[np.ndarray]]:
    """Some pictures of a class, and some of others, all of the shape of its first one, as the model takes them."""
    rng = np.random.default_rng([evidence.request.seed, index])
    drawn = [[names[i] for i in sorted(rng.permutation(len(names))[:MOST])] for names in groups]
    read = [[s.x for s in evidence.data.samples(names)] for names in drawn]
    return [[x for x in part if x.shape == read[0][0].shape] if read[0] else [] for part in read]


def _tested(
    evidence: Evidence, index: int, cell: tuple[int, int], way: str, share: float, inside: list[np.ndarray], outside: list[np.ndarray]
) -> Mark:
    own, others, scorer = np.concatenate(inside), np.concatenate(outside), evidence.own.scorer
    edges = [(int(e[i]), int(e[i + 1])) for i, e in zip(cell, map(cell_edges, scorer.places(own).shape), strict=True)]
    return Mark(index, cell, place_name(cell), way, share, exchange_place(own, others, edges, index, scorer))


def _lost(mark: Mark, evidence: Evidence) -> Lost:
    e = mark.exchange
    why = f"no answer to {e.failed} of {e.onto + e.covered} pictures made so"
    return Lost("marks", "", evidence.predicted(mark.index), why)
