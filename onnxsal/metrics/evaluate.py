"""Methods against metrics on a data set, beside three maps that know nothing of the model; resumable, sample by sample."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.ask.request import CONTRAST, OF_LAYERS, Ask, takes
from onnxsal.disk import read_bytes
from onnxsal.engine.method import get_method
from onnxsal.errors import InputError, MethodError, ModelError, PlanError, TargetError, UnsupportedError
from onnxsal.explainer import Explainer
from onnxsal.facade.target import target_index
from onnxsal.given.known import with_known
from onnxsal.graph.load import Source
from onnxsal.graph.provenance import model_sha256
from onnxsal.metrics.baselines import BASELINES, baseline_maps
from onnxsal.metrics.data_kind import PICTURES, VALUES
from onnxsal.metrics.dataset import Dataset, Sample, none_left
from onnxsal.metrics.evaluation import Evaluation, SampleResult, Way
from onnxsal.metrics.input_places import InputPlaces, chosen_map, maps_at
from onnxsal.metrics.measures import DEFAULT_METRICS, Measure, Settings, Task, chosen_measures, columns_of
from onnxsal.metrics.needs import NEEDS
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.open_rows import METHODS, METRICS, open_rows, refuse_misused, takes_rows, with_columns_together
from onnxsal.metrics.ranking import TieWarning, tied
from onnxsal.metrics.record import Line, Record, measured_or_damaged, unpacked
from onnxsal.metrics.scorer import Scorer
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.progress import Bar, ToldHow, counted

log = logging.getLogger(__name__)

DEFAULT_METHODS = ("fullgrad", "gradient", "integrated_gradients", "smoothgrad", "gradcam")

CHUNK = 8
"""Samples that are measured, and written down, together. Part of the numbers' last digits, so it does not follow the batch size."""

PREDICTED, LABEL = "predicted", "label"

DAMAGED = "damaged"

IDLE = ("target", "target_input", "prefix", "components", "runs_on", *CONTRAST)
"""Fields of an ``Ask`` that mean nothing where several methods are measured."""


def evaluate(
    model: Source,
    data: str | Path | Dataset,
    methods: Sequence[str | Way] = DEFAULT_METHODS,
    metrics: Sequence[str] = DEFAULT_METRICS,
    settings: Settings | None = None,
    *,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    masks: str | Path | None = None,
    labels_column: str | None = None,
    target: str | int = PREDICTED,
    samples: int | None = None,
    state: str | Path | None = None,
    providers: Any = None,
    batch_size: int = 16,
    progress: ToldHow | Bar = None,
    **options: Any,
) -> Evaluation:
    """Measure every method, and three baselines that know nothing of the model, on every sample of ``data`` (see ``open_dataset``), or
    every row of a table with named columns (see ``open_rows``), whose class is in ``labels_column``.

    ``methods`` are names, or ``Way``s with parameters; ``metrics`` those of ``MEASURES``. Maps are of the class ``target``:
    "predicted", "label" or an index. ``samples``: this many, drawn by the seed. ``state``: a file that keeps what is done, by sample:
    an interrupted run goes on, another method or metric is added to what is there. ``progress``: a bar (``None``: in a terminal or a
    notebook only), or what is told how much is done, and of how much. ``options`` are those of ``convert`` (input, output,
    score, batched, layout, example, ...; layer and grid go to the methods that have a use for them). A method that cannot explain the
    model is listed as refused; if all are, ``PlanError`` says why. ``labels``, and the labels of the data, that do not fit the number of
    classes are refused; of a model in a file these and ``preprocess`` are looked for beside it where they are not given.
    A sample on which the model fails is in ``Evaluation.lost``; ``InputError`` where it fails on all of them.
    """
    ask = with_known(Ask.of(model, preprocess=preprocess, labels=labels, providers=providers, batch_size=batch_size, **options))
    with counted(f"evaluating {len(methods)} methods", False if callable(progress) else progress) as shown:
        told = progress if callable(progress) else shown
        work = Work(data, methods, metrics, settings or Settings(), masks, target, samples, state, told, labels_column)
        return refuse_nothing(evaluated(ask, work))


