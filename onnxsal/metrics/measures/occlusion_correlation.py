"""Occlusion correlation: does the map's mean in a window go with the fall of the score when the window is hidden?"""

from __future__ import annotations

from onnxsal.metrics import faithfulness
from onnxsal.metrics.measure import Column, Plain, measure
from onnxsal.metrics.task import Measured, Task


@measure(
    "occlusion_correlation",
    {
        "occlusion_pearson": Column(
            True, "correlation of the map with the fall of the score under a window (maps without signs: with its size)"
        ),
        "occlusion_spearman": Column(True, "rank correlation of the same"),
    },
    Plain,
    needs=("picture",),
    order=40,
)
def occlusion_correlation(task: Task, _: Plain) -> Measured:
    """Both correlations, of the attribution where the map has signs."""
    found = faithfulness.occlusion_correlation(task.scorer, task.x, task.signed, task.target, absolute=task.unsigned)
    return Measured({"occlusion_pearson": found.pearson, "occlusion_spearman": found.spearman}, found.flags)
