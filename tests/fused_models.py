"""Models of one fused operator, what their own kernels make of them, and finite differences of that."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.graph.load import load_model
from onnxsal.ops.expansion import MICROSOFT, expansion_of
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from tests.oracle import run

Arrays = Mapping[str, np.ndarray | None]


@dataclass(frozen=True)
class Row:
    """A model of one node, data for it, and the names of its inputs of floats and of its outputs."""

    model: onnx.ModelProto
    feed: dict[str, np.ndarray]
    floats: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def row(
    op_type: str,
    outputs: str = "y",
    weights: str = "",
    domain: str = MICROSOFT,
    opset: int = 18,
    known_sizes: bool = False,
    given: Arrays | None = None,
    attributes: Mapping[str, Any] | None = None,
    **more: Any,
) -> Row:
    """A node with the inputs ``given`` in their order (``None``: left out), of which ``weights`` are stored.

    Shapes of inputs are symbols, unless their sizes are ``known_sizes``. Further arguments are inputs where they are arrays or ``None``,
    and attributes else. Outputs are floats, but for one called ``count``.
    """
    arrays = {**(given or {}), **{k: v for k, v in more.items() if v is None or isinstance(v, np.ndarray)}}
    settings = {**{k: v for k, v in more.items() if k not in arrays}, **(attributes or {})}
    names = ["" if a is None else n for n, a in arrays.items()]
    outs = ["" if o == "." else o for o in outputs.split()]
    stored = {n: a for n, a in arrays.items() if a is not None and n in weights.split()}
    feed = {n: a for n, a in arrays.items() if a is not None and n not in stored}
    node = helper.make_node(op_type, names, outs, name="n", domain=domain, **settings)
    inputs = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape) if known_sizes else [f"{n}{i}" for i in range(a.ndim)]
        )
        for n, a in feed.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(next(a.dtype for a in arrays.values() if a is not None and a.dtype.kind == "f"))
    made = [helper.make_tensor_value_info(o, TensorProto.INT32 if o == "count" else kind, None) for o in outs if o]
    graph = helper.make_graph([node], "one", inputs, made, [numpy_helper.from_array(a, n) for n, a in stored.items()])
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10 if opset < 23 else 11)
    return Row(model, feed, [n for n, a in feed.items() if a.dtype.kind == "f"], [o for o in outs if o])


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without operators that are written in others. (No random data fit most of these: what both return is compared here.)"""
    return _plain(model.SerializeToString())


@functools.cache
def _plain(data: bytes) -> onnx.ModelProto:
    result = prepare(load_model(data), known).model.proto
    assert not [n for n in result.graph.node if expansion_of(n)]
    return result


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance`` of the largest element, and of the same shape and type."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(expected).max(initial=0.0))))


def check_outputs(one: Row, tolerance: float = 1e-5) -> None:
    """What stands in standard operators returns what the fused node's own kernel does."""
    before, after = run(one.model, one.feed), run(plain(one.model), one.feed)
    for name in one.outputs:
        close(after[name], before[name], tolerance)


def check_gradient(one: Row, output: str = "y", step: float = 2e-2, tolerance: float = 2e-3) -> None:
    """The vector-Jacobian product along one random direction of all inputs is the slope of the fused node's own kernel.

    Central differences with steps h and h / 2, extrapolated: their error is of order h^4, and of order 1e-7 / h by float32's rounding.
    """
    rng = np.random.default_rng(99)
    shape = run(one.model, one.feed)[output].shape
    signal = rng.standard_normal(shape).astype(np.float32)
    names = [n for n in one.floats if one.feed[n].size]
    answer = run(onnxsal.vjp(plain(one.model), None, output), {**one.feed, f"cotangent/{output}": signal})
    got = {n: answer[f"vjp/{n}"].astype(np.float64) for n in names if f"vjp/{n}" in answer}
    way = {n: rng.standard_normal(one.feed[n].shape).astype(np.float32) for n in names}

    def slope(h: float) -> float:
        ends = [run(one.model, one.feed | {n: one.feed[n] + np.float32(s * h) * way[n] for n in names})[output] for s in (1, -1)]
        return float(((ends[0].astype(np.float64) - ends[1]) * signal).sum() / (2 * h))

    expected = (4 * slope(step / 2) - slope(step)) / 3
    found = sum(float((g * way[n]).sum()) for n, g in got.items())
    assert [n for n, g in got.items() if not np.abs(g).max() > 0] == []
    scale = max(1.0, *map(np.linalg.norm, got.values()), 1.0)
    assert abs(found - expected) <= tolerance * scale, (found, expected)