@dataclass(frozen=True)
class Work:
    """What is measured of a model, and on what: the arguments of ``evaluate`` that are asked of the measurement.

    ``columns`` are the places of data that are rows of a table already, ``model`` the one that the measured one is the part of behind it.
    """

    data: str | Path | Dataset
    methods: Sequence[str | Way] = DEFAULT_METHODS
    metrics: Sequence[str] = DEFAULT_METRICS
    settings: Settings = field(default_factory=Settings)
    masks: str | Path | None = None
    target: str | int = PREDICTED
    samples: int | None = None
    state: str | Path | None = None
    progress: ToldHow | None = None
    labels_column: str | None = None
    columns: InputPlaces | None = None
    model: Source | None = None


def for_tables(work: Work) -> Work:
    """The same, with what suits tables where nothing is asked for."""
    methods = METHODS if work.methods is DEFAULT_METHODS else work.methods
    return replace(work, methods=methods, metrics=METRICS if work.metrics is DEFAULT_METRICS else work.metrics)


def evaluated(ask: Ask, work: Work) -> Evaluation:
    """As ``evaluate``, of a request: every field of it that has a meaning here goes to the scorer and to the explainer of each method.

    Raises ``MethodError`` for one that has none.
    """
    if ask.method is not None:
        raise MethodError(f"several methods are measured: name {ask.chosen.name} in methods.")
    if any(name in ask.given for name in CONTRAST):
        raise MethodError(
            "evaluate measures how the score of a class falls, as a share of it; of a difference of two scores, which may be 0 or below, "
            "there is no such share. Leave against= out."
        )
    ask, data, places = ask.without("evaluate", *IDLE), work.data, None
    if not isinstance(data, Dataset) and refuse_misused(takes_rows(ask, data), work.labels_column, work.masks):
        work = for_tables(work)
        rows = open_rows(ask, data, work.labels_column)
        ask, data, places, work = rows.ask, rows.data, rows.places, replace(work, model=ask.model)
    ways = [w if isinstance(w, Way) else Way(w, w) for w in work.methods]
    refuse_idle(ask, ways)
    scorer = Scorer.of(ask)
    scorer.columns = work.columns if places is None else places
    if not isinstance(data, Dataset):
        data = open_dataset(data, scorer.session.inputs[0], ask.preprocess, ask.labels, work.masks)
    if work.samples is not None:
        data = data.some(work.samples, work.settings.seed)
    scorer.refuse_misfit(ask.labels, data)
    if isinstance(work.target, int):
        target_index(scorer.question, work.target)
    measures = chosen_measures(work.metrics)
    _check(measures, data, work.settings, work.target, ask.edges["black"])
    ways = [*ways, *(Way(name) for name in BASELINES if scorer.of_pixels or name == "random")]
    if len({w.name for w in ways}) < len(ways):
        raise MethodError(f"methods {', '.join(w.name for w in ways)}: two have one name. Name each once, and no method like a baseline.")
    run = _Run(ask, scorer, data, measures, work)
    with run.record.alone():
        return run.all(ways)


def refuse_nothing(found: Evaluation) -> Evaluation:
    """The same, if something of a method was measured. Raises ``InputError`` with what was in the way of each sample."""
    own = {w.name for w in found.ways if not w.baseline}
    whys = {sample: "; ".join(dict.fromkeys(why.values())) for (way, sample), why in found.lost.items() if way in own}
    if len(whys) == len(found.samples) and not any(row.values for (way, _), row in found.rows.items() if way in own):
        raise InputError(none_left(f"{len(found.samples)} samples", "measured", whys | found.damaged))
    return found


def refuse_idle(ask: Ask, ways: Sequence[Way]) -> None:
    """Raise ``MethodError`` for a layer or a grid where none of the methods has a use for it."""
    methods = [get_method(w.method) for w in ways if w.method is not None]
    for name in OF_LAYERS:
        if name in ask.given and not any(takes(method, name) for method in methods):
            raise MethodError(f"none of {', '.join(m.name for m in methods)} has a target layer; {name}= has no use.")


