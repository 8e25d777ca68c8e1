"""Elementwise operators where finite differences do not reach: kinks, ties, very large inputs, mixed types, masked infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.errors import UnsupportedError
from tests.oracle import run


def signals(nodes: list[onnx.NodeProto], feed: dict[str, np.ndarray], wrt: list[str], dy: Any = 1.0, **constants: Any) -> list[np.ndarray]:
    """The signals at ``wrt`` for the signal ``dy`` (broadcast) at output y."""
    ports = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)) for n, a in feed.items()]
    kept = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "small", ports, [onnx.ValueInfoProto(name="y")], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    y = run(model, feed)["y"]
    seed = np.broadcast_to(np.asarray(dy, y.dtype), y.shape).copy()
    got = run(onnxsal.vjp(model, wrt=wrt, outputs=["y"]), feed | {"cotangent/y": seed}, optimise=True)
    return [got[f"vjp/{w}"] for w in wrt]


def derivative(op_type: str, x: Any, dtype: Any = np.float32, *rest: Any, **attributes: Any) -> np.ndarray:
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(rest)]
    constants = {n: np.asarray(c, dtype) for n, c in zip(names, rest, strict=True) if n}
    node = helper.make_node(op_type, ["x", *names], ["y"], **attributes)
    return signals([node], {"x": np.asarray(x, dtype)}, ["x"], **constants)[0]


@pytest.mark.parametrize(
    ("op_type", "x", "expected", "rest", "attributes"),
    [
        ("Relu", [0.0], [0.0], [], {}),
        ("LeakyRelu", [0.0], [0.01], [], {}),
        ("PRelu", [0.0], [0.3], [0.3], {}),
        ("Elu", [0.0], [2.0], [], {"alpha": 2.0}),
        ("Celu", [0.0], [1.0], [], {"alpha": 2.0}),
        ("Selu", [0.0], [1.7580993], [], {}),
        ("Clip", [-1.0, 1.0], [1.0, 1.0], [-1.0, 1.0], {}),
        ("Clip", [-2.0, 0.5, 3.0], [0.0, 0.0, 0.0], [1.0, -1.0], {}),
        ("Clip", [0.0, 1e-30, 3.0, np.nextafter(np.float32(6), np.float32(0)), 6.0], [0.0, 1.0, 1.0, 1.0, 0.0], [0.0, 6.0], {}),
        ("Clip", [0.0, 5.0], [1.0, 1.0], [0.0, 5.0], {}),
        ("Clip", [0.0, 6.0], [1.0, 1.0], [None, 6.0], {}),
        ("HardSigmoid", [-3.0, 3.0], [0.0, 0.0], [], {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSwish", [-3.0, 3.0], [0.0, 1.0], [], {}),
        ("ThresholdedRelu", [1.0], [0.0], [], {"alpha": 1.0}),
        ("Shrink", [-0.5, 0.5], [0.0, 0.0], [], {"lambd": 0.5}),
        ("Abs", [0.0], [0.0], [], {}),
        ("Pow", [0.0, 2.0], [0.0, 4.0], [2.0], {}),
        ("Pow", [0.0, 2.0], [0.0, 0.0], [0.0], {}),
        ("Pow", [0.0, 2.0], [0.0, 1.0], [[0.0, 1.0]], {}),
    ],
)
def test_derivatives_at_kinks_are_those_of_pytorch(op_type: str, x: list, expected: list, rest: list, attributes: dict) -> None:
    np.testing.assert_allclose(derivative(op_type, x, np.float32, *rest, **attributes), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("op_type", "below", "above", "attributes"),
    [
        ("Relu", 0, 1, {}),
        ("LeakyRelu", 0.5, 1, {"alpha": 0.5}),
        ("Elu", 0, 1, {}),
        ("Selu", 0, 1.050701, {}),
        ("Celu", 0, 1, {}),
        ("Sigmoid", 0, 0, {}),
        ("HardSigmoid", 0, 0, {}),
        ("HardSwish", 0, 1, {}),
        ("Tanh", 0, 0, {}),
        ("Softplus", 0, 1, {}),
        ("Softsign", 0, 0, {}),
        ("Gelu", 0, 1, {}),
        ("Gelu", 0, 1, {"approximate": "tanh"}),
        ("Mish", 0, 1, {}),
        ("Swish", 0, 1, {}),
        ("Swish", 0, 1, {"alpha": 1.7}),
        ("Erf", 0, 0, {}),
        ("Atan", 0, 0, {}),
        ("Asinh", 0, 0, {}),
    ],
)
@pytest.mark.parametrize("size", [1e4, 1e15, 1e30])
def test_large_inputs_neither_overflow_nor_turn_into_nan(op_type: str, below: float, above: float, attributes: dict, size: float) -> None:
    np.testing.assert_allclose(derivative(op_type, [-size, size], np.float32, **attributes), [below, above], rtol=1e-6, atol=2e-4)


def test_near_zero_and_near_one_no_digits_are_lost() -> None:
    np.testing.assert_allclose(derivative("Cosh", [1e-6]), [1e-6], rtol=1e-5)
    x = np.float32(1 - 1e-6)
    np.testing.assert_allclose(derivative("Asin", [x]), [1 / np.sqrt(1 - np.float64(x) ** 2)], rtol=1e-5)
    np.testing.assert_allclose(derivative("Atanh", [x]), [1 / (1 - np.float64(x) ** 2)], rtol=1e-5)


def test_a_masked_infinity_is_zero() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Log", ["h"], ["y"])]
    (dx,) = signals(nodes, {"x": np.array([-1.0, 0.0, 2.0], np.float32)}, ["x"])
    np.testing.assert_array_equal(dx, [0, 0, 0.5])


@pytest.mark.parametrize(("op_type", "sign"), [("Max", 1), ("Min", -1)])
def test_ties_are_shared_equally(op_type: str, sign: int) -> None:
    feed = {n: np.array(v, np.float32) * sign for n, v in {"a": [1, 1, 1, 2], "b": [1, 1, 2, 1], "c": [1, 0, 2, 1]}.items()}
    got = np.stack(signals([helper.make_node(op_type, list(feed), ["y"])], feed, list(feed)))
    np.testing.assert_allclose(got, [[1 / 3, 1 / 2, 0, 1], [1 / 3, 1 / 2, 1 / 2, 0], [1 / 3, 0, 1 / 2, 0]], rtol=1e-6)


# ----- types -----

BETWEEN = [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE]


@pytest.mark.parametrize("inner", BETWEEN, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("outer", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("like", [False, True], ids=["Cast", "CastLike"])
def test_casts_between_float_types_pass_the_signal_in_the_type_of_each_side(inner: int, outer: type, like: bool) -> None:
    x = np.array([0.5, -1.5, 2.0], outer)
    there = helper.make_node("CastLike", ["x", "sample"], ["h"]) if like else helper.make_node("Cast", ["x"], ["h"], to=inner)
    nodes = [
        there,
        helper.make_node("Mul", ["h", "h"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=helper.np_dtype_to_tensor_dtype(x.dtype)),
    ]
    sample = np.ones(1, helper.tensor_dtype_to_np_dtype(inner))
    (dx,) = signals(nodes, {"x": x}, ["x"], **({"sample": sample} if like else {}))
    assert dx.dtype == outer
    np.testing.assert_allclose(dx, 2 * x)


@pytest.mark.parametrize("code", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2], ids=TensorProto.DataType.Name)
def test_casts_to_8_bit_floats_are_straight_through_inside_their_range(code: int) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=code), helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]
    (dx,) = signals(nodes, {"x": np.array([-1e5, -1.3, 0.7, 400, 1e5], np.float32)}, ["x"])
    np.testing.assert_array_equal(dx, [0, 1, 1, 1, 0])


@pytest.mark.parametrize(("base", "exponent"), [(np.float32, np.float64), (np.float64, np.float32), (np.float32, np.int64)])
def test_a_power_whose_exponent_has_another_type(base: type, exponent: type) -> None:
    feed = {"a": np.array([0.5, 2.0], base), "b": np.array([3, 2], exponent)}
    wrt = ["a"] if exponent is np.int64 else ["a", "b"]
    got = signals([helper.make_node("Pow", ["a", "b"], ["y"])], feed, wrt)
    assert [g.dtype.type for g in got] == [feed[w].dtype.type for w in wrt]
    expected = [[0.75, 4.0], [0.125 * np.log(0.5), 4 * np.log(2)]]
    np.testing.assert_allclose(np.stack([g.astype(np.float64) for g in got]), expected[: len(wrt)], rtol=1e-6)


# ----- dropout -----


@pytest.mark.parametrize("slope", [(2, 1), (2, 1, 3)])
def test_a_slope_that_would_stretch_x(slope: tuple[int, ...]) -> None:
    """ONNX Runtime runs it, against the standard; the shape that is inferred for y is then wrong."""
    with pytest.raises(UnsupportedError, match="does not stretch to x"):
        derivative("PRelu", np.ones((1, 3)), np.float32, np.ones(slope))


def test_dropout_in_training_needs_the_mask() -> None:
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    with pytest.raises(UnsupportedError, match="mask"):
        signals([node], {"x": np.ones(3, np.float32)}, ["x"], ratio=np.float32(0.5), training=np.array(True))


@pytest.mark.parametrize("training", [False, True])
def test_dropout_whose_mode_is_known_at_run_time_only(training: bool) -> None:
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y", "mask"], seed=3)
    feed = {"x": np.arange(1, 41, dtype=np.float32), "training": np.array(training)}
    (dx,) = signals([node], feed, ["x"], ratio=np.float32(0.2))
    assert set(np.unique(dx)) == ({np.float32(0), np.float32(1.25)} if training else {np.float32(1)})
