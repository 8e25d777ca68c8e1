"""Method: a TOML table that says which rule goes where, what wraps the walk, and which parameters it has."""

from __future__ import annotations

import fnmatch
import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from onnxsal.backward import RULES, Rule, find_rule
from onnxsal.errors import MethodError, near_miss
from onnxsal.facts.folds import NORMALISERS
from onnxsal.graph import NodeView
from onnxsal.ops.registry import FAMILIES

MATCH_KEYS = ("op", "family", "position", "name", "tag")
POSITIONS = ("first", "inner", "last")
METHOD_KEYS = (
    *(
        "name",
        "title",
        "source",
        "formula",
        "aliases",
        "wrap",
        "law",
        "seed",
        "times_input",
        "partial",
        "parameters",
        "preset",
        "normalise",
    ),
    *("rule", "refuse"),
)
SEEDS = {"one": "1 at the explained class", "score": "the score of the explained class, at that class"}
"""What the signal is where a walk begins."""
PARAMETER_KEYS = ("default", "doc", "choices", "aliases", "kind", "minimum")
KINDS: dict[str, type | tuple[type, ...]] = {
    "true or false": bool,
    "a whole number": Integral,
    "a number": Real,
    "a word": str,
    "a list of names": (list, tuple),
    "anything": object,
}


@dataclass(frozen=True)
class Row:
    """One ``[[rule]]``, ``[[refuse]]`` or ``[[normalise]]`` row: what it matches, and the rule or pass to use or the reason to refuse.

    It counts only with the settings that ``when`` names. A rule's parameter ``"$name"`` is the method's parameter of that name.
    """

    match: dict[str, tuple[str, ...]]
    use: str = ""
    why: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    number: int = 0

    def counts(self, settings: Mapping[str, Any]) -> bool:
        """Whether the settings are those that the row is for."""
        return all(settings.get(name) in values for name, values in self.when.items())

    def bound(self, settings: Mapping[str, Any]) -> Row:
        """The row with the settings in place of the names of the method's parameters."""
        return replace(self, parameters={k: settings[v[1:]] if _refers(v) else v for k, v in self.parameters.items()}, when={})

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
        low = -math.inf if self.minimum is None else self.minimum
        if isinstance(value, Real) and not low <= float(value) < math.inf:
            return "is not a finite number" if self.minimum is None else f"is not {low:g} or more"
        return ""


