"""The JSON of an audit as types. NaN stands as null; what a check measured is typed in its own file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnxsal.metrics.data_kind import PICTURES, ROWS, DataKind
from onnxsal.report.audit.class_name import ClassName
from onnxsal.report.audit.population import Population
from onnxsal.report.audit.verdict import Finding, Outcome, Severity, Verdict

SCHEMA = "onnxsal-audit/4"
"""Of the JSON: a number for each set of keys. A key keeps what it means; ``pictures``, wherever it is one, has the samples of the ``kind``
that ``data`` names, be they pictures or rows of a table.
"""

KINDS = {kind.many: kind for kind in (PICTURES, ROWS)}
"""Kinds of data that are audited, as the JSON names them."""

Number: TypeAlias = float | None
"""``None``: there is none."""


@dataclass(frozen=True)
class Answer(ClassName):
    """A class with the probability that the model gives it."""

    probability: Number


@dataclass(frozen=True)
class Why:
    """A sample that could not be read, or (with the ``label`` that it has) that the model has no answer to, and why."""

    name: str
    why: str
    label: ClassName | None


@dataclass(frozen=True)
class ModelCard:
    """What a model is: its file, its graph, how it was run, how pictures are prepared for it."""

    file: str
    sha256: str
    bytes: int | None
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: Sequence[str]
    output: str
    operators: Mapping[str, int]
    nodes: int
    parameters: int
    providers: Sequence[str]
    provider_options: Mapping[str, Mapping[str, str]]
    preprocessing: Mapping[str, Any] | None
    labels: int | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class DataCard:
    """What the model was examined on: ``kind`` is "pictures" or "rows", ``columns`` are those of the rows. ``damaged`` could not be read;
    ``failed`` could be, and the model has no answer to it.
    """

    source: str
    sha256: str
    pictures: int
    labelled: int
    masked: int
    notes: Sequence[str]
    damaged: Sequence[Why]
    failed: Sequence[Why]
    kind: str
    columns: Sequence[str]


@dataclass(frozen=True)
class Accuracy:
    """Share of ``n`` labelled samples of so many ``classes`` whose first answer, and one of whose first five, is right; ``most``: the
    share of the label that most of them have.
    """

    n: int
    classes: int
    top1: float
    top5: float
    most: float


@dataclass(frozen=True)
class Drawn:
    """``measured`` samples were measured, ``randomised`` explained with random weights in ``stages``; all were drawn by ``seed``, but for
    the measured ones where they were ``named``.
    """

    seed: int
    measured: int
    randomised: int
    stages: int
    named: bool


@dataclass(frozen=True)
class MethodCard:
    """A method that was used; ``refused``: why it cannot explain the model; ``doubt``: why all of its maps are to be read with care."""

    name: str
    title: str
    source: str
    formula: str
    law: str
    parameters: Mapping[str, str]
    refused: str | None
    doubt: str


@dataclass(frozen=True)
class MapNumbers:
    """One map: the score and the error of the law, and what was measured. Of a picture the share of the map at the border beside the
    border's share of the picture; of a row the attribution of each column (``by_column``). ``empty``: why it shows nothing ('' = it does).
    """

    score: Number
    residual: Number
    reached: Number
    warnings: Sequence[str]
    rim: Number
    rim_area: Number
    metrics: Mapping[str, Number]
    tied: Number
    empty: str
    by_column: Sequence[Number]


@dataclass(frozen=True)
class OtherAnswer:
    """What the other model says of a sample; ``likeness``: rank correlation of both models' maps, by method."""

    predicted: Sequence[Answer]
    agrees: bool
    right: bool | None
    likeness: Mapping[str, Number]
    mean_likeness: Number


@dataclass(frozen=True)
class SampleCard:
    """One picture, of ``size`` [height, width], or one row, of ``values`` for each column: the best classes first, ``right`` where there is
    a label, maps by method.
    """

    name: str
    sha: str
    size: Sequence[int]
    label: ClassName | None
    right: bool | None
    predicted: Sequence[Answer]
    maps: Mapping[str, MapNumbers]
    against: OtherAnswer | None
    values: Sequence[str | float | None]


