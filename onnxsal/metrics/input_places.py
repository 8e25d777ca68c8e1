"""Where an input can be changed, and maps with one value for each such place: pixels of a picture, or single features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxsal.errors import InputError
from onnxsal.explanation import Explanation
from onnxsal.facts.axes import Picture, image_axes, rank_of
from onnxsal.runtime.libraries import library

Maps = np.ndarray | Explanation

CONSTANT = "the map is constant, so it ranks nothing"


@dataclass(frozen=True)
class InputPlaces:
    """The places of one sample: ``shape`` is (H, W) for a picture, (L,) for a series and (D, H, W) for a volume, the whole shape of a
    sample otherwise; ``channel`` is the axis of the input [N, ...] that a place's values lie along, ``None`` where each has one. Of a
    table (C,): each of its columns is a place, ``column`` [F] says which one every element of a row belongs to, and ``means`` [F] are
    those of the whole table.
    """

    shape: tuple[int, ...]
    channel: int | None
    ordered: bool = False
    """Whether places have neighbours: those of a picture, a series or a volume."""
    column: tuple[int, ...] = ()
    means: np.ndarray | None = field(default=None, compare=False)

    @property
    def count(self) -> int:
        """How many places there are."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def picture(self) -> bool:
        """Whether the places are pixels."""
        return self.channel is not None and len(self.shape) == 2

    def over(self, values: np.ndarray) -> np.ndarray:
        """Values [n, places] in a shape that broadcasts over inputs [n, ...]."""
        if self.column:
            return values[:, list(self.column)]
        shaped = values.reshape(len(values), *self.shape)
        return shaped if self.channel is None else np.expand_dims(shaped, self.channel)

    def pooled(self, attribution: np.ndarray) -> np.ndarray:
        """Attributions shaped like the input as one value for each place: the sum over channels, or over the elements of each column; maps
        [N, *places] as they are.
        """
        if self.column:
            return np.stack([attribution[:, np.array(self.column) == c].sum(1) for c in range(self.count)], 1)
        return attribution if self.channel is None or attribution.ndim == 1 + len(self.shape) else attribution.sum(self.channel)

    def axes(self, array: np.ndarray) -> tuple[int, ...]:
        """The axes of an input that count places."""
        return tuple(a for a in range(1, array.ndim) if a != self.channel)


def places_of(x: np.ndarray, picture: Picture | None = None) -> InputPlaces:
    """The places of a batch ``x``; ``picture`` are its axes (channel, *places), where the model tells them."""
    axes = picture if picture is not None and x.ndim == rank_of(picture) else image_axes(x.shape)
    if axes is None:
        return InputPlaces(x.shape[1:], None)
    return InputPlaces(tuple(x.shape[a] for a in axes[1:]), axes[0], ordered=True)


def maps_at(maps: Maps, x: np.ndarray, places: InputPlaces, signed: bool = False) -> np.ndarray:
    """Maps as an array [N, places]: one finite number for each place of each sample of ``x``.

    Takes an ``Explanation`` (see ``chosen_map``), an array shaped like the
    places, or one shaped like ``x`` (summed over channels). Maps of pictures in another size are resized bilinearly. Raises ``InputError``
    for NaN, infinity or a shape that does not fit.
    """
    array = chosen_map(maps, signed)
    if array.dtype.kind not in "fiub":
        raise InputError(f"maps are numbers, not {array.dtype}.")
    if not np.isfinite(array).all():
        bad = [i for i in range(len(array)) if not np.isfinite(array[i]).all()]
        raise InputError(f"the maps of samples {bad[:10]} hold NaN or infinite values, so they rank nothing. Compute them again.")
    if len(array) != len(x):
        raise InputError(f"{len(array)} maps were given for {len(x)} samples; give one for each.")
    if array.shape == x.shape and array.shape[1:] != places.shape:
        array = places.pooled(array)
    if array.shape[1:] != places.shape:
        if not places.picture or array.ndim != 3:
            wanted = ["N", *places.shape]
            raise InputError(f"maps of shape {list(array.shape)} do not fit: give {wanted}, or the input's own shape {list(x.shape)}.")
        array = resized(array, (places.shape[0], places.shape[1]))
    return np.ascontiguousarray(array).reshape(len(array), -1)


def chosen_map(maps: Maps, signed: bool = False) -> np.ndarray:
    """The array that is meant: of an ``Explanation`` its saliency map, or its attribution where there is no map, or where ``signed``
    (but for methods whose attribution is only a part of what the map shows, and for tokens of a picture, which lie on no pixels).
    """
    if not isinstance(maps, Explanation):
        return np.asarray(maps)
    laid = maps.partial or maps.token_attribution is not None
    return maps.attribution if maps.saliency_map is None or (signed and not laid) else maps.saliency_map


def sized_map(explanation: Explanation) -> np.ndarray:
    """What stands for the size of a map: the map itself where a method makes one of its own (FullGrad, Grad-CAM) or floors it, else the
    attribution that it is reduced from.
    """
    reduced = "reduce" in explanation.parameters and "quantize" not in explanation.parameters and explanation.token_attribution is None
    return explanation.attribution if reduced or explanation.saliency_map is None else explanation.saliency_map


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps [N, h, w] resized bilinearly to [N, H, W], corners not aligned."""
    transform = library("skimage.transform")
    return np.stack([transform.resize(m.astype(np.float64), size, order=1, mode="edge", anti_aliasing=False) for m in maps])


def constant(maps: np.ndarray) -> np.ndarray:
    """Which maps [N, ...] have one value everywhere: bool [N]."""
    flat = maps.reshape(len(maps), -1)
    return np.asarray(flat.max(1) == flat.min(1))


def flagged(*reasons: tuple[np.ndarray, str]) -> tuple[str, ...]:
    """For each sample why its value means nothing, or ''; ``reasons`` are (bool [N], words), the first one counts."""
    count = len(reasons[0][0])
    return tuple(next((words for bad, words in reasons if bad[i]), "") for i in range(count))
