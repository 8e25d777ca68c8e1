"""Does the score depend on the pixels that the map says it depends on? Pictures are changed and scored by the plain model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import numpy as np

from onnxsal.ask.request import Target
from onnxsal.errors import InputError, near_miss
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.metrics.curve import CurveOptions, CurveSettings
from onnxsal.metrics.input_places import CONSTANT, InputPlaces, Maps, constant, flagged, maps_at
from onnxsal.metrics.occlusion import OcclusionOptions, OcclusionSettings
from onnxsal.metrics.ranking import TIES, ranks, tied
from onnxsal.metrics.scorer import Progress, Scorer, composites, scorer_of
from onnxsal.metrics.similarity import pearson, spearman
from onnxsal.metrics.substrate import SUBSTRATES
from onnxsal.metrics.substrate import substrate as substrate_of

PERCENT = (0.1, 0.5, 1, 3, 5, 7, 10, 25, 50, 75)

DEFAULTS = CurveSettings()


class PerturbationOptions(TypedDict, total=False):
    """The fields of ``PerturbationSettings``, as keywords."""

    percent: Sequence[float]
    substrate: str
    black: np.ndarray | float | None
    ties: str
    seed: int


@dataclass(frozen=True)
class PerturbationSettings:
    """Which pixels are removed, and what stands for them. Raises ``InputError`` for a value that is not known.

    ``percent`` of the pixels (at least one). ``substrate``: black, mean, zero_norm, blur; ``black`` is a black pixel in the model's input
    (``Preprocess.black()``: zeros there would be the mean colour instead). ``ties``: random (by ``seed``), stable or inclusive, see
    ``ranks``.
    """

    percent: Sequence[float] = PERCENT
    substrate: str = "black"
    black: np.ndarray | float | None = None
    ties: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        shares = np.asarray(self.percent, np.float64)
        if shares.ndim != 1 or not len(shares) or not (shares.min() > 0 and shares.max() <= 100):  # NaN is neither
            raise InputError(f"percent={self.percent} must be numbers above 0 and up to 100.")
        for name, value, known in (("substrate", self.substrate, SUBSTRATES), ("ties", self.ties, TIES)):
            if value not in known:
                raise InputError(f"{name} '{value}' is not one of {', '.join(known)}{near_miss(str(value), known)}.")


PERTURBATION = PerturbationSettings()

TINY = 1e-6
"""A score closer to zero than this has no meaningful relative change."""


@dataclass(frozen=True)
class Curve:
    """A score while pixels are inserted or deleted.

    ``scores`` [N, K] of class ``target`` [N] once the first ``pixels`` [K] pixels in the map's order are changed; ``auc`` [N] the area
    under the curve with the axis scaled to [0, 1]; ``distinct`` and ``tied`` [N] the map's different values and the share of its
    pixels that are tied; ``flags`` [N] why a sample has no value (its scores and auc are NaN), or ''.
    """

    scores: np.ndarray
    pixels: np.ndarray
    auc: np.ndarray
    target: np.ndarray
    distinct: np.ndarray
    tied: np.ndarray
    flags: tuple[str, ...]


@dataclass(frozen=True)
class IdScore:
    """``value`` [N] = insertion auc - deletion auc, and both curves; ``flags`` [N]."""

    value: np.ndarray
    insertion: Curve
    deletion: Curve

    @property
    def flags(self) -> tuple[str, ...]:
        """Why a sample has no value, or ''."""
        return self.insertion.flags


@dataclass(frozen=True)
class PixelPerturbation:
    """Fractional change |f(x) - f(x')| / |f(x)| of the logit and of the probability of class ``target`` [N], each [N, K].

    ``least_*``: the least salient ``percent`` [K] of the pixels removed (smaller is better); ``most_*``: the most salient (larger is
    better); ``pixels`` [K] how many that are. NaN where ``flags`` [N] say so, and for a logit nearer to zero than 1e-6
    (``near_zero`` [N]).
    """

    percent: np.ndarray
    pixels: np.ndarray
    least_logit: np.ndarray
    least_probability: np.ndarray
    most_logit: np.ndarray
    most_probability: np.ndarray
    near_zero: np.ndarray
    target: np.ndarray
    distinct: np.ndarray
    tied: np.ndarray
    flags: tuple[str, ...]


@dataclass(frozen=True)
class OcclusionCorrelation:
    """``pearson`` and ``spearman`` [N] in [-1, 1] between ``mapped`` and ``drop`` [N, R], the map's mean in each window and the fall of
    the score of class ``target`` [N] when it is hidden; ``corners`` [R, 2] the windows' first pixels; NaN where ``flags`` [N] say so.
    """

    pearson: np.ndarray
    spearman: np.ndarray
    mapped: np.ndarray
    drop: np.ndarray
    corners: np.ndarray
    target: np.ndarray
    flags: tuple[str, ...]


@dataclass(frozen=True)
class _Asked:
    """The arguments that every metric here takes, made ready."""

    scorer: Scorer
    x: np.ndarray
    places: InputPlaces
    maps: np.ndarray
    target: np.ndarray


def _ask(explainer: Explainer | Scorer, x: np.ndarray, maps: Maps | None, target: Target, signed: bool = False) -> _Asked:
    scorer = scorer_of(explainer)
    x = np.asarray(x)
    places = scorer.places(x)
    classes = scorer.targets(x, target)
    if maps is None:
        if isinstance(explainer, Scorer):
            raise InputError("a plain model explains nothing: give the maps, or an Explainer in place of the Scorer.")
        maps = explainer.explain(x, classes)
    return _Asked(scorer, x, places, maps_at(maps, x, places, signed), classes)


def auc(scores: np.ndarray) -> np.ndarray:
    """Area under curves [..., K] by trapezoids over an axis scaled to [0, 1]: (sum - first / 2 - last / 2) / (K - 1)."""
    return np.asarray((scores.sum(-1) - (scores[..., 0] + scores[..., -1]) / 2) / (scores.shape[-1] - 1))


def insertion(
    explainer: Explainer | Scorer,
    x: np.ndarray,
    maps: Maps | None = None,
    target: Target = None,
    settings: CurveSettings = DEFAULTS,
    *,
    progress: Progress | None = None,
    **options: Unpack[CurveOptions],
) -> Curve:
    """Area under the score while the most salient pixels of ``x`` [N, ...] are put back first; auc [N] in [0, 1], larger is better.

    ``maps`` [N, H, W] (default: those of ``explainer``; a ``Scorer`` will do where they are given). ``target``: default the class
    predicted for the whole picture. ``settings``, or its fields as keywords: see ``CurveSettings``, which names the sources.
    """
    return _curve(_ask(explainer, x, maps, target), True, settings.changed(**options), progress)


def deletion(
    explainer: Explainer | Scorer,
    x: np.ndarray,
    maps: Maps | None = None,
    target: Target = None,
    settings: CurveSettings = DEFAULTS,
    *,
    progress: Progress | None = None,
    **options: Unpack[CurveOptions],
) -> Curve:
    """Area under the score while the most salient pixels of ``x`` [N, ...] are taken away first; auc [N] in [0, 1], smaller is better.

    Arguments and sources as for ``insertion``.
    """
    return _curve(_ask(explainer, x, maps, target), False, settings.changed(**options), progress)


def id_score(
    explainer: Explainer | Scorer,
    x: np.ndarray,
    maps: Maps | None = None,
    target: Target = None,
    settings: CurveSettings = DEFAULTS,
    *,
    progress: Progress | None = None,
    **options: Unpack[CurveOptions],
) -> IdScore:
    """Insertion auc - deletion auc [N], in [-1, 1], larger is better; arguments as for ``insertion``. Otsuki et al. 2024, arXiv 2407.09115.

    Ties decide: under ``ties="inclusive"`` a map of few levels is inserted all at once and deleted all at once, so that even
    quantised noise scores near 1. The result says how many pixels are tied, and a ``TieWarning`` is given above a tenth.
    """
    asked, settings = _ask(explainer, x, maps, target), settings.changed(**options)
    put = _curve(asked, True, settings, _halves(progress, 0))
    taken = _curve(asked, False, settings, _halves(progress, 1), warn=False)
    return IdScore(put.auc - taken.auc, put, taken)


def _halves(progress: Progress | None, half: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(done + half * total, 2 * total)


def _curve(asked: _Asked, inserting: bool, settings: CurveSettings, progress: Progress | None, warn: bool = True) -> Curve:
    counts = settings.pixels(asked.places.count)
    stand_in = "mean" if asked.places.means is not None and settings.substrate is None else settings.stand_in(inserting)
    other = substrate_of(stand_in, asked.x, asked.places, settings.black)
    bad = constant(asked.maps)
    good = np.flatnonzero(~bad)
    scores = np.full((len(asked.x), len(counts)), np.nan)
    if len(good):
        base, top = (other, asked.x) if inserting else (asked.x, other)
        make = composites(base, top, _first(asked, good, counts, settings))
        logit, probability = asked.scorer.evaluate(make, good, len(counts), asked.target[good], progress)
        scores[good] = logit if settings.score == "logit" else probability
    found = tied(asked.maps, warn)
    return Curve(scores, counts, auc(scores), asked.target, found.distinct, found.share, flagged((bad, CONSTANT)))


def _first(
    asked: _Asked, good: np.ndarray, counts: np.ndarray, how: CurveSettings | PerturbationSettings, ascending: bool = False
) -> Callable[[int, int], np.ndarray]:
    """(sample, step) -> which pixels are among the first ``counts[step]`` of the sample's map; for the good maps only."""
    placed = np.zeros(asked.maps.shape, np.int32)
    placed[good] = ranks(asked.maps[good], how.ties, how.seed, ascending)
    over = asked.places.over(placed)
    return lambda i, step: over[i] < counts[step]


def pixel_perturbation(
    explainer: Explainer | Scorer,
    x: np.ndarray,
    maps: Maps | None = None,
    target: Target = None,
    settings: PerturbationSettings = PERTURBATION,
    *,
    progress: Progress | None = None,
    **options: Unpack[PerturbationOptions],
) -> PixelPerturbation:
    """Fractional change of the score, |f(x) - f(x')| / |f(x)|, when a share of the pixels is removed; values in [0, inf).

    Least salient pixels first: smaller is better. Most salient first: larger is better. Both for the logit and for the probability of
    ``target`` (default: the predicted class). ``settings``, or its fields as keywords. Other arguments as for ``insertion``.
    Srinivas and Fleuret 2019, arXiv 1905.00780.
    """
    asked, how = _ask(explainer, x, maps, target), replace(settings, **options)
    shares = np.asarray(how.percent, np.float64)
    counts = np.maximum(np.rint(shares / 100 * asked.places.count), 1).astype(np.int64)
    other = substrate_of(how.substrate, asked.x, asked.places, how.black)
    bad = constant(asked.maps)
    good = np.flatnonzero(~bad)
    steps = np.r_[0, counts]  # the clean picture first
    changes = np.full((2, 2, len(asked.x), len(counts)), np.nan)  # order, score
    near_zero = np.zeros(len(asked.x), bool)
    for half, ascending in enumerate((True, False)):
        if len(good):
            make = composites(asked.x, other, _first(asked, good, steps, how, ascending))
            logit, probability = asked.scorer.evaluate(make, good, len(steps), asked.target[good], _halves(progress, half))
            near_zero[good] = np.abs(logit[:, 0]) < TINY
            changes[half, :, good] = np.stack([_change(logit), _change(probability)], 1)
    found = tied(asked.maps)
    (least, least_p), (most, most_p) = changes
    flags = flagged((bad, CONSTANT))
    return PixelPerturbation(shares, counts, least, least_p, most, most_p, near_zero, asked.target, found.distinct, found.share, flags)


def _change(scores: np.ndarray) -> np.ndarray:
    """|f(x) - f(x')| / |f(x)| where the first column is f(x); NaN where that is zero."""
    clean = scores[:, :1]
    small = np.abs(clean) < TINY
    return np.asarray(np.where(small, np.nan, np.abs(clean - scores[:, 1:]) / np.where(small, 1, np.abs(clean))))


def occlusion_correlation(
    explainer: Explainer | Scorer,
    x: np.ndarray,
    maps: Maps | None = None,
    target: Target = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[OcclusionOptions],
) -> OcclusionCorrelation:
    """Correlation between a map's mean in a window and the fall of the score when the window is hidden; in [-1, 1], larger is better.

    ``maps``: signed, by default the attribution summed over channels; maps without signs need ``absolute=True``, which takes the
    size of both (the default for an explanation that has signs in none of its maps: FullGrad's). ``window`` and ``stride`` in pixels
    (default: 15 and 8 of 224, in proportion to the shorter side; two: of height and width); the last window ends at the border, and
    fewer than 30 windows are refused. ``drop`` [N, ...]: the falls under these windows, where they are known already (the ``drop`` of a
    signed map's correlation, or of the method occlusion); then no model runs. ``substrate``, ``score``, ``target``: as for ``insertion``.
    Windows as Zeiler and Fergus 2013, arXiv 1311.2901; correlation as Ancona et al. 2018 (sensitivity-n), arXiv 1711.06104.
    """
    how, asked = OcclusionSettings(**options), _ask(explainer, x, maps, target, signed=True)
    absolute = how.absolute
    if absolute is None:
        own = maps is None and isinstance(explainer, Explainer) and explainer.conversion.method.partial
        absolute = maps.partial if isinstance(maps, Explanation) else own
    if not asked.places.picture:
        raise InputError(f"occlusion needs pictures; inputs {list(asked.x.shape)} are none.")
    windows = how.over(asked.places.shape)
    corners, drop = windows.corners, how.drop
    if drop is None:
        drop = _drops(asked, windows.hidden, substrate_of(how.substrate, asked.x, asked.places, how.black), how.score, progress)
    elif drop.shape[:1] != asked.x.shape[:1] or drop.size != len(asked.x) * len(corners):
        raise InputError(f"drop of shape {list(drop.shape)} does not fit {len(asked.x)} picture(s) with {len(corners)} windows each.")
    size = np.abs if absolute else np.asarray
    mapped = windows.means(size(asked.maps.astype(np.float64)))
    drop = size(drop).reshape(mapped.shape)
    same = (constant(mapped), "the map's mean is the same in every window")
    flags = flagged((constant(asked.maps), CONSTANT), same, (constant(drop), "every window changes the score alike"))
    return OcclusionCorrelation(*_correlations(mapped, drop, flags), mapped, drop, corners, asked.target, flags)


def _drops(asked: _Asked, hidden: np.ndarray, other: np.ndarray, score: str, progress: Progress | None) -> np.ndarray:
    over = asked.places.over(np.concatenate([np.zeros_like(hidden[:1]), hidden]))  # the clean picture first
    make = composites(asked.x, other, lambda i, step: over[step])
    logit, probability = asked.scorer.evaluate(make, np.arange(len(asked.x)), len(over), asked.target, progress)
    scores = logit if score == "logit" else probability
    return scores[:, :1] - scores[:, 1:]


def _correlations(mapped: np.ndarray, drop: np.ndarray, flags: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    good = [i for i, flag in enumerate(flags) if not flag]
    found = np.full((2, len(flags)), np.nan)
    for i in good:
        found[0, i], found[1, i] = pearson(mapped[i], drop[i]), spearman(mapped[i], drop[i])
    return found[0], found[1]
