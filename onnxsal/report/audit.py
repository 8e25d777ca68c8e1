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
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.evaluate import evaluate
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.measures import Settings
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.record import Record, packed
from onnxsal.report.audit_against import against, comparable, compare_models
from onnxsal.report.audit_card import card, coverage
from onnxsal.report.audit_checks import accuracy, flow, rims, sanity
from onnxsal.report.audit_colours import colour_check
from onnxsal.report.audit_failures import lost_rows
from onnxsal.report.audit_findings import find
from onnxsal.report.audit_gate import Limit, broken_limits
from onnxsal.report.audit_look import CHUNK, Looking, Seen, Subject, Tell, key_of, subject
from onnxsal.report.audit_marks import find_marks
from onnxsal.report.evaluation_files import summary_table
from onnxsal.runtime.preprocess import Preprocess

SCHEMA = "onnxsal-audit/1"

DEFAULT_METHODS = ("fullgrad", "gradient", "gradcam")
"""Three that need one backward pass, multiply by the input or do not, and look at pixels or at a layer."""

MEASURED = 48
"""Pictures that insertion, deletion and the like are measured on, drawn by the seed: each takes 58 runs of the model for each method."""

RANDOMISED = CHUNK
"""Pictures that are explained again with random weights."""

STAGES = 4

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
    comparable(own, other)
    data = _data(asked, own)
    for who in (own, other):
        if who is not None:
            who.scorer.refuse_misfit(asked.labels, data)
    if other is not None and other.preprocess is None and own.preprocess is not None:
        raise InputError("the model has preprocessing and the one it is compared with has none: give --against-preprocess FILE.")
    state = Record(None if work is None else work / PICTURE_STATE)
    with state.alone():
        seen = Looking(own, other, asked.ways, state, tell).all(data)
        if not seen.names:
            whys = [*seen.damaged.items(), *((n, str(line["why"])) for n, line in seen.failed.items())]
            raise InputError(
                f"none of the {len(data.names)} pictures in '{asked.data}' could be used: "
                + "; ".join(f"{n}: {why}" for n, why in whys[:3])
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
        flows = _kept(state, "flow", own, other, seen, asked, lambda: flow(own, ways, data, seen))
        layers = []
        if other is not None:
            tell("comparing the models layer by layer")
            layers = _kept(state, "layers", own, other, seen, asked, lambda: [x.as_dict() for x in compare_models(own, other, data, seen)])
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
            "failed": [{"name": n, "label": _label(line["label"], asked.labels), "why": line["why"]} for n, line in seen.failed.items()],
        },
        "settings": {
            "seed": asked.seed,
            "measured": min(asked.measured, len(seen.names)),
            "randomised": min(RANDOMISED, len(seen.names)),
            "stages": STAGES,
        },
        "methods": [_method(w, seen) for w in asked.ways],
        "pictures": [_picture(n, seen, ways, evaluations[0], asked.labels) for n in seen.names],
        "accuracy": accuracy(seen, seen.base),
        "metrics": [{**row, "title": e.columns[row["metric"]].title} for e in evaluations for row in summary_table(e)],
        "sanity": [sanity(evaluations[1], w) for w in ways],
        "flow": flows,
        "coverage": coverage(own, asked.model, asked.ways, {**_edges(asked.preprocess), **asked.options}),
        "checks": {"channels": _colours(seen), "marks": marks, "rim": rims(seen, ways)},
        "against": None if other is None else against(own, other, asked.labels, seen, ways, layers),
        "lost": lost_rows(seen, marks, evaluations),
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


def _data(asked: Asked, own: Subject) -> Dataset:
    data = open_dataset(asked.data, own.scorer.session.inputs[0], asked.preprocess, asked.labels, asked.masks)
    return data if asked.samples is None else data.some(asked.samples, asked.seed)


def _kept(state: Record, what: str, own: Subject, other: Subject | None, seen: Seen, asked: Asked, make: Callable[[], Any]) -> Any:
    """A result about all pictures together, from the record if it is there."""
    lines = [seen.base[n] for n in seen.names]
    about = [version("onnxsal"), what, own.sha256, repr(own.preprocess), own.scorer.session.obtained, asked.seed]
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


def _label(index: int | None, labels: Sequence[str] | None) -> dict[str, Any] | None:
    return None if index is None else named(index, labels)


def _answers(line: Mapping[str, Any], labels: Sequence[str] | None) -> list[dict[str, Any]]:
    return [{**named(i, labels), "probability": p} for i, p in line["top"]]


def _picture(name: str, seen: Seen, ways: Sequence[Way], found: Evaluation, labels: Sequence[str] | None) -> dict[str, Any]:
    base = seen.base[name]
    maps = {}
    for way in (w for w in ways if (w.name, name) in seen.maps):
        line = seen.maps[way.name, name]
        row = found.rows.get((way.name, name))
        values = {} if row is None else {k: None if np.isnan(v) else float(v) for k, v in row.values.items()}
        rim, area = line["rim"]
        maps[way.name] = {
            **{k: line.get(k) for k in ("score", "residual", "reached", "warnings")},
            "rim": rim,
            "rim_area": area,
            "metrics": values,
            "tied": None if row is None else row.tied,
        }
    told = {"name": name, "sha": base["digest"], "size": base["size"], "predicted": _answers(base, labels), "maps": maps}
    told["label"] = _label(base["label"], labels)
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


def _colours(seen: Seen) -> dict[str, Any] | None:
    rows = [(seen.base[n], order) for n in seen.names if (order := seen.base[n].get("order")) is not None]
    return colour_check(rows)


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
                providers=own.scorer.session.obtained,
                batch_size=CHUNK,
                progress=partial(_say, tell, what),
                **asked.options,
            )
        )
    return found[0], found[1]


def _say(tell: Tell, what: str, done: int, total: int | None) -> None:
    tell(f"{what}: {done} of {total}")


__all__ = ["Asked", "Audit", "audit"]
