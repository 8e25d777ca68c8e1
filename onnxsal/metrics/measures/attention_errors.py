"""Attention errors: does a map attend to the object, to too little or too much of it, or elsewhere?"""

from __future__ import annotations

import numpy as np

from onnxsal.metrics import localisation
from onnxsal.metrics.measure import Column, Plain, measure
from onnxsal.metrics.task import Measured, Task

_SHARES = dict(zip(localisation.VERDICTS, ("attended_well", "attended_too_little", "attended_too_much", "attended_wrongly"), strict=True))


@measure(
    "attention_errors",
    {
        "attended_well": Column(True, "share of samples that are attended well"),
        "attended_too_little": Column(False, "insufficiently attended"),
        "attended_too_much": Column(False, "over-attended"),
        "attended_wrongly": Column(False, "wrongly attended"),
        "attended_precision": Column(True, "share of the attended pixels that is object"),
        "attended_recall": Column(True, "share of the object that is attended"),
    },
    Plain,
    needs=("picture", "mask"),
    order=80,
)
def attention_errors(task: Task, _: Plain) -> Measured:
    """1 for the verdict on a sample and 0 for the others, so that means are shares; and the two numbers behind it."""
    found = localisation.attention_errors(task.maps, task.objects)
    shares = {
        column: np.array([np.nan if f else float(v == verdict) for v, f in zip(found.verdict, found.flags, strict=True)])
        for verdict, column in _SHARES.items()
    }
    return Measured({**shares, "attended_precision": found.precision, "attended_recall": found.recall}, found.flags)
