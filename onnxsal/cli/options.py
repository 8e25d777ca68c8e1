"""The options that verbs share: each is a field of ``Ask``, in its own words, and read here from the words of the command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import typer

from onnxsal.ask.place import places_of
from onnxsal.ask.question import RUNNER_UP
from onnxsal.ask.request import DEFAULTS, Ask
from onnxsal.cli import completion
from onnxsal.cli.parameters import read_parameters
from onnxsal.cli.shell import say
from onnxsal.engine.method import Method, get_method
from onnxsal.engine.method_words import family_note
from onnxsal.errors import InputError, MethodError, TargetError
from onnxsal.given.prepared import known_of, preprocess_of
from onnxsal.graph.load import refuse_absent
from onnxsal.runtime.arrays import read_array
from onnxsal.runtime.labels import find_label

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.")]


def target_of(text: str, ask: Ask) -> int | tuple[int, ...] | str | list[str]:
    """The class that ``--target`` names: an index, an index of higher rank, a label, or a place or several."""
    spelled = re.split(r",(?=(?:box|point)[: ]|class:)", text.strip())
    if places_of(spelled, ask.labels):
        return spelled[0] if len(spelled) == 1 else spelled
    words = text.strip().strip("()[]").split(",")
    try:
        index = tuple(int(word) for word in words)
        return index[0] if len(index) == 1 else index
    except ValueError:
        pass
    if ask.labels is None:
        raise TargetError(f"target '{text}' is not an index, and no labels are known for '{Path(str(ask.model))}': give --labels FILE.")
    return find_label(ask.labels, text)


def example_of(files: Sequence[Path], ask: Ask) -> np.ndarray | dict[str, np.ndarray]:
    """What ``--example`` names, as the model is fed: an array, arrays by input, or a picture prepared."""
    if len(files) > 1:
        raise InputError("more than one --example goes with check --conservation only.")
    (file,) = files
    if file.suffix.lower() in (".npy", ".npz"):
        example: np.ndarray | dict[str, np.ndarray] = read_array(file)
        return example
    prepared = preprocess_of(ask, file)
    return prepared.normalise(prepared.display(file)[None])


def chosen_method(name: str | None, rules: Path | None) -> Method | None:
    """The method that is asked for, or ``None``."""
    if name is not None and rules is not None:
        raise MethodError(f"--method {name} and --rules {rules} were both given; a rule file is a method of its own, so give one of them.")
    if rules is not None and rules.suffix != ".toml":
        raise MethodError(f"rule file '{rules}' is not a .toml file.")
    asked = name if rules is None else rules
    method = None if asked is None else get_method(asked)
    if name is not None and method is not None and (note := family_note(name, method.name)):
        say(note)
    return method


@dataclass(frozen=True)
class Word:
    """How the command line spells a field: the type of its word, how that is read (with the model, its preprocessing and its labels), the
    names of the option, what stands for the word in the help ('' = as the field's), and what a shell offers for it.
    """

    kind: Any
    read: Callable[[Any, Ask], Any] = lambda word, ask: word
    names: str = ""
    metavar: str | None = None
    default: Any = None
    offered: Callable[[str], list[str]] | None = None


PLAIN = Word(None)

WORDS = {
    "method": Word(str | None, names="--method -m", offered=completion.one_method),
    "target": Word(str | None, target_of, "--target -t"),
    "against": Word(str | None, lambda word, ask: word if word == RUNNER_UP else target_of(word, ask)),
    "batched": Word(bool | None, names="--batched/--one-sample"),
    "example": Word(list[Path] | None, example_of, "--example --on"),
    "grid": Word(str | None, lambda word, ask: int(word) if word.isdecimal() else word, metavar="HxW"),
    "labels": Word(Path | None),
    "layer": Word(str | None),
    "preprocess": Word(str | None, metavar="PRESET|FILE", offered=completion.one_preset),
    "runs_on": Word(str | None, names="--for"),
    "providers": Word(str, names="--provider", default="cpu", offered=completion.several_providers),
    "parameters": Word(list[str] | None, lambda word, ask: read_parameters(word), "--param -p", "NAME=VALUE"),
}
"""Fields of ``Ask`` whose word has another type or another name; all others are spelled as they are."""

SAID = {name: hint for name, hint in get_type_hints(Ask, include_extras=True).items() if get_origin(hint) is Annotated}
"""Fields that are options, with their type and their words."""

RULES = Annotated[Path | None, typer.Option("--rules", help="A method of your own: a TOML file like those in rules/.", show_default=False)]


def asked(words: Mapping[str, Any]) -> Ask:
    """The request that words make, by field; those that are ``None`` are not given."""
    given = {name: word for name, word in words.items() if word is not None}
    refuse_absent(model := given.pop("model"))
    method = chosen_method(given.pop("method", None), given.pop("rules", None))
    known = known_of(model, given.pop("preprocess", None), given.pop("labels", None), given.get("layout"))
    if known.note:
        say(known.note)
    ask = Ask(model, method, preprocess=known.preprocess, labels=known.labels)
    return replace(ask, **{name: WORDS[name].read(word, ask) if name in WORDS else word for name, word in given.items()})


def option(name: str, default: Any = None, spelled: str = "") -> Any:
    """The option of a field, for typer; ``default`` is the verb's own, as are its names where it is ``spelled`` otherwise."""
    said, word = SAID[name].__metadata__[0], WORDS.get(name, PLAIN)
    names = (spelled or word.names).split() or [f"--{name.replace('_', '-')}"]
    shown = said.shown or (default or word.default) is not None
    return typer.Option(*names, help=said.words, show_default=shown, metavar=word.metavar, autocompletion=word.offered)


def _spelled(name: str, default: Any, spelled: str) -> inspect.Parameter:
    """The parameter of a command that is a field's option."""
    kind = WORDS[name].kind if name in WORDS else get_args(SAID[name])[0]
    taken = (WORDS[name].default if name in WORDS else DEFAULTS[name]) if default is None else default
    return _parameter(name, Annotated[kind, option(name, default, spelled)], taken)


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def takes_ask(
    without: Sequence[str] = (),
    only: Sequence[str] | None = None,
    model: Callable[[Path | None], Path] | None = None,
    spelled: Mapping[str, str] | None = None,
    **own: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command of a verb with a parameter ``ask``: the model is its first argument, the fields of ``Ask`` are options.

    All of these but those ``without``, or ``only`` some; ``own`` are the verb's own defaults; ``model`` finds one where none is named;
    ``spelled``: names of options that differ from the usual ones, as another option of the verb has one of these.
    """
    names = [n for n in SAID if n != "model" and n not in without and (only is None or n in only)]
    options = [_spelled(n, own.get(n), (spelled or {}).get(n, "")) for n in names]
    if "method" in names:
        options.insert(1, _parameter("rules", RULES))
    words = {"model", *(option.name for option in options)}

    def command_of(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:
            said = {k: v for k, v in given.items() if k in words}
            if model is not None:
                said["model"] = model(said["model"])
            verb(**{k: v for k, v in given.items() if k not in words}, ask=asked(said))

        hints, every = get_type_hints(verb, include_extras=True), [_model(model)]
        for one in inspect.signature(verb).parameters.values():
            every += options if one.name == "ask" else [one.replace(kind=one.KEYWORD_ONLY, annotation=hints[one.name])]
        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in every}
        return command

    return command_of


def _model(found: Callable[[Path | None], Path] | None) -> inspect.Parameter:
    """The argument that names the model; where one is ``found`` without it, it may be left out."""
    text, metavar = (SAID["model"].__metadata__[0].words, "MODEL") if found is None else (found.__doc__, "[MODEL]")
    argument = typer.Argument(metavar=metavar, help=text, show_default=False)
    if found is None:
        return _parameter("model", Annotated[Path, argument], inspect.Parameter.empty)
    return _parameter("model", Annotated[Path | None, argument])
