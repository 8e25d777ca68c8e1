"""Model in, the same model with its explanation built in out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from numbers import Integral
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxsal.ask import guard
from onnxsal.ask.class_names import classes_of, refuse_misfit
from onnxsal.ask.layers import TargetLayer
from onnxsal.ask.likeness import with_likeness
from onnxsal.ask.patches import at_tokens
from onnxsal.ask.pixels import at_entry
from onnxsal.ask.place import BOX
from onnxsal.ask.question import Question, at_place
from onnxsal.ask.question import ask as question_of
from onnxsal.ask.reading import boxes_of
from onnxsal.ask.request import OF_LAYERS, RUN, Ask, spelled, takes
from onnxsal.ask.scores import COSINE
from onnxsal.engine.method import Method, known_methods
from onnxsal.engine.plan import Plan
from onnxsal.errors import MethodError, TargetError
from onnxsal.facade.target import FIXED, OPTIONAL, contrast_of, place_index, refuse_other_rows, target_index, target_input_of, target_port
from onnxsal.facts.axes import layout_places
from onnxsal.graph import FLOATS, Emit, Model, Value
from onnxsal.graph.assemble import Port, assemble, set_metadata
from onnxsal.graph.emit import ANYWHERE, PREFIX
from onnxsal.graph.helpers import columns
from onnxsal.graph.load import load_model
from onnxsal.graph.provenance import METADATA, model_sha256, refuse_converted
from onnxsal.methods.build import Build, Result, quantized, with_colours, wrapper_of
from onnxsal.methods.head import emit_head
from onnxsal.methods.maps import token_map
from onnxsal.ops.apart import keep_apart
from onnxsal.runtime.timed import timed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """A converted model with what was decided on the way: the question, the method, its settings, what the passes did,
    the walks that were planned (none for a method that runs the model forward only), the layer that the map is made of, if any, and how the
    model is told the class; ``runs`` says how often the model is run beside the one forward pass. ``parts`` are the names of the columns of
    the output of that name (none: there is no such output). ``ask`` is what was asked for, as it would be asked of another model.
    """

    proto: onnx.ModelProto
    ask: Ask
    question: Question
    method: Method
    settings: dict[str, Any]
    log: list[str]
    plans: tuple[Plan, ...] = ()
    layer: TargetLayer | None = None
    target_input: str = OPTIONAL
    parts: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What stands before every name that was added."""
        return self.ask.prefix


@dataclass(frozen=True)
class Decision:
    """What a conversion will build, decided before anything is emitted. ``edges`` are the colours that settings may name."""

    ask: Ask
    question: Question
    method: Method
    settings: dict[str, Any]
    target: np.ndarray
    target_input: str
    edges: dict[str, np.ndarray | None]
    log: list[str]

    @property
    def record(self) -> dict[str, Any]:
        """What the metadata say beside the settings."""
        question, ask = self.question, self.ask
        asked: dict[str, Any] = {"input": question.x.name, "output": question.output, "score": question.score, "prefix": ask.prefix}
        asked["target"] = None if ask.target is None else np.asarray(ask.target).tolist()
        asked |= {"samples": list(question.samples), "layout": ask.layout}
        asked |= {} if question.tokens is None or question.tokens.picture is None else {"patches_of": question.tokens.picture.name}
        asked |= {"source": question.source} if question.source not in ("", question.x.name) else {}
        asked |= {} if question.likeness is None else question.likeness.record
        asked |= {} if question.reading is None else {"place": question.reading.kind, "class_there": question.reading.of}
        compared = {} if question.contrast is None else question.contrast.record
        asked |= {} if ask.runs_on is None else {"runs_on": ask.runs_on}
        return asked | compared | {"binary": question.binary, "target_input": self.target_input}


