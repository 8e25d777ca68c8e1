"""The class that is explained: which one is asked for, and how a converted model is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
from onnx import TensorProto

from onnxsal.ask.place import BOX, MASK, Place
from onnxsal.ask.question import RUNNER_UP, Contrast, Question
from onnxsal.ask.request import Ask, Target
from onnxsal.errors import TargetError, near_miss
from onnxsal.graph import Value
from onnxsal.graph.assemble import Port
from onnxsal.graph.infer import shape_text
from onnxsal.runtime.labels import find_label

OPTIONAL, REQUIRED, FIXED = "optional", "required", "fixed"
TARGET_INPUTS = (OPTIONAL, REQUIRED, FIXED)
"""``required``: a plain input. ``fixed``: none, the class is built in. ``optional``: an input that is also an initialiser; of the runtimes
that were tried only ONNX Runtime's own API can feed one (docs/converted-file.md)."""


def target_input_of(asked: str | None, target: Target) -> str:
    """How a converted model is told the class: as ``asked``, else ``fixed`` where a class is given, else ``required``.

    Raises ``TargetError`` for an unknown word, and for a class beside an input that is always fed.
    """
    if asked is None:
        return REQUIRED if target is None else FIXED
    if asked not in TARGET_INPUTS:
        hint = near_miss(asked, TARGET_INPUTS) if isinstance(asked, str) else ""
        raise TargetError(f"unknown target_input {asked!r}{hint}; known: {', '.join(TARGET_INPUTS)}.")
    if asked == REQUIRED and target is not None:
        raise TargetError(
            f"target {target} would never be explained: with target_input='{REQUIRED}' the class is what is fed, in every run. Leave one "
            f"of the two out, or choose '{OPTIONAL}' (the class is explained where none is fed) or '{FIXED}' (no other can be)."
        )
    return asked


def target_port(prefix: str, how: str, index: np.ndarray) -> Port:
    """The tensor ``target`` [1] or [N] of a converted model: an input, a constant, or, for the predicted class, no more than its name."""
    shape = (f"{prefix}targets",)
    value = Value(f"{prefix}target", TensorProto.INT64, shape)
    default = None if how == REQUIRED or (how == FIXED and (index == -1).all()) else index
    return Port(value, TensorProto.INT64, shape, default, how != FIXED)


