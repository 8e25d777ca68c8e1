"""What is asked of a model: one frozen ``Ask`` for every verb, spelled out once, and the words of each field on the command line.

A new option is a field of ``Ask`` and its line in ``Ask.of``, beside its use: every verb, its types, its help and its commands follow.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property, wraps
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import numpy as np

from onnxsal.ask.picture_input import preprocess_from
from onnxsal.ask.place import Place, places_of
from onnxsal.engine.method import Method, get_method
from onnxsal.errors import InputError, MethodError
from onnxsal.graph.emit import RUNS_ON
from onnxsal.graph.load import Source
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.presets import PRESETS
from onnxsal.runtime.providers import Providers, Resolved, resolve

Target = int | str | Sequence[int] | Sequence[str] | np.ndarray | None
"""An index, a list of one for each sample, a tuple into scores of higher rank, or a place (``ask.place``): "box:3", "point:120,80"."""

Against = int | str | tuple[int, ...] | None
"""The class that another is compared with: an index, into scores of higher rank a tuple, or "runner-up"."""

CONTRAST = ("against", "against_weight")
"""Fields that compare classes."""

Example = np.ndarray | Mapping[str, np.ndarray] | None
"""Data of the kind that the model is fed with: an array for its only input, or arrays by input."""

DEFAULT_METHOD = "fullgrad"

RUN = ("providers", "tf32", "threads", "batch_size", "fixed_batch")
"""Fields that say how a model is run."""

FED = ("labels", "preprocess")
"""Fields that say how a model is fed, and what its classes are called."""

OF_LAYERS = ("layer", "grid")
"""Fields that mean something to methods with a target layer only."""


@dataclass(frozen=True)
class Said:
    """The words of a field on the command line: what it is, and what is taken where it is not given ('' = nothing is shown)."""

    words: str
    shown: str = ""


AXES = "NCHW or NHWC: what the axes of the explained picture are (NCL or NLC of a series, NCDHW or NDHWC of a volume)."


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked of a model, by whatever verb. ``None`` (of ``prefix`` '', of switches ``False``) is not given.

    Fields with words are options of the command line too. ``parameters`` are the method's own. ``preprocess`` gives ``black`` and ``white``
    where these are not given. Raises ``InputError`` for a ``batch_size`` or ``fixed_batch`` that is no number of samples, for two that
    differ, for ``threads`` that are no number, and for an unknown ``runs_on``.
    """

    model: Annotated[Source, Said("The ONNX model.")]
    method: Annotated[str | Path | Method | None, Said("How to explain; `onnxsal methods` lists what there is.", shown=DEFAULT_METHOD)] = (
        None
    )
    input: Annotated[str | None, Said("The input, or inner tensor, to explain.", shown="the one floating-point input")] = None
    output: Annotated[str | None, Said("The output to explain.", shown="the one floating-point output")] = None
    target: Annotated[
        Target,
        Said(
            "The class: an index, a label, or 3,10,20 into scores of higher rank. Or a place: box:3 (box:* for all), point:ROW,COLUMN, "
            "class:NAME@mask, class:NAME@box:3, class:NAME@point:ROW,COLUMN.",
            shown="the predicted class",
        ),
    ] = None
    target_input: Annotated[
        str | None,
        Said(
            "How the converted model is told the class: required (by an input that is always fed), fixed (the class of --target or the "
            "predicted one is built in), or optional (by an input that need not be fed, for ONNX Runtime's own API).",
            shown="required; fixed with --target",
        ),
    ] = None
    against: Annotated[
        Against,
        Said(
            "Explain what speaks for the class rather than for this one (an index, a label, or runner-up: the best of the others): their "
            "scores' difference.",
            shown="nothing: the score of the class alone",
        ),
    ] = None
    against_weight: Annotated[
        float | None, Said("How much the score of --against counts in that difference (gamma of Finer-CAM).", shown="1")
    ] = None
    score: Annotated[
        str | None,
        Said(
            "What of the output is explained: logit (a final softmax or sigmoid is cut), probability, raw, or cosine (how alike "
            "the embedding is to another one).",
            shown="logit",
        ),
    ] = None
    pooling: Annotated[
        str | None,
        Said(
            "How the vectors of tokens become one embedding, for --score cosine: mean (of those that the mask shows) or first.",
            shown="as 1_Pooling/config.json beside the model says",
        ),
    ] = None
    reference: np.ndarray | None = None
    layer: Annotated[
        str | Sequence[str] | None,
        Said(
            "The target layer, of methods that have one: the name of a node or tensor (of several, with commas: gradcam adds their maps).",
            shown="the last that fits; of a box, of each scale",
        ),
    ] = None
    prefix: Annotated[str, Said("Put before every name that is added to the model.")] = ""
    runs_on: Annotated[
        str | None,
        Said("Where the converted file is meant to run: cpu, cuda or any. Its maps are the same in every place, its speed is not.", "any"),
    ] = None
    black: np.ndarray | None = None
    white: np.ndarray | None = None
    quantize: Annotated[int | None, Said("Floor each saliency map to this many levels (heat quantization); the attribution stays.")] = None
    components: Annotated[bool, Said("Add an output for each part of the explanation.")] = False
    batched: Annotated[
        bool | None,
        Said(
            "Whether the first axis of the inputs and of the scores counts samples, or all that is fed is one sample.",
            shown="as the model shows",
        ),
    ] = None
    layout: Annotated[
        str | None,
        Said(
            "NCHW or NHWC: what the axes of the explained picture are; NCL, NLC of a series, NCDHW and so on.", shown="as the model uses it"
        ),
    ] = None
    example: Annotated[
        Example,
        Said(
            "A picture, .npy or .npz of the kind that the model is fed with, to see in a run what the model does not tell.",
            shown="random input",
        ),
    ] = None
    grid: Annotated[
        Sequence[int] | str | None,
        Said(
            "Height and width of the picture in tokens, for a target layer of tokens (for rise: cells along each side of a mask).",
            shown="as the graph shows",
        ),
    ] = None
    tokens: Annotated[
        bool, Said("Explain the patches that a picture is cut into (the patch embedding of a vision transformer), not its pixels.")
    ] = False
    labels: Annotated[Sequence[str] | None, Said("Names of the classes.", shown="those beside the model")] = None
    preprocess: Annotated[
        Preprocess | None,
        Said(
            "How pictures become the model's input: " + ", ".join(PRESETS) + " (each as NAME or NAME:SIZE); or a file: a .toml, Hugging "
            "Face's preprocessor_config.json, timm's config.json.",
            shown="the one beside the model",
        ),
    ] = None
    providers: Annotated[Providers, Said("ONNX Runtime's execution provider; 'cuda,cpu' accepts the CPU where there is no GPU.")] = None
    tf32: Annotated[bool, Said("Let CUDA round float32 to TF32 (10 bits of mantissa): faster, and a map may be far off.")] = False
    threads: Annotated[
        int | None, Said("Threads of the CPU that one run takes; give 1 to each of several processes.", shown="one for each core")
    ] = None
    batch_size: Annotated[int | None, Said("Samples in one run.")] = None
    fixed_batch: int | None = None
    parameters: Annotated[
        Mapping[str, Any],
        Said("A parameter of the method (`onnxsal methods NAME`); --n-steps 25 is the same as -p n_steps=25."),
    ] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Source,
        method: str | Path | Method | None = None,
        *,
        input: str | None = None,
        output: str | None = None,
        target: Target = None,
        target_input: str | None = None,
        against: Against = None,
        against_weight: float | None = None,
        score: str | None = None,
        pooling: str | None = None,
        reference: np.ndarray | None = None,
        layer: str | Sequence[str] | None = None,
        prefix: str = "",
        runs_on: str | None = None,
        black: np.ndarray | None = None,
        white: np.ndarray | None = None,
        quantize: int | None = None,
        components: bool = False,
        batched: bool | None = None,
        layout: str | None = None,
        example: Example = None,
        grid: Sequence[int] | str | None = None,
        tokens: bool = False,
        labels: Sequence[str] | None = None,
        preprocess: Preprocess | str | os.PathLike[str] | None = None,
        providers: Providers = None,
        tf32: bool = False,
        threads: int | None = None,
        batch_size: int | None = None,
        fixed_batch: int | None = None,
        **parameters: Any,
    ) -> Ask:
        """The one place where all of it is spelled; what is left over is the method's. ``preprocess`` may be the name of a preset
        ("imagenet") or a file.
        """
        given = dict(locals())
        if preprocess is not None:
            given["preprocess"] = preprocess_from(preprocess, model, layout)
        return given.pop("cls")(**given)

    def __post_init__(self) -> None:
        for name, what in (("batch_size", "samples"), ("fixed_batch", "samples"), ("threads", "threads")):
            size = getattr(self, name)
            if size is not None and (isinstance(size, bool) or not isinstance(size, Integral) or size < 1):
                raise InputError(f"{name}={size!r} is not a number of {what}; give a whole number of 1 or more.")
        if None not in (self.batch_size, self.fixed_batch) and self.batch_size != self.fixed_batch:
            raise InputError(f"batch_size={self.batch_size} and fixed_batch={self.fixed_batch} differ: give one of them.")
        if self.runs_on is not None and self.runs_on not in RUNS_ON:
            raise InputError(f"runs_on={self.runs_on!r} is no place where files run; give one of {', '.join(RUNS_ON)}.")

    @property
    def name(self) -> str:
        """The model's file, without its folder; '' where it is none."""
        return Path(self.model).name if isinstance(self.model, str | os.PathLike) else ""

    @cached_property
    def chosen(self) -> Method:
        """The method. Raises ``MethodError``."""
        return get_method(DEFAULT_METHOD if self.method is None else self.method)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The boxes, pixels or masks that the target names; none where it names classes. Raises ``TargetError``."""
        return places_of(self.target, self.labels)

    @property
    def given(self) -> dict[str, Any]:
        """What is given beside the model, the method and its parameters."""
        return {name: value for name, default in DEFAULTS.items() if _differs(value := getattr(self, name), default)}

    @property
    def edges(self) -> dict[str, np.ndarray | None]:
        """The values of a black and of a white pixel in the model's input, where they are known."""
        known = {} if self.preprocess is None else {"black": self.preprocess.black(), "white": self.preprocess.white()}
        return {"black": None, "white": None} | known | {k: v for k, v in self.given.items() if k in ("black", "white")}

    @property
    def options(self) -> dict[str, Any]:
        """What is given beside the model and the method, without how the model is run and fed."""
        return {k: v for k, v in self.given.items() if k not in (*RUN, *FED)} | dict(self.parameters)

    @property
    def told(self) -> dict[str, Any]:
        """Everything beside the model and the method that decides what a map is: the options, and the colours."""
        return self.options | {k: v for k, v in self.edges.items() if v is not None}

    @property
    def resolved(self) -> Resolved:
        """The execution providers, by their official names. Raises ``ProviderError``."""
        return resolve(self.providers, self.tf32)

    def on(self, providers: Providers) -> Ask:
        """The same on providers whose options are settled, such as those that a session obtained."""
        return replace(self, providers=providers, tf32=False)

    @property
    def at_rest(self) -> Ask:
        """The same for a verb that runs nothing: without how the model is run."""
        return replace(self, **{name: DEFAULTS[name] for name in RUN})

    def by(self, method: str | Path | Method | None, parameters: Mapping[str, Any]) -> Ask:
        """The same by one of several methods: ``parameters`` are its own, or fields that it has for itself.

        ``layer`` and ``grid``, asked of all, are not asked of a method that has no use for them.
        """
        own = {k: v for k, v in parameters.items() if k in DEFAULTS}
        rest = {k: v for k, v in parameters.items() if k not in DEFAULTS}
        idle = () if method is None else tuple(n for n in OF_LAYERS if n not in own and not takes(get_method(method), n))
        fields: dict[str, Any] = dict.fromkeys(idle) | own
        return replace(self, method=method, parameters={**self.parameters, **rest}, **fields)

    def without(self, verb: str, *names: str) -> Ask:
        """The same for a verb that has no use for some fields; one that the method has a parameter for is the method's.

        Raises ``MethodError`` for any other that is given.
        """
        idle = {k: v for k, v in self.given.items() if k in names}
        if not idle:
            return self
        method = self.chosen
        if wrong := [k for k in idle if k not in method.names]:
            raise MethodError(f"{verb} has no use for {', '.join(f'{k}={idle[k]!r}' for k in wrong)}. Leave it out.")
        return replace(self, parameters={**self.parameters, **idle}, **{k: DEFAULTS[k] for k in idle})


