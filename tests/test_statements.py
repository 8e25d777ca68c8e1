"""What operators state beside their gradients holds of what they compute: every statement, over the operator's own cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxsal.graph import Emit, Model, NodeView, Value
from onnxsal.graph.adjoints import NUMBERS
from onnxsal.graph.assemble import Port, assemble
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.oracle import one_node_model, run

Arrays = dict[int, np.ndarray]


def cases(*specs: OpSpec) -> list[Any]:
    return [pytest.param(s, c, id=f"{s.op_type}-{i}") for s in specs for i, c in enumerate(s.cases)]


def computed(spec: OpSpec, test: Case) -> tuple[NodeView, Arrays, np.ndarray]:
    """The case's node, its inputs by position, and its first output in float64."""
    model, feed, _ = one_node_model(spec, test)
    view = Model(model).nodes[0]
    given = feed | {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return view, {i: given[n] for i, n in enumerate(view.proto.input) if n}, run(model, feed)["y0"]


def lifted(number: Any, axis: int | None, rank: int) -> Any:
    """A factor or summand, ready to broadcast."""
    return number if number is None or axis is None else np.reshape(number, [-1 if a == axis else 1 for a in range(rank)])


@pytest.mark.parametrize(("spec", "test"), cases(*(s for s in REGISTRY.values() if s.scaling is not None)))
def test_constants_scale_and_shift_as_stated(spec: OpSpec, test: Case) -> None:
    """y = factor x + summand in every input that x may be, with both calculated from the others."""
    view, given, y = computed(spec, test)
    scaling = spec.scaling
    assert scaling is not None
    for i in given:
        if scaling.takes(view, i):
            factor, summand = (lifted(p, scaling.axis, y.ndim) for p in scaling.parts(NUMBERS, view, list(given.values()), i))
            expected = given[i] * (1.0 if factor is None else factor) + (0.0 if summand is None else summand)
            np.testing.assert_allclose(np.broadcast_to(expected, y.shape), y, rtol=1e-12, atol=1e-12)


def test_training_mode_is_no_scaling() -> None:
    """Its statistics are those of x."""
    batch_norm = REGISTRY[("", "BatchNormalization")]
    assert batch_norm.scaling is not None
    told = [(c.attributes.get("training_mode", 0), batch_norm.scaling.takes(computed(batch_norm, c)[0], 0)) for c in batch_norm.cases]
    assert {(1, False), (0, True)} == set(told)


LAYERS = [s for s in REGISTRY.values() if s.units is not None]


@pytest.mark.parametrize(("spec", "test"), cases(*LAYERS))
def test_units_lie_where_stated(spec: OpSpec, test: Case) -> None:
    """Weights times a number per unit give results times that number per unit (less the bias); each unit has one place in y."""
    view, given, y = computed(spec, test)
    units = spec.units
    assert units is not None
    count = units.count(view)
    assert count is not None
    alone = units.along(view) is None
    assert alone or y.shape[units.axis(view)] == count
    numbers = np.random.default_rng(1).uniform(0.5, 2.0, count)
    scaled = given | {1: weighed(view, spec, given[1], numbers)}
    plain, changed = (evaluated(view, {i: a for i, a in v.items() if i < 2}) for v in (given, scaled))
    per_unit = numbers if alone else numbers.reshape([-1 if a == units.axis(view) else 1 for a in range(y.ndim)])
    np.testing.assert_allclose(changed, plain * per_unit, rtol=1e-12, atol=1e-12)
    plus_bias = evaluated(view, {i: np.zeros_like(a) if i < 2 else a for i, a in given.items()})
    np.testing.assert_allclose(plain + plus_bias, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("spec", "test"), cases(*LAYERS))
def test_weights_run_along_the_inputs_stated(spec: OpSpec, test: Case) -> None:
    """As many weights per unit (and place in the kernel) as the group of inputs that the unit sees."""
    view, given, _ = computed(spec, test)
    units, weight = spec.units, given[1]
    assert units is not None
    if weight.ndim > 2 and not units.slides:
        return  # a stack of matrices
    places = int(np.prod(weight.shape[2:])) if units.slides else 1
    seen = given[0].shape[units.inputs(view)] / units.groups(view)
    assert weight.size == (units.count(view) or 0) * seen * places


def weighed(view: NodeView, spec: OpSpec, weight: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """What ``Units.weigh`` emits, run."""
    op = Emit(view.model)
    value = Value(view.proto.input[1], 0, weight.shape)
    with op.at(view):
        assert spec.units is not None
        made = spec.units.weigh(op, view, value, op.const(numbers))
    model = assemble(view.model, op, [], [Port(op.Identity(made, name="weighed"), onnx.TensorProto.DOUBLE, None)])
    kept = {t.name for t in model.graph.initializer}
    names = [n for n in view.proto.input if n and n not in kept]
    return run(model, {n: weight if n == view.proto.input[1] else np.zeros(view.model.value(n).static or ()) for n in names})["weighed"]


def evaluated(view: NodeView, given: Arrays) -> np.ndarray:
    """The node's first output on these inputs; the others are left out."""
    node = onnx.helper.make_node(view.op_type, [f"i{i}" if i in given else "" for i in range(max(given) + 1)], ["y"])
    node.attribute.extend(view.proto.attribute)
    inputs = [onnx.helper.make_tensor_value_info(f"i{i}", onnx.TensorProto.DOUBLE, a.shape) for i, a in given.items()]
    graph = onnx.helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name="y")])
    model = onnx.helper.make_model(graph, opset_imports=view.model.proto.opset_import, ir_version=10)
    return run(model, {f"i{i}": a for i, a in given.items()})["y"]


