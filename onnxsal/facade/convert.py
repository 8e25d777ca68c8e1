"""Model in, the same model with its explanation built in out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxsal.ask import guard
from onnxsal.ask.labels import classes_of, refuse_misfit
from onnxsal.ask.layers import Layer
from onnxsal.ask.question import Question, ask
from onnxsal.engine.method import Method, get_method, shipped_methods
from onnxsal.engine.plan import Plan
from onnxsal.errors import MethodError, TargetError, near_miss
from onnxsal.graph import Emit, Model, Value
from onnxsal.graph.assemble import Port, assemble, set_metadata
from onnxsal.graph.emit import PREFIX
from onnxsal.graph.infer import shape_text
from onnxsal.graph.load import Source, load_model
from onnxsal.graph.provenance import METADATA, model_sha256, refuse_converted
from onnxsal.methods import WRAPPERS
from onnxsal.methods.build import Build, Result, quantized
from onnxsal.methods.head import emit_head

Target = int | Sequence[int] | np.ndarray | None
Example = np.ndarray | Mapping[str, np.ndarray] | None
"""Data of the kind that the model is fed with: an array for its only input, or arrays by input."""

DEFAULT_METHOD = "fullgrad"


@dataclass(frozen=True)
class Conversion:
    """A converted model with what was decided on the way: the question, the method, its settings, what the passes did,
    the walks that were planned (none for a method that runs the model forward only), the layer that the map is made of, if any.
    """

    proto: onnx.ModelProto
    question: Question
    method: Method
    settings: dict[str, Any]
    log: list[str]
    prefix: str = ""
    plans: tuple[Plan, ...] = ()
    layer: Layer | None = None


@dataclass(frozen=True)
class Decision:
    """What a conversion will build, decided before anything is emitted. ``edges`` are the colours that settings may name, ``asked`` is
    what the metadata will say beside the settings.
    """

    question: Question
    method: Method
    settings: dict[str, Any]
    target: np.ndarray
    prefix: str
    edges: dict[str, np.ndarray | None]
    components: bool
    quantize: int | None
    asked: dict[str, Any]
    source: Source
    log: list[str]


def convert(
    model: Source,
    method: str | Path | Method = DEFAULT_METHOD,
    *,
    input: str | None = None,
    output: str | None = None,
    target: Target = None,
    score: str | None = None,
    layer: str | None = None,
    prefix: str = "",
    black: np.ndarray | None = None,
    white: np.ndarray | None = None,
    quantize: int | None = None,
    components: bool = False,
    batched: bool | None = None,
    layout: str | None = None,
    example: Example = None,
    grid: Sequence[int] | str | None = None,
    **parameters: Any,
) -> onnx.ModelProto:
    """The model with its explanation built in: a self-contained ONNX model of standard ``ai.onnx`` operators.

    ``model`` is a path, bytes or ``ModelProto``; ``method`` a name (``methods()`` lists them), an alias or a TOML file. The
    result keeps the original inputs and outputs and adds the optional int64 input ``target`` [1] or [N] (-1 = the predicted class
    of each sample) and the outputs ``attribution`` (signed, shape of the explained input), ``saliency_map`` float32 [N, H, W]
    (images only), ``explained_class`` int64 [N], ``explained_score`` float32 [N] and, where the method obeys a law,
    ``residual`` float32 [N], its relative error. ``prefix`` is put before all names that are added.

    ``input`` names the input or inner tensor to explain, ``output`` the output; ``target`` sets the default class: an index, one
    per sample, or, for scores of higher rank (where ``explained_class`` is the flat index of the element), a tuple. ``score`` is
    "logit" (default), "probability" or "raw". ``black`` and ``white`` are the values of such pixels in the model's input, for methods
    with ``baseline="black"`` or bounds. ``quantize`` floors each saliency map to that many levels between its smallest and largest
    value (the attribution, and the law it obeys, stay as they are). ``components`` adds an output per part of the explanation, where
    the method has parts. Other keywords are the method's.

    Whether axis 0 counts samples is proved from the graph or seen in a run (on ``example``, else on random input); a model that leaves
    it open is refused, unless ``batched`` says it (False: all that is fed is one sample). ``layout`` is "NCHW" or "NHWC" where a
    picture's axes are not what the first convolution reached from it, or else its shape, says. ``grid`` is (height, width) of the picture
    in tokens, for methods with a target layer, where it does not follow from the graph (for rise, which has none: its own parameter of
    that name).

    ``example`` is data of the kind that the model is fed with (an array for its only input, or a dict of arrays): it tells the number of
    axes of an input without a shape, and the model is run on it instead of on random input where something is to be seen in a run.
    It is not kept. What is returned opens in ONNX Runtime.

    Raises ``ModelError``, ``MethodError``, ``TargetError``, ``PlanError``, ``UnsupportedError``: each says what to do.
    """
    return conversion(
        model,
        method,
        input=input,
        output=output,
        target=target,
        score=score,
        layer=layer,
        prefix=prefix,
        black=black,
        white=white,
        quantize=quantize,
        components=components,
        batched=batched,
        layout=layout,
        example=example,
        grid=grid,
        **parameters,
    ).proto


def decide(
    model: Source,
    method: str | Path | Method = DEFAULT_METHOD,
    *,
    input: str | None = None,
    output: str | None = None,
    target: Target = None,
    score: str | None = None,
    layer: str | None = None,
    prefix: str = "",
    black: np.ndarray | None = None,
    white: np.ndarray | None = None,
    quantize: int | None = None,
    components: bool = False,
    batched: bool | None = None,
    layout: str | None = None,
    example: Example = None,
    grid: Sequence[int] | str | None = None,
    labels: Sequence[str] | None = None,
    **parameters: Any,
) -> Decision:
    """What ``convert`` would build from the same arguments; every option is checked here that can be without emitting anything.

    ``labels``: names of the classes, of which nothing is built; raises ``InputError`` where they do not fit the model.
    """
    chosen = get_method(method)
    if layer is not None and "layer" not in chosen.parameters:
        raise MethodError(f"method '{chosen.name}' has no target layer; layer= is for {_with_layer()}.")
    if grid is not None and "grid" in chosen.parameters:
        parameters, grid = {**parameters, "grid": grid}, None
    elif grid is not None and "layer" not in chosen.parameters:
        raise MethodError(f"method '{chosen.name}' has no target layer, so no grid of tokens; grid= is for {_with_layer()}.")
    settings = chosen.settle(parameters if layer is None else {**parameters, "layer": layer})
    score = score or settings.pop("score", None) or "logit"
    if chosen.wrap not in WRAPPERS:
        known_wraps = ", ".join(repr(w) for w in WRAPPERS)
        raise MethodError(f"method '{chosen.name}': unknown wrap '{chosen.wrap}'{near_miss(chosen.wrap, WRAPPERS)}; known: {known_wraps}.")
    proto = load_model(model)
    refuse_converted(proto)
    data = guard.as_example(proto, example, input)

    def asked_of(plain: Model) -> Question:
        guard.refuse_open_rank(plain, input)
        return ask(plain, input, output, score, batched=batched, layout=layout, example=data, grid=grid)

    def planned(plain: Model) -> None:
        if chosen.rules:
            guard.plan_of(asked_of(plain), chosen.bound(settings))

    with guard.blaming_the_source(model):
        prepared = guard.prepared(model, proto, planned, data)
        question = asked_of(prepared.model)
    if quantize is not None and (isinstance(quantize, bool) or not isinstance(quantize, Integral) or quantize < 2):
        raise MethodError(f"quantize={quantize!r} is not a number of levels; give a whole number of 2 or more.")
    edges = {name: colour(name, value) for name, value in (("black", black), ("white", white))}
    refuse_misfit(labels, classes_of(question), question.output)
    index = target_index(question, target)
    asked: dict[str, Any] = {"input": question.x.name, "output": question.output, "score": question.score, "prefix": prefix}
    asked |= {"target": None if target is None else np.asarray(target).tolist(), "samples": list(question.samples), "layout": layout}
    asked["binary"] = question.binary
    return Decision(question, chosen, settings, index, prefix, edges, components, quantize, asked, model, prepared.log)


def conversion(model: Source, method: str | Path | Method = DEFAULT_METHOD, opened: bool = True, **options: Any) -> Conversion:
    """As ``convert``, with everything that was decided on the way. ``opened=False``: the caller opens it (``guard.open_converted``)."""
    return emit(decide(model, method, **options), opened)


def emit(decided: Decision, opened: bool = True) -> Conversion:
    """The converted model of a decision, with a record of it in the metadata. Emits into the decision's model: call it once."""
    question, method, log = decided.question, decided.method, decided.log
    with guard.blaming_the_source(decided.source):
        build, result = _build(decided)
    elsewhere = guard.refuse_unopenable(decided.source, result) if opened else ""
    guard.refuse_contradiction(result, f"{decided.prefix}{PREFIX}/")
    question = replace(question, doubt="; ".join(filter(None, (question.doubt, elsewhere))))
    settings = build.settings | ({} if decided.quantize is None else {"quantize": int(decided.quantize)})
    settings |= {} if question.grid is None else {"grid": list(question.grid)}
    record = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in settings.items()}
    question = replace(question, found=(*question.found, *build.found))
    set_metadata(
        result,
        {
            f"{METADATA}version": version("onnxsal"),
            f"{METADATA}method": method.name,
            f"{METADATA}parameters": json.dumps(record | decided.asked, default=str),
            f"{METADATA}rules_sha256": method.sha256,
            f"{METADATA}model_sha256": model_sha256(decided.source),
            **({f"{METADATA}passes": "; ".join(log)} if log else {}),
            **({f"{METADATA}facts": json.dumps([fact.as_dict() for fact in question.found])} if question.found else {}),
            **({f"{METADATA}doubt": question.doubt} if question.doubt else {}),
        },
    )
    done = settings | {"score": question.score}
    return Conversion(result, question, method, done, log, decided.prefix, tuple(build.plans.values()), build.layer)


