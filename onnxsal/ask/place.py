"""Targets that name a place: a box of a detector, a pixel of a segmenter, the pixels that a segmenter gives to a class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnxsal.errors import TargetError
from onnxsal.runtime.labels import find_label

BOX, POINT, MASK = "box", "point", "mask"

ROW = 2**20
"""A pixel as one number: its row times this, and its column. No picture is as wide."""

SPELLED = re.compile(
    r"(?:(?:class:)?(?P<name>.+)@)?"
    r"(?:box[: ](?P<box>\d{1,12}|\*)|point[: ](?P<row>\d{1,6})\s*,\s*(?P<column>\d{1,6})|(?P<mask>mask))",
    re.ASCII,
)

HOW = (
    "box:3 (the box of that number in the model's own list), point:120,80 (the pixel in that row and column), class:dog@mask (all pixels "
    "that the model gives to that class); class:dog@box:3 and class:dog@point:120,80 name a class there. 'class:' may be left out, and a "
    "blank may stand for the other colon"
)


def place_text(kind: str, number: int) -> str:
    """A number as it is spelled behind the kind of place."""
    return f"{number // ROW},{number % ROW}" if kind == POINT else str(number)


@dataclass(frozen=True)
class Place:
    """``kind`` is "box", "point" or "mask"; ``number`` says which one (a mask: the class; ``None``: every box), ``of`` the class whose
    score is explained there (``None``: the best one).
    """

    kind: str
    number: int | None
    of: int | None = None
    names: tuple[str, ...] | None = field(default=None, compare=False)
    """Names of the classes, where they are known: how many there are tells where a raw head keeps scores."""

    @property
    def text(self) -> str:
        """In words."""
        there = {BOX: "a box", POINT: "a pixel", MASK: "a mask"}[self.kind]
        return there if self.kind == MASK or self.of is None else f"class {self.of} of {there}"

    @property
    def asks(self) -> tuple[str, int | None]:
        """What a model is converted for; the number is told in each run."""
        return self.kind, None if self.kind == MASK else self.of


def places_of(target: object, labels: Sequence[str] | None = None) -> tuple[Place, ...]:
    """The places that a target names, one or a list of them; none where it names classes.

    Raises ``TargetError`` for what begins like a place and is none, for places of several kinds, and for a class without a label.
    """
    given = [target] if isinstance(target, str) else target if isinstance(target, list | tuple) else []
    if not given or not all(isinstance(one, str) for one in given):
        return ()
    names = None if labels is None else tuple(labels)
    found = tuple(replace(place, names=names) for one in given if (place := _place(str(one), labels)) is not None)
    if not found:
        return ()
    if len(found) < len(given) or len({place.asks for place in found}) > 1 or (len(found) > 1 and None in {p.number for p in found}):
        raise TargetError(f"target {list(given)} names places of several kinds; name one kind at a time: {HOW}.")
    return found


def _place(text: str, labels: Sequence[str] | None) -> Place | None:
    match = SPELLED.fullmatch(text.strip())
    if match is None:
        if re.match(r"(?:box|point)\s*:|mask$|class:.*@", text.strip()):
            raise TargetError(f"target '{text}' names no place: {HOW}.")
        return None
    of = None if match["name"] is None else _class(match["name"], labels)
    if match["box"] is not None:
        return Place(BOX, None if match["box"] == "*" else int(match["box"]), of)
    if match["row"] is not None:
        return Place(POINT, int(match["row"]) * ROW + int(match["column"]), of)
    if of is None:
        raise TargetError(f"target '{text}' names no class: {HOW}.")
    return Place(MASK, of, of)


def _class(name: str, labels: Sequence[str] | None) -> int:
    if re.fullmatch(r"\d{1,9}", name, re.ASCII):
        return int(name)
    if labels is None:
        raise TargetError(f"class '{name}' is a label, but no labels were given; give them, or an index.")
    return find_label(labels, name)
