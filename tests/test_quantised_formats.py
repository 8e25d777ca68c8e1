"""Quantised formats beside QDQ: what computes in integers stays in the file, and is explained by its copy in floating point."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.ask.guard import compare_on_random_input
from onnxsal.errors import ModelError, PlanError
from onnxsal.graph.load import load_model
from onnxsal.ops.quantize import fix_grids
from onnxsal.ops.registry import known
from onnxsal.ops.restated import RESTATED, Restatement, real
from onnxsal.passes import Prepared, prepare
from tests.oracle import run
from tests.quantised_files import FORMATS, NETS, data, floating, quantised, saturates
from tests.quantised_twin import twin_gradient
from tests.small_models import draw, make, node

UINT8, INT8, F = np.uint8, np.int8, np.float32


def ms(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return node(op_type, inputs, outputs, domain="com.microsoft", **attributes)


# ----- every operator -----

RNG = np.random.default_rng(0)
GRID = {"s": F(0.03), "z": UINT8(120), "t": F(0.05), "u": UINT8(100), "ys": F(0.04), "yz": UINT8(128)}
UNIT = GRID | {"ys": F(1 / 256), "yz": UINT8(0)}
Q, P, END = node("QuantizeLinear", "x s z", "q"), node("QuantizeLinear", "x t u", "p"), node("DequantizeLinear", "o ys yz", "y")
GRIDDED = node("DynamicQuantizeLinear", "x", "q s z")
REAL = [node("Cast", "i", "f", to=1), node("Mul", "s ws", "sw"), node("Mul", "f sw", "y")]
PICTURE, ROWS = (2, 4, 6, 6), (2, 3, 4)


def codes(*shape: int, kind: Any = INT8) -> np.ndarray:
    return RNG.integers(-60, 60, shape).astype(kind) if np.dtype(kind) == INT8 else RNG.integers(0, 256, shape).astype(kind)


CONV = GRID | {"w": codes(5, 4, 3, 3), "ws": np.full(5, 0.02, F), "wz": np.zeros(5, INT8), "b": RNG.integers(-500, 500, 5).astype(np.int32)}
FLAT = CONV | {"ws": F(0.02), "wz": INT8(0)}
MATRIX = GRID | {"w": codes(4, 6, kind=UINT8), "ws": np.full(6, 0.02, F), "wz": np.full(6, 128, UINT8), "b": draw(6, seed=1)}
ONE = MATRIX | {"ws": F(0.02), "wz": UINT8(120)}
GEMM = GRID | {"w": codes(6, 4), "ws": np.full(6, 0.02, F), "wz": np.zeros(6, INT8), "b": RNG.integers(-500, 500, 6).astype(np.int32)}


def lstm(ways: int, columns: bool) -> dict[str, np.ndarray]:
    shape = (ways, 20) if columns else (ways,)
    scales = {"ws": np.full(shape, 0.01, F), "wz": np.zeros(shape, INT8), "rs": np.full(shape, 0.01, F), "rz": np.zeros(shape, INT8)}
    return {"w": codes(ways, 4, 20), "r": codes(ways, 5, 20), "b": draw(ways, 40), **scales}


def blocks(k: int, block: int, bits: int, zeros: str = "") -> dict[str, np.ndarray]:
    count = -(-k // block)
    found = {"w": codes(6, count, block * bits // 8, kind=UINT8), "ws": RNG.uniform(0.01, 0.03, 6 * count).astype(F), "b": draw(6)}
    if zeros:
        found["wz"] = codes(6 * (-(-count * bits // 8)), kind=UINT8) if zeros == "packed" else RNG.uniform(5, 9, 6 * count).astype(F)
    return found


def nbits(inputs: str, k: int, block: int, bits: int, **attributes: Any) -> list[onnx.NodeProto]:
    return [ms("MatMulNBits", inputs, "y", K=k, N=6, bits=bits, block_size=block, **attributes)]


def table(kind: Any, bits: int, zeros: bool) -> dict[str, np.ndarray]:
    packed = 8 // bits if kind is UINT8 else 1
    low = -8 if kind is ml_dtypes.int4 else 0
    high = 256 if kind is UINT8 else low + 16
    found = {"w": RNG.integers(low, high, (6, 64 // packed)).astype(kind), "ws": RNG.uniform(0.01, 0.02, (6, 2)).astype(F)}
    return found | ({"wz": RNG.integers(low, high, (6, 2 // packed)).astype(kind)} if zeros else {}) | {"ids": np.array([[1, 3], [0, 5]])}


def gather(inputs: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [ms("GatherBlockQuantized", inputs, "g", block_size=32, **attributes), node("Mul", "g x", "y")]


EMBED = {k: codes(n, 8, kind=UINT8) for k, n in (("word", 20), ("place", 9), ("kind", 2))} | {
    **{k: codes(8, kind=UINT8) for k in ("gain", "shift")},
    **dict.fromkeys(("a", "b", "c", "d", "e"), F(0.02)),
    **dict.fromkeys(("k", "l", "m", "n", "o"), UINT8(120)),
    "ids": np.array([[1, 2, 3], [4, 5, 6]], np.int32),
    "kinds": np.array([[0, 0, 1], [0, 1, 1]], np.int32),
}

Case = tuple[list[onnx.NodeProto], dict[str, Any], tuple[int, ...], bool]
CASES: dict[str, Case] = {
    # nodes, stored tensors, shape of x, whether the float64 twin knows it
    "QLinearConv": ([Q, node("QLinearConv", "q s z w ws wz ys yz b", "o", pads=[1, 1, 1, 1]), END], CONV, PICTURE, True),
    "QLinearConv, one scale": ([Q, node("QLinearConv", "q s z w ws wz ys yz", "o", strides=[2, 2]), END], FLAT, PICTURE, True),
    "QLinearConv, one zero point": (
        [Q, node("QLinearConv", "q s z w ws wz ys yz", "o", auto_pad="SAME_UPPER"), END],
        CONV | {"wz": INT8(0)},
        PICTURE,
        False,
    ),
    "QLinearMatMul": ([Q, node("QLinearMatMul", "q s z w ws wz ys yz", "o"), END], MATRIX, ROWS, True),
    "QLinearMatMul, one scale": ([Q, node("QLinearMatMul", "q s z w ws wz ys yz", "o"), END], ONE, ROWS, True),
    "QGemm": ([Q, ms("QGemm", "q s z w ws wz b ys yz", "o", transB=1, alpha=0.7), END], GEMM, (3, 4), True),
    "QGemm, floating point out": ([Q, ms("QGemm", "q s z w ws wz b", "y", transB=1)], GEMM | {"ws": F(0.02), "wz": INT8(0)}, (3, 4), True),
    "QLinearAdd": ([Q, P, ms("QLinearAdd", "q s z p t u ys yz", "o"), END], GRID, PICTURE, True),
    "QLinearMul": ([Q, P, ms("QLinearMul", "q s z p t u ys yz", "o"), END], GRID, PICTURE, True),
    "QLinearConcat": ([Q, P, ms("QLinearConcat", "ys yz q s z p t u", "o", axis=1), END], GRID, PICTURE, True),
    "QLinearWhere": (
        [Q, P, node("Greater", "x half", "c"), ms("QLinearWhere", "c q s z p t u ys yz", "o"), END],
        GRID | {"half": F(0.5)},
        PICTURE,
        False,
    ),
    "QLinearAveragePool": (
        [Q, ms("QLinearAveragePool", "q s z ys yz", "o", kernel_shape=[3, 3], strides=[2, 2]), END],
        GRID,
        PICTURE,
        True,
    ),
    "QLinearAveragePool, channels last": (
        [Q, ms("QLinearAveragePool", "q s z ys yz", "o", kernel_shape=[3, 3], channels_last=1), END],
        GRID,
        PICTURE,
        False,
    ),
    "QLinearGlobalAveragePool": ([Q, ms("QLinearGlobalAveragePool", "q s z ys yz", "o"), END], GRID | {"ys": F(0.01)}, PICTURE, True),
    "QLinearSigmoid": ([Q, ms("QLinearSigmoid", "q s z ys yz", "o"), END], UNIT, PICTURE, True),
    "QLinearLeakyRelu": ([Q, ms("QLinearLeakyRelu", "q s z ys yz", "o", alpha=0.1), END], GRID, PICTURE, True),
    "QLinearSoftmax": ([Q, ms("QLinearSoftmax", "q s z ys yz", "o", axis=-1, opset=13), END], UNIT, PICTURE, True),
    "QLinearSoftmax over the rest": ([Q, ms("QLinearSoftmax", "q s z ys yz", "o", axis=1, opset=12), END], UNIT, (2, 3, 2), False),
    "com.microsoft QuantizeLinear and DequantizeLinear": (
        [ms("QuantizeLinear", "x s z", "q"), ms("DequantizeLinear", "q s z", "y")],
        GRID,
        PICTURE,
        True,
    ),
    "ConvInteger": ([GRIDDED, node("ConvInteger", "q w z wz", "i", pads=[1, 1, 1, 1]), *REAL], FLAT, PICTURE, True),
    "ConvInteger, a bias in steps": (
        [GRIDDED, node("ConvInteger", "q w z", "j"), node("Add", "j k", "i"), *REAL],
        FLAT | {"k": np.array([[[[300]], [[-40]], [[0]], [[7]], [[-9]]]], np.int32)},
        PICTURE,
        True,
    ),
    "ConvInteger, sums alone": ([GRIDDED, node("ConvInteger", "q w z", "i"), node("Cast", "i", "y", to=1)], FLAT, PICTURE, True),
    "MatMulInteger": ([GRIDDED, node("MatMulInteger", "q w z wz", "i"), *REAL], ONE, ROWS, True),
    "MatMulInteger, by column": ([GRIDDED, node("MatMulInteger", "q w z wz", "i"), *REAL], MATRIX, ROWS, True),
    "MatMulInteger, without zero points": ([GRIDDED, node("MatMulInteger", "q w", "i"), node("Cast", "i", "y", to=1)], ONE, ROWS, True),
    "MatMulInteger, beyond 2^24": (
        [GRIDDED, node("MatMulInteger", "q w z wz", "i"), *REAL],
        ONE | {"w": np.full((2048, 3), 250, UINT8), "wz": UINT8(0)},
        (1, 2, 2048),
        True,
    ),
    "MatMulIntegerToFloat": ([GRIDDED, ms("MatMulIntegerToFloat", "q w s ws z wz b", "y")], ONE, ROWS, False),
    "DynamicQuantizeMatMul": ([ms("DynamicQuantizeMatMul", "x w ws wz b", "y")], MATRIX, ROWS, False),
    "DynamicQuantizeLSTM": (
        [ms("DynamicQuantizeLSTM", "x w r b . . . . ws wz rs rz", "y", hidden_size=5)],
        lstm(1, False),
        (3, 2, 4),
        True,
    ),
    "DynamicQuantizeLSTM, both ways, by column": (
        [ms("DynamicQuantizeLSTM", "x w r b . . . . ws wz rs rz", "y", hidden_size=5, direction="bidirectional")],
        lstm(2, True),
        (3, 2, 4),
        True,
    ),
    "QAttention": (
        [GRIDDED, ms("QAttention", "q w b s ws mask z wz", "y", num_heads=2)],
        {"w": codes(8, 24), "b": draw(24), "ws": np.full(24, 0.01, F), "wz": np.zeros(24, INT8), "mask": np.array([3, 5], np.int32)},
        (2, 5, 8),
        False,
    ),
    "QEmbedLayerNormalization": (
        [ms("QEmbedLayerNormalization", "ids kinds word place kind gain shift . a b c d e k l m n o", "v i"), node("Mul", "v x", "y")],
        EMBED,
        (2, 3, 1),
        False,
    ),
    "MatMulNBits 4": (nbits("x w ws", 32, 16, 4), blocks(32, 16, 4), (2, 3, 32), True),
    "MatMulNBits 4, padded, packed zeros, bias": (nbits("x w ws wz . b", 40, 16, 4), blocks(40, 16, 4, "packed"), (2, 3, 40), True),
    "MatMulNBits 4, zeros in floating point": (nbits("x w ws wz", 32, 16, 4), blocks(32, 16, 4, "float"), (2, 3, 32), True),
    "MatMulNBits 8, packed zeros": (nbits("x w ws wz", 40, 16, 8), blocks(40, 16, 8, "packed"), (2, 3, 40), True),
    "MatMulNBits 2": (nbits("x w ws", 32, 16, 2), blocks(32, 16, 2), (2, 3, 32), True),
    "MatMulNBits 4, A rounded too": (nbits("x w ws", 32, 16, 4, accuracy_level=4), blocks(32, 16, 4), (2, 3, 32), True),
    "GatherBlockQuantized 4": (gather("w ids ws", bits=4, quantize_axis=1), table(UINT8, 4, False), (1, 1, 1), False),
    "GatherBlockQuantized 8, zeros": (gather("w ids ws wz", bits=8, quantize_axis=1), table(UINT8, 8, True), (1, 1, 1), False),
    "GatherBlockQuantized int4": (gather("w ids ws wz", quantize_axis=1), table(ml_dtypes.int4, 4, True), (1, 1, 1), False),
}


def prepared(model: onnx.ModelProto) -> Prepared:
    return prepare(load_model(model), known, compare_on_random_input)


def weighted(model: onnx.ModelProto, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Outputs of ``vjp``, the model's own output, the weights of the sum that is differentiated."""
    own = run(model, {"x": x})["y"]
    seed = np.random.default_rng(1).standard_normal(own.shape).astype(F)
    return run(onnxsal.vjp(model), {"x": x, "cotangent/y": seed}), own, seed


