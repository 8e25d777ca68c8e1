"""The house: which room may import which, what a registration needs, and what a rule file may say."""

from __future__ import annotations

import ast
import itertools
import sys
import tokenize
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.backward import RULES
from onnxsal.cli.app import app
from onnxsal.engine.method import get_method, parse_method, shipped_methods
from onnxsal.errors import MethodError, PlanError
from onnxsal.methods.build import WRAPPERS
from onnxsal.ops import registry
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, REGISTRY, case, gradient_of, not_differentiable
from tests.conftest import LONG
from tests.small_models import cnn, make, node

PACKAGE = Path(onnxsal.__file__).parent

BELOW = {
    "cli": "fleet",
    "fleet": "report",
    "report": "metrics",
    "metrics": "explainer",
    "explainer": "explanation facade given runtime",
    "explanation": "facts runtime",
    "given": "ask runtime",
    "facade": "methods ask engine runtime",
    "methods": "ask engine passes runtime",
    "ask": "engine passes runtime",
    "engine": "backward facts",
    "passes": "facts",
    "backward": "facts",
    "facts": "ops",
    "ops": "forms",
    "forms": "graph",
    "graph": "disk display large protos settings",
    "runtime": "disk display large protos settings untrusted",
    "display": "untrusted",
    "settings": "disk limits",
    "disk": "errors litter untrusted",
    "large": "limits",
    "limits": "errors",
    "errors": "",
    "protos": "",
    "litter": "",
    "untrusted": "",
}
"""Room -> the rooms right below it: the arrows of the design. A room may import any room that the arrows lead down to."""

OWNERS = {"onnx_graphsurgeon": "graph", "onnxruntime": "runtime", "pydantic_core": "settings"}
"""Libraries that one room only may import."""


def sources() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if "rules" not in p.relative_to(PACKAGE).parts]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def reachable(start: str) -> set[str]:
    found, todo = {start}, [start]
    while todo:
        below = set(BELOW[todo.pop()].split()) - found
        found |= below
        todo += below
    return found


def imports(source: str, package: str = "onnxsal") -> list[str]:
    """Every module that a source imports, wherever in the file: at the top, inside functions, for type checking, by name."""
    found = []
    for item in ast.walk(ast.parse(source)):
        if isinstance(item, ast.Import):
            found += [alias.name for alias in item.names]
        elif isinstance(item, ast.ImportFrom):
            base = item.module or ""
            if item.level:
                parent = package.split(".")[: len(package.split(".")) - item.level + 1]
                base = ".".join([*parent, base]).rstrip(".")
            found += [base, *(f"{base}.{alias.name}" for alias in item.names if base == "onnxsal")]
        elif isinstance(item, ast.Call) and ast.unparse(item.func).endswith("import_module") and isinstance(item.args[0], ast.Constant):
            found.append(str(item.args[0].value))
    return found


def rooms_imported(source: str, package: str = "onnxsal") -> set[str]:
    inside = [m.split(".")[1] for m in imports(source, package) if m.startswith("onnxsal.")]
    return {r for r in inside if r in BELOW}


def dotted(path: Path) -> str:
    """The package that a file's relative imports start from."""
    return ".".join(("onnxsal", *path.relative_to(PACKAGE).parent.parts))


def test_the_import_reader_sees_nested_relative_and_late_imports():
    text = "def f():\n    from onnxsal import cli\n    import onnxsal.report.html\n    importlib.import_module('onnxsal.metrics')\n"
    assert rooms_imported(text) == {"cli", "report", "metrics"}
    assert rooms_imported("from ..engine import plan\nfrom . import emit", "onnxsal.graph") == {"engine", "graph"}


def test_every_room_is_in_the_design():
    known = {*BELOW, "__init__", "__main__"}
    assert {room(p) for p in sources()} <= known


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    if room(path) in ("__init__", "__main__"):
        return
    upward = rooms_imported(path.read_text(encoding="utf-8"), dotted(path)) - reachable(room(path))
    assert not upward, f"{path.name} is in {room(path)}/, which lies below (or beside) {sorted(upward)}"


@pytest.mark.parametrize("library", OWNERS)
def test_one_room_owns_a_library(library: str):
    users = {room(p) for p in sources() if any(m.split(".")[0] == library for m in imports(p.read_text(encoding="utf-8")))}
    assert users == {OWNERS[library]}


