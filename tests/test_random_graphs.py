"""The full-gradient decomposition on random graphs drawn from the operator table: it is exact for any graph, not for known networks."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxsal
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.conformance import in_double
from tests.oracle import Evaluator, draw, run, session_of
from tests.small_models import make, node

SHAPE = (1, 3, 4, 4)
"""One sample: a drawn operator may well reorder samples, and the law is one of each sample by itself."""

LARGEST = 2000
JOINS = ("Add", "Sub", "Mul", "Max", "Min", "Sum")


@functools.cache
def building_blocks() -> list[tuple[OpSpec, Case]]:
    """Cases of registered operators that take one activation first and constants after it, and whose implicit bias is known."""
    return [
        (spec, test)
        for spec in REGISTRY.values()
        for test in spec.cases
        if not spec.domain and spec.bias != "unknown" and not test.straight_through and isinstance(test.inputs[0], tuple) and test.low < 0
        if test.opset <= 18 and test.outputs == 1
    ]


def grow(model: onnx.ModelProto, block: tuple[OpSpec, Case], source: str, seed: int) -> onnx.ModelProto | None:
    """The model with one more node reading ``source``, or ``None`` where the operator does not take that shape."""
    spec, test = block
    index = len(model.graph.node)
    rng = np.random.default_rng(seed)
    grown = onnx.ModelProto.FromString(model.SerializeToString())
    names = [source]
    for i, entry in enumerate(test.inputs[1:], 1):
        names.append("" if entry is None else f"c{index}_{i}")
        if entry is not None:
            grown.graph.initializer.append(numpy_helper.from_array(draw(entry, test, np.float32, rng), names[-1]))
    grown.graph.node.append(helper.make_node(spec.op_type, names, [f"t{index}"], name=f"n{index}", **test.attributes))
    return named_output(grown, f"t{index}")


def join(model: onnx.ModelProto, op_type: str, sources: tuple[str, str]) -> onnx.ModelProto | None:
    """The model with a node that joins two activations."""
    index = len(model.graph.node)
    grown = onnx.ModelProto.FromString(model.SerializeToString())
    grown.graph.node.append(helper.make_node(op_type, list(sources), [f"t{index}"], name=f"n{index}"))
    return named_output(grown, f"t{index}")


def named_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto | None:
    """The model with ``name`` as its one output, if it is a valid model whose output has a known, modest size."""
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception:  # the operator does not take what it was given: another one is drawn
        return None
    kind = typed.graph.output[0].type.tensor_type
    sizes = [d.dim_value for d in kind.shape.dim]
    fits = kind.elem_type == onnx.TensorProto.FLOAT and sizes and all(sizes) and np.prod(sizes) <= LARGEST
    return typed if fits else None


@st.composite
def graphs(choose: st.DrawFn) -> onnx.ModelProto:
    """Two to six nodes: each reads an earlier tensor, or joins two."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)]
    empty = helper.make_graph([], "random", inputs, [])
    model = helper.make_model(empty, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    tensors = ["x"]
    for _ in range(choose(st.integers(2, 6))):
        grown = None
        if len(tensors) > 1 and choose(st.booleans()):
            pair = (tensors[-1], choose(st.sampled_from(tensors)))
            grown = join(model, choose(st.sampled_from(JOINS)), pair)
        if grown is None:
            block = choose(st.sampled_from(building_blocks()))
            grown = grow(model, block, tensors[-1], choose(st.integers(0, 99)))
        if grown is not None:
            model = grown
            tensors.append(model.graph.output[0].name)
    assume(len(tensors) > 1)
    return model


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(model=graphs(), seed=st.integers(0, 99))
def test_full_gradient_is_complete_on_any_graph(model: onnx.ModelProto, seed: int) -> None:
    """score = <g_x, x> + sum over nodes <g_y, r>, in float64, up to rounding of the largest term."""
    x = np.random.default_rng(seed).uniform(-2, 2, SHAPE)
    try:
        session_of(model).run(None, {"x": x.astype(np.float32)})
        model = in_double(model)
        y = next(iter(run(model, {"x": x}).values()))
    except Exception:  # not a valid graph after all, or one that nothing runs in float64
        assume(False)
    declared = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    if list(y.shape) != declared:  # inference takes the size 1 for an Einsum's label that another operand stretches
        with pytest.raises(onnxsal.OnnxsalError):
            onnxsal.convert(model, "fullgrad", score="raw", target=0)
        return
    assume(y.size and np.isfinite(y).all() and np.abs(y).max() < 1e6)
    try:
        converted = onnxsal.convert(model, "fullgrad", score="raw", target=0, components=True)
    except onnxsal.OnnxsalError:  # no derivative on the path, or an axis that mixes samples: refused, so there is nothing to add up
        assume(False)
    found = run(converted, {"x": x})
    shares = found["fullgrad/shares"].astype(np.float64)
    scale = np.maximum(np.abs(found["explained_score"]), 1e-6)
    assume(np.isfinite(shares).all())
    # The residual is computed in float64; where huge terms cancel, it cannot be smaller than their rounding.
    cancelled = np.abs(shares).max(1) / scale
    assert (found["residual"] <= 1e-9 * np.maximum(1, 1e3 * cancelled)).all(), [n.op_type for n in model.graph.node]


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 2]},
        {"kernel_shape": [2, 2], "dilations": [2, 3]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    ],
)
def test_the_evaluators_max_pool_is_that_of_onnx_runtime(attributes: dict) -> None:
    """It stands in for onnx's own, whose indices are wrong where the kernel is not square."""
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "at"], **attributes)]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("y", "at")]
    graph = helper.make_graph(nodes, "pool", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 3, 7, 6))], outputs)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(np.float32)
    for got, wanted in zip(Evaluator(model).run(None, {"x": x}), session_of(model).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("rows", [4, "N"])
def test_a_label_that_is_stretched_from_size_one_is_refused_where_its_size_is_misstated(rows: int | str) -> None:
    """The result has a row for each of x; ONNX's inference states one row, if the operand of one row comes first."""
    x, w = np.arange(12, dtype=np.float32).reshape(4, 3), np.float32([[1, -2, 3]])
    for operands in ("w x", "x w"):
        nodes = [node("Einsum", operands, "y", equation="bi,bi->bi")]
        model = make(nodes, {"x": [rows, 3]}, {"y": None}, {"w": w}, opset=17)
        if operands == "x w":
            one = onnxsal.Explainer(model, "gradient").explain(x, target=1)
            np.testing.assert_array_equal(one.attribution, np.float32([[0, -2, 0]] * 4))
        else:
            with pytest.raises(onnxsal.OnnxsalError, match=r"along 'b' of equation .* have the sizes 1, [4?],"):
                onnxsal.convert(model, "gradient")