DEFAULTS = {f.name: f.default for f in fields(Ask) if f.default is not MISSING and f.name != "method"}
"""What can be given beside the model, the method and its parameters -> what stands for not given."""


def _differs(value: Any, default: Any) -> bool:
    return value is not None if default is None else bool(value != default)


def takes(method: Method, name: str) -> bool:
    """Whether ``layer`` or ``grid`` mean something to a method."""
    return "layer" in method.parameters or name in method.parameters


# ----- verbs -----

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class Spelled(Generic[P]):
    """Turns a verb that takes an ``Ask`` into one that is called with everything in it spelled out, for people and for type checkers."""

    def __init__(self, of: Callable[P, Ask]) -> None:
        self._of = of

    def function(self, verb: Callable[[Ask], T]) -> Callable[P, T]:
        """A function of an ``Ask``, as one of its fields."""

        @wraps(verb)
        def spelled(*given: P.args, **named: P.kwargs) -> T:
            return verb(self._of(*given, **named))

        return self._signed(spelled, verb, [])

    def method(self, verb: Callable[[S, Ask], T]) -> Callable[Concatenate[S, P], T]:
        """A method of an object and an ``Ask``, as one of its fields."""

        @wraps(verb)
        def spelled(own: S, /, *given: P.args, **named: P.kwargs) -> T:
            return verb(own, self._of(*given, **named))

        return self._signed(spelled, verb, [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)])

    def _signed(self, spelled: T, verb: Callable[..., Any], first: list[inspect.Parameter]) -> T:
        """With the signature of ``Ask.of``, and the verb's result."""
        every, result = [*first, *inspect.signature(self._of).parameters.values()], inspect.signature(verb).return_annotation
        annotations = {p.name: p.annotation for p in every if p.annotation is not p.empty} | {"return": result}
        vars(spelled).update(__signature__=inspect.Signature(every, return_annotation=result))
        spelled.__annotations__ = annotations
        return spelled


