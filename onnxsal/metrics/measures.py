"""The metrics as ``evaluate`` runs them: by name, with the columns and curves that each gives, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.explainer import Explainer
from onnxsal.metrics import faithfulness, localisation, sanity
from onnxsal.metrics.curve import CurveSettings
from onnxsal.metrics.scorer import Scorer
from onnxsal.metrics.substrate import SUBSTRATES


@dataclass(frozen=True)
class Settings:
    """What the metrics can be told; the words are those of the functions in ``onnxsal.metrics``.

    ``substrate`` and ``step`` are for insertion and deletion (``None``: the protocol's own), ``removal`` is what stands for removed pixels
    in pixel perturbation, ``tolerance`` the pixels by which the pointing game may miss, ``stages`` those of the randomisation.
    """

    protocol: str = "rise"
    substrate: str | None = None
    step: int | None = None
    score: str = "probability"
    ties: str = "random"
    removal: str = "black"
    percent: tuple[float, ...] = faithfulness.PERCENT
    tolerance: int = 0
    stages: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        self.curves()
        if self.removal not in SUBSTRATES:
            raise InputError(f"removal '{self.removal}' is not one of {', '.join(SUBSTRATES)}{near_miss(str(self.removal), SUBSTRATES)}.")
        if not self.percent or min(self.percent) <= 0 or max(self.percent) > 100:
            raise InputError(f"percent={self.percent} must be numbers above 0 and up to 100.")

    def curves(self, black: np.ndarray | None = None) -> CurveSettings:
        """Those of insertion and deletion; ``black`` is a black pixel in the model's input."""
        return CurveSettings(self.protocol, self.substrate, self.step, self.ties, self.score, black, self.seed)


@dataclass(frozen=True)
class Task:
    """Samples [N] with their maps, ready to be measured.

    ``maps`` are the saliency maps, ``signed`` the attributions (the maps where those have no signs: ``unsigned``), ``residual`` [N] the
    error of the method's law, ``reached`` [N] the share of the score at the input (relevance methods), ``labels`` [N] -1 and ``masks`` [N]
    ``None`` where a sample has none, ``explainer`` ``None`` for maps that no model made.
    """

    scorer: Scorer
    x: np.ndarray
    maps: np.ndarray
    signed: np.ndarray
    residual: np.ndarray | None
    reached: np.ndarray | None
    target: np.ndarray
    labels: np.ndarray
    masks: tuple[np.ndarray | None, ...]
    settings: Settings
    black: np.ndarray | None = None
    explainer: Explainer | None = None
    unsigned: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: Sequence[int]) -> Task:
        """Some of the samples."""
        at = np.asarray(rows, np.int64)
        residual, reached = (None if law is None else law[at] for law in (self.residual, self.reached))
        arrays = {n: getattr(self, n)[at] for n in ("x", "maps", "signed", "target", "labels")}
        return replace(self, **arrays, residual=residual, reached=reached, masks=tuple(self.masks[i] for i in at))


