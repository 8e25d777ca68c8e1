"""Half precision: where ONNX Runtime rounds decides nothing, in a gradient, an implicit bias, or a comparison of models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import onnxsal
from onnxsal.ask.guard import compare_on_random_input
from onnxsal.errors import ModelError, OnnxsalError
from onnxsal.graph.widen import float32_twin, unit_of
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.oracle import Feed, one_node_model, run, session_of
from tests.small_models import draw, make, node
from tests.test_ops import bias_model
from tests.torch_nets import exported, images

UNIT = 2.0**-10
SCALE = np.float16(0.7)
CHOOSES = {"ArgMax", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MaxPool", "Sign"}
"""What a gradient emits where it asks which side of a kink an element is on, or which operand was taken."""


def chooses(spec: OpSpec, test: Case) -> bool:
    """Whether the gradient of the case asks anything of its operands: read off the nodes that it emits."""
    model, _, wrt = one_node_model(spec, test)
    made = onnxsal.vjp(model, wrt=[w for w in wrt if int(w[1:]) not in spec.stops], outputs=["y0"])
    return any(n.op_type in CHOOSES for n in made.graph.node if n.name != "n")


def choosing_cases() -> Iterator[tuple[OpSpec, Case]]:
    for spec in REGISTRY.values():
        for test in spec.cases:
            try:
                if chooses(spec, test):
                    yield spec, test
            except OnnxsalError:  # of an integer output
                continue


def behind_a_product(spec: OpSpec, test: Case, dtype: type) -> tuple[onnx.ModelProto, Feed, list[str]]:
    """The case with ``SCALE`` times an input for every input: something before the operator that ONNX Runtime may round, or not."""
    model, feed, wrt = one_node_model(spec, test, dtype)
    wrt = [w for w in wrt if int(w[1:]) not in spec.stops]
    model.graph.initializer.append(numpy_helper.from_array(SCALE.astype(dtype), "scale"))
    for value in [v for v in model.graph.input if v.name in wrt]:
        model.graph.node.insert(0, helper.make_node("Mul", [f"raw_{value.name}", "scale"], [value.name]))
        value.name = f"raw_{value.name}"
    raw = {f"raw_{n}" if n in wrt else n: np.asarray(a / SCALE if n in wrt else a, a.dtype) for n, a in feed.items()}
    return onnx.shape_inference.infer_shapes(model), raw, wrt


def signals(model: onnx.ModelProto, wrt: list[str], feed: Feed, y: np.ndarray, biased: bool) -> Feed:
    """The signals at the inputs and the implicit bias, in sessions as ONNX Runtime optimises them by default."""
    names = [f"raw_{w}" for w in wrt]
    made = onnxsal.vjp(model, wrt=names, outputs=["y0"])
    kind = next(i.type.tensor_type.elem_type for i in made.graph.input if i.name == "cotangent/y0")
    seed = np.asarray(np.random.default_rng(1).standard_normal(y.shape), helper.tensor_dtype_to_np_dtype(kind))
    ran = run(made, feed | {"cotangent/y0": seed}, optimise=True)
    found = {n: ran[f"vjp/{n}"] for n in names}
    bias = bias_model(model, wrt) if biased else None
    if bias is not None:
        found["bias"] = run(bias, feed, optimise=True)["bias"]
    return {n: np.asarray(a, np.float64) for n, a in found.items()}


def wrong(spec: OpSpec, test: Case) -> str | None:
    """What differs from the float64 twin by more than rounding does to the twin itself; ``None`` where ONNX Runtime has no such kernel."""
    model, feed, wrt = behind_a_product(spec, test, np.float16)
    try:
        y = session_of(model).run(["y0"], feed)[0]
    except Exception:
        return None
    exact, _, _ = behind_a_product(spec, test, np.float64)
    wide = {n: np.asarray(a, np.float64) if a.dtype == np.float16 else a for n, a in feed.items()}
    biased = spec.bias != "unknown"
    found, wanted = signals(model, wrt, feed, y, biased), signals(exact, wrt, wide, y, biased)
    assert found.keys() == wanted.keys()
    size = {n: np.abs(a).max(initial=0) + 1e-3 for n, a in wanted.items()}
    size["bias"] = max(size.get("bias", 0), np.abs(y).max(initial=0))
    over = {n: np.abs(found[n] - wanted[n]) > 4 * UNIT * size[n] for n in wanted}
    if any(o.any() for o in over.values()):
        rng = np.random.default_rng(2)
        for _ in range(6):
            moved = {n: np.asarray(a * (1 + UNIT * rng.uniform(-1, 1, a.shape))) if a.dtype == np.float64 else a for n, a in wide.items()}
            near = signals(exact, wrt, moved, y, biased)
            over = {n: o & (np.abs(found[n] - wanted[n]) > 4 * UNIT * size[n] + 4 * np.abs(near[n] - wanted[n])) for n, o in over.items()}
    return ", ".join(f"{n} at {o.sum()} of {o.size}" for n, o in over.items() if o.any() or not np.isfinite(found[n]).all())


def test_every_operator_that_chooses_agrees_with_its_float64_twin() -> None:
    """Elements within rounding of a kink are told by the twin: there it changes when its input is moved by rounding."""
    outcomes: dict[str, list[str | None]] = {}
    for spec, test in choosing_cases():
        outcomes.setdefault(spec.op_type, []).append(wrong(spec, test))
    assert not {name: found for name, found in outcomes.items() if any(found)}
    ran = {name for name, found in outcomes.items() if "" in found}
    assert ran >= {
        "Clip",
        "Max",
        "Min",
        "MaxPool",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "PRelu",
        "HardSigmoid",
        "HardSwish",
        "ScatterElements",
    }
    assert set(outcomes) - ran == {"Celu", "MeanVarianceNormalization", "ScatterND"}, "ONNX Runtime runs these in no half precision"


# ----- networks -----


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_a_mobilenet_agrees_with_the_float32_file(keep_io_types: bool) -> None:
    """Depthwise convolutions, hard swish, squeeze and excite; of opset 17, so that it is raised and compared."""
    wide = exported("mobilenet", opset=17)
    half = convert_float_to_float16(onnx.ModelProto.FromString(wide.SerializeToString()), keep_io_types=keep_io_types)
    x = images(4, seed=1).numpy()
    for method in ("gradient", "fullgrad"):
        wanted = onnxsal.Explainer(wide, method, providers="cpu").explain(x, 2)
        found = onnxsal.Explainer(half, method, providers="cpu").explain(x if keep_io_types else x.astype(np.float16), 2)
        scale = np.abs(wanted.attribution).max()
        assert np.abs(found.attribution - wanted.attribution).max() < 0.02 * scale
        assert found.residual is None or found.residual.max() < 1e-3


ACTIVATIONS = {
    "ReLU6": [node("Clip", "c zero six", "a")],
    "a clamp": [node("Clip", "c zero two", "a")],
    "a maximum": [node("Max", "c zero", "a")],
    "a minimum": [node("Min", "c two", "a")],
    "the larger of two": [node("Mul", "c minus", "d"), node("Max", "c d", "a")],
}


def behind_a_convolution(name: str, dtype: type) -> onnx.ModelProto:
    """The activation behind a convolution, for which the CPU has no half-precision kernel."""
    weights = {"w": draw(4, 3, 1, 1), "v": draw(4, 2, seed=1), "zero": np.zeros(()), "two": np.full((), 2.0), "six": np.full((), 6.0)}
    weights["minus"] = np.full((), -0.3)
    nodes = [
        node("Conv", "x w", "c"),
        *ACTIVATIONS[name],
        node("GlobalAveragePool", "a", "g"),
        node("Flatten", "g", "f"),
        node("MatMul", "f v", "y"),
    ]
    used = {i for n in nodes for i in n.input}
    kept = {n: a.astype(dtype) for n, a in weights.items() if n in used}
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 2]}, kept, types={"x": code, "y": code})


@pytest.mark.parametrize("method", ["gradient", "fullgrad"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_behind_a_convolution(name: str, method: str) -> None:
    """Its map is that of the float32 file on the same numbers, and the residual is that of rounding: the bias has not taken all of y."""
    x = draw(2, 3, 8, 8, seed=4, scale=2).astype(np.float16)
    found = onnxsal.Explainer(behind_a_convolution(name, np.float16), method, providers="cpu").explain(x, 0)
    twin = float32_twin(behind_a_convolution(name, np.float16))
    wanted = onnxsal.Explainer(twin, method, providers="cpu").explain(x.astype(np.float32), 0)
    assert np.mean(wanted.attribution == 0) < 0.6
    far = np.abs(found.attribution - wanted.attribution) > 1e-3 * np.abs(wanted.attribution).max()
    assert far.mean() < 0.01  # a place within rounding of a kink has three inputs
    assert found.residual is None or found.residual.max() < 2 * UNIT


def in_bfloat16(inner: onnx.NodeProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """float32 products around one node in bfloat16, from ``c`` to ``d``."""
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    nodes = [
        node("MatMul", "x w", "a"),
        node("Cast", "a", "c", to=TensorProto.BFLOAT16),
        inner,
        node("Cast", "d", "e", to=TensorProto.FLOAT),
        node("MatMul", "e v", "y"),
    ]
    kept = {"w": draw(5, 6), "v": draw(6, 3, seed=1)} | {n: a.astype(kind) for n, a in weights.items()}
    return make(nodes, {"x": ["N", 5]}, {"y": ["N", 3]}, kept)


def test_bfloat16_agrees_where_the_cpu_has_a_kernel() -> None:
    """ONNX Runtime's CPU provider has them for copies and for this one sum."""
    model, x = in_bfloat16(node("LayerNormalization", "c s", "d"), {"s": np.ones(6)}), draw(4, 5, seed=2)
    found = onnxsal.Explainer(model, "gradient", providers="cpu").explain(x, 1).attribution
    wanted = onnxsal.Explainer(float32_twin(model), "gradient", providers="cpu").explain(x, 1).attribution
    np.testing.assert_allclose(found, wanted, atol=2.0**-7 * np.abs(wanted).max())
    assert np.abs(found - wanted).max() > 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("inner", "weights", "lacking"),
    [
        (node("Relu", "c", "d"), {}, "Max"),
        (node("Max", "c zero", "d"), {"zero": np.zeros(())}, "Max"),
        (node("MatMul", "c m", "d"), {"m": np.ones((6, 6))}, "MatMul"),
    ],
    ids=["Relu", "Max", "MatMul"],
)
def test_bfloat16_is_refused_where_the_cpu_has_none(inner: onnx.NodeProto, weights: dict[str, np.ndarray], lacking: str) -> None:
    """The model that was given lacks the kernel, not what was added to it; a converted file is for a GPU then, and that is said."""
    model = in_bfloat16(inner, weights)
    with pytest.raises(ModelError, match=rf"refuses the model itself: .*implementation for {lacking}\("):
        onnxsal.Explainer(model, "gradient", providers="cpu")
    kernel = rf"runs on a GPU only: .* no kernel for {inner.op_type}\(bfloat16\)"
    assert re.search(kernel, onnxsal.check(model, "cpu", "gradient").doubt)


