"""An audit of a model on pictures: everything that is looked at, measured and tested, as one dict that follows ``audit.schema.json``."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.engine.method import get_method
from onnxsal.errors import InputError
from onnxsal.graph.load import Source
from onnxsal.metrics.conservation import conservation
from onnxsal.metrics.dataset import Dataset, open_dataset
from onnxsal.metrics.evaluate import evaluate
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.measures import Settings
from onnxsal.metrics.record import Record, packed
from onnxsal.metrics.statistics import Summary, summarise
from onnxsal.report.audit_card import card, coverage
from onnxsal.report.audit_findings import find
from onnxsal.report.audit_gate import Limit, broken_limits
from onnxsal.report.audit_layers import PICTURES, compare_layers
from onnxsal.report.audit_look import CHUNK, RIM, Looking, Seen, Subject, Tell, key_of, subject
from onnxsal.report.audit_marks import find_marks
from onnxsal.report.evaluation import summary_table
from onnxsal.runtime.preprocess import Preprocess

SCHEMA = "onnxsal-audit/1"

DEFAULT_METHODS = ("fullgrad", "gradient", "gradcam")
"""Three that need one backward pass, multiply by the input or do not, and look at pixels or at a layer."""

MEASURED = 48
"""Pictures that insertion, deletion and the like are measured on, drawn by the seed: each takes 58 runs of the model for each method."""

RANDOMISED = CHUNK
"""Pictures that are explained again with random weights."""

STAGES = 4

CONFIDENCE = 0.99
"""Of the intervals behind findings."""

PICTURE_STATE, METRIC_STATE = "pictures.jsonl", "metrics.jsonl"


@dataclass(frozen=True)
class Audit:
    """``facts`` follow the schema; ``pictures`` and ``maps`` (by method and picture) are data URIs; ``evaluations`` hold the curves."""

    facts: dict[str, Any]
    pictures: dict[str, str]
    maps: dict[tuple[str, str], str]
    other_maps: dict[tuple[str, str], str]
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Asked:
    """What to audit, and how. ``options`` are ``convert``'s (input, output, score, layer)."""

    model: Source
    data: str | Path
    ways: Sequence[Way]
    preprocess: Preprocess | None = None
    labels: Sequence[str] | None = None
    masks: str | Path | None = None
    against: Source | None = None
    against_preprocess: Preprocess | None = None
    limits: Sequence[Limit] = ()
    samples: int | None = None
    measured: int = MEASURED
    seed: int = 0
    providers: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


