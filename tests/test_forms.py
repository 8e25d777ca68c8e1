"""Forms for the place where a file runs: each gives the numbers of the plain form, and the blocked ones stay in the blocked layout."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.errors import InputError, MethodError
from onnxsal.forms import choice, max_pool
from onnxsal.ops.registry import REGISTRY, Case
from onnxsal.runtime.session import open_session, optimised
from tests.nets import light
from tests.oracle import draw
from tests.runtimes import REFERENCE, RUNTIMES, ran
from tests.small_models import draw as weights
from tests.small_models import make, node

LITE0 = Path(__file__).parent.parent / "models" / "efficientnet_lite0.onnx"

BLOCKED = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Swish", "Conv")
BLOCKED += ("GlobalAveragePool", "AveragePool", "LpPool", "MaxPool")
"""Operators that have a form of their own in the blocked layout. (That of BatchNormalization is part of the convolution before it.)"""


def cases() -> list[tuple[str, Case]]:
    """Every case on pictures, and those of functions of one tensor made to be such."""
    found = []
    for (domain, name), spec in REGISTRY.items():
        for one in () if domain else spec.cases:
            first = one.inputs[0]
            if not isinstance(first, tuple) or one.outputs > 1:
                continue
            if spec.family == "activation" and all(not isinstance(other, tuple) for other in one.inputs[1:]):
                found.append((name, replace(one, inputs=((2, 8, 3, 4), *one.inputs[1:]))))
            elif len(first) == 4 and name in (*BLOCKED, "ConvTranspose", "GlobalMaxPool"):
                found.append((name, one))
    return found


def network(name: str, one: Case, seed: int = 0) -> tuple[onnx.ModelProto, np.ndarray]:
    """The operator between a convolution that keeps x (so that it has a constant kernel around it) and random sums of its output."""
    rng = np.random.default_rng(seed)
    x = draw(one.inputs[0], one, np.float32, rng)
    given = {f"x{i}": draw(e, one, np.float32, rng) for i, e in enumerate(one.inputs) if i and e is not None}
    names = " ".join(["x", *("" if e is None else f"x{i}" for i, e in enumerate(one.inputs) if i)]).rstrip()
    inputs = [n if n != "-" else "" for n in names.split(" ")]
    call = onnx.helper.make_node(name, inputs, ["y"], name="n", **one.attributes)
    opset = max(one.opset, 18)
    tried = make([call], {"x": list(x.shape)}, {"y": None}, given, opset=opset)
    size = open_session(tried).run({"x": x})["y"][0].size
    nodes = [call, node("Flatten", "y", "flat"), node("MatMul", "flat w", "scores")]
    shape = ["N", *x.shape[1:]]
    return make(nodes, {"x": shape}, {"scores": ["N", 3]}, given | {"w": weights(size, 3)}, opset=opset), x


def explained(
    model: onnx.ModelProto, x: np.ndarray, runs_on: str, method: str = "gradient"
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    made = onnxsal.convert(model, method, runs_on=runs_on)
    return made, open_session(made).run({made.graph.input[0].name: x, "target": np.arange(len(x)) % 3})


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


@pytest.fixture
def everything_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout holds small tensors too, as far as the choice of forms is concerned, and every form pays."""
    monkeypatch.setattr(choice, "ALIGNED", 1)
    monkeypatch.setattr(choice, "SMALLEST_BLOCK", 1)
    monkeypatch.setattr(max_pool, "FEWEST_CELLS", 1)
    monkeypatch.setattr(max_pool, "LONGEST_STRIDE", 9)


@pytest.mark.parametrize(("name", "one"), [pytest.param(n, c, id=f"{n}-{i}") for i, (n, c) in enumerate(cases())])
@pytest.mark.usefixtures("everything_fits")
def test_a_form_gives_the_numbers_of_the_plain_one(name: str, one: Case):
    model, x = network(name, one)
    _, plain = explained(model, x, "any")
    _, own = explained(model, x, "cpu")
    np.testing.assert_allclose(own["attribution"], plain["attribution"], rtol=1e-5, atol=1e-6 * np.abs(plain["attribution"]).max())