@spelled.function
def convert(ask: Ask) -> onnx.ModelProto:
    """The model with its explanation built in: a self-contained ONNX model of standard ``ai.onnx`` operators,
    beside those that compute the model's own quantised values (docs/quantised.md).

    ``model`` is a path, bytes or ``ModelProto``; ``method`` a name (``methods()`` lists them; "fullgrad" where none is given), an alias or
    a TOML file. The result keeps the original inputs and outputs and adds the int64 input ``target`` [1] or [N] (-1 = the predicted class
    of each sample) and the outputs ``attribution`` (signed, shape of the explained input), ``token_attribution`` (where that holds a vector
    per token: the attribution summed over each vector, signed, so [N, L] of [N, L, D]), ``saliency_map`` float32 [N, H, W] (of a series [N,
    L], of a volume [N, D, H, W]; of other inputs none), ``explained_class`` int64 [N], ``explained_score`` float32 [N] and, where the
    method obeys a law, ``residual`` float32 [N], its relative error; where the attribution is an estimate by sampling, ``standard_error``
    in its shape and type; beside it, for relevance methods, ``reached`` float32 [N], the share of the score that reaches the input; for
    methods that divide the score up, where tokens are explained or ``components`` are wanted, ``parts`` float32 [N, k]: what the input,
    positions, token types, class tokens, softmaxes, biases and so on contribute to the score, by the names in the JSON list
    ``onnxsal.parts`` of the metadata. For a sample whose target is neither -1 nor a class, ``explained_class`` is -2 and all else that is
    added NaN. ``prefix`` is put before all names that are added.

    ``input`` names the input or inner tensor to explain (where there is only ids: the vectors of its words, if it is known which table
    holds these), ``output`` the output. ``target`` builds a class in: an index, one per sample, or, for scores of higher rank (where
    ``explained_class`` is the flat index of the element), a tuple; or a place: "box:3" is the box of that number in the model's own list
    ("box_count" int64 [N] then tells how many there are), "point:120,80" the pixel in that row and column, "class:dog@mask" all pixels that
    the model gives to a class (by index, or by label with ``labels``), and the input ``target`` the number of the box, ROW * 2^20 + COLUMN,
    or the class. ``target_input`` says how the model is told the class: "required" (default), the input ``target`` is fed in every run;
    "fixed" (default where ``target`` is given), there is no such input, and ``target``, else the predicted class, is built in; "optional",
    the input is also an initialiser, which only ONNX Runtime's own API can replace, and methods with a baseline have such an input
    ``baseline`` too (else it is built in). ``against`` compares: the score explained is then y_target - ``against_weight`` y_against
    (weight 1 where none is given), of the class of that index, or of the best of the others ("runner-up"); it is built in, int64
    ``compared_class`` [N] tells it, and a sample whose target is the class it is compared with is answered like one whose target does not
    exist. ``score`` is "logit" (default), "probability", "raw" or "cosine" (of embeddings, as ``ask.likeness`` says: ``pooling``,
    ``reference``). ``black`` and ``white`` are the values of such pixels in the model's input, for methods with ``baseline="black"`` or
    bounds; ``preprocess`` gives both. ``quantize`` floors each saliency map to that many levels between its smallest and largest value (the
    attribution, and the law it obeys, stay as they are). ``components`` adds an output per part of the explanation, where the method has
    parts. ``layer`` is the target layer, of methods that have one. ``labels`` only says whether names of classes fit the model (else
    ``InputError``). Nothing is run, so ``providers``, ``threads``, ``batch_size`` are refused. Other keywords are the method's.

    Whether axis 0 counts samples is proved from the graph or seen in a run (on ``example``, else on random input); a model that leaves it
    open is refused, unless ``batched`` says it (False: all that is fed is one sample). ``layout`` is "NCHW" or "NHWC" (of a series "NCL" or
    "NLC", of a volume "NCDHW" or "NDHWC"; "NL", "NHW", "NDHW" have no channels) where the axes are not what the first convolution reached
    from the input, or of a picture its shape, says. ``grid`` is (height, width) of the picture in tokens, for methods with a target layer,
    where it does not follow from the graph (for rise, which has none: its own parameter of that name). ``tokens`` explains a picture at its
    patch embedding [N, T, D]: the last tensor of tokens that all paths cross before they are mixed, positions and class tokens in it; the
    map is then the signed sum over D (``reduce``, of methods that have it, says another one) of the tokens of the grid, resized; all
    tokens, those beside the grid too, are in ``token_attribution``.

    ``example`` is data of the kind that the model is fed with (an array for its only input, or a dict of arrays): it tells the number of
    axes of an input without a shape, and the model is run on it instead of on random input where something is to be seen in a run. It is
    not kept. What is returned opens in ONNX Runtime.

    Raises ``ModelError``, ``MethodError``, ``TargetError``, ``PlanError``, ``UnsupportedError``: each says what to do.
    """
    return conversion(ask.without("convert", *RUN)).proto


