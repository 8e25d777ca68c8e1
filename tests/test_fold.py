"""Batch normalisation folded in the backward view: the map of the network with folded weights, the forward nodes untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.engine.method import get_method
from onnxsal.engine.plan import make_plan
from onnxsal.facts.folds import NORMALISERS
from onnxsal.graph import Model
from tests.oracle import run
from tests.small_models import make, node

RNG = np.random.default_rng(0)
C = 6
SCALE, SHIFT, MEAN, VAR = RNG.uniform(0.5, 1.5, C) * RNG.choice([-1, 1], C), RNG.normal(size=C), RNG.normal(size=C), RNG.uniform(0.5, 2, C)
FACTOR = SCALE / np.sqrt(VAR + 1e-5)
CHANNELS = (1, C, 1, 1)

# layer -> (attributes, weight, bias or None, input shape, how a factor per unit multiplies the weight)
LAYERS: dict[str, tuple[str, dict[str, Any], np.ndarray, bool, tuple[int, ...], Any]] = {
    "Conv": ("Conv", {"pads": [1, 1, 1, 1]}, RNG.normal(size=(C, 2, 3, 3)), True, (2, 2, 5, 5), lambda w, s: w * s[:, None, None, None]),
    "Conv, groups": ("Conv", {"group": 2}, RNG.normal(size=(C, 2, 3, 3)), False, (2, 4, 5, 5), lambda w, s: w * s[:, None, None, None]),
    "ConvTranspose": (
        "ConvTranspose", {"strides": [2, 2]}, RNG.normal(size=(3, C, 3, 3)), True, (2, 3, 4, 4), lambda w, s: w * s[None, :, None, None],
    ),
    "ConvTranspose, groups": (
        "ConvTranspose", {"group": 2}, RNG.normal(size=(4, C // 2, 3, 3)), True, (2, 4, 4, 4),
        lambda w, s: (w.reshape(2, 2, C // 2, 3, 3) * s.reshape(2, 1, C // 2, 1, 1)).reshape(w.shape),
    ),
    "Gemm": ("Gemm", {"alpha": 0.5, "beta": 2.0}, RNG.normal(size=(5, C)), True, (3, 5), lambda w, s: w * s),
    "Gemm, transposed": ("Gemm", {"transB": 1}, RNG.normal(size=(C, 5)), True, (3, 5), lambda w, s: w * s[:, None]),
    "MatMul": ("MatMul", {}, RNG.normal(size=(5, C)), False, (3, 5), lambda w, s: w * s),
}  # fmt: skip

FORMS = ("BatchNormalization", "Sub Mul Add", "Mul Add", "reversed Sub", "turned Sub Mul Add", "turned twice")


def network(layer: str, form: str) -> onnx.ModelProto:
    """The layer, a normalisation in one of its forms (or "folded"), Relu, and a sum as the score."""
    op_type, attributes, weight, biased, shape, times = LAYERS[layer]
    bias = np.random.default_rng(1).normal(size=C) if biased else np.zeros(C)
    rank4 = len(shape) == 4
    per = CHANNELS if rank4 else (C,)
    weights = {
        "w": weight,
        "s": np.asarray(FACTOR).reshape(per),
        "t": (SHIFT - MEAN * FACTOR).reshape(per),
        "m": MEAN.reshape(per),
        "b": bias,
    }
    weights |= {"g": SCALE, "beta": SHIFT, "mu": MEAN, "var": VAR, "add": SHIFT.reshape(per)}
    inputs = "x w b" if biased else "x w"
    nodes = [node(op_type, inputs, "z", **attributes)]
    if form == "BatchNormalization":
        nodes.append(node("BatchNormalization", "z g beta mu var", "n"))
    elif form == "Sub Mul Add":
        nodes += [node("Sub", "z m", "n1"), node("Mul", "n1 s", "n2"), node("Add", "add n2", "n")]
    elif form == "Mul Add":
        nodes += [node("Mul", "s z", "n1"), node("Add", "n1 t", "n")]
    elif form == "reversed Sub":
        weights |= {"s": -weights["s"]}
        nodes += [node("Sub", "m z", "n1"), node("Mul", "n1 s", "n2"), node("Add", "n2 add", "n")]
    elif form == "turned Sub Mul Add":  # as from Keras: the normalisation is in channels last, and so may be what follows
        there, back = ([0, 2, 3, 1], [0, 3, 1, 2]) if rank4 else ([1, 0], [1, 0])
        weights |= {k: np.transpose(weights[k].reshape(CHANNELS if rank4 else (1, C)), there) for k in ("m", "s", "add")}
        nodes += [
            node("Transpose", "z", "zt", perm=there),
            node("Cast", "zt", "zc", to=11),
            node("Sub", "zc m", "n1"),
            node("Identity", "n1", "n1i"),
        ]
        nodes += [node("Mul", "n1i s", "n2"), node("Add", "n2 add", "nt"), node("Transpose", "nt", "n", perm=back)]
    elif form == "turned twice":  # half of it in another order of axes that is not its own inverse
        there, back = ([1, 2, 0, 3], [2, 0, 1, 3]) if rank4 else ([1, 0], [1, 0])
        nodes += [
            node("Sub", "z m", "n1"),
            node("Transpose", "n1", "nt", perm=there),
            node("Mul", "nt st", "n2"),
            node("Transpose", "n2", "n3", perm=back),
        ]
        weights |= {"st": np.transpose(weights["s"].reshape(CHANNELS if rank4 else (1, C)), there)}
        nodes += [node("Add", "add n3", "n")]
    else:
        weights |= {"w": times(weight, FACTOR), "b": bias * FACTOR + (SHIFT - MEAN * FACTOR) / float(attributes.get("beta", 1.0))}
        nodes = (
            [node(op_type, "x w b", "n", **attributes)] if op_type != "MatMul" else [node("MatMul", "x w", "n0"), node("Add", "n0 b", "n")]
        )
    nodes += [node("Relu", "n", "r"), node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "y")] if rank4 else [node("Relu", "n", "y")]
    used = {n for item in nodes for n in item.input}
    kept = {k: v for k, v in weights.items() if k in used}
    return make(nodes, {"x": ["N", *shape[1:]]}, {"y": ["N", C]}, kept, types={"x": 11, "y": 11})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_resnet", "lrp_alpha2_beta1"])
def test_map_of_the_folded_network(layer: str, form: str, method: str) -> None:
    shape = LAYERS[layer][4]
    x = np.random.default_rng(2).normal(size=shape)
    given = {"input_rule": "zplus"} if method == "lrp_resnet" else {}
    before = network(layer, form)
    made = onnxsal.convert(onnx.ModelProto.FromString(before.SerializeToString()), method, target=1, **given)
    assert [n.SerializeToString() for n in made.graph.node[: len(before.graph.node)]] == [n.SerializeToString() for n in before.graph.node]
    got = run(made, {"x": x})
    wanted = run(onnxsal.convert(network(layer, "folded"), method, target=1, **given), {"x": x})
    np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got["attribution"], wanted["attribution"], rtol=1e-7, atol=1e-9)
    assert got["residual"].max() < 1e-6


def test_what_is_read_elsewhere_or_explained_is_not_folded() -> None:
    model = Model(network("Conv", "BatchNormalization"))
    fold = NORMALISERS["fold_batchnorm"]
    assert len(fold(model, ())) == 1
    assert not fold(model, {"z"})
    branched = network("Conv", "BatchNormalization")
    branched.graph.node.insert(3, node("Relu", "z", "unused"))
    model = Model(branched)
    assert not fold(model, ())
    assert get_method("lrp_epsilon").normalise


def test_a_plan_owns_its_folds() -> None:
    """Two plans on one model, one that folds and one that does not, in both orders: each sees its own folds and tags only."""
    method = get_method("lrp_resnet")
    folding, passing = (method.bound(method.settle(given)) for given in ({}, {"batchnorm": "pass"}))
    model = Model(network("Conv", "BatchNormalization"))

    def seen(plan) -> list:
        return [(s.node.name, s.node.fold is not None, "folded" in s.node.tags, s.rule.name) for s in plan.steps]

    alone = seen(make_plan(Model(network("Conv", "BatchNormalization")), passing, ["x"], ["y"]))
    first = seen(make_plan(model, folding, ["x"], ["y"]))
    assert seen(make_plan(model, passing, ["x"], ["y"])) == alone
    assert seen(make_plan(model, folding, ["x"], ["y"])) == first
    assert any(fold for _, fold, _, _ in first)
    assert not any(fold or folded for _, fold, folded, _ in alone)
