"""Several inputs of a model whose features are replaced together: one set of groups over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsal.ask.question import COUNTED, varying
from onnxsal.errors import MethodError, TargetError, near_miss
from onnxsal.facts.axes import picture_of
from onnxsal.facts.tokens import tokens_of
from onnxsal.graph import FLOATS, Value
from onnxsal.graph.helpers import add_up
from onnxsal.methods.build import Build
from onnxsal.methods.elements import Size, as_scalar, plus, replaceable
from onnxsal.methods.groups import Groups, as_array, groups_of, of_numbers

BY_INPUT = ("baseline", "background", "groups")
"""Settings that may be tables with an entry for each input."""


@dataclass(frozen=True)
class Replaced:
    """One input: ``build`` as if it alone were explained, its ``groups`` (whose numbers, count and sizes are those of all inputs), and the
    tensor ``x`` whose elements are replaced.
    """

    build: Build
    groups: Groups
    x: Value

    @property
    def name(self) -> str:
        return self.build.question.x.name


def replaced_of(build: Build) -> list[Replaced]:
    """The explained input, then those that the setting ``with_inputs`` names. Raises ``MethodError`` and ``TargetError``."""
    names = list(build.settings["with_inputs"])
    _refuse_tables(build, [build.question.x.name, *names])
    views = [_view(build, build.question.x), *(_view(build, _other(build, name, names)) for name in names)] if names else [build]
    found = [Replaced(view, groups, replaceable(view)) for view, groups in zip(views, _together(build, views), strict=True)]
    for setting in ("baseline", "groups"):  # as they can be written down
        if isinstance(given := build.settings.get(setting), Mapping):
            build.settings[setting] = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in given.items()}
    return found


def _refuse_tables(build: Build, names: Sequence[str]) -> None:
    """Tables are for several inputs, and name these."""
    for setting in (s for s in BY_INPUT if isinstance(build.settings.get(s), Mapping)):
        for name in build.settings[setting]:
            if len(names) == 1 or name not in names:
                known = ", ".join(names) if len(names) > 1 else "none: with_inputs is empty"
                raise MethodError(
                    f"method '{build.method.name}': {setting} names the input '{name}'{near_miss(str(name), names)}; those that are "
                    f"replaced together: {known}."
                )


def _other(build: Build, name: str, names: Sequence[str]) -> Value:
    """An input that is replaced beside the explained one."""
    question = build.question
    model, value = question.model, question.model.value(name)
    if name not in model.types or name in model.initializers or not varying(model, name):
        known = ", ".join(model.input_names)
        raise TargetError(f"with_inputs: '{name}' is no input of the model{near_miss(name, model.input_names)}; its inputs: {known}.")
    if names.count(name) > 1 or name == question.x.name:
        raise TargetError(f"with_inputs: '{name}' is explained already.")
    if value.dtype not in FLOATS | COUNTED or value.shape is None:
        raise TargetError(f"with_inputs: '{name}' holds no numbers, or its number of axes is not known.")
    if question.batched and name in model.input_names and name not in question.samples:
        raise TargetError(f"with_inputs: the first axis of '{name}' does not count samples, as that of '{question.x.name}' does.")
    return value


def _view(build: Build, x: Value) -> Build:
    """The build as if ``x`` were explained, with its own entries of the settings, and names of its own for what is added."""
    model, main = build.question.model, x.name == build.question.x.name
    question = build.question if main else replace(build.question, x=x, picture=picture_of(model, x), tokens=tokens_of(model, x))
    settings = dict(build.settings)
    for setting in BY_INPUT:
        given = settings.get(setting)
        if isinstance(given, Mapping):
            settings[setting] = given.get(x.name, "")
    name = build.name if main else lambda name: build.name(f"{name}/{x.name}")
    return replace(build, question=question, settings=settings, name=name)


def _together(build: Build, views: Sequence[Build]) -> list[Groups]:
    """The groups of each input, numbered on from those before; where ``groups`` is a table, equal numbers are one group in all inputs."""
    if len(views) == 1:
        return [groups_of(views[0])]
    op, given = build.op, build.settings["groups"]
    named: dict[str, np.ndarray] = {}
    for view in views if isinstance(given, Mapping) else ():
        if view.question.x.name in given:
            named[view.question.x.name] = as_array(view, given[view.question.x.name])
    known = np.unique(np.concatenate([a.reshape(-1) for a in named.values()])) if named else np.zeros(0, np.int64)
    found: dict[str, Groups] = {}
    for view in views:
        name = view.question.x.name
        found[name] = of_numbers(view, named[name], known) if name in named else groups_of(view)
    before: Size = len(known)
    sizes = [add_up(op, [found[name].sizes for name in named])] if named else []
    moved: list[Groups] = []
    for name, groups in found.items():
        if name not in named:
            index = groups.index if isinstance(before, int) and before == 0 else op.Add(groups.index, as_scalar(op, before))
            before, groups = plus(op, before, groups.count), replace(groups, index=index)
            sizes.append(groups.sizes)
        moved.append(groups)
    every = op.Concat(*sizes, axis=0) if len(sizes) > 1 else sizes[0]
    return [replace(groups, count=before, sizes=every, what="group") for groups in moved]


def also_return(build: Build, others: Sequence[Replaced], what: str, values: Value) -> None:
    """What each of the other inputs is told, in its shape: outputs ``<what>/<input>``."""
    for one in others:
        spread = one.groups.spread(one.build, values)
        build.components.append(build.told(f"{what}/{one.name}", spread, build.op.dtype, one.build.question.x.shape))
