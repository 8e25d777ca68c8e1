"""An audit of a model on pictures, or on rows of a table: everything that is looked at, measured, checked and judged."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.display import Displayed, Panel
from onnxsal.engine.method import get_method
from onnxsal.errors import InputError
from onnxsal.metrics.data_kind import PICTURES, ROWS, DataKind
from onnxsal.metrics.dataset import Dataset, none_left
from onnxsal.metrics.evaluate import Work, evaluated
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.measures import Settings
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.open_rows import METHODS, kind_given, open_rows
from onnxsal.metrics.record import Record, forget, packed
from onnxsal.metrics.weights import has_weights
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
    SampleCard,
    Why,
    headline,
)
from onnxsal.report.audit.evidence import FAITHFUL, LOCAL, RANDOMISED, STAGES, Evidence, Request, answer, named
from onnxsal.report.audit.gate import Limit, judged_limits
from onnxsal.report.audit.lines import kind_of
from onnxsal.report.audit.observe import Looking, Seen, Tell
from onnxsal.report.audit.row_notes import columns_of_rows
from onnxsal.report.audit.subject import Subject, key_of
from onnxsal.report.audit.verdict import Finding, Judgement, Outcome, Severity
from onnxsal.report.evaluation_files import summary_table
from onnxsal.runtime.libraries import library
from onnxsal.runtime.progress import ToldHow
from onnxsal.settings import checked, parse_json

log = logging.getLogger(__name__)

DEFAULT_METHODS = ("fullgrad", "gradient", "gradcam")
"""Three that need one backward pass, multiply by the input or do not, and look at pixels or at a layer."""

OFFERED = {PICTURES: DEFAULT_METHODS, ROWS: METHODS}
"""Methods by what the data are, where none are asked for."""

SAMPLE_STATE, METRIC_STATE = "samples.jsonl", "metrics.jsonl"

WORST_FIRST = tuple(Outcome)
"""The outcome of a check is the worst that it has for any method."""


@dataclass(frozen=True, repr=False)
class Audit(Displayed):
    """``document`` as it was judged, ``facts`` the same as JSON; ``blocks`` what the page shows of each check, ``briefs`` what its first
    screen says, ``evaluations`` the curves; ``pictures`` and ``maps`` (by method and picture) are data URIs of small copies, none of rows.
    """

    document: Document
    facts: dict[str, Any]
    blocks: Mapping[str, Sequence[Block]]
    briefs: Sequence[str]
    evaluations: Sequence[Evaluation]
    pictures: Mapping[str, str]
    maps: Mapping[tuple[str, str], str]
    other_maps: Mapping[tuple[str, str], str]

    def _panel(self) -> Panel:
        found = self.document
        made = {outcome: [c.title for c in found.checks.values() if c.outcome is outcome] for outcome in Outcome}
        facts = [f"{len(titles)} {outcome}: {' '.join(titles)}" for outcome, titles in made.items() if titles]
        facts += [f"limit broken: {limit.text}" for limit in found.limits if limit.broken]
        title = f"Audit of {found.model.file or 'a model'} on {found.data.pictures} {found.of.one}(s): {headline(found)[1]}"
        rows = [(f.severity.value, f"{f.title}. {f.text}", f.advice) for f in found.findings]
        told = [f"left out: {damaged.name}: {damaged.why}" for damaged in found.data.damaged]
        return Panel(title, facts, ("finding", "what is wrong", "what to do"), rows, told)


def audited(request: Request, limits: Sequence[Limit] = (), work: Path | None = None, tell: Tell = lambda text: None) -> Audit:
    """Look, measure, check and judge. ``work`` is a folder that keeps what is done: a run that was cut short goes on there."""
    for needed in ("scipy", "matplotlib"):
        library(needed)  # missing, it is said before the work, not after
    own, other, data = _opened(request)
    labels = request.ask.labels
    state = Record(None if work is None else work / SAMPLE_STATE, kind_of)
    with state.alone():
        seen = Looking(data.kind, own, other, request.ways, state, tell).all(data)
        _refuse_nothing(seen, data, request)
        ways = [w for w in request.ways if w.name not in seen.refused]
        measured = _evaluations(request, own, ways, data, seen, None if work is None else work / METRIC_STATE, tell)
        samples = [_sample(n, own, seen, ways, measured[0]) for n in seen.names]
        kept = partial(_kept, state, own, other, seen, request)
        evidence = Evidence(request, own, other, data, seen, ways, *measured, samples, kept)
        results = dict(_results(evidence, tell))
    judged = {name: list(result.judge(evidence)) for name, result in results.items()}
    reports = [_report(check, results.get(check.name), judged.get(check.name, ()), data.kind) for check in checks()]
    findings = _worst_first(j.finding for rows in judged.values() for j in rows if j.finding is not None)
    document = Document(
        **_made(request, data, seen),
        model=card(own, labels),
        against=None if other is None else card(other, labels),
        data=_data_card(request, own, data, seen),
        settings=_drawn(request, data, seen),
        methods=[_method(w, seen) for w in request.ways],
        pictures=samples,
        accuracy=evidence.accuracy,
        metrics=[_metric(row, e) for e in measured for row in summary_table(e)],
        checks={check.name: report for check, report in zip(checks(), reports, strict=True)},
        findings=findings,
        limits=judged_limits(limits, evidence, results, findings),
        population=request.population,
    )
    blocks = {name: list(result.show(evidence)) for name, result in results.items()}
    small = [{k: line["picture"] for k, line in lines.items() if "picture" in line} for lines in (seen.maps, seen.other_maps)]
    pictures = {n: seen.base[n]["picture"] for n in seen.names if "picture" in seen.base[n]}
    briefs = [result.tell(evidence) for result in results.values()]
    return Audit(document, packed(asdict(document)), blocks, briefs, measured, pictures, *small)


def forget_work(work: Path) -> None:
    """Remove what is kept in a folder of work, and the folder if it holds nothing else. Raises an error where it is not ours."""
    for name in (SAMPLE_STATE, METRIC_STATE):
        forget(work / name)
    with contextlib.suppress(OSError):  # it is not there, or somebody else put something into it
        work.rmdir()


def _results(evidence: Evidence, tell: Tell) -> Iterator[tuple[str, Check]]:
    """The facts of every check that is a question to the data; those that are costly from an earlier run, if it left them."""
    for check in (c for c in checks() if not c.idle(evidence.kind)):
        told = evidence.kind.say(f"checking: {check.title}")
        log.debug("%s", told)
        tell(told)
        if not check.costly:
            yield check.name, check.measure(evidence)
            continue
        made = evidence.kept(check.name, partial(_as_text, check, evidence))
        what = f"what an earlier run kept of '{check.title}'"
        yield check.name, checked(check, parse_json(made, what, nan=True, names=True), f"{what}: remove the folder of its state")


def _as_text(check: type[Check], evidence: Evidence) -> str:
    """Facts as they can be kept: as text, which tells NaN and infinity from nothing."""
    return json.dumps(asdict(check.measure(evidence)))  # type: ignore[call-overload]


def _report(check: type[Check], result: Check | None, rows: Sequence[Judgement], kind: DataKind) -> CheckReport:
    """A check as the JSON has it. One that says nothing of anything, or that is no question to the data, is not applicable."""
    verdicts = [j.verdict for j in (rows if result is not None else [Judgement.none(check.idle(kind))])]
    outcome = min((v.outcome for v in verdicts), key=WORST_FIRST.index, default=Outcome.NOT_APPLICABLE)
    return CheckReport(kind.say(check.title), outcome, verdicts, result)


def _worst_first(findings: Iterator[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: (f.severity is not Severity.SERIOUS, -f.weight))


def _kept(state: Record, own: Subject, other: Subject | None, seen: Seen, request: Request, what: str, make: Callable[[], Any]) -> Any:
    """A result about all samples together, from the record if it is there."""
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


def _opened(request: Request) -> tuple[Subject, Subject | None, Dataset]:
    """Both models and the data, which fit each other."""
    asks = [ask for ask in (request.ask, request.against) if ask is not None]
    given, column = request.data, request.labels_column
    if kind_given(request.ask, given, column, request.masks) is ROWS:
        tables = [open_rows(ask, given, column) for ask in asks]
        who, data = [Subject.of(*both) for both in zip(asks, tables, strict=True)], tables[0].data
    else:
        who = [Subject.of(ask) for ask in asks]
        opened = (who[0].scorer.session.inputs[0], request.ask.preprocess, request.ask.labels, request.masks)
        data = given if isinstance(given, Dataset) else open_dataset(given, *opened)
    data = data if request.samples is None else data.some(request.samples, request.seed)
    if unknown := sorted(set(request.measured_on or ()) - set(data.names)):
        count = data.kind.count(len(unknown))
        raise InputError(f"metrics were to be measured on {count} that are not among the {len(data)} audited ones: '{unknown[0]}'.")
    for one in who:
        one.scorer.refuse_misfit(request.ask.labels, data)
    own, other = who[0], who[1] if len(who) > 1 else None
    for check in checks():
        check.admit(own, other)
    return own, other, data


def _refuse_nothing(seen: Seen, data: Dataset, request: Request) -> None:
    if not seen.names:
        whys = seen.damaged | {n: str(line["why"]) for n, line in seen.failed.items()}
        raise InputError(none_left(f"{data.kind.count(len(data.names))} in '{_source(request)}'", "used", whys))


def _data_card(request: Request, own: Subject, data: Dataset, seen: Seen) -> DataCard:
    def label(line: Mapping[str, Any]) -> Any:
        return None if line["label"] is None else named(line["label"], request.ask.labels)

    damaged = [Why(n, why, None) for n, why in seen.damaged.items()]
    failed = [Why(n, line["why"], label(line)) for n, line in seen.failed.items()]
    labelled = sum(seen.base[n]["label"] is not None for n in seen.names)
    digest = key_of(sorted(seen.base[n]["digest"] for n in seen.names))
    notes, columns = list(data.notes), [] if own.rows is None else columns_of_rows(own)
    counts = (len(seen.names), labelled, data.masked)
    return DataCard(_source(request), digest, *counts, notes, damaged, failed, data.kind.many, list(columns))


def _source(request: Request) -> str:
    if isinstance(request.data, Dataset):
        return request.data.source
    return str(request.data) if isinstance(request.data, str | Path) else "a table in memory"


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
    known = (method.title, method.source, method.formula, method.law)
    return MethodCard(way.name, *known, parameters, seen.refused.get(way.name), seen.doubts.get(way.name, ""))


# ----- samples -----


def _sample(name: str, own: Subject, seen: Seen, ways: Sequence[Way], found: Evaluation) -> SampleCard:
    base, labels = seen.base[name], own.whole.labels
    maps = {w.name: _map(w.name, name, seen, found) for w in ways if (w.name, name) in seen.maps}
    label = None if base["label"] is None else named(base["label"], labels)
    predicted = [answer(i, p, labels) for i, p in base["top"]]
    against = _other(name, seen, ways, labels) if name in seen.other else None
    values = () if own.rows is None else own.rows.shown[name].values
    return SampleCard(name, base["digest"], base.get("size", ()), label, base.get("right"), predicted, maps, against, values)


def _map(way: str, name: str, seen: Seen, found: Evaluation) -> MapNumbers:
    line, row = seen.maps[way, name], found.rows.get((way, name))
    own = {k: line[k] for k in ("score", "residual", "reached", "warnings")}
    values, tied = ({}, None) if row is None else (row.values, row.tied)
    rim, area = line.get("rim", (None, None))
    more = {"empty": line["empty"], "by_column": line.get("columns", ())}
    return MapNumbers(**own, rim=rim, rim_area=area, metrics=values, tied=tied, **more)


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
    """Faithfulness and localisation on some samples; maps under random weights on fewer."""
    told = partial(_told_of, tell)
    chosen = _measured(request, data, seen)
    faithful = measured_of(request, own, ways, chosen, state, told(f"measuring the {data.kind.maps}"))
    if not has_weights(own.ask.model):
        return faithful, replace(faithful, rows={}, columns={})
    few = data.only(request.even(seen.names)).some(RANDOMISED, request.seed)
    return faithful, _metrics(request, own, ways, few, ["model_randomization"], state, told("explaining with random weights"))


def _told_of(tell: Tell, what: str) -> ToldHow:
    return lambda done, total: tell(f"{what}: {done} of {total}")


def measured_of(
    request: Request, own: Subject, ways: Sequence[Way], chosen: Dataset, state: Path | None, told: ToldHow | None = None
) -> Evaluation:
    """The metrics that an audit measures on every sample chosen for them; ``state`` is a file that keeps what is done."""
    local = LOCAL if chosen.masked else ()  # of what could be read, perhaps nothing has a mask
    return _metrics(request, own, ways, chosen, [*FAITHFUL, "id_score", "residual", *local], state, told)


def _metrics(
    request: Request, own: Subject, ways: Sequence[Way], chosen: Dataset, names: Sequence[str], state: Path | None, told: ToldHow | None
) -> Evaluation:
    work = Work(chosen, ways, names, Settings(seed=request.seed, stages=STAGES), state=state, progress=told)
    return evaluated(own.ask, work if own.rows is None else replace(work, columns=own.rows.places, model=own.whole.model))


def _measured(request: Request, data: Dataset, seen: Seen) -> Dataset:
    """The samples that metrics are measured on: those that were named, or so many as were asked for, of those that have an answer."""
    answered = data.only(request.even(seen.names))
    if request.measured_on is None:
        return answered.some(request.measured, request.seed)
    return answered.only([n for n in request.measured_on if n in seen.base])


def _drawn(request: Request, data: Dataset, seen: Seen) -> Drawn:
    """On how many samples the metrics were measured."""
    named, randomised = request.measured_on is not None, min(RANDOMISED, len(request.even(seen.names)))
    return Drawn(request.seed, len(_measured(request, data, seen)), randomised, STAGES, named)


def _metric(row: Mapping[str, Any], found: Evaluation) -> MetricRow:
    return MetricRow(**row, title=found.columns[row["metric"]].title)