def decide(ask: Ask) -> Decision:
    """What ``convert`` would build of the same request; every option is checked here that can be without emitting anything.

    ``labels``: names of the classes, of which nothing is built; raises ``InputError`` where they do not fit the model.
    """
    method = ask.chosen
    wrapper_of(method)
    settings, score, grid = _settled(ask, method)
    proto = load_model(ask.model)
    refuse_converted(proto)
    data = guard.as_example(proto, ask.example, ask.input)
    asked_of = partial(_question, ask=ask, method=method, score=score, grid=grid, data=data)

    def planned(plain: Model) -> None:
        for walked in _walks(method, settings):
            guard.plan_of(asked_of(plain), walked, wrapper_of(walked).reaches == "layer")

    with guard.blaming_the_source(ask.model), timed(logger, f"{ask.name or 'a model'}: made plain and asked"):
        prepared = guard.prepared(ask.model, proto, planned, data)
        question = asked_of(prepared.model)
    for change in prepared.log:
        logger.info("pass %s", change)
    for fact in question.found:
        logger.info("%s: %s", fact.what, fact)
    question = replace(question, doubt="; ".join(filter(None, (question.doubt, prepared.doubt))))
    if (
        question.tokens is not None
        and "reduce" in settings
        and not {"reduce", "preset"}.intersection(map(method.canonical, ask.parameters))
    ):
        settings["reduce"] = "sum"  # the vectors of tokens are summed with their signs, unless another way is asked for
    levels = ask.quantize
    if levels is not None and (isinstance(levels, bool) or not isinstance(levels, Integral) or levels < 2):
        raise MethodError(f"quantize={levels!r} is not a number of levels; give a whole number of 2 or more.")
    edges = at_entry(question, {name: colour(name, value) for name, value in ask.edges.items()})
    refuse_misfit(ask.labels, classes_of(question), question.output)
    index = place_index(question, ask.places) if ask.places else target_index(question, ask.target)
    how = target_input_of(ask.target_input, ask.target)
    if how == FIXED:
        if any(place.number is None for place in ask.places):
            raise TargetError("target box:* is every box, and how many there are only a run tells: name one, or let the class be fed.")
        refuse_other_rows(question, index)
    question = replace(question, contrast=contrast_of(question, ask, index))
    if question.reading is not None and ask.against is not None:
        raise TargetError("against= compares classes; a target that is a box or a pixel has none to compare with. Leave it out.")
    if question.contrast is not None and not wrapper_of(method).asks_class:
        raise MethodError(f"method '{method.name}' explains no class, so it has none to compare. Leave against= out.")
    return Decision(ask, question, method, settings, index, how, edges, prepared.log)


def _question(
    plain: Model, ask: Ask, method: Method, score: str, grid: Sequence[int] | str | None, data: Mapping[str, np.ndarray]
) -> Question:
    """The question that is asked of a model that was made plain."""
    guard.refuse_open_rank(plain, ask.input)
    place, likeness = next(iter(ask.places), None), None
    if score == COSINE:
        plain, ask, likeness = with_likeness(plain, ask, wrapper_of(method).integers, data)
    output = boxes_of(plain, ask.output, place, score, data) if place is not None and place.kind == BOX else ask.output
    asked = partial(question_of, plain, ask.input, output, score, batched=ask.batched, layout=ask.layout, example=data, grid=grid)
    question = asked(integers=wrapper_of(method).integers)
    return replace(at_place(at_tokens(question) if ask.tokens else question, place), likeness=likeness)


def _settled(ask: Ask, method: Method) -> tuple[dict[str, Any], str, Sequence[int] | str | None]:
    """The method's settings, the score, and the grid of tokens. Raises ``MethodError`` for a layer or a grid of a method that has none."""
    own = {name: value for name in OF_LAYERS if (value := getattr(ask, name)) is not None and name in method.parameters}
    for name in OF_LAYERS:
        if getattr(ask, name) is not None and not takes(method, name) and not (ask.tokens and name == "grid"):
            having = ", ".join(m.name for m in known_methods().values() if "layer" in m.parameters)
            so = ", so no grid of tokens" if name == "grid" else ""
            raise MethodError(f"method '{method.name}' has no target layer{so}; {name}= is for {having}.")
    settings = method.settle({**ask.parameters, **own})
    score = ask.score or settings.pop("score", None) or "logit"
    return settings, score, None if "grid" in own else ask.grid


def conversion(ask: Ask, opened: bool = True) -> Conversion:
    """As ``convert``, with everything that was decided on the way. ``opened=False``: the caller opens it (``guard.open_converted``)."""
    return emit(decide(ask), opened)


def emit(decided: Decision, opened: bool = True) -> Conversion:
    """The converted model of a decision, with a record of it in the metadata. Emits into the decision's model: call it once."""
    ask, question, method, log = decided.ask, decided.question, decided.method, decided.log
    with guard.blaming_the_source(ask.model), timed(logger, f"{ask.name or 'a model'}: {method.name} built in"):
        build, result = _build(decided)
    elsewhere = guard.refuse_unopenable(ask.model, result) if opened else ""
    guard.refuse_contradiction(result, f"{ask.prefix}{PREFIX}/")
    question = replace(question, doubt="; ".join(filter(None, (question.doubt, elsewhere))))
    settings = build.settings | ({} if ask.quantize is None else {"quantize": int(ask.quantize)})
    settings |= {} if question.grid is None else {"grid": list(question.grid)}
    record = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in settings.items()}
    question = replace(question, found=(*question.found, *build.found))
    set_metadata(
        result,
        {
            f"{METADATA}version": version("onnxsal"),
            f"{METADATA}method": method.name,
            f"{METADATA}parameters": json.dumps(record | decided.record, default=str),
            f"{METADATA}rules_sha256": method.sha256,
            f"{METADATA}model_sha256": model_sha256(ask.model),
            **({f"{METADATA}passes": "; ".join(log)} if log else {}),
            **({f"{METADATA}facts": json.dumps([fact.as_dict() for fact in question.found])} if question.found else {}),
            **({f"{METADATA}doubt": question.doubt} if question.doubt else {}),
            **({f"{METADATA}parts": json.dumps(build.parts)} if build.parts else {}),
        },
    )
    done = settings | {"score": question.score}
    plans = tuple(build.plans.values())
    return Conversion(result, ask, question, method, done, log, plans, build.layer, decided.target_input, build.parts, tuple(build.runs))


