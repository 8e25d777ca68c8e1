"""What is asked: which input, which output, which score. Chosen and checked before anything is emitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxsal.errors import TargetError, near_miss
from onnxsal.graph import FLOATS, Model, NodeView, Value
from onnxsal.ops.bounds import bounds_of
from onnxsal.passes.cut_softmax import class_axis, final_squashing, logits_of, looks_squashed

SCORES = ("logit", "probability", "raw")


@dataclass(frozen=True)
class Question:
    """Explain ``start`` (the tensor of scores, one row per sample) at ``x``.

    ``squash`` is the Softmax or Sigmoid still to be applied to ``start`` for a probability ('' = none), ``axis`` where its classes lie;
    ``doubt`` is a reason to read the maps with care ('' = none).
    """

    model: Model
    x: Value
    output: str
    start: Value
    score: str
    squash: str = ""
    axis: int = 1
    cut: NodeView | None = None
    doubt: str = ""

    @property
    def batched(self) -> bool:
        """Whether axis 0 of the scores counts samples; otherwise the whole output is one sample."""
        x, start = self.x.shape, self.start.shape
        if not start or (x is not None and not x):
            return False
        if x is None or not x or not isinstance(x[0], int) or not isinstance(start[0], int):
            return True
        return x[0] == start[0]

    @property
    def fixed_batch(self) -> bool:
        """Whether the model accepts one batch size only."""
        return self.x.shape is not None and len(self.x.shape) > 0 and isinstance(self.x.shape[0], int)


def ask(model: Model, input: str | None = None, output: str | None = None, score: str = "logit") -> Question:
    """The question for a model: its one floating-point input unless ``input`` names another tensor, its first
    floating-point output unless ``output`` names one, and what of it is explained.

    ``score``: ``"logit"`` cuts a final Softmax, LogSoftmax or Sigmoid (a probability made otherwise is taken as it is, with a
    ``doubt``); ``"probability"`` keeps it, or adds a Softmax where the
    model has none; ``"raw"`` takes the output as it is. Raises ``TargetError`` where the choice is unknown or not unique.
    """
    if score not in SCORES:
        raise TargetError(f"unknown score '{score}'{near_miss(score, SCORES)}; known: {', '.join(SCORES)}.")
    for option, named in (("input", input), ("output", output)):
        if named is not None and not isinstance(named, str):
            raise TargetError(f"{option}={named!r} is no name of a tensor; give one name as text.")
    x = model.value(_input(model, input))
    name = _output(model, output)
    last = final_squashing(model, name)
    squashed = last.op_type != "LogSoftmax" if last is not None else score != "raw" and _is_probability(model, name)
    if score == "raw" or (score == "probability" and squashed):
        return Question(model, x, name, model.value(name), score)
    if last is None and squashed:
        why = f"output '{name}' is a probability whose logits were not found, so it is explained as it is (score 'raw')"
        return Question(model, x, name, model.value(name), "raw", doubt=f"{why}: close to 0 and 1 its gradient vanishes")
    start = model.value(name if last is None else logits_of(model, name, last))
    axis = class_axis(model, name, last) if last is not None else 1 if start.shape is None or len(start.shape) > 1 else 0
    return Question(model, x, name, start, score, squash="" if score == "logit" else "Softmax", axis=axis, cut=last)


def _is_probability(model: Model, output: str) -> bool:
    """Whether the output ends in a Softmax written in parts, or cannot leave 0..1."""
    low, high = bounds_of(model, output)
    return looks_squashed(model, output) or (low >= 0 and high <= 1)


def _input(model: Model, name: str | None) -> str:
    inputs = [n for n in model.input_names if model.value(n).dtype in FLOATS]
    if name is None:
        if len(inputs) == 1:
            return inputs[0]
        if inputs:
            raise TargetError(f"the model has {len(inputs)} floating-point inputs ({', '.join(inputs)}); name the one to explain: --input.")
        kinds = ", ".join(f"{n} ({_type_name(model.value(n))})" for n in model.input_names)
        inner = embeddings(model)
        hint = f"for example: {', '.join(inner)}" if inner else "such as the output of the embedding's Gather"
        raise TargetError(
            f"the model has no floating-point input ({kinds}), and an integer has no gradient. "
            f"Explain an inner tensor instead (--input), {hint}."
        )
    if name not in model.types:
        raise TargetError(f"the model has no tensor '{name}'{near_miss(name, model.types)}; its inputs: {', '.join(model.input_names)}.")
    if model.value(name).dtype not in FLOATS:
        hint = f" For this model: {', '.join(embeddings(model))}." if embeddings(model) else ""
        raise TargetError(f"tensor '{name}' is {_type_name(model.value(name))}, which has no gradient; name a floating-point tensor.{hint}")
    return name


def _output(model: Model, name: str | None) -> str:
    floats = [n for n in model.output_names if model.value(n).dtype in FLOATS]
    if name is None:
        if not floats:
            raise TargetError(f"the model has no floating-point output to explain; its outputs: {', '.join(model.output_names)}.")
        return floats[0]
    if name not in model.types:
        raise TargetError(
            f"the model has no output '{name}'{near_miss(name, model.output_names)}; its outputs: {', '.join(model.output_names)}."
        )
    if model.value(name).dtype not in FLOATS:
        raise TargetError(
            f"output '{name}' is {_type_name(model.value(name))}; a score must be floating point. Known: {', '.join(floats)}."
        )
    return name


def embeddings(model: Model) -> list[str]:
    """Floating-point tensors that integer inputs become: looked-up rows of a weight (the usual place to explain token models)."""
    return [
        n.proto.output[0]
        for n in model.nodes
        if n.op_type == "Gather" and n.x.dtype in FLOATS and n.const(0) is not None and n.const(1) is None and n.y.dtype in FLOATS
    ]


def _type_name(value: Value) -> str:
    known = value.dtype in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(value.dtype)).lower() if known else f"of the unknown type {value.dtype}"


def image_axes(shape: Sequence[object] | None) -> tuple[int, int, int] | None:
    """(channel, height, width) axes of an image tensor [N, C, H, W] or [N, H, W, C]; ``None`` if it is not an image.

    A picture has 1, 3 or 4 channels; where neither axis says so, a rank-4 tensor is taken as [N, C, H, W].
    """
    if shape is None or len(shape) != 4:
        return None
    if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        return 3, 1, 2
    return 1, 2, 3
