"""How alike two embeddings are, as a score: nodes behind the model before anything is explained, so every method sees them as its own.

    v = sum_l m_l h_l / max(sum_l m_l, 1e-9), the mean of what the mask shows; or h_0, the first token's; or the output as it is
    e = v / max(|v|, 1e-12),  r = reference / max(|reference|, 1e-12),  similarity = <e, r>

as Reimers and Gurevych (arXiv 1908.10084) pool, and as torch.nn.functional.normalize and cosine_similarity bound norms.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxsal.ask.question import ComparedEmbedding, Question, ask
from onnxsal.ask.request import Ask
from onnxsal.ask.text_inputs import Role, text_inputs
from onnxsal.errors import ModelError, TargetError, near_miss
from onnxsal.graph import FLOATS, Emit, Model, Value
from onnxsal.graph.infer import shape_text
from onnxsal.graph.model import all_names
from onnxsal.runtime.session import Tensor
from onnxsal.settings import Switch, checked, open_schema, read_config

SIMILARITY, EMBEDDING, REFERENCE = "similarity", "unit_embedding", "reference"
"""What is added: two outputs and an input."""

MEAN, FIRST = "mean", "first"
POOLINGS = (MEAN, FIRST)

LEAST_NORM, LEAST_COUNT = 1e-12, 1e-9
"""Bounds below which a norm and a number of tokens do not fall."""


def with_likeness(
    model: Model, wanted: Ask, integers: bool, example: Mapping[str, np.ndarray] | None
) -> tuple[Model, Ask, ComparedEmbedding]:
    """The model with the cosine as an output (its ``ModelProto`` is changed in place), the request for that output, and what was added.

    Raises ``TargetError`` where the output is no embedding, or it is not known how its tokens are pooled; ``ModelError`` for a name that is
    taken.
    """
    asked = ask(model, wanted.input, wanted.output, "raw", batched=wanted.batched, layout=wanted.layout, example=example, integers=integers)
    if asked.reading is not None or wanted.places:
        raise TargetError("score='cosine' compares whole samples; a target that is a box or a pixel has no embedding. Leave it out.")
    pooling = _pooling(asked, wanted)
    names = {name: f"{wanted.prefix}{name}" for name in (SIMILARITY, EMBEDDING, REFERENCE)}
    if clash := sorted(set(names.values()) & all_names(model.graph)):
        raise ModelError(f"the model already uses the name '{clash[0]}', which score='cosine' adds. Choose a prefix for what is added.")
    op = Emit(model, f"{wanted.prefix}likeness")
    op.dtype = TensorProto.DOUBLE if asked.start.dtype == TensorProto.DOUBLE else TensorProto.FLOAT
    vector = _pooled(op, asked, pooling)
    reference = _reference(op, asked, wanted.reference, names[REFERENCE])
    unit = op.Identity(_unit(op, vector), name=names[EMBEDDING])
    alike = op.ReduceSum(op.Mul(unit, _unit(op, reference)), [1], keepdims=1)
    _append(op, asked, [unit, op.Identity(alike, name=names[SIMILARITY])], reference if wanted.reference is None else None)
    told = ComparedEmbedding(asked.output, pooling, names[REFERENCE] if wanted.reference is None else "", names[EMBEDDING])
    extended = Model(model.proto, originals=model.originals, refused=model.refused)
    return extended, replace(wanted, input=asked.x.name, output=names[SIMILARITY]), told


# ----- how tokens become one vector -----


@open_schema
class Pooling:
    """What is read of the ``1_Pooling/config.json`` that sentence-transformers writes."""

    pooling_mode_cls_token: Switch = False
    pooling_mode_mean_tokens: Switch = False
    pooling_mode_max_tokens: Switch = False
    pooling_mode_mean_sqrt_len_tokens: Switch = False


def _pooling(asked: Question, wanted: Ask) -> str:
    """How the output becomes one vector for each sample ('' = it is one). Raises ``TargetError`` where that is not known."""
    start = asked.start
    if not asked.batched or start.shape is None or len(start.shape) not in (2, 3):
        raise TargetError(
            f"score='cosine' compares vectors [N, D], or [N, L, D] of tokens; '{start.name}' is {shape_text(start.shape)}"
            f"{'' if asked.batched else ', of one sample'}. Name another output: --output."
        )
    if len(start.shape) == 2:
        if wanted.pooling is not None:
            raise TargetError(f"'{start.name}' {shape_text(start.shape)} is one vector for each sample already: leave pooling out.")
        return ""
    said = wanted.pooling if wanted.pooling is not None else _beside(wanted)
    if said is None:
        raise TargetError(
            f"'{start.name}' {shape_text(start.shape)} holds a vector for each token, and how they become one is not in the file: give "
            "--pooling mean or --pooling first (pooling= in Python), or put sentence-transformers' 1_Pooling/config.json beside the model."
        )
    if said not in POOLINGS:
        raise TargetError(f"pooling '{said}' is none of {', '.join(POOLINGS)}{near_miss(said, POOLINGS)}.")
    return said


def _beside(wanted: Ask) -> str | None:
    """What ``1_Pooling/config.json`` beside the model says; ``None`` without that file, or where it is another way or several."""
    if not isinstance(wanted.model, str | os.PathLike):
        return None
    file = Path(wanted.model).parent / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    said = checked(Pooling, read_config(file), f"'{file}'")
    ways = {MEAN: said.pooling_mode_mean_tokens, FIRST: said.pooling_mode_cls_token}
    other = said.pooling_mode_max_tokens or said.pooling_mode_mean_sqrt_len_tokens
    found = [way for way, chosen in ways.items() if chosen]
    return found[0] if len(found) == 1 and not other else None


# ----- nodes -----


def _pooled(op: Emit, asked: Question, pooling: str) -> Value:
    """One vector [N, D] for each sample."""
    states = asked.start
    if pooling == "":
        return states
    if pooling == FIRST:
        return op.Gather(states, op.const(0), axis=1)
    mask = _mask(op, asked)
    if mask is None:
        return op.ReduceMean(states, [1], keepdims=0)
    total = op.ReduceSum(op.Mul(states, op.Unsqueeze(mask, [2])), [1], keepdims=0)
    return op.Div(total, op.Max(op.ReduceSum(mask, [1], keepdims=1), LEAST_COUNT))


def _mask(op: Emit, asked: Question) -> Value | None:
    """1 where a token is seen, else 0, [N, L]; ``None`` where the model reads no mask."""
    if asked.tokens is None and asked.x.dtype in FLOATS:
        return None
    model = asked.model
    known = {n: helper.tensor_dtype_to_np_dtype(model.value(n).dtype) for n in model.input_names}
    inputs = [Tensor(n, str(kind), np.dtype(kind), model.value(n).shape) for n, kind in known.items()]
    names = text_inputs(asked, inputs).names
    found = next((role for role in (Role.MASK, Role.HIDDEN) if role in names), None)
    if found is None:
        return None
    seen = op.Cast(model.value(names[found].name), to=op.dtype)
    return seen if found is Role.MASK else op.Sub(1.0, seen)


def _unit(op: Emit, vector: Value) -> Value:
    """v / max(|v|, 1e-12) of each row."""
    return op.Div(vector, op.Max(op.ReduceL2(vector, [1], keepdims=1), LEAST_NORM))


def _reference(op: Emit, asked: Question, given: Any, name: str) -> Value:
    """The other embedding: what is given, as a constant [1, D], or an input [N, D]. Raises ``TargetError`` for one that does not fit."""
    size = asked.start.dim(-1)
    if given is None:
        return Value(name, op.dtype, (*(asked.start.shape or (None,))[:1], size if size is not None else f"{name}_size"))
    vector = np.asarray(given)
    if vector.dtype.kind not in "fiu" or vector.ndim not in (1, 2) or (vector.ndim == 2 and len(vector) != 1):
        raise TargetError(
            f"reference {vector.dtype} {list(vector.shape)} is no embedding: give numbers [D], or leave it out and feed [N, D]."
        )
    vector = vector.reshape(1, -1).astype(op.np_dtype)
    if size is not None and vector.shape[1] != size:
        raise TargetError(f"reference has {vector.shape[1]} numbers, and the model's embedding {size}.")
    if not np.isfinite(vector).all() or not vector.any():
        raise TargetError("reference is infinite, no number, or zero everywhere: it points nowhere, so nothing is like it.")
    return op.const(vector)


def _append(op: Emit, asked: Question, outputs: list[Value], fed: Value | None) -> None:
    """Put what was emitted at the end of the model, with its outputs and, where it is fed, the reference."""
    graph, rows = asked.model.proto.graph, asked.start.shape or (None,)
    nodes, initializers = op.finish(outputs)
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    sizes = (asked.start.dim(-1), 1)
    graph.output.extend(
        helper.make_tensor_value_info(value.name, op.dtype, [rows[0], size]) for value, size in zip(outputs, sizes, strict=True)
    )
    if fed is not None:
        graph.input.append(helper.make_tensor_value_info(fed.name, op.dtype, list(fed.shape or ())))
