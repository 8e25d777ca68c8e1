"""A model that was converted before, taken as it is: its metadata says what is built in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxsal.ask.batch_axis import sample_inputs
from onnxsal.ask.question import Question, grid_of
from onnxsal.engine.method import Method, get_method, known_methods
from onnxsal.errors import MethodError, ModelError
from onnxsal.facade.convert import Conversion
from onnxsal.facade.target import OPTIONAL
from onnxsal.facts.axes import picture_of
from onnxsal.facts.grounds import Found
from onnxsal.graph import Model
from onnxsal.graph.load import Source, load_model, read_metadata
from onnxsal.graph.provenance import METADATA

DEFAULTS = {"components": False}
"""Options of ``convert`` that the metadata does not record, with what need not be refused."""


def adopt(model: Source, method: str | Path | Method | None = None, given: Mapping[str, Any] | None = None) -> Conversion | None:
    """The conversion that a converted model holds, or ``None`` where the model is not converted.

    Raises ``MethodError`` where another method is asked for, or anything of ``given`` (options of ``convert``) differs from
    what is built in: a converted model can only be run as it is.
    """
    metadata = read_metadata(model)
    if f"{METADATA}version" not in metadata:
        return None
    name = metadata.get(f"{METADATA}method", "")
    try:
        record = json.loads(metadata[f"{METADATA}parameters"])
        asked = {key: record.pop(key) for key in ("input", "output", "score", "prefix", "target")}
        asked["target_input"] = record.pop("target_input", OPTIONAL)
        given_layout, samples, binary = record.pop("layout", None), record.pop("samples", None), record.pop("binary", False)
        found = tuple(Found.read(entry) for entry in json.loads(metadata.get(f"{METADATA}facts", "[]")))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"the model says it was converted, but its metadata is damaged ({error}). Convert the original model again."
        ) from error
    asked["layout"] = given_layout
    built_in = record | asked | ({} if samples is None else {"batched": bool(samples)})
    _refuse_other(name, method, built_in, {k: v for k, v in (given or {}).items() if k not in ("black", "white")})
    proto = load_model(model)
    view = Model(proto)
    x, scores = view.value(asked["input"]), view.value(asked["output"])
    rows = sample_inputs(view, x, scores)[0] if samples is None else tuple(samples)
    question = Question(view, x, asked["output"], scores, asked["score"], samples=rows, picture=picture_of(view, x, given_layout))
    grid = grid_of(record.get("grid") if "layer" in record else None)
    question = replace(question, binary=binary, grid=grid, doubt=metadata.get(f"{METADATA}doubt", ""), found=found)
    log = [entry for entry in metadata.get(f"{METADATA}passes", "").split("; ") if entry]
    known = known_methods().get(name) or Method(name, name, "", "")
    settings = record | {"score": asked["score"]}
    return Conversion(proto, question, known, settings, log, asked["prefix"], target_input=asked["target_input"])


def _refuse_other(name: str, method: str | Path | Method | None, built_in: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if method is not None and get_method(method).name != name:
        raise MethodError(
            f"the model was converted with method '{name}', so it cannot be explained with '{get_method(method).name}'. "
            "Leave the method out to run what is built in, or explain the original model."
        )
    known = known_methods().get(name)
    names = {alias: key for key, p in known.parameters.items() for alias in p.aliases} if known else {}
    wanted = {names.get(key, key): np.asarray(value).tolist() for key, value in given.items() if value is not None}
    other = [f"{key}={value!r}" for key, value in wanted.items() if value != built_in.get(key, DEFAULTS.get(key))]
    if other:
        has = ", ".join(f"{key}={value!r}" for key, value in built_in.items())
        raise MethodError(
            f"the model was converted with {has}; {', '.join(other)} cannot be changed afterwards. Convert the original model again."
        )


def original_outputs(proto: onnx.ModelProto, prefix: str) -> list[str]:
    """Names of the outputs that the model had before it was converted; they come first."""
    names = [o.name for o in proto.graph.output]
    return names[: names.index(f"{prefix}attribution")]
