"""A model that was converted before, taken as it is: its metadata says what is built in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any

import numpy as np
import onnx

from onnxsal.ask.batch_axis import sample_inputs
from onnxsal.ask.place import BOX, MASK, POINT
from onnxsal.ask.question import RUNNER_UP, ComparedEmbedding, Contrast, Question, grid_of, shown_axes
from onnxsal.ask.reading import Reading
from onnxsal.ask.request import FED, RUN, Ask
from onnxsal.ask.scores import SCORES
from onnxsal.engine.method import Method, known_methods
from onnxsal.errors import MethodError, ModelError
from onnxsal.facade.convert import Conversion
from onnxsal.facade.target import OPTIONAL, TARGET_INPUTS
from onnxsal.facts.axes import picture_of
from onnxsal.facts.entry import tokens_at
from onnxsal.facts.grounds import Found
from onnxsal.facts.tokens import Tokens
from onnxsal.graph import Model, Value
from onnxsal.graph.emit import ANYWHERE, RUNS_ON
from onnxsal.graph.load import load_model, read_metadata
from onnxsal.graph.provenance import METADATA
from onnxsal.settings import Number, Phrase, Switch, Wanted, Whole, checked, open_schema, parse_json, shown

CHANGEABLE = (*RUN, *FED, "black", "white", "example")
"""What can be given with a converted model: how it is run and fed, and what was used up when it was converted."""


def adopt(ask: Ask) -> Conversion | None:
    """The conversion that a converted model holds, or ``None`` where the model is not converted.

    Raises ``MethodError`` where another method is asked for, or anything that is given differs from what is built in: a converted
    model can only be run as it is.
    """
    metadata = read_metadata(ask.model)
    if f"{METADATA}version" not in metadata:
        return None
    name = metadata.get(f"{METADATA}method", "")
    built, record, found = _read(metadata)
    asked = {key: getattr(built, key) for key in ("input", "output", "score", "prefix", "target", "target_input", "layout", "runs_on")}
    source = built.source if built.source and ask.input == built.source else built.input
    asked |= {} if built.embedding_of is None else {"output": built.embedding_of, "pooling": built.pooling or None}
    asked |= {"tokens": built.patches_of is not None, "input": built.patches_of or source}
    samples, binary = built.samples, built.binary
    contrast = None if built.against is None else Contrast(built.against if isinstance(built.against, int) else None, built.against_weight)
    asked |= {} if contrast is None else contrast.record
    _refuse_other(name, ask, record | asked | ({} if samples is None else {"batched": bool(samples)}))
    proto = load_model(ask.model)
    view = Model(proto)
    _refuse_strangers(view, built)
    x, scores = view.value(built.input), view.value(built.output)
    rows = sample_inputs(view, x, scores)[0] if samples is None else tuple(samples)
    question = Question(view, x, built.output, scores, built.score, samples=rows, picture=shown_axes(view, x, built.layout))
    grid = grid_of(record.get("grid") if "layer" in record else None)
    tokens, doubt = _tokens(view, x, built, found), metadata.get(f"{METADATA}doubt", "")
    question = replace(question, contrast=contrast, binary=binary, grid=grid, tokens=tokens, doubt=doubt, found=found)
    question = replace(question, source=built.source or (x.name if x.name in view.input_names else ""))
    if built.embedding_of is not None:
        question = replace(question, likeness=ComparedEmbedding(built.embedding_of, built.pooling, built.reference_input, built.embedding))
    if built.place is not None:
        question = replace(question, reading=Reading(built.place, built.class_there))
    log = [entry for entry in metadata.get(f"{METADATA}passes", "").split("; ") if entry]
    known = known_methods().get(name) or Method(name, name, "", "")
    settings = record | {"score": asked["score"]}
    again = _again(ask, name, settings, asked, question)
    return Conversion(
        proto, again, question, known, settings, log, target_input=asked["target_input"], parts=_parts(metadata, proto, view, built.prefix)
    )


def _one_of(words: Sequence[str]) -> Wanted:
    return Wanted(f"one of {', '.join(words)}", strict=True, pattern=f"^({'|'.join(words)})$")


@open_schema
class BuiltIn:
    """What ``onnxsal.parameters`` says beside the settings of the method; files of earlier versions say less."""

    input: Phrase
    output: Phrase
    prefix: Phrase
    score: Annotated[str, _one_of(SCORES)]
    target: Annotated[Whole | Phrase | list[Whole] | list[Phrase] | None, Wanted("a class or a place, or one for each sample")]
    target_input: Annotated[str, _one_of(TARGET_INPUTS)] = OPTIONAL
    layout: Phrase | None = None
    samples: list[Phrase] | None = None
    binary: Switch = False
    patches_of: Phrase | None = None
    source: Phrase = ""
    place: Annotated[str | None, _one_of((BOX, POINT, MASK))] = None
    class_there: Whole | None = None
    against: Annotated[Whole | Phrase | None, Wanted(f"a class, or {RUNNER_UP}")] = None
    against_weight: Number = 1.0
    runs_on: Annotated[str, _one_of(RUNS_ON)] = ANYWHERE
    embedding_of: Phrase | None = None
    pooling: Phrase = ""
    reference_input: Phrase = ""
    embedding: Phrase = ""


def _read(metadata: Mapping[str, str]) -> tuple[BuiltIn, dict[str, Any], tuple[Found, ...]]:
    """What the metadata say: what was asked, the settings of the method, and what was found out about the model."""
    key, facts = f"{METADATA}parameters", f"{METADATA}facts"
    try:
        if key not in metadata:
            raise ModelError(f"'{key}' is missing.")
        record = parse_json(metadata[key], key, ModelError, nan=True)
        built = checked(BuiltIn, record, key, ModelError)
        found = checked(tuple[Found, ...], parse_json(metadata.get(facts, "[]"), facts, ModelError), facts, ModelError)
    except ModelError as error:
        raise ModelError(
            f"the model says it was converted, but its metadata is damaged: {error} Convert the original model again."
        ) from error
    return built, {k: v for k, v in record.items() if k not in {f.name for f in fields(BuiltIn)}}, found


def _tokens(view: Model, x: Value, built: BuiltIn, found: Sequence[Found]) -> Tokens | None:
    """What is known of the explained tokens: ids, by the graph, or patches, by the metadata."""
    said = next((fact for fact in found if fact.what == "tokens"), None)
    if built.patches_of is None or said is None:
        return tokens_at(view, x)
    picture = view.value(built.patches_of)
    return Tokens("", said, None, picture, picture_of(view, picture, built.layout))


def _parts(metadata: Mapping[str, str], proto: onnx.ModelProto, view: Model, prefix: str) -> tuple[str, ...]:
    """The names of the parts that the score is divided into. Raises ``ModelError`` where there are not as many as columns."""
    key, name = f"{METADATA}parts", f"{prefix}parts"
    try:
        names = checked(list[Phrase], parse_json(metadata.get(key, "[]"), key, ModelError), key, ModelError)
    except ModelError as error:
        raise _damaged(str(error)) from error
    told = view.value(name).dim(1) if name in view.output_names and name not in original_outputs(proto, prefix) else 0
    if told != len(names):
        raise _damaged(f"'{name}' has {told} columns, and '{key}' {len(names)} names.")
    return tuple(names)


def _refuse_strangers(view: Model, built: BuiltIn) -> None:
    """Raise ``ModelError`` where the metadata speak of tensors that the model has not."""
    outputs = {value.name for value in view.proto.graph.output}
    known = {f"{built.prefix}attribution": outputs, built.output: view.types, built.input: view.types}
    known |= dict.fromkeys(
        (*(built.samples or ()), *filter(None, [built.patches_of, built.source, built.embedding, built.reference_input])), view.types
    )
    if missing := [name for name, names in known.items() if name not in names]:
        raise _damaged(f"it has no {', '.join(map(shown, missing))}.")


def _damaged(why: str) -> ModelError:
    return ModelError(f"the model says it was converted, but its metadata is damaged: {why} Convert the original model again.")


def _again(ask: Ask, name: str, settings: Mapping[str, Any], asked: Mapping[str, Any], question: Question) -> Ask:
    """What to ask of another model for the same: the class is fed, or the predicted one."""
    kept = {k: v for k, v in ask.given.items() if k in CHANGEABLE}
    kept |= {k: asked[k] for k in ("input", "output", "prefix", "layout", "tokens", "pooling") if k in asked}
    return Ask.of(ask.model, name, **{**kept, **settings, "batched": question.batched})


def _refuse_other(name: str, ask: Ask, built_in: Mapping[str, Any]) -> None:
    if ask.method is not None and ask.chosen.name != name:
        raise MethodError(
            f"the model was converted with method '{name}', so it cannot be explained with '{ask.chosen.name}'. "
            "Leave the method out to run what is built in, or explain the original model."
        )
    known = known_methods().get(name)
    names = {alias: key for key, p in known.parameters.items() for alias in p.aliases} if known else {}
    given = {k: v for k, v in ask.given.items() if k not in CHANGEABLE} | {k: v for k, v in ask.parameters.items() if v is not None}
    wanted = {names.get(key, key): np.asarray(value).tolist() for key, value in given.items()}
    other = [f"{key}={value!r}" for key, value in wanted.items() if value != built_in.get(key)]
    if other:
        has = ", ".join(f"{key}={value!r}" for key, value in built_in.items())
        raise MethodError(
            f"the model was converted with {has}; {', '.join(other)} cannot be changed afterwards. Convert the original model again."
        )


def original_outputs(proto: onnx.ModelProto, prefix: str) -> list[str]:
    """Names of the outputs that the model had before it was converted; they come first."""
    names = [o.name for o in proto.graph.output]
    return names[: names.index(f"{prefix}attribution")]
