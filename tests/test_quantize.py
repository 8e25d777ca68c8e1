"""Quantisation, which finite differences cannot see: compared with the same function whose rounding errors are frozen.

A model x -> QuantizeLinear -> ... -> DequantizeLinear -> y is differentiated straight through. Its twin is the unrounded function
plus the rounding errors of this very input, held constant; that one has ordinary derivatives.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.errors import OnnxsalError, PlanError
from onnxsal.facts import tags
from onnxsal.ops.registry import REGISTRY, Case
from tests.oracle import draw, run, scaled_derivative
from tests.quantised_nets import quantised_net
from tests.test_ops import bias_model

SPANS = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
    TensorProto.FLOAT8E4M3FN: (-448, 448),
    TensorProto.FLOAT8E4M3FNUZ: (-240, 240),
    TensorProto.FLOAT8E5M2: (-57344, 57344),
    TensorProto.FLOAT8E5M2FNUZ: (-57344, 57344),
}
Arrays = dict[str, np.ndarray]


def quantize_cases() -> list:
    return [pytest.param(c, id=str(i)) for i, c in enumerate(REGISTRY["", "QuantizeLinear"].cases)]


def test_every_straight_through_case_has_its_twin_here() -> None:
    marked = {spec.op_type for spec in REGISTRY.values() if any(c.straight_through for c in spec.cases)}
    assert marked == {"QuantizeLinear", "DynamicQuantizeLinear"}
    assert all(c.straight_through for op in marked for c in REGISTRY["", op].cases)


def model_of(nodes: list[onnx.NodeProto], inputs: Arrays, constants: Arrays, opset: int = 21, dynamic: bool = False) -> onnx.ModelProto:
    ports = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), [f"{n}_{i}" for i in range(a.ndim)] if dynamic else list(a.shape)
        )
        for n, a in inputs.items()
    ]
    kept = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "quantised", ports, [onnx.ValueInfoProto(name="y")], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def spread(parameter: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """A scale or zero point, one entry per element of x."""
    axis %= len(shape)
    if parameter.size == 1:
        return np.broadcast_to(parameter.reshape(()), shape)
    if parameter.ndim == 1:
        return np.broadcast_to(parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
    return np.take(parameter.repeat(block, axis), range(shape[axis]), axis)


class Pair:
    """DequantizeLinear(QuantizeLinear(x)) for one registry case, and its twin with frozen rounding errors."""

    def __init__(self, case: Case, dynamic: bool) -> None:
        entries = [*case.inputs, None][:3]
        self.x, self.scale = (draw(e, case, np.float32, np.random.default_rng(3)) for e in entries[:2])
        zero = None if entries[2] is None else np.asarray(entries[2])
        code = case.attributes.get("output_dtype", TensorProto.UINT8 if zero is None else helper.np_dtype_to_tensor_dtype(zero.dtype))
        self.low, self.high = SPANS[code]
        self.lay = partial(spread, shape=self.x.shape, axis=case.attributes.get("axis", 1), block=case.attributes.get("block_size", 0))
        self.zero = self.lay(np.zeros(()) if zero is None else zero.astype(np.float64))
        self._keep_off_the_edges()
        layout = {k: v for k, v in case.attributes.items() if k != "output_dtype"}
        tail = [] if zero is None else ["zero"]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", *tail], ["q"], name="n", **case.attributes),
            helper.make_node("DequantizeLinear", ["q", "scale", *tail], ["y"], **layout),
        ]
        self.feed = {"x": self.x, "scale": self.scale}
        given = {} if zero is None else {"zero": zero}
        if dynamic:
            self.feed |= given
        self.model = model_of(nodes, self.feed, {} if dynamic else given, max(case.opset, 19), dynamic)
        one = self.lay(self.scale.astype(np.float64))
        self.y = run(self.model, self.feed)["y"]
        self.error = self.y / one - (self.clipped(self.x, self.scale) - self.zero)

    def _keep_off_the_edges(self) -> None:
        """Away from where saturation begins: half a step there is neither inside nor outside for the unrounded twin."""
        one = self.lay(self.scale.astype(np.float64))
        for edge in ((self.low - self.zero) * one, (self.high - self.zero) * one):
            margin = np.maximum(3 * one, 0.09 * np.abs(edge) * (self.high in (448, 240, 57344)))
            near = np.abs(self.x - edge) < margin
            self.x = np.where(near, edge + np.where(self.x < edge, -2, 2) * margin, self.x).astype(np.float32)

    def clipped(self, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.clip(x / self.lay(scale.astype(np.float64)) + self.zero, self.low, self.high)

    def twin(self, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return self.lay(scale.astype(np.float64)) * (self.clipped(x, scale) - self.zero + self.error)

    def quantised(self, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return self.clipped(x, scale) + self.error


def slope(function: Callable[[float], np.ndarray], step: float = 1e-6) -> np.ndarray:
    return (function(step) - function(-step)) / (2 * step)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", quantize_cases())
def test_pair_is_straight_through(case: Case, dynamic: bool) -> None:
    """The signals at x and at the scale (read by both nodes) are the derivatives of the twin; some elements saturate, some do not."""
    pair = Pair(case, dynamic)
    np.testing.assert_allclose(pair.twin(pair.x, pair.scale), pair.y, rtol=1e-6, atol=1e-7)
    u = np.random.default_rng(1).standard_normal(pair.y.shape).astype(np.float32)
    derived = onnxsal.vjp(pair.model, wrt=["x", "scale"], outputs=["y"])
    got = run(derived, pair.feed | {"cotangent/y": u}, optimise=True)
    passed = slope(lambda t: pair.twin(pair.x.astype(np.float64) + t, pair.scale))
    assert 0 < (np.abs(passed - 1) < 1e-3).mean() < 1
    np.testing.assert_allclose(got["vjp/x"], u * np.round(passed), rtol=1e-5, atol=1e-6)
    scale = pair.scale.astype(np.float64)
    for index in np.ndindex(scale.shape):
        direction = np.zeros_like(scale)
        direction[index] = scale[index]
        expected = (u * slope(lambda t, d=direction: pair.twin(pair.x, scale + t * d))).sum() / scale[index]
        cancelled = np.abs(u).sum() * np.abs(pair.y).max() / scale.min()
        assert got["vjp/scale"][index] == pytest.approx(expected, rel=1e-4, abs=1e-6 * cancelled)


@pytest.mark.parametrize("case", quantize_cases())
def test_implicit_bias(case: Case) -> None:
    """r = q - J (x, scale) of QuantizeLinear, for every set of active inputs."""
    pair = Pair(case, dynamic=False)
    one = onnx.ModelProto()
    one.CopyFrom(pair.model)
    del one.graph.node[1], one.graph.output[:]
    one.graph.node[0].output[0] = "y0"
    one.graph.output.add(name="y0")
    one = onnx.shape_inference.infer_shapes(one)
    for active in [("x",), ("scale",), ("x", "scale")]:
        move = {n: (a.astype(np.float64) if n in active else 0 * a) for n, a in (("x", pair.x), ("scale", pair.scale))}
        at = lambda t, m=move: pair.quantised(pair.x.astype(np.float64) + t * m["x"], pair.scale + t * m["scale"])  # noqa: E731
        expected = at(0.0) - slope(at)
        biased = bias_model(one, list(active))
        del biased.graph.output[0]  # 4- and 8-bit types do not reach Python
        got = run(biased, pair.feed)["bias"]
        np.testing.assert_allclose(np.broadcast_to(got, expected.shape), expected, rtol=1e-4, atol=1e-5 * np.abs(pair.high))


@pytest.mark.parametrize("case", REGISTRY["", "DynamicQuantizeLinear"].cases)
def test_dynamic_pair_is_the_identity(case: Case) -> None:
    """The range spans the data: nothing saturates, and the grid counts as a constant."""
    x = draw(case.inputs[0], case, np.float32, np.random.default_rng(0))
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], name="n"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = model_of(nodes, {"x": x}, {})
    u = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    got = run(onnxsal.vjp(model, wrt=["x"], outputs=["y"]), {"x": x, "cotangent/y": u})
    np.testing.assert_allclose(got["vjp/x"], u, rtol=1e-5)


@pytest.mark.parametrize("half", [np.float16])
def test_half_precision_scale(half: type) -> None:
    x = np.array([-3, -0.7, 0.2, 0.9, 4], half)
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    model = model_of(nodes, {"x": x}, {"s": half(0.01), "z": np.int8(0)})
    u = np.arange(1, 6).astype(half)
    got = run(onnxsal.vjp(model, wrt=["x"], outputs=["y"]), {"x": x, "cotangent/y": u})
    np.testing.assert_allclose(got["vjp/x"], [0, 2, 3, 4, 0], rtol=1e-3)


# ----- operators between the pair -----

INDICES = {
    "shape": np.array([3, 8]),
    "i": np.array([2, 0]),
    "starts": np.array([1]),
    "ends": np.array([3]),
    "axis": np.array([1]),
    "pads": np.array([0, 1, 0, 0, 0, 2]),
}
BETWEEN: dict[str, list[tuple[str, list[str], list[str], dict]]] = {
    "Reshape": [("Reshape", ["q", "shape"], ["p"], {})],
    "Transpose": [("Transpose", ["q"], ["p"], {"perm": [0, 2, 1]})],
    "Flatten": [("Flatten", ["q"], ["p"], {})],
    "Squeeze": [("Unsqueeze", ["q", "axis"], ["u"], {}), ("Squeeze", ["u", "axis"], ["p"], {})],
    "Slice": [("Slice", ["q", "starts", "ends", "axis"], ["p"], {})],
    "Gather": [("Gather", ["q", "i"], ["p"], {"axis": 1})],
    "Split": [("Split", ["q"], ["a", "b"], {"num_outputs": 2, "axis": 2}), ("Concat", ["b", "a", "grid"], ["p"], {"axis": 2})],
    "Identity": [("Identity", ["q"], ["p"], {})],
    "MaxPool": [("MaxPool", ["q"], ["p"], {"kernel_shape": [2], "strides": [2]})],
    "Relu": [("Relu", ["q"], ["p"], {})],
    "Clip": [("Clip", ["q", "low", "high"], ["p"], {})],
    "Max": [("Max", ["q", "grid"], ["p"], {})],
    "Min": [("Min", ["q", "grid"], ["p"], {})],
    "Where": [("Where", ["condition", "q", "grid"], ["p"], {})],
    "Pad": [("Pad", ["q", "pads"], ["p"], {})],
}


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize("name", BETWEEN)
def test_signal_crosses_operators_on_quantised_values(name: str, unsigned: bool) -> None:
    """Between the pair the same operators act on integers; the twin acts on x / scale, clipped, in float64."""
    rng = np.random.default_rng(5)
    kind = np.uint8 if unsigned else np.int8
    if name == "Relu" and unsigned:
        pytest.skip("the standard has no Relu on unsigned integers")
    scale = 0.5
    grid = (rng.permutation(48)[:24].reshape(2, 3, 4) * 2 + 1 + (0 if unsigned else -48)).astype(np.int64)
    x = rng.permutation(np.arange(24) * 4 + (2 if unsigned else -46)).reshape(2, 3, 4) * scale
    shared = INDICES | {"condition": rng.random((2, 3, 4)) > 0.5}
    numbers = {"grid": grid, "low": np.array(11 if unsigned else -21), "high": np.array(61 if unsigned else 25)}
    nodes = [helper.make_node(o, i, r, **a) for o, i, r, a in BETWEEN[name]]
    used = set(itertools.chain.from_iterable(n.input for n in nodes))
    real = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        *nodes,
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    constants = {k: v for k, v in shared.items() if k in used} | {k: v.astype(kind) for k, v in numbers.items() if k in used}
    feed = {"x": x.astype(np.float32)}
    model = model_of(real, feed, constants | {"s": np.float32(scale), "z": kind(0)})
    twin_nodes = [helper.make_node("Div", ["x", "s"], ["q"]), *nodes, helper.make_node("Mul", ["p", "s"], ["y"])]
    twin_constants = {k: v for k, v in shared.items() if k in used} | {k: v.astype(np.float64) for k, v in numbers.items() if k in used}
    twin = model_of(twin_nodes, {"x": x}, twin_constants | {"s": np.float64(scale)})
    y = run(twin, {"x": x})["y"]
    np.testing.assert_allclose(run(model, feed)["y"], y, rtol=1e-6)
    u, v = rng.standard_normal(y.shape), rng.standard_normal(x.shape)
    got = run(onnxsal.vjp(model, wrt=["x"], outputs=["y"]), feed | {"cotangent/y": u.astype(np.float32)}, optimise=True)["vjp/x"]
    expected = (u * scaled_derivative(twin, {"x": x}, {"x": v})["y"]).sum()
    assert (got * v).sum() == pytest.approx(expected, rel=1e-4)


def test_hand_written_dequantisation() -> None:
    """Cast and Mul in place of DequantizeLinear: integers become floats again, and the signal with them."""
    x = np.array([-200, -3.2, 0.7, 5, 300], np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    model = model_of(nodes, {"x": x}, {"s": np.float32(0.5), "z": np.int8(0)})
    u = np.arange(1, 6, dtype=np.float32)
    np.testing.assert_allclose(run(onnxsal.vjp(model, wrt=["x"], outputs=["y"]), {"x": x, "cotangent/y": u})["vjp/x"], [0, 2, 3, 4, 0])


# ----- operators that compute in integers -----


def integer_matmul() -> tuple[list[onnx.NodeProto], Arrays]:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], name="gap"),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["p"]),
    ]
    return nodes, {"w": np.ones((4, 4), np.int8)}


def integer_qlinear() -> tuple[list[onnx.NodeProto], Arrays]:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "s", "z", "w", "s", "z", "s", "z"], ["i"], name="gap"),
        helper.make_node("DequantizeLinear", ["i", "s", "z"], ["p"]),
    ]
    return nodes, {"w": np.ones((4, 4), np.uint8), "s": np.float32(0.1), "z": np.uint8(3)}


@pytest.mark.parametrize("build", [integer_matmul, integer_qlinear])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a float path"])
def test_integer_arithmetic_is_crossed(build: Callable[[], tuple[list[onnx.NodeProto], Arrays]], beside: bool) -> None:
    """Never a silent zero, also where another path to the output is differentiable: the integers' part of the slope is there."""
    nodes, constants = build()
    last = helper.make_node("Add", ["p", "x"], ["y"]) if beside else helper.make_node("Identity", ["p"], ["y"])
    x = np.array([[1, 0.5, 0, -0.2], [0.3, 0.1, 0.2, 0]], np.float32)
    model = model_of([*nodes, last], {"x": x}, constants)
    u = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    weight = np.ones((4, 4)) if build is integer_matmul else np.full((4, 4), (1 - 3) * 0.1)
    expected = u @ weight.T + (u if beside else 0)
    found = run(onnxsal.vjp(model, wrt=["x"], outputs=["y"]), {"x": x, "cotangent/y": u})["vjp/x"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# ----- refusals -----


def test_a_cast_to_integers_ends_the_signal_with_a_reason() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64, name="truncate"),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": np.ones(3, np.float32)}, {})
    with pytest.raises(PlanError, match=r"truncate.*int64"):
        onnxsal.vjp(model, wrt=["x"], outputs=["y"])


