"""What a model says of pictures in which something was exchanged: the order of their channels, or one place with another picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from onnxsal.facts.axes import flat, image_axes
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.scorer import Scorer
from onnxsal.metrics.statistics import Summary, summarise
from onnxsal.runtime.preprocess import Preprocess

COLOURED = 3.0
"""Mean difference of red and blue, in 0..255, above which a picture has colours that could be exchanged."""

ORDERS = tuple("".join("RGB"[i] for i in order) for order in permutations(range(3)))
"""The six orders of three channels: the first is how the model is fed, the last has red and blue exchanged."""


@dataclass(frozen=True)
class Reordered:
    """Answers to one picture in each of ``ORDERS``: how undecided they are (``entropies`` of the probabilities, in nats), the ``answer``
    as fed and with red and blue ``exchanged``, and the logarithm of the label's probability in both (``label``: ``None`` without one).
    """

    classes: int
    entropies: Sequence[float]
    answer: int
    exchanged: int
    label: int | None = None
    log_fed: float = 0.0
    log_exchanged: float = 0.0


def coloured(samples: Sequence[Sample], scorer: Scorer, how: Preprocess | None) -> list[Sample]:
    """Those of samples of one shape that have colours: red and blue differ. None where it is not known what the channels are."""
    pixels = [s.picture for s in samples if s.picture is not None]
    x = np.concatenate([s.x for s in samples])
    axes = flat(scorer.question.picture) or image_axes(x.shape)
    if how is not None and how.depth == 3 and len(pixels) == len(samples):
        seen = np.stack(pixels)
        found = np.abs(seen[..., 0].astype(np.float64) - seen[..., 2]).mean((1, 2)) > COLOURED
    elif how is None and axes is not None and x.shape[axes[0]] == 3:
        difference = np.abs(x - np.flip(x, axes[0])).mean((1, 2, 3))
        found = difference > COLOURED / 255 * (x.max((1, 2, 3)) - x.min((1, 2, 3)))
    else:
        return []
    return [s for s, has in zip(samples, found, strict=True) if has]


def reordered(samples: Sequence[Sample], scorer: Scorer, how: Preprocess | None) -> list[Reordered]:
    """What the model says of ``coloured`` samples of one shape in every order. Raises ``InputError`` or ``ModelError`` where it fails."""
    x = np.concatenate([s.x for s in samples])
    orders = [["RGB".index(c) for c in order] for order in ORDERS[1:]]
    if how is None:
        axes = flat(scorer.question.picture) or image_axes(x.shape)
        assert axes is not None
        fed = [np.ascontiguousarray(np.take(x, order, axes[0])) for order in orders]
    else:
        seen = np.stack([s.picture for s in samples if s.picture is not None])
        fed = [how.normalise(np.ascontiguousarray(seen[..., order])) for order in orders]
    scores = np.stack([scorer.probabilities(each) for each in (x, *fed)])
    found = []
    for i, sample in enumerate(samples):
        own, swapped = scores[0, i], scores[-1, i]
        told = len(own), [entropy(row) for row in scores[:, i]], int(own.argmax()), int(swapped.argmax()), sample.label
        logs = () if sample.label is None else (log_of(own[sample.label]), log_of(swapped[sample.label]))
        found.append(Reordered(*told, *logs))
    return found


@dataclass(frozen=True)
class LabelledColours:
    """Of ``n`` labelled pictures with colours, those that the model is right about as fed and with red and blue exchanged; ``gain``:
    what the exchange adds to the log-probability of the label.
    """

    n: int
    right: int
    right_exchanged: int
    gain: Summary


@dataclass(frozen=True)
class ColourExchange:
    """What exchanging the channels does to the answers to ``pictures`` with colours: ``orders``: mean entropy in each order;
    ``certainty_gain``: how much lower it is with red and blue exchanged; ``changed``: answers that change then.
    """

    pictures: int
    classes: int
    certainty_gain: Summary
    orders: Mapping[str, float]
    changed: int
    labelled: LabelledColours | None


def colour_exchange(rows: Sequence[Reordered], confidence: float) -> ColourExchange | None:
    """Over all pictures with colours; ``None`` without any. Intervals have this confidence."""
    if not rows:
        return None
    entropies = np.array([r.entropies for r in rows])
    named = [r for r in rows if r.label is not None]
    right, exchanged = sum(r.answer == r.label for r in named), sum(r.exchanged == r.label for r in named)
    gain = summarise([r.log_exchanged - r.log_fed for r in named], confidence)
    return ColourExchange(
        pictures=len(rows),
        classes=rows[0].classes,
        certainty_gain=summarise(entropies[:, 0] - entropies[:, -1], confidence),
        orders={name: float(mean) for name, mean in zip(ORDERS, entropies.mean(0), strict=True)},
        changed=sum(r.exchanged != r.answer for r in rows),
        labelled=LabelledColours(len(named), right, exchanged, gain) if named else None,
    )


def log_of(probability: float) -> float:
    """Its natural logarithm; no confidence is lower than one in a million."""
    return float(np.log(max(float(probability), 1e-6)))


def entropy(probabilities: np.ndarray) -> float:
    """-sum p log p of probabilities scaled to a sum of 1, in nats: 0 for a sure answer, log(classes) for none."""
    shares = np.maximum(probabilities.astype(np.float64), 0)
    shares = shares / max(shares.sum(), 1e-300)
    return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())


@dataclass(frozen=True)
class PlaceExchange:
    """``copied`` of ``onto`` pictures of other classes became a class when a place of its pictures was copied into them; ``left`` of
    ``covered`` pictures of the class left it when the place was replaced by that of another picture; on ``failed`` of all these the
    model gave no answer. ``area`` is the place's share of the picture.
    """

    copied: int
    onto: int
    left: int
    covered: int
    failed: int
    area: float


def exchange_place(own: np.ndarray, others: np.ndarray, edges: Sequence[tuple[int, int]], index: int, scorer: Scorer) -> PlaceExchange:
    """Copy a place of pictures ``own`` [N, ...] of class ``index`` into those of ``others`` [M, ...], and the other way round.

    ``edges`` are the first pixel of the place and the one behind its last, along height and width.
    """
    axes = scorer.places(own).axes(own)
    where = tuple(slice(*edges[axes.index(a)]) if a in axes else slice(None) for a in range(own.ndim))
    onto, covered = others.copy(), own.copy()
    onto[where] = own[np.arange(len(others)) % len(own)][where]
    covered[where] = others[np.arange(len(own)) % len(others)][where]
    became, stayed = scorer.answers(onto), scorer.answers(covered)
    return PlaceExchange(
        copied=int((became == index).sum()),
        onto=len(others),
        left=int(((stayed != index) & (stayed >= 0)).sum()),
        covered=len(own),
        failed=int((became < 0).sum() + (stayed < 0).sum()),
        area=float(np.prod([b - a for a, b in edges]) / np.prod([own.shape[a] for a in axes])),
    )