@dataclass(frozen=True)
class MetricRow:
    """A metric of a method or a baseline: mean, 95 % interval, and the difference to the best baseline with its interval."""

    metric: str
    title: str
    better: str
    method: str
    mean: Number
    low: Number
    high: Number
    n: int
    excluded: int
    over: str | None
    over_mean: Number
    over_low: Number
    over_high: Number


@dataclass(frozen=True)
class JudgedLimit:
    """A limit of --fail-if, with what it is on; what could not be measured is broken."""

    limit: str
    name: str
    method: str | None
    value: Number
    broken: bool
    text: str


@dataclass(frozen=True)
class CheckReport:
    """A check: its question, the worst outcome over methods, the verdicts. Its ``facts`` are of the check's own type; null, where it is no
    question to data of this kind.
    """

    title: str
    outcome: Outcome
    verdicts: Sequence[Verdict]
    facts: Any


@dataclass(frozen=True)
class Document:
    """What `onnxsal audit` writes beside its page. null: no value. Findings come worst first; limits are those of --fail-if. Where all else
    is about a sample of the data, ``population`` tells of all.
    """

    schema: str
    onnxsal: str
    created: str
    command: Sequence[str]
    versions: Mapping[str, str]
    model: ModelCard
    against: ModelCard | None
    data: DataCard
    settings: Drawn
    form: Mapping[str, str]
    methods: Sequence[MethodCard]
    pictures: Sequence[SampleCard]
    accuracy: Accuracy | None
    metrics: Sequence[MetricRow]
    checks: Mapping[str, CheckReport]
    findings: Sequence[Finding]
    limits: Sequence[JudgedLimit]
    population: Population | None

    @property
    def of(self) -> DataKind:
        """What the data are."""
        return KINDS[self.data.kind]


def headline(document: Document) -> tuple[str, str]:
    """What stands first: how it is coloured ("bad", "doubt", "good"), and what was found in a few words.

    Good only where every check that applies was made and passed, every limit holds, and none of the data is still to be explained.
    """
    findings, limits = document.findings, document.limits
    serious, broken = sum(f.severity is Severity.SERIOUS for f in findings), sum(limit.broken for limit in limits)
    outcomes = Counter(c.outcome for c in document.checks.values())
    unmade = sum(any(v.outcome is Outcome.TOO_FEW for v in c.verdicts) for c in document.checks.values())
    words = [f"{_several(len(findings), 'finding')}{f', {serious} serious' if serious else ''}" if findings else "No finding"]
    words += [f"{_several(unmade, 'check')} could not be decided"] if unmade else []
    words += [f"{broken} of {_several(len(limits), 'limit')} broken"] if limits else []
    of = " of the sample" if document.population else ""
    words += [f"{_several(len(document.data.damaged), document.of.one)}{of} could not be read"] if document.data.damaged else []
    open_ones = document.population is not None and (document.population.missing > 0 or len(document.population.stale) > 0)
    good = not (findings or unmade or broken or open_ones)
    if good:
        words.append(f"{_several(outcomes[Outcome.PASSED], 'applicable check')} made and passed")
    words += _words_of_all(document)
    return "bad" if serious or broken else "good" if good else "doubt", "; ".join(words) + "."


def _words_of_all(document: Document) -> list[str]:
    """What a headline says of all data, and that the rest of it is of a sample."""
    population, many = document.population, document.of.many
    if population is None:
        return []
    words = [f"judged on a sample of {population.of_n(document.data.pictures)} {many}"]
    words += [f"{population.of_n(population.damaged)} could not be used"] if population.damaged else []
    words += [f"{population.of_n(population.missing)} are still to be explained"] if population.missing else []
    return words + ([f"{_several(len(population.stale), 'shard')} stale"] if population.stale else [])


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