@dataclass(frozen=True)
class Method:
    """A way to explain, as data. ``wrap`` names what is built around the walk ('' = nothing); ``partial``: the attribution is only a part
    of what the map shows.
    """

    name: str
    title: str
    source: str
    formula: str
    rules: tuple[Row, ...]
    refuses: tuple[Row, ...] = ()
    aliases: tuple[str, ...] = ()
    wrap: str = ""
    law: str = ""
    seed: str = "one"
    times_input: bool = False
    partial: bool = False
    normalise: tuple[Row, ...] = ()
    parameters: dict[str, Parameter] = field(default_factory=dict)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    sha256: str = ""

    def choose(self, node: NodeView, family: str, position: str) -> tuple[Rule, dict[str, Any], str] | str:
        """(rule, parameters, why) for a node, or the reason why the method does not explain it. First match wins."""
        for row in self.refuses:
            if row.matches(node, family, position):
                return f"method '{self.name}' does not explain it: {row.why}"
        for row in self.rules:
            if row.matches(node, family, position):
                rule = RULES[row.use]
                if not rule.takes(family):
                    takes = ", ".join(sorted(rule.families))
                    return f"rule '{rule.name}' cannot explain it: it is {family}, the rule takes {takes}"
                return rule, row.parameters, f"rule {row.number}: {row.text}"
        return f"no [[rule]] row of method '{self.name}' matches (family {family}, position {position})"

    def bound(self, settings: Mapping[str, Any]) -> Method:
        """The method with its settings in place: the rows that count, with values for the parameters they name."""

        def kept(rows: tuple[Row, ...]) -> tuple[Row, ...]:
            return tuple(row.bound(settings) for row in rows if row.counts(settings))

        return replace(self, rules=kept(self.rules), refuses=kept(self.refuses), normalise=kept(self.normalise))

    def settle(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults, then a preset's values, then the caller's; raises ``MethodError`` for an unknown name or value."""
        names = [self._canonical(k) for k in given]
        if twice := [n for n in names if names.count(n) > 1]:
            raise MethodError(f"method '{self.name}': parameter '{twice[0]}' is given twice, among {', '.join(map(repr, given))}.")
        given = dict(zip(names, given.values(), strict=True))
        preset = given.pop("preset", None)
        if preset is not None and preset not in self.presets:
            raise MethodError(
                f"method '{self.name}' has no preset '{preset}'{near_miss(str(preset), self.presets)}; "
                f"known: {', '.join(self.presets) or 'none'}."
            )
        values = {k: p.default for k, p in self.parameters.items()} | (self.presets[preset] if preset else {}) | given
        lists = {k for k, p in self.parameters.items() if p.kind == "a list of names"}
        values |= {k: [v] for k, v in values.items() if k in lists and isinstance(v, str)}
        for name, value in values.items():
            known = self.parameters.get(name)
            if known is not None and (problem := known.problem(value)):
                raise MethodError(f"method '{self.name}': {name}={value!r} {problem}{'' if problem.endswith('?') else '.'}")
        return values

    def _canonical(self, name: str) -> str:
        for key, parameter in self.parameters.items():
            if name == key or name in parameter.aliases:
                return key
        if name == "preset":
            return name
        raise MethodError(
            f"method '{self.name}' has no parameter '{name}'{near_miss(name, self.parameters)}; "
            f"known: {', '.join(self.parameters) or 'none'}."
        )


def parse_method(text: str, where: str) -> Method:
    """A method from the text of its TOML file; every mistake is an error that names file, row, near miss and known set."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MethodError(f"{where}: not valid TOML: {error}.") from error
    _closed(table, METHOD_KEYS, where)
    needed = {"name", "title", "source"} | (set() if table.get("wrap") else {"rule"})
    if missing := needed - set(table):
        raise MethodError(f"{where}: the keys {sorted(missing)} are missing.")
    parameters = {k: _parameter(v, f"{where}, parameter '{k}'") for k, v in table.get("parameters", {}).items()}

    def rows(kind: str) -> tuple[Row, ...]:
        return tuple(_row(r, i, kind, parameters, f"{where}, [[{kind}]] row {i}") for i, r in enumerate(table.get(kind, []), 1))

    rules, refuses, normalise = rows("rule"), rows("refuse"), rows("normalise")
    if table.get("seed", "one") not in SEEDS:
        raise MethodError(f"{where}: unknown seed '{table['seed']}'{near_miss(str(table['seed']), SEEDS)}; known: {', '.join(SEEDS)}.")
    presets = table.get("preset", {})
    for preset, values in presets.items():
        _closed(values, [*parameters, "score"], f"{where}, preset '{preset}'")
    return Method(
        name=table["name"],
        title=table["title"],
        source=table["source"],
        formula=table.get("formula", ""),
        rules=rules,
        refuses=refuses,
        aliases=tuple(table.get("aliases", ())),
        wrap=table.get("wrap", ""),
        law=table.get("law", ""),
        seed=table.get("seed", "one"),
        normalise=normalise,
        times_input=table.get("times_input", False),
        partial=table.get("partial", False),
        parameters=parameters,
        presets=presets,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def _closed(table: Mapping[str, Any], known: Any, where: str) -> None:
    for key in table:
        if key not in known:
            raise MethodError(f"{where}: unknown key '{key}'{near_miss(key, known)}; known: {', '.join(known)}.")


def _parameter(table: Mapping[str, Any], where: str) -> Parameter:
    _closed(table, PARAMETER_KEYS, where)
    if "default" not in table or "doc" not in table:
        raise MethodError(f"{where}: needs 'default' and 'doc'.")
    default = table["default"]
    kind = table.get("kind", next(kind for kind, types in KINDS.items() if isinstance(default, types)))
    if kind not in KINDS:
        raise MethodError(f"{where}: unknown kind '{kind}'{near_miss(kind, KINDS)}; known: {', '.join(KINDS)}.")
    parameter = Parameter(
        default, table["doc"], tuple(table.get("choices", ())), tuple(table.get("aliases", ())), kind, table.get("minimum")
    )
    if problem := parameter.problem(default):
        raise MethodError(f"{where}: its default {default!r} {problem}.")
    return parameter


def _refers(value: Any) -> bool:
    """Whether a row's value names a parameter of the method."""
    return isinstance(value, str) and value.startswith("$")


def _row(table: Mapping[str, Any], number: int, kind: str, known: Mapping[str, Parameter], where: str) -> Row:
    when = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in table.get("when", {}).items()}
    _closed(when, tuple(known), f"{where}, 'when'")
    for name, values in when.items():
        for value in values:
            if problem := known[name].problem(value):
                raise MethodError(f"{where}, 'when': {name} = {value!r} {problem}.")
    table = {k: v for k, v in table.items() if k != "when"}
    if kind == "normalise":
        _closed(table, ("use",), where)
        if table.get("use") not in NORMALISERS:
            raise MethodError(f"{where}: unknown pass '{table.get('use')}'; known: {', '.join(NORMALISERS)}.")
        return Row({}, use=table["use"], when=when, number=number)
    match = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in table.items() if k in MATCH_KEYS}
    for family in match.get("family", ()):
        if family not in FAMILIES:
            raise MethodError(f"{where}: unknown family '{family}'{near_miss(family, FAMILIES)}; known: {', '.join(FAMILIES)}.")
    for position in match.get("position", ()):
        if position not in POSITIONS:
            raise MethodError(f"{where}: unknown position '{position}'{near_miss(position, POSITIONS)}; known: {', '.join(POSITIONS)}.")
    rest = {k: v for k, v in table.items() if k not in MATCH_KEYS}
    if kind == "refuse":
        _closed(rest, ("why",), where)
        return Row(match, why=str(rest.get("why", "")), when=when, number=number)
    name = rest.pop("use", None)
    if name is None:
        raise MethodError(f"{where}: needs 'use', the name of a rule; known: {', '.join(sorted(RULES))}.")
    rule = find_rule(name, where)
    _closed(rest, (*MATCH_KEYS, "when", "use", *rule.parameters), where)
    for value in rest.values():
        if _refers(value) and value[1:] not in known:
            names = ", ".join(known) or "none"
            raise MethodError(f"{where}: the method has no parameter '{value[1:]}'{near_miss(value[1:], known)}; known: {names}.")
    return Row(match, use=name, parameters=rest, when=when, number=number)


