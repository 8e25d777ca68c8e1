"""Every shipped method on networks with quantisation at random places: the file opens and its maps are finite, or it is refused.

``check`` says which, in the words of ``convert``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxsal
from onnxsal.ask.guard import plain_model
from onnxsal.backward.gradient import RECTIFIERS
from onnxsal.backward.registry import RULES
from onnxsal.engine.method import shipped_methods
from onnxsal.errors import InputError, OnnxsalError, PlanError
from onnxsal.facade.fit_patterns import with_sums
from onnxsal.facts.linear_layers import linear_layers
from onnxsal.graph.standard import nodes as nodes_of
from onnxsal.methods.build import wrapper_of
from tests.quantised_nets import INTEGER, quantised_net
from tests.small_models import draw, make, node

METHODS = tuple(shipped_methods())

QUICK: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 3},
    "smoothgrad": {"n_samples": 2},
    "smooth_fullgrad": {"n_samples": 2},
    "rise": {"n_masks": 4, "grid": 2},
    "occlusion": {"window": 4, "stride": 4},
}

FORWARD_ONLY = {name for name, method in shipped_methods().items() if wrapper_of(method).starts == "nothing"}
"""Methods that send nothing back, so that integers in between are no gap."""


def opened(model: bytes | onnx.ModelProto) -> ort.InferenceSession:
    """With ONNX Runtime's default optimisation, as users open files."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def picture(model: onnx.ModelProto, seed: int) -> np.ndarray:
    sizes = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal(sizes).astype(np.float32)


def nets(first: int, count: int, integer: bool = False) -> Iterator[tuple[int, onnx.ModelProto, list[str]]]:
    """From this seed on, the networks that ONNX Runtime itself runs (its fusions break on some of them)."""
    seed = first
    while count:
        model, used = quantised_net(seed, integer)
        try:
            opened(model).run(None, {"x": picture(model, seed)})
        except Exception:
            seed += 1
            continue
        yield seed, model, used
        seed, count = seed + 1, count - 1


def options_of(model: onnx.ModelProto, method: str, seed: int) -> dict[str, Any] | None:
    """Its settings; ``None`` where the patterns that it needs cannot be learned, which is said."""
    given: dict[str, Any] = {**QUICK.get(method, {}), "black": -1.0, "white": 1.0}
    if "patterns" in shipped_methods()[method].parameters:
        noise = np.concatenate([picture(model, seed + i) for i in range(4)])
        if not linear_layers(plain_model(onnx.ModelProto.FromString(model.SerializeToString()))):
            with pytest.raises(InputError, match="no Conv, Gemm or MatMul with constant weights"):
                onnxsal.fit_patterns(model, noise)
            return None
        given["patterns"] = onnxsal.fit_patterns(model, noise)
    return given


def explained(model: onnx.ModelProto, method: str, seed: int) -> str:
    """Why it is refused, or '' where the file opens and its outputs are finite; ``check`` said so before."""
    given = options_of(model, method, seed)
    if given is None:
        return "no patterns"
    said = onnxsal.check(model, "cpu", method, compare=False, **given).problem
    if said:
        with pytest.raises(OnnxsalError) as refused:
            onnxsal.convert(model, method, **given)
        assert str(refused.value) == said
        return said
    made = onnxsal.convert(model, method, target_input="fixed", **given)
    session = opened(made)
    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"x": picture(model, seed)}), strict=True))
    assert found["attribution"].shape == picture(model, seed).shape
    assert all(np.isfinite(array).all() for array in found.values()), names
    return ""


@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_network_is_explained_or_refused(method: str) -> None:
    for seed, model, used in nets(50 * METHODS.index(method), 2):
        why = explained(model, method, seed)
        assert not why or len(why) > 10, (seed, used)


@pytest.mark.parametrize("method", METHODS)
def test_operators_that_compute_in_integers_are_explained_or_refused_too(method: str) -> None:
    ((seed, model, used),) = nets(5000 + 10 * METHODS.index(method), 1, integer=True)
    why = explained(model, method, seed)
    assert not why or len(why) > 10, (seed, used)
    assert not set(INTEGER).intersection(why.replace("(", " ").split()), why


