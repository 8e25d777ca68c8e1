"""The pointing game: does the largest value of the map lie on the object?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from onnxsal.metrics import localisation
from onnxsal.metrics.measure import Column, measure
from onnxsal.metrics.setting import Setting
from onnxsal.metrics.task import Measured, Task


@dataclass(frozen=True)
class Pointing:
    """The settings of the metric."""

    tolerance: Annotated[int, Setting("Pixels by which the pointing game may miss.", least=0)] = 0


@measure(
    "pointing_game",
    {"pointing_game": Column(True, "largest value on the object"), "pointing_chance": Column(None, "what chance reaches")},
    Pointing,
    needs=("picture", "mask"),
    order=50,
)
def pointing_game(task: Task, settings: Pointing) -> Measured:
    """Hits, and what a map that knows nothing hits."""
    found = localisation.pointing_game(task.maps, task.objects, settings.tolerance)
    return Measured({"pointing_game": found.value, "pointing_chance": found.chance}, found.flags)