def audit(asked: Asked, work: Path | None = None, tell: Tell = lambda text: None) -> Audit:
    """Look, measure, test and judge. ``work`` is a folder that keeps what is done: a run that was cut short goes on there."""
    own = subject(asked.model, asked.preprocess, asked.providers, asked.options)
    other = None if asked.against is None else subject(asked.against, asked.against_preprocess, asked.providers, asked.options)
    _comparable(own, other)
    data = _data(asked, own)
    if other is not None and other.preprocess is None and own.preprocess is not None:
        raise InputError("the model has preprocessing and the one it is compared with has none: give --against-preprocess FILE.")
    state = Record(None if work is None else work / PICTURE_STATE)
    with state.alone():
        seen = Looking(own, other, asked.ways, state, tell).all(data)
        if not seen.names:
            raise InputError(
                f"none of the {len(data.names)} pictures in '{asked.data}' could be used: "
                + "; ".join(f"{n}: {why}" for n, why in list(seen.damaged.items())[:3])
            )
        ways = [w for w in asked.ways if w.name not in seen.refused]
        tell("testing places at the border")
        marks = _kept(
            state,
            "marks",
            own,
            other,
            seen,
            asked,
            lambda: [m.as_dict() for m in find_marks(seen, [w.name for w in ways], data, own.scorer, asked.seed)],
        )
        tell("following the score through the layers")
        flow = _kept(state, "flow", own, other, seen, asked, lambda: _flow(own, ways, data, seen))
        layers = []
        if other is not None:
            tell("comparing the models layer by layer")
            layers = _kept(state, "layers", own, other, seen, asked, lambda: [x.as_dict() for x in _layers(own, other, data, seen)])
    evaluations = _evaluations(asked, own, ways, data, seen, None if work is None else work / METRIC_STATE, tell)
    tell("looking up operators")
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "onnxsal": version("onnxsal"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": card(own, asked.labels),
        "data": {
            "source": str(asked.data),
            "pictures": len(seen.names),
            "labelled": sum(seen.base[n]["label"] is not None for n in seen.names),
            "masked": data.masked,
            "notes": list(data.notes),
            "damaged": [{"name": n, "why": why} for n, why in seen.damaged.items()],
        },
        "settings": {
            "seed": asked.seed,
            "measured": min(asked.measured, len(seen.names)),
            "randomised": min(RANDOMISED, len(seen.names)),
            "stages": STAGES,
        },
        "methods": [_method(w, seen) for w in asked.ways],
        "pictures": [_picture(n, seen, ways, evaluations[0], asked.labels) for n in seen.names],
        "accuracy": _accuracy(seen.base, seen.names),
        "metrics": [{**row, "title": e.columns[row["metric"]].title} for e in evaluations for row in summary_table(e)],
        "sanity": [_sanity(evaluations[1], w) for w in ways],
        "flow": flow,
        "coverage": coverage(own, asked.model, asked.ways, {**_edges(asked.preprocess), **asked.options}),
        "checks": {"channels": _channels(seen), "marks": marks, "rim": _rims(seen, ways)},
        "against": None if other is None else _against(own, other, asked, seen, ways, layers),
    }
    facts["findings"] = find(facts, evaluations)
    facts["limits"] = broken_limits(asked.limits, facts)
    return Audit(
        packed(facts),
        {n: seen.base[n]["picture"] for n in seen.names},
        {k: line["picture"] for k, line in seen.maps.items()},
        {k: line["picture"] for k, line in seen.other_maps.items()},
        evaluations,
    )


def _comparable(own: Subject, other: Subject | None) -> None:
    """Two models can be compared where they answer the same question."""
    if other is None:
        return
    sizes = [s.scorer.question.start.shape for s in (own, other)]
    counts = [None if s is None else s[-1] for s in sizes]
    if all(isinstance(c, int) for c in counts) and counts[0] != counts[1]:
        raise InputError(f"the models cannot be compared: one has {counts[0]} classes, the other {counts[1]}.")


def _data(asked: Asked, own: Subject) -> Dataset:
    data = open_dataset(asked.data, own.scorer.session.inputs[0], asked.preprocess, asked.labels, asked.masks)
    return data if asked.samples is None else data.some(asked.samples, asked.seed)


def _kept(state: Record, what: str, own: Subject, other: Subject | None, seen: Seen, asked: Asked, make: Callable[[], Any]) -> Any:
    """A result about all pictures together, from the record if it is there."""
    lines = [seen.base[n] for n in seen.names]
    about = [version("onnxsal"), what, own.sha256, repr(own.preprocess), own.scorer.session.providers, asked.seed]
    about += [[w.name, get_method(w.method or "").sha256, w.parameters] for w in asked.ways]
    about += [None if other is None else [other.sha256, repr(other.preprocess)], {k: v for k, v in asked.options.items() if v is not None}]
    key, digest = key_of(about), key_of([[x["sample"], x["digest"]] for x in lines])
    line = state.get(key, what, digest)
    if line is None:
        state.put([{"key": key, "sample": what, "digest": digest, "value": make()}])
        line = state.get(key, what, digest)
    assert line is not None
    return line["value"]


# ----- the model -----


def _edges(preprocess: Preprocess | None) -> dict[str, Any]:
    """The values of a black and a white pixel, for methods that ask for them."""
    return {} if preprocess is None else {"black": preprocess.black(), "white": preprocess.white()}


def _method(way: Way, seen: Seen) -> dict[str, Any]:
    method = get_method(way.method or "")
    facts = {"name": way.name, "title": method.title, "source": method.source, "formula": method.formula, "law": method.law}
    return {**facts, "parameters": {k: str(v) for k, v in way.parameters.items()}, "refused": seen.refused.get(way.name)}


