"""Independent oracles for operators: one-node models, float64 evaluation, finite differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool as OnnxMaxPool

from onnxsal.ops.registry import Case, OpSpec
from tests.recurrent_oracle import GRU, LSTM, RNN
from tests.windows import WINDOWS

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
    return array if is_operand(entry) else array.astype(dtype)


def is_operand(entry: Any) -> bool:
    """Whether a case's input is not to be differentiated: integers, booleans, strings, and what is explicitly float32 (scale factors)."""
    if entry is None or isinstance(entry, tuple):
        return False
    array = np.asarray(entry)
    return array.dtype.kind != "f" or array.dtype == np.float32


def one_node_model(
    spec: OpSpec, test: Case, dtype: Any = np.float64, dynamic: bool = False, known: bool = False, seed: int = 0
) -> tuple[onnx.ModelProto, Feed, list[str]]:
    """The case as a model, its feed, and the inputs to differentiate: ``x0, x1, ...`` in, ``y0, ...`` out.

    Static: operands (integers) are initialisers and every shape is a number. Dynamic: operands are inputs (initialisers, if
    ``known``), every dimension a symbol.
    """
    rng = np.random.default_rng(seed)
    names = ["" if e is None else f"x{i}" for i, e in enumerate(test.inputs)]
    arrays = {f"x{i}": draw(e, test, dtype, rng) for i, e in enumerate(test.inputs) if e is not None}
    operands = {f"x{i}" for i, e in enumerate(test.inputs) if is_operand(e)}
    baked = {f"x{i}" for i in test.fixed} | (operands if known or not dynamic else set())
    fixed = {n: a for n, a in arrays.items() if n in baked}
    feed = {n: a for n, a in arrays.items() if n not in fixed}
    node = helper.make_node(spec.op_type, names, [f"y{i}" for i in range(test.outputs)], name="n", domain=spec.domain, **test.attributes)
    inputs = [_declare(n, a, dynamic and n not in operands) for n, a in feed.items()]
    outputs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(test.outputs)]
    graph = helper.make_graph([node], "case", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in fixed.items()])
    imports = [helper.make_opsetid("", max(test.opset, 18))]
    if spec.domain:
        imports.append(helper.make_opsetid(spec.domain, 1))
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=10), data_prop=True)
    return model, feed, [n for n in feed if n not in operands]


