"""An audit of a model on pictures: everything that is looked at, measured, checked and judged."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.engine.method import get_method
from onnxsal.errors import InputError
from onnxsal.metrics.dataset import Dataset, none_left
from onnxsal.metrics.evaluate import Work, evaluated
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.libraries import library
from onnxsal.metrics.measures import Settings
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.record import Record, forget, packed
from onnxsal.report.audit.blocks import Block
from onnxsal.report.audit.card import card
from onnxsal.report.audit.checking import Check, checks
from onnxsal.report.audit.document import (
    SCHEMA,
    CheckReport,
    DataCard,
    Document,
    Drawn,
    MapNumbers,
    MethodCard,
    MetricRow,
    OtherAnswer,
    PictureCard,
    Why,
)
from onnxsal.report.audit.evidence import FAITHFUL, LOCAL, RANDOMISED, STAGES, Evidence, Request, answer, named
from onnxsal.report.audit.gate import Limit, judged_limits
from onnxsal.report.audit.lines import kind_of
from onnxsal.report.audit.observe import Looking, Seen, Subject, Tell, key_of
from onnxsal.report.audit.verdict import Finding, Judgement, Outcome, Severity
from onnxsal.report.evaluation_files import summary_table
from onnxsal.settings import checked, parse_json

DEFAULT_METHODS = ("fullgrad", "gradient", "gradcam")
"""Three that need one backward pass, multiply by the input or do not, and look at pixels or at a layer."""

PICTURE_STATE, METRIC_STATE = "pictures.jsonl", "metrics.jsonl"

WORST_FIRST = tuple(Outcome)
"""The outcome of a check is the worst that it has for any method."""


@dataclass(frozen=True)
class Audit:
    """``document`` as it was judged, ``facts`` the same as JSON; ``blocks`` what the page shows of each check, ``briefs`` what its first
    screen says, ``evaluations`` the curves; ``pictures`` and ``maps`` (by method and picture) are data URIs of small copies.
    """

    document: Document
    facts: dict[str, Any]
    blocks: Mapping[str, Sequence[Block]]
    briefs: Sequence[str]
    evaluations: Sequence[Evaluation]
    pictures: Mapping[str, str]
    maps: Mapping[tuple[str, str], str]
    other_maps: Mapping[tuple[str, str], str]


def audit(request: Request, limits: Sequence[Limit] = (), work: Path | None = None, tell: Tell = lambda text: None) -> Audit:
    """Look, measure, check and judge. ``work`` is a folder that keeps what is done: a run that was cut short goes on there."""
    for needed in ("scipy", "matplotlib"):
        library(needed)  # missing, it is said before the work, not after
    labels = request.ask.labels
    own, other = Subject.of(request.ask), None if request.against is None else Subject.of(request.against)
    data = _data(request, own)
    for who in (own, other):
        if who is not None:
            who.scorer.refuse_misfit(labels, data)
    for check in checks():
        check.admit(own, other)
    state = Record(None if work is None else work / PICTURE_STATE, kind_of)
    with state.alone():
        seen = Looking(own, other, request.ways, state, tell).all(data)
        _refuse_nothing(seen, data, request)
        ways = [w for w in request.ways if w.name not in seen.refused]
        measured = _evaluations(request, own, ways, data, seen, None if work is None else work / METRIC_STATE, tell)
        pictures = [_picture(n, seen, ways, measured[0], labels) for n in seen.names]
        kept = partial(_kept, state, own, other, seen, request)
        evidence = Evidence(request, own, other, data, seen, ways, *measured, pictures, kept)
        results = dict(_results(evidence, tell))
    judged = {name: list(result.judge(evidence)) for name, result in results.items()}
    findings = _worst_first(j.finding for rows in judged.values() for j in rows if j.finding is not None)
    document = Document(
        **_made(request, data, seen),
        model=card(own, labels),
        against=None if other is None else card(other, labels),
        data=_data_card(request, data, seen),
        settings=Drawn(request.seed, min(request.measured, len(seen.names)), min(RANDOMISED, len(seen.names)), STAGES),
        methods=[_method(w, seen) for w in request.ways],
        pictures=pictures,
        accuracy=evidence.accuracy,
        metrics=[_metric(row, e) for e in measured for row in summary_table(e)],
        checks={name: _report(results[name], rows) for name, rows in judged.items()},
        findings=findings,
        limits=judged_limits(limits, evidence, results, findings),
    )
    blocks = {name: list(result.show(evidence)) for name, result in results.items()}
    copies = ({k: line["picture"] for k, line in lines.items()} for lines in (seen.maps, seen.other_maps))
    briefs = [result.tell(evidence) for result in results.values()]
    return Audit(document, packed(asdict(document)), blocks, briefs, measured, {n: seen.base[n]["picture"] for n in seen.names}, *copies)


def forget_work(work: Path) -> None:
    """Remove what is kept in a folder of work, and the folder if it holds nothing else. Raises an error where it is not ours."""
    for name in (PICTURE_STATE, METRIC_STATE):
        forget(work / name)
    with contextlib.suppress(OSError):  # it is not there, or somebody else put something into it
        work.rmdir()


def _results(evidence: Evidence, tell: Tell) -> Iterator[tuple[str, Check]]:
    """The facts of every check; those that are costly from an earlier run, if it left them."""
    for check in checks():
        tell(f"checking: {check.title}")
        if not check.costly:
            yield check.name, check.measure(evidence)
            continue
        made = evidence.kept(check.name, partial(_as_text, check, evidence))
        what = f"what an earlier run kept of '{check.title}'"
        yield check.name, checked(check, parse_json(made, what, nan=True, names=True), f"{what}: remove the folder of its state")


def _as_text(check: type[Check], evidence: Evidence) -> str:
    """Facts as they can be kept: as text, which tells NaN and infinity from nothing."""
    return json.dumps(asdict(check.measure(evidence)))  # type: ignore[call-overload]


def _report(result: Check, rows: Sequence[Judgement]) -> CheckReport:
    """A check as the JSON has it. One that says nothing of anything is not applicable."""
    verdicts = [j.verdict for j in rows]
    outcome = min((v.outcome for v in verdicts), key=WORST_FIRST.index, default=Outcome.NOT_APPLICABLE)
    return CheckReport(result.title, outcome, verdicts, result)


def _worst_first(findings: Iterator[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: (f.severity is not Severity.SERIOUS, -f.weight))


def _kept(state: Record, own: Subject, other: Subject | None, seen: Seen, request: Request, what: str, make: Callable[[], Any]) -> Any:
    """A result about all pictures together, from the record if it is there."""
    about = [version("onnxsal"), what, own.about, None if other is None else other.about, request.seed]
    about += [[w.name, get_method(w.method or "").sha256, w.parameters] for w in request.ways]
    key, digest = key_of(about), key_of([[line["sample"], line["digest"]] for line in map(seen.base.__getitem__, seen.names)])
    line = state.get(key, what, digest)
    if line is None:
        state.put([{"key": key, "sample": what, "digest": digest, "value": make()}])
        line = state.get(key, what, digest)
    assert line is not None
    return line["value"]


# ----- data -----


def _data(request: Request, own: Subject) -> Dataset:
    data = open_dataset(request.data, own.scorer.session.inputs[0], request.ask.preprocess, request.ask.labels, request.masks)
    return data if request.samples is None else data.some(request.samples, request.seed)


def _refuse_nothing(seen: Seen, data: Dataset, request: Request) -> None:
    if not seen.names:
        whys = seen.damaged | {n: str(line["why"]) for n, line in seen.failed.items()}
        raise InputError(none_left(f"{len(data.names)} pictures in '{request.data}'", "used", whys))


def _data_card(request: Request, data: Dataset, seen: Seen) -> DataCard:
    def label(line: Mapping[str, Any]) -> Any:
        return None if line["label"] is None else named(line["label"], request.ask.labels)

    damaged = [Why(n, why, None) for n, why in seen.damaged.items()]
    failed = [Why(n, line["why"], label(line)) for n, line in seen.failed.items()]
    labelled = sum(seen.base[n]["label"] is not None for n in seen.names)
    digest = key_of(sorted(seen.base[n]["digest"] for n in seen.names))
    return DataCard(str(request.data), digest, len(seen.names), labelled, data.masked, list(data.notes), damaged, failed)


def _made(request: Request, data: Dataset, seen: Seen) -> dict[str, Any]:
    """Who made this, when, how, and with what."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # one of the two packages of ONNX Runtime is there
            continue
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    own = version("onnxsal")
    return {"schema": SCHEMA, "onnxsal": own, "created": now, "command": list(request.command), "versions": versions, "form": request.form}


