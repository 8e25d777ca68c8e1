"""Do red and blue reach the model in the order that it was trained on? Its own answers say so, with labels and without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from onnxsal.facts.axes import image_axes
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.record import Line
from onnxsal.metrics.scorer import Scorer
from onnxsal.metrics.statistics import summarise
from onnxsal.runtime.preprocess import Preprocess

COLOURED = 3.0
"""Mean difference of red and blue, in 0..255, above which a picture has colours that could be exchanged."""

ORDERS = tuple("".join("RGB"[i] for i in order) for order in permutations(range(3)))
"""The six orders of three channels: the first is how the model is fed, the last has red and blue exchanged."""

CONFIDENCE = 0.99
"""Of the intervals behind findings."""


def colour_facts(group: Sequence[Sample], x: np.ndarray, scores: np.ndarray, scorer: Scorer, how: Preprocess | None) -> list[Line | None]:
    """What the model says with its colours in every order; ``None`` for pictures without colours, and where nothing is known of them.

    ``entropy`` is that of the probabilities, in nats: how undecided the answer is.
    """
    axes = scorer.question.picture or image_axes(x.shape)
    pixels = [s.picture for s in group]
    if how is not None and how.depth == 3 and all(p is not None for p in pixels):
        seen = np.stack([p for p in pixels if p is not None])
        coloured = np.abs(seen[..., 0].astype(np.float64) - seen[..., 2]).mean((1, 2)) > COLOURED
        fed = [how.normalise(np.ascontiguousarray(seen[..., order])) for order in _orders()[1:]]
    elif how is None and axes is not None and x.shape[axes[0]] == 3:
        difference = np.abs(x - np.flip(x, axes[0])).mean((1, 2, 3))
        coloured = difference > COLOURED / 255 * (x.max((1, 2, 3)) - x.min((1, 2, 3)))
        fed = [np.ascontiguousarray(np.take(x, order, axes[0])) for order in _orders()[1:]]
    else:
        return [None] * len(group)
    if not coloured.any():
        return [None] * len(group)
    all_scores = [scores, *(scorer.probabilities(other) for other in fed)]
    swapped = all_scores[-1]
    told: list[Line | None] = []
    for i, sample in enumerate(group):
        line: Line = {"classes": scores.shape[1], "entropy": [entropy(s[i]) for s in all_scores], "class": int(swapped[i].argmax())}
        if sample.label is not None:
            line["label"] = [log_of(scores[i][sample.label]), log_of(swapped[i][sample.label])]
        told.append(line if coloured[i] else None)
    return told


def _orders() -> list[list[int]]:
    return [["RGB".index(c) for c in order] for order in ORDERS]


def colour_check(rows: Sequence[tuple[Line, Line]]) -> dict[str, Any] | None:
    """What exchanging red and blue does, over the pictures that have colours: pairs of (answers, ``colour_facts``)."""
    if not rows:
        return None
    entropies = np.array([order["entropy"] for _, order in rows])
    told: dict[str, Any] = {
        "pictures": len(rows),
        "classes": rows[0][1]["classes"],
        "certainty_gain": summarise(entropies[:, 0] - entropies[:, -1], CONFIDENCE).as_dict(),
        "orders": {name: float(mean) for name, mean in zip(ORDERS, entropies.mean(0), strict=True)},
        "changed": sum(order["class"] != base["top"][0][0] for base, order in rows),
        "labelled": None,
    }
    labelled = [(base, order) for base, order in rows if "label" in order]
    if labelled:
        told["labelled"] = {
            "n": len(labelled),
            "right": sum(base["right"] for base, _ in labelled),
            "right_exchanged": sum(order["class"] == base["label"] for base, order in labelled),
            "gain": summarise([order["label"][1] - order["label"][0] for _, order in labelled], CONFIDENCE).as_dict(),
        }
    return told


def log_of(probability: float) -> float:
    """Its natural logarithm; no confidence is lower than one in a million."""
    return float(np.log(max(float(probability), 1e-6)))


def entropy(probabilities: np.ndarray) -> float:
    """-sum p log p of probabilities scaled to a sum of 1, in nats: 0 for a sure answer, log(classes) for none."""
    shares = np.maximum(probabilities.astype(np.float64), 0)
    shares = shares / max(shares.sum(), 1e-300)
    return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())
