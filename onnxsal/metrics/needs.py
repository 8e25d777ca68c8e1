"""What a metric may need of the data and of a sample, and what is said where that is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxsal.metrics.data_kind import ROWS
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.task import Task


@dataclass(frozen=True)
class Need:
    """``missing(data, black)``: whether nothing in an evaluation has it, which is refused with ``refusal`` before the first sample:
    {metrics} that need it, {why} as they say or ``why``, {notes} of the data. ``lacking(task, i)``: whether a sample lacks it, which
    then has no value for the reason ``flag``.
    """

    missing: Callable[[Dataset, object], bool] = lambda data, black: False
    refusal: str = ""
    lacking: Callable[[Task, int], bool] = lambda task, i: False
    flag: str = ""
    why: str = ""


NEEDS = {
    "picture": Need(
        lambda data, black: data.kind is ROWS,
        "{metrics}: where a map lies is asked of pictures, and the columns of a table lie nowhere. For tables there are insertion, "
        "deletion, id_score, pixel_perturbation (--removal mean) and residual.",
    ),
    "mask": Need(
        lambda data, black: not data.masked,
        "{metrics}: the data have no masks of the objects. Give them in masks/ beside images/, by --masks, or in the CSV.",
        lambda task, i: task.masks[i] is None,
        "no mask",
    ),
    "label": Need(
        lambda data, black: not data.labelled,
        "{metrics}: {why}, which needs labels, and the data have none. {notes}",
        lambda task, i: bool(task.labels[i] < 0),
        "no label",
        "the labelled class is scored",
    ),
    "black": Need(
        lambda data, black: black is None,
        "{metrics}: black pixels stand for removed ones, and without preprocessing nobody knows their value: give it, or {why}.",
        why="have others stand for them",
    ),
    "method": Need(),
    "law": Need(),
}
"""``method``: a map that a model made; ``law``: of a method that obeys one. What has neither has no such column, and no flag."""
