"""Method: a TOML table that says which rule goes where, what wraps the walk, and which parameters it has.

A table may extend another one (``extends``): its own rows come first, and what it does not say is as in its base.
"""

from __future__ import annotations

import hashlib
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnxsal.backward import RULES, Rule
from onnxsal.engine.coverage import Stated, TableWarning, gaps
from onnxsal.engine.table_rows import Mistakes, Parameter, Row, RowKind, read_parameter, read_row
from onnxsal.errors import MethodError, near_miss
from onnxsal.graph import NodeView

OWN_KEYS = ("name", "title", "source", "formula", "aliases")
"""What a table says of itself alone."""

SHARED_KEYS: dict[str, Any] = {"wrap": "", "law": "", "seed": "one", "times_input": False, "partial": False}
"""What a table that does not say it has from its base, and without a base: this."""

TABLE_KEYS = ("extends", *OWN_KEYS, *SHARED_KEYS, "parameters", "fixed", "preset", "normalise", "rule", "refuse")
SEEDS = {"one": "1 at the explained class", "score": "the score of the explained class, at that class"}
"""What the signal is where a walk begins."""


@dataclass(frozen=True)
class Method:
    """A way to explain, as data. ``wrap`` names what is built around the walk ('' = nothing); ``partial``: the attribution is only a part
    of what the map shows; ``extends`` names the method that it is based on ('' = none), ``table`` the file that states it.

    ``rows`` are its rules and refusals in the order in which they are tried: the first that matches a node decides.
    """

    name: str
    title: str
    source: str
    formula: str
    rows: tuple[Row, ...]
    aliases: tuple[str, ...] = ()
    wrap: str = ""
    law: str = ""
    seed: str = "one"
    times_input: bool = False
    partial: bool = False
    normalise: tuple[Row, ...] = ()
    parameters: dict[str, Parameter] = field(default_factory=dict)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    extends: str = ""
    table: str = field(default="", compare=False)
    sha256: str = ""

    @property
    def rules(self) -> tuple[Row, ...]:
        """The rows that name a rule."""
        return tuple(row for row in self.rows if row.use)

    @property
    def refuses(self) -> tuple[Row, ...]:
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

        def kept(rows: tuple[Row, ...]) -> tuple[Row, ...]:
            return tuple(row.bound(settings) for row in rows if row.counts(settings))

        return replace(self, rows=kept(self.rows), normalise=kept(self.normalise))

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


# ----- reading a table -----


