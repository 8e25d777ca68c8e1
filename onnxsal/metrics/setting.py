"""What a metric can be told, stated once: the type and default of a dataclass's field, and its words for the command line."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Setting:
    """Stands in the annotation of a field: ``Annotated[int, Setting("Pixels by which the game may miss.", least=0)] = 0``.

    ``option``: the option of the command, where it is not called like the field. ``least``: the smallest number. ``shown``: the default
    in words, where it says nothing by itself.
    """

    words: str
    option: str | None = None
    least: int | None = None
    shown: str | None = None


Ties = Annotated[str, Setting("How pixels of one value are ordered: random, stable or inclusive (flatters tied maps).")]
Seed = Annotated[int, Setting("Of samples, ties, noise, random weights and confidence intervals.", least=0)]


@dataclass(frozen=True)
class SettingField:
    """A setting as a metric states it: ``kind`` is the type, without ``| None`` (``optional``)."""

    name: str
    kind: Any
    optional: bool
    default: Any
    setting: Setting

    @property
    def option(self) -> str:
        """What the command calls it, as a Python name."""
        return self.setting.option or self.name

    @property
    def element(self) -> type | None:
        """The type of the members of a ``tuple[T, ...]``; ``None`` for a single value."""
        return get_args(self.kind)[0] if get_origin(self.kind) is tuple else None


@cache
def settings_in(stated: type) -> Mapping[str, SettingField]:
    """The settings of a dataclass by name; fields without a ``Setting`` are none, and are filled in by the metric.

    Raises ``TypeError`` for a setting of several types, or without a default.
    """
    hints = get_type_hints(stated, include_extras=True)
    found = {}
    for one in fields(stated):
        kind, *notes = get_args(hints[one.name]) if get_origin(hints[one.name]) is Annotated else (hints[one.name],)
        for setting in (note for note in notes if isinstance(note, Setting)):
            alone = [t for t in get_args(kind) if t is not types.NoneType] if get_origin(kind) in (Union, types.UnionType) else [kind]
            if len(alone) != 1:
                raise TypeError(f"{stated.__name__}.{one.name}: a setting is of one type, or of one type and None; not {kind}.")
            if one.default is MISSING:
                raise TypeError(f"{stated.__name__}.{one.name}: a setting has a default.")
            found[one.name] = SettingField(one.name, alone[0], alone != [kind], one.default, setting)
    return found