# ----- the pictures -----


def named(index: int, labels: Sequence[str] | None) -> dict[str, Any]:
    """A class by index and label."""
    return {"class": index, "label": labels[index] if labels is not None and 0 <= index < len(labels) else None}


def _answers(line: Mapping[str, Any], labels: Sequence[str] | None) -> list[dict[str, Any]]:
    return [{**named(i, labels), "probability": p} for i, p in line["top"]]


def _picture(name: str, seen: Seen, ways: Sequence[Way], found: Evaluation, labels: Sequence[str] | None) -> dict[str, Any]:
    base = seen.base[name]
    maps = {}
    for way in ways:
        line = seen.maps[way.name, name]
        row = found.rows.get((way.name, name))
        values = {} if row is None else {k: None if np.isnan(v) else float(v) for k, v in row.values.items()}
        rim, area = line["rim"]
        maps[way.name] = {
            **{k: line[k] for k in ("score", "residual", "warnings")},
            "rim": rim,
            "rim_area": area,
            "metrics": values,
            "tied": None if row is None else row.tied,
        }
    told = {"name": name, "sha": base["digest"], "size": base["size"], "predicted": _answers(base, labels), "maps": maps}
    told["label"] = None if base["label"] is None else named(base["label"], labels)
    told["right"] = base.get("right")
    told["against"] = None
    if name in seen.other:
        like = {w.name: seen.other_maps[w.name, name]["likeness"] for w in ways if (w.name, name) in seen.other_maps}
        numbers = [v for v in like.values() if v is not None]
        told["against"] = {
            "predicted": _answers(seen.other[name], labels),
            "agrees": seen.other[name]["top"][0][0] == base["top"][0][0],
            "right": seen.other[name].get("right"),
            "likeness": like,
            "mean_likeness": float(np.mean(numbers)) if numbers else None,
        }
    return told


