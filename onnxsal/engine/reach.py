"""Which nodes lie between the explained tensors and the score, and which of their inputs carry a signal."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, spec_of


@dataclass
class Reach:
    """The nodes on a path from ``wrt`` to ``starts``, in forward order, and where a signal ends by definition."""

    path: list[NodeView]
    active: set[str]
    stops: list[tuple[NodeView, str]] = field(default_factory=list)


def carries(model: Model, name: str) -> bool:
    """Whether a tensor can carry a signal: it is floating point, or of a type nobody could infer."""
    return model.types.get(name, (0, None))[0] in FLOATS | {0}


def reach(model: Model, wrt: Iterable[str], starts: Iterable[str]) -> Reach:
    """Forward from ``wrt`` through inputs that can carry a derivative, then backward from ``starts``."""
    active, stops, touched = set(wrt), [], []
    for node in model.nodes:
        hit = [n for n in dict.fromkeys([*node.proto.input, *captured(node.proto)]) if n in active]
        if not hit:
            continue
        reason = _stops(node, hit)
        if reason:
            stops.append((node, reason))
            continue
        outputs = [o for o in node.proto.output if o and carries(model, o)]
        active.update(outputs)
        touched.append(node)
    needed, path = set(starts) & active, []
    for node in reversed(touched):
        if needed.intersection(node.proto.output):
            path.append(_with_wants(node, active))
            needed.update(n for n in (*node.proto.input, *captured(node.proto)) if n in active)
    used = {n for node in path for n in (*node.proto.input, *captured(node.proto))} | set(starts)
    return Reach(path[::-1], active & used, stops)


def _stops(node: NodeView, hit: list[str]) -> str:
    """Why no derivative passes this node from the tensors ``hit``, or an empty string."""
    reason = NOT_DIFFERENTIABLE.get((node.domain, node.op_type))
    if reason:
        return reason
    spec = spec_of(node)
    if spec is None:
        return ""
    ends = [spec.stops.get(i, "") for i, n in enumerate(node.proto.input) if n in hit]
    return "; ".join(dict.fromkeys(ends)) if ends and all(ends) else ""


def _with_wants(node: NodeView, active: set[str]) -> NodeView:
    spec = spec_of(node)
    view = copy.copy(node)
    view.wants = tuple(n in active and not (spec is not None and i in spec.stops) for i, n in enumerate(node.proto.input))
    return view