spelled = Spelled(Ask.of)


R = TypeVar("R", covariant=True)


class OfGiven(Protocol[P, R]):
    """A verb of a model and of what is given to it, called with everything in an ``Ask`` spelled out."""

    def __call__(self, model: Source, given: Any = None, *args: P.args, **named: P.kwargs) -> R: ...


def with_given(of: Callable[Concatenate[Source, P], Ask], own: Mapping[str, Any]) -> Callable[[Callable[..., R]], OfGiven[P, R]]:
    """As ``spelled``, for a verb that takes an ``Ask``, what is ``given``, and keywords of its ``own``, by their defaults."""

    def signed(verb: Callable[..., R]) -> OfGiven[P, R]:
        @wraps(verb)
        def called(model: Source, given: Any = None, *args: P.args, **named: P.kwargs) -> R:
            mine = {k: named.pop(k) for k in own if k in named}
            return verb(of(model, *args, **named), given, **mine)

        every = list(inspect.signature(of).parameters.values())
        kinds = inspect.Parameter
        added = [kinds(k, kinds.KEYWORD_ONLY, default=default, annotation=Any) for k, default in own.items()]
        asked = [*every[:1], kinds("given", kinds.POSITIONAL_OR_KEYWORD, default=None, annotation=Any), *every[1:-1], *added, every[-1]]
        result = inspect.signature(verb).return_annotation
        vars(called).update(__signature__=inspect.Signature(asked, return_annotation=result))
        return called

    return signed
