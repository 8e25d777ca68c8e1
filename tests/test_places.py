"""Where elements come from, shown on the operators' own test cases: an input element changes exactly the outputs that carry its place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxsal.ask.layers import Layers
from onnxsal.ask.question import ask
from onnxsal.graph import Model
from onnxsal.ops.places import Places, merged, moved, moved_without_sums, nowhere, pooled
from onnxsal.ops.registry import REGISTRY, Case, facts_of, known
from onnxsal.passes import prepare
from tests.small_models import make, node
from tests.torch_nets import export, net


def built(op_type: str, case: Case) -> tuple[Model, dict[str, np.ndarray]] | None:
    """The case as a model of one node: floats are inputs, the rest is stored."""
    dice = np.random.default_rng(0)
    feeds, stored, names = {}, [], []
    for i, given in enumerate(case.inputs):
        if given is None:
            names.append("")
            continue
        array = dice.uniform(case.low, case.high, given).astype(np.float32) if isinstance(given, tuple) else np.asarray(given)
        names.append(f"i{i}")
        if array.dtype.kind == "f" and i not in case.fixed:
            feeds[f"i{i}"] = array
        elif array.dtype.kind in "iufb":
            stored.append(onnx.numpy_helper.from_array(array, f"i{i}"))
        else:
            return None
    outputs = [f"o{i}" for i in range(case.outputs)]
    one = helper.make_node(op_type, names, outputs, **case.attributes)
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in feeds.items()]
    ends = [helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, None) for o in outputs]
    graph = helper.make_graph([one], "case", inputs, ends, stored)
    return Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", max(case.opset, 18))])), feeds


RULES = (moved, moved_without_sums)
MOVERS = [(op, i) for (domain, op), spec in REGISTRY.items() if not domain and spec.facts.places in RULES for i in range(len(spec.cases))]


@pytest.mark.parametrize(("op_type", "number"), MOVERS, ids=str)
def test_a_moved_element_takes_its_place_along(op_type: str, number: int) -> None:
    made = built(op_type, REGISTRY[("", op_type)].cases[number])
    if made is None:
        pytest.skip("the case moves no numbers")
    model, feeds = made
    view = model.nodes[0]
    run = ReferenceEvaluator(model.proto)
    try:
        before = [np.asarray(y) for y in run.run(None, feeds)]
    except ValueError:
        pytest.skip("the reference evaluator does not run this case")
    for name, array in feeds.items():
        if not array.size:
            continue
        view.wants = tuple(n == name for n in view.proto.input)
        numbers = np.stack([np.arange(array.size).reshape(array.shape), np.zeros(array.shape), np.zeros(array.shape)]).astype(float)
        parts = [Places(array.shape, numbers) if wanted else None for wanted in view.wants]
        placed = facts_of(view).places(view, parts)  # type: ignore[misc]
        if not placed:
            continue  # a choice that depends on values is not followed, and said so
        for k in {0, array.size // 2, array.size - 1}:
            other = array.copy()
            other.reshape(-1)[k] += 0.377
            after = [np.asarray(y) for y in run.run(None, {**feeds, name: other})]
            for was, now, there in zip(before, after, placed, strict=True):
                at = np.broadcast_to(there.at, (3, *was.shape))
                np.testing.assert_array_equal(was != now, (at[2] >= 0) & (at[0] == k))


def test_every_family_says_what_it_does_to_places() -> None:
    assert all(spec.facts.places is not None for spec in REGISTRY.values())


@pytest.mark.parametrize("op_type", ["Conv", "AveragePool", "MaxPool", "LpPool"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "pads"), [(3, 1, 1, (1, 1)), (3, 2, 1, (1, 1)), (2, 2, 1, (0, 0)), (3, 1, 2, (0, 3))]
)
def test_windows_lie_where_their_middle_is(op_type: str, kernel: int, stride: int, dilation: int, pads: tuple) -> None:
    """Closed form: window p reads s p - b + d k, whose mean is s p - b + d (K - 1) / 2, and spans d (K - 1)."""
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [pads[0]] * 2 + [pads[1]] * 2}
    weights = {"w": np.ones((2, 3, kernel, kernel), np.float32)} if op_type == "Conv" else {}
    model = Model(make([node(op_type, "x w" if weights else "x", "y", **attributes)], {"x": [1, 3, 12, 9]}, {"y": None}, weights))
    at = np.zeros((3, 1, 1, 12, 9))
    at[0], at[1] = np.arange(12)[:, None], np.arange(9)
    view = model.nodes[0]
    found = facts_of(view).places(view, [Places((1, 3, 12, 9), at), None][: len(view.inputs)])  # type: ignore[misc]
    assert isinstance(found, Places)
    middle = dilation * (kernel - 1) / 2 - pads[0]
    h, w = found.shape[2:]
    np.testing.assert_allclose(np.broadcast_to(found.at[0, 0, 0], (h, w))[:, 0], np.arange(h) * stride + middle)
    np.testing.assert_allclose(np.broadcast_to(found.at[1, 0, 0], (h, w))[0], np.arange(w) * stride + middle)
    assert np.all(found.spread == 2 * dilation * (kernel - 1))


def test_the_sharper_place_wins() -> None:
    def one(row: float, spread: float) -> np.ndarray:
        return np.asarray([row, 0, spread]).reshape(3, 1)

    assert merged([one(3, 1), one(5, 2)], 1)[:, 0].tolist() == [3, 0, 1]
    assert merged([one(5, 2), nowhere(1)], 1)[:, 0].tolist() == [5, 0, 2]
    assert merged([one(3, 1), one(5, 1)], 1)[2, 0] == np.inf
    assert merged([one(3, 1), one(3, 1)], 1)[:, 0].tolist() == [3, 0, 1]
    several = np.concatenate([one(1, 0), one(4, 0), nowhere(1)], 1)
    assert pooled(several, [0])[:, 0].tolist() == [2.5, 0, 3]


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize(("name", "kernel", "stride", "pad"), [("resnet18", 7, 2, 3), ("densenet", 3, 2, 1), ("vit", 8, 8, 0)])
def test_the_first_convolution_of_a_network(name: str, kernel: int, stride: int, pad: int, exporter: str) -> None:
    """With a symbolic batch, as exported: rows lie where the windows of the first convolution have their middle."""
    found = Layers(ask(prepare(export(net(name), exporter), known).model))
    first = found.places[next(n.y.name for n in found.path if n.op_type == "Conv")]
    np.testing.assert_allclose(first.at[0, 0, 0, :, 0], np.arange(first.shape[2]) * stride + (kernel - 1) / 2 - pad)
