"""Rule tables: settings choose rows and fill in parameters; every mistake is an error that names it."""

from __future__ import annotations

import itertools
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import onnxsal
from onnxsal.backward import RULES
from onnxsal.cli.app import app
from onnxsal.engine.coverage import TableWarning
from onnxsal.engine.method import TABLE_KEYS, Method, get_method, parse_method, shipped_methods
from onnxsal.engine.table_rows import MATCH_KEYS
from onnxsal.errors import MethodError
from onnxsal.ops.registry import REGISTRY
from tests.torch_nets import export, net

HEAD = 'name = "mine"\ntitle = "t"\nsource = "s"\nwrap = "relevance"\nseed = "score"\n'
STRENGTH = '[parameters.strength]\ndefault = 0.25\ndoc = "d"\n[parameters.kind]\ndefault = "a"\ndoc = "d"\nchoices = ["a", "b"]\n'


def test_settings_choose_rows_and_fill_in_parameters() -> None:
    text = (
        HEAD + STRENGTH + '[[normalise]]\nuse = "fold_batchnorm"\nwhen = { kind = "a" }\n'
        '[[rule]]\nfamily = "linear"\nuse = "gamma"\ngamma = "$strength"\nwhen = { kind = "a" }\n[[rule]]\nuse = "gradient"\n'
    )
    method = parse_method(text, "mine")
    first = method.bound(method.settle({"strength": 0.5}))
    assert [r.use for r in first.rules] == ["gamma", "gradient"]
    assert first.rules[0].parameters == {"gamma": 0.5}
    assert [r.use for r in first.normalise] == ["fold_batchnorm"]
    other = method.bound(method.settle({"kind": "b"}))
    assert [r.use for r in other.rules] == ["gradient"]
    assert not other.normalise
    assert [r.number for r in other.rules] == [2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('[[rule]]\nuse = "gamma"\ngamma = "$strenght"\n', "did you mean 'strength'"),
        ('[[rule]]\nuse = "gamma"\nwhen = { kidn = "a" }\n', "did you mean 'kind'"),
        ('[[rule]]\nuse = "gamma"\nwhen = { kind = "c" }\n', "is not one of"),
        ('[[rule]]\nuse = "gamma"\n[[normalise]]\nuse = "fold"\n', "unknown pass 'fold'"),
        ('[[rule]]\nuse = "gamma"\n[[normalise]]\nuse = "fold_batchnorm"\nop = "Conv"\n', "unknown key 'op'"),
        ('[[rule]]\nuse = "epsilon"\ngamma = 2\n', "unknown key 'gamma'"),
    ],
)
def test_mistakes_in_rows_name_the_near_miss(rows: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        parse_method(HEAD + STRENGTH + rows, "mine")


def test_an_unknown_seed_is_refused() -> None:
    with pytest.raises(MethodError, match="unknown seed 'scroe'"):
        parse_method(HEAD.replace('"score"', '"scroe"') + '[[rule]]\nuse = "gradient"\n', "mine")


def test_a_table_of_ones_own_runs(tmp_path: Path) -> None:
    """The plan shows which rule crosses which node, folded batch normalisation included."""
    file = tmp_path / "mine.toml"
    shipped = get_method("lrp_epsilon")
    assert shipped.seed == "score"
    file.write_text(
        HEAD
        + '[[normalise]]\nuse = "fold_batchnorm"\n[[rule]]\ntag = "folded"\nuse = "pass"\n[[rule]]\nfamily = "linear"\nposition = "first"\n'
        'use = "flat"\n[[rule]]\nfamily = "linear"\nuse = "gamma"\ngamma = 0.1\n[[rule]]\nfamily = "activation"\nuse = "pass"\n'
        '[[rule]]\nfamily = "add"\nuse = "split"\n[[rule]]\nfamily = "average_pool"\nuse = "norm"\n[[rule]]\nuse = "gradient"\n'
    )
    exported = export(net("resnet18"), "legacy", 18, fold=False)
    plan = onnxsal.plan(exported, file)
    used = {(s.node.op_type, s.rule.name) for s in plan.steps}
    assert {("Conv", "flat"), ("Conv", "gamma"), ("BatchNormalization", "pass"), ("Add", "split"), ("MaxPool", "gradient")} <= used
    assert onnxsal.Explainer(exported, file).explain(np.zeros((1, 3, 32, 32), np.float32)).residual is not None


@pytest.mark.parametrize(
    "spelling", ["LRP.epsilon", "EpsilonPlus", "LRPAlpha2Beta1", "lrp_for_resnet", "DeepTaylor", "DeepLift", "EpsilonGammaBox"]
)
def test_usual_spellings(spelling: str) -> None:
    assert get_method(spelling).name.startswith(("lrp_", "deep"))


# ----- a table over another one -----


SIX_LINES = 'name = "mine"\nextends = "lrp"\n[[rule]]\nfamily = "linear"\nuse = "gamma"\ngamma = 0.5\n'


@dataclass(frozen=True)
class Fake:
    """What ``Method.choose`` looks at."""

    op_type: str
    tags: frozenset[str]
    name: str = "n"


def choices(method: Method) -> dict[tuple[str, tuple[str, ...], str], str]:
    """What a method does at every operator, with tags and at every position."""
    found = {}
    for (_, op), spec in REGISTRY.items():
        tags = [(), ("rectifier",), ("batchnorm",)]
        tags += [("product",)] if spec.family in ("product", "linear") else []
        tags += [("folded",)] if spec.scaling is not None else []
        for held, position in itertools.product(tags, ("first", "inner", "last")):
            choice = method.choose(Fake(op, frozenset(held)), spec.family, position)  # type: ignore[arg-type]
            found[op, held, position] = choice if isinstance(choice, str) else f"{choice[0].name} {choice[1]}"
    return found


def test_six_lines_are_a_method_that_differs_in_linear_nodes_alone() -> None:
    mine, base = parse_method(SIX_LINES, "mine.toml"), get_method("lrp_zero")
    a, b = (choices(m.bound(m.settle({}))) for m in (mine, base))
    family = {op: spec.family for (_, op), spec in REGISTRY.items()}
    differ = {k for k in a if a[k] != b[k] and not a[k].startswith(("method", "no [[rule]] row"))}  # refusals name the method
    assert differ == {k for k in a if family[k[0]] == "linear" and k[1] not in (("product",), ("folded",))}
    assert all(a[k] == "gamma {'gamma': 0.5}" for k in differ)
    assert (mine.wrap, mine.seed, mine.law, mine.parameters) == (base.wrap, base.seed, base.law, base.parameters)


def test_rows_of_ones_own_come_before_those_of_the_base_refusals_included() -> None:
    text = (
        f'{SIX_LINES}[[rule]]\nfamily = "softmax"\nuse = "gradient"\n[[rule]]\ntag = "product"\nuse = "gradient"\n'
        '[[refuse]]\nop = "Erf"\nwhy = "no"\n'
    )
    method = parse_method(text, "mine.toml")
    found = choices(method)
    assert found["Softmax", (), "inner"].startswith("gradient")
    assert found["Mul", ("product",), "inner"].startswith("gradient")
    assert found["MatMul", ("product",), "inner"].startswith("gradient")
    assert found["Erf", (), "inner"].endswith("no")


def test_parameters_presets_and_passes_are_inherited_and_overridden() -> None:
    text = (
        'name = "mine"\nextends = "lrp_resnet"\n[fixed]\nmax_pool = "average"\n[parameters.epsilon]\ndefault = 0.5\n'
        '[preset.keio]\nsplit = "symmetric"\n[[normalise]]\nuse = "fold_batchnorm"\n'
    )
    mine, base = parse_method(text, "mine.toml"), get_method("lrp_resnet")
    assert set(base.parameters) - set(mine.parameters) == {"max_pool"}
    assert mine.parameters["epsilon"].default == 0.5
    assert mine.parameters["epsilon"].doc == base.parameters["epsilon"].doc
    assert mine.presets["keio"] == {"split": "symmetric"}
    assert "max_pool" not in mine.presets["keio_latest"]
    assert [r.when for r in mine.normalise] == [{}]
    assert "as_average" in {r.use for r in mine.bound(mine.settle({})).rules}
    with pytest.raises(MethodError, match="no parameter 'max_pool'"):
        mine.settle({"max_pool": "winner"})


def test_every_mistake_is_told_at_once_with_file_and_row() -> None:
    text = (
        'name = "mine"\nextends = "lrp"\nwarp = "x"\n[fixed]\nbais = "ignore"\n[parameters.p]\ndefault = 1\n'
        '[[rule]]\nfamily = "liner"\nuse = "gama"\n[[rule]]\nuse = "gamma"\ngama = 1\n[[refuse]]\nop = "Conv"\nbecause = "no"\n'
    )
    with pytest.raises(MethodError) as raised:
        parse_method(text, "mine.toml")
    told = str(raised.value).splitlines()
    wanted = ["unknown key 'warp'", "[fixed]: unknown key 'bais'", "parameter 'p'", "row 1: unknown family 'liner'"]
    wanted += ["row 1: unknown rule 'gama'", "[[rule]] row 2: unknown key 'gama'", "[[refuse]] row 1: unknown key 'because'"]
    assert len(told) == len(wanted)
    assert all(line.startswith("mine.toml") for line in told)
    assert all(any(w in line for line in told) for w in wanted), told


def test_a_table_extends_a_file_beside_it_and_never_itself(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text(SIX_LINES)
    (tmp_path / "second.toml").write_text('name = "second"\nextends = "first.toml"\n')
    assert choices(get_method(tmp_path / "second.toml")) == {
        k: v.replace("'mine'", "'second'") for k, v in choices(get_method(tmp_path / "first.toml")).items()
    }
    (tmp_path / "first.toml").write_text('name = "first"\nextends = "second.toml"\n')
    with pytest.raises(MethodError, match=r"extends itself, by way of .*first.toml -> .*second.toml -> .*first.toml"):
        get_method(tmp_path / "first.toml")
    (tmp_path / "second.toml").write_text('name = "second"\nextends = "lrp_epsilonn"\n')
    with pytest.raises(MethodError, match=r"second.toml: unknown method .*did you mean 'lrp_epsilon'"):
        get_method(tmp_path / "second.toml")


def test_a_changed_base_changes_the_hash(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text(SIX_LINES)
    (tmp_path / "second.toml").write_text('name = "second"\nextends = "first.toml"\n')
    before = get_method(tmp_path / "second.toml").sha256
    (tmp_path / "first.toml").write_text(SIX_LINES.replace("0.5", "0.6"))
    assert get_method(tmp_path / "second.toml").sha256 != before


def test_what_a_table_leaves_unsaid_is_told_when_it_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    rules = ('family = "linear"\nuse = "gamma"', 'family = "activation"\nuse = "pass"', 'use = "gradient"')
    file.write_text(HEAD + "".join(f"[[rule]]\n{rule}\n" for rule in rules))
    with pytest.warns(TableWarning) as told:
        get_method(file)
    text = str(told[0].message)
    assert str(file) in text
    assert "family 'add': lrp_zero has row 7: family=add -> split" in text
    assert "family 'softmax'" in text
    assert all(f"family '{f}'" not in text for f in ("linear", "activation", "movement", "max_pool"))
    said = CliRunner().invoke(app, ["methods", str(file)])
    assert said.stderr.count("family 'add'") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file.write_text(SIX_LINES)
        get_method(file)
        for name in shipped_methods():
            get_method(name)


def test_the_resolved_table_is_printed_with_the_file_of_each_row(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SIX_LINES)
    lines = CliRunner().invoke(app, ["methods", str(file), "--rules"]).stdout.splitlines()
    own = [line for line in lines if str(file) in line]
    assert len(own) == 1
    assert "family=linear" in own[0]
    assert "gamma=0.5" in own[0]
    assert len(lines) == 1 + 1 + len(get_method(file).rows)
    assert sum("rules/lrp_zero.toml" in line for line in lines) == len(lines) - 2


DOCS = (Path(__file__).resolve().parent.parent / "docs" / "rules.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", DOCS, re.S), ids=lambda t: t.split('"')[1])
def test_the_examples_of_the_documentation_run(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    method = get_method(file)
    own = {row.use for m in (method, *(part.method for part in method.of)) for row in m.rows if method.of or row.table == str(file)}
    plan = onnxsal.plan(export(net("resnet18"), "legacy", 18, fold=False), file)
    assert own & {s.rule.name for s in plan.steps} or any(row.table == str(file) for row in method.constants)


def test_the_documentation_names_every_key_and_every_rule() -> None:
    for word in (*TABLE_KEYS, *MATCH_KEYS, *RULES, "when", "always", "why", "use"):
        assert f"`{word}`" in DOCS or f"[{word}]" in DOCS, word