def _accuracy(lines: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    rows = [lines[n] for n in names if lines[n].get("right") is not None]
    if not rows:
        return None
    classes = len({r["label"] for r in rows})
    return {
        "n": len(rows),
        "classes": classes,
        "top1": float(np.mean([r["right"] for r in rows])),
        "top5": float(np.mean([r["right5"] for r in rows])),
    }


def numbers(summary: Summary) -> dict[str, Any]:
    """A summary for JSON."""
    return {k: getattr(summary, k) for k in ("mean", "low", "high", "n", "excluded")}


# ----- measured and tested -----


def _evaluations(
    asked: Asked, own: Subject, ways: Sequence[Way], data: Dataset, seen: Seen, state: Path | None, tell: Tell
) -> tuple[Evaluation, Evaluation]:
    """Faithfulness and localisation on some pictures; maps under random weights on fewer."""
    settings = Settings(seed=asked.seed, stages=STAGES)
    metrics = ["insertion", "deletion", "id_score", "residual"]
    metrics += ["pointing_game", "relevance_mass"] if data.masked else []
    found = []
    for part, count in ((metrics, asked.measured), (["model_randomization"], RANDOMISED)):
        chosen = data.only(seen.names).some(count, asked.seed)
        what = "measuring the maps" if part is metrics else "explaining with random weights"
        found.append(
            evaluate(
                asked.model,
                chosen,
                ways,
                part,
                settings,
                preprocess=asked.preprocess,
                labels=asked.labels,
                state=state,
                providers=own.scorer.session.providers,
                batch_size=CHUNK,
                progress=partial(_say, tell, what),
                **asked.options,
            )
        )
    return found[0], found[1]


def _say(tell: Tell, what: str, done: int, total: int | None) -> None:
    tell(f"{what}: {done} of {total}")


def _sanity(found: Evaluation, way: Way) -> dict[str, Any]:
    """Likeness of maps to those of models with random weights: after the first stage and after the last, and by stage."""
    told: dict[str, Any] = {"method": way.name, "n": 0, "layers": [], "spearman": [], "ssim": [], "passed": None}
    for measure in ("spearman", "ssim"):
        curve = found.curve(way.name, f"randomised_{measure}")
        if curve is not None:
            axis, mean, n = curve
            told |= {"n": max(n, told["n"]), "layers": [int(a) for a in axis], measure: mean.tolist()}
    if told["spearman"]:
        first, last = told["spearman"][0], told["spearman"][-1]
        told["passed"] = bool(last < 0.5 and (last < first or len(told["spearman"]) == 1))
    return told


def _flow(own: Subject, ways: Sequence[Way], data: Dataset, seen: Seen) -> list[dict[str, Any]]:
    """Where the score goes: through the layers to the pixels, or into biases; for methods that account for it, on some pictures."""
    told = []
    for way in ways:
        wrap = get_method(way.method or "").wrap
        if wrap not in ("relevance", "fullgrad"):
            continue
        samples = [s for batch in data.batches(CHUNK, seen.names[:CHUNK]) for s in batch]
        explainer = own.explainer(way, components=True)
        if wrap == "relevance":
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
        shares = np.concatenate([p.components["fullgrad/shares"] for p in parts]).astype(np.float64)
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


def _channels(seen: Seen) -> dict[str, Any] | None:
    """What exchanging red and blue does, over the pictures that have colours."""
    rows = [(seen.base[n], seen.base[n]["order"]) for n in seen.names if seen.base[n].get("order") is not None]
    if not rows:
        return None
    told: dict[str, Any] = {
        "pictures": len(rows),
        "confidence_gain": numbers(summarise([o["top"][1] - o["top"][0] for _, o in rows], CONFIDENCE)),
        "changed": sum(o["class"] != b["top"][0][0] for b, o in rows),
        "labelled": None,
    }
    labelled = [(b, o) for b, o in rows if "label" in o]
    if labelled:
        told["labelled"] = {
            "n": len(labelled),
            "right": sum(b["right"] for b, _ in labelled),
            "right_exchanged": sum(o["class"] == b["label"] for b, o in labelled),
            "gain": numbers(summarise([o["label"][1] - o["label"][0] for _, o in labelled], CONFIDENCE)),
        }
    return told


def _rims(seen: Seen, ways: Sequence[Way]) -> list[dict[str, Any]]:
    """How dense each method's maps are at the border, compared with the whole picture."""
    told = []
    for way in ways:
        pairs = [seen.maps[way.name, n]["rim"] for n in seen.names]
        density = [share / area for share, area in pairs]
        told.append(
            {
                "method": way.name,
                "width": RIM,
                "area": float(np.mean([a for _, a in pairs])),
                "density": numbers(summarise(density, CONFIDENCE)),
            }
        )
    return told


# ----- two models -----


def _layers(own: Subject, other: Subject, data: Dataset, seen: Seen) -> list[Any]:
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


def _against(own: Subject, other: Subject, asked: Asked, seen: Seen, ways: Sequence[Way], layers: list[Any]) -> dict[str, Any]:
    """Do the two agree, and for the same reasons?"""
    agree = [seen.other[n]["top"][0][0] == seen.base[n]["top"][0][0] for n in seen.names]
    probability = [seen.other[n]["top"][0][1] - seen.base[n]["top"][0][1] for n in seen.names]
    rows = []
    for way in ways:
        like = [seen.other_maps[way.name, n]["likeness"] for n in seen.names if (way.name, n) in seen.other_maps]
        values = [np.nan if v is None else v for v in like]
        rows.append(
            {
                "method": way.name,
                "refused": seen.other_refused.get(way.name),
                "likeness": numbers(summarise(values, CONFIDENCE)) if values else None,
            }
        )
    return {
        "model": card(other, asked.labels),
        "agree": int(np.sum(agree)),
        "n": len(agree),
        "confidence_change": numbers(summarise(probability, CONFIDENCE)),
        "accuracy": _accuracy(seen.other, seen.names),
        "methods": rows,
        "layers": layers,
    }


__all__ = ["Asked", "Audit", "audit"]
