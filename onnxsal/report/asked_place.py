"""The place that was asked about, as it can be marked on the picture: a point, a mask, a box by the model's own list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.ask.place import BOX, MASK, POINT, ROW
from onnxsal.ask.question import Question
from onnxsal.errors import InputError, near_miss
from onnxsal.explanation import Explanation
from onnxsal.runtime.shown import Box, ShownMark, ShownPicture

CORNERS, TURNED, CENTRE = "xyxy", "yxyx", "cxcywh"
BOXES = {
    CORNERS: "left, top, right, bottom",
    TURNED: "top, left, bottom, right",
    CENTRE: "centre across, centre down, width, height",
}
"""How four numbers say where a box is."""

CORNER_NUMBERS = 4
"""Numbers that say where a box is."""

SHARES = 1.5
"""Numbers up to this are shares of the picture's sides, others are pixels."""


@dataclass(frozen=True)
class AskedPlace:
    """``mark``: what can be drawn; ``told``: how the numbers of a box were read, and how that is known ('' = nothing was to be read)."""

    mark: ShownMark | None = None
    told: str = ""


def asked_place(one: Explanation, question: Question, shown: ShownPicture, boxes: str | None = None) -> AskedPlace:
    """What was asked about of one sample; nothing where it is a class of the whole picture, or cannot be followed to the picture.

    ``boxes`` says how the model's numbers tell a box (``BOXES``). Where it does not, boxes that end before they begin are told by
    centre and size, others by corners, left before top: ``told`` says so. Raises ``InputError`` for an unknown word.
    """
    if boxes is not None and boxes not in BOXES:
        raise InputError(f"--boxes {boxes} is none of {', '.join(BOXES)}{near_miss(boxes, BOXES)}.")
    kind = None if question.reading is None else question.reading.kind
    if kind == POINT:
        number = int(one.components["explained_place"][0])
        return AskedPlace(ShownMark(point=(number % ROW + 0.5, number // ROW + 0.5)))
    if kind == MASK:
        return AskedPlace(_mask(one, question))
    return _box(one, question, shown, boxes) if kind == BOX else AskedPlace()


def _mask(one: Explanation, question: Question) -> ShownMark | None:
    """Where the explained class is the best one by the model's own output, if it has as many pixels there as the scores say."""
    own = one.outputs.get(question.output)
    if own is None or question.reading is None:
        return None
    values, target = np.asarray(own)[0], int(one.target[0])
    if values.dtype.kind == "f" and values.ndim == 3:
        values = values.argmax(question.reading.axes[0] - 1)
    values = values.squeeze()
    many = one.components.get("mask_pixels")
    if values.ndim != 2 or many is None or int((values == target).sum()) != int(many[0]):
        return None
    return ShownMark(mask=values == target)


def _box(one: Explanation, question: Question, shown: ShownPicture, boxes: str | None) -> AskedPlace:
    """The box of that number, by the output that has four numbers for each; nothing where that is not exactly one."""
    many = one.components.get("box_count")
    if many is None:
        return AskedPlace()
    number = int(one.components.get("explained_place", one.target)[0])
    found = {name: rows for name, value in one.outputs.items() if (rows := _list(np.asarray(value), int(many[0]))) is not None}
    lists = [rows for rows in found.values() if rows.shape[1] == CORNER_NUMBERS] or [
        rows[:, :CORNER_NUMBERS] for name, rows in found.items() if name == question.output and _joined(question)
    ]
    if len(lists) != 1 or not np.isfinite(lists[0][number]).all():
        return AskedPlace()
    every = lists[0][np.isfinite(lists[0]).all(1)].astype(np.float64)
    how = boxes or (CENTRE if (every[:, 2:] < every[:, :2]).any() else CORNERS)
    height, width = shown.seen.shape[:2]
    shares = float(np.abs(every).max()) <= SHARES
    place = _corners(lists[0][number].astype(np.float64) * (_sides(how, width, height) if shares else 1.0), how)
    if boxes is None and not all(c[2] > c[0] and c[3] > c[1] for c in (_corners(four, how) for four in every)):
        return AskedPlace()  # read so, some have no area: they are no boxes, such as distances from anchors
    if place[2] <= place[0] or place[3] <= place[1]:
        return AskedPlace(told=f"box {number}, read as {BOXES[how]}, has no area, so it is not marked; --boxes says otherwise")
    ground = "as you say" if boxes else "as its numbers allow; --boxes says otherwise"
    return AskedPlace(ShownMark(box=place), f"box read as {BOXES[how]}, in {'shares of the sides' if shares else 'pixels'} ({ground})")


def _list(value: np.ndarray, many: int) -> np.ndarray | None:
    """One sample's output as [many, numbers], where it has so many rows of four numbers or more; ``None`` where it has not."""
    if value.dtype.kind != "f":
        return None
    rows = value[0] if value.ndim == 3 else value
    if rows.ndim != 2:
        return None
    if rows.shape[0] != many and rows.shape[1] == many:
        rows = rows.T
    return rows if rows.shape[0] == many and rows.shape[1] >= CORNER_NUMBERS else None


def _joined(question: Question) -> bool:
    """Whether the output that lists the boxes holds four numbers of each before its scores."""
    reading = question.reading
    if reading is None:
        return False
    return reading.picked is not None or reading.first >= CORNER_NUMBERS or reading.within not in ("", question.output)


def _sides(how: str, width: int, height: int) -> np.ndarray:
    return np.array([height, width] * 2 if how == TURNED else [width, height] * 2, np.float64)


def _corners(four: np.ndarray, how: str) -> Box:
    """Left, top, right, bottom."""
    a, b, c, d = (float(v) for v in four)
    if how == CENTRE:
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return (b, a, d, c) if how == TURNED else (a, b, c, d)