@pytest.mark.parametrize("name", CASES)
def test_every_operator_is_explained_by_its_copy(name: str) -> None:
    """The model's own output keeps every bit; the copy is as near as it must be; the gradient is that of the twin in float64."""
    nodes, stored, shape, twin = CASES[name]
    wanted = {n for o in nodes for n in o.input}
    weights = {k: v for k, v in stored.items() if k in wanted and k not in {o for n in nodes for o in n.output}}
    opset = 21 if any(np.asarray(v).dtype == ml_dtypes.int4 for v in weights.values()) else 18
    symbolic = ["N", *shape[1:]] if len(shape) != 3 or shape[0] == 2 else list(shape)
    model = make(nodes, {"x": symbolic}, {"y": None}, weights, opset=opset, domains={"com.microsoft": 1})
    x = draw(*shape, seed=2)
    found, own, seed = weighted(model, x)
    np.testing.assert_array_equal(found["y"], own)
    assert any("copies in floating point" in line for line in prepared(model).log)
    if twin:
        expected, _ = twin_gradient(model, x, seed)
        near = 2e-2 if "LSTM" in name else 1e-5
        np.testing.assert_allclose(found["vjp/x"], expected, atol=near * np.abs(expected).max())
    else:
        assert np.isfinite(found["vjp/x"]).all()
        assert np.any(found["vjp/x"])