def _walks(method: Method, settings: Mapping[str, Any]) -> Iterator[Method]:
    """The methods that are walked, settings in place: the method itself, or those that it is made of."""
    bound = method.bound(settings)
    for part in bound.of:
        yield from _walks(part.method, part.method.settle(part.parameters))
    if bound.rules:
        yield bound


def _build(decided: Decision) -> tuple[Build, onnx.ModelProto]:
    """Emit head and explanation, then append them to the forward part."""
    ask, question, edges = decided.ask, decided.question, decided.edges
    prefix = ask.prefix
    op = Emit(question.model, f"{prefix}{PREFIX}", ask.runs_on or ANYWHERE)
    if TensorProto.DOUBLE in (question.x.dtype, question.start.dtype if question.x.dtype not in FLOATS else 0):
        op.dtype = TensorProto.DOUBLE
    asked = target_port(prefix, decided.target_input, decided.target)
    checked = decided.target_input == FIXED and question.class_count is not None
    with op.named("head"):
        head = emit_head(op, question, question.start, asked.value if asked.fed or asked.default is not None else None, checked)
    settings = dict(decided.settings)
    method = decided.method.bound(with_colours(settings, edges))
    build = Build(op, question, method, settings, head, lambda name: f"{prefix}{name}", edges, [asked])
    build.want_components, build.quantize, build.optional = ask.components, ask.quantize, decided.target_input == OPTIONAL
    with op.named(method.wrap or "walk"):
        result = wrapper_of(method).build(build)
        outputs = _outputs(build, result)
    return build, keep_apart(assemble(question.model, op, build.inputs, outputs, question.start.name), op.prefix)


def _outputs(build: Build, result: Result) -> list[Port]:
    """The contract's outputs, under their public names."""
    op, x = build.op, build.question.x
    batch = (x.shape[0] if x.shape and build.question.batched else 1,)
    ports = [build.told("attribution", result.attribution, op.dtype, x.shape)]
    if build.question.tokens is not None:
        ports.append(build.told("token_attribution", build.per_token(result.attribution), op.dtype, (x.shape or ())[:-1]))
    pixels = result.saliency or build.pixels(result.attribution) or token_map(build, result.attribution)
    of, axes = build.question.shown
    if build.quantize is not None and (pixels is None or axes is None):
        raise MethodError("quantize floors saliency maps, but the explained input is no picture, series or volume, so there is none.")
    if pixels is not None and axes is not None and build.quantize is not None:
        pixels = quantized(op, pixels, build.quantize, layout_places(axes))
    if pixels is not None and axes is not None and of.shape is not None:
        shape = (of.shape[0], *(of.shape[a] for a in axes[1:]))
        ports.append(build.told("saliency_map", _single(op, pixels), TensorProto.FLOAT, shape))
    ports += build.told_classes(batch)
    ports += [Port(op.Identity(v, name=build.name(name)), TensorProto.INT64, batch) for name, v in build.head.told.items()]
    ports.append(build.told("explained_score", _single(op, build.head.score), TensorProto.FLOAT, batch))
    if result.residual is not None:
        ports.append(build.told("residual", result.residual, TensorProto.FLOAT, batch))
    if result.standard_error is not None:
        ports.append(build.told("standard_error", result.standard_error, op.dtype, x.shape))
    if result.reached is not None:
        ports.append(build.told("reached", result.reached, TensorProto.FLOAT, batch))
    if result.parts and (build.question.tokens is not None or build.want_components):
        build.parts = tuple(result.parts)
        ports.append(build.told("parts", _single(op, columns(op, *result.parts.values())), TensorProto.FLOAT, (*batch, len(build.parts))))
    return [*ports, *build.components]


def _single(op: Emit, value: Value) -> Value:
    """``value``, of the compute type, in float32."""
    return value if op.dtype == TensorProto.FLOAT else op.Cast(value, to=TensorProto.FLOAT)


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