def parse_method(text: str, where: str, path: Path | None = None, reading: tuple[str, ...] = ()) -> Method:
    """A method from the text of its table; one error tells all mistakes, each with table, row, near miss and known set.

    ``where`` names the table in messages; ``path`` is its file, if it is one of the user's: ``extends`` is looked for beside it.
    ``reading`` are the tables that extend this one.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MethodError(f"{where}: not valid TOML: {error}.") from error
    mistakes = Mistakes(where)
    mistakes.unknown_keys("", table, TABLE_KEYS)
    base = _base(table["extends"], where, path, reading) if "extends" in table else None
    method = _read(table, base, mistakes)
    if mistakes.found:
        raise MethodError("\n".join(mistakes.found))
    own = text.encode() if base is None else f"{text}{base.sha256}".encode()
    return replace(method, sha256=hashlib.sha256(own).hexdigest())


def _base(name: str, where: str, path: Path | None, reading: tuple[str, ...]) -> Method:
    """The method that a table extends: a file beside it, a shipped table or an alias of one."""
    if where in reading:
        raise MethodError(f"{where}: it extends itself, by way of {' -> '.join((*reading, where))}.")
    chain = (*reading, where)
    if str(name).endswith(".toml"):
        return _read_file((path.parent if path is not None else Path()) / name, chain)
    entry = files("onnxsal.rules") / f"{name}.toml"
    if entry.is_file():
        return _shipped(str(name), chain)
    try:
        return get_method(str(name))
    except MethodError as error:
        raise MethodError(f"{where}: extends: {error}") from error


def _read(table: Mapping[str, Any], base: Method | None, mistakes: Mistakes) -> Method:
    """The method of a table, over its base."""
    needed = {"name"} if base else {"name", "title", "source"} | (set() if table.get("wrap") else {"rule"})
    if missing := needed - set(table):
        mistakes.add("", f"the keys {sorted(missing)} are missing.")
    name = str(table.get("name", ""))
    fixed = _fixed(table.get("fixed", {}), base, mistakes)
    inherited = {} if base is None else {k: p for k, p in base.parameters.items() if k not in fixed}
    given = table.get("parameters", {})
    own = {k: read_parameter(k, v, inherited.get(k), mistakes) for k, v in given.items()}
    parameters = own | {k: p for k, p in inherited.items() if k not in own}

    def rows(kind: RowKind) -> tuple[Row, ...]:
        return tuple(read_row(r, i, kind, parameters, mistakes) for i, r in enumerate(table.get(kind, []), 1))

    normalise = rows("normalise")
    below = () if base is None else tuple(row.fixed(fixed) for row in base.normalise if row.use not in {r.use for r in normalise})
    shared = {k: table.get(k, default if base is None else getattr(base, k)) for k, default in SHARED_KEYS.items()}
    if shared["seed"] not in SEEDS:
        mistakes.unknown_name("", "seed", shared["seed"], SEEDS)
    presets = table.get("preset", {})
    for preset, values in presets.items():
        mistakes.unknown_keys(f", preset '{preset}'", values, [*parameters, "score"])
    return Method(
        name=name,
        title=table.get("title", "" if base is None else f"{base.title}, with rows of its own"),
        source=table.get("source", "" if base is None else base.source),
        formula=table.get("formula", ""),
        rows=_in_order([*rows("refuse"), *rows("rule")], [] if base is None else [row.fixed(fixed) for row in base.rows]),
        aliases=tuple(table.get("aliases", ())),
        normalise=(*normalise, *below),
        parameters=parameters,
        presets=_presets(presets, base, fixed),
        extends="" if base is None else base.name,
        table=mistakes.where,
        **shared,
    )


def _fixed(values: Mapping[str, Any], base: Method | None, mistakes: Mistakes) -> dict[str, Any]:
    """``[fixed]``: values of the base's parameters, which the method then has not."""
    known = {} if base is None else base.parameters
    mistakes.unknown_keys(", [fixed]", values, known)
    for name, value in values.items():
        if name in known and (problem := known[name].problem(value)):
            mistakes.add(", [fixed]", f"{name} = {value!r} {problem}.")
    return dict(values)


def _presets(own: Mapping[str, Any], base: Method | None, fixed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The presets of the table, and those of its base that it does not replace."""
    inherited = {} if base is None else base.presets
    return {k: {n: v for n, v in values.items() if n not in fixed} for k, values in inherited.items() if k not in own} | dict(own)


def _in_order(own: Sequence[Row], base: Sequence[Row]) -> tuple[Row, ...]:
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


def _read_file(path: Path, reading: tuple[str, ...] = ()) -> Method:
    try:
        return parse_method(path.read_text(encoding="utf-8"), str(path), path, reading)
    except (OSError, UnicodeDecodeError) as error:
        raise MethodError(f"rule file '{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _plain(name: str) -> str:
    """Spelling that ignores case, separators and an 'lrp.' style prefix dot."""
    return "".join(c for c in name.lower() if c.isalnum())


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
    known = {_plain(alias): m for m in shipped_methods().values() for alias in (m.name, *m.aliases)}
    if _plain(str(name)) not in known:
        names = {alias: None for m in shipped_methods().values() for alias in (m.name, *m.aliases)}
        raise MethodError(f"unknown method '{name}'{near_miss(str(name), names)}; known: {', '.join(shipped_methods())}.")
    return known[_plain(str(name))]


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