def rounded_first(kind: Any, opset: int) -> onnx.ModelProto:
    """Rounding at the input, with a stored zero point."""
    stored = {"s": np.float32(0.05), "z": np.asarray(0).astype(kind), "w": draw(4, 3, 3, 3), "v": draw(4, 5, seed=1)}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Conv", "d w", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "m"),
        node("Flatten", "m", "f"),
        node("MatMul", "f v", "y"),
    ]
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, stored, opset=opset)


@pytest.mark.parametrize(
    ("kind", "opset", "apart"),
    [(ml_dtypes.float8_e4m3fn, 19, True), (np.int8, 21, True), (np.int8, 18, False), (np.uint8, 21, False), (np.int16, 21, False)],
)
def test_the_two_moves_that_onnx_runtime_fails_at(kind: Any, opset: int, apart: bool) -> None:
    """It takes added Reshapes and Transposes past float8, and past int8 from opset 21 on, and cannot open the result.

    Patterns are learned from transposed activations; occlusion feeds what it reshaped.
    """
    model = rounded_first(kind, opset)
    feed = {"x": picture(model, 0)}
    for made in (onnxsal.convert(model, "occlusion", target_input="fixed", window=4, stride=4), learning(model)):
        assert any("/apart/" in n.name for n in nodes_of(made)) == apart
        for array in opened(made).run(None, feed):
            assert np.isfinite(array).all()


def test_the_class_is_looked_up_in_numbers_and_not_in_float8() -> None:
    """ONNX Runtime would let ArgMax read the quantised scores."""
    nodes = [node("MatMul", "x w", "m"), node("QuantizeLinear", "m s z", "q"), node("DequantizeLinear", "q s z", "y")]
    stored = {"w": draw(4, 5), "s": np.float32(0.05), "z": np.asarray(0).astype(ml_dtypes.float8_e4m3fn)}
    made = onnxsal.convert(make(nodes, {"x": ["N", 4]}, {"y": ["N", 5]}, stored, opset=19), "gradient", score="raw", target_input="fixed")
    opened(made).run(None, {"x": draw(3, 4, seed=2)})


def learning(model: onnx.ModelProto) -> onnx.ModelProto:
    """What ``fit_patterns`` runs."""
    plain = plain_model(onnx.ModelProto.FromString(model.SerializeToString()))
    layers = linear_layers(plain)
    return with_sums(plain, layers, [(f"a{i}", f"b{i}") for i in range(len(layers))])


def test_deeplift_has_no_rule_for_a_grid_that_follows_the_data() -> None:
    """A number can stay as it is while its rounded value moves, because another number stretched the grid."""
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z", "d"), node("MatMul", "d w", "y")]
    model = make(nodes, {"x": [1, 4]}, {"y": [1, 5]}, {"w": draw(4, 5)})
    with pytest.raises(PlanError, match="follows all of them"):
        onnxsal.convert(model, "deeplift", batched=True)


@pytest.mark.parametrize("method", ["deconvnet", "guided_backprop"])
def test_a_rectifier_that_the_quantiser_swallowed_is_one(method: str) -> None:
    """As ONNX Runtime's quantiser writes it: the grid of what a layer makes begins at zero. The map is as with the ReLU."""
    stored = {"w": draw(4, 3, 3, 3), "v": draw(4, 5, seed=1), "s": np.float32(0.001), "z": np.uint16(0)}
    ends = [node("GlobalAveragePool", "r", "m"), node("Flatten", "m", "f"), node("MatMul", "f v", "y")]
    grid = [node("QuantizeLinear", "c s z", "q"), node("DequantizeLinear", "q s z", "r")]
    x = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)
    found = []
    for middle in (grid, [node("Relu", "c", "r")]):
        model = make([node("Conv", "x w", "c"), *middle, *ends], {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, stored, opset=21)
        found.append(onnxsal.Explainer(model, method).explain(x, 1).attribution)
    quantised, plain = found
    assert np.any(plain)
    np.testing.assert_allclose(quantised, plain, atol=1e-5 * np.abs(plain).max())


def test_every_rule_for_rectifiers_takes_all_that_are_tagged_so() -> None:
    """A method's rows say "rectifier", however it is spelt: no rule that they name may take fewer families."""
    rows = {row.use for method in shipped_methods().values() for row in method.rules if "rectifier" in row.match.get("tag", ())}
    assert {"guided", "deconvnet"} <= rows
    for name in rows:
        assert set(RULES[name].families) >= set(RECTIFIERS), name
