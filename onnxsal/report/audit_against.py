"""Two models on the same pictures: do they agree, and for the same reasons?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.statistics import summarise
from onnxsal.report.audit_card import card
from onnxsal.report.audit_checks import accuracy
from onnxsal.report.audit_colours import CONFIDENCE
from onnxsal.report.audit_layers import PICTURES, compare_layers
from onnxsal.report.audit_look import CHUNK, Seen, Subject


def comparable(own: Subject, other: Subject | None) -> None:
    """Two models can be compared where they answer the same question: as many classes, and the same kind of score."""
    if other is None:
        return
    asked = [s.scorer.question for s in (own, other)]
    counts = [q.class_shape[-1] if q.class_shape else None for q in asked]
    if all(isinstance(c, int) for c in counts) and counts[0] != counts[1]:
        raise InputError(f"the models cannot be compared: one has {counts[0]} classes, the other {counts[1]}.")
    if asked[0].score != asked[1].score or asked[0].link != asked[1].link:
        heads = [next((str(f) for f in q.found if f.what == "head"), q.score) for q in asked]
        raise InputError(
            f"the models cannot be compared: a score of one is {heads[0]}, of the other {heads[1]}. "
            "Name tensors that hold the same (--output), such as the logits of both."
        )


def compare_models(own: Subject, other: Subject, data: Dataset, seen: Seen) -> list[Any]:
    """Both models layer by layer, on a few pictures; nothing where a fixed batch forbids single pictures."""
    samples = [s for batch in data.batches(CHUNK, seen.names[:PICTURES]) for s in batch]
    pairs = []
    for s in samples:
        again = s.x if other.preprocess is None or s.picture is None else other.preprocess.normalise(s.picture[None])
        pairs.append((s.x, again))
    if any(
        who.scorer.session.inputs[0].shape
        and isinstance(who.scorer.session.inputs[0].shape[0], int)
        and who.scorer.session.inputs[0].shape[0] != 1
        for who in (own, other)
    ):
        return []  # a fixed batch: pictures one by one do not fit
    return compare_layers(own, other, pairs)


def against(
    own: Subject, other: Subject, labels: Sequence[str] | None, seen: Seen, ways: Sequence[Way], layers: list[Any]
) -> dict[str, Any]:
    """Do the two agree, and for the same reasons? On a picture that one of them fails on they do not agree."""
    both = [n for n in seen.names if n in seen.other]
    agree = [seen.other[n]["top"][0][0] == seen.base[n]["top"][0][0] for n in both]
    probability = [seen.other[n]["top"][0][1] - seen.base[n]["top"][0][1] for n in both]
    rows = []
    for way in ways:
        like = [seen.other_maps[way.name, n]["likeness"] for n in seen.names if (way.name, n) in seen.other_maps]
        values = [np.nan if v is None else v for v in like]
        rows.append(
            {
                "method": way.name,
                "refused": seen.other_refused.get(way.name),
                "likeness": summarise(values, CONFIDENCE).as_dict() if values else None,
            }
        )
    return {
        "model": card(other, labels),
        "agree": int(np.sum(agree)),
        "n": len(seen.read),
        "confidence_change": summarise(probability, CONFIDENCE).as_dict(),
        "accuracy": accuracy(seen, seen.other),
        "methods": rows,
        "layers": layers,
    }
