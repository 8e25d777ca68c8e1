"""What a page in a browser must know of a converted model: how it is fed, and which of its outputs says what."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnx import TensorProto

from onnxsal.ask.request import Ask
from onnxsal.disk import read_bytes
from onnxsal.errors import InputError
from onnxsal.facade.adopt import adopt
from onnxsal.facade.convert import Conversion
from onnxsal.facade.target import REQUIRED
from onnxsal.given.prepared import preprocess_of
from onnxsal.graph.load import size_on_disk
from onnxsal.runtime.beside import Beside

FED = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.UINT8: "uint8"}
"""Types of elements of a picture that JavaScript has arrays of."""


@dataclass(frozen=True)
class WebModel:
    """One converted file. ``outputs`` are names by what they say: ``scores``, ``saliency_map`` and so on, those that there are.

    ``target`` is the input that is fed with the class (``None``: it is built in), ``preprocess`` the fields of ``Preprocess``; ``binary``
    tells that the scores are one probability of two classes.
    """

    file: str
    method: str
    title: str
    input: str
    type: str
    target: str | None
    outputs: dict[str, str]
    preprocess: dict[str, Any]
    labels: tuple[str, ...]
    binary: bool
    data: bytes

    @property
    def facts(self) -> dict[str, Any]:
        """All but the file itself, as JSON holds it."""
        return asdict(replace(self, data=b"")) | {"data": None}


OUTPUTS = ("attribution", "saliency_map", "explained_class", "explained_score", "compared_class", "residual", "reached")
"""Outputs that a converted file has beside its own, by what follows the prefix; each is shown if it is there."""


def web_model(path: Path, known: Beside) -> WebModel:
    """What the page must know of a file. Raises ``InputError`` where the page could not show it, and says what to do."""
    ask = Ask.of(path, preprocess=known.preprocess, labels=known.labels)
    made = adopt(ask)
    if made is None:
        raise InputError(
            f"'{path}' is not converted: it has no map to show. `onnxsal convert {path} explained.onnx` writes a file that has one."
        )
    named = _named_outputs(made)
    _refuse_unshown(path, made, named)
    picture, kind = _picture_input(path, made)
    preprocess = preprocess_of(ask)
    if preprocess.dtype != kind:
        raise InputError(f"'{path}': input '{picture}' takes {kind}, and its preprocessing says {preprocess.dtype}: correct dtype there.")
    return WebModel(
        path.name, made.method.name, made.method.title, picture, kind, f"{made.prefix}target" if made.target_input == REQUIRED else None,
        named, asdict(preprocess), tuple(known.labels or ()), made.question.binary, _whole(path),
    )  # fmt: skip


def _named_outputs(made: Conversion) -> dict[str, str]:
    """The outputs of the file by what they say."""
    there = {o.name for o in made.proto.graph.output}
    return {"scores": made.question.output} | {name: f"{made.prefix}{name}" for name in OUTPUTS if f"{made.prefix}{name}" in there}


def _refuse_unshown(path: Path, made: Conversion, named: dict[str, str]) -> None:
    """Raise ``InputError`` for what the page has no form for."""
    question = made.question
    why = ""
    if question.reading is not None:
        why = "explains a box, a pixel or a mask, and the page moves the target from class to class"
    elif question.shown[1] is None or "saliency_map" not in named or question.shown[0].rank != 4:
        why = "explains no picture: texts, tables, series and volumes have no page of this kind"
    elif not question.batched or len(question.class_shape) != 1:
        why = "has no row of scores for each picture, one for each class"
    elif made.question.output not in {o.name for o in made.proto.graph.output}:
        why = f"explains the inner tensor '{made.question.output}', so its outputs hold no scores"
    if why:
        raise InputError(f"'{path}' {why}. `onnxsal explain` shows it.")


def _picture_input(path: Path, made: Conversion) -> tuple[str, str]:
    """The input that the picture is fed to, and the type of its elements. Raises ``InputError`` where more must be fed."""
    proto, question = made.proto, made.question
    weights = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights and i.name != f"{made.prefix}target"]
    fed = question.source or question.shown[0].name
    others = [i.name for i in inputs if i.name != fed]
    if others or not inputs:
        raise InputError(f"'{path}' is fed with {', '.join(map(repr, others)) or 'no picture'} too, which the page has no form for.")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in FED:
        raise InputError(
            f"'{path}': input '{fed}' is {TensorProto.DataType.Name(kind).lower()}, and the page can feed {', '.join(FED.values())}. "
            "Convert a model with such an input."
        )
    return fed, FED[kind]


def _whole(path: Path) -> bytes:
    """The file. Raises ``InputError`` where its weights are kept beside it."""
    data = read_bytes(path)
    if size_on_disk(path) != len(data):
        raise InputError(f"'{path}' keeps its weights in other files; the page holds one file. Save the model with its weights inside.")
    return data
