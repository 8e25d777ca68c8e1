"""Insertion and deletion: the area under the score while the most salient places are put back, or taken away."""

from __future__ import annotations

from functools import partial

from onnxsal.metrics import faithfulness
from onnxsal.metrics.curve import CurveSettings
from onnxsal.metrics.measure import Column, CurveAxes, measure
from onnxsal.metrics.task import Measured, Task


def _needs(inserting: bool, settings: CurveSettings) -> dict[str, str]:
    keio = {"label": "protocol 'keio' scores the labelled class"} if settings.protocol == "keio" else {}
    return keio | ({"black": "--substrate mean"} if settings.stand_in(inserting) == "black" else {})


@measure(
    "insertion",
    {"insertion": Column(True, "area under the score while the most salient {places} are put back")},
    CurveSettings,
    curves={"insertion": CurveAxes("share of the {places} put back, most salient first", "{score}")},
    needs_with=partial(_needs, True),
    order=10,
)
def insertion(task: Task, settings: CurveSettings) -> Measured:
    """The area and the curve."""
    return _curve(task, settings, True)


@measure(
    "deletion",
    {"deletion": Column(False, "area under the score while the most salient {places} are taken away")},
    CurveSettings,
    curves={"deletion": CurveAxes("share of the {places} taken away, most salient first", "{score}")},
    needs_with=partial(_needs, False),
    order=20,
)
def deletion(task: Task, settings: CurveSettings) -> Measured:
    """The area and the curve."""
    return _curve(task, settings, False)


def _curve(task: Task, settings: CurveSettings, inserting: bool) -> Measured:
    # the procedure published as keio explains the predicted class and scores the labelled one
    target = task.labels if settings.protocol == "keio" else task.target
    run, name = (faithfulness.insertion, "insertion") if inserting else (faithfulness.deletion, "deletion")
    found = run(task.scorer, task.x, task.maps, target, settings.changed(black=task.black))
    share = found.pixels / task.scorer.places(task.x).count
    return Measured({name: found.auc}, found.flags, {name: (share, found.scores)})
