"""The ONNX standard's own node tests as an oracle for gradients: central differences of the reference evaluator in float64."""

from __future__ import annotations

import collections
import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxsal
from onnxsal.errors import OnnxsalError
from tests.oracle import session_of

OPSET, IR_VERSION = 26, 10
"""ONNX Runtime 1.31 loads no newer ones; the standard's cases are written for newer ones."""


@dataclass(frozen=True)
class Outcome:
    """``ok``, ``wrong``, ``broken`` (built, does not run), ``refused`` (with our reason) or ``untestable`` (no derivative to compare)."""

    verdict: str
    detail: str = ""


@functools.cache
def cases_by_operator() -> dict[str, list[Any]]:
    """The standard's node cases by the operator they test, without the duplicates that are written as function bodies."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collections.defaultdict(list)
        for test in collect_testcases(None):
            if "_expanded" not in test.name:
                found[test.model.graph.node[-1].op_type].append(test)
    return dict(found)


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float32 tensor, constant and cast in float64."""
    double = onnx.ModelProto.FromString(model.SerializeToString())

    def convert(graph: onnx.GraphProto) -> None:
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.elem_type == TensorProto.FLOAT:
                info.type.tensor_type.elem_type = TensorProto.DOUBLE
        for tensor in graph.initializer:
            _double(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    _double(attribute.t)
                elif attribute.type == onnx.AttributeProto.GRAPH:
                    convert(attribute.g)
                elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.DOUBLE

    convert(double.graph)
    return double


def _double(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def prepared(test: Any, static: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]] | None:
    """The case's model at a loadable opset and its feed; ``None`` where an input is no tensor. Static: integers become initialisers."""
    model = onnx.ModelProto.FromString(test.model.SerializeToString())
    model.ir_version = min(model.ir_version, IR_VERSION)
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = min(entry.version, OPSET)
    arrays = [np.asarray(a) if np.isscalar(a) else a for a in test.data_sets[0][0]]
    if len(arrays) != len(model.graph.input) or not all(isinstance(a, np.ndarray) for a in arrays):
        return None
    feed = {i.name: a for i, a in zip(model.graph.input, arrays, strict=True)}
    if static:
        baked = [n for n, a in feed.items() if a.dtype.kind not in "fOU"]
        kept = [i for i in model.graph.input if i.name not in baked]
        copies = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in kept]
        model.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(feed[n]), n) for n in baked)
        del model.graph.input[:]
        model.graph.input.extend(copies)
        feed = {n: a for n, a in feed.items() if n not in baked}
    return model, feed


def differentiate(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> tuple[str, np.ndarray, dict[str, tuple[np.ndarray, float]]] | str:
    """(output, cotangent, input -> (direction, <cotangent, dy/direction>)), or why there is nothing to compare.

    One-sided differences at two step sizes must agree, which keeps off kinks.
    """
    output = next((o.name for o in model.graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT), None)
    floats = [n for n, a in feed.items() if a.dtype == np.float32 and a.size]
    if output is None or not floats:
        return "no float32 input and output"
    position = [o.name for o in model.graph.output].index(output)
    wide = {k: a.astype(np.float64) if a.dtype == np.float32 else a for k, a in feed.items()}
    try:
        own = session_of(model, optimise=False).run([output], feed)[0]
        evaluator = ReferenceEvaluator(in_double(model))
        y = np.asarray(evaluator.run(None, wide)[position], np.float64)
        again = np.asarray(evaluator.run(None, wide)[position], np.float64)
    except Exception as error:
        return f"does not run: {type(error).__name__}"
    if not y.size or not np.isfinite(y).all() or not np.array_equal(y, again):
        return "empty, not finite or random"
    if own.shape != y.shape or not np.allclose(own, y, rtol=1e-2, atol=1e-3):
        return "ONNX Runtime and the reference evaluator disagree"
    rng = np.random.default_rng(0)
    cotangent = rng.standard_normal(y.shape)
    slopes = {}
    for name in floats:
        direction = rng.standard_normal(wide[name].shape)
        direction /= np.abs(direction).max()
        sides = []
        try:
            for step in (1e-5, 3e-6, -1e-5, -3e-6):
                moved = evaluator.run(None, {**wide, name: wide[name] + step * direction})[position]
                sides.append(float((cotangent * (moved - y)).sum() / step))
        except Exception:  # the step left the operator's domain, or changed the output's shape: no derivative here
            continue
        if np.isfinite(sides).all() and max(sides) - min(sides) <= 2e-2 * max(1e-3, *np.abs(sides)):
            slopes[name] = (direction, float(np.mean(sides)))
    if not any(abs(s) > 1e-9 for _, s in slopes.values()):
        return "kink, or no slope"
    return output, cotangent, slopes


def judge(test: Any, static: bool) -> Outcome:
    """Compare ``onnxsal.vjp`` with central differences on one of the standard's cases."""
    ready = prepared(test, static)
    if ready is None:
        return Outcome("untestable", "an input is no tensor")
    model, feed = ready
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = differentiate(model, feed)
    if isinstance(found, str):
        return Outcome("untestable", found)
    output, cotangent, slopes = found
    try:
        derived = onnxsal.vjp(model, wrt=list(slopes), outputs=[output])
    except OnnxsalError as error:
        return Outcome("refused", str(error).splitlines()[0])
    try:
        session = session_of(derived)
        fed = {
            k: a
            for k, a in {**feed, f"cotangent/{output}": cotangent.astype(np.float32)}.items()
            if k in {i.name for i in session.get_inputs()}
        }
        got = dict(zip([o.name for o in session.get_outputs()], session.run(None, fed), strict=True))
    except Exception as error:
        return Outcome("broken", str(error)[:200])
    for name, (direction, expected) in slopes.items():
        product = got[f"vjp/{name}"].astype(np.float64) * direction
        scale = max(abs(expected), 1e-2, 0.05 * float(np.abs(product).sum()))
        if not np.isfinite(product).all() or abs(float(product.sum()) - expected) > 1e-2 * scale:
            return Outcome("wrong", f"input {name}: {product.sum():.6g} instead of {expected:.6g}")
    return Outcome("ok")
