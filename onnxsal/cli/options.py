"""Options that several verbs share, and what they mean together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import typer

from onnxsal.cli.parameters import read_parameters
from onnxsal.engine.method import Method, get_method
from onnxsal.errors import InputError, MethodError, TargetError
from onnxsal.facade.convert import DEFAULT_METHOD
from onnxsal.graph.load import read_metadata
from onnxsal.runtime.beside import beside, from_metadata
from onnxsal.runtime.labels import find_label, load_labels
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import load_preprocess

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model.", show_default=False)]
MethodName = Annotated[
    str | None, typer.Option("--method", "-m", help="How to explain; `onnxsal methods` lists what there is.", show_default=DEFAULT_METHOD)
]
Rules = Annotated[Path | None, typer.Option(help="A method of your own: a TOML file like those in rules/.", show_default=False)]
Input = Annotated[str | None, typer.Option(help="The input, or inner tensor, to explain.", show_default="the one floating-point input")]
Output = Annotated[str | None, typer.Option(help="The output to explain.", show_default="the one floating-point output")]
Layout = Annotated[
    str | None, typer.Option(help="NCHW or NHWC: what the axes of the explained picture are.", show_default="as the model uses it")
]
Grid = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Height and width of the picture in tokens, for a target layer of tokens (for rise: cells along each side of a mask).",
        show_default="as the graph shows",
    ),
]
Batched = Annotated[
    bool | None,
    typer.Option(
        "--batched/--one-sample",
        help="Whether the first axis of the inputs and of the scores counts samples, or all that is fed is one sample.",
        show_default="as the model shows",
    ),
]
Score = Annotated[
    str | None,
    typer.Option(
        help="What of the output is explained: logit (a final softmax or sigmoid is cut), probability or raw.", show_default="logit"
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target", "-t", help="The class: an index, a label, or 3,10,20 into scores of higher rank.", show_default="the predicted class"
    ),
]
TargetInput = Annotated[
    str | None,
    typer.Option(
        help="How the converted model is told the class: required (by an input that is always fed), fixed (the class of --target or the "
        "predicted one is built in), or optional (by an input that need not be fed, for ONNX Runtime's own API).",
        show_default="required; fixed with --target",
    ),
]
Prefix = Annotated[str, typer.Option(help="Put before every name that is added to the model.", show_default=False)]
PreprocessFile = Annotated[
    Path | None,
    typer.Option(
        help="How pictures become the model's input: a .toml, Hugging Face's preprocessor_config.json or timm's config.json.",
        show_default="the one beside the model",
    ),
]
LabelsFile = Annotated[Path | None, typer.Option(help="Names of the classes.", show_default="those beside the model")]
Provider = Annotated[str, typer.Option(help="ONNX Runtime's execution provider; 'cuda,cpu' accepts the CPU where there is no GPU.")]
Tf32 = Annotated[
    bool, typer.Option("--tf32", help="Let CUDA round float32 to TF32 (10 bits of mantissa): faster, and a map may be far off.")
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter of the method (`onnxsal methods NAME`); --n-steps 25 is the same as -p n_steps=25.",
        show_default=False,
    ),
]
Quantize = Annotated[
    int | None,
    typer.Option(min=2, help="Floor each saliency map to this many levels (heat quantization); the attribution stays.", show_default=False),
]
Components = Annotated[bool, typer.Option("--components", help="Add an output for each part of the explanation.")]
On = Annotated[
    list[Path] | None,
    typer.Option(
        "--on",
        help="A picture, .npy or .npz of the kind that the model is fed with, to see in a run what the model does not tell "
        "(check --conservation: several).",
        show_default="random input",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.")]

HOW_TO_PREPROCESS = """\
How its pictures are prepared is not in a model file, and is never guessed. Give --preprocess FILE, or put one beside the model: \
Hugging Face's preprocessor_config.json, timm's config.json, or '{stem}.toml' with, for example:
  layout = "NCHW"
  channels = "RGB"
  resize = [224, 224]
  scale = 0.00392156862745098   # pixels 0..255 to 0..1, which mean and std refer to
  mean = [0.485, 0.456, 0.406]
  std = [0.229, 0.224, 0.225]"""


@dataclass(frozen=True)
class Feeding:
    """How a model is fed with pictures and what its classes are called, as far as is known."""

    model: Path
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None

    @property
    def required(self) -> Preprocess:
        """The preprocessing, or the error that says how to give it."""
        if self.preprocess is None:
            raise InputError(f"no preprocessing is known for model '{self.model}'. {HOW_TO_PREPROCESS.format(stem=self.model.stem)}")
        return self.preprocess

    @property
    def black(self) -> np.ndarray | None:
        """A black pixel in the model's input."""
        return None if self.preprocess is None else self.preprocess.black()

    @property
    def white(self) -> np.ndarray | None:
        """A white pixel in the model's input."""
        return None if self.preprocess is None else self.preprocess.white()

    def target(self, text: str | None) -> int | tuple[int, ...] | None:
        """The class that ``--target`` names: an index, an index of higher rank, or a label."""
        if text is None:
            return None
        words = text.strip().strip("()[]").split(",")
        try:
            index = tuple(int(word) for word in words)
            return index[0] if len(index) == 1 else index
        except ValueError:
            pass
        if self.labels is None:
            raise TargetError(f"target '{text}' is not an index, and no labels are known for '{self.model}': give --labels FILE.")
        return find_label(self.labels, text)