def refuse_other_class(
    question: Question, told: np.ndarray, targets: np.ndarray | None, outputs: Mapping[str, np.ndarray], fixed: bool, built_in: bool
) -> None:
    """Raises ``TargetError`` where ``told``, the classes [N] that a run explained, are not those that were asked for.

    A class does not exist (where only the run tells how many there are), or the model explains one class only (``fixed``): one that is
    ``built_in``, else the predicted one. ``outputs`` are the model's own.
    """
    contrast = question.contrast
    if contrast is not None and contrast.against is not None and (told == -2).any():
        same = np.flatnonzero(told == -2).tolist()
        raise TargetError(
            f"sample(s) {same}: class {contrast.against} is the one that was asked for, or predicted, and cannot be compared with itself "
            f"(or one of the two does not exist). Name another target, or compare with '{RUNNER_UP}'."
        )
    if question.reading is not None:
        refuse_other_place(question, told, targets, outputs)
        place = next((v for k, v in outputs.items() if k.endswith("explained_place") and v.shape == told.shape), told)
        if fixed and targets is not None and (targets != place).any():
            raise TargetError(
                f"target {targets.tolist()} cannot be explained: the model was converted with target_input='{FIXED}', for "
                f"{question.reading.kind} {place.tolist()}. Convert the original model again, with target_input='{REQUIRED}'."
            )
        return
    if (told == -2).any():
        own = outputs.get(question.output)
        count = question.class_count or (None if own is None or own.size % len(told) else own.size // len(told))
        raise out_of_range("that is built in" if targets is None else targets.tolist(), question.start.name, count)
    if fixed and targets is not None and ((targets != told) & ((targets != -1) | built_in)).any():
        raise TargetError(
            f"target {targets.tolist()} cannot be explained: the model was converted with target_input='{FIXED}', and explains "
            f"{'class' if built_in else 'the predicted class'} {told.tolist()}. Convert the original model again, with "
            f"target_input='{REQUIRED}' (--target-input {REQUIRED})."
        )


def refuse_other_place(question: Question, told: np.ndarray, targets: np.ndarray | None, outputs: Mapping[str, np.ndarray]) -> None:
    """Raises ``TargetError`` where a box, a pixel or a class that was asked for is not there; ``told`` is -2 for these samples."""
    missing = np.flatnonzero(told == -2)
    if not missing.size or question.reading is None:
        return
    first, kind = int(missing[0]), question.reading.kind
    asked = "that is built in" if targets is None else str(targets[min(first, len(targets) - 1)])
    if kind == BOX:
        many = next((int(v[first]) for k, v in outputs.items() if k.endswith("box_count") and v.shape == told.shape), None)
        known = "" if many is None else f": it has {many} box(es)" + (f", 0 to {many - 1}" if many else "")
        raise TargetError(f"sample {first}: box {asked} does not exist{known}.")
    if kind == MASK:
        raise TargetError(f"sample {first}: the model gives no pixel to class {asked}, or there is no such class.")
    raise TargetError(f"sample {first}: the pixel does not lie in the picture.")


def refuse_other_rows(question: Question, index: np.ndarray) -> None:
    """Raises ``TargetError`` where classes that are built in, one for each sample, do not fit the batch that the model is made for."""
    size = (question.x.shape or (None,))[0]
    if len(index) > 1 and question.batched and isinstance(size, int) and size != len(index):
        raise TargetError(f"{len(index)} targets were given, and the model takes {size} sample(s); give one, or one per sample.")


def target_index(question: Question, target: Target) -> np.ndarray:
    """``target`` as int64 [1] or [N]; a tuple indexes a sample's scores of any rank. Raises ``TargetError`` if out of range."""
    if target is None:
        return np.asarray([-1], np.int64)
    if question.reading is not None:
        return _number(question, target)
    shape = question.class_shape
    try:
        index = np.atleast_1d(np.asarray(target))
    except ValueError:
        index = np.zeros(0)
    if (
        index.dtype.kind not in "iu"
        or index.ndim != 1
        or not index.size
        or (len(index) > 1 and not question.batched and not isinstance(target, tuple))
    ):
        raise TargetError(
            f"target {target!r} is not a class: give a whole number, one per sample, or a tuple that indexes the scores of a sample. "
            "Labels are understood where they are given (labels= of Explainer, --labels)."
        )
    if isinstance(target, tuple):
        sizes = [d for d in shape if isinstance(d, int)]
        if shape and len(target) == len(shape) == len(sizes) + 1 and not isinstance(shape[0], int):
            sizes = [max(int(target[0]), 0) + 1, *sizes]  # an open first size decides nothing; the run refuses what lies past it
        elif len(sizes) < len(shape):
            raise TargetError(
                f"target {target}: the scores '{question.start.name}' have shape {list(shape)} per sample, known only at run time; "
                "give flat indices as an array, np.asarray([...])."
            )
        if len(target) != len(sizes) or any(not 0 <= t < d for t, d in zip(target, sizes, strict=True)):
            raise TargetError(
                f"target {target} is not an index into the scores '{question.start.name}', whose shape per sample is {sizes}."
            )
        return np.asarray([np.ravel_multi_index(target, sizes)], np.int64)
    flat = isinstance(target, np.ndarray) and target.ndim == 1
    if sum(d != 1 for d in shape) > 1 and not flat and bool((index >= 0).any()):
        raise TargetError(
            f"target {target} is one number, but the scores '{question.start.name}' are {shape_text(shape)} for each sample. "
            f"Give a tuple of {len(shape)} numbers; an array [N] is understood as flat indices, as explained_class returns them."
        )
    count = question.class_count
    if index.min() < -1 or index.max() >= (2**63 if count is None else count):
        raise out_of_range(target, question.start.name, count)
    return index.astype(np.int64)


def place_index(question: Question, places: Sequence[Place]) -> np.ndarray:
    """The numbers of boxes, pixels or classes as int64 [1] or [N] (every box: 0). Raises ``TargetError`` for places that are not
    explained here.
    """
    reading = question.reading
    if reading is None or places[0].asks != (reading.kind, reading.of):
        there = "classes" if reading is None else f"a {reading.kind}{'' if reading.of is None else f' and class {reading.of}'}"
        raise TargetError(
            f"a target that is {places[0].text} needs a model that is converted for it, and this one is converted for {there}: give the "
            "target when the model is converted, or the explainer made (Explainer(model, target=...))."
        )
    return np.asarray([place.number or 0 for place in places], np.int64)


def _number(question: Question, target: Target) -> np.ndarray:
    """Numbers of places as they are fed: int64 [1] or [N]."""
    assert question.reading is not None
    index = np.atleast_1d(np.asarray(target))
    if index.dtype.kind not in "iu" or index.ndim != 1 or not index.size or index.min() < -1:
        raise TargetError(f"target {target!r} is no number of a {question.reading.kind}.")
    return index.astype(np.int64)


def contrast_of(question: Question, ask: Ask, index: np.ndarray) -> Contrast | None:
    """What the classes ``index`` (-1 = the predicted one) are compared with, if with anything. Raises ``TargetError``."""
    against, weight = ask.against, ask.against_weight
    if against is None:
        if weight is not None:
            raise TargetError(f"against_weight={weight!r} weighs the class that another is compared with: name that (against=, --against).")
        return None
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 < weight < np.inf:
        raise TargetError(f"against_weight={weight!r} is no weight: give a number above 0.")
    if question.class_count == 1:
        raise TargetError(f"'{question.start.name}' holds one score per sample: there is no class to compare with. Leave against= out.")
    if against == RUNNER_UP:
        if sum(d != 1 for d in question.class_shape) > 1:
            raise TargetError(
                f"the scores '{question.start.name}' are {shape_text(question.class_shape)} for each sample: the best of the others may be "
                f"the same class elsewhere. Give the element to compare with, a tuple of {len(question.class_shape)} numbers."
            )
        return Contrast(None, float(weight))
    if isinstance(against, str):
        if ask.labels is None:
            raise TargetError(f"against={against!r} is no class: no labels are known. Give an index, '{RUNNER_UP}', or labels=.")
        against = find_label(ask.labels, against)
    try:
        (other,) = found if len(found := target_index(question, against)) == 1 else (-1,)
    except TargetError as error:
        raise TargetError(f"against: {error}") from error
    if other < 0:
        raise TargetError(f"against={against!r} is not one class that exists: give its index, or '{RUNNER_UP}'.")
    if (index == other).any():
        raise TargetError(f"class {other} cannot be compared with itself: give another against=, or '{RUNNER_UP}'.")
    return Contrast(int(other), float(weight))


def out_of_range(target: object, scores: str, count: int | None) -> TargetError:
    """What is said of a class that does not exist; ``count`` is the number of classes, where it is known."""
    known = "" if count is None else f": the scores '{scores}' have {count} classes, 0 to {count - 1}"
    return TargetError(f"target {target} is out of range{known} (-1 = predicted).")
