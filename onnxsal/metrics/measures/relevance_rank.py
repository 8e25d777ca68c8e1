"""Relevance rank: how many of the most relevant pixels lie on the object?"""

from __future__ import annotations

from onnxsal.metrics import localisation
from onnxsal.metrics.measure import Column, Plain, measure
from onnxsal.metrics.task import Measured, Task


@measure(
    "relevance_rank", {"relevance_rank": Column(True, "share of the top pixels on the object")}, Plain, needs=("picture", "mask"), order=70
)
def relevance_rank(task: Task, _: Plain) -> Measured:
    """The share, for each sample."""
    found = localisation.relevance_rank(task.maps, task.objects)
    return Measured({"relevance_rank": found.value}, found.flags)
