"""What operators state about tensors: every claim, over every registered case."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxsal.facts.axes import layouts, moved, numbered
from onnxsal.facts.ranges import bounds_of, not_negative
from onnxsal.graph import Model
from onnxsal.ops.axes import FAMILIES as AXES_OF_FAMILIES
from onnxsal.ops.ranges import FAMILIES
from onnxsal.ops.registry import FACTS, REGISTRY, Case, OpSpec
from onnxsal.ops.statements import APART
from tests.oracle import one_node_model, run
from tests.small_models import make, node

DRAWS = [None, (0.0, 1.0), (0.0, 3.0), (-1.0, 1.0), (-2.5, -0.25), (0.4, 0.9)]
"""Between which values the floating-point inputs of a case are drawn (``None``: as the case says)."""


def stated_cases() -> list:
    """Every case of an operator whose range is stated, by itself or by its family."""
    return [
        pytest.param(spec, test, draw, id=f"{spec.op_type}-{i}-{draw}")
        for spec in REGISTRY.values()
        for i, test in enumerate(spec.cases)
        for draw in DRAWS
        if (spec.facts.range is not None or spec.family in FAMILIES) and (draw is None or any(isinstance(e, tuple) for e in test.inputs))
    ]


def readable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a Cast to float32 behind outputs of types that numpy does not hold."""
    for output in model.graph.output:
        if output.type.tensor_type.elem_type > TensorProto.BFLOAT16:
            model.graph.node[0].output[0] = f"{output.name}_code"
            model.graph.node.append(helper.make_node("Cast", [f"{output.name}_code"], [output.name], to=TensorProto.FLOAT))
            output.type.tensor_type.elem_type = TensorProto.FLOAT
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(("spec", "test", "draw"), stated_cases())
def test_outputs_lie_in_the_stated_range(spec: OpSpec, test: Case, draw: tuple[float, float] | None) -> None:
    """The rule, told the exact ranges of the inputs, gives a range that holds every element of the output."""
    own = test if draw is None else Case(test.inputs, test.attributes, test.fixed, draw[0], draw[1], (), test.outputs, test.opset)
    straight = test.straight_through
    model, feed, _ = one_node_model(spec, own, dtype=np.float32 if straight else np.float64, seed=3)
    model = readable(model)
    results = run(model, feed)
    view = Model(model)
    only = view.nodes[0]
    rule = spec.facts.range or FAMILIES[spec.family]

    def of(i: int) -> tuple[float, float]:
        name = only.proto.input[i] if i < len(only.proto.input) else ""
        array = feed.get(name, view.constant(name) if name else None)
        return (-math.inf, math.inf) if array is None or array.size == 0 else (float(array.min()), float(array.max()))

    low, high = rule(only, of)
    for name in results if spec.many else ["y0"]:
        found = np.asarray(results[name], np.float64)
        found = found[~np.isnan(found)]
        room = 1e-6 * (1 + np.abs(found).max(initial=0.0))
        assert low <= high
        assert found.min(initial=np.inf) >= low - room, f"{found.min()} below {low}"
        assert found.max(initial=-np.inf) <= high + room, f"{found.max()} above {high}"
        assert low < 0 or found.min(initial=0.0) >= 0, "never negative must hold exactly"


F = np.float32
RANGES = {
    "relu": ([node("Relu", "x", "y")], {}, (0, math.inf)),
    "relu6 by Min": ([node("Relu", "x", "r"), node("Min", "r six", "y")], {"six": F(6)}, (0, 6)),
    "x * x": ([node("Mul", "x x", "y")], {}, (0, math.inf)),
    "1 / (1 + exp(-x))": (
        [node("Neg", "x", "n"), node("Exp", "n", "e"), node("Add", "e one", "d"), node("Div", "one d", "y")],
        {"one": F(1)},
        (0, 1),
    ),
    "exp of a log-softmax": ([node("LogSoftmax", "x", "l"), node("Exp", "l", "y")], {}, (0, 1)),
    "1/2 + tanh / 2": ([node("Tanh", "x", "t"), node("Mul", "t half", "h"), node("Add", "h half", "y")], {"half": F(0.5)}, (0, 1)),
    "the mean of two softmaxes": ([node("Softmax", "x", "p"), node("Softmax", "x", "q", axis=0), node("Mean", "p q", "y")], {}, (0, 1)),
    "quantised softmax": (
        [node("Softmax", "x", "p"), node("QuantizeLinear", "p s z", "q"), node("DequantizeLinear", "q s z", "y")],
        {"s": F(1 / 255), "z": np.uint8(0)},
        (0, 255 * float(F(1 / 255))),
    ),
    "relu, pad, resize, concat": (
        [node("Relu", "x", "r"), node("Pad", "r p", "a"), node("Concat", "a a", "c", axis=0), node("Slice", "c zero four zero", "y")],
        {"p": np.array([0, 0, 0, 0]), "zero": np.array([0]), "four": np.array([4])},
        (0, math.inf),
    ),
    "a sum of squares": ([node("Pow", "x two", "s"), node("ReduceSum", "s", "t"), node("Add", "t s", "y")], {"two": F(2)}, (0, math.inf)),
    "integers looked up": (
        [node("Gather", "table i", "g"), node("Cast", "g", "f", to=TensorProto.FLOAT), node("Add", "f zero", "y")],
        {"table": np.array([3, 5, 7]), "i": np.array([0, 2]), "zero": F(0)},
        (3, 7),
    ),
    "added at repeated places": (
        [node("Sigmoid", "x", "s"), node("ScatterElements", "s i u", "y", axis=1, reduction="add")],
        {"i": np.zeros((1, 3), np.int64), "u": np.ones((1, 3), F)},
        (0, math.inf),
    ),
    "half precision overflows": (
        [
            node("Relu", "x", "r"),
            node("Min", "r big", "m"),
            node("Cast", "m", "h", to=TensorProto.FLOAT16),
            node("Cast", "h", "y", to=TensorProto.FLOAT),
        ],
        {"big": F(1e6)},
        (0, math.inf),
    ),
    "a matrix product": ([node("Relu", "x", "r"), node("MatMul", "r w", "y")], {"w": -np.ones((4, 4), F)}, (-math.inf, math.inf)),
    "a difference": ([node("Relu", "x", "r"), node("Sub", "r r", "y")], {}, (-math.inf, math.inf)),
}


