"""Relevance that lands on constants is accounted for: residuals are true whatever is joined to, put around or chosen over activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxsal
from onnxsal.backward.copies import COPIES
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.oracle import one_node_model, run
from tests.small_models import draw, make, node

RELEVANCE = [name for name, m in onnxsal.methods().items() if m.wrap == "relevance"]
METHODS = ("lrp_epsilon", "lrp_alpha2_beta1", "lrp_epsilon_plus_flat")
DOUBLE = onnx.TensorProto.DOUBLE
NO_DOUBLE = ("MaxRoiPool", "MaxUnpool", "OneHot")
"""ONNX Runtime has them for float32 only."""


# ----- every operator that copies -----


def cases() -> list:
    """Cases of operators that take several tensors, or move one."""
    return [
        pytest.param(spec, test, id=f"{spec.op_type}-{i}")
        for spec in REGISTRY.values()
        if spec.family in COPIES
        for i, test in enumerate(spec.cases)
        if test.attributes.get("reduction") not in ("add", "mul") and spec.op_type != "Mod" and test.outputs == 1
        if len(test.inputs) > 1 or spec.family == "movement"
    ]


def scored(model: onnx.ModelProto, y: np.ndarray) -> onnx.ModelProto:
    """The model with two layers without biases behind its output, so that what arrives at the node has both signs."""
    rng = np.random.default_rng(1)
    extended = onnx.ModelProto.FromString(model.SerializeToString())
    weights = {"u": rng.normal(size=(y.size, 5)).astype(y.dtype), "v": rng.normal(size=(5, 2)).astype(y.dtype), "flat": np.asarray([1, -1])}
    extended.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    layers = [node("Reshape", "y0 flat", "f"), node("MatMul", "f u", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "score")]
    extended.graph.node.extend(layers)
    del extended.graph.output[:]
    extended.graph.output.append(helper.make_tensor_value_info("score", helper.np_dtype_to_tensor_dtype(y.dtype), [1, 2]))
    return extended


@pytest.mark.parametrize(("spec", "test"), cases())
def test_constants_take_what_they_would_get_as_inputs(spec: OpSpec, test: Case) -> None:
    """For every input in turn: the law holds in float64, and what is booked is what the others get where they are explained."""
    kind, slack = (np.float32, 2e-5) if spec.op_type in NO_DOUBLE else (np.float64, 1e-9)
    model, feed, wrt = one_node_model(spec, test, kind)
    y = run(model, feed)["y0"]
    whole = scored(model, y)
    for method in METHODS if y.size else ():
        shares = {}
        for name in wrt:
            if int(name[1:]) not in spec.stops:
                got = run(onnxsal.convert(whole, method, input=name, target=1, batched=False, components=True), feed)
                assert got["residual"].max() <= slack, (method, name)
                shares[name] = got["relevance/shares"][0].astype(np.float64)
        total = sum(own for own, _, _ in shares.values())
        for own, booked, _ in shares.values() if len(shares) > 1 and not test.fixed else ():
            assert booked == pytest.approx(total - own, rel=1e-5, abs=1e-6), method


# ----- whose relevance it is -----

MASK = np.asarray([[True, False, True, True], [False, True, True, False], [True, True, False, True]])
CLASS = [
    node("Shape", "x", "count", start=0, end=1),
    node("Concat", "count one two", "sizes", axis=0),
    node("Expand", "k14 sizes", "token"),
]
TURN = node("Transpose", "x", "t", perm=[1, 0, 2])
"""[N, 3, 4] -> [3, N, 4]"""

WEIGHTS: dict[str, np.ndarray] = {
    "one": np.asarray([1]),
    "two": np.asarray([4]),
    "k": np.asarray(0.3),
    "k4": draw(4, seed=5, dtype=np.float64),
    "k14": draw(1, 1, 4, seed=6, dtype=np.float64),
    "k314": draw(3, 1, 4, seed=7, dtype=np.float64),
    "k342": draw(3, 3, 2, seed=8, dtype=np.float64),
    "k34": draw(3, 4, seed=9, dtype=np.float64),
    "k334": draw(3, 3, 4, seed=10, dtype=np.float64),
    "k91": draw(9, 1, seed=11, dtype=np.float64),
    "zero": np.zeros((1, 1, 4)),
    "mask": MASK,
    "pads": np.asarray([0, 1, 0, 0, 0, 2]),
    "sides": np.asarray([1, 0, 0, 0, 0, 1]),
    "spots": np.asarray([[[0, 2]] * 3] * 3),
    "rows": np.asarray([[0, 1], [1, 1], [2, 1]]),
    "every": np.tile(np.arange(4), (3, 3, 1)),
    "ends": np.asarray([[[0, 0, 2, 0]] * 3] * 3),
    "none": np.zeros((3, 3, 4)),
    "some": np.full((3, 3, 4), 0.4),
    "size": np.asarray([5, 6]),
    "joined": np.asarray([-1, 4]),
    "back": np.asarray([3, -1]),
}

PLACES: dict[str, list[onnx.NodeProto]] = {
    "class token": [*CLASS, node("Concat", "token x", "c", axis=1)],
    "class token between": [*CLASS, node("Concat", "x token x", "c", axis=1)],
    "class token, samples second": [
        TURN,
        node("Relu", "t", "r"),
        node("Pad", "r sides k", "p"),
        node("Transpose", "p", "c", perm=[1, 0, 2]),
    ],
    "joined for all samples": [node("Concat", "x k314", "c", axis=1)],
    "samples joined to tokens": [node("Reshape", "x joined", "j"), node("Concat", "j k91", "w", axis=1), node("Reshape", "w back", "c")],
    "frame": [node("Pad", "x pads k", "c")],
    "frame of zeros": [node("Pad", "x pads", "c")],
    "middle": [node("CenterCropPad", "x size", "c", axes=[1, 2])],
    "triangle": [node("Trilu", "x", "c")],
    "masked": [node("Where", "mask x k4", "c")],
    "masked, one number": [node("Where", "mask k x", "c")],
    "by its own sign": [node("Greater", "x k", "g"), node("Where", "g x k4", "c")],
    "masked, samples second": [TURN, node("Where", "spread t k4", "w"), node("Transpose", "w", "c", perm=[1, 0, 2])],
    "at least": [node("Max", "x k4", "c")],
    "between": [node("Max", "k4 x k", "m"), node("Min", "m k14", "c")],
    "at most, samples second": [TURN, node("Min", "t k", "m"), node("Transpose", "m", "c", perm=[1, 0, 2])],
    "written": [node("ScatterElements", "x spots k342", "c", axis=2)],
    "written into": [node("Slice", "x one0 two0 ax2", "s"), node("ScatterElements", "k334 spots s", "c", axis=2)],
    "largest written": [node("ScatterElements", "x spots k342", "c", axis=2, reduction="max")],
    "rows written": [node("ScatterND", "x rows k34", "c")],
}
WEIGHTS |= {"spread": MASK[:, None, :], "one0": np.asarray([0]), "two0": np.asarray([2]), "ax2": np.asarray([2])}


def around(nodes: list[onnx.NodeProto], batch: int | str = 3) -> onnx.ModelProto:
    """x [batch, 3, 4] through ``nodes`` to ``c`` [batch, ...], and two dense layers on all of it."""
    used = {n for one in nodes for n in one.input}
    weights = {n: a for n, a in WEIGHTS.items() if n in used}
    shaped = make(nodes, {"x": [3, 3, 4]}, {"c": [None] * 3}, weights, types=dict.fromkeys("xc", DOUBLE))
    width = run(shaped, {"x": np.zeros((3, 3, 4))})["c"].size // 3
    weights |= {
        "u": draw(width, 5, seed=1, dtype=np.float64),
        "v": draw(5, 2, seed=2, dtype=np.float64),
        "b": draw(5, seed=3, dtype=np.float64),
    }
    ends = [node("Flatten", "c", "f"), node("Gemm", "f u b", "h"), node("Relu", "h", "a"), node("MatMul", "a v", "y")]
    return make([*nodes, *ends], {"x": [batch, 3, 4]}, {"y": [batch, 2]}, weights, types=dict.fromkeys("xy", DOUBLE))


@pytest.mark.parametrize("method", ["lrp_zero", "lrp_gamma", "lrp_epsilon_plus_flat", "lrp_resnet"])
@pytest.mark.parametrize("name", PLACES)
def test_every_sample_is_told_its_own(name: str, method: str) -> None:
    """Residuals of a batch of three different samples."""
    got = run(onnxsal.convert(around(PLACES[name]), method, target=1), {"x": draw(3, 3, 4, seed=4, dtype=np.float64)})
    assert got["residual"].max() <= 1e-9


# ----- all of it together -----

STEPS: dict[str, str] = {
    "layer": "MatMul Relu",
    "token": "Concat",
    "frame": "Pad",
    "chosen": "Where",
    "at least": "Max",
    "at most": "Min",
    "written": "ScatterElements",
    "shortcut": "Add",
    "turned": "Transpose",
}


def grown(seed: int, batch: int = 3) -> onnx.ModelProto:
    """Eight steps on [batch, T, 4], or with batch and T exchanged, each with constants of its own or a shortcut to an earlier tensor."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    shape, now, samples, before = [batch, 3, 4], "x", 0, {}

    def constant(array: np.ndarray) -> str:
        weights[f"k{len(weights)}"] = array
        return f"k{len(weights) - 1}"

    def add(op_type: str, inputs: str, **attributes: Any) -> str:
        nodes.append(node(op_type, inputs, f"t{len(nodes)}", **attributes))
        return f"t{len(nodes) - 1}"

    for step in rng.choice(list(STEPS), 8):
        before.setdefault(tuple(shape), []).append(now)
        if step == "layer":
            now = add("Relu", add("Add", f"{add('MatMul', f'{now} {constant(rng.normal(size=(4, 4)))}')} {constant(rng.normal(size=4))}"))
        elif step == "token":
            sides = [batch, 1, 4] if samples == 0 else [1, batch, 4]
            now = add("Concat", f"{constant(rng.normal(size=sides))} {now}", axis=1 - samples)
            shape[1 - samples] += 1
        elif step == "frame":
            pads = np.zeros((2, 3), np.int64)
            pads[0, 1 - samples] = 1
            now = add("Pad", f"{now} {constant(pads.reshape(-1))} {constant(np.asarray(rng.choice([0.0, 0.7])))}")
            shape[1 - samples] += 1
        elif step == "chosen":
            now = add("Where", f"{constant(rng.random(shape) < 0.6)} {now} {constant(rng.normal(size=4))}")
        elif step in ("at least", "at most"):
            now = add(STEPS[step], f"{constant(rng.normal(size=rng.choice([1, 4])))} {now}")
        elif step == "written":
            index = np.broadcast_to(np.asarray([0, 3]), [*shape[:2], 2]).copy()
            now = add("ScatterElements", f"{now} {constant(index)} {constant(rng.normal(size=index.shape))}", axis=2)
        elif step == "shortcut":
            now = add("Add", f"{now} {rng.choice(before[tuple(shape)])}")
        elif samples == 0 or shape[0] != batch:
            now, samples, before = add("Transpose", now, perm=[1, 0, 2]), 1 - samples, {}
            shape[:2] = shape[1::-1]
    if samples:
        now = add("Transpose", now, perm=[1, 0, 2])
    head = add(
        "Gemm", f"{add('Flatten', now)} {constant(rng.normal(size=(int(np.prod(shape)) // batch, 2)))} {constant(rng.normal(size=2))}"
    )
    nodes.append(node("Identity", head, "y"))
    return make(nodes, {"x": [batch, 3, 4]}, {"y": [batch, 2]}, weights, types=dict.fromkeys("xy", DOUBLE))


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("lrp_zero", {}),
    ("lrp_epsilon", {"split": "signed"}),
    ("lrp_epsilon", {"bias": "distribute"}),
    ("lrp_epsilon", {"bias": "ignore", "split": "symmetric"}),
    ("lrp_gamma", {}),
    ("lrp_alpha2_beta1", {"identity": "ignore"}),
    ("lrp_epsilon_plus_flat", {}),
    ("deep_taylor", {}),
    ("lrp_resnet", {"split": "symmetric"}),
]