# ----- what cannot saturate -----

POOLED = [("QuantizeLinear", "x s z", "a"), ("DequantizeLinear", "a s z", "b"), ("AveragePool", "b", "c")]
ENDS: dict[str, tuple[list[tuple[str, str, str]], float, bool]] = {
    "a softmax on its own grid": ([("Softmax", "x", "c")], 1 / 255, True),
    "a softmax on a grid that ends before 1": ([("Softmax", "x", "c")], 1 / 260, False),
    "a ReLU6 on its own grid": ([("Clip", "x low high", "c")], 6 / 255, True),
    "a ReLU6 that was calibrated to 5": ([("Clip", "x low high", "c")], 5 / 255, False),
    "a ReLU": ([("Relu", "x", "c")], 0.1, False),
    "a pool of what was on this grid": (POOLED, 0.05, True),
    "the input": ([("Identity", "x", "c")], 0.1, False),
}


@pytest.mark.parametrize("name", ENDS)
def test_nothing_is_compared_where_nothing_can_saturate(name: str) -> None:
    """And where something can, it is: the signal stops at 300."""
    first, scale, never = ENDS[name]
    nodes = [
        *(helper.make_node(o, i.split(), [r], **({"kernel_shape": [2, 2]} if "Pool" in o else {})) for o, i, r in first),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"], name="last"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x = np.linspace(-300, 300, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    stored = {"s": np.float32(scale), "z": np.uint8(0), "low": np.float32(0), "high": np.float32(6)}
    used = {n for node in nodes for n in node.input}
    made = onnxsal.vjp(model_of(nodes, {"x": x}, {k: v for k, v in stored.items() if k in used}, dynamic=True), wrt=["x"], outputs=["y"])
    assert any("/last/" in n.name and n.op_type == "Where" for n in made.graph.node) is not never


@pytest.mark.parametrize("method", ["gradient", "fullgrad"])
def test_the_map_is_the_same_bit_for_bit(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proved never to saturate does not, on inputs of any size: with all comparisons in place nothing changes."""
    compared = 0
    for seed in (1, 9, 10, 11, 12):
        model = quantised_net(seed)[0]
        sizes = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
        feed = {"x": np.random.default_rng(seed).normal(size=sizes).astype(np.float32) * np.float32([[[[0.3]]], [[[3]]], [[[300]]]])}
        with contextlib.suppress(OnnxsalError), monkeypatch.context() as patched:  # one that is refused is no case
            found = onnxsal.convert(model, method, score="raw")
            patched.setattr(tags, "is_unsaturated", lambda node: False)
            expected, got = run(onnxsal.convert(model, method, score="raw"), feed), run(found, feed)
            for name in ("attribution", "saliency_map"):
                np.testing.assert_array_equal(got[name], expected[name])
            compared += len(found.graph.node) < len(onnxsal.convert(model, method, score="raw").graph.node)
    assert compared >= 4