def _check(measures: Sequence[Measure], data: Dataset, settings: Settings, target: str | int, black: object) -> None:
    """What would fail on every sample is said before the first."""
    needed: dict[str, dict[str, str]] = {}  # need -> metric -> what follows from it, in words
    for m in measures:
        for name, why in m.needing(settings).items():
            needed.setdefault(name, {})[m.name] = why
    if target == LABEL and not data.labelled:
        raise InputError(f"target 'label' needs labels, and the data have none. {' '.join(data.notes)}")
    if isinstance(target, str) and target not in (PREDICTED, LABEL):
        raise TargetError(f"target '{target}' is not 'predicted', 'label' or an index.")
    for name, by in needed.items():
        need = NEEDS[name]
        if need.missing(data, black):
            why = " or ".join(dict.fromkeys(filter(None, by.values()))) or need.why
            raise InputError(need.refusal.format(metrics=", ".join(by), why=why, notes=" ".join(data.notes)))


class _Run:
    """One evaluation, from what is recorded to what is found."""

    def __init__(self, ask: Ask, scorer: Scorer, data: Dataset, measures: Sequence[Measure], work: Work) -> None:
        self.ask = replace(ask.on(scorer.session.obtained), batch_size=scorer.batch_size)
        self.scorer, self.data, self.measures = scorer, data, measures
        self.named = self.ask.model if work.model is None else work.model
        self.settings, self.target, self.progress = work.settings, work.target, work.progress
        self.record = Record(None if work.state is None else Path(work.state), measured_or_damaged)
        self.model_sha256 = model_sha256(ask.model)
        self.base = _hash([version("onnxsal"), self.model_sha256, scorer.session.obtained, str(work.target), ask.told])
        self.kind = VALUES if data.kind is PICTURES and not scorer.of_pixels else data.kind
        self.lost: dict[tuple[str, str], dict[str, str]] = {}  # (way, sample) -> metric -> the error, tried again in the next run
        self.digests = self._digests()
        self.fresh = 0

    def all(self, ways: Sequence[Way]) -> Evaluation:
        """Measure what is not measured yet, way by way."""
        refused: dict[str, str] = {}
        for number, way in enumerate(ways):
            chunks = [(names, pending) for names in self._chunks() if (pending := self._pending(way, names))]
            self._tell(number, len(ways), 0, len(chunks))
            if not chunks:
                continue
            try:
                explainer = None if way.baseline else self._explainer(way)
            except (PlanError, UnsupportedError, MethodError) as error:
                refused[way.name] = str(error)
                log.warning("%s refused: %s", way.name, error)
                continue
            for i, (names, pending) in enumerate(chunks):
                batches = list(self.data.batches(CHUNK, names))
                self.record.put(self._damaged_lines(names))  # first, so that they make no metric look unfinished
                for batch in batches:
                    self._measure(way, explainer, batch, pending)
                self._tell(number, len(ways), i + 1, len(chunks))
                log.debug("%s: %d of %d chunks measured", way.name, i + 1, len(chunks))
            log.info("%s measured", way.name)
        if not self._whole():
            raise InputError(none_left(f"{len(self.data)} samples", "used", self.data.damaged))
        if refused and len(refused) == sum(not w.baseline for w in ways):
            raise PlanError("no method can explain this model:\n" + "\n".join(f"{k}: {v}" for k, v in refused.items()))
        kept = [w for w in ways if w.name not in refused]
        rows = {(w.name, s): row for w in kept for s in self.data.names if (row := self._row(w, s)) is not None}
        return Evaluation(
            *(tuple(kept), columns_of(self.measures, self.kind), self._whole(), rows, refused, dict(self.data.damaged), self._facts()),
            *(self.settings.seed, self.lost, self.kind),
        )

    def _explainer(self, way: Way) -> Explainer:
        ask = self.ask.by(way.method, way.parameters)
        return Explainer.of(ask if self.scorer.columns is None else with_columns_together(ask, self.scorer.columns))

    def _tell(self, way: int, ways: int, chunk: int, chunks: int) -> None:
        if self.progress is not None:
            share = chunk / chunks if chunks else 1.0
            count = len(self.data)
            self.progress(round((way + share) * count), ways * count)

    # ----- what is done -----

    def _digests(self) -> dict[str, str]:
        found = {}
        for name in self.data.names:
            try:
                found[name] = self.data.digest(name)
            except InputError as error:
                self.data.damaged[name] = str(error)
        return found

    def _whole(self) -> tuple[str, ...]:
        return tuple(n for n in self.data.names if n not in self.data.damaged)

    def _chunks(self) -> list[list[str]]:
        """Always the same samples together, however much of them is done."""
        names = list(self.digests)
        return [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]

    def _key(self, way: Way, measure: Measure) -> str:
        settings = {name: getattr(self.settings, name) for name in measure.uses}
        made = [way.name, self.settings.seed] if way.method is None else [get_method(way.method).sha256, way.parameters]
        return _hash([self.base, made, measure.name, settings])

    def _line(self, way: Way, measure: Measure, name: str) -> Line | None:
        return self.record.get(self._key(way, measure), name, self.digests[name])

    def _pending(self, way: Way, names: Iterable[str]) -> list[Measure]:
        """The metrics that a chunk still lacks; damaged samples lack nothing."""
        whole = []
        for name in names:
            line = self.record.get(_hash([self.base, DAMAGED]), name, self.digests[name])
            if line is not None:
                self.data.damaged[name] = line["why"]
            elif name not in self.data.damaged:
                whole.append(name)
        fitting = [m for m in self.measures if not m.of and not (way.baseline and "method" in m.needs)]
        return [m for m in fitting if any(self._line(way, m, n) is None for n in whole)]

    def _damaged_lines(self, names: Iterable[str]) -> list[Line]:
        key = _hash([self.base, DAMAGED])
        bad = [n for n in names if n in self.data.damaged and self.record.get(key, n, self.digests[n]) is None]
        return [{"key": key, "sample": n, "digest": self.digests[n], "why": self.data.damaged[n]} for n in bad]

    # ----- what is to be done -----

    def _measure(self, way: Way, explainer: Explainer | None, batch: Sequence[Sample], pending: Sequence[Measure]) -> None:
        try:
            task = self._task(way, explainer, batch)
        except (InputError, ModelError, TargetError) as error:
            if len(batch) > 1:
                for sample in batch:
                    self._measure(way, explainer, [sample], pending)
                return
            self.lost.setdefault((way.name, batch[0].name), {}).update({m.name: str(error) for m in pending})
            return
        found = tied(maps_at(task.maps, task.x, self._places(task.x)), warn=False)
        heads = [
            {"way": way.name, "sample": s.name, "digest": s.digest, "target": int(t), "distinct": int(d), "tied": float(share)}
            for s, t, d, share in zip(batch, task.target, found.distinct, found.share, strict=True)
        ]
        for measure in pending:
            if "law" in measure.needs and task.residual is None:
                lines = [{**head, "values": {}, "curves": {}, "flag": ""} for head in heads]
            else:
                lines = [{**heads[i], **line} for i, line in self._lines(way, measure, task, list(range(len(task))), batch)]
            key = self._key(way, measure)
            self.record.put({"key": key, "metric": measure.name, **line} for line in lines)
            self.fresh += len(lines)

    def _task(self, way: Way, explainer: Explainer | None, batch: Sequence[Sample]) -> Task:
        """The maps of a batch, and everything else that is measured against."""
        x = np.concatenate([s.x for s in batch])
        labels = np.array([-1 if s.label is None else s.label for s in batch], np.int64)
        if self.target == LABEL and (labels < 0).any():
            raise InputError("the sample has no label")
        asked = None if self.target == PREDICTED else labels if self.target == LABEL else np.full(len(x), self.target)
        target = self.scorer.targets(x, asked)
        residual = reached = None
        if explainer is None:
            maps = signed = baseline_maps(way.name, x, self._places(x), self.settings.seed)
        else:
            whole = explainer.explain(x, target)
            signed, residual, reached = chosen_map(whole, signed=True), whole.residual, whole.reached
            maps = chosen_map(whole)
        masks = tuple(s.mask for s in batch)
        unsigned = explainer is None or explainer.conversion.method.partial
        black = self.ask.edges["black"]
        return Task(self.scorer, x, maps, signed, residual, reached, target, labels, masks, black, explainer, unsigned)

    def _places(self, x: np.ndarray) -> InputPlaces:
        return self.scorer.places(x)

    def _lines(self, way: Way, measure: Measure, task: Task, rows: list[int], batch: Sequence[Sample]) -> Iterator[tuple[int, Line]]:
        """One line for each sample; samples that raise are measured alone, and what still raises is kept for the next run."""
        part, rest = self._fit(measure, task, rows)
        for i, why in rest.items():
            yield i, {"values": {}, "curves": {}, "flag": why}
        if not part:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TieWarning)  # told once, at the end
                found = measure.measure(task.part(part), self.settings)
        except (InputError, ModelError, TargetError) as error:
            if len(part) > 1:
                for i in part:
                    yield from self._lines(way, measure, task, [i], batch)
                return
            self.lost.setdefault((way.name, batch[part[0]].name), {})[measure.name] = str(error)
            return
        for at, i in enumerate(part):
            curves = {name: [axis, values[at]] for name, (axis, values) in found.curves.items()}
            yield i, {"values": {k: v[at] for k, v in found.values.items()}, "curves": curves, "flag": found.flags[at]}

    def _fit(self, measure: Measure, task: Task, rows: list[int]) -> tuple[list[int], dict[int, str]]:
        """The samples that have what a metric needs, and why the others do not."""
        needs = [NEEDS[name] for name in measure.needing(self.settings)]
        lacking = {i: next(n.flag for n in needs if n.lacking(task, i)) for i in rows if any(n.lacking(task, i) for n in needs)}
        return [i for i in rows if i not in lacking], lacking

    # ----- what was found -----

    def _row(self, way: Way, name: str) -> SampleResult | None:
        if name in self.data.damaged:
            return None
        values: dict[str, float] = {}
        curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        flags, head = dict(self.lost.get((way.name, name), {})), None
        for measure in self.measures:
            if measure.of:
                values |= measure.derive(values)
                continue
            line = self._line(way, measure, name)
            if line is None:
                continue
            head = line
            values |= {k: unpacked(v) for k, v in line["values"].items()}
            curves |= {k: (np.array(a, np.float64), np.array([unpacked(v) for v in row])) for k, (a, row) in line["curves"].items()}
            if line["flag"]:
                flags[measure.name] = line["flag"]
        label = self.data.label(name)
        if head is None:
            return SampleResult(way.name, name, -1, label, {}, {}, flags, 0, np.nan) if flags else None
        return SampleResult(way.name, name, head["target"], label, values, curves, flags, head["distinct"], head["tied"])

    def _facts(self) -> dict[str, Any]:
        return {
            "onnxsal": version("onnxsal"),
            "model": str(self.named) if isinstance(self.named, str | Path) else "",
            "model_sha256": self.model_sha256 if self.named is self.ask.model else model_sha256(self.named),
            "providers": self.scorer.session.providers,
            "provider_options": self.scorer.session.provider_options,
            "input": str(self.scorer.session.inputs[0]),
            "output": self.scorer.question.output,
            "target": self.target,
            "asked": {k: v for k, v in self.ask.options.items() if k != "example"},
            "settings": dict(vars(self.settings)),
            "samples": len(self.data),
            "labelled": self.data.labelled,
            "masked": self.data.masked,
            "notes": [*self.data.notes, *filter(None, [self.scorer.session.rounds])],
            "measured_now": self.fresh,
        }


def _hash(value: Any) -> str:
    """A short hash of anything made of numbers, words, arrays and files."""
    return hashlib.sha256(json.dumps(_named(value), sort_keys=True, default=repr).encode()).hexdigest()[:20]


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _named(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_named(v) for v in value]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, str | Path) and str(value).endswith((".npz", ".npy")) and Path(value).is_file():
        return hashlib.sha256(read_bytes(value)).hexdigest()
    return value


__all__ = ["Evaluation", "Settings", "Way", "evaluate"]