def _with_layer() -> str:
    """Methods that have a target layer."""
    return ", ".join(m.name for m in shipped_methods().values() if "layer" in m.parameters)


def _build(decided: Decision) -> tuple[Build, onnx.ModelProto]:
    """Emit head and explanation, then append them to the forward part."""
    question, prefix, edges = decided.question, decided.prefix, decided.edges
    op = Emit(question.model, f"{prefix}{PREFIX}")
    if question.x.dtype == TensorProto.DOUBLE:
        op.dtype = TensorProto.DOUBLE
    shape = (f"{prefix}targets",)
    asked = Port(Value(f"{prefix}target", TensorProto.INT64, shape), TensorProto.INT64, shape, decided.target)
    with op.named("head"):
        head = emit_head(op, question, question.start, asked.value)
    settings = dict(decided.settings)
    named = {k: edges[v] for k, v in settings.items() if isinstance(v, str) and edges.get(v) is not None}
    method = decided.method.bound(settings | named)
    build = Build(op, question, method, settings, head, lambda name: f"{prefix}{name}", edges["black"], [asked], decided.components)
    build.quantize = decided.quantize
    with op.named(method.wrap or "walk"):
        result = WRAPPERS[method.wrap](build)
        outputs = _outputs(build, result)
    return build, assemble(question.model, op, build.inputs, outputs)


