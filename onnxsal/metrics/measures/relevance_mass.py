"""Relevance mass: how much of the map's relevance lies on the object?"""

from __future__ import annotations

from onnxsal.metrics import localisation
from onnxsal.metrics.measure import Column, Plain, measure
from onnxsal.metrics.task import Measured, Task


@measure(
    "relevance_mass", {"relevance_mass": Column(True, "share of the relevance on the object")}, Plain, needs=("picture", "mask"), order=60
)
def relevance_mass(task: Task, _: Plain) -> Measured:
    """The share, for each sample."""
    found = localisation.relevance_mass(task.maps, task.objects)
    return Measured({"relevance_mass": found.value}, found.flags)