def test_every_copy_is_tested() -> None:
    tested = {(n.domain, n.op_type) for nodes, *_ in CASES.values() for n in nodes}
    assert RESTATED.keys() - tested == {("com.microsoft", "QLinearConv")}  # the layout optimiser's, which the CPU runs in that layout alone


# ----- whole files -----


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_a_quantised_file(name: str, how: str) -> None:
    """That of the same integers in torch, in float64, straight through the rounding; three samples, although two were exported."""
    model, x = quantised(name, how), data(name, 3)
    found, own, seed = weighted(model, x)
    np.testing.assert_array_equal(found["y"], own)
    expected, scores = twin_gradient(model, x, seed)
    near = 2e-3 if (name, how) == ("lstm", "dynamic") else 5e-6  # its state is rounded before each step, the copy's is not
    np.testing.assert_allclose(found["vjp/x"], expected, atol=near * np.abs(expected).max())
    np.testing.assert_allclose(scores, own, atol=near * np.abs(own).max())


@pytest.mark.parametrize("name", ["cnn", "vit", "whisper"])
@pytest.mark.parametrize("how", ["static", "dynamic", "4 bits"])
def test_fullgrad_sums_to_the_score_of_the_file_itself(name: str, how: str) -> None:
    model, x = quantised(name, how), data(name, 2)
    result = onnxsal.Explainer(model, "fullgrad").explain(x, 1)
    assert result.residual is not None
    assert np.abs(result.residual).max() < 1e-4
    np.testing.assert_allclose(result.score, run(model, {"x": x})["y"][:, 1], atol=1e-5)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("how", ["static", "dynamic", "4 bits"])
