"""Is the map on the object? Maps against object masks; what happens where pixels tie is computed, not drawn by lot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.errors import InputError
from onnxsal.explanation import Explanation
from onnxsal.metrics.input_places import CONSTANT, Maps, constant, flagged, resized
from onnxsal.runtime.libraries import library

NO_OBJECT = "the mask is empty"
NOTHING_POSITIVE = "nothing in the map is positive"

VERDICTS = ("good", "insufficiently attended", "over-attended", "wrongly attended")


@dataclass(frozen=True)
class Localisation:
    """``value`` [N] in [0, 1], larger is better; ``chance`` [N] what a map that knows nothing reaches on average (the mask's share of the
    picture); NaN where ``flags`` [N] say why.
    """

    value: np.ndarray
    chance: np.ndarray
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Attention:
    """``verdict`` [N], one of ``VERDICTS`` ('' where ``flags`` [N] say why); ``precision`` [N] the share of the attended pixels that are
    object, ``recall`` [N] the share of the object that is attended, both in [0, 1]; ``counts`` how many samples have each verdict.
    """

    verdict: tuple[str, ...]
    precision: np.ndarray
    recall: np.ndarray
    counts: dict[str, int]
    flags: tuple[str, ...]


def pointing_game(maps: Maps, masks: np.ndarray, tolerance: int = 0) -> Localisation:
    """Whether the largest value of the map lies on the object: 1 or 0 for each sample, larger is better.

    ``maps`` [N, H, W] (or an ``Explanation``), ``masks`` [N, H, W] (above 0.5 = object). Where several pixels share the largest value: the
    share of them that hit. ``tolerance``: pixels by which a miss still hits (the paper: 15, on pictures of about 224 to 500 pixels).
    Chance is the share of the picture that hits. With two objects in one picture, explain each and give its own mask. Zhang et al.
    2016, arXiv 1608.00507.
    """
    values, inside = _pairs(maps, masks)
    if tolerance:
        inside = np.stack([library("scipy.ndimage").distance_transform_edt(~m) <= tolerance if m.any() else m for m in inside])
    flags = flagged((constant(values), CONSTANT), (_empty(inside), NO_OBJECT))
    top = values == values.max((1, 2), keepdims=True)
    return _result((top & inside).sum((1, 2)) / top.sum((1, 2)), inside, flags)


def relevance_mass(maps: Maps, masks: np.ndarray, part: str = "positive") -> Localisation:
    """Share of the map's relevance that lies on the object: sum inside / sum everywhere; [N] in [0, 1], larger is better.

    ``part``: "positive" counts positive relevance only, "absolute" the size of either sign. Chance is the object's share of the
    picture. Arras et al. 2022, arXiv 2003.07258.
    """
    values, inside = _pairs(maps, masks)
    weight = _part(values, part)
    total = weight.sum((1, 2))
    flags = flagged((constant(values), CONSTANT), (_empty(inside), NO_OBJECT), (total == 0, NOTHING_POSITIVE))
    return _result((weight * inside).sum((1, 2)) / np.where(total > 0, total, 1), inside, flags)


def relevance_rank(maps: Maps, masks: np.ndarray) -> Localisation:
    """Share of the K most relevant pixels that lie on the object, which has K pixels; [N] in [0, 1], larger is better.

    Where pixels tie at the K-th place, the mean over all ways to break the tie. Chance is the object's share of the picture. Arras et
    al. 2022, arXiv 2003.07258.
    """
    values, inside = _pairs(maps, masks)
    flags = flagged((constant(values), CONSTANT), (_empty(inside), NO_OBJECT))
    found = np.array([_rank(v.ravel(), m.ravel()) if m.any() else np.nan for v, m in zip(values, inside, strict=True)])
    return _result(found, inside, flags)


def _rank(values: np.ndarray, inside: np.ndarray) -> float:
    count = int(inside.sum())
    last = np.partition(values, -count)[-count]
    above, level = values > last, values == last
    taken = (count - above.sum()) * (level & inside).sum() / level.sum()
    return float(((above & inside).sum() + taken) / count)


def attention_errors(maps: Maps, masks: np.ndarray, mass: float = 0.8, precision: float = 0.5, recall: float = 0.5) -> Attention:
    """Where a map attends against where the object is: good, insufficiently, over- or wrongly attended.

    Attended are the fewest pixels of highest value that carry ``mass`` of the positive relevance (with all that tie with the last).
    Against the thresholds ``precision`` (share of the attended that is object) and ``recall`` (share of the object that is attended):
    both reached, good; only precision, insufficiently attended (a part of the object); only recall, over-attended (the object and much
    else); neither, wrongly attended. ``maps`` and ``masks`` as for ``pointing_game``. Categories of Otsuki et al. 2024 (arXiv
    2407.09115), who sorted failures by eye; the thresholds are ours.
    """
    if not 0 < mass <= 1:
        raise InputError(f"mass={mass} is the share of the relevance that counts as attended: above 0 and up to 1.")
    values, inside = _pairs(maps, masks)
    total = np.maximum(values, 0).sum((1, 2))
    flags = flagged((constant(values), CONSTANT), (_empty(inside), NO_OBJECT), (total == 0, NOTHING_POSITIVE))
    shares = np.full((2, len(values)), np.nan)
    for i, flag in enumerate(flags):
        if not flag:
            attended = _attended(values[i], mass)
            hit = (attended & inside[i]).sum()
            shares[:, i] = hit / attended.sum(), hit / inside[i].sum()
    kinds = np.where(shares[0] >= precision, np.where(shares[1] >= recall, 0, 1), np.where(shares[1] >= recall, 2, 3))
    verdict = tuple("" if flag else VERDICTS[k] for k, flag in zip(kinds, flags, strict=True))
    return Attention(verdict, shares[0], shares[1], {v: verdict.count(v) for v in VERDICTS}, flags)


def _attended(values: np.ndarray, mass: float) -> np.ndarray:
    positive = np.maximum(values, 0)
    falling = np.sort(positive, axis=None)[::-1]
    sums = np.cumsum(falling)
    last = falling[min(int(np.searchsorted(sums, mass * sums[-1] * (1 - 1e-12))), len(falling) - 1)]
    return (positive >= last) & (positive > 0)


def _result(value: np.ndarray, inside: np.ndarray, flags: tuple[str, ...]) -> Localisation:
    return Localisation(np.where([bool(f) for f in flags], np.nan, value), inside.mean((1, 2)), flags)


def _empty(inside: np.ndarray) -> np.ndarray:
    return np.asarray(~inside.any((1, 2)))


def _part(values: np.ndarray, part: str) -> np.ndarray:
    if part not in ("positive", "absolute"):
        raise InputError(f"part='{part}' is not 'positive' or 'absolute'.")
    return np.maximum(values, 0) if part == "positive" else np.abs(values)


def _pairs(maps: Maps, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps in float64 and masks as bool, both [N, H, W] in the masks' size."""
    if isinstance(maps, Explanation):
        if maps.saliency_map is None:
            raise InputError("the explained input is not a picture, so there is no map to compare with masks.")
        maps = maps.saliency_map
    values, found = np.asarray(maps), np.asarray(masks)
    if values.ndim != 3 or found.ndim != 3 or len(values) != len(found):
        raise InputError(f"maps {list(values.shape)} and masks {list(found.shape)} do not fit: both must be [N, H, W].")
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values).all((1, 2)))[:10].tolist()
        raise InputError(f"the maps of samples {bad} hold NaN or infinite values. Compute them again.")
    if values.shape != found.shape:
        values = resized(values, (found.shape[1], found.shape[2]))
    return values.astype(np.float64), found > 0.5
