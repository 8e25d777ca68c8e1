"""Which nodes lie between the explained tensors and the score, and which of their inputs carry a signal."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import TensorProto

from onnxsal.facts.solve import reached
from onnxsal.graph import FLOAT8, FLOATS, GRID, Model, NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, facts_of, spec_of

WIDE_INTEGERS = frozenset({TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64})
"""Types of sums of quantised values, and of indices."""


@dataclass
class Reach:
    """The nodes on a path from ``wrt`` to ``starts``, in forward order, and where a signal ends by definition."""

    path: list[NodeView]
    active: set[str]
    stops: list[tuple[NodeView, str]] = field(default_factory=list)


def data_tensors(model: Model) -> set[str]:
    """Tensors whose values depend on the values of the model's inputs; sizes of tensors do not."""
    return model.once("data", lambda: reached(model, model.input_names, lambda node: not facts_of(node).of_sizes))


def carries(model: Model, name: str) -> bool:
    """Whether a tensor can carry a signal by its type alone: it is floating point, or of a type nobody could infer."""
    return _type(model, name) in FLOATS | FLOAT8 | {0}


def _type(model: Model, name: str) -> int:
    return model.types.get(name, (0, None))[0]


def carrying(model: Model, node: NodeView, hit: Sequence[str]) -> list[str]:
    """Outputs that carry the signal of the inputs ``hit``: those the operator names, else the floating-point ones.

    Where quantised values come in, they also go out: in outputs of a quantised type, and in a first output of wider integers
    (``MatMulInteger``); so do the sums of an operator that is walked as one in floating point. Other integers are indices and sizes,
    which have no derivative.
    """
    outputs = [o for o in node.proto.output if o]
    spec = spec_of(node)
    if spec is not None and spec.carries is not None:
        return [o for i, o in enumerate(node.proto.output) if o and i in spec.carries]
    if all(carries(model, n) for n in hit):
        return [o for o in outputs if carries(model, o) or o in model.restated]
    return [o for o in outputs if carries(model, o) or _type(model, o) in GRID or (o == outputs[0] and _type(model, o) in WIDE_INTEGERS)]


HeldInputs = Mapping[int, Mapping[int, str]]
"""Index of a node -> its inputs that are held constant, with the reason."""


def reach(model: Model, wrt: Iterable[str], starts: Iterable[str], constants: HeldInputs | None = None) -> Reach:
    """Forward from ``wrt`` through inputs that can carry a derivative, then backward from ``starts``; not through ``constants``."""
    held = constants or {}
    active, stops, touched = set(wrt), [], []
    for node in model.nodes:
        hit = [n for n in dict.fromkeys([*node.proto.input, *captured(node.proto)]) if n in active]
        if not hit:
            continue
        ended = _ends(node, hit, held.get(node.index, {}))
        if ended:
            stops.append((node, "; ".join(dict.fromkeys(ended.values()))))
            hit = [n for n in hit if n not in ended]
        if not hit:
            continue
        outputs = carrying(model, node, hit)
        if not outputs:
            types = sorted({TensorProto.DataType.Name(_type(model, o)).lower() for o in node.proto.output if o})
            stops.append((node, f"its output is {', '.join(types)}, which carries no derivative"))
            continue
        active.update(outputs)
        touched.append(node)
    needed, path = set(starts) & active, []
    for node in reversed(touched):
        if needed.intersection(node.proto.output):
            view = _with_wants(node, active, held.get(node.index, {}))
            path.append(view)
            needed.update(n for n, wanted in zip(node.proto.input, view.wants, strict=True) if wanted)
            needed.update(n for n in captured(node.proto) if n in active)
    return Reach(path[::-1], active & needed, stops)


def _ends(node: NodeView, hit: Sequence[str], held: Mapping[int, str]) -> dict[str, str]:
    """Of the tensors ``hit``, those whose signal ends at this node, with the reason why."""
    reason = NOT_DIFFERENTIABLE.get((node.domain, node.op_type))
    if reason:
        return dict.fromkeys(hit, reason)
    spec = spec_of(node)
    stops = ({} if spec is None else dict(spec.stops)) | dict(held)
    why = {n: [stops.get(i, "") for i, name in enumerate(node.proto.input) if name == n] for n in hit}
    return {n: reasons[0] for n, reasons in why.items() if reasons and all(reasons)}


def _with_wants(node: NodeView, active: set[str], held: Mapping[int, str]) -> NodeView:
    spec = spec_of(node)
    stops = {*(() if spec is None else spec.stops), *held}
    view = copy.copy(node)
    view.wants = tuple(n in active and i not in stops for i, n in enumerate(node.proto.input))
    return view


def separators(path: Sequence[NodeView], starts: Iterable[str]) -> list[str]:
    """Tensors that every way through ``path`` (nodes in forward order, with what they want) to ``starts`` passes, in forward order."""
    pending, found = set(starts), dict[str, None]()
    for node in reversed(path):
        if len(pending) == 1:
            found |= dict.fromkeys(pending)
        pending -= set(node.proto.output)
        pending |= {n for n, wanted in zip(node.proto.input, node.wants, strict=True) if wanted}
    return list(found)[::-1]
