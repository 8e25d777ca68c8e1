"""What a wrapper works with while a converted graph is being written, and the wrappers' registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from onnx import TensorProto

from onnxsal.ask.layers import TargetLayer, layers_of
from onnxsal.ask.question import Question
from onnxsal.engine.method import Method
from onnxsal.engine.plan import Plan, make_plan
from onnxsal.engine.table_rows import WRAPS
from onnxsal.engine.traverse import traverse
from onnxsal.errors import MethodError, near_miss
from onnxsal.facts.axes import layout_places
from onnxsal.facts.grounds import Found
from onnxsal.graph import FLOATS, Emit, Value
from onnxsal.graph.assemble import Port
from onnxsal.graph.infer import Shape
from onnxsal.methods.head import Head, emit_seed
from onnxsal.settings import numbers_of, shown

_TINY = 1e-6
"""Scores closer to zero than this have no meaningful relative error; the absolute one is scaled by it instead."""


@dataclass(frozen=True)
class Result:
    """An attribution shaped like the explained input, and the relative error of the law it should obey, if there is one; ``standard_error``
    is that of each element of the attribution, where it is an estimate, in the shape of the explained input; ``reached`` is the
    share of the score that reaches the input, where a method divides the score up. ``parts`` says what it is divided into: by name [N]
    each, the input first, in the type of attributions; they sum to the score.
    """

    attribution: Value
    residual: Value | None = None
    saliency: Value | None = None
    reached: Value | None = None
    standard_error: Value | None = None
    parts: Mapping[str, Value] = field(default_factory=dict)


class MethodSettings(dict[str, Any]):
    """The settings of a method. Raises ``MethodError`` where a wrap reads one that the method's table does not have."""

    def __init__(self, method: Method, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.method = method

    def __missing__(self, name: str) -> Any:
        wrap = self.method.wrap
        raise MethodError(f"method '{self.method.name}' has no parameter '{name}', which wrap '{wrap}' needs: write [parameters.{name}].")


@dataclass
class Build:
    """One conversion in progress: the question, the method with its settings, where nodes go, and what was added so far.

    ``optional``: inputs that need not be fed are wanted; else what they would hold is built in. ``runs`` says how often the model is run.
    """

    op: Emit
    question: Question
    method: Method
    settings: dict[str, Any]
    head: Head
    name: Callable[[str], str]
    edges: dict[str, np.ndarray | None] = field(default_factory=dict)
    inputs: list[Port] = field(default_factory=list)
    want_components: bool = False
    components: list[Port] = field(default_factory=list)
    quantize: int | None = None
    optional: bool = False
    plans: dict[tuple[str, str, str], Plan] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    layer: TargetLayer | None = None
    parts: tuple[str, ...] = ()
    runs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = MethodSettings(self.method, self.settings)

    def plan(self, start: str = "", end: str = "", method: Method | None = None) -> Plan:
        """The walk from the scores (or from tensor ``start``) back to the explained input (or to tensor ``end``), made once."""
        method, start, end = method or self.method, start or self.question.start.name, end or self.question.x.name
        key = (method.name, start, end)
        if key not in self.plans:
            self.plans[key] = make_plan(self.question.model, method, [end], [start])
        return self.plans[key]

    def take_layer(self) -> TargetLayer:
        """The layer that the settings name or that the graph suggests; from here on the settings say which it is."""
        layers, named = layers_of(self.question), self.settings.get("layer")
        self.layer = layers.pick(named)
        self.settings["layer"] = self.layer.value.name
        self.found += layers.found_out(named)
        return self.layer

    def walk(self) -> Value:
        """The signal at the explained input."""
        seed = emit_seed(self.op, self.question, self.question.start, self.head.chosen)
        return traverse(self.op, self.plan(), {self.question.start.name: seed})[self.question.x.name]

    def contribution(self, product: Value, moved: Value) -> Value:
        """The product of a signal with the input, or with how far it moved: 0 where that is 0, also where a slope is infinite."""
        wild = any(step.node.wild for step in self.plan().steps)
        return self.op.Where(self.op.Equal(moved, 0.0), 0.0, product) if wild else product

    def component(self, name: str, value: Callable[[], Value], rank: int) -> None:
        """A part of the explanation as a float32 output of its own, [N] or [N, *places], computed only if components are wanted."""
        if not self.want_components:
            return
        single = self.op.Cast(value(), to=TensorProto.FLOAT)
        self.components.append(self.told(name, single, TensorProto.FLOAT, tuple(f"{name}_{i}" for i in range(rank))))

    def told(self, name: str, value: Value, kind: int, shape: Shape | None) -> Port:
        """``value``, of element type ``kind`` and with a row per sample, as the output ``name``: NaN where the class does not exist."""
        op, exists = self.op, self.head.exists
        if exists is None:
            return Port(op.Identity(value, name=self.name(name)), kind, shape)
        # 0 or NaN is added: half the time of a Where on all of the value
        lost = op.cached("lost", lambda: op.Where(exists, 0.0, float("nan")))
        rank = len(shape or ()) if self.question.batched or not shape else 1
        if kind != op.dtype:
            lost = op.cached(("lost", kind), lambda: op.Cast(lost, to=kind))
        if rank != 1:
            fitted = op.Unsqueeze if rank else op.Squeeze
            lost = op.cached(("lost", kind, rank), lambda: fitted(lost, list(range(1, rank)) or [0]))
        return Port(op.Add(value, lost, name=self.name(name)), kind, shape)

    def told_classes(self, shape: Shape) -> list[Port]:
        """int64 ``explained_class`` [N]: -2 where the class that is asked for does not exist, or is compared with itself. Where it is
        compared, int64 ``compared_class`` [N] too.
        """
        op, exists, chosen = self.op, self.head.exists, self.head.chosen
        told = {"explained_class": chosen.target} | ({} if chosen.against is None else {"compared_class": chosen.against})
        marked = {name: value if exists is None else op.Where(exists, value, -2) for name, value in told.items()}
        return [Port(op.Identity(value, name=self.name(name)), TensorProto.INT64, shape) for name, value in marked.items()]

    def baseline(self, setting: str = "baseline") -> Value:
        """The tensor ``baseline``, broadcastable to the explained input: what the setting of that name says, or what is fed instead."""
        chosen = self.settings.get(setting, 0.0)
        x, rank = self.question.x, self.question.x.rank
        kind = self.op.dtype if x.dtype in FLOATS else TensorProto.INT64
        if isinstance(chosen, str) and not chosen:
            chosen = _nothing(x, setting)
        if isinstance(chosen, str):
            if chosen != "black":
                raise MethodError(f"baseline '{chosen}' is unknown; give a number, an array, or 'black' (with the preprocessing).")
            if self.edges.get("black") is None:
                raise MethodError(
                    "baseline 'black' is a black pixel after preprocessing, which the model file does not say. Give the preprocessing "
                    "(--preprocess, or the pixel's value as black= in Python), or the value itself as a number or array."
                )
            chosen = self.edges["black"]
        default = numbers_of(chosen)
        if default is None:
            raise MethodError(f"{setting}={shown(chosen)} is no baseline: give a number, an array, or 'black' (with the preprocessing).")
        if kind == TensorProto.INT64 and (default != np.round(default)).any():
            raise MethodError(f"{setting}={shown(chosen)} replaces whole numbers ('{x.name}'), and is none itself.")
        default = default.astype(np.int64 if kind == TensorProto.INT64 else self.op.np_dtype)
        if default.ndim > rank:
            raise MethodError(f"the baseline has {default.ndim} dimensions; the explained input has {rank}.")
        default = default.reshape((1,) * (rank - default.ndim) + default.shape)
        value = Value(self.name("baseline"), kind, tuple(f"baseline_{i}" for i in range(rank)))
        self.inputs.append(Port(value, kind, value.shape, default, self.optional))
        return value

    def sum_per_sample(self, value: Value) -> Value:
        """Sum over all axes but the first -> [N]."""
        axes = list(range(1, self.question.x.rank)) if self.question.batched else list(range(self.question.x.rank))
        total = self.op.ReduceSum(value, axes, keepdims=0) if axes else value
        return total if self.question.batched else self.op.Reshape(total, [1])

    def sum_of_scores(self, value: Value) -> Value:
        """Sum of a tensor shaped like the scores over all axes but the samples' -> [N]."""
        rank = self.question.start.rank
        if not self.question.batched:
            return self.op.Reshape(self.op.ReduceSum(value, keepdims=0), [1])
        return self.op.ReduceSum(value, list(range(1, rank)), keepdims=0) if rank > 1 else value

    def relative_error(self, got: Value, wanted: Value) -> Value:
        """|got - wanted| / max(|wanted|, 1e-6), per sample, float32."""
        op = self.op
        error = op.Div(op.Abs(op.Sub(got, wanted)), op.Max(op.Abs(wanted), _TINY))
        return op.Cast(error, to=TensorProto.FLOAT)

    def per_token(self, attribution: Value) -> Value:
        """The signed sum over each token's vector: [N, L] of an attribution [N, L, D]."""
        return self.op.ReduceSum(attribution, [self.question.x.rank - 1], keepdims=0)

    def share_of_score(self, part: Value) -> Value:
        """part / score, per sample, float32; scores closer to zero than 1e-6 count as that, with their sign."""
        op, score = self.op, self.head.score
        least = op.Where(op.Less(score, 0.0), -_TINY, _TINY)
        return op.Cast(op.Div(part, op.Where(op.Less(op.Abs(score), _TINY), least, score)), to=TensorProto.FLOAT)

    def pixels(self, attribution: Value) -> Value | None:
        """The saliency map [N, *places] of an attribution; ``None`` where the explained input has no places."""
        axes = self.question.picture
        if axes is None:
            return None
        reduced = self.over_channels(attribution, axes[0], "sum_abs")
        if self.settings.get("rescale"):
            reduced, _, _ = stretched(self.op, reduced, layout_places(axes))
        return reduced

    def over_channels(self, attribution: Value, axis: int | None, default: str) -> Value:
        """One number for all channels (``axis``; ``None`` = there are none): as the setting ``reduce`` says, else ``default``."""
        return over_channels(self.op, attribution, axis, self.settings.get("reduce", default))


def over_channels(op: Emit, value: Value, channel: int | None, how: str = "sum") -> Value:
    """[N, *places] of a tensor shaped like the input: the "sum" over channels, "sum_abs" of absolute values, or their largest, "max_abs";
    without channels the tensor itself, or its absolute values.
    """
    value = value if how == "sum" else op.Abs(value)
    if channel is None:
        return value
    return (op.ReduceMax if how == "max_abs" else op.ReduceSum)(value, [channel], keepdims=0)


def places_axes(places: int) -> list[int]:
    """The axes of places of a map [N, *places]."""
    return list(range(1, places + 1))


def stretched(op: Emit, pixels: Value, places: int) -> tuple[Value, Value, Value]:
    """(m - min) / (max - min) of each map, 0 where a map is constant; with the minimum and the span. Infinities count as 1e38."""
    pixels, along = op.Clip(pixels, -1e38, 1e38), places_axes(places)
    low, high = op.ReduceMin(pixels, along, keepdims=1), op.ReduceMax(pixels, along, keepdims=1)
    span = op.Sub(high, low)
    return op.Div(op.Sub(pixels, low), op.Where(op.Greater(span, 0.0), span, 1.0)), low, span


def quantized(op: Emit, pixels: Value, levels: int, places: int) -> Value:
    """min + floor((m - min) / (max - min) (levels - 1)) / (levels - 1) (max - min) of each map; a constant map stays as it is."""
    (share, low, span), steps = stretched(op, pixels, places), float(levels - 1)
    return op.Add(low, op.Mul(op.Div(op.Floor(op.Mul(share, steps)), steps), span))


def _nothing(x: Value, setting: str) -> float:
    """What an element is replaced by where nothing is named: 0 (false), but of no id, as 0 may be the id of a word."""
    if x.dtype in FLOATS or x.dtype == TensorProto.BOOL:
        return 0.0
    raise MethodError(
        f"'{x.name}' holds whole numbers, and onnxsal does not guess which of them stands for nothing. Name it, such as the id of a mask "
        f"or of padding: {setting}=103 in Python, --{setting} 103."
    )


Starts = Literal["scores", "score", "nothing"]
"""What a walk begins with: the derivative of the score at the scores, the score itself, or there is no walk (the model is run forward)."""


@dataclass(frozen=True)
class Wrapper:
    """What a method's ``wrap = "<name>"`` builds, and what it promises.

    ``starts``: what its walk begins with. ``reaches``: how far that walk goes, to the explained "input" or to the target "layer" only.
    ``keeps``: the law whose relative error it returns ('' = none). ``shares`` is the component [N, k] with the shares that the
    score is divided into ('' = it is not), ``columns`` what these are, the result's ``parts`` their names; ``books``: they are what
    reaches the input, and what does not, written down on the way. ``refined_by``: the parameter that brings a sum closer to the law,
    which it keeps in the limit only ('' = the law holds exactly). ``composes``: it puts so many other methods (``of``) together,
    at least and at most.
    ``asks_class``: what it tells depends on the class. ``integers``: it replaces elements and asks for no derivative, so that whole numbers
    and truth values can be explained too. ``estimates``: it returns standard errors, as it may draw samples.
    """

    name: str
    build: Callable[[Build], Result]
    starts: Starts = "scores"
    reaches: Literal["input", "layer"] = "input"
    keeps: Literal["", "conservation", "completeness", "summation to delta", "those of its parts"] = ""
    shares: str = ""
    columns: tuple[str, ...] = ()
    books: bool = False
    refined_by: str = ""
    composes: tuple[int, int] = (0, 0)
    asks_class: bool = True
    integers: bool = False
    estimates: bool = False


WRAPPERS: dict[str, Wrapper] = {}


def wrap(name: str, **promises: Any) -> Callable[[Callable[[Build], Result]], Callable[[Build], Result]]:
    """Register what a method's ``wrap = "<name>"`` builds around the walk; ``promises`` are the fields of ``Wrapper``."""

    def register(function: Callable[[Build], Result]) -> Callable[[Build], Result]:
        if name in WRAPPERS:
            raise ValueError(f"wrapper '{name}' is registered twice")
        WRAPPERS[name] = Wrapper(name, function, **promises)
        WRAPS.append(name)
        return function

    return register


def wrapper_of(method: Method) -> Wrapper:
    """The wrapper that a method names. Raises ``MethodError`` for one that nobody registered, or that cannot do what the table says."""
    found = WRAPPERS.get(method.wrap)
    if found is None:
        known = ", ".join(map(repr, WRAPPERS))
        raise MethodError(f"method '{method.name}': unknown wrap '{method.wrap}'{near_miss(method.wrap, WRAPPERS)}; known: {known}.")
    least, most = found.composes
    if bool(method.of) != bool(most):
        composing = ", ".join(name for name, wrapper in WRAPPERS.items() if wrapper.composes[1])
        raise MethodError(f"method '{method.name}': its wrap is '{found.name}', but of = [...] goes with {composing} and only with these.")
    if not least <= len(method.of) <= most:
        wanted = "one other" if most == 1 else "two others or more"
        raise MethodError(f"method '{method.name}': wrap '{found.name}' is made of {wanted}; of = [...] names {len(method.of)}.")
    if (found.starts == "score") != (method.seed == "score"):
        seed = "score" if found.starts == "score" else "one"
        raise MethodError(f"method '{method.name}': wrap '{found.name}' does not begin with seed '{method.seed}'; write seed = \"{seed}\".")
    if method.law and not found.keeps:
        raise MethodError(f"method '{method.name}': wrap '{found.name}' keeps no law, so the table has none to state.")
    return found


def keeps_law(method: Method) -> bool:
    """Whether the method, or a part of it, returns the relative error of a law."""
    return bool(wrapper_of(method).keeps) and (not method.of or any(keeps_law(part.method) for part in method.of))


def refined_by(method: Method) -> str:
    """The parameter that brings a sum, the method's or a part's, closer to the law that it keeps ('' = the law holds exactly)."""
    return wrapper_of(method).refined_by or next(filter(None, (refined_by(part.method) for part in method.of)), "")


def with_colours(settings: Mapping[str, Any], edges: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
    """Settings with the values of a pixel in place of "black" and "white", where these are known."""
    return {k: edges[v] if isinstance(v, str) and edges.get(v) is not None else v for k, v in settings.items()}


@wrap("")
def walk(build: Build) -> Result:
    """One walk: the signal at the input, times the input where the method says so."""
    signal = build.walk()
    x = build.question.x
    return Result(build.contribution(build.op.Mul(signal, x), x) if build.method.times_input else signal)