@pytest.mark.parametrize("method", ["integrated_gradients", "lrp_epsilon", "lrp_epsilon_plus_flat", "gradcam", "occlusion"])
def test_the_map_of_a_quantised_file_is_that_of_the_float_model(method: str, how: str) -> None:
    """So relevance also leaves through biases as there: the weight behind the integers is known to be one."""
    given = {"window": 4, "stride": 4} if method == "occlusion" else {"n_steps": 4} if method == "integrated_gradients" else {}
    x = data("cnn", 2)
    maps = [onnxsal.Explainer(m, method, **given).explain(x, 1).attribution for m in (quantised("cnn", how), floating("cnn")[1])]
    assert cosine(*maps) > 0.99


def formats() -> list[onnx.ModelProto]:
    """One network, as QOperator and as QDQ, with the same integers and scales."""
    stored = CONV | {
        "v": codes(5, 3),
        "vs": F(0.01),
        "vz": INT8(0),
        "ms": F(0.02),
        "rs": F(0.05),
        "rz": UINT8(0),
        "bs": np.full(5, 0.0006, F),
    }
    bias = stored["b"]
    stored["b"] = bias
    pool, flat = node("GlobalAveragePool", "d", "m"), node("Flatten", "m", "l")
    ends = [node("QuantizeLinear", "l ms rz", "n"), node("DequantizeLinear", "o ys yz", "y")]
    operators = [
        Q,
        node("QLinearConv", "q s z w ws wz rs rz b", "c", pads=[1, 1, 1, 1]),
        node("DequantizeLinear", "c rs rz", "d"),
        *(pool, flat, ends[0]),
        node("QLinearMatMul", "n ms rz v vs vz ys yz", "o"),
        ends[1],
    ]
    pairs = [
        Q,
        node("DequantizeLinear", "q s z", "qf"),
        node("DequantizeLinear", "w ws wz", "wf", axis=0),
        node("DequantizeLinear", "b bs", "bf", axis=0),
        node("Conv", "qf wf bf", "cf", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", "cf rs rz", "c"),
        node("DequantizeLinear", "c rs rz", "d"),
        *(pool, flat, ends[0]),
        node("DequantizeLinear", "n ms rz", "nf"),
        node("DequantizeLinear", "v vs vz", "vf"),
        node("MatMul", "nf vf", "of"),
        node("QuantizeLinear", "of ys yz", "o"),
        ends[1],
    ]
    return [make(nodes, {"x": ["N", *PICTURE[1:]]}, {"y": ["N", 3]}, stored, opset=18) for nodes in (operators, pairs)]


@pytest.mark.parametrize(
    "method", ["gradient", "fullgrad", "lrp_zero", "lrp_epsilon_plus_flat", "lrp_alpha2_beta1", "guided_backprop", "deeplift"]
)
def test_both_static_formats_have_the_same_map(method: str) -> None:
    x = draw(*PICTURE, seed=5)
    first, second = (onnxsal.Explainer(m, method).explain(x, 1) for m in formats())
    np.testing.assert_allclose(first.attribution, second.attribution, atol=1e-5 * np.abs(second.attribution).max())


@pytest.mark.parametrize("opset", [10, 11, 13, 15, 19, 21])
def test_every_opset_that_has_it(opset: int) -> None:
    nodes, stored, shape, _ = CASES["QLinearConv"]
    model = make(nodes, {"x": ["N", *shape[1:]]}, {"y": None}, {k: v for k, v in stored.items() if k not in "tu"}, opset=opset, ir=8)
    x = draw(*shape, seed=2)
    found, own, seed = weighted(model, x)
    np.testing.assert_array_equal(found["y"], own)
    expected, _ = twin_gradient(model, x, seed)
    np.testing.assert_allclose(found["vjp/x"], expected, atol=1e-5 * np.abs(expected).max())


# ----- the file's own nodes -----


def test_a_file_that_nothing_is_sent_back_through_keeps_its_nodes_alone() -> None:
    """No copy is in it: masks run the model itself."""
    model = quantised("cnn", "static", 18)
    made = onnxsal.convert(model, "occlusion", window=4, stride=4)
    own = [n.SerializeToString() for n in model.graph.node]
    assert [n.SerializeToString() for n in made.graph.node][: len(own)] == own
    assert not [n for n in made.graph.node if "_quant/" in n.name]
    (loop,) = [n for n in made.graph.node if n.op_type == "Loop"]
    replayed = {n.op_type for n in loop.attribute[0].g.node}
    assert {"QLinearConv", "QLinearAdd", "QLinearMatMul"} <= replayed
    assert "Conv" not in replayed


def test_the_end_of_a_copy_is_left_out() -> None:
    """A gradient needs what is compared with the ends of the grid, not the second rounding."""
    made = onnxsal.vjp(quantised("cnn", "static"))
    assert not [n for n in made.graph.node if any(o.endswith("/restated") for o in n.output)]


def test_a_method_that_integrates_runs_the_operators_of_the_file() -> None:
    made = onnxsal.convert(quantised("cnn", "static"), "integrated_gradients", n_steps=4)
    (loop,) = [n for n in made.graph.node if n.op_type == "Loop"]
    assert {"QLinearConv", "QLinearAdd"} <= {n.op_type for n in loop.attribute[0].g.node}


def test_what_begins_inside_of_a_copy_does_not_go_through_the_operator() -> None:
    """The path from an inner tensor of the copy: the file's own operator would not see it."""
    model = quantised("cnn", "static")
    inner = next(n for n in prepared(model).model.nodes if "second" in n.name and n.op_type == "Conv").x.name
    made = onnxsal.convert(model, "integrated_gradients", input=inner, n_steps=4, target=1)
    found = run(made, {"x": data("cnn", 2)})
    assert np.any(found["attribution"])
    (loop,) = [n for n in made.graph.node if n.op_type == "Loop"]
    assert [n.op_type for n in loop.attribute[0].g.node].count("QLinearConv") == 1  # the third


def test_samples_are_kept_apart_but_for_the_grid_they_share() -> None:
    result = onnxsal.check(quantised("cnn", "dynamic"), "cpu", "gradient", compare=False)
    assert result.ok
    (samples,) = [f for f in result.found if f.what == "samples"]
    assert "axis 0" in samples.value
    assert "moves its numbers by rounding" in samples.why


def test_a_grid_that_is_held_still_tells_samples_apart() -> None:
    """One row a thousand times as large coarsens the grid of all."""
    nodes = [GRIDDED, node("DequantizeLinear", "q s z", "d"), node("MatMul", "d m", "y")]
    graph = make(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"m": np.eye(4, dtype=F)})
    x = draw(3, 4)
    larger = np.concatenate([x[:2], 1000 * x[2:]])
    assert np.any(run(graph, {"x": x})["y"][:2] != run(graph, {"x": larger})["y"][:2])
    assert fix_grids(graph.graph)
    np.testing.assert_array_equal(run(graph, {"x": x})["y"][:2], run(graph, {"x": larger})["y"][:2])
    assert not fix_grids(graph.graph)


