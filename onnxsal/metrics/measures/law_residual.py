"""The residual: how far a method is from the law that it obeys (completeness, or what is left of the score at the input)."""

from __future__ import annotations

import numpy as np

from onnxsal.metrics.measure import Column, Plain, measure
from onnxsal.metrics.task import Measured, Task


@measure(
    "residual",
    {
        "residual": Column(False, "relative error of the method's own law"),
        "reached": Column(None, "share of the score that reaches the input (relevance methods)"),
    },
    Plain,
    needs=("method", "law"),
    order=90,
)
def residual(task: Task, _: Plain) -> Measured:
    """As the converted model gives them."""
    assert task.residual is not None
    found = {"residual": np.abs(task.residual.astype(np.float64))}
    if task.reached is not None:
        found["reached"] = task.reached.astype(np.float64)
    return Measured(found, ("",) * len(task))
