"""The JSON of an audit as types. NaN stands as null; what a check measured is typed in its own file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnxsal.report.audit.verdict import Finding, Outcome, Verdict

SCHEMA = "onnxsal-audit/2"

Number: TypeAlias = float | None
"""``None``: there is none."""


@dataclass(frozen=True)
class ClassName:
    """A class by index and label."""

    index: int
    label: str | None


@dataclass(frozen=True)
class Answer(ClassName):
    """A class with the probability that the model gives it."""

    probability: Number


@dataclass(frozen=True)
class Why:
    """A picture that could not be read, or (with the ``label`` that it has) that the model has no answer to, and why."""

    name: str
    why: str
    label: ClassName | None


@dataclass(frozen=True)
class ModelCard:
    """What a model is: its file, its graph, how it was run, how its pictures are prepared."""

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
    """What the model was examined on. ``damaged`` could not be read; ``failed`` could be, and the model has no answer to it."""

    source: str
    sha256: str
    pictures: int
    labelled: int
    masked: int
    notes: Sequence[str]
    damaged: Sequence[Why]
    failed: Sequence[Why]


@dataclass(frozen=True)
class Accuracy:
    """Share of ``n`` labelled pictures of so many ``classes`` whose first answer, and one of whose first five, is right; ``most``: the
    share of the label that most of them have.
    """

    n: int
    classes: int
    top1: float
    top5: float
    most: float


@dataclass(frozen=True)
class Drawn:
    """``measured`` pictures were measured, ``randomised`` explained with random weights in ``stages``; all were drawn by ``seed``."""

    seed: int
    measured: int
    randomised: int
    stages: int


@dataclass(frozen=True)
class MethodCard:
    """A method that was used; ``refused``: why it cannot explain the model."""

    name: str
    title: str
    source: str
    formula: str
    law: str
    parameters: Mapping[str, str]
    refused: str | None


@dataclass(frozen=True)
class MapNumbers:
    """One map: the score and the error of the law, the share of the map at the border beside the border's share of the picture,
    and what was measured.
    """

    score: Number
    residual: Number
    reached: Number
    warnings: Sequence[str]
    rim: Number
    rim_area: Number
    metrics: Mapping[str, Number]
    tied: Number


@dataclass(frozen=True)
class OtherAnswer:
    """What the other model says of a picture; ``likeness``: rank correlation of both models' maps, by method."""

    predicted: Sequence[Answer]
    agrees: bool
    right: bool | None
    likeness: Mapping[str, Number]
    mean_likeness: Number


@dataclass(frozen=True)
class PictureCard:
    """One picture: ``size`` [height, width], the best classes first, ``right`` where there is a label, maps by method."""

    name: str
    sha: str
    size: Sequence[int]
    label: ClassName | None
    right: bool | None
    predicted: Sequence[Answer]
    maps: Mapping[str, MapNumbers]
    against: OtherAnswer | None


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
    """A check: its question, the worst outcome over methods, the verdicts. Its ``facts`` are of the check's own type."""

    title: str
    outcome: Outcome
    verdicts: Sequence[Verdict]
    facts: Any


@dataclass(frozen=True)
class Document:
    """What `onnxsal audit` writes beside its page. null: no value. Findings come worst first; limits are those of --fail-if."""

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
    pictures: Sequence[PictureCard]
    accuracy: Accuracy | None
    metrics: Sequence[MetricRow]
    checks: Mapping[str, CheckReport]
    findings: Sequence[Finding]
    limits: Sequence[JudgedLimit]