def test_the_walk_names_no_operator():
    text = (PACKAGE / "engine" / "traverse.py").read_text(encoding="utf-8")
    operators = {s.name for s in onnx.defs.get_all_schemas_with_history()}
    strings = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not operators & strings
    assert "op_type" not in text
    assert "isinstance" not in text


OPERATORS = frozenset(s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx"))

MOST_NAMED = 24
"""Operator names that may stand as literals outside ops/. What is known of an operator stands where it is registered."""


def named_operators(source: str) -> list[tuple[int, str, bool]]:
    """Every string constant that is an operator's name: (line, name, whether a comment beside its statement gives the reason).

    Docstrings, ``__all__`` and the texts of errors name none. The reason is a comment on a line of the innermost statement or of
    its header, right above it, or the docstring of the assignment.
    """
    tree, lines = ast.parse(source), source.splitlines()
    comments = {t.start[0] for t in tokenize.generate_tokens(iter([f"{line}\n" for line in lines]).__next__) if t.type == tokenize.COMMENT}
    found = []

    def visit(item: ast.AST, reason: bool) -> None:
        for _, value in ast.iter_fields(item):
            children = value if isinstance(value, list) else [value]
            for child, after in itertools.pairwise([*children, None]):
                if isinstance(child, ast.stmt):
                    explained = after if isinstance(child, ast.Assign | ast.AnnAssign) else None
                    visit_statement(child, explained)
                elif isinstance(child, ast.Constant) and child.value in OPERATORS and isinstance(child.value, str):
                    found.append((child.lineno, child.value, reason))
                elif isinstance(child, ast.AST):
                    visit(child, reason)

    def visit_statement(item: ast.stmt, after: ast.stmt | None) -> None:
        text = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
        names = [t.id for t in getattr(item, "targets", []) if isinstance(t, ast.Name)]
        if text or names == ["__all__"] or isinstance(item, ast.Raise):
            return
        body = getattr(item, "body", None)
        last = body[0].lineno - 1 if isinstance(body, list) and body else item.end_lineno or item.lineno
        told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        visit(item, told or bool(comments & set(range(item.lineno - 1, last + 1))))

    visit(tree, False)
    return found


def test_the_count_of_operator_names_is_honest():
    text = """
__all__ = ["Conv"]

def f(node):
    \"\"\"Conv\"\"\"
    if node.op_type == "Conv":
        raise ValueError("Conv")
    # stands in for the node
    return g("Relu", x=["Add"])

BOTH = ("Mul", "Div")
\"\"\"Because.\"\"\"
"""
    assert named_operators(text) == [(6, "Conv", False), (9, "Relu", True), (9, "Add", True), (11, "Mul", True), (11, "Div", True)]


def test_operators_are_named_where_they_are_registered():
    """Elsewhere few literals are left, each with its reason beside it."""
    named = {p: named_operators(p.read_text(encoding="utf-8")) for p in sources() if room(p) != "ops"}
    count = {str(p.relative_to(PACKAGE)): len(found) for p, found in named.items() if found}
    assert sum(count.values()) <= MOST_NAMED, count
    bare = [f"{p.relative_to(PACKAGE)}:{line} {name}" for p, found in named.items() for line, name, reason in found if not reason]
    assert not bare


def test_no_circles():
    """Not between rooms, and not inside one: every module can be read before those that import it."""
    names = {".".join(("onnxsal", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p for p in sources()}
    below = {name: {m for m in imports(p.read_text(encoding="utf-8"), dotted(p)) if m in names and m != name} for name, p in names.items()}
    for name, p in names.items():
        tree = ast.parse(p.read_text(encoding="utf-8"))
        for item in (i for i in ast.walk(tree) if isinstance(i, ast.ImportFrom) and i.module in names):
            below[name] |= {m for alias in item.names if (m := f"{item.module}.{alias.name}") in names}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of imports: {' -> '.join((*way[way.index(name) :], name))}"
        if name not in done:
            for other in sorted(below[name]):
                if not name.startswith(f"{other}."):  # a package is read before its modules, and registers them itself
                    visit(other, (*way, name))
            done.add(name)

    for name in sorted(names):
        visit(name, ())


def test_methods_hold_walks_and_wraps_only():
    """What asks a question of a model, and what a user calls, have rooms of their own."""
    lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in sources() if room(p) == "methods")
    assert lines <= 4800


def test_room_sizes(capsys: pytest.CaptureFixture[str]):
    """ops/ is the widest room by far. That no other holds more than an eighth is printed, and checked with a wide margin."""
    lines = dict.fromkeys(BELOW, 0)
    for path in sources():
        lines[room(path)] = lines.get(room(path), 0) + len(path.read_text(encoding="utf-8").splitlines())
    total = sum(lines.values())
    shares = {r: n / total for r, n in sorted(lines.items(), key=lambda e: -e[1])}
    with capsys.disabled():
        over = ", ".join(f"{r} {s:.0%}" for r, s in shares.items() if s > 1 / 8)
        print(f"\n{total} lines; rooms with more than an eighth: {over}")
    assert next(iter(shares)) == "ops"
    assert all(s < 0.3 for r, s in shares.items() if r != "ops")


def test_long_files_are_few():
    long = {str(p.relative_to(PACKAGE)): n for p in sources() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 450}
    assert not long


def test_nothing_heavy_is_imported_with_the_package():
    """torch, tensorflow and tf2onnx belong to tests; no source names them."""
    for path in sources():
        assert not {m.split(".")[0] for m in imports(path.read_text(encoding="utf-8"))} & {"torch", "tensorflow", "tf2onnx", "captum"}
    assert "onnxsal" in sys.modules


# ----- names -----

SHARED_CLASSES: dict[str, tuple[str, str]] = {}
"""Name of a class -> the modules that define a class or a type of that name, and why they may."""

SHARED_MODULES = {
    "axes": ("facts.axes ops.axes", "ops: what an operator does to axes; facts: followed through a graph"),
    "deeplift": ("backward.deeplift methods.deeplift", "backward: the rules of DeepLIFT; methods: the method that walks by them"),
    "places": ("facts.places ops.places", "ops: what an operator does to places; facts: followed through a graph"),
    "ranges": ("facts.ranges ops.ranges", "ops: what an operator does to ranges of values; facts: followed through a graph"),
    "registry": ("backward.registry ops.registry", "ops: where operators are registered; backward: where rules are"),
}
"""Name of a module -> who has it, and why they may. A module of cli/ that is called like a verb may share its name with any."""


def defined(source: str) -> tuple[set[str], set[str]]:
    """Names of the public classes that a module defines, and of its public types: ``Name = ...`` at the top, in CamelCase."""
    classes, types = set(), set()
    for item in ast.parse(source).body:
        if isinstance(item, ast.ClassDef):
            classes.add(item.name)
        elif isinstance(item, ast.Assign | ast.AnnAssign):
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            types |= {t.id for t in targets if isinstance(t, ast.Name) and t.id[0].isupper() and not t.id.isupper()}
    return {c for c in classes if not c.startswith("_")}, types


def shared_classes(modules: dict[str, str]) -> dict[str, list[str]]:
    """Name of a class -> the modules (name -> source) that define a class or a type of that name, where they are several."""
    places: dict[str, list[str]] = {}
    known: set[str] = set()
    for module, source in modules.items():
        classes, types = defined(source)
        known |= classes
        for name in classes | types:
            places.setdefault(name, []).append(module)
    return {name: found for name, found in places.items() if name in known and len(found) > 1}


CHECKS = "report.audit.checks."


def shared_modules(modules: Iterable[str]) -> dict[str, list[str]]:
    """Last part of a module's name -> the modules that share it.

    Those of the command line that are called like a verb are left out, and the checks of an audit, each called by what it asks.
    """
    verbs = {f"cli.{c.callback.__name__}" for c in app.registered_commands if c.callback}
    places: dict[str, list[str]] = {}
    for module in modules:
        if module not in verbs and not module.startswith(CHECKS):
            places.setdefault(module.split(".")[-1], []).append(module)
    return {name: found for name, found in places.items() if len(found) > 1}


def modules() -> dict[str, str]:
    """Every module of the package: its name behind ``onnxsal.`` -> its source."""
    found = {".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p for p in sources()}
    return {name: p.read_text(encoding="utf-8") for name, p in found.items()}


def test_shared_names_are_seen():
    one, other = (
        "class Row: ...\nclass _Own: ...\nLIMIT = 3\nSize = int\n",
        "Row: TypeAlias = dict\nclass _Own: ...\nLIMIT = 4\nSize = str\n",
    )
    assert shared_classes({"ops.a": one, "ask.b": other}) == {"Row": ["ops.a", "ask.b"]}
    assert shared_modules(["ops.rows", "runtime.rows", "cli.explain", "methods.patterns.explain", "cli.rows"]) == {
        "rows": ["ops.rows", "runtime.rows", "cli.rows"]
    }


def test_no_two_classes_share_a_name():
    """Who reads a name knows what is meant. An exception stands in the table, with its reason, for as long as it is one."""
    assert shared_classes(modules()) == {name: places.split() for name, (places, _) in SHARED_CLASSES.items()}


def test_no_two_modules_share_a_name():
    assert shared_modules(modules()) == {name: places.split() for name, (places, _) in SHARED_MODULES.items()}


SHARED_TYPES = {"Source": ("graph.load runtime.session", "the rooms stand beside each other, and below both is none that knows models")}
"""Name of a type -> the modules that define it in the same words, and why they may."""


def repeated_types(modules: dict[str, str]) -> dict[str, list[str]]:
    """Name of a type -> the modules (name -> source) that define it at the top in the same words, where they are several."""
    places: dict[tuple[str, str], list[str]] = {}
    for module, source in modules.items():
        for item in ast.parse(source).body:
            if isinstance(item, ast.Assign | ast.AnnAssign) and item.value is not None:
                target = item.targets[0] if isinstance(item, ast.Assign) else item.target
                if isinstance(target, ast.Name) and target.id in defined(source)[1]:
                    places.setdefault((target.id, ast.unparse(item.value)), []).append(module)
    return {name: found for (name, _), found in places.items() if len(found) > 1}


def test_no_type_is_defined_twice():
    sources = {"a": "Row = dict\nSize = int\n", "b": "Row: TypeAlias = dict\nSize = str\n", "c": "LIMIT = 3\nrow = 4\n"}
    assert repeated_types(sources) == {"Row": ["a", "b"]}
    assert repeated_types(modules()) == {name: places.split() for name, (places, _) in SHARED_TYPES.items()}


# ----- sizes -----

LINES, PARAMETERS = 50, 8
"""The most that a function may have. Lines: from its ``def`` to its end, with its docstring, since who reads it scrolls both. Parameters:
with ``*args`` and ``**kwargs``, without ``self`` and ``cls``; those of a command are the options of the command line, and not counted."""

OVERSIZED: dict[str, tuple[str, str]] = {
    "ask.request.Ask.of": ("parameters", "the one place where all that can be asked is spelled, for people and type checkers"),
    "ask.question.ask": ("parameters", "what can be said of a question, each by its own keyword, as Ask spells them"),
    "facade.fit_patterns.fit_patterns": ("parameters", "a public signature, which stays; it hands a request and one record on"),
    "metrics.evaluate.evaluate": ("parameters", "a public signature, which stays; it hands a request and one record on"),
    "explainer.Explainer.explain": ("parameters", "a public signature: what may be given, and how it is run"),
    "report.audit.call.audit": ("parameters", "a public signature, the options of the command; it hands one record on"),
}
"""Function -> the limits that it is over, and why it may be."""


def oversized(source: str, commands: Collection[str] = ()) -> dict[str, str]:
    """Function -> the limits that it is over. Functions named in ``commands`` may have any number of parameters."""
    found = {}

    def visit(item: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(item):
            name = f"{path}{getattr(child, 'name', '')}"
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                given = child.args
                names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if a is not None]
                own = isinstance(item, ast.ClassDef) and names[:1] in (["self"], ["cls"])
                lines = (child.end_lineno or child.lineno) - child.lineno + 1
                wide = len(names) - own > PARAMETERS and name not in commands
                over = " ".join(limit for limit, is_over in (("lines", lines > LINES), ("parameters", wide)) if is_over)
                if over:
                    found[name] = over
            visit(child, f"{name}." if hasattr(child, "name") else path)

    visit(ast.parse(source), "")
    return found


def test_oversized_functions_are_seen():
    arguments = ", ".join(f"a{i}" for i in range(PARAMETERS - 1))
    body = "\n        x = 1" * LINES
    source = f"""class Some:
    def fits(self, {arguments}, *more): ...
    async def wide(self, {arguments}, *more, **most): ...
    def long(self):{body}
        def inner({arguments}, a, /, *, b): ...
def verb({arguments}, b, c): ...
if True:
    @decorated
    def both({arguments}, b=1, c=2):{body}
    @decorated
    def exact({arguments}, b=1):{body.removesuffix("x = 1").rstrip()}
"""
    assert oversized(source, ["verb"]) == {
        "Some.wide": "parameters",
        "Some.long": "lines",
        "Some.long.inner": "parameters",
        "both": "lines parameters",
    }
    assert "verb" in oversized(source)


def test_no_function_needs_a_scroll():
    """An exception stands in the table, with its reason, for as long as it is one."""
    commands = {f"cli.{c.callback.__name__}": c.callback.__name__ for c in app.registered_commands if c.callback}
    tools = {f"tools.{p.stem}": p.read_text(encoding="utf-8") for p in sorted((PACKAGE.parent / "tools").glob("*.py"))}
    found = {}
    for module, source in (modules() | tools).items():
        found |= {f"{module}.{name}": over for name, over in oversized(source, [commands[module]] if module in commands else []).items()}
    assert found == {name: over for name, (over, _) in OVERSIZED.items()}


# ----- registrations -----


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries that may be written to."""
    monkeypatch.setattr(registry, "REGISTRY", dict(REGISTRY))
    monkeypatch.setattr(registry, "NOT_DIFFERENTIABLE", dict(NOT_DIFFERENTIABLE))


def formula(op: object, node: object, dy: object) -> list:
    """dx = dy."""
    return [dy]


def no_formula(op: object, node: object, dy: object) -> list:
    return [dy]


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    ("names", "changes", "function", "message"),
    [
        (("Fresh",), {"cases": []}, formula, "Fresh is registered without test cases"),
        (("Relu",), {}, formula, "Relu is registered twice"),
        (("Fresh", "Fresh"), {}, formula, "Fresh is registered twice"),
        (("Fresh",), {"family": "activatoin"}, formula, "unknown family 'activatoin'.*did you mean 'activation'"),
        (("Fresh",), {"axis": None}, formula, "unknown option 'axis'.*did you mean 'axes'"),
        (("Fresh",), {}, no_formula, "needs a docstring with its formula"),
    ],
)
def test_an_incomplete_registration_is_refused(names: tuple, changes: dict, function: object, message: str):
    options = {"family": "activation", "bias": "zero", "cases": [case((2, 3))]} | changes
    with pytest.raises(ValueError, match=message):
        gradient_of(*names, **options)(function)


@pytest.mark.usefixtures("scratch")
def test_an_operator_is_differentiable_or_not_but_not_both():
    stopped = next(o for d, o in NOT_DIFFERENTIABLE if not d)
    with pytest.raises(ValueError, match=f"{stopped} is registered twice"):
        gradient_of(stopped, family="activation", bias="zero", cases=[case((2, 3))])(formula)
    with pytest.raises(ValueError, match="Relu is registered twice"):
        not_differentiable("no reason", "Relu")


def test_every_operator_states_family_formula_bias_and_cases():
    for (_, name), spec in REGISTRY.items():
        assert spec.family in registry.FAMILIES, name
        assert spec.formula.strip(), name
        assert spec.cases, name
        assert spec.bias is not None, name
    assert all(reason.strip() for reason in NOT_DIFFERENTIABLE.values())


def test_ops_lists_every_operator_once():
    listed = onnxsal.ops()
    assert len(listed) == len(REGISTRY) + len(NOT_DIFFERENTIABLE)
    assert listed["Relu"].family == "activation"
    assert isinstance(listed["ArgMax"], str)


# ----- plans -----


def gappy() -> onnx.ModelProto:
    """Three nodes that nobody can explain, between two that can be."""
    nodes = [
        node("Relu", "x", "r"),
        node("Mystery", "r", "a", domain="com.example", name="first"),
        node("Enigma", "a", "b", domain="com.example", name="second"),
        node("Relue", "b", "y", domain="com.example", name="third"),
    ]
    for i, name in enumerate("rab"):
        nodes[i].output[0] = name
    model = make(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, domains={"com.example": 1})
    model.graph.value_info.extend(onnx.helper.make_tensor_value_info(n, 1, ["N", 4]) for n in "ab")
    return model


def test_a_plan_lists_every_gap_at_once():
    with pytest.raises(PlanError) as caught:
        onnxsal.plan(gappy(), "gradient")
    text = str(caught.value)
    for part in ("first", "second", "third", "com.example.Mystery", "3 node(s)", "opset 1", "did you mean 'Relu'"):
        assert part in text
    assert "node 'r'" not in text


def test_a_plan_says_which_rule_crosses_which_node_and_why():
    decided = onnxsal.plan(cnn(), "guided_backprop")
    assert decided.counts()["Relu", "guided"] == 2
    assert decided.counts()["Conv", "gradient"] == 2
    text = str(decided)
    for part in ("c1", "Conv", "linear", "guided", "tag=rectifier", "every other node"):
        assert part in text
    assert len(text.splitlines()) == 2 + len(decided.steps)


def test_planning_changes_nothing():
    model = cnn()
    before = model.SerializeToString(deterministic=True)
    onnxsal.plan(model, "gradient")
    onnxsal.convert(model, "gradient")
    assert model.SerializeToString(deterministic=True) == before


# ----- rule files -----

HEAD = 'name = "mine"\ntitle = "Mine"\nsource = "nobody"\n'


def rule_files() -> list[Path]:
    import importlib.resources

    return sorted(Path(str(p)) for p in importlib.resources.files("onnxsal.rules").iterdir() if p.name.endswith(".toml"))


@pytest.mark.parametrize("path", rule_files(), ids=lambda p: p.stem)
def test_a_shipped_rule_file_loads_under_its_name(path: Path):
    method = parse_method(path.read_text(encoding="utf-8"), path.name)
    assert method.name == path.stem
    assert method.wrap in WRAPPERS
    assert method.title
    assert method.source
    assert method.formula
    assert {r.use for r in method.rules} <= set(RULES)
    assert method.settle({}) == {k: p.default for k, p in method.parameters.items()}
    assert all(p.doc for p in method.parameters.values())
    for preset in method.presets:
        assert method.settle({"preset": preset}) != method.settle({})
    assert onnxsal.methods()[path.stem] == method


def test_methods_are_found_by_their_usual_names():
    for method in shipped_methods().values():
        for alias in (method.name, method.name.upper(), method.name.replace("_", "-"), *method.aliases):
            assert get_method(alias) is method
    assert get_method("IntegratedGradients") is get_method("ig") is get_method("integrated gradients")
    plain = [a.lower().replace("_", "") for m in shipped_methods().values() for a in {m.name, *m.aliases}]
    assert len(set(plain)) >= len(shipped_methods())


def test_no_two_methods_share_a_name():
    owners: dict[str, str] = {}
    for method in shipped_methods().values():
        for alias in (method.name, *method.aliases):
            plain = "".join(c for c in alias.lower().replace("+", "plus") if c.isalnum())
            assert owners.setdefault(plain, method.name) == method.name, alias


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + 'alias = ["x"]\n[[rule]]\nuse = "gradient"\n', "unknown key 'alias' .did you mean 'aliases'"),
        (HEAD + '[[rule]]\nuse = "gradeint"\n', r"row 1: unknown rule 'gradeint' .did you mean 'gradient'"),
        (HEAD + '[[rule]]\nuse = "gradient"\nfamly = "linear"\n', "unknown key 'famly' .did you mean 'family'"),
        (HEAD + '[[rule]]\nuse = "gradient"\nfamily = "lineer"\n', "unknown family 'lineer' .did you mean 'linear'"),
        (HEAD + '[[rule]]\nuse = "gradient"\nposition = "frist"\n', "unknown position 'frist' .did you mean 'first'"),
        (HEAD + '[[rule]]\nop = "Conv"\n', "needs 'use'"),
        (HEAD, r"keys \['rule'\] are missing"),
        ('name = "mine"\n[[rule]]\nuse = "gradient"\n', r"keys \['source', 'title'\] are missing"),
        (HEAD + '[[rule]]\nuse = "gradient"\n[[refuse]]\nop = "Gemm"\nwy = "no"\n', "unknown key 'wy' .did you mean 'why'"),
        (HEAD + '[[rule]]\nuse = "gradient"\n[parameters.n]\ndefault = 1\n', "parameter 'n': needs 'default' and 'doc'"),
        (
            HEAD + '[[rule]]\nuse = "gradient"\n[parameters.n]\ndefault = 1\ndoc = "n"\nchoice = [1]\n',
            "unknown key 'choice' .did you mean 'choices'",
        ),
        (HEAD + '[[rule]]\nuse = "gradient"\n[preset.p]\nm = 1\n', "preset 'p': unknown key 'm'"),
        (HEAD + "[[rule]\n", "not valid TOML"),
    ],
)
def test_a_rule_file_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MethodError, match=message) as caught:
        onnxsal.convert(cnn(), path)
    assert "mine.toml" in str(caught.value)


def test_a_rule_file_of_ones_own_is_followed(tmp_path: Path):
    """First match wins; a family, an operator, a position, a glob and a refusal each choose nodes."""
    path = tmp_path / "mine.toml"
    rows = '[[rule]]\nname = "r?"\nop = "Relu"\nuse = "guided"\n[[rule]]\nfamily = ["linear"]\nposition = "first"\nuse = "gradient"\n'
    rows += '[[rule]]\nuse = "gradient"\n'
    path.write_text(HEAD + rows, encoding="utf-8")
    decided = onnxsal.plan(cnn(), path)
    why = {s.node.name: s.why for s in decided.steps}
    assert why["r1"].startswith("rule 1")
    assert why["c1"].startswith("rule 2")
    assert why["c2"].startswith("rule 3")
    path.write_text(HEAD + rows + '[[refuse]]\nop = "MaxPool"\nwhy = "pools are not for me"\n', encoding="utf-8")
    with pytest.raises(PlanError, match=r"node 'p1' \(MaxPool, opset 18\): method 'mine' does not explain it: pools are not for me"):
        onnxsal.plan(cnn(), path)


def test_a_rule_on_the_wrong_family_is_a_gap(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + '[[rule]]\nop = "Conv"\nuse = "guided"\n[[rule]]\nuse = "gradient"\n', encoding="utf-8")
    with pytest.raises(PlanError, match="rule 'guided' cannot explain it: it is linear, the rule takes activation") as caught:
        onnxsal.plan(cnn(), path)
    assert str(caught.value).count("cannot explain it") == 2


def test_an_unknown_wrapper_is_refused(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + 'wrap = "pth"\n[[rule]]\nuse = "gradient"\n', encoding="utf-8")
    with pytest.raises(MethodError, match=r"unknown wrap 'pth' .did you mean 'path'"):
        onnxsal.convert(cnn(), path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_step": 3}, "no parameter 'n_step' .did you mean 'n_steps'"),
        ({"rule": "simpson"}, "rule='simpson' is not one of"),
        ({"preset": "matlb"}, "no preset 'matlb' .did you mean 'matlab'"),
        ({"n_steps": "many"}, "n_steps='many'"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"n_steps": 2.5}, "n_steps=2.5"),
        ({"n_steps": 3, "steps": 4}, "'n_steps' is given twice"),
    ],
)
def test_a_wrong_parameter_is_refused(given: dict, message: str):
    with pytest.raises(MethodError, match=message):
        onnxsal.convert(cnn(), "integrated_gradients", **given)


def test_parameters_follow_the_field():
    """Captum's names are taken for ours."""
    settled = get_method("ig").settle({"n_steps": 7, "baselines": 0.5, "internal_batch_size": 2})
    assert (settled["n_steps"], settled["baseline"], settled["chunk"]) == (7, 0.5, 2)
    assert get_method("smoothgrad").settle({"nt_samples": np.int64(4)})["n_samples"] == 4


# ----- the tests -----


def test_what_is_listed_as_long_is_a_test():
    """A test that was renamed would come back into the short run unseen."""
    here, listed = Path(__file__).parent, sorted(LONG)
    files = {name.partition("::")[0] for name in listed if name and not name.startswith("#")}
    defined = {
        f"{file}::{part.name}"
        for file in files
        for part in ast.walk(ast.parse((here.parent / file).read_text()))
        if isinstance(part, ast.FunctionDef)
    }
    assert [name for name in listed if name and not name.startswith("#") and name not in defined] == []
