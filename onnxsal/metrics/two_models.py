"""Two versions of one model, layer by layer: where do their weights part, and where their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxsal.errors import InputError, ModelError
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.graph.load import Source, load_model
from onnxsal.metrics.scorer import Scorer
from onnxsal.ops.registry import family_of, spec_of
from onnxsal.runtime.session import open_session

OFF = 0.25
"""Relative error of a layer's weights or values from which on it is broken; rounding to 8 bits stays below a tenth of a layer's weights."""

JUMP = 3.0
"""How many times the error of its inputs a layer's error must be for the layer to be at fault itself."""

NOTHING = 1e-12


@dataclass(frozen=True)
class ComparedLayer:
    """A layer that both models have. ``weights`` and ``values``: relative error |b - a| / |a| of what it stores and what it gives;
    ``*_factor``: the factor that best turns the first model's into the second's; ``before``: the largest error of what it reads;
    ``broken``: the fault is in this layer rather than before it.
    """

    name: str
    op_type: str
    weights: float | None
    weights_factor: float | None
    values: float | None
    values_factor: float | None
    before: float
    broken: bool


def at_fault(weights: float | None, values: float | None, before: float) -> bool:
    """Whether a layer itself is broken: its weights are off, or its values are, by more than comes of what it reads; NaN is off."""
    return (weights is not None and not weights <= OFF) or (values is not None and not values <= OFF and not values <= JUMP * before)


def refuse_unlike(first: Scorer, second: Scorer) -> None:
    """Two models can be compared where they answer the same question: as many classes, and the same kind of score.

    Raises ``InputError`` for others.
    """
    asked = [s.question for s in (first, second)]
    counts = [q.class_shape[-1] if q.class_shape else None for q in asked]
    if all(isinstance(c, int) for c in counts) and counts[0] != counts[1]:
        raise InputError(f"the models cannot be compared: one has {counts[0]} classes, the other {counts[1]}.")
    if asked[0].score != asked[1].score or asked[0].link != asked[1].link:
        heads = [next((str(f) for f in q.found if f.what == "head"), q.score) for q in asked]
        raise InputError(
            f"the models cannot be compared: a score of one is {heads[0]}, of the other {heads[1]}. "
            "Name tensors that hold the same (--output), such as the logits of both."
        )


