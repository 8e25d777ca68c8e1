"""What values a tensor can take whatever the input is: proves that an activation is never negative, or that a factor is a gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.graph.helpers import is_zero
from onnxsal.ops.registry import spec_of

Bounds = tuple[float, float]
"""Smallest and largest value."""

ANY: Bounds = (-math.inf, math.inf)

_RANGES: dict[str, Bounds] = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
    "Sin": (-1.0, 1.0),
    "Cos": (-1.0, 1.0),
    "Softsign": (-1.0, 1.0),
    "Exp": (0.0, math.inf),
    "Softplus": (0.0, math.inf),
    "Abs": (0.0, math.inf),
    "Sqrt": (0.0, math.inf),
    "ReduceL1": (0.0, math.inf),
    "ReduceL2": (0.0, math.inf),
    "ReduceSumSquare": (0.0, math.inf),
}


def bounds_of(model: Model, name: str) -> Bounds:
    """Bounds of a tensor, from its producer and those before it; ``ANY`` where nothing is known."""
    known: dict[str, Bounds] | None = model.__dict__.get("_bounds")
    if known is None:
        known = model.__dict__["_bounds"] = {}
        for node in model.nodes:
            result = _node_bounds(node, known)
            known.update({o: result for o in node.proto.output if o})
    if name in known:
        return known[name]
    return bounds_of(model.outer, name) if model.outer is not None and name not in model.types else _constant_bounds(model, name)


def not_negative(model: Model, name: str) -> bool:
    """Whether a tensor is never negative, whatever the input."""
    return bounds_of(model, name)[0] >= 0


def is_relu(node: NodeView) -> bool:
    """Whether the node is max(x, 0) of one tensor, and no more than that."""
    if node.domain or node.op_type not in ("Relu", "Clip", "Max"):
        return False
    if node.op_type == "Max":
        return len(node.inputs) == 2 and is_zero(node.const(1)) and node.input(0).shape == node.y.shape
    return node.op_type == "Relu" or (is_zero(node.const(1)) and node.optional(2) is None)


def _constant_bounds(model: Model, name: str) -> Bounds:
    array = model.constant(name)
    if array is None or array.size == 0 or array.dtype.kind not in "fiu":
        return ANY
    return float(array.min()), float(array.max())


def _hull(parts: Sequence[Bounds]) -> Bounds:
    return (min(p[0] for p in parts), max(p[1] for p in parts)) if parts else ANY


def _times(a: float, b: float) -> float:
    return 0.0 if 0 in (a, b) else a * b


def _product(a: Bounds, b: Bounds) -> Bounds:
    corners = [_times(p, q) for p in a for q in b]
    return min(corners), max(corners)


def _node_bounds(node: NodeView, known: dict[str, Bounds]) -> Bounds:
    spec = spec_of(node)
    if spec is None or node.domain:
        return ANY
    model = node.model

    def of(i: int) -> Bounds:
        name = node.proto.input[i] if i < len(node.proto.input) else ""
        if not name:
            return ANY
        return known[name] if name in known else bounds_of(model, name)

    if node.op_type in _RANGES:
        return _RANGES[node.op_type]
    if node.op_type in _FUNCTIONS:
        return _FUNCTIONS[node.op_type](node, of)
    if spec.family == "movement":
        floats = [i for i, v in enumerate(node.inputs) if v is not None and v.dtype in FLOATS | {0}]
        parts = [of(i) for i in floats if not (node.op_type == "Dropout" and i)]
        # An added border, or rows that nothing was written to, are zero unless the node says otherwise.
        return _hull([*parts, (0.0, 0.0)])
    if spec.family in ("max_pool", "average_pool"):
        return _hull([of(0), (0.0, 0.0)])
    return ANY


Of = Callable[[int], Bounds]


def _relu(node: NodeView, of: Of) -> Bounds:
    low, high = of(0)
    return max(low, 0.0), max(high, 0.0)


def _clip(node: NodeView, of: Of) -> Bounds:
    low, high = of(0)
    least = of(1)[0] if node.optional(1) is not None else -math.inf
    most = of(2)[1] if node.optional(2) is not None else math.inf
    return min(max(low, least), most), min(max(high, least), most)


def _add(node: NodeView, of: Of) -> Bounds:
    parts = [of(i) for i in range(len(node.proto.input))]
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def _sub(node: NodeView, of: Of) -> Bounds:
    return of(0)[0] - of(1)[1], of(0)[1] - of(1)[0]


def _mean(node: NodeView, of: Of) -> Bounds:
    return _hull([of(i) for i in range(len(node.proto.input))])


def _mul(node: NodeView, of: Of) -> Bounds:
    return _product(of(0), of(1))


def _div(node: NodeView, of: Of) -> Bounds:
    low, high = of(1)
    return ANY if low <= 0 <= high else _product(of(0), (1 / high, 1 / low))


def _max(node: NodeView, of: Of) -> Bounds:
    parts = [of(i) for i in range(len(node.proto.input))]
    return max(p[0] for p in parts), max(p[1] for p in parts)


def _min(node: NodeView, of: Of) -> Bounds:
    parts = [of(i) for i in range(len(node.proto.input))]
    return min(p[0] for p in parts), min(p[1] for p in parts)


def _where(node: NodeView, of: Of) -> Bounds:
    return _hull([of(1), of(2)])


def _sum_over(node: NodeView, of: Of) -> Bounds:
    low, high = of(0)
    return 0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf


def _resize(node: NodeView, of: Of) -> Bounds:
    mode = str(node.attr("mode") or "nearest")
    return ANY if mode == "cubic" else _hull([of(0), (0.0, 0.0)])


_FUNCTIONS: dict[str, Callable[[NodeView, Of], Bounds]] = {
    "Relu": _relu,
    "Clip": _clip,
    "Add": _add,
    "Sum": _add,
    "Sub": _sub,
    "Mean": _mean,
    "Mul": _mul,
    "Div": _div,
    "Max": _max,
    "Min": _min,
    "Where": _where,
    "ReduceSum": _sum_over,
    "Resize": _resize,
}
