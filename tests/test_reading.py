"""What is read: open sizes however they are written, wrong declarations, inputs without a shape, sparse tensors, data outside the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.errors import ExampleNeeded, InputError, ModelError

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3, 4)).astype(np.float32)
WEIGHT[0, 1] = WEIGHT[2, 2] = 0
X = RNG.normal(size=(2, 3)).astype(np.float32)
WANTED = (1 - np.tanh(X.astype(float) @ WEIGHT)[:, [2]] ** 2) * WEIGHT[:, 2]
FLOAT, EXTERNAL = TensorProto.FLOAT, TensorProto.EXTERNAL
NODES = [helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])]


def built(x: list | None, y: list | None, opset: int, weights: list | None = None, sparse: list = (), nodes: list = ()) -> onnx.ModelProto:  # type: ignore[assignment]
    inputs, outputs = helper.make_tensor_value_info("x", FLOAT, x), helper.make_tensor_value_info("y", FLOAT, y)
    held = [numpy_helper.from_array(WEIGHT, "W")] if weights is None else weights
    graph = helper.make_graph([*nodes, *NODES], "g", [inputs], [outputs], held, sparse_initializer=list(sparse))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 20 else 8)


def gradient(model: onnx.ModelProto | Path, **options: object) -> np.ndarray:
    return onnxsal.Explainer(model, "gradient", providers="cpu", **options).explain(X, 2).attribution  # type: ignore[arg-type]


OPEN = st.sampled_from([-1, None, "a", "b"])
"""Ways to leave a size open: PaddlePaddle writes -1. Other numbers below 0 are no sizes, and refused."""


@settings(max_examples=30, deadline=None)
@given(st.tuples(OPEN, st.one_of(OPEN, st.just(3))), st.tuples(OPEN, st.one_of(OPEN, st.just(4))), st.sampled_from([11, 13, 17, 18, 21]))
def test_an_open_size_is_open_however_it_is_written(x: tuple, y: tuple, opset: int):
    if x[0] == x[1] and isinstance(x[0], str):
        x = (x[0], "c")  # one symbol is one size
    for kwargs in ({}, {"batched": True}) if not isinstance(y[0], str) or y[0] == x[0] else ({"batched": True},):
        if isinstance(y[0], str) and y[0] != x[0] and y[0] in x:
            return  # the scores say that they run along another axis
        np.testing.assert_allclose(gradient(built(list(x), list(y), opset), **kwargs), WANTED, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("opset", [12, 17, 18, 21])
@pytest.mark.parametrize("batched", [None, True])
def test_an_input_without_a_shape_is_understood_from_data(opset: int, batched: bool | None):
    model = built(None, None, opset)
    np.testing.assert_allclose(gradient(model, batched=batched), WANTED, rtol=1e-4, atol=1e-6)
    made = onnxsal.convert(model, "gradient", example=X, batched=batched)
    assert len(made.graph.input[0].type.tensor_type.shape.dim) == 2
    with pytest.raises(ExampleNeeded, match="example= in Python, --example FILE"):
        onnxsal.convert(model, "gradient", batched=batched)
    waiting = onnxsal.Explainer(model, "gradient", providers="cpu", batched=batched)
    with pytest.raises(ExampleNeeded, match="example="):
        _ = waiting.conversion


@pytest.mark.parametrize("opset", [13, 21])
def test_a_rank_that_the_graph_fixes_needs_no_data(opset: int):
    """Only two axes go through this Transpose."""
    model = built(None, None, opset, nodes=[helper.make_node("Transpose", ["x0"], ["x"], perm=[0, 1])])
    model.graph.input[0].name = "x0"
    np.testing.assert_allclose(gradient(model, batched=True), WANTED, rtol=1e-4, atol=1e-6)


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="no input of the model"):
        onnxsal.convert(built(["N", 3], ["N", 4], 17), "gradient", example={"z": X})
    with pytest.raises(InputError, match="does not run on the data given"):
        onnxsal.convert(built(["N", None], ["N", 4], 17), "gradient", example=X[:, :2])


DECLARED = [[1, "s"], [1], [2, 3, 4], [7, 4], [2, 5], ["T", "N"]]


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("opset", [12, 18])
def test_what_the_graph_computes_wins_over_what_is_declared(declared: list, opset: int):
    """x [N, T=3] @ W: the output is [N, 4], whatever the file says of it."""
    model = built(["N", "T"], declared, opset)
    np.testing.assert_allclose(gradient(model, batched=True), WANTED, rtol=1e-4, atol=1e-6)
    made = onnxsal.convert(model, "gradient", batched=True)
    dims = made.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 4]


SPARSE = numpy_helper.from_array(np.flatnonzero(WEIGHT).astype(np.int64), "at"), numpy_helper.from_array(np.argwhere(WEIGHT), "at")


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("indices", SPARSE, ids=["flat", "by axis"])
@pytest.mark.parametrize("constant", [False, True])
def test_sparse_weights(opset: int, indices: onnx.TensorProto, constant: bool):
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(WEIGHT[WEIGHT != 0], "W"), indices, [3, 4])
    node = [helper.make_node("Constant", [], ["W"], sparse_value=sparse)] if constant else []
    model = built(["N", 3], ["N", 4], opset, [], [] if constant else [sparse], node)
    np.testing.assert_allclose(gradient(model), WANTED, rtol=1e-4, atol=1e-6)


def test_a_sparse_weight_out_of_range_is_refused():
    at = numpy_helper.from_array(np.asarray([99]), "at")
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "W"), at, [3, 4])
    with pytest.raises(ModelError, match="outside its shape"):
        onnxsal.convert(built(["N", 3], ["N", 4], 18, [], [sparse]), "gradient")
    sparse.dims[:] = [2**20, 2**20]
    with pytest.raises(ModelError, match="would take"):
        onnxsal.convert(built(["N", 3], ["N", 4], 18, [], [sparse]), "gradient")


def outside(array: np.ndarray, place: Path, name: str, **keys: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape, data_location=EXTERNAL)
    for key, value in {"location": place.as_posix(), **keys}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.parametrize("keys", [{}, {"offset": 0}, {"length": 48}, {"offset": 0, "length": 48}], ids=str)
@pytest.mark.parametrize("folder", [".", "deep/er"])
@pytest.mark.parametrize("form", ["initializer", "attribute", "sparse"])
def test_data_outside_the_file(tmp_path: Path, keys: dict[str, int], folder: str, form: str):
    place = Path(folder) / "w.bin"
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    values = WEIGHT.reshape(-1) if form == "sparse" else WEIGHT
    (tmp_path / place).write_bytes(values.tobytes())
    tensor = outside(values, place, "W", **keys)
    node = helper.make_node("Constant", [], ["W"], value=tensor)
    sparse = onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.arange(12), "at"), dims=[3, 4])
    model = built(
        ["N", 3],
        ["N", 4],
        18,
        [tensor] if form == "initializer" else [],
        [sparse] if form == "sparse" else [],
        [node] if form == "attribute" else [],
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    np.testing.assert_allclose(gradient(tmp_path / "m.onnx"), WANTED, rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="in another file"):
        onnxsal.convert(model, "gradient")


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16])
@pytest.mark.parametrize("read", [False, True])
def test_a_side_input_never_matters(opset: int, kind: int, read: bool):
    model = built(["N", 3], ["N", 4], opset)
    model.graph.input.append(helper.make_tensor_value_info("s", kind, ["N"]))
    if read:
        model.graph.node.append(helper.make_node("Identity", ["s"], ["s2"]))
        model.graph.output.append(helper.make_tensor_value_info("s2", kind, ["N"]))
    explainer = onnxsal.Explainer(model, "gradient", input="x", output="y", providers="cpu")
    side = np.asarray(["a", "b"], object) if kind == TensorProto.STRING else np.zeros(2, helper.tensor_dtype_to_np_dtype(kind))
    np.testing.assert_allclose(explainer.explain({"x": X, "s": side}, 2).attribution, WANTED, rtol=1e-4, atol=1e-6)