# ----- comparing models -----


def leaky(alpha: float, dtype: type = np.float16) -> onnx.ModelProto:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = {"w": draw(6, 5).astype(dtype)}
    nodes = [node("MatMul", "x w", "h"), node("LeakyRelu", "h", "y", alpha=alpha)]
    return make(nodes, {"x": ["N", 6]}, {"y": ["N", 5]}, weight, types={"x": code, "y": code})


def test_a_difference_below_one_unit_is_told_from_rounding() -> None:
    """A slope of .5 and one of .5003 differ by a third of a unit in the last place: the float32 twins tell them apart."""
    assert compare_on_random_input(leaky(0.5), leaky(0.5)).accepted
    found = compare_on_random_input(leaky(0.5), leaky(0.5003))
    assert not found.accepted
    assert found.difference is not None
    assert 1e-5 < found.difference < UNIT
    assert "in half precision the outputs differ by" in found.note


def test_where_the_twin_does_not_run_one_unit_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(proto: onnx.ModelProto) -> onnx.ModelProto:
        raise ModelError("no kernel")

    monkeypatch.setattr("onnxsal.ask.guard.float32_twin", refuse)
    assert compare_on_random_input(leaky(0.5), leaky(0.5003)).accepted
    found = compare_on_random_input(leaky(0.5), leaky(0.51))
    assert not found.accepted
    assert found.limit == UNIT