def feeding(model: Path, preprocess: Path | None = None, labels: Path | None = None) -> Feeding:
    """What the options say, else what lies beside the model, else what a converted model carries."""
    if preprocess is not None and labels is not None:
        return Feeding(model, load_preprocess(preprocess), tuple(load_labels(labels)))
    found = beside(model)
    if (found.preprocess is None or found.labels is None) and model.is_file():
        found = from_metadata(found, read_metadata(model), model)
    return Feeding(
        model,
        found.preprocess if preprocess is None else load_preprocess(preprocess),
        found.labels if labels is None else tuple(load_labels(labels)),
    )


def example_of(files: Sequence[Path] | None, feed: Feeding) -> np.ndarray | dict[str, np.ndarray] | None:
    """What ``--on`` names, as the model is fed: an array, arrays by input, or a picture prepared."""
    if not files:
        return None
    if len(files) > 1:
        raise InputError("more than one --on goes with check --conservation only.")
    (file,) = files
    try:
        if file.suffix.lower() == ".npy":
            return np.asarray(np.load(file, allow_pickle=False))
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise InputError(f"data '{file}' cannot be read: {error}. Give a picture, or a .npy or .npz file.") from error
    return feed.required.normalise(feed.required.display(file)[None])


def chosen_method(name: str | None, rules: Path | None) -> Method | None:
    """The method that is asked for, or ``None``."""
    if name is not None and rules is not None:
        raise MethodError(f"--method {name} and --rules {rules} were both given; a rule file is a method of its own, so give one of them.")
    if rules is not None and rules.suffix != ".toml":
        raise MethodError(f"rule file '{rules}' is not a .toml file.")
    asked = name if rules is None else rules
    return None if asked is None else get_method(asked)


def conversion_options(
    feed: Feeding,
    parameters: Sequence[str] | None,
    input: str | None = None,
    output: str | None = None,
    score: str | None = None,
    quantize: int | None = None,
    batched: bool | None = None,
    layout: str | None = None,
    grid: str | None = None,
) -> dict[str, Any]:
    """Keywords for ``convert``: only what was given, so that a converted model is not asked to change."""
    given = {"input": input, "output": output, "score": score, "black": feed.black, "white": feed.white, "quantize": quantize}
    given |= {"batched": batched, "layout": layout, "grid": int(grid) if grid is not None and grid.isdecimal() else grid}
    return {k: v for k, v in given.items() if v is not None} | read_parameters(parameters or ())


@dataclass(frozen=True)
class Asked:
    """What a model is asked: every field is an option of each verb that ``takes_asked`` (``convert``, ``plan``, ``check``)."""

    method: MethodName = None
    rules: Rules = None
    input: Input = None
    output: Output = None
    target: Target = None
    target_input: TargetInput = None
    score: Score = None
    batched: Batched = None
    layout: Layout = None
    grid: Grid = None
    prefix: Prefix = ""
    components: Components = False
    quantize: Quantize = None
    preprocess: PreprocessFile = None
    labels: LabelsFile = None
    param: Parameters = None
    on: On = None

    def by(self, default: str = DEFAULT_METHOD) -> Method | str:
        """The method that is asked for, or the one that is taken where none is."""
        return chosen_method(self.method, self.rules) or default

    def feed(self, model: Path) -> Feeding:
        """How the model is fed."""
        return feeding(model, self.preprocess, self.labels)

    def keywords(self, feed: Feeding, several: bool = False) -> dict[str, Any]:
        """Keywords for ``convert``; ``several`` leaves the data of ``--on`` to the verb."""
        given: dict[str, Any] = {"target": feed.target(self.target), "prefix": self.prefix or None, "components": self.components or None}
        on = None if several else example_of(self.on, feed)
        given |= {"target_input": self.target_input, "example": on, "labels": feed.labels}
        asked = (self.input, self.output, self.score, self.quantize, self.batched, self.layout, self.grid)
        own = conversion_options(feed, self.param, *asked)
        return {k: v for k, v in given.items() if v is not None} | own


def takes_asked(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb with parameter ``asked``, as a command with the fields of ``Asked`` as options in its place."""
    hints, shared = get_type_hints(verb, include_extras=True), get_type_hints(Asked, include_extras=True)
    names = [field.name for field in fields(Asked)]

    @wraps(verb)
    def command(**given: Any) -> None:
        verb(**{k: v for k, v in given.items() if k not in names}, asked=Asked(**{k: given[k] for k in names}))

    every = []
    for one in inspect.signature(verb).parameters.values():
        own = one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name])
        options = [own.replace(name=f.name, default=f.default, annotation=shared[f.name]) for f in fields(Asked)]
        every += options if one.name == "asked" else [own]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in every}
    return command
