"""Method: a TOML table that says which rule goes where, what wraps the walk, and which parameters it has.

A table may extend another one (``extends``): its own rows come first, and what it does not say is as in its base.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnxsal.backward import RULES, Rule
from onnxsal.display import Displayed, Panel
from onnxsal.engine.coverage import Stated, TableWarning, gaps
from onnxsal.engine.method_words import plain, unknown_word
from onnxsal.engine.plugins import load_rules, third_party_tables
from onnxsal.engine.table_rows import RESCALINGS, WRAPS, Mistakes, Parameter, RowKind, RuleRow, read_parameter, read_row, refers, sound
from onnxsal.engine.table_schema import TableSchema
from onnxsal.errors import MethodError, near_miss
from onnxsal.graph import NodeView
from onnxsal.limits import refuse_over
from onnxsal.settings import listed, parse_toml, read_text, shown

SHARED_KEYS: dict[str, Any] = {"wrap": "", "law": "", "seed": "one", "times_input": False, "partial": False}
"""What a table that does not say it has from its base, and without a base: this."""

TABLE_KEYS = tuple(f.name for f in fields(TableSchema))
SEEDS = {"one": "1 at the explained class", "score": "the score of the explained class, at that class"}
"""What the signal is where a walk begins."""


@dataclass(frozen=True)
class Part:
    """One of the methods that another is made of, with values for its parameters (``"$name"``: the whole's parameter) and its scale."""

    method: Method
    parameters: dict[str, Any]
    rescale: str = "none"

    def bound(self, settings: Mapping[str, Any]) -> Part:
        """With the settings of the whole in place of the names of its parameters."""
        return replace(self, parameters={k: settings[v[1:]] if refers(v) else v for k, v in self.parameters.items()})


@dataclass(frozen=True, repr=False)
class Method(Displayed):
    """A way to explain, as data. ``wrap`` names what is built around the walk ('' = nothing); ``partial``: the attribution is only a part
    of what the map shows; ``extends`` names the method that it is based on ('' = none), ``table`` the file that states it.

    ``rows`` are its rules and refusals in the order in which they are tried: the first that matches a node decides. ``of`` are the methods
    that it is made of, if it is; ``constants`` say what is held constant before anything is decided.
    """

    name: str
    title: str
    source: str
    formula: str
    rows: tuple[RuleRow, ...] = ()
    of: tuple[Part, ...] = ()
    aliases: tuple[str, ...] = ()
    wrap: str = ""
    law: str = ""
    seed: str = "one"
    times_input: bool = False
    partial: bool = False
    normalise: tuple[RuleRow, ...] = ()
    constants: tuple[RuleRow, ...] = ()
    parameters: dict[str, Parameter] = field(default_factory=dict)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    extends: str = ""
    table: str = field(default="", compare=False)
    sha256: str = ""

    def _panel(self) -> Panel:
        told = {k: v for k in ("formula", "source", "law") if (v := getattr(self, k))} | {"aliases": ", ".join(self.aliases)}
        rows = [(name, str(p.default), p.doc) for name, p in self.parameters.items()]
        rows += [("preset", name, ", ".join(f"{k}={v}" for k, v in values.items())) for name, values in self.presets.items()]
        facts = [f"{key}: {value}" for key, value in told.items() if value]
        return Panel(f"{self.name}: {self.title}", facts, ("parameter", "default", "what it does"), rows)

    @property
    def rules(self) -> tuple[RuleRow, ...]:
        """The rows that name a rule."""
        return tuple(row for row in self.rows if row.use)

    @property
    def names(self) -> set[str]:
        """What its parameters may be called."""
        return {name for key, parameter in self.parameters.items() for name in (key, *parameter.aliases)}

    @property
    def refuses(self) -> tuple[RuleRow, ...]:
        """The rows that refuse."""
        return tuple(row for row in self.rows if not row.use)

    def choose(self, node: NodeView, family: str, position: str) -> tuple[Rule, dict[str, Any], str] | str:
        """(rule, parameters, why) for a node, or the reason why the method does not explain it. First match wins."""
        for row in self.rows:
            if not row.matches(node, family, position):
                continue
            if not row.use:
                return f"method '{self.name}' does not explain it: {row.why}"
            rule = RULES[row.use]
            if not rule.takes(family):
                takes = ", ".join(sorted(rule.families))
                return f"rule '{rule.name}' cannot explain it: it is {family}, the rule takes {takes}"
            return rule, row.parameters, f"rule {row.number}{'' if row.table == self.table else f' of {row.table}'}: {row.text}"
        return f"no [[rule]] row of method '{self.name}' matches (family {family}, position {position})"

    def bound(self, settings: Mapping[str, Any]) -> Method:
        """The method with its settings in place: the rows that count, with values for the parameters they name."""

        def kept(rows: tuple[RuleRow, ...]) -> tuple[RuleRow, ...]:
            return tuple(row.bound(settings) for row in rows if row.counts(settings))

        return replace(
            self,
            rows=kept(self.rows),
            normalise=kept(self.normalise),
            constants=kept(self.constants),
            of=tuple(part.bound(settings) for part in self.of),
        )

    def settle(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults, then a preset's values, then the caller's; raises ``MethodError`` for an unknown name or value."""
        names = [self.canonical(k) for k in given]
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

    def canonical(self, name: str) -> str:
        """The name of the parameter that ``name`` is, or is an alias of ("preset" is one too). Raises ``MethodError`` for any other."""
        for key, parameter in self.parameters.items():
            if name == key or name in parameter.aliases:
                return key
        if name == "preset":
            return name
        raise MethodError(
            f"method '{self.name}' has no parameter '{name}'{near_miss(name, self.parameters)}; "
            f"known: {', '.join(self.parameters) or 'none'}."
        )


# ----- reading a table -----


def parse_method(text: str, where: str, path: Path | None = None, reading: tuple[str, ...] = ()) -> Method:
    """A method from the text of its table; one error tells all mistakes, each with table, row, near miss and known set.

    ``where`` names the table in messages; ``path`` is its file, if it is one of the user's: ``extends`` is looked for beside it.
    ``reading`` are the tables that extend this one.
    """
    table = parse_toml(text, where, MethodError)
    load_rules()
    mistakes = Mistakes(where)
    mistakes.unknown_keys("", table, TABLE_KEYS)
    table = sound(table, mistakes)
    base = _base_of(table, path, reading, mistakes)
    method = _read(table, base, mistakes, _parts(table.get("of"), path, (*reading, where), mistakes))
    if path is not None and not mistakes.found:
        mistakes.found += [f"{where}, {mistake}" for mistake in _unfit(method)]
    if mistakes.found:
        raise MethodError(listed(mistakes.found))
    own = text.encode() if base is None else f"{text}{base.sha256}".encode()
    return replace(method, sha256=hashlib.sha256(own).hexdigest())


def _base_of(table: Mapping[str, Any], path: Path | None, reading: tuple[str, ...], mistakes: Mistakes) -> Method | None:
    """The method that a table extends; where that cannot be had, it is a mistake, and what depends on it is not judged."""
    if "extends" not in table or mistakes.baseless:
        return None
    try:
        return _base(table["extends"], mistakes.where, path, reading)
    except MethodError as error:
        mistakes.baseless = True
        mistakes.found += str(error).splitlines()
        return None


def _base(name: str, where: str, path: Path | None, reading: tuple[str, ...]) -> Method:
    """The method that a table extends or is made of: a file beside it, a shipped table or an alias of one."""
    if where in reading:
        raise MethodError(f"{where}: it extends itself, by way of {' -> '.join((*reading, where))}.")
    chain = (*reading, where)
    refuse_over("extends", len(chain), f"{where} extends too many tables", MethodError)
    if name.endswith(".toml"):
        return _read_file((path.parent if path is not None else Path()) / name, chain)
    if len(name) < 100 and name.isidentifier() and (files("onnxsal.rules") / f"{name}.toml").is_file():
        return _shipped(name, chain)
    try:
        return _by_name(name, shipped_methods() if path is None else known_methods())
    except MethodError as error:
        raise MethodError(f"{where}: {error}") from error


def _read(table: Mapping[str, Any], base: Method | None, mistakes: Mistakes, parts: tuple[Part, ...]) -> Method:
    """The method of a table, over its base, made of ``parts``."""
    needed = {"name"} if base else {"name", "wrap"} if parts else {"name", "title", "source"} | (set() if table.get("wrap") else {"rule"})
    if (missing := needed - set(table)) and not mistakes.baseless:
        mistakes.add("", f"the keys {sorted(missing)} are missing.")
    name = table.get("name", "")
    fixed = _fixed(table.get("fixed", {}), base, mistakes)
    inherited = {} if base is None else {k: p for k, p in base.parameters.items() if k not in fixed}
    given = table.get("parameters", {})
    own = {k: read_parameter(k, v, inherited.get(k), mistakes) for k, v in given.items()}
    parameters = own | {k: p for k, p in inherited.items() if k not in own}

    def rows(kind: RowKind) -> tuple[RuleRow, ...]:
        return tuple(read_row(r, i, kind, parameters, mistakes) for i, r in enumerate(table.get(kind, []), 1) if r is not None)

    normalise = rows("normalise")
    below = () if base is None else tuple(row.fixed(fixed) for row in base.normalise if row.use not in {r.use for r in normalise})
    for part in parts:
        for value in part.parameters.values():
            if refers(value) and value[1:] not in parameters and not mistakes.baseless:
                mistakes.unknown_name(f", of '{part.method.name}'", "parameter", value[1:], parameters)
    shared = {k: table.get(k, default if base is None else getattr(base, k)) for k, default in SHARED_KEYS.items()}
    if WRAPS and shared["wrap"] not in WRAPS:
        mistakes.unknown_name("", "wrap", shared["wrap"], [w for w in WRAPS if w])
    if shared["seed"] not in SEEDS:
        mistakes.unknown_name("", "seed", shared["seed"], SEEDS)
    presets = table.get("preset", {})
    for preset, values in presets.items() if not mistakes.baseless else ():
        mistakes.unknown_keys(f", preset '{preset}'", values, [*parameters, "score"])
    return Method(
        name=name,
        title=table.get("title", f"{base.title}, with rows of its own" if base else _made_of(shared["wrap"], parts)),
        source=table.get("source", base.source if base else "; ".join(dict.fromkeys(part.method.source for part in parts))),
        formula=table.get("formula", ""),
        rows=_in_order([*rows("refuse"), *rows("rule")], [] if base is None else [row.fixed(fixed) for row in base.rows]),
        of=parts or (() if base is None else base.of),
        aliases=tuple(table.get("aliases", ())),
        normalise=(*normalise, *below),
        constants=(*rows("constant"), *(() if base is None else (row.fixed(fixed) for row in base.constants))),
        parameters=parameters,
        presets=_presets(presets, base, fixed),
        extends="" if base is None else base.name,
        table=mistakes.where,
        **shared,
    )


def _made_of(how: str, parts: Sequence[Part]) -> str:
    return f"{how} of {', '.join(part.method.title for part in parts)}" if parts else ""


def _parts(
    given: list[Any] | str | dict[str, Any] | None, path: Path | None, reading: tuple[str, ...], mistakes: Mistakes
) -> tuple[Part, ...]:
    """``of``: names of methods (tables beside this one), or tables with ``method``, ``rescale`` and values for its parameters."""
    parts = []
    for number, entry in enumerate(given if isinstance(given, list) else [] if given is None else [given], 1):
        place = f", of, part {number}"
        table = {"method": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else {}
        name, rescale = table.pop("method", None), table.pop("rescale", "none")
        if not isinstance(name, str):
            mistakes.add(place, f"{entry!r} names no method; give a name, or a table with method = NAME.")
            continue
        if rescale not in RESCALINGS:
            mistakes.unknown_name(place, "rescale", rescale, RESCALINGS)
        try:
            method = _base(name, mistakes.where, path, reading[:-1])
            for key in table:
                method.canonical(key)
            method.settle({k: v for k, v in table.items() if not refers(v)})
            parts.append(Part(method, table, str(rescale)))
        except MethodError as error:
            mistakes.add(place, str(error).removeprefix(f"{mistakes.where}: "))
    if given is not None and not parts and not mistakes.found:
        mistakes.add(", of", "a method is made of others: name one at least.")
    return tuple(parts)


def _fixed(values: Mapping[str, Any], base: Method | None, mistakes: Mistakes) -> dict[str, Any]:
    """``[fixed]``: values of the base's parameters, which the method then has not."""
    known = {} if base is None else base.parameters
    if not mistakes.baseless:
        mistakes.unknown_keys(", [fixed]", values, known)
    for name, value in values.items():
        if name in known and (problem := known[name].problem(value)):
            mistakes.add(", [fixed]", f"{name} = {value!r} {problem}.")
    return dict(values)


def _presets(own: Mapping[str, Any], base: Method | None, fixed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The presets of the table, and those of its base that it does not replace."""
    inherited = {} if base is None else base.presets
    return {k: {n: v for n, v in values.items() if n not in fixed} for k, values in inherited.items() if k not in own} | dict(own)


def _in_order(own: Sequence[RuleRow], base: Sequence[RuleRow]) -> tuple[RuleRow, ...]:
    """The rows of a table before those of its base, but for rows of the base that stand always before.

    These are about what a node is part of, as its tag says; a row that names such a tag itself comes before them.
    """
    first = [row for row in base if row.always]
    tags = {tag for row in first for tag in row.match.get("tag", ())}
    lifted = [replace(r, always=True) if tags.intersection(r.match.get("tag", ())) else r for r in own]
    before = [r for r in lifted if r.always]
    return (*before, *first, *(r for r in lifted if not r.always), *(r for r in base if not r.always))


# ----- finding a method -----


@cache
def _shipped(name: str, reading: tuple[str, ...] = ()) -> Method:
    """The table of that name that comes with onnxsal."""
    entry = files("onnxsal.rules") / f"{name}.toml"
    method = parse_method(entry.read_text(encoding="utf-8"), f"rules/{name}.toml", reading=reading)
    if method.name != name:
        raise MethodError(f"rules/{name}.toml: its name is '{method.name}'; a method's file is called <name>.toml.")
    return method


@cache
def shipped_methods() -> dict[str, Method]:
    """Every method that comes with onnxsal, by name."""
    names = sorted(e.name.removesuffix(".toml") for e in files("onnxsal.rules").iterdir() if e.name.endswith(".toml"))
    return {name: _shipped(name) for name in names}


@cache
def known_methods() -> dict[str, Method]:
    """The shipped methods, and those that other packages add (``engine/plugins.py``), by name.

    Raises ``MethodError`` for a name or alias that two methods claim.
    """
    found = dict(shipped_methods())
    claimed = {plain(alias): name for name, m in found.items() for alias in (name, *m.aliases)}
    for where, table in third_party_tables():
        method = parse_method(table.read_text(encoding="utf-8"), where)
        for alias in (method.name, *method.aliases):
            if (owner := claimed.setdefault(plain(alias), method.name)) != method.name or method.name in found:
                raise MethodError(f"{where}: the name '{alias}' belongs to method '{owner}' already; rename one of them.")
        found[method.name] = method
    return found


def _read_file(path: Path, reading: tuple[str, ...] = ()) -> Method:
    return parse_method(read_text(path, f"rule file '{path}'", "toml_bytes", MethodError), str(path), path, reading)


def get_method(name: str | Path | Method) -> Method:
    """A method by name or usual alias (``IntegratedGradients``, ``ig``), by the path of a TOML file, or as it is.

    Warns (``TableWarning``) of a file that does not say what happens at families which the shipped tables of its kind speak of.
    """
    if isinstance(name, Method):
        return name
    if str(name).endswith(".toml"):
        method = _read_file(Path(name))
        if told := unstated(method):
            warnings.warn(f"{name}: {told}", TableWarning, stacklevel=2)
        return method
    return _by_name(str(name), known_methods())


def _by_name(name: str, methods: Mapping[str, Method]) -> Method:
    names = {alias: method for method in methods.values() for alias in (method.name, *method.aliases)}
    known = {plain(alias): method for alias, method in names.items()}
    if plain(name) not in known:
        if len(name) <= LONGEST * 5 and (said := unknown_word(name)):
            raise MethodError(said)
        told = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        raise MethodError(f"unknown method '{told}'{near_miss(name, names)}; known: {', '.join(methods)}.")
    return known[plain(name)]


LONGEST = 80
"""So much of a name that is no method's is told."""


def _unfit(method: Method) -> Iterator[str]:
    """Parameters whose default is not of the kind that shipped tables of that wrap have under this name, which is what the wrap reads."""
    peers = [m for m in shipped_methods().values() if m.wrap == method.wrap]
    for name, parameter in method.parameters.items():
        for peer in (m.parameters[name] for m in peers if name in m.parameters):
            if problem := replace(peer, choices=()).problem(parameter.default):
                yield f"parameter '{name}': its default {shown(parameter.default)} {problem}."
                break


def unstated(method: Method) -> str:
    """What a table leaves unsaid that the shipped table of its kind says ('' = nothing): the families, and the way out."""
    root = next((m for m in shipped_methods().values() if m.wrap == method.wrap and m.wrap and not m.extends), None)
    if root is None or method.extends:
        return ""
    missing = gaps(Stated(method.rows), Stated(root.rows))
    if not missing:
        return ""
    listed = "".join(f"\n  family '{family}': {root.name} has {what}" for family, what in missing.items())
    return (
        f'this table (wrap = "{method.wrap}") has no row that names {len(missing)} families of operators, so its map does not follow the '
        f'law of such tables where a model has them; write a row for each, or extends = "{root.name}":{listed}'
    )
