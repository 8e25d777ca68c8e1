"""Model randomisation: is the map still alike when the model's weights are drawn anew?"""

from __future__ import annotations

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


_DRAWN = "layers drawn anew, from the output down"


@measure(
    "model_randomization",
    {
        "randomised_spearman": Column(False, "rank correlation with the map of a model with random weights"),
        "randomised_ssim": Column(False, "structural similarity with the map of a model with random weights"),
    },
    Randomization,
    needs=("method",),
    curves={"randomised_spearman": CurveAxes(_DRAWN, "rank correlation"), "randomised_ssim": CurveAxes(_DRAWN, "SSIM")},
    order=100,
)
def model_randomization(task: Task, settings: Randomization) -> Measured:
    """Likeness when every layer is drawn anew, and at the stages on the way there."""
    assert task.explainer is not None
    found = sanity.model_randomization(task.explainer, task.x, task.target, stages=settings.stages, seed=settings.seed)
    rows = {"randomised_spearman": found.measure("spearman_abs").T, "randomised_ssim": found.measure("ssim").T}
    axis = np.asarray(found.layers, np.float64)
    return Measured({n: r[:, -1] for n, r in rows.items()}, found.similarities[-1].flags, {n: (axis, r) for n, r in rows.items()})
