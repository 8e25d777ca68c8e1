"""What an audit tests: how right the model is, where scores and maps go, whether maps depend on the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxsal.engine.method import get_method
from onnxsal.methods.build import wrapper_of
from onnxsal.metrics.conservation import conservation
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.statistics import summarise
from onnxsal.report.audit_colours import CONFIDENCE
from onnxsal.report.audit_look import CHUNK, RIM, Seen, Subject

KEPT = 0.5
"""Rank correlation and SSIM with the maps of a model with random weights from which on a map does not depend on them enough."""


def accuracy(seen: Seen, lines: Mapping[str, Any]) -> dict[str, Any] | None:
    """How often the first answer, and one of the first five, is right; ``None`` without labels.

    Of all labelled pictures that were read: where the model that ``lines`` are of gives no answer, it is wrong.
    """
    labels = {n: label for n in seen.read if (label := seen.label(n)) is not None}
    if not labels:
        return None
    shares = {
        top: float(np.mean([lines.get(n, {}).get(key, False) for n in labels])) for top, key in (("top1", "right"), ("top5", "right5"))
    }
    return {"n": len(labels), "classes": len(set(labels.values())), **shares}


def sanity(found: Evaluation, way: Way) -> dict[str, Any]:
    """Likeness of maps to those of models with random weights: after the first stage and after the last, and by stage."""
    told: dict[str, Any] = {"method": way.name, "n": 0, "layers": [], "spearman": [], "ssim": [], "passed": None}
    for measure in ("spearman", "ssim"):
        curve = found.curve(way.name, f"randomised_{measure}")
        if curve is not None:
            axis, mean, n = curve
            told |= {"n": max(n, told["n"]), "layers": [int(a) for a in axis], measure: mean.tolist()}
    if told["spearman"]:
        # Both must say so: pixels that are zero whatever the weights are (on flat grounds) tie, and ties alone correlate. Not less than
        # after the first stage: that may have changed all there is.
        structure = told["ssim"][-1] if told["ssim"] else np.nan
        told["passed"] = bool(told["spearman"][-1] < KEPT or structure < KEPT)
    return told


def flow(own: Subject, ways: Sequence[Way], data: Dataset, seen: Seen) -> list[dict[str, Any]]:
    """Where the score goes: through the layers to the pixels, or into biases; for methods that account for it, on some pictures."""
    told = []
    for way in ways:
        wrapper = wrapper_of(get_method(way.method or ""))
        if not wrapper.shares:
            continue
        samples = [s for batch in data.batches(CHUNK, seen.mapped(way.name)[:CHUNK]) for s in batch]
        if not samples:
            continue
        explainer = own.explainer(way, components=True)
        if wrapper.books:
            found = conservation(explainer, [s.x for s in samples])
            rows = [
                {
                    "layer": name,
                    "sum": float(np.mean(found.sums[:, i] / found.scale[:, 0])),
                    "bias": float(np.mean(found.bias[:, i] / found.scale[:, 0])),
                    "leak": float(np.mean(found.leak[:, i] / found.scale[:, 0])),
                    "error": float(np.abs(found.error[:, i]).max()),
                }
                for i, name in enumerate(found.cuts)
            ]
            told.append({"method": way.name, "n": len(samples), "kind": "relevance", "rows": rows, "warnings": list(found.warnings)})
            continue
        parts = [explainer.explain(s.x) for s in samples]
        shares = np.concatenate([p.components[wrapper.shares] for p in parts]).astype(np.float64)
        score = np.concatenate([p.score for p in parts]).astype(np.float64)
        scale = np.maximum(np.abs(score), 1e-6)[:, None]
        words = ("input term (gradient x input)", "stored biases", "implicit biases of other nodes")
        rows = [
            {"layer": w, "sum": float(np.mean(shares[:, i] / scale[:, 0])), "bias": 0.0, "leak": 0.0, "error": 0.0}
            for i, w in enumerate(words[: shares.shape[1]])
        ]
        rest = float(np.abs(shares.sum(1) - score).max() / scale.max())
        rows.append({"layer": "all together", "sum": float(np.mean(shares.sum(1) / scale[:, 0])), "bias": 0.0, "leak": 0.0, "error": rest})
        told.append({"method": way.name, "n": len(samples), "kind": "full gradient", "rows": rows, "warnings": []})
    return told


def rims(seen: Seen, ways: Sequence[Way]) -> list[dict[str, Any]]:
    """How dense each method's maps are at the border, compared with the whole picture."""
    told = []
    for way in ways:
        pairs = [seen.maps[way.name, n]["rim"] for n in seen.mapped(way.name)]
        density = [share / area for share, area in pairs]
        told.append(
            {
                "method": way.name,
                "width": RIM,
                "area": float(np.mean([a for _, a in pairs])) if pairs else 0.0,
                "density": summarise(density, CONFIDENCE).as_dict(),
            }
        )
    return told
