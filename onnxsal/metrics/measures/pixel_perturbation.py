"""Pixel perturbation: the fractional change of the score when a share of the pixels is removed, least or most salient first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from onnxsal.errors import InputError, near_miss
from onnxsal.metrics import faithfulness
from onnxsal.metrics.faithfulness import PerturbationSettings
from onnxsal.metrics.measure import Column, CurveAxes, measure
from onnxsal.metrics.setting import Seed, Setting, Ties
from onnxsal.metrics.substrate import SUBSTRATES
from onnxsal.metrics.task import Measured, Task


@dataclass(frozen=True)
class Removal:
    """The settings of the metric; ``removal`` is the ``substrate`` of the function."""

    removal: Annotated[str, Setting("What stands for a pixel in pixel_perturbation: black, mean, zero_norm, blur.")] = "black"
    percent: Annotated[tuple[float, ...], Setting("Percentages of pixels that pixel_perturbation removes.", shown="0.1,0.5,1,3,...,75")] = (
        faithfulness.PERCENT
    )
    ties: Ties = "random"
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.removal not in SUBSTRATES:
            raise InputError(f"removal '{self.removal}' is not one of {', '.join(SUBSTRATES)}{near_miss(str(self.removal), SUBSTRATES)}.")
        self.perturbation()

    def perturbation(self) -> PerturbationSettings:
        """The same in the words of the function."""
        return PerturbationSettings(self.percent, self.removal, ties=self.ties, seed=self.seed)


_CHANGE, _MEAN = "fractional change", "mean fractional change over the percentages"
_LEAST, _MOST = (f"% of the {{places}} removed, {which} salient first" for which in ("least", "most"))


@measure(
    "pixel_perturbation",
    {
        "least_probability": Column(False, f"probability, least salient {{places}} removed: {_MEAN}"),
        "most_probability": Column(True, f"probability, most salient {{places}} removed: {_MEAN}"),
        "least_logit": Column(False, f"logit, least salient {{places}} removed: {_MEAN}"),
        "most_logit": Column(True, f"logit, most salient {{places}} removed: {_MEAN}"),
    },
    Removal,
    curves={
        "least_probability": CurveAxes(_LEAST, _CHANGE, log=True),
        "most_probability": CurveAxes(_MOST, _CHANGE, log=True),
        "least_logit": CurveAxes(_LEAST, _CHANGE, log=True),
        "most_logit": CurveAxes(_MOST, _CHANGE, log=True),
    },
    needs_with=lambda settings: {"black": "--removal mean"} if settings.removal == "black" else {},
    order=30,
)
def pixel_perturbation(task: Task, settings: Removal) -> Measured:
    """Means over the percentages, and the changes themselves as curves."""
    found = faithfulness.pixel_perturbation(task.scorer, task.x, task.maps, task.target, settings.perturbation(), black=task.black)
    rows = {n: getattr(found, n) for n in ("least_probability", "most_probability", "least_logit", "most_logit")}
    flags = tuple(
        f or ("the logit is too near zero for a relative change" if z else "") for f, z in zip(found.flags, found.near_zero, strict=True)
    )
    return Measured({n: r.mean(1) for n, r in rows.items()}, flags, {n: (found.percent, r) for n, r in rows.items()})