class Side:
    """One of the two models: its nodes by name, and the tensor that carries what a name stood for before it was quantised."""

    def __init__(self, model: Source, scorer: Scorer) -> None:
        self.scorer = scorer
        self.model = Model(load_model(model))
        self.nodes = {n.name: n for n in self.model.nodes if n.proto.name}
        self.read = {name: n for n in self.model.nodes for name in n.proto.input}
        self._open: Any = None

    def carrier(self, name: str) -> str:
        """The tensor to read for ``name``: what comes out of Quantize and Dequantize where it is quantised."""
        quantise = self.read.get(name)
        if quantise is not None and _quantises(quantise) and quantise.proto.input[0] == name:
            back = self.read.get(quantise.proto.output[0])
            if back is not None and _dequantises(back):
                return str(back.proto.output[0])
        return name

    def floats(self) -> list[str]:
        """The tensors that nodes compute with, in order."""
        names = [o for n in self.model.nodes for o in n.proto.output if o]
        return [n for n in names if self.model.value(n).dtype in FLOATS and self.model.constant(n) is None]

    def weights(self, node: NodeView) -> list[np.ndarray | None]:
        """What a layer stores, dequantised."""
        return [self._stored(node.proto.input[i]) for i in _trained(node) if i < len(node.proto.input)]

    def _stored(self, name: str) -> np.ndarray | None:
        found = self.model.constant(name) if name else None
        producer = self.model.producer.get(name)
        if found is None and producer is not None and _dequantises(producer):
            inner = [self.model.constant(i) for i in producer.proto.input if i]
            if all(a is not None for a in inner):
                return dequantised([a for a in inner if a is not None], producer.attr("axis", 1))
        return None if found is None or found.dtype.kind != "f" else found.astype(np.float64)

    def values(self, x: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """What tensors hold for one picture."""
        return {n: v.astype(np.float64) for n, v in self._session(tuple(names)).run({self.scorer.question.x.name: x}, names).items()}

    def _session(self, names: tuple[str, ...]) -> Any:
        if self._open is None:
            proto = onnx.ModelProto()
            proto.CopyFrom(self.model.proto)
            have = {o.name for o in proto.graph.output}
            extra = [onnx.helper.make_tensor_value_info(n, self.model.value(n).dtype, None) for n in names if n not in have]
            proto.graph.output.extend(extra)
            self._open = open_session(proto, self.scorer.session.obtained)
        return self._open


def _trained(node: NodeView) -> tuple[int, ...]:
    """The inputs that training fits."""
    spec = spec_of(node)
    return () if spec is None else spec.trained


def _quantises(node: NodeView) -> bool:
    return family_of(node) == "quantize" and node.y.dtype not in FLOATS


def _dequantises(node: NodeView) -> bool:
    return family_of(node) == "quantize" and node.y.dtype in FLOATS


def dequantised(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """(q - zero) * scale, per tensor or along ``axis``."""
    q, scale = parts[0].astype(np.float64), parts[1].astype(np.float64)
    zero = parts[2].astype(np.float64) if len(parts) > 2 else np.zeros_like(scale)
    if scale.ndim == 1 and q.ndim:
        shape = [-1 if a == axis % q.ndim else 1 for a in range(q.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return np.asarray((q - zero) * scale)


def compare_layers(a: Side, b: Side, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[ComparedLayer]:
    """Every layer that both models have under one name, in the first one's order; ``pairs``: pictures [1, ...] as each takes them."""
    inside = {*b.model.producer, *b.model.input_names}
    common = [n for n in a.floats() if n in inside and b.model.constant(n) is None]
    common += [n for n in a.model.input_names if n in inside and a.model.value(n).dtype in FLOATS and n not in common]
    errors = value_errors(a, b, common, pairs) if common else {}
    layers = []
    for node in a.model.nodes:
        twin = b.nodes.get(node.name) if node.proto.name else None
        if not _trained(node) or twin is None or twin.op_type != node.op_type:
            continue
        weights, weights_factor = _pair_error(list(zip(a.weights(node), b.weights(twin), strict=False)))
        values, factor = errors.get(node.proto.output[0]) or errors.get(_after(a, node)) or (None, None)
        before = max((errors[n][0] for n in node.proto.input if n in errors), default=0.0)
        broken = at_fault(weights, values, before)
        layers.append(ComparedLayer(node.name, node.op_type, weights, weights_factor, values, factor, before, broken))
    return layers


def _after(side: Side, node: NodeView) -> str:
    """The output of the one activation behind a layer: an int8 model has no tensor between the two."""
    readers = [n for n in side.model.nodes if node.proto.output[0] in n.proto.input]
    return str(readers[0].proto.output[0]) if len(readers) == 1 and len(readers[0].proto.output) == 1 else ""


def _pair_error(pairs: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> tuple[float | None, float | None]:
    """Relative error and best factor of the main weight of a layer (the one with most values)."""
    fitting = [(p, q) for p, q in pairs if p is not None and q is not None and p.shape == q.shape and p.size]
    if not fitting:
        return None, None
    p, q = max(fitting, key=lambda pair: pair[0].size)
    return _error(np.array([(p * p).sum(), (q * q).sum(), (p * q).sum()]))


def _error(sums: np.ndarray) -> tuple[float, float]:
    """Relative error and factor from <a,a>, <b,b>, <a,b>."""
    aa, bb, ab = sums
    if aa <= NOTHING:
        return (0.0, 1.0) if bb <= NOTHING else (float("inf"), 1.0)
    return float(np.sqrt(max(aa + bb - 2 * ab, 0.0) / aa)), float(ab / aa)


def value_errors(a: Side, b: Side, names: Sequence[str], pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Relative error and best factor of the tensors ``names`` over all pictures; those that no picture tells of are left out."""
    carriers = ([a.carrier(n) for n in names], [b.carrier(n) for n in names])
    sums: Counter[str] = Counter()
    kept = {n: np.zeros(3) for n in names}
    for x, y in pairs:
        try:
            left, right = a.values(x, _once(carriers[0])), b.values(y, _once(carriers[1]))
        except ModelError:  # a model that breaks off on this picture: it is listed as failed, and has no values to compare
            continue
        for name, p, q in zip(names, *carriers, strict=True):
            u, v = left[p], right[q]
            if u.shape == v.shape and np.isfinite(u).all():
                kept[name] += ((u * u).sum(), (v * v).sum(), (u * v).sum()) if np.isfinite(v).all() else (1.0, np.inf, 0.0)
                sums[name] += 1
    return {n: _error(kept[n]) for n in names if sums[n]}


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