# ----- movements -----


MOVEMENTS = [s for s in REGISTRY.values() if s.family == "movement"]


def moves(spec: OpSpec, change: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple[NodeView, np.ndarray, np.ndarray]]:
    """Each case of one tensor (a number beside it is a setting): its node, the tensor, changed, and what the node makes of it."""
    for test in spec.cases:
        model, feed, _ = one_node_model(spec, test)
        view = Model(model).nodes[0]
        tensors = [
            i for i, v in enumerate(view.inputs) if v is not None and v.dtype == onnx.TensorProto.DOUBLE and (not i or v.shape != ())
        ]
        if [i for i in tensors if i not in spec.stops] == [0]:
            x = np.asarray(change(feed["x0"]))
            yield view, x, run(model, feed | {"x0": x})["y0"]


def in_place(x: np.ndarray, y: np.ndarray) -> bool:
    """Each element where it was; a Dropout that trains zeroes some and scales the rest alike."""
    if x.shape != y.shape or not y.size:
        return False
    left = y != 0
    ratios = y[left] / x[left]
    return bool(np.allclose(ratios, ratios.flat[0] if ratios.size else 1.0))


def same_elements(x: np.ndarray, y: np.ndarray) -> bool:
    return x.size == y.size and bool(np.array_equal(np.sort(x, axis=None), np.sort(y, axis=None)))


@pytest.mark.parametrize("spec", MOVEMENTS, ids=lambda s: s.op_type)
def test_what_is_kept_is_stated(spec: OpSpec) -> None:
    """``keeps`` is stated by the operators that keep every element, equal ones too, and by no other."""
    drawn, tied = list(moves(spec, np.array)), list(moves(spec, np.round))
    placed = len(drawn) == len(spec.cases) and all(in_place(x, y) and not spec.fills(view) for view, x, y in drawn)
    kept = len(tied) == len(spec.cases) and all(same_elements(x, y) for _, x, y in tied)
    order = all(np.array_equal(np.ravel(x), np.ravel(y)) for _, x, y in drawn)
    assert spec.keeps == ("place" if placed else "" if not kept else "order" if order else "elements")


@pytest.mark.parametrize("spec", MOVEMENTS, ids=lambda s: s.op_type)
def test_what_fills_is_stated(spec: OpSpec) -> None:
    """Where numbers other than those of the one tensor come out, the operator says that it fills, and no operator says so in vain."""
    filled = [(spec.fills(view), not np.isin(y, x).all()) for view, x, y in moves(spec, np.abs) if spec.keeps != "place"]
    assert all(said or not seen for said, seen in filled)
    assert not any(said for said, _ in filled) or (True, True) in filled
