"""What was explained of each sample, in words: the class by its name and number, or the box, pixel or mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxsal.ask.place import MASK, place_text
from onnxsal.ask.question import Question


def class_words(
    question: Question, labels: Sequence[str] | None, target: np.ndarray, against: np.ndarray | None, told: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """One for each of the ``target`` [N], with what it was compared ``against`` [N]; ``told`` are the outputs that tell boxes and pixels.

    "tiger cat (282)", "class 282" where no names are known, "box 3: dog (12)", "mask of dog (12)", "element (1, 2, 3)" of scores of higher
    rank, and the name of the output where it is one number.
    """
    words = [_one(question, labels, index, told, i) for i, index in enumerate(target.tolist())]
    if against is None:
        return tuple(words)
    others = [_one(question, labels, index, {}, i) for i, index in enumerate(against.tolist())]
    return tuple(f"{one} rather than {other}" for one, other in zip(words, others, strict=True))


def _one(question: Question, labels: Sequence[str] | None, index: int, told: Mapping[str, np.ndarray], row: int) -> str:
    if question.reading is None:
        return _element(question, labels, index)
    kind, place, there = question.reading.kind, told.get("explained_place"), told.get("explained_label")
    if kind == MASK:
        return f"mask of {_class(labels, index)}"
    where = kind if place is None else f"{kind} {place_text(kind, int(place[row]))}"
    return where if there is None else f"{where}: {_class(labels, int(there[row]))}"


def _element(question: Question, labels: Sequence[str] | None, index: int) -> str:
    """An element of a sample's scores, of whatever rank these are."""
    sizes = [size for size in question.class_shape if isinstance(size, int)]
    if len(question.class_shape) > 1 and len(sizes) == len(question.class_shape):
        return f"element {tuple(map(int, np.unravel_index(index, sizes)))}"
    if sizes == [1]:
        return f"'{question.output}'"
    return _class(labels, index)


def _class(labels: Sequence[str] | None, index: int) -> str:
    return f"{labels[index]} ({index})" if labels is not None and 0 <= index < len(labels) else f"class {index}"