@pytest.mark.parametrize("seed", range(27))
def test_random_networks_account_for_every_constant(seed: int) -> None:
    """To 1e-9 of all that is moved (scores may be small beside it), in float64, for three samples at once."""
    method, more = WAYS[seed % len(WAYS)]
    got = run(onnxsal.convert(grown(seed), method, target=1, components=True, **more), {"x": draw(3, 3, 4, seed=seed, dtype=np.float64)})
    score = np.maximum(np.abs(got["explained_score"]), 1e-6)
    size = sum(np.abs(v).sum(1) for k, v in got.items() if k.startswith("relevance/")) + np.abs(got["attribution"]).sum((1, 2))
    assert (got["residual"] * score <= 1e-9 * size).all(), [n.op_type for n in grown(seed).graph.node]


# ----- scattered elements that meet -----


def meeting() -> list:
    return [
        pytest.param(spec, test, id=f"{spec.op_type}-{i}")
        for spec in REGISTRY.values()
        for i, test in enumerate(spec.cases)
        if test.attributes.get("reduction") == "add"
    ]


@pytest.mark.parametrize("split", ["ratio", "symmetric", "signed"])
@pytest.mark.parametrize(("spec", "test"), meeting())
def test_what_is_added_where_it_meets_is_split(spec: OpSpec, test: Case, split: str) -> None:
    model, feed, wrt = one_node_model(spec, test)
    whole = scored(model, run(model, feed)["y0"])
    for method in METHODS:
        for name in wrt:
            got = run(onnxsal.convert(whole, method, input=name, target=1, batched=False, split=split), feed)
            assert got["residual"].max() <= 1e-9, (method, name)


