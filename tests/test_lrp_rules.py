"""LRP rules: each equals its matrix form on every linear operator's cases, and the numbers that were worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxsal.backward import RULES
from onnxsal.backward.affine import MAPS
from onnxsal.errors import MethodError, UnsupportedError
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.lrp_models import jacobian, with_rule
from tests.lrp_twins import OTHER_TWINS, TWINS, Layer
from tests.oracle import one_node_model, run
from tests.small_models import make, node

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("lrp_zero", {}),
    ("epsilon", {"epsilon": 0.25}),
    ("epsilon", {"epsilon": 0.1, "bias": "ignore"}),
    ("epsilon", {"epsilon": 0.1, "bias": "distribute"}),
    ("alpha_beta", {}),
    ("alpha_beta", {"alpha": 1.5, "beta": 0.5, "bias": "ignore"}),
    ("zplus", {}),
    ("zplus", {"bias": "absorb", "dead": "spread"}),
    ("zplus", {"dead": "spread"}),
    ("gamma", {"gamma": 0.3}),
    ("gamma", {"bias": "ignore"}),
    ("wsquare", {}),
    ("flat", {}),
    ("zbox", {"low": -2.0, "high": 2.0}),
    ("wplus", {"epsilon": 20.0}),
    ("wplus", {"epsilon": 20.0, "bias": "absorb", "ones": True}),
    ("norm", {"epsilon": 0.2}),
    ("gradient", {}),
]

KERNEL = np.arange(6.0).reshape(2, 3) - 2
SPOTS = np.array([[0, 0, 4, 2, 2], [1, 1, 1, 3, 0], [4, 3, 2, 1, 0]])
"""Where the elements of a row go: some meet, some places get none."""

OTHER_SETTINGS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [  # rule, node, its attributes, the rule's parameters
    ("guided", "Relu", {}, {}),
    ("deconvnet", "Relu", {}, {}),
    ("pass", "Relu", {}, {}),
    ("through", "Add", {}, {}),
    ("split", "Add", {}, {}),
    ("split", "Add", {}, {"how": "symmetric"}),
    ("split", "Add", {}, {"how": "signed", "epsilon": 0.1}),
    ("share", "Mul", {}, {"epsilon": 0.1}),
    *(
        ("meet", "ScatterElements", {"axis": 1, "reduction": "add"}, {"how": how, "epsilon": 0.1})
        for how in ("ratio", "symmetric", "signed")
    ),
    ("as_average", "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, {"epsilon": 0.25}),
    ("patterns", "Gemm", {"transB": 1}, {"kernel": KERNEL}),
    ("rescale", "Sigmoid", {}, {"threshold": 0.4}),
    ("rescale_max", "MaxPool", {"kernel_shape": [1, 4]}, {"threshold": 0.2}),
    ("midpoint", "Mul", {}, {}),
    ("ratio", "Tanh", {}, {}),
    ("uniform", "Mul", {}, {}),
    ("magnitudes", "Add", {}, {}),
    ("held", "LpNormalization", {"axis": 1}, {}),
]
REFERENCED = ("rescale", "rescale_max", "midpoint")
SHAPES = {"as_average": ([1, 2, 4, 6], [1, 2, 2, 3]), "patterns": ([2, 3], [2, 2]), "rescale_max": ([1, 1, 1, 4], [1, 1, 1, 1])}

REFUSED = ("parts of its weight", "counts the inputs")


def linear_cases() -> list:
    """Every case of a linear operator, with each of its floating-point inputs that has the roles of a factor as the explained one."""
    return [
        pytest.param(spec, test, i, id=f"{spec.op_type}-{n}-input{i}")
        for spec in REGISTRY.values()
        if spec.family == "linear" or spec.op_type == "BatchNormalization"
        for n, test in enumerate(spec.cases)
        if not test.attributes.get("training_mode")
        for i, entry in enumerate(test.inputs)
        if isinstance(entry, tuple | float) and i not in test.fixed
        if spec.roles is not None
        and (spec.roles.factors is None or i in spec.roles.factors)
        and not (spec.op_type == "BatchNormalization" and i)
    ]


def _with_rule_or_refusal(model: onnx.ModelProto, rule: str, name: str, parameters: dict[str, Any]) -> onnx.ModelProto | None:
    """The model with the rule; ``None`` where a rule that looks at weights says that it cannot take this node."""
    if rule in ("lrp_zero", "epsilon") and parameters.get("bias") != "distribute":
        return with_rule(model, rule, [name], **parameters)
    try:
        return with_rule(model, rule, [name], **parameters)
    except UnsupportedError as error:
        if not any(words in str(error) for words in REFUSED):
            raise
        return None


@pytest.mark.parametrize(("spec", "test", "i"), linear_cases())
def test_rules_equal_their_matrix_forms(spec: OpSpec, test: Case, i: int) -> None:
    model, feed, wrt = one_node_model(spec, test)
    name = f"x{i}"
    if name not in wrt:
        pytest.skip("the case gives this input as it is")
    y = model.graph.output[0].name

    def at(x: np.ndarray) -> np.ndarray:
        return run(model, feed | {name: x})[y]

    W, b = jacobian(at, feed[name])
    rng = np.random.default_rng(3)
    shape = at(feed[name]).shape
    r = rng.standard_normal(shape)
    mixed = spec.roles.mixed if spec.roles else None
    tried = 0
    for rule, parameters in SETTINGS:
        made = _with_rule_or_refusal(model, rule, name, parameters)
        if made is None:
            continue
        got = run(made, feed | {"R": r})[f"R/{name}"]
        weight = np.abs(W) > 1e-12
        layer = Layer(W, b, feed[name].reshape(-1), weight.astype(float))
        wanted = TWINS[rule](layer, r.reshape(-1), **parameters).reshape(feed[name].shape)
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 1e-9 * max(np.abs(wanted).max(), 1), (rule, parameters)
        tried += 1
    assert tried >= 3
    assert tried == len(SETTINGS) or mixed is not None


def test_every_rule_has_a_twin_and_every_twin_is_held_against_its_rule() -> None:
    """A rule without a twin would be tested against itself, and a twin without a row of settings is compared with nothing."""
    assert sorted([*TWINS, *OTHER_TWINS]) == sorted(RULES)
    assert {rule for rule, _ in SETTINGS} == set(TWINS)
    assert {rule for rule, *_ in OTHER_SETTINGS} == set(OTHER_TWINS)
    assert {n for n, r in RULES.items() if r.families == frozenset(MAPS)} >= {"epsilon", "lrp_zero", "norm"}


@pytest.mark.parametrize(("rule", "op_type", "attributes", "parameters"), OTHER_SETTINGS, ids=lambda v: v if isinstance(v, str) else "")
def test_rules_for_other_nodes_equal_their_twins(rule: str, op_type: str, attributes: dict[str, Any], parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(7)
    shape, out = SHAPES.get(rule, ([3, 5], [3, 5]))
    count = 2 if op_type in ("Add", "Mul", "ScatterElements") else 1
    names, before = [f"x{i}" for i in range(count)], [f"x{i}0" for i in range(count)] if rule in REFERENCED else []
    weights = {"w": rng.standard_normal((2, 3))} if op_type == "Gemm" else {}
    weights |= {"spots": SPOTS} if op_type == "ScatterElements" else {}
    nodes = [node(op_type, " ".join([*names[:1], *weights, *names[1:]]), "y", **attributes)]
    nodes[:0] = [node(op_type, " ".join(before), "y0", **attributes)] if before else []
    inputs = dict.fromkeys([*names, *before], shape)
    model = make(nodes, inputs, {"y": out}, weights, types=dict.fromkeys([*inputs, "y"], 11))
    feed = {n: rng.standard_normal(shape) for n in inputs}
    r = rng.standard_normal(out)
    got = run(with_rule(model, rule, names, **parameters), {**feed, "R": r})
    spots = {"spots": SPOTS} if rule == "meet" else {}
    wanted = OTHER_TWINS[rule](r, *feed.values(), **parameters, **spots)
    assert len(wanted) == count
    for name, twin in zip(names, wanted, strict=True):
        np.testing.assert_allclose(got[f"R/{name}"], twin, rtol=1e-9, atol=1e-12)


def pooling_cases() -> list:
    return [
        pytest.param(spec, test, id=f"{spec.op_type}-{n}")
        for spec in REGISTRY.values()
        if spec.family == "average_pool" or spec.op_type in ("ReduceSum", "CumSum", "Resize", "Col2Im")
        for n, test in enumerate(spec.cases)
        if isinstance(test.inputs[0], tuple)
    ]


@pytest.mark.parametrize(("spec", "test"), pooling_cases())
def test_norm_equals_its_matrix_form_on_means_and_interpolations(spec: OpSpec, test: Case) -> None:
    model, feed, _ = one_node_model(spec, test)

    def at(x: np.ndarray) -> np.ndarray:
        return run(model, feed | {"x0": x})["y0"]

    W, b = jacobian(at, feed["x0"])
    r = np.random.default_rng(3).standard_normal(at(feed["x0"]).shape)
    made = with_rule(model, "norm", ["x0"], epsilon=0.2)
    got = run(made, feed | {"R": r})["R/x0"]
    wanted = TWINS["norm"](Layer(W, b, feed["x0"].reshape(-1), np.abs(W) > 0), r.reshape(-1), 0.2)
    np.testing.assert_allclose(got.reshape(-1), wanted, rtol=1e-9, atol=1e-12)


def unit(a: tuple[float, ...], w: tuple[float, ...], b: float) -> onnx.ModelProto:
    weights = {"w": np.asarray([w], float), "b": np.asarray([b], float)}
    return make([node("Gemm", "x w b", "y", transB=1)], {"x": [1, len(a)]}, {"y": [1, 1]}, weights, types={"x": 11, "y": 11})


BY_HAND = [
    ("lrp_zero", {}, (3, -2)),
    ("epsilon", {"epsilon": 0.25}, (2.66667, -1.77778)),
    ("zplus", {}, (2, 0)),
    ("zplus", {"bias": "absorb"}, (1.5, 0)),
    ("alpha_beta", {"bias": "ignore"}, (4, -2)),
    ("alpha_beta", {}, (3, -2)),
    ("gamma", {}, (2.5, -1.33333)),
    ("wsquare", {}, (1.8, 0.2)),
    ("flat", {}, (1, 1)),
    ("zbox", {"low": 0.0, "high": 3.0}, (1.5, 0.5)),
]


@pytest.mark.parametrize(("rule", "parameters", "wanted"), BY_HAND)
def test_one_unit_by_hand(rule: str, parameters: dict[str, Any], wanted: tuple[float, float]) -> None:
    """a = (1, 2), w = (3, -1), b = 1, z = R = 2."""
    made = with_rule(unit((1, 2), (3, -1), 1), rule, ["x"], **parameters)
    got = run(made, {"x": np.asarray([[1.0, 2.0]]), "R": np.asarray([[2.0]])})["R/x"]
    np.testing.assert_allclose(got[0], wanted, atol=6e-6)


def test_the_stabiliser_has_the_sign_of_the_sum() -> None:
    made = with_rule(unit((1, 2), (1, -2), 0), "epsilon", ["x"], epsilon=0.25)
    got = run(made, {"x": np.asarray([[1.0, 2.0]]), "R": np.asarray([[-3.0]])})["R/x"]
    np.testing.assert_allclose(got[0], (0.92308, -3.69231), atol=6e-6)


def adding(op_type: str = "Add") -> onnx.ModelProto:
    return make([node(op_type, "f s", "y")], {"f": [3], "s": [3]}, {"y": [3]}, types={"f": 11, "s": 11, "y": 11})


@pytest.mark.parametrize("op_type", ["Add", "Sum"])
def test_ratio_split_by_hand(op_type: str) -> None:
    """f = (3, -1, 0), s = (1, 1, 0), R = (1, 2, 3); 0 / 0 is equal parts."""
    feed = {"f": np.asarray([3.0, -1, 0]), "s": np.asarray([1.0, 1, 0]), "R": np.asarray([1.0, 2, 3])}
    got = run(with_rule(adding(op_type), "split", ["f", "s"]), feed)
    np.testing.assert_allclose(got["R/f"], (0.75, 1, 1.5))
    np.testing.assert_allclose(got["R/s"], (0.25, 1, 1.5))
    signed = run(with_rule(adding(op_type), "split", ["f", "s"], how="signed"), feed)
    assert all(np.isfinite(v).all() for v in signed.values())
    np.testing.assert_allclose(signed["R/f"][0], 0.75, rtol=1e-5)
    np.testing.assert_allclose(signed["R/f"][1], -2e6)
    half = run(with_rule(adding(op_type), "split", ["f", "s"], how="symmetric"), feed)
    np.testing.assert_allclose(half["R/s"], (0.5, 1, 1.5))


def test_split_of_differences_means_and_broadcasts() -> None:
    rng = np.random.default_rng(0)
    a, b, c, r = rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 1)), rng.standard_normal((1, 1, 4)), rng.standard_normal((2, 3, 4))
    sizes = [np.abs(np.broadcast_to(v, r.shape)) for v in (a, b, c)]
    for op_type in ("Sum", "Mean"):
        model = make(
            [node(op_type, "a b c", "y")], {"a": a.shape, "b": b.shape, "c": c.shape}, {"y": r.shape}, types=dict.fromkeys("abcy", 11)
        )
        got = run(with_rule(model, "split", ["a", "b", "c"]), {"a": a, "b": b, "c": c, "R": r})
        for name, size, value in zip("abc", sizes, (a, b, c), strict=True):
            share = r * size / sum(sizes)
            lead = tuple(range(3 - value.ndim))
            share = share.sum(lead) if lead else share
            axes = tuple(i for i, d in enumerate(value.shape) if d == 1)
            np.testing.assert_allclose(got[f"R/{name}"], share.sum(axes, keepdims=True) if axes else share, atol=1e-12)
    model = make([node("Sub", "a b", "y")], {"a": a.shape, "b": b.shape}, {"y": r.shape}, types=dict.fromkeys("aby", 11))
    got = run(with_rule(model, "split", ["a", "b"], how="signed", epsilon=1e-9), {"a": a, "b": b, "R": r})
    np.testing.assert_allclose(got["R/a"], r * a / (a - b), rtol=1e-6)
    assert got["R/a"].sum() + got["R/b"].sum() == pytest.approx(r.sum(), rel=1e-6)
    passed = run(with_rule(model, "split", ["a"]), {"a": a, "b": b, "R": r})
    np.testing.assert_array_equal(passed["R/a"], r)


def test_products_share_unless_one_is_a_gate() -> None:
    rng = np.random.default_rng(0)
    x, g, r = rng.standard_normal((2, 3)), rng.standard_normal((2, 1)), rng.standard_normal((2, 3))
    kinds = dict.fromkeys(["x", "g", "s", "y"], 11)
    plain = make([node("Mul", "x g", "y")], {"x": [2, 3], "g": [2, 1]}, {"y": [2, 3]}, types=kinds)
    got = run(with_rule(plain, "share", ["x", "g"], epsilon=1e-12), {"x": x, "g": g, "R": r})
    np.testing.assert_allclose(got["R/x"], r / 2, rtol=1e-6)
    np.testing.assert_allclose(got["R/g"], r.sum(1, keepdims=True) / 2, rtol=1e-6)
    gated = make([node("Sigmoid", "g", "s"), node("Mul", "x s", "y")], {"x": [2, 3], "g": [2, 1]}, {"y": [2, 3]}, types=kinds)
    got = run(with_rule(gated, "share", ["x", "g"]), {"x": x, "g": g, "R": r})
    assert list(got) == ["y", "R/x"]
    np.testing.assert_array_equal(got["R/x"], r)


def test_matrix_products_of_activations_conserve() -> None:
    rng = np.random.default_rng(0)
    a, b, r = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4, 5)), rng.standard_normal((2, 3, 5))
    model = make([node("MatMul", "a b", "y")], {"a": a.shape, "b": b.shape}, {"y": r.shape}, types=dict.fromkeys("aby", 11))
    got = run(with_rule(model, "share", ["a", "b"], epsilon=1e-12), {"a": a, "b": b, "R": r})
    assert got["R/a"].sum() == pytest.approx(r.sum() / 2)
    assert got["R/b"].sum() == pytest.approx(r.sum() / 2)
    with pytest.raises(UnsupportedError, match="rule 'share'"):
        with_rule(model, "zplus", ["a", "b"])


def test_wrong_parameters_of_rules_are_refused() -> None:
    model = unit((1, 2), (3, -1), 1)
    for rule, parameters in [("alpha_beta", {"alpha": 2.0, "beta": 0.5}), ("epsilon", {"bias": "keep"}), ("zbox", {"low": "black"})]:
        with pytest.raises(MethodError):
            with_rule(model, rule, ["x"], **parameters)