@pytest.mark.parametrize("name", RANGES)
def test_ranges_follow_from_each_other(name: str) -> None:
    nodes, constants, wanted = RANGES[name]
    model = Model(make(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, constants))
    assert bounds_of(model, "y") == pytest.approx(wanted)


def test_many_additions_are_one_pass() -> None:
    """60 additions of a tensor to itself: a walk that asks for both operands again would take 2^60 steps."""
    nodes = [node("Relu", "x", "t0"), *(node("Add", f"t{i} t{i}", f"t{i + 1}") for i in range(60)), node("Identity", "t60", "y")]
    assert not_negative(Model(make(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {})), "y")


def test_facts_of_operators_without_a_derivative_are_stated_too() -> None:
    truths = {name for (_, name), facts in FACTS.items() if facts.range is not None}
    assert {"Equal", "Less", "Floor", "Sign", "Shape", "ArgMax"} <= truths


# ----- axes -----


def axes_cases() -> list:
    """Every case of an operator that says where the axes of its inputs go."""
    return [
        pytest.param(spec, test, id=f"{spec.op_type}-{i}")
        for spec in REGISTRY.values()
        for i, test in enumerate(spec.cases)
        if spec.facts.axes is not None or spec.family in AXES_OF_FAMILIES
    ]


def changed_along(array: np.ndarray, axis: int, index: int, seed: int) -> np.ndarray:
    """The array with other values at one index of an axis: other floats, or other ones of the integers that it holds."""
    rng = np.random.default_rng(seed)
    spot = tuple(slice(index, index + 1) if a == axis else slice(None) for a in range(array.ndim))
    result = array.copy()
    result[spot] = rng.permutation(array.reshape(-1))[: result[spot].size].reshape(result[spot].shape)
    if array.dtype.kind == "f":
        result[spot] = np.clip(result[spot] * rng.uniform(0.5, 1.5, result[spot].shape), array.min(), array.max())
    return result


@pytest.mark.parametrize(("spec", "test"), axes_cases())
def test_axes_stay_apart_where_it_is_stated(spec: OpSpec, test: Case) -> None:
    """Other values at index k of an axis of one input change an output at index k of the stated axis only, if it is said to be apart."""
    kind = np.float32 if test.straight_through else np.float64
    model, feed, _ = one_node_model(spec, test, dtype=kind, dynamic=False, known=False, seed=5)
    model = readable(model)
    view = Model(model)
    only = view.nodes[0]
    before = run(model, feed)
    for i, name in enumerate(only.proto.input):
        if name not in feed or (spec.op_type == "RoiAlign" and i):
            continue  # regions of any numbers are no regions
        for axis, size in enumerate(feed[name].shape):
            for k in range(size):
                other = run(model, feed | {name: changed_along(feed[name], axis, k, 10 * axis + k)})
                for j, output in enumerate(only.proto.output):
                    public = output.removesuffix("_code")
                    place = moved(only, i, axis, j)
                    if place is None or public not in before:
                        continue
                    assert place[0] < before[public].ndim, f"axis {axis} of input {i} is said to be axis {place[0]} of output {j}"
                    if place[1] is not APART:
                        continue
                    assert before[public].shape[place[0]] == size
                    kept = np.delete(np.arange(size), k)
                    np.testing.assert_array_equal(np.take(other[public], kept, place[0]), np.take(before[public], kept, place[0]))


def test_families_of_single_elements_keep_every_axis_apart() -> None:
    """A claim that is always made: not being able to say would let the test above pass with nothing to test."""
    for spec in REGISTRY.values():
        if spec.family in ("activation", "elementwise") or spec.op_type in ("Add", "Mul", "Identity", "Cast", "Transpose"):
            model, feed, _ = one_node_model(spec, spec.cases[0])
            node_ = Model(model).nodes[0]
            assert all(moved(node_, 0, a) is not None and moved(node_, 0, a)[1] is APART for a in range(feed["x0"].ndim)), spec.op_type


def test_sizes_that_are_only_supposed_are_not_refused() -> None:
    """A table over pairs of positions, as relative attention has it: of the numbers tried for open sizes it would be 33 GB."""
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Shape", "x", "l", start=1, end=2),
        node("Mul", "n four", "n4"),
        node("Concat", "n4 l l", "sizes", axis=0),
        node("Expand", "one sizes", "table"),
        node("ReduceSum", "table last", "counted", keepdims=0),
        node("ReduceSum", "counted first", "per_place", keepdims=0),
        node("ReduceSum", "x last", "summed", keepdims=0),
        node("Mul", "summed per_place", "y"),
    ]
    weights = {"one": np.ones((1, 1, 1), np.float32)}
    weights |= {k: np.asarray([v], np.int64) for k, v in {"four": 4, "last": -1, "first": 0}.items()}
    model = Model(make(nodes, {"x": ["N", "L", 3]}, {"y": ["N", "L"]}, weights))
    x = model.value("x")
    assert [view.value("table").shape for view in numbered(model, x)][1:][-1] == (4 * 1009, 37, 37)
    assert layouts(model, x, model.nodes, batched=True, picture=None)["summed"].samples == 0
