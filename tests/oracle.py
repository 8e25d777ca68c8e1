"""Independent oracles for operators: one-node models, float64 evaluation, finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxsal.ops.registry import Case, OpSpec

ort.set_default_logger_severity(4)
Feed = dict[str, np.ndarray]


def draw(entry: Any, test: Case, dtype: Any, rng: np.random.Generator) -> np.ndarray:
    """A random array for a shape, kept away from kinks; a given array with its floats in ``dtype``."""
    if isinstance(entry, tuple):
        drawn = np.asarray(rng.uniform(test.low, test.high, entry))
        for kink in test.kinks:
            away = np.where(drawn >= kink, 0.05, -0.05)
            drawn = np.where(np.abs(drawn - kink) < 0.05, drawn + away, drawn)
        return drawn.astype(dtype)
    array = np.asarray(entry)
    return array.astype(dtype) if array.dtype.kind == "f" else array


def one_node_model(
    spec: OpSpec, test: Case, dtype: Any = np.float64, dynamic: bool = False, known: bool = False, seed: int = 0
) -> tuple[onnx.ModelProto, Feed, list[str]]:
    """The case as a model, its feed, and the inputs to differentiate: ``x0, x1, ...`` in, ``y0, ...`` out.

    Static: integer inputs are initialisers and every shape is a number. Dynamic: integers are inputs (initialisers, if ``known``),
    every dimension a symbol.
    """
    rng = np.random.default_rng(seed)
    names = ["" if e is None else f"x{i}" for i, e in enumerate(test.inputs)]
    arrays = {f"x{i}": draw(e, test, dtype, rng) for i, e in enumerate(test.inputs) if e is not None}
    fixed = {n: a for n, a in arrays.items() if int(n[1:]) in test.fixed or (a.dtype.kind != "f" and (known or not dynamic))}
    feed = {n: a for n, a in arrays.items() if n not in fixed}
    node = helper.make_node(spec.op_type, names, [f"y{i}" for i in range(test.outputs)], name="n", domain=spec.domain, **test.attributes)
    inputs = [_declare(n, a, dynamic) for n, a in feed.items()]
    outputs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(test.outputs)]
    graph = helper.make_graph([node], "case", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in fixed.items()])
    imports = [helper.make_opsetid("", max(test.opset, 18))]
    if spec.domain:
        imports.append(helper.make_opsetid(spec.domain, 1))
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=10), data_prop=True)
    return model, feed, [n for n, a in feed.items() if a.dtype.kind == "f"]


def _declare(name: str, array: np.ndarray, dynamic: bool) -> onnx.ValueInfoProto:
    shape = [f"{name}_{i}" for i in range(array.ndim)] if dynamic and array.dtype.kind == "f" else list(array.shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def run(model: onnx.ModelProto, feed: Feed, optimise: bool = False) -> dict[str, np.ndarray]:
    """All outputs, by ONNX Runtime where it has the kernels (it lacks some for float64), else by ONNX's reference evaluator."""
    names = [o.name for o in model.graph.output]
    try:
        session = session_of(model, optimise)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error) and "Could not find an implementation" not in str(error):
            raise
        return dict(zip(names, ReferenceEvaluator(model).run(None, feed), strict=True))
    return dict(zip(names, session.run(None, feed), strict=True))


def session_of(model: onnx.ModelProto, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimise else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def scaled_derivative(model: onnx.ModelProto, feed: Feed, along: Feed, step: float = 1e-5) -> dict[str, np.ndarray]:
    """Central difference d outputs(feed + t * along) / dt at t = 0, fourth order."""

    def at(t: float) -> dict[str, np.ndarray]:
        return run(model, {k: v + t * along[k] if k in along else v for k, v in feed.items()})

    near, far = (at(step), at(-step)), (at(2 * step), at(-2 * step))
    return {
        k: (8 * (near[0][k] - near[1][k]) - (far[0][k] - far[1][k])) / (12 * step) for k in near[0] if near[0][k].dtype.kind == "f"
    }


def random_like(arrays: dict[str, np.ndarray], names: Sequence[str], seed: int) -> Feed:
    """Standard normal arrays in the shapes and types of ``arrays``."""
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(arrays[n].shape).astype(arrays[n].dtype) for n in names}
