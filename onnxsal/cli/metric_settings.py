"""The settings of metrics as options of a command: each metric states its own, and nothing here lists them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from onnxsal.errors import MethodError
from onnxsal.metrics.measures import MEASURES, Settings, settings_of
from onnxsal.metrics.setting import SettingField


def takes_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb with parameter ``settings``, as a command with an option for each setting of each metric in its place."""
    known = settings_of(list(MEASURES.values()))
    parameters = inspect.signature(verb, eval_str=True).parameters
    taken = {p.name for p in parameters.values() if p.name != "settings"}
    options = {}
    for name, field in known.items():
        if field.option not in taken:
            options[name] = _option(field)
            taken.add(field.option)

    @wraps(verb)
    def command(**given: Any) -> None:
        if missing := [field for name, field in known.items() if name not in options]:  # of another package: ours have one
            raise MethodError(f"setting '{missing[0].name}' of a metric needs an option of another name: --{missing[0].option} is taken.")
        told = {name: _read(known[name], given.pop(option.name)) for name, option in options.items()}
        verb(**given, settings=Settings(**told))

    every = []
    for one in parameters.values():
        every += list(options.values()) if one.name == "settings" else [one.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in every}
    return command


def _option(field: SettingField) -> inspect.Parameter:
    """A setting as a parameter that typer reads; several numbers are one text, separated by commas."""
    several = field.element is not None
    kind = str if several else field.kind
    shown = field.setting.shown or (",".join(map(str, field.default)) if several and field.default is not None else True)
    info = typer.Option(help=field.setting.words, min=field.setting.least, show_default=shown)
    optional = field.optional or several
    annotation = Annotated[(kind | None) if optional else kind, info]  # type: ignore[valid-type]
    default = None if several else field.default
    return inspect.Parameter(field.option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _read(field: SettingField, given: Any) -> Any:
    """What an option says, as the setting is typed."""
    if field.element is None:
        return given
    if given is None:
        return field.default
    try:
        return tuple(field.element(word) for word in given.split(","))
    except ValueError as error:
        hint = f"--{field.option.replace('_', '-')}"
        raise typer.BadParameter(f"'{given}' are not numbers separated by commas.", param_hint=hint) from error