@pytest.mark.usefixtures("everything_fits")
def test_every_operator_with_a_form_shows_it():
    seen = set()
    for name, one in cases():
        model, x = network(name, one)
        plain, _ = explained(model, x, "any")
        made, found = explained(model, x, "cpu")
        if kinds(plain) != kinds(made) and found["attribution"].any():
            seen.add(name)
    assert seen >= set(BLOCKED)


def bounds() -> np.ndarray:
    """Bounds of activations, their neighbours, and numbers around them."""
    at = np.float32([1.0, 3.0, 6.0, -3.0, -2.5, 2.5])
    near = np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9)), at + np.float32(0.1), [0, 2e-38, -2e-38]])
    return np.resize(near.astype(np.float32), (1, 8, 2, 2))


@pytest.mark.parametrize("name", ["Relu", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish"])
def test_masks_are_exact_at_their_bounds(name: str):
    """Next to a bound, and at it, a mask of products is the same 0 or 1 as a comparison."""
    more = {"Clip": (0.0, 6.0)}.get(name, ())
    model, _ = network(name, Case(((2, 8, 2, 2), *more), fixed=(1, 2) if more else ()))
    x = bounds()
    plain, own = (explained(model, x, where)[1]["attribution"] for where in ("any", "cpu"))
    assert ((own == 0) == (plain == 0)).all()
    np.testing.assert_allclose(own, plain, rtol=1e-6)


POOLS: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((7, 7), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ((8, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((7, 5), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ((8, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((7, 9), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ((8, 7), {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 0, 0, 1]}),
    ((9, 10), {"kernel_shape": [5, 5], "strides": [2, 1], "pads": [3, 2, 2, 4]}),
    ((6, 5), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((6, 7), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((5, 6), {"kernel_shape": [1, 1], "strides": [2, 2]}),
    ((8, 7), {"kernel_shape": [2, 2], "strides": [3, 3]}),
]


def pooled(places: tuple[int, int], attributes: dict[str, Any]) -> onnx.ModelProto:
    """A max pool between a convolution that keeps x and sums with whole numbers, so that every sum of signals is exact."""
    rng = np.random.default_rng(0)
    pool = [node("Conv", "x k", "z", group=16), node("MaxPool", "z", "p", **attributes)]
    count = open_session(make(pool, {"x": [1, 16, *places]}, {"p": None}, {"k": np.ones((16, 1, 1, 1), np.float32)}))
    size = count.run({"x": np.zeros((1, 16, *places), np.float32)})["p"].size
    given = {"k": np.ones((16, 1, 1, 1), np.float32), "w": rng.integers(1, 9, (size, 3)).astype(np.float32)}
    nodes = [*pool, node("Flatten", "p", "f"), node("MatMul", "f w", "y")]
    return make(nodes, {"x": ["N", 16, *places]}, {"y": ["N", 3]}, given, opset=18)


def with_ties(places: tuple[int, int]) -> np.ndarray:
    """Samples with many equal elements: of either sign, all one negative number, all 0, tiny steps, and the largest numbers."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-2, 3, (16, *places))
    steps = np.nextafter(np.float32(-1), np.where(whole > 0, 0, -9).astype(np.float32))
    most = np.clip(whole * 2e38, *(np.finfo(np.float32).max * np.float64([-1, 1])))
    return np.stack([whole, whole - 3, np.full_like(whole, -1), np.zeros_like(whole), steps, most, -np.abs(most)]).astype(np.float32)


@pytest.mark.parametrize(("places", "attributes"), POOLS)
@pytest.mark.usefixtures("everything_fits")
def test_the_first_of_several_largest_elements_has_it_all(places: tuple[int, int], attributes: dict[str, Any]):
    model, x = pooled(places, attributes), with_ties(places)
    made, own = explained(model, x, "cpu")
    assert "ScatterElements" not in kinds(made)
    np.testing.assert_array_equal(own["attribution"], explained(model, x, "any")[1]["attribution"])


def test_where_a_slope_can_be_infinite_masks_stay_choices():
    """0 times an infinity is no number: the logarithm of what a ReLU made 0."""
    nodes = [node("Conv", "x k", "z"), node("Relu", "z", "a"), node("Log", "a", "l"), node("Max", "l low", "m"), node("Flatten", "m", "f")]
    given = {"k": weights(8, 8, 1, 1), "low": np.float32(-9), "w": weights(128, 3)}
    model = make([*nodes, node("MatMul", "f w", "y")], {"x": ["N", 8, 4, 4]}, {"y": ["N", 3]}, given, opset=18)
    x = np.random.default_rng(0).standard_normal((2, 8, 4, 4)).astype(np.float32)
    made, own = explained(model, x, "cpu")
    assert "HardSigmoid" not in kinds(made)
    np.testing.assert_allclose(own["attribution"], explained(model, x, "any")[1]["attribution"], rtol=1e-5)


def reorders(model: onnx.ModelProto) -> int:
    """Ways into the blocked layout and out of it that ONNX Runtime left."""
    ran_as = kinds(optimised(model))
    if not any(n.domain == "com.microsoft.nchwc" for n in optimised(model).graph.node):
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    return ran_as["ReorderInput"] + ran_as["ReorderOutput"]


def residual_network(x: np.ndarray) -> onnx.ModelProto:
    """A stem with a max pool and two stages of residual blocks, the second one strided, batch normalisation as exporters leave it."""
    nodes, given = [], {"k0": weights(16, 3, 7, 7, scale=0.1), "w": weights(32, 3)}
    nodes += [node("Conv", "x k0", "z0", strides=[2, 2], pads=[3] * 4), node("Relu", "z0", "a0")]
    nodes += [node("MaxPool", "a0", "p0", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)]
    last, channels = "p0", 16
    for i, stride in enumerate((1, 1, 2, 1), 1):
        wide = channels * stride
        given |= {f"k{i}a": weights(wide, channels, 3, 3, scale=0.1), f"k{i}b": weights(wide, wide, 3, 3, scale=0.1)}
        given |= {f"{n}{i}": np.abs(weights(wide)) + 0.5 for n in ("s", "v")} | {f"{n}{i}": weights(wide) for n in ("b", "m")}
        nodes += [node("Conv", f"{last} k{i}a", f"c{i}", strides=[stride] * 2, pads=[1] * 4)]
        nodes += [node("BatchNormalization", f"c{i} s{i} b{i} m{i} v{i}", f"n{i}"), node("Relu", f"n{i}", f"r{i}")]
        nodes += [node("Conv", f"r{i} k{i}b", f"d{i}", pads=[1] * 4)]
        if stride > 1:
            given[f"k{i}s"] = weights(wide, channels, 1, 1)
            nodes += [node("Conv", f"{last} k{i}s", f"e{i}", strides=[stride] * 2)]
            last = f"e{i}"
        nodes += [node("Add", f"d{i} {last}", f"u{i}"), node("Relu", f"u{i}", f"o{i}")]
        last, channels = f"o{i}", wide
    nodes += [node("GlobalAveragePool", last, "g"), node("Flatten", "g", "f"), node("MatMul", "f w", "y")]
    return make(nodes, {"x": ["N", *x.shape[1:]]}, {"y": ["N", 3]}, given, opset=17)


METHODS = ("gradient", "guided_backprop", "fullgrad", "lrp_epsilon_plus", "lrp_resnet", "deeplift", "gradcam", "integrated_gradients")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_network_has_one_map_wherever_it_is_to_run(method: str, rows: int):
    x = np.random.default_rng(rows).standard_normal((rows, 3, 64, 64)).astype(np.float32)
    model = residual_network(x)
    plain = explained(model, x, "any", method)[1]
    for place in ("cpu", "cuda"):
        own = explained(model, x, place, method)[1]
        for name in ("attribution", "saliency_map"):
            close(own[name], plain[name], kinks=0.01 if method == "integrated_gradients" else 0.0)
        if "residual" in plain:
            np.testing.assert_allclose(own["residual"], plain["residual"], atol=2e-5)


def close(own: np.ndarray, plain: np.ndarray, kinks: float = 0.0) -> None:
    """One map up to rounding; up to a share ``kinks`` of its elements up to a hundredth of the largest: those below a unit that is within
    rounding of its kink at one point of a path, which processors round differently.
    """
    largest = np.abs(plain).max()
    off = np.abs(own - plain) > 1e-5 * largest + 1e-4 * np.abs(plain)
    assert off.mean() <= kinks
    np.testing.assert_allclose(own, plain, rtol=1e-4, atol=(1e-2 if kinks else 1e-5) * largest)


@pytest.mark.parametrize(("model", "most"), [(LITE0, 13), ("residual", 10)], ids=["lite0", "residual"])
def test_the_backward_part_stays_in_the_blocked_layout(model: Path | str, most: int):
    source = residual_network(np.zeros((1, 3, 64, 64), np.float32)) if model == "residual" else model
    assert reorders(onnxsal.convert(source, "gradient", runs_on="cpu")) <= most
    assert reorders(onnxsal.convert(source, "gradient", runs_on="any")) > most


def test_a_trained_network_has_one_map_wherever_it_is_to_run():
    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    for method in ("gradient", "fullgrad", "lrp_resnet", "deeplift"):
        own, plain = (explained(onnx.load(LITE0), x, place, method)[1] for place in ("cpu", "any"))
        scale = np.abs(plain["attribution"]).max()
        np.testing.assert_allclose(own["attribution"], plain["attribution"], atol=1e-5 * scale)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_other_runtimes_agree(runtime: str, tmp_path: Path):
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    model = residual_network(x)
    methods, feed = ("gradient", "fullgrad", "lrp_resnet"), {"x": x, "target": np.arange(2)}
    found = ran(runtime, [onnxsal.convert(model, m, runs_on="cpu") for m in methods], [[feed]] * len(methods), tmp_path)
    for method, one in zip(methods, found, strict=True):
        (got,), wanted = one.answers, explained(model, x, "any", method)[1]
        assert not isinstance(got, str), got
        for name in ("attribution", "saliency_map"):
            np.testing.assert_allclose(got[name], wanted[name], atol=1e-4 * np.abs(wanted[name]).max())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.usefixtures("everything_fits")
def test_other_runtimes_find_the_same_largest_elements(runtime: str, tmp_path: Path):
    strided, others = (POOLS[0], POOLS[2], POOLS[4]), (POOLS[5], POOLS[8])
    pools = strided if runtime == REFERENCE else strided + others  # at stride 1 it cannot pad one axis alone
    cases = [(pooled(*pool), {"x": with_ties(pool[0]), "target": np.arange(7) % 3}) for pool in pools]
    found = ran(runtime, [onnxsal.convert(m, "gradient", runs_on="cpu") for m, _ in cases], [[feed] for _, feed in cases], tmp_path)
    for (model, feed), one in zip(cases, found, strict=True):
        (got,) = one.answers
        assert not isinstance(got, str), got
        np.testing.assert_array_equal(got["attribution"], explained(model, feed["x"], "any")[1]["attribution"])


def test_no_operator_of_a_runtime_is_in_a_file():
    made = onnxsal.convert(light("resnet50"), "fullgrad", runs_on="cpu")
    assert {n.domain for n in made.graph.node} <= {"", "ai.onnx"}


def test_the_place_is_recorded_and_an_explainer_says_it_by_its_provider(tmp_path: Path):
    x = np.zeros((1, 3, 64, 64), np.float32)
    path = tmp_path / "made.onnx"
    onnx.save(onnxsal.convert(residual_network(x), "gradient", runs_on="cuda"), path)
    assert onnxsal.Explainer(residual_network(x), "gradient").conversion.ask.runs_on == "cpu"
    onnxsal.Explainer(path, runs_on="cuda").explain(x)
    with pytest.raises(MethodError, match="runs_on='cuda'"):
        onnxsal.Explainer(path, runs_on="cpu")
    with pytest.raises(InputError, match="runs_on='tpu'"):
        onnxsal.convert(residual_network(x), "gradient", runs_on="tpu")
