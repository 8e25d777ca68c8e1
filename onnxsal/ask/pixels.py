"""What a black or a white pixel is at the tensor that is explained in place of an integer input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import helper

from onnxsal.ask.question import Question
from onnxsal.errors import OnnxsalError
from onnxsal.facts.entry import NUMBERS, entries
from onnxsal.facts.part import part_of
from onnxsal.runtime.session import open_session

Edges = dict[str, np.ndarray | None]


def at_entry(question: Question, edges: Mapping[str, np.ndarray | None]) -> Edges:
    """``edges`` (values of pixels in the model's input) as they are at the explained tensor, broadcastable to it.

    The same where that is an input, or holds the same numbers; else what the model makes of a picture of such pixels (``None`` where it
    reads other inputs too, or does not run on one).
    """
    model, x, source = question.model, question.x, question.source
    entry = next((one for one in entries(model, source) if one.value.name == x.name), None) if source not in ("", x.name) else None
    if entry is None or entry.same:
        return dict(edges)
    given = model.value(source)
    open_sizes = given.static is None
    if given.shape is None or (open_sizes and entry.kind != NUMBERS):
        return dict.fromkeys(edges)
    shape = [d if isinstance(d, int) else 1 for d in given.shape]
    kind = helper.tensor_dtype_to_np_dtype(given.dtype)
    return {name: None if pixel is None else _made(question, pixel, shape, kind) for name, pixel in edges.items()}


def _made(question: Question, pixel: np.ndarray, shape: list[int], kind: np.dtype) -> np.ndarray | None:
    try:
        fed = np.broadcast_to(np.asarray(pixel), shape).astype(kind)
        session = open_session(part_of(question.model, [question.x.name]), "cpu")
        return session.run({question.source: fed})[question.x.name]
    except (OnnxsalError, ValueError):  # not a pixel of this input, or a part that does not run alone: then it is not known
        return None