@dataclass(frozen=True)
class Measured:
    """``values`` column -> [N], NaN where ``flags`` [N] say why; ``curves`` name -> (axis [K], rows [N, K])."""

    values: dict[str, np.ndarray]
    flags: tuple[str, ...]
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A number per sample: whether ``larger`` is better (``None``: neither), and what it is."""

    larger: bool | None
    title: str


@dataclass(frozen=True)
class Measure:
    """A metric: the columns and curves that ``run`` finds, the settings that it ``uses`` and what it ``needs``.

    ``needs``: "mask", "label", "method" (a map that a model made), "law" (a method that obeys one).
    """

    name: str
    columns: dict[str, Column]
    run: Callable[[Task], Measured]
    uses: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    curves: dict[str, str] = field(default_factory=dict)


def _curve(name: str) -> Callable[[Task], Measured]:
    def run(task: Task) -> Measured:
        s, target = task.settings, task.target
        if s.protocol == "keio":  # the published procedure explains the predicted class and scores the labelled one
            target = task.labels
        measure = getattr(faithfulness, name)
        found = measure(task.scorer, task.x, task.maps, target, s.curves(task.black))
        share = found.pixels / task.scorer.places(task.x).count
        return Measured({name: found.auc}, found.flags, {name: (share, found.scores)})

    return run


def _perturbation(task: Task) -> Measured:
    s = task.settings
    asked = {"percent": s.percent, "substrate": s.removal, "ties": s.ties, "seed": s.seed}
    found = faithfulness.pixel_perturbation(task.scorer, task.x, task.maps, task.target, black=task.black, **asked)  # type: ignore[arg-type]
    rows = {n: getattr(found, n) for n in ("least_probability", "most_probability", "least_logit", "most_logit")}
    flags = tuple(
        f or ("the logit is too near zero for a relative change" if z else "") for f, z in zip(found.flags, found.near_zero, strict=True)
    )
    return Measured({n: r.mean(1) for n, r in rows.items()}, flags, {n: (found.percent, r) for n, r in rows.items()})


def _occlusion(task: Task) -> Measured:
    found = faithfulness.occlusion_correlation(task.scorer, task.x, task.signed, task.target, absolute=task.unsigned)
    return Measured({"occlusion_pearson": found.pearson, "occlusion_spearman": found.spearman}, found.flags)


def _masks(task: Task) -> np.ndarray:
    return np.stack([m for m in task.masks if m is not None])


def _pointing(task: Task) -> Measured:
    found = localisation.pointing_game(task.maps, _masks(task), task.settings.tolerance)
    return Measured({"pointing_game": found.value, "pointing_chance": found.chance}, found.flags)


def _mass(task: Task) -> Measured:
    found = localisation.relevance_mass(task.maps, _masks(task))
    return Measured({"relevance_mass": found.value}, found.flags)


def _rank(task: Task) -> Measured:
    found = localisation.relevance_rank(task.maps, _masks(task))
    return Measured({"relevance_rank": found.value}, found.flags)


def _attention(task: Task) -> Measured:
    found = localisation.attention_errors(task.maps, _masks(task))
    kinds = {
        k: np.array([np.nan if f else float(v == k) for v, f in zip(found.verdict, found.flags, strict=True)])
        for k in localisation.VERDICTS
    }
    shares = {ATTENTION[k]: v for k, v in kinds.items()}
    return Measured({**shares, "attended_precision": found.precision, "attended_recall": found.recall}, found.flags)


ATTENTION = dict(zip(localisation.VERDICTS, ("attended_well", "attended_too_little", "attended_too_much", "attended_wrongly"), strict=True))


def _residual(task: Task) -> Measured:
    assert task.residual is not None
    found = {"residual": np.abs(task.residual.astype(np.float64))}
    if task.reached is not None:
        found["reached"] = task.reached.astype(np.float64)
    return Measured(found, ("",) * len(task))


def _randomization(task: Task) -> Measured:
    assert task.explainer is not None
    s = task.settings
    found = sanity.model_randomization(task.explainer, task.x, task.target, stages=s.stages, seed=s.seed)
    rows = {n: found.measure(n).T for n in ("spearman_abs", "ssim")}
    named = {"randomised_spearman": rows["spearman_abs"], "randomised_ssim": rows["ssim"]}
    axis = np.asarray(found.layers, np.float64)
    return Measured({n: r[:, -1] for n, r in named.items()}, found.similarities[-1].flags, {n: (axis, r) for n, r in named.items()})


_CURVE = ("protocol", "substrate", "step", "ties", "score", "seed")
_PERCENT = "mean fractional change over the percentages"

MEASURES = {
    m.name: m
    for m in (
        Measure(
            "insertion",
            {"insertion": Column(True, "area under the score while the most salient pixels are put back")},
            _curve("insertion"),
            _CURVE,
            curves={"insertion": "share of the pixels put back, most salient first"},
        ),
        Measure(
            "deletion",
            {"deletion": Column(False, "area under the score while the most salient pixels are taken away")},
            _curve("deletion"),
            _CURVE,
            curves={"deletion": "share of the pixels taken away, most salient first"},
        ),
        Measure(
            "pixel_perturbation",
            {
                "least_probability": Column(False, f"probability, least salient pixels removed: {_PERCENT}"),
                "most_probability": Column(True, f"probability, most salient pixels removed: {_PERCENT}"),
                "least_logit": Column(False, f"logit, least salient pixels removed: {_PERCENT}"),
                "most_logit": Column(True, f"logit, most salient pixels removed: {_PERCENT}"),
            },
            _perturbation,
            ("percent", "removal", "ties", "seed"),
            curves={
                "least_probability": "% of the pixels removed, least salient first",
                "most_probability": "% of the pixels removed, most salient first",
                "least_logit": "% of the pixels removed, least salient first",
                "most_logit": "% of the pixels removed, most salient first",
            },
        ),
        Measure(
            "occlusion_correlation",
            {
                "occlusion_pearson": Column(
                    True, "correlation of the map with the fall of the score under a window (maps without signs: with its size)"
                ),
                "occlusion_spearman": Column(True, "rank correlation of the same"),
            },
            _occlusion,
        ),
        Measure(
            "pointing_game",
            {"pointing_game": Column(True, "largest value on the object"), "pointing_chance": Column(None, "what chance reaches")},
            _pointing,
            ("tolerance",),
            ("mask",),
        ),
        Measure("relevance_mass", {"relevance_mass": Column(True, "share of the relevance on the object")}, _mass, (), ("mask",)),
        Measure("relevance_rank", {"relevance_rank": Column(True, "share of the top pixels on the object")}, _rank, (), ("mask",)),
        Measure(
            "attention_errors",
            {
                "attended_well": Column(True, "share of samples that are attended well"),
                "attended_too_little": Column(False, "insufficiently attended"),
                "attended_too_much": Column(False, "over-attended"),
                "attended_wrongly": Column(False, "wrongly attended"),
                "attended_precision": Column(True, "share of the attended pixels that is object"),
                "attended_recall": Column(True, "share of the object that is attended"),
            },
            _attention,
            (),
            ("mask",),
        ),
        Measure(
            "residual",
            {
                "residual": Column(False, "relative error of the method's own law"),
                "reached": Column(None, "share of the score that reaches the input (relevance methods)"),
            },
            _residual,
            (),
            ("method", "law"),
        ),
        Measure(
            "model_randomization",
            {
                "randomised_spearman": Column(False, "rank correlation with the map of a model with random weights"),
                "randomised_ssim": Column(False, "structural similarity with the map of a model with random weights"),
            },
            _randomization,
            ("stages", "seed"),
            ("method",),
            {
                "randomised_spearman": "layers drawn anew, from the output down",
                "randomised_ssim": "layers drawn anew, from the output down",
            },
        ),
    )
}
"""Everything that is measured on one sample at a time. ROAR and KAR retrain a model: see ``onnxsal.metrics.retrain``."""

ID_SCORE = "id_score"
"""Insertion minus deletion: asked for like a metric, made of the two others."""

DEFAULT_METRICS = ("insertion", "deletion", "id_score", "pixel_perturbation")


def chosen_measures(names: Sequence[str]) -> list[Measure]:
    """The metrics of these names, in the order of the table; ``id_score`` brings insertion and deletion."""
    known = (*MEASURES, ID_SCORE)
    for name in names:
        if name not in known:
            raise InputError(f"metric '{name}' is not one of {', '.join(known)}{near_miss(name, known)}.")
    wanted = set(names) | ({"insertion", "deletion"} if ID_SCORE in names else set())
    if not wanted:
        raise InputError(f"no metric was named; there are {', '.join(known)}.")
    return [m for m in MEASURES.values() if m.name in wanted]


def columns_of(measures: Sequence[Measure]) -> dict[str, Column]:
    """The columns of a table of these metrics."""
    found = {name: column for m in measures for name, column in m.columns.items()}
    if {"insertion", "deletion"} <= found.keys():
        found[ID_SCORE] = Column(True, "insertion - deletion")
    return found