# ----- refusals -----


def test_a_copy_that_is_farther_than_a_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(w: Any) -> None:
        w.add("QuantizeLinear", real(w, w.input(0), w.input(4), w.input(2)), w.input(6), w.input(7), output=w.node.output[0])

    monkeypatch.setitem(RESTATED, ("com.microsoft", "QLinearAdd"), Restatement(wrong, 1e-5, lambda node, graph: ()))
    nodes, stored, shape, _ = CASES["QLinearAdd"]
    model = make(nodes, {"x": list(shape)}, {"y": None}, stored, domains={"com.microsoft": 1})
    with pytest.raises(ModelError, match=r"node 'o' \(QLinearAdd\) .* agree with it to 1 step of the grid, and is \d+ steps"):
        onnxsal.vjp(model)


REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], tuple[int, ...], str]] = {
    "an order of columns": (
        [ms("MatMulNBits", "x w ws . g", "y", K=32, N=6, bits=4, block_size=16)],
        blocks(32, 16, 4) | {"g": np.repeat([1, 0], 16).astype(np.int32)},
        (2, 3, 32),
        "g_idx.*act_order",
    ),
    "16 bits before opset 21": (
        [ms("QuantizeLinear", "x s z", "q"), ms("DequantizeLinear", "q s z", "y")],
        GRID | {"z": np.uint16(3000)},
        ROWS,
        "uint16.*opset 18.*opset 21",
    ),
}


