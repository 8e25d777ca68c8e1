"""What a method's table is made of: rows that match nodes, and parameters. Reading one notes every mistake, with file and row."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

from onnxsal.backward import RULES
from onnxsal.engine.table_schema import wrong_types, wrong_value
from onnxsal.errors import near_miss
from onnxsal.facts.folds import NORMALISERS
from onnxsal.facts.gates import FACTORS
from onnxsal.graph import NodeView
from onnxsal.ops.registry import FAMILIES

MATCH_KEYS = ("op", "family", "position", "name", "tag")
POSITIONS = ("first", "inner", "last")
PARAMETER_KEYS = ("default", "doc", "choices", "aliases", "kind", "minimum")
KINDS: dict[str, type | tuple[type, ...]] = {
    "true or false": bool,
    "a whole number": Integral,
    "a number": Real,
    "a word": str,
    "a list of names": (list, tuple),
    "anything": object,
}

RESCALINGS = {
    "none": "as it is",
    "max": "over the largest absolute value of each sample",
    "sum": "over the sum of absolute values of each sample",
    "range": "(v - smallest) / (largest - smallest) of each sample",
}
"""How a part of a method made of others is brought to scale before it is put together with them; a part that is 0 everywhere stays 0."""

WRAPS: list[str] = []
"""What a method's ``wrap`` may be: filled where wrappers are registered (``methods/``), which is above this room."""

RowKind = Literal["rule", "refuse", "normalise", "constant"]


@dataclass(frozen=True)
class RuleRow:
    """One ``[[rule]]``, ``[[refuse]]``, ``[[normalise]]`` or ``[[constant]]`` row: what it matches, and the rule or pass to use or the
    reason to refuse. ``factor``: the factors of the node that are held constant (none named: all that comes into it).

    It counts only with the settings that ``when`` names. A rule's parameter ``"$name"`` is the method's parameter of that name.
    ``always``: it stands before the rows of every table that extends this one. ``number`` counts the rows of its kind in the table
    ``table`` (a file).
    """

    match: dict[str, tuple[str, ...]]
    use: str = ""
    why: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    number: int = 0
    table: str = field(default="", compare=False)
    always: bool = False
    factor: tuple[str, ...] = ()

    def counts(self, settings: Mapping[str, Any]) -> bool:
        """Whether the settings are those that the row is for."""
        return all(settings.get(name) in values for name, values in self.when.items())

    def bound(self, settings: Mapping[str, Any]) -> RuleRow:
        """The row with the settings in place of the names of the method's parameters."""
        return replace(self, parameters={k: settings[v[1:]] if refers(v) else v for k, v in self.parameters.items()}, when={})

    def fixed(self, values: Mapping[str, Any]) -> RuleRow:
        """The row with values in place of some of the method's parameters, which are none any more."""
        own = {k: values[v[1:]] if refers(v) and v[1:] in values else v for k, v in self.parameters.items()}
        return replace(self, parameters=own, when={k: v for k, v in self.when.items() if k not in values})

    def matches(self, node: NodeView, family: str, position: str) -> bool:
        """Whether every key of the row fits the node (the values of one key are alternatives; tag ``!t`` fits nodes without t)."""
        has = {"op": {node.op_type}, "family": {family}, "position": {position}, "tag": set(node.tags)}
        for key, values in self.match.items():
            if key == "name":
                if not any(fnmatch.fnmatchcase(node.name, v) for v in values):
                    return False
            elif key == "tag" and any(v.startswith("!") and v[1:] not in has["tag"] for v in values):
                continue
            elif not has[key].intersection(values):
                return False
        return True

    @property
    def what(self) -> str:
        """What a ``[[constant]]`` row holds constant, in words."""
        where = f" of {self.text}" if self.match or self.when else ""
        return f"{', '.join(self.factor) or 'all that comes in'}{where}{f': {self.why}' if self.why else ''}"

    @property
    def text(self) -> str:
        """What the row matches, in words."""
        matched = ", ".join(f"{k}={'|'.join(v)}" for k, v in self.match.items()) or "every other node"
        only = " and ".join(f"{k}={'|'.join(map(str, v))}" for k, v in self.when.items())
        return f"{matched} (with {only})" if only else matched


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method: its default, what it means, its closed set of values if it has one, else their kind and minimum.

    The kind is that of the default, unless the table says ``kind = "anything"``.
    """

    default: Any
    doc: str
    choices: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()
    kind: str = "anything"
    minimum: float | None = None

    def problem(self, value: Any) -> str:
        """What is wrong with a value ('' = nothing)."""
        if self.choices:
            known = ", ".join(map(repr, self.choices))
            return "" if value in self.choices else f"is not one of {known}{near_miss(str(value), map(str, self.choices))}"
        if not isinstance(value, KINDS[self.kind]) or (isinstance(value, bool) and self.kind != "true or false"):
            return f"is not {self.kind}"
        if isinstance(value, list | tuple) and self.kind == "a list of names" and not all(isinstance(name, str) for name in value):
            return f"is not {self.kind}"
        low = -math.inf if self.minimum is None else self.minimum
        if isinstance(value, Real) and not low <= float(value) < math.inf:
            return "is not a finite number" if self.minimum is None else f"is not {low:g} or more"
        return ""


def refers(value: Any) -> bool:
    """Whether a row's value names a parameter of the method."""
    return isinstance(value, str) and value.startswith("$")


