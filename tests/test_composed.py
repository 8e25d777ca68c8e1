"""Methods made of others, and methods, rules and wrappers that another package adds."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

import onnxsal
from onnxsal import Explainer
from onnxsal.ask.request import Ask
from onnxsal.engine.method import Method, get_method, parse_method, shipped_methods
from onnxsal.errors import MethodError
from onnxsal.facade.convert import conversion
from onnxsal.methods import WRAPPERS
from onnxsal.methods.build import wrapper_of
from tests.small_models import cnn

RNG = np.random.default_rng(5)
X = RNG.normal(size=(3, 3, 8, 8)).astype(np.float32)


def table(of: str, wrap: str = "product", more: str = "") -> Method:
    return parse_method(f'name = "whole"\nwrap = "{wrap}"\nof = {of}\n{more}', "whole.toml")


SCALES = {
    "none": lambda v, axes: v,
    "max": lambda v, axes: v / np.abs(v).max(axes, keepdims=True),
    "sum": lambda v, axes: v / np.abs(v).sum(axes, keepdims=True),
    "range": lambda v, axes: (v - v.min(axes, keepdims=True)) / (v.max(axes, keepdims=True) - v.min(axes, keepdims=True)),
}
FOLDS = {
    "product": lambda values: reduce(np.multiply, values),
    "sum": lambda values: reduce(np.add, values),
    "mean": lambda values: reduce(np.add, values) / len(values),
}


@pytest.mark.parametrize("wrap", FOLDS)
@pytest.mark.parametrize("scale", SCALES)
def test_a_whole_is_its_parts_brought_to_scale(wrap: str, scale: str) -> None:
    parts = ["lrp_epsilon", "gradcam", "deeplift"]
    whole = Explainer(cnn(), table(f'["{parts[0]}", {{ method = "{parts[1]}", rescale = "{scale}" }}, "{parts[2]}"]', wrap)).explain(X, 1)
    alone = [Explainer(cnn(), part).explain(X, 1) for part in parts]
    for name, axes in (("attribution", (1, 2, 3)), ("saliency_map", (1, 2))):
        values = [np.asarray(getattr(e, name), np.float64) for e in alone]
        values[1] = SCALES[scale](values[1], axes)
        wanted = FOLDS[wrap](values)
        np.testing.assert_allclose(getattr(whole, name), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    residuals = {p: e.residual for p, e in zip(parts, alone, strict=True) if e.residual is not None}
    assert set(residuals) == {"lrp_epsilon", "deeplift"}
    for part, residual in residuals.items():
        np.testing.assert_allclose(whole.components[f"{part}/residual"], residual, atol=1e-6)
    np.testing.assert_allclose(whole.residual, np.max(list(residuals.values()), axis=0), atol=1e-6)  # type: ignore[arg-type]


def test_what_parts_send_alike_is_sent_once() -> None:
    def nodes(method: str | Method) -> int:
        return len(onnxsal.convert(cnn(), method).graph.node)

    plain = len(cnn().graph.node)
    both = nodes(table('["gradient", "input_x_gradient"]', "sum"))
    assert both < nodes("gradient") + 15
    assert nodes(table('["gradient", "guided_backprop"]', "sum")) < nodes("gradient") + nodes("guided_backprop") - plain
    found = Explainer(cnn(), table('["gradient", "input_x_gradient"]', "sum")).explain(X, 0)
    gradient = Explainer(cnn(), "gradient").explain(X, 0).attribution
    np.testing.assert_allclose(found.attribution, gradient * (1 + X), atol=1e-6)


@pytest.mark.parametrize("name", ["n_steps", "steps"])
def test_a_part_takes_its_parameters_from_its_row_or_from_the_whole(name: str) -> None:
    of = f'[{{ method = "ig", {name} = "$n" }}, {{ method = "ig", n_steps = 3, rule = "trapezoid" }}]'
    whole = Explainer(cnn(), table(of, "mean", "[parameters.n]\ndefault = 2\ndoc = 'steps'\n"), n=4).explain(X, 1)
    parts = [Explainer(cnn(), "ig", n_steps=4).explain(X, 1), Explainer(cnn(), "ig", n_steps=3, rule="trapezoid").explain(X, 1)]
    np.testing.assert_allclose(whole.attribution, (parts[0].attribution + parts[1].attribution) / 2, atol=1e-6)
    assert {f"integrated_gradients{i}/residual" for i in (0, 1)} == {k for k in whole.components if k.endswith("residual")}


def test_a_whole_of_wholes(tmp_path: Path) -> None:
    (tmp_path / "inner.toml").write_text('name = "inner"\nwrap = "sum"\nof = ["gradient", "gradcam"]\n')
    (tmp_path / "outer.toml").write_text('name = "outer"\nwrap = "product"\nof = ["inner.toml", "input_x_gradient"]\n')
    found = Explainer(cnn(), tmp_path / "outer.toml").explain(X, 1)
    g, c, i = (Explainer(cnn(), m).explain(X, 1).attribution for m in ("gradient", "gradcam", "input_x_gradient"))
    np.testing.assert_allclose(found.attribution, (g + c) * i, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('wrap = "product"\nof = ["lrp_epsilom", "gradcam"]', "part 1: unknown method 'lrp_epsilom' .did you mean 'lrp_epsilon'"),
        ('wrap = "product"\nof = ["gradcam", {method = "ig", steps = 0}]', "part 2: .*n_steps=0 is not 1 or more"),
        ('wrap = "product"\nof = ["gradcam", {method = "ig", stepps = 3}]', "part 2: .*no parameter 'stepps'"),
        ('wrap = "product"\nof = ["gradcam", {method = "ig", n_steps = "$n"}]', "unknown parameter 'n'"),
        ('wrap = "product"\nof = ["gradcam", {method = "ig", rescale = "mx"}]', "unknown rescale 'mx'.*known: none, max"),
        ('wrap = "product"\nof = ["gradcam"]', "made of two others or more"),
        ('wrap = "product"\nof = ["gradcam", 3]', "part 2: 3 names no method"),
        ('wrap = "relevance"\nof = ["gradcam", "ig"]', "of = .* goes with product, sum, mean"),
        ('wrap = "product"\ntitle = "t"\nsource = "s"', "its wrap is 'product', but of"),
        ('wrap = "poduct"\nof = ["gradcam", "ig"]', "unknown wrap 'poduct' .did you mean 'product'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        onnxsal.convert(cnn(), parse_method(f'name = "whole"\n{text}\n', "whole.toml"))


def test_wrappers_keep_what_they_promise() -> None:
    assert "" in WRAPPERS
    for method in shipped_methods().values():
        found = wrapper_of(method)
        assert bool(found.keeps) == bool(method.law), method.name
        assert (found.starts == "nothing") == (not method.rules and not method.of), method.name
        assert found.books == (found.name in ("relevance", "modified_gradient"))


PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "third-party"
version = "1"
[project.entry-points."onnxsal.methods"]
third = "third_party.tables"
[project.entry-points."onnxsal.rules"]
third = "third_party.rules"
[tool.setuptools]
packages = ["third_party", "third_party.tables"]
[tool.setuptools.package-data]
"third_party.tables" = ["*.toml"]
"""
RULES = """
from onnxsal.backward import rule
from onnxsal.methods.build import Result, wrap

@rule("halved")
def halved(op, node, dys):
    return [op.Mul(dys[0], 0.5) if wanted else None for wanted in node.wants]

@wrap("negated")
def negated(build):
    return Result(build.op.Neg(build.walk()))
"""
TABLE = """
name = "third"
title = "t"
source = "s"
wrap = "negated"
aliases = ["3rd"]
[[rule]]
op = "Relu"
use = "halved"
[[rule]]
use = "gradient"
"""
TRY = """
import json, sys, numpy as np, onnxsal
from tests.small_models import cnn
x = np.ones((1, 3, 8, 8), np.float32)
third, plain = (onnxsal.Explainer(cnn(), m).explain(x, 0) for m in ("3rd", "gradient"))
print(json.dumps([sorted(set(onnxsal.methods()) - {"gradient"})[-1], float(np.abs(third.attribution).max()), len(onnxsal.methods())]))
"""


