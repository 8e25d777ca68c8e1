"""Do names of classes belong to the model? One name for each class, or every name would stand at another one."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsal.ask.question import Question
from onnxsal.errors import InputError
from onnxsal.ops.classical import class_names


def classes_of(question: Question) -> int | None:
    """How many classes a sample's scores are of; ``None`` where the model leaves that open, has scores of higher rank, or compares
    embeddings.
    """
    return question.class_count if len(question.class_shape) == 1 and question.likeness is None else None


def refuse_misfit(labels: Sequence[str] | None, classes: int | None, output: str) -> None:
    """Raise ``InputError`` for labels that are more or fewer than the classes of an output."""
    if labels is not None and classes is not None and classes != len(labels):
        raise InputError(
            f"there are {len(labels)} labels, but output '{output}' has {classes} classes, so names would go to the wrong "
            "ones. Give --labels FILE with one name for each class."
        )


def names_in(question: Question) -> list[str] | None:
    """The names that the model itself gives its classes, where all of its parts that name as many classes agree on them."""
    found = {tuple(names) for node in question.model.nodes if len(names := class_names(node)) == classes_of(question)}
    return list(found.pop()) if len(found) == 1 else None