@dataclass
class Mistakes:
    """The mistakes of one table, in the order in which they are met; ``where`` names the table. ``baseless``: the table that it extends
    could not be read, so nobody knows which parameters there are.
    """

    where: str
    found: list[str] = field(default_factory=list)
    baseless: bool = False

    def add(self, place: str, text: str) -> None:
        self.found.append(f"{self.where}{place}: {text}")

    def unknown_keys(self, place: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
        """Note the keys of a table that mean nothing."""
        names = list(known)
        for key in table:
            if key not in names:
                self.add(place, f"unknown key '{key}'{near_miss(key, names)}; known: {', '.join(names)}.")

    def unknown_name(self, place: str, what: str, name: Any, known: Iterable[str]) -> None:
        """Note a name that means nothing."""
        names = list(known)
        self.add(place, f"unknown {what} '{name}'{near_miss(str(name), names)}; known: {', '.join(names)}.")


def sound(table: Mapping[str, Any], mistakes: Mistakes) -> dict[str, Any]:
    """The table without what is of another type than its keys want, each noted: a row that cannot be read becomes ``None`` and keeps its
    number, a value becomes '' and keeps its key, so that nothing else is missed because of it.
    """
    found = dict[str, Any](table)
    for key, value in table.items():
        if not (wrong := list(wrong_types({key: value}))):
            continue
        mistakes.found += [f"{mistakes.where}: {mistake}" for mistake in wrong]
        if key in get_args(RowKind):
            found[key] = [None if list(wrong_types({key: [row]})) else row for row in value] if isinstance(value, list) else []
        elif key in ("parameters", "fixed", "preset"):
            bad = {k for k, v in value.items() if list(wrong_types({key: {k: v}}))} if isinstance(value, dict) else set()
            found[key] = {k: v for k, v in value.items() if k not in bad} if isinstance(value, dict) else {}
            found[key] |= {k: {"default": "", "doc": ""} for k in bad} if key == "parameters" else {}
        else:
            found[key] = ""
            mistakes.baseless |= key == "extends"
    return found


def read_parameter(name: str, table: Any, base: Parameter | None, mistakes: Mistakes) -> Parameter:
    """``[parameters.NAME]``; keys that are not given are those of the base's parameter of that name."""
    place = f", parameter '{name}'"
    table = table if isinstance(table, dict) else {"default": table}
    mistakes.unknown_keys(place, table, PARAMETER_KEYS)
    inherited = {} if base is None else {k: getattr(base, k) for k in PARAMETER_KEYS}
    if mistakes.baseless:
        table = {"default": "", "doc": ""} | table  # its base may have what is missing
    if "default" not in inherited | table or "doc" not in inherited | table:
        mistakes.add(place, "needs 'default' and 'doc'.")
    given = {"default": "", "doc": ""} | inherited | {k: v for k, v in table.items() if k in PARAMETER_KEYS}
    default = given["default"]
    kind = given.get("kind") or next(kind for kind, types in KINDS.items() if isinstance(default, types))
    if kind not in KINDS:
        mistakes.unknown_name(place, "kind", kind, KINDS)
        kind = "anything"
    parameter = Parameter(
        default, given["doc"], tuple(given.get("choices", ())), tuple(given.get("aliases", ())), kind, given.get("minimum")
    )
    if problem := parameter.problem(default):
        mistakes.add(place, f"its default {default!r} {problem}.")
    return parameter


def read_row(table: Mapping[str, Any], number: int, kind: RowKind, known: Mapping[str, Parameter], mistakes: Mistakes) -> RuleRow:
    """One row of the table of a method whose parameters are ``known``."""
    place = f", [[{kind}]] row {number}"
    when = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in table.get("when", {}).items()}
    if not mistakes.baseless:
        mistakes.unknown_keys(f"{place}, 'when'", when, known)
    for setting, values in when.items():
        for value in values if setting in known else ():
            if problem := known[setting].problem(value):
                mistakes.add(f"{place}, 'when'", f"{setting} = {value!r} {problem}.")
    rest = {k: v for k, v in table.items() if k not in ("when", *MATCH_KEYS)}
    if kind == "normalise":
        mistakes.unknown_keys(place, {k: v for k, v in table.items() if k != "when"}, ("use",))
        if table.get("use") not in NORMALISERS:
            mistakes.unknown_name(place, "pass", table.get("use"), NORMALISERS)
        return RuleRow({}, use=str(table.get("use")), when=when, number=number, table=mistakes.where)
    match = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in table.items() if k in MATCH_KEYS}
    for key, names in (("family", tuple(FAMILIES)), ("position", POSITIONS)):
        for value in match.get(key, ()):
            if value not in names:
                mistakes.unknown_name(place, key, value, names)
    always = rest.pop("always", False)
    if kind == "constant":
        mistakes.unknown_keys(place, rest, ("factor", "why"))
        factor = rest.get("factor", ())
        factor = tuple(factor) if isinstance(factor, list | tuple) else (factor,)
        for value in (v for v in factor if v not in FACTORS):
            mistakes.unknown_name(place, "factor", value, FACTORS)
        return RuleRow(match, why=rest.get("why", ""), when=when, number=number, table=mistakes.where, factor=factor)
    if kind == "refuse":
        mistakes.unknown_keys(place, rest, ("why", "always"))
        return RuleRow(match, why=rest.get("why", ""), when=when, number=number, table=mistakes.where, always=always)
    use = rest.pop("use", None)
    _check_rule(use, rest, known, place, mistakes)
    return RuleRow(match, use=str(use), parameters=rest, when=when, number=number, table=mistakes.where, always=always)


def _check_rule(use: Any, given: Mapping[str, Any], known: Mapping[str, Parameter], place: str, mistakes: Mistakes) -> None:
    """Note what is wrong with a rule's name, or with the parameters it is given."""
    if use is None:
        mistakes.add(place, f"needs 'use', the name of a rule; known: {', '.join(sorted(RULES))}.")
        return
    if use not in RULES:
        mistakes.unknown_name(place, "rule", use, sorted(RULES))
        return
    mistakes.unknown_keys(place, given, (*MATCH_KEYS, "when", "use", "always", *RULES[use].parameters))
    for name, value in given.items():
        if refers(value):
            if value[1:] not in known and not mistakes.baseless:
                names = ", ".join(known) or "none"
                mistakes.add(place, f"the method has no parameter '{value[1:]}'{near_miss(value[1:], known)}; known: {names}.")
        elif name in RULES[use].kinds and (wrong := wrong_value(name, value, RULES[use].kinds[name])):
            mistakes.add(place, wrong)