def test_what_is_not_half_precision_has_no_such_room() -> None:
    assert unit_of(leaky(0.5, np.float32)) == 0
    assert not compare_on_random_input(leaky(0.5, np.float32), leaky(0.50003, np.float32)).accepted


def test_the_float32_twin_has_no_half_precision_left() -> None:
    """In inputs, weights, attributes, bodies and functions."""
    half = TensorProto.FLOAT16
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(1, np.float16)))
    inner = helper.make_graph([constant, node("Mul", "x k", "z")], "then", [], [helper.make_tensor_value_info("z", half, None)])
    other = helper.make_graph([node("Identity", "x", "z2")], "else", [], [helper.make_tensor_value_info("z2", half, None)])
    nodes = [
        helper.make_node("If", ["flag"], ["a"], then_branch=inner, else_branch=other),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["b"], ["c"], to=half),
        helper.make_node("EyeLike", ["c"], ["e"], dtype=half),
        node("Add", "c e", "y"),
    ]
    types = {"x": half, "y": half, "flag": TensorProto.BOOL}
    model = make(nodes, {"x": [3, 3], "flag": []}, {"y": [3, 3]}, {}, types=types)
    twin = float32_twin(model)
    onnx.checker.check_model(twin, full_check=True)
    assert unit_of(model) == UNIT
    assert unit_of(twin) == 0
    feed: dict[str, Any] = {"x": draw(3, 3), "flag": np.array(True)}
    np.testing.assert_allclose(run(twin, feed)["y"], feed["x"] + np.eye(3), rtol=1e-6)


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_gamma", "lrp_epsilon_plus", "deep_taylor"])
def test_a_layer_that_is_only_shifted_is_folded_in_half_precision(method: str) -> None:
    """Nothing scales its weight, so the weight itself is read, which is float16."""
    weights = {"k": draw(4, 3, 3, 3), "b": draw(1, 4, 1, 1), "w": draw(4, 5)}
    nodes = [node("Conv", "x k", "c"), node("Add", "c b", "s"), node("Relu", "s", "r"), node("GlobalAveragePool", "r", "g")]
    nodes += [node("Flatten", "g", "f"), node("MatMul", "f w", "y")]
    x = draw(2, 3, 6, 6)
    given = {"low": -4.0, "high": 4.0} if method == "deep_taylor" else {}
    found = []
    for kind, dtype in ((TensorProto.FLOAT16, np.float16), (TensorProto.FLOAT, np.float32)):
        model = make(
            nodes, {"x": ["N", 3, 6, 6]}, {"y": ["N", 5]}, {n: w.astype(dtype) for n, w in weights.items()}, types={"x": kind, "y": kind}
        )
        found.append(onnxsal.Explainer(model, method, **given).explain(x.astype(dtype), 1).attribution)
    assert np.abs(found[0] - found[1]).max() < 1e-2 * np.abs(found[1]).max()
