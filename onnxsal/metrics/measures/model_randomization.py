"""Model randomisation: is the map still alike when the model's weights are drawn anew?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from onnxsal.metrics import sanity
from onnxsal.metrics.measure import Column, CurveAxes, measure
from onnxsal.metrics.setting import Seed, Setting
from onnxsal.metrics.task import Measured, Task


@dataclass(frozen=True)
class Randomization:
    """The settings of the metric."""

    stages: Annotated[int, Setting("Stages of model_randomization.", least=1)] = 4
    seed: Seed = 0


DRAWS = 8
"""So often the weights are drawn for the columns of a table, whose maps have few places: the mean over draws is what counts."""

_DRAWN = "layers drawn anew, from the output down"


@measure(
    "model_randomization",
    {
        "randomised_spearman": Column(False, "rank correlation with the {map} of a model with random weights"),
        "randomised_ssim": Column(False, "structural similarity with the {map} of a model with random weights"),
    },
    Randomization,
    needs=("method",),
    curves={"randomised_spearman": CurveAxes(_DRAWN, "rank correlation"), "randomised_ssim": CurveAxes(_DRAWN, "SSIM")},
    order=100,
)
def model_randomization(task: Task, settings: Randomization) -> Measured:
    """Likeness when every layer is drawn anew, and at the stages on the way there."""
    assert task.explainer is not None
    places = task.scorer.places(task.x)
    seeds = range(settings.seed, settings.seed + (DRAWS if places.column else 1))
    drawings = [sanity.Drawing(stages=settings.stages, seed=seed) for seed in seeds]
    found = [sanity.randomised_at(task.explainer, task.x, task.target, drawing, places) for drawing in drawings]
    # a column speaks for or against, and few of them have little order: signs count, and the mean of several draws
    likeness = {"randomised_spearman": "spearman"} if places.column else {"randomised_spearman": "spearman_abs", "randomised_ssim": "ssim"}
    rows = {name: _mean([one.measure(by).T for one in found]) for name, by in likeness.items()}
    axis = np.asarray(found[0].layers, np.float64)
    flags = tuple(told[0] if all(told) else "" for told in zip(*(one.similarities[-1].flags for one in found), strict=True))
    return Measured({n: r[:, -1] for n, r in rows.items()}, flags, {n: (axis, r) for n, r in rows.items()})


def _mean(drawn: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over draws, of those that have a number."""
    known = np.isfinite(drawn)
    return np.asarray(np.where(known, drawn, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan))