@pytest.mark.parametrize("split", ["ratio", "symmetric", "signed"])
def test_scattering_over_everything_is_an_addition(split: str) -> None:
    first = [node("Relu", "x", "p"), node("Mul", "x k4", "q")]
    added = around([*first, node("Add", "p q", "c")], "N")
    scattered = around([*first, node("ScatterElements", "p every q", "c", axis=2, reduction="add")])
    x = draw(3, 3, 4, seed=4, dtype=np.float64)
    for method in METHODS:
        wanted, got = (run(onnxsal.convert(m, method, target=1, split=split), {"x": x}) for m in (added, scattered))
        np.testing.assert_allclose(got["attribution"], wanted["attribution"], rtol=1e-9, atol=1e-12)
        assert got["residual"].max() <= 1e-9


def test_sums_of_neighbours_have_their_law() -> None:
    """A step of a graph network: what edges bring is added up at their ends, from zeros; a node without edges gets a constant."""
    x = draw(3, 3, 4, seed=4, dtype=np.float64)
    for start in ("none", "some"):
        model = around([node("ScatterElements", f"{start} ends x", "c", axis=2, reduction="add")])
        for method in RELEVANCE:
            if method != "lrp_epsilon_gamma_box":  # bounds are not known behind what is added up
                got = run(onnxsal.convert(model, method, target=1), {"x": x})
                assert got["residual"].max() <= 1e-9, (start, method)


