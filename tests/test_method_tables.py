"""Rule tables: settings choose rows and fill in parameters; every mistake is an error that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxsal
from onnxsal.engine.method import get_method, parse_method
from onnxsal.errors import MethodError
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
