"""What samples that are given as arrays are shown as: made when it is looked at, of what was fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from onnxsal.ask.question import Question
from onnxsal.errors import InputError
from onnxsal.facts.axes import layout_places
from onnxsal.given.sample import shown_values
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.shown import AnyShown, ShownPicture

WATCHED = 997
"""So many numbers of an array tell whether it was written to since."""


class ShownArrays(Sequence[AnyShown | None]):
    """What each row of an array is shown as, made of the array when it is asked for, so that explaining costs nothing for it.

    Raises ``InputError`` where the array was written to in between: it would be another sample that is shown.
    """

    def __init__(self, make: Callable[[int], AnyShown | None], array: np.ndarray, rows: Sequence[int], was: np.ndarray | None = None):
        self._make, self._array, self._rows = make, array, rows
        self._was = _some_of(array) if was is None else was

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> AnyShown | None: ...
    @overload
    def __getitem__(self, index: slice) -> ShownArrays: ...
    def __getitem__(self, index: int | slice) -> AnyShown | ShownArrays | None:
        if isinstance(index, slice):
            return ShownArrays(self._make, self._array, self._rows[index], self._was)
        row = self._rows[index]
        if not np.array_equal(_some_of(self._array), self._was, equal_nan=self._was.dtype.kind == "f"):
            raise InputError("the array that was explained was written to since, so it cannot be shown beside its map: give a copy of it.")
        return self._make(row)


def _some_of(array: np.ndarray) -> np.ndarray:
    """Numbers of an array from everywhere in it, copied."""
    return np.asarray(array.flat[:: array.size // WATCHED + 1])


def shown_arrays(question: Question, preprocess: Preprocess | None, feed: Mapping[str, Any]) -> Sequence[AnyShown | None]:
    """What each sample of a feed is shown as: the values of a series or volume, a picture where it is known how it was prepared.

    Nothing, where neither is explained, or what is fed does not lie in the host's memory.
    """
    x, axes = question.shown
    name = x.name if x.name in feed else question.source
    array = feed.get(name)
    if axes is None or not isinstance(array, np.ndarray) or name not in question.samples or array.dtype.kind not in "fiu":
        return ()
    if layout_places(axes) != 2:
        if name != x.name:
            return ()
        return ShownArrays(lambda row: shown_values(question, {name: array[row : row + 1]}), array, range(len(array)))
    if preprocess is None or array.ndim != 4 or array.shape[1 if preprocess.layout == "NCHW" else 3] != preprocess.depth:
        return ()
    return ShownArrays(lambda row: ShownPicture(preprocess.pixels(array[row : row + 1])[0]), array, range(len(array)))