def test_products_where_elements_meet_are_refused() -> None:
    model = around([node("ScatterElements", "x spots k342", "c", axis=2, reduction="mul")])
    with pytest.raises(onnxsal.OnnxsalError, match="multiplied where they meet"):
        onnxsal.plan(model, "lrp_epsilon")


# ----- what is told beside the residual -----


def test_the_file_says_how_much_reaches_the_input() -> None:
    """reached = sum R / score, of a score that is nothing / 1e-6 with its sign; with the shares it explains the residual."""
    model = around(PLACES["class token"], "N")
    x = draw(4, 3, 4, seed=4, dtype=np.float64) * np.asarray([1, 1, 0, -1])[:, None, None]
    got = run(onnxsal.convert(model, "lrp_epsilon", target=1, components=True), {"x": x})
    np.testing.assert_allclose(got["reached"], got["attribution"].sum((1, 2)) / got["explained_score"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got["relevance/shares"].sum(1), got["explained_score"], rtol=1e-5)
    assert np.abs(got["reached"] - 1).max() > 0.1
    tiny = onnx.ModelProto.FromString(model.SerializeToString())
    for weight in tiny.graph.initializer:
        if weight.name == "v":
            weight.CopyFrom(numpy_helper.from_array(1e-9 * numpy_helper.to_array(weight), "v"))
    small = run(onnxsal.convert(tiny, "lrp_epsilon", target=1), {"x": x})
    assert np.abs(small["explained_score"]).max() < 1e-6
    wanted = small["attribution"].sum((1, 2)) / np.copysign(1e-6, small["explained_score"])
    np.testing.assert_allclose(small["reached"], wanted, rtol=1e-5, atol=1e-12)


def test_zeros_that_get_nothing_cost_nothing() -> None:
    """A frame of zeros is looked at only under rules that send relevance to zeros."""
    counts = {}
    for method, more in (("lrp_epsilon", {}), ("lrp_epsilon_plus_flat", {})):
        plain, framed = (onnxsal.convert(around(PLACES[name]), method, **more) for name in ("middle", "frame of zeros"))
        counts[method] = sum("/c/Sub" in n.name for made in (plain, framed) for n in made.graph.node)
    assert counts == {"lrp_epsilon": 0, "lrp_epsilon_plus_flat": 2}