@cache
def shipped_methods() -> dict[str, Method]:
    """Every method that comes with onnxsal, by name."""
    found = {}
    for entry in sorted(files("onnxsal.rules").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            method = parse_method(entry.read_text(encoding="utf-8"), f"rules/{entry.name}")
            if f"{method.name}.toml" != entry.name:
                raise MethodError(f"rules/{entry.name}: its name is '{method.name}'; a method's file is called <name>.toml.")
            found[method.name] = method
    return found


def _plain(name: str) -> str:
    """Spelling that ignores case, separators and an 'lrp.' style prefix dot."""
    return "".join(c for c in name.lower() if c.isalnum())


def get_method(name: str | Path | Method) -> Method:
    """A method by name or usual alias (``IntegratedGradients``, ``ig``), by the path of a TOML file, or as it is."""
    if isinstance(name, Method):
        return name
    if str(name).endswith(".toml"):
        try:
            return parse_method(Path(name).read_text(encoding="utf-8"), str(name))
        except (OSError, UnicodeDecodeError) as error:
            raise MethodError(f"rule file '{name}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    known = {_plain(alias): m for m in shipped_methods().values() for alias in (m.name, *m.aliases)}
    if _plain(str(name)) not in known:
        names = {alias: None for m in shipped_methods().values() for alias in (m.name, *m.aliases)}
        raise MethodError(f"unknown method '{name}'{near_miss(str(name), names)}; known: {', '.join(shipped_methods())}.")
    return known[_plain(str(name))]