def _outputs(build: Build, result: Result) -> list[Port]:
    """The contract's outputs, under their public names."""
    op, x, name = build.op, build.question.x, build.name
    batch = (x.shape[0] if x.shape and build.question.batched else 1,)
    ports = [Port(op.Identity(result.attribution, name=name("attribution")), op.dtype, x.shape)]
    pixels = result.saliency or build.pixels(result.attribution)
    axes = build.question.picture
    if build.quantize is not None and pixels is None:
        raise MethodError("quantize floors saliency maps, but the explained input is no image, so there is none.")
    pixels = pixels if pixels is None or build.quantize is None else quantized(op, pixels, build.quantize)
    if pixels is not None and axes is not None and x.shape is not None:
        shape = (x.shape[0], x.shape[axes[1]], x.shape[axes[2]])
        single = op.Identity if op.dtype == TensorProto.FLOAT else partial(op.Cast, to=TensorProto.FLOAT)
        ports.append(Port(single(pixels, name=name("saliency_map")), TensorProto.FLOAT, shape))
    ports.append(Port(op.Identity(build.head.explained_class, name=name("explained_class")), TensorProto.INT64, batch))
    ports.append(Port(op.Cast(build.head.score, to=TensorProto.FLOAT, name=name("explained_score")), TensorProto.FLOAT, batch))
    if result.residual is not None:
        ports.append(Port(op.Identity(result.residual, name=name("residual")), TensorProto.FLOAT, batch))
    return [*ports, *build.components]


def colour(name: str, value: np.ndarray | None) -> np.ndarray | None:
    """The values of a pixel of that colour in the model's input, checked."""
    if value is None:
        return None
    try:
        numbers = np.asarray(value)
    except ValueError:  # rows of several lengths
        numbers = np.asarray("")
    if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise MethodError(f"{name}={value!r} is no pixel: give its value in the model's input as a finite number or array.")
    return numbers


def target_index(question: Question, target: Target) -> np.ndarray:
    """``target`` as int64 [1] or [N]; a tuple indexes a sample's scores of any rank. Raises ``TargetError`` if out of range."""
    if target is None:
        return np.asarray([-1], np.int64)
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
    index = index.astype(np.int64)
    if shape and all(isinstance(d, int) for d in shape):
        count = int(np.prod([d for d in shape if isinstance(d, int)]))
        if index.size and (index.max() >= count or index.min() < -1):
            raise TargetError(
                f"target {target} is out of range: the scores '{question.start.name}' have {count} classes, "
                f"0 to {count - 1} (-1 = predicted)."
            )
    return index