def _method(way: Way, seen: Seen) -> MethodCard:
    method = get_method(way.method or "")
    parameters = {k: str(v) for k, v in way.parameters.items()}
    return MethodCard(way.name, method.title, method.source, method.formula, method.law, parameters, seen.refused.get(way.name))


# ----- pictures -----


def _picture(name: str, seen: Seen, ways: Sequence[Way], found: Evaluation, labels: Sequence[str] | None) -> PictureCard:
    base = seen.base[name]
    maps = {w.name: _map(w.name, name, seen, found) for w in ways if (w.name, name) in seen.maps}
    label = None if base["label"] is None else named(base["label"], labels)
    predicted = [answer(i, p, labels) for i, p in base["top"]]
    against = _other(name, seen, ways, labels) if name in seen.other else None
    return PictureCard(name, base["digest"], base["size"], label, base.get("right"), predicted, maps, against)


def _map(way: str, name: str, seen: Seen, found: Evaluation) -> MapNumbers:
    line, row = seen.maps[way, name], found.rows.get((way, name))
    own = {k: line[k] for k in ("score", "residual", "reached", "warnings")}
    values, tied = ({}, None) if row is None else (row.values, row.tied)
    return MapNumbers(**own, rim=line["rim"][0], rim_area=line["rim"][1], metrics=values, tied=tied)