@pytest.mark.skipif(not saturates(), reason="this processor adds 8-bit products in 32 bits: nothing overflows")
def test_a_file_whose_sums_overflow_here_is_refused() -> None:
    """Weights of 8 bits beside activations of 8 bits without a sign: the copy has the sum, this processor has its largest 16-bit number."""
    stored = {"w": np.full((4, 1), 127, np.int8), "fine": F(0.001), "zero": UINT8(0)}
    nodes = [node("QuantizeLinear", "x fine zero", "q"), node("MatMulInteger", "q w", "i"), node("Cast", "i", "y", to=1)]
    with pytest.raises(ModelError, match="weights of 7 bits"):
        prepared(make(nodes, {"x": [1, 4]}, {"y": [1, 1]}, stored))


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_is_not_known_is_named(name: str) -> None:
    """And runs all the same for what sends nothing back."""
    nodes, stored, shape, why = REFUSED[name]
    wanted = {n for o in nodes for n in o.input}
    stored = {k: v for k, v in stored.items() if k in wanted}
    model = make(nodes, {"x": ["N", *shape[1:]]}, {"y": None}, stored, domains={"com.microsoft": 1})
    with pytest.raises(PlanError, match=f"(?s){nodes[0].name}.*{nodes[0].op_type}.*{why}"):
        onnxsal.vjp(model)


def test_check_says_how_far_the_copies_are() -> None:
    report = str(onnxsal.check(quantised("cnn", "static"), "cpu", "gradient"))
    assert "QLinearConv" in report
    assert "step" in report