def _declare(name: str, array: np.ndarray, dynamic: bool) -> onnx.ValueInfoProto:
    shape = [f"{name}_{i}" for i in range(array.ndim)] if dynamic else list(array.shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


class LRN(OpRun):
    """As the standard says; onnx's own evaluator loops over the samples where it should loop over the channels."""

    op_domain = ""

    def _run(self, x: np.ndarray, alpha: float, beta: float, bias: float, size: int) -> tuple[np.ndarray]:
        reach = [slice(max(0, c - (size - 1) // 2), c + size // 2 + 1) for c in range(x.shape[1])]
        squares = np.stack([(x[:, window] ** 2).sum(1) for window in reach], axis=1)
        return (x / (bias + alpha / size * squares) ** beta,)


class MeanVarianceNormalization(OpRun):
    """As the standard says; the function body that onnx's own evaluator runs has float32 constants."""

    op_domain = ""

    def _run(self, x: np.ndarray, axes: list[int]) -> tuple[np.ndarray]:
        centred = x - x.mean(tuple(axes), keepdims=True)
        return (centred / (np.sqrt((centred**2).mean(tuple(axes), keepdims=True)) + 1e-9),)


class LpNormalization(OpRun):
    """As the standard says; onnx's own evaluator sums x where it should sum |x| (p = 1)."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int, p: int) -> tuple[np.ndarray]:
        norm = np.linalg.norm(x, p, axis, keepdims=True)
        return (np.divide(x, norm, out=np.zeros_like(x), where=norm != 0),)


class MaxPool(OnnxMaxPool):
    """With the indices of the largest elements; those of onnx's own evaluator are wrong where the kernel is not square."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        given = {k: v for k, v in attributes.items() if v is not None}
        if len(self.onnx_node.output) < 2:
            return super()._run(x, **attributes)
        assert given.get("auto_pad", "NOTSET") == "NOTSET"
        assert not given.get("storage_order")
        kernel, rank = given["kernel_shape"], len(given["kernel_shape"])
        strides, dilations = (given.get(name, [1] * rank) for name in ("strides", "dilations"))
        pads = given.get("pads", [0] * 2 * rank)
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        rounded = math.ceil if given.get("ceil_mode") else math.floor
        count = [rounded((x.shape[2 + i] + pads[i] + pads[rank + i] - extent[i]) / strides[i]) + 1 for i in range(rank)]
        room = [(0, 0), (0, 0), *((pads[i], pads[rank + i] + strides[i]) for i in range(rank))]
        picked = tuple(slice(0, (n - 1) * s + 1, s) for n, s in zip(count, strides, strict=True))
        inside = tuple(slice(None, None, d) for d in dilations)

        def windows(array: np.ndarray, value: float) -> np.ndarray:
            padded = np.pad(array, room, constant_values=value)
            seen = sliding_window_view(padded, extent, tuple(range(2, 2 + rank)))[(..., *picked, *[slice(None)] * rank)]
            return seen[(..., *inside)].reshape(*x.shape[:2], *count, -1)

        values = windows(x, -np.inf)
        first = values.argmax(-1)[..., None]
        both = values, windows(np.arange(x.size).reshape(x.shape), 0)
        return tuple(np.take_along_axis(a, first, -1)[..., 0] for a in both)


class Erf(OpRun):
    """In the type of x; onnx's own evaluator computes in float32."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class Shrink(OpRun):
    """In the type of x; onnx's own evaluator and ONNX Runtime's float64 kernel compute in float32."""

    op_domain = ""

    def _run(self, x: np.ndarray, bias: float, lambd: float) -> tuple[np.ndarray]:
        return (np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)).astype(x.dtype),)


class BatchNormalization(OpRun):
    """Of inference; onnx's own evaluator mixes the statistics of the batch in before opset 14."""

    op_domain = ""

    def _run(self, x: np.ndarray, *weights: np.ndarray, epsilon: float = 1e-5, training_mode: int = 0, **_: Any) -> tuple[np.ndarray]:
        assert not training_mode
        scale, bias, mean, var = (w.reshape(-1, *(1,) * (x.ndim - 2)) for w in weights)
        return ((scale * (x - mean) / np.sqrt(var + epsilon) + bias).astype(x.dtype),)


class GatherElements(OpRun):
    """As the standard says; onnx's own evaluator fails where the indices have fewer rows than the data."""

    op_domain = ""

    def _run(self, x: np.ndarray, indices: np.ndarray, axis: int) -> tuple[np.ndarray]:
        places = list(np.indices(indices.shape))
        places[axis] = indices
        return (x[tuple(places)],)


class MaxRoiPool(OpRun):
    """As ONNX Runtime's float32 kernel has it; onnx's own evaluator has none."""

    op_domain = ""

    def _run(self, x: np.ndarray, rois: np.ndarray, pooled_shape: list[int], spatial_scale: float) -> tuple[np.ndarray]:
        y = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
        for r, (image, *corners) in enumerate(rois):
            scaled = [float(np.float32(c) * np.float32(spatial_scale)) for c in corners]
            left, top, right, bottom = (int(math.copysign(math.floor(abs(c) + 0.5), c)) for c in scaled)
            lines = [(top, bottom, x.shape[2]), (left, right, x.shape[3])]
            for ph, pw in np.ndindex(*pooled_shape):
                part = []
                for p, count, (low, high, size) in zip((ph, pw), pooled_shape, lines, strict=True):
                    width = np.float32(max(high - low + 1, 1)) / np.float32(count)
                    ends = math.floor(np.float32(p) * width) + low, math.ceil(np.float32(p + 1) * width) + low
                    part.append(slice(*np.clip(ends, 0, size)))
                region = x[int(image) % len(x), :, part[0], part[1]]
                y[r, :, ph, pw] = region.max((1, 2)) if region.size else 0
        return (y,)


class Identity(OpRun):
    """Without the copy that onnx's own evaluator makes, of weights too, in every run."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (x,)


class Evaluator(ReferenceEvaluator):
    """ONNX's reference evaluator with the operators above, also inside function bodies (which it builds by its own class)."""

    def __init__(self, proto: Any, **options: Any) -> None:
        super().__init__(proto, **options | {"new_ops": [*OPERATORS, *WINDOWS]})


OPERATORS = [
    LRN,
    LpNormalization,
    MaxPool,
    MeanVarianceNormalization,
    Erf,
    Shrink,
    BatchNormalization,
    GatherElements,
    MaxRoiPool,
    Identity,
    RNN,
    GRU,
    LSTM,
]


def run(model: onnx.ModelProto, feed: Feed, optimise: bool = False) -> dict[str, np.ndarray]:
    """All outputs, by ONNX Runtime where it has the kernels (it lacks some for float64), else by ONNX's reference evaluator."""
    names, feed = [o.name for o in model.graph.output], told(model, feed)
    if any(n.op_type in ("Shrink", "GRU", "LSTM") for n in model.graph.node) and any(a.dtype == np.float64 for a in feed.values()):
        return dict(zip(names, Evaluator(model).run(None, feed), strict=True))
    try:
        session = session_of(model, optimise)
    except Exception as error:
        # The float32 constants in the body that stands in for a float64 MeanVarianceNormalization do not load.
        body = any(n.op_type == "MeanVarianceNormalization" for n in model.graph.node) and "bound to different types" in str(error)
        # The standard has no float64 form of some operators (Celu, DequantizeLinear).
        gaps = ("NOT_IMPLEMENTED", "Could not find an implementation", "Type 'tensor(double)' of input")
        if not body and not any(gap in str(error) for gap in gaps):
            raise
        return dict(zip(names, Evaluator(model).run(None, feed), strict=True))
    return dict(zip(names, session.run(None, feed), strict=True))


def told(model: onnx.ModelProto, feed: Feed) -> Feed:
    """``feed``, with the predicted class where it leaves out the class that a converted model must be told."""
    given = {*feed, *(t.name for t in model.graph.initializer)}
    ours = any(p.key == "onnxsal.parameters" for p in model.metadata_props)
    missing = [i.name for i in model.graph.input if ours and i.name.endswith("target") and i.name not in given]
    return feed | dict.fromkeys(missing, np.full(1, -1))


def session_of(model: onnx.ModelProto, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimise else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def scaled_derivative(model: onnx.ModelProto, feed: Feed, along: Feed, step: float = 1e-5) -> dict[str, np.ndarray]:
    """Central difference d outputs(feed + t * along) / dt at t = 0, fourth order."""

    def at(t: float) -> dict[str, np.ndarray]:
        return run(model, {k: np.asarray(v + t * along[k]) if k in along else v for k, v in feed.items()})

    near, far = (at(step), at(-step)), (at(2 * step), at(-2 * step))
    return {k: (8 * (near[0][k] - near[1][k]) - (far[0][k] - far[1][k])) / (12 * step) for k in near[0] if near[0][k].dtype.kind == "f"}


def random_like(arrays: dict[str, np.ndarray], names: Sequence[str], seed: int) -> Feed:
    """Standard normal arrays in the shapes and types of ``arrays``."""
    rng = np.random.default_rng(seed)
    return {n: np.asarray(rng.standard_normal(arrays[n].shape), arrays[n].dtype) for n in names}