def _other(name: str, seen: Seen, ways: Sequence[Way], labels: Sequence[str] | None) -> OtherAnswer:
    line = seen.other[name]
    like = {w.name: seen.other_maps[w.name, name]["likeness"] for w in ways if (w.name, name) in seen.other_maps}
    numbers = [v for v in like.values() if v is not None]
    predicted = [answer(i, p, labels) for i, p in line["top"]]
    agrees = predicted[0].index == seen.base[name]["top"][0][0]
    return OtherAnswer(predicted, agrees, line.get("right"), like, float(np.mean(numbers)) if numbers else None)


# ----- metrics -----


def _evaluations(
    request: Request, own: Subject, ways: Sequence[Way], data: Dataset, seen: Seen, state: Path | None, tell: Tell
) -> tuple[Evaluation, Evaluation]:
    """Faithfulness and localisation on some pictures; maps under random weights on fewer."""
    measured = [*FAITHFUL, "id_score", "residual"]

    def run(what: str, names: Sequence[str], count: int) -> Evaluation:
        chosen = data.only(seen.names).some(count, request.seed)
        names = [*names, *(LOCAL if names == measured and chosen.masked else ())]  # of what could be read, perhaps nothing has a mask
        settings = Settings(seed=request.seed, stages=STAGES)
        return evaluated(
            own.ask, Work(chosen, ways, names, settings, state=state, progress=lambda done, total: tell(f"{what}: {done} of {total}"))
        )

    return run("measuring the maps", measured, request.measured), run("explaining with random weights", ["model_randomization"], RANDOMISED)


def _metric(row: Mapping[str, Any], found: Evaluation) -> MetricRow:
    return MetricRow(**row, title=found.columns[row["metric"]].title)