def installed(folder: Path, table: str = TABLE, rules: str = RULES) -> Path:
    """A package that adds a method, a rule and a wrapper, installed into a folder of its own."""
    source, target = folder / "source", folder / "site"
    tables = source / "third_party" / "tables"
    tables.mkdir(parents=True)
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "third_party" / "__init__.py").write_text("")
    (tables / "__init__.py").write_text("")
    (tables / "third.toml").write_text(table)
    (source / "third_party" / "rules.py").write_text(rules)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def tried(target: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parent.parent
    code = f"import sys; sys.path[:0] = [{str(root)!r}, {str(target)!r}]\n{TRY}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_another_package_adds_a_method_a_rule_and_a_wrapper(tmp_path: Path) -> None:
    done = tried(installed(tmp_path / "good"))
    assert done.returncode == 0, done.stderr
    name, largest, count = json.loads(done.stdout)
    assert (name, count) == ("third", len(shipped_methods()) + 1)
    assert largest > 0
    taken = tried(installed(tmp_path / "taken", TABLE.replace('"3rd"', '"ig"')))
    assert "third_party.tables/third.toml: the name 'ig' belongs to method 'integrated_gradients' already" in taken.stderr
    broken = tried(installed(tmp_path / "broken", rules="import no_such_module"))
    assert "package 'third-party' says that it adds to onnxsal" in broken.stderr
    assert "no_such_module" in broken.stderr


def test_the_plan_of_a_whole_is_that_of_its_parts() -> None:
    plans = {p.method for p in conversion(Ask.of(cnn(), table('["lrp_epsilon", "gradcam"]'))).plans}
    assert plans == {"lrp_epsilon", "gradcam"}
    assert get_method("gradcam").of == ()
