"""Sums read behind their ReLU: the same relevance as in front of it, and never where relevance could arrive at a closed ReLU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.backward import RULES
from onnxsal.backward.registry import never
from onnxsal.engine import rectified as module
from onnxsal.errors import OnnxsalError
from onnxsal.facts.reach import reach
from onnxsal.graph import Model
from onnxsal.methods import relevance
from onnxsal.ops.registry import REGISTRY
from tests.lrp_models import with_rule
from tests.oracle import one_node_model, run
from tests.small_models import draw, make, node

DOUBLE = onnx.TensorProto.DOUBLE
WEIGHTS = {f"w{i}": draw(4, 4 if i else 3, 3, 3, seed=i, dtype=np.float64, scale=0.4) for i in range(4)}
WEIGHTS |= {f"b{i}": draw(4, seed=9 + i, dtype=np.float64, scale=0.2) for i in range(4)}
WEIGHTS |= {
    "out": draw(4, 5, seed=20, dtype=np.float64),
    "zero": np.zeros(1),
    "half": np.full(1, 0.5),
    "floor": np.zeros(()),
    "six": np.full((), 6.0),
    "rows": np.zeros((1, 4, 8, 8), np.int64),
}
BN = {n: np.abs(draw(4, seed=30 + i, dtype=np.float64)) + 0.1 for i, n in enumerate(("scale", "shift", "mean", "var"))}
END = [node("GlobalAveragePool", "last", "gap"), node("Flatten", "gap", "flat"), node("MatMul", "flat out", "y")]


def conv(x: str, i: int, y: str) -> onnx.NodeProto:
    return node("Conv", f"{x} w{i} b{i}", y, pads=[1, 1, 1, 1])


def net(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    inside = {n for step in nodes for n in step.input}
    weights = {k: v for k, v in (WEIGHTS | BN).items() if k in inside | {"out"}}
    return make([*nodes, *END], {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, weights, types={"x": DOUBLE, "y": DOUBLE})


RESIDUAL = net(
    conv("x", 0, "z0"),
    node("Relu", "z0", "a0"),
    conv("a0", 1, "z1"),
    node("Max", "z1 zero", "a1"),
    conv("a1", 2, "z2"),
    node("Add", "z2 a0", "sum"),
    node("Clip", "sum floor", "a2"),
    node("MaxPool", "a2", "pooled", kernel_shape=[2, 2], strides=[2, 2]),
    conv("pooled", 3, "z3"),
    node("Relu", "z3", "last"),
)

METHODS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("lrp_zero", {}, {"z0", "z1", "sum", "z3"}),
    ("lrp_epsilon", {"epsilon": 0.01}, {"z0", "z1", "sum", "z3"}),
    ("lrp_epsilon", {"bias": "ignore"}, {"z0", "z1", "sum", "z3"}),
    ("lrp_epsilon", {"split": "signed"}, {"z0", "z1", "sum", "z3"}),
    ("lrp_gamma", {}, {"z0", "z1", "sum", "z3"}),
    ("lrp_epsilon", {"bias": "distribute"}, {"z3"}),
    ("lrp_epsilon", {"split": "symmetric"}, {"z1", "sum", "z3"}),
    ("lrp_epsilon", {"identity": "ignore"}, {"z1", "sum", "z3"}),
    ("lrp_resnet", {}, {"z3"}),
]
"""Method, parameters, and the sums that may be read behind their ReLU."""


def outputs(method: str, parameters: dict[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    made = onnxsal.convert(RESIDUAL, method, **parameters)
    return run(made, {"x": x})


@pytest.mark.parametrize(("method", "parameters", "expected"), METHODS, ids=lambda v: str(v) if not isinstance(v, set) else "")
def test_relevance_is_the_same_in_front_and_behind(
    method: str, parameters: dict[str, Any], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.abs(draw(3, 3, 8, 8, seed=5, dtype=np.float64))
    found: list[set[str]] = []

    def noting(plan: Any) -> dict[str, Any]:
        found.append(set(module.rectified(plan)))
        return module.rectified(plan)

    monkeypatch.setattr(relevance, "rectified", noting)
    behind = outputs(method, parameters, x)
    monkeypatch.setattr(relevance, "rectified", lambda plan: {})
    front = outputs(method, parameters, x)
    assert found[0] == expected
    for name, wanted in front.items():
        assert np.abs(behind[name] - wanted).max() <= 1e-11 * max(1.0, np.abs(wanted).max()), name


TRAPS = {
    "two readers": net(conv("x", 0, "z"), node("Relu", "z", "r"), node("Add", "r z", "last")),
    "batch norm that passes": net(
        conv("x", 0, "z"), node("Relu", "z", "r"), node("BatchNormalization", "r scale shift mean var", "n"), node("Relu", "n", "last")
    ),
    "a constant added": net(conv("x", 0, "z"), node("Relu", "z", "r"), node("Add", "r half", "last")),
    "scattered sums": net(conv("x", 0, "z"), node("Relu", "z", "r"), node("ScatterElements", "r rows r", "last", axis=1, reduction="add")),
    "bounded above": net(conv("x", 0, "z"), node("Clip", "z floor six", "last")),
    "sigmoid": net(conv("x", 0, "z"), node("Relu", "z", "r"), node("Sigmoid", "r", "last")),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_relu_that_may_get_relevance_while_closed_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[set[str]] = []

    def noting(plan: Any) -> dict[str, Any]:
        found.append(set(module.rectified(plan)))
        return {}

    monkeypatch.setattr(relevance, "rectified", noting)
    method = "lrp_resnet" if name.startswith("batch norm") else "lrp_epsilon"
    onnxsal.convert(TRAPS[name], method, **({"preset": "keio"} if name.startswith("batch norm") else {}))
    assert "z" not in found[0]


def declared() -> list:
    return [
        pytest.param(rule, spec, test, id=f"{rule.name}-{spec.op_type}-{n}")
        for rule in RULES.values()
        if rule.vanishes is not never
        for spec in REGISTRY.values()
        if rule.takes(spec.family)
        for n, test in enumerate(spec.cases)
    ]


@pytest.mark.parametrize(("rule", "spec", "test"), declared())
def test_what_rules_say_of_elements_that_are_zero(rule: Any, spec: Any, test: Any) -> None:
    """Where a rule says that it sends nothing to an element that is 0, it does not; every second element is 0 here."""
    model, feed, wrt = one_node_model(spec, test)
    rng = np.random.default_rng(0)
    for name in wrt:
        seen = Model(onnx.ModelProto.FromString(model.SerializeToString()))
        path = reach(seen, [name], [model.graph.output[0].name]).path
        if not path or not rule.vanishes(path[-1], {}, True):
            continue
        try:
            made = with_rule(model, rule.name, [name])
        except OnnxsalError:
            continue
        zeroed = feed | {name: np.where(rng.random(feed[name].shape) < 0.5, 0.0, feed[name])}
        y = run(model, zeroed)[model.graph.output[0].name]
        if not np.isfinite(y).all():
            continue  # a divisor is among the zeros
        got = run(made, zeroed | {"R": np.where(y == 0, 0.0, rng.standard_normal(y.shape))})[f"R/{name}"]
        assert np.abs(got[zeroed[name] == 0]).max(initial=0.0) <= 1e-12
