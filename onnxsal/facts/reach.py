"""Which nodes lie between the explained tensors and the score, and which of their inputs carry a signal."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import TensorProto

from onnxsal.facts.bodies import Body, bodies_of
from onnxsal.facts.bodies import data_tensors as data_tensors
from onnxsal.graph import FLOAT8, FLOATS, GRID, Model, NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.control import Repeat, frame_of
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, spec_of

WIDE_INTEGERS = frozenset({TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64})
"""Types of sums of quantised values, and of indices."""


@dataclass
class Reach:
    """The nodes on a path from ``wrt`` to ``starts``, in forward order, and where a signal ends by definition."""

    path: list[NodeView]
    active: set[str]
    stops: list[tuple[NodeView, str]] = field(default_factory=list)


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
    """Forward from ``wrt`` through inputs that can carry a derivative, then backward from ``starts``; not through ``constants``.

    Crossed the graphs that a node runs, too: what comes out of them is what is reached inside.
    """
    held = constants or {}
    active, stops, touched = _onward(model, wrt, held)
    needed, path = set(starts) & active, []
    for node in reversed(touched):
        if needed.intersection(node.proto.output):
            view = _with_wants(node, active, held.get(node.index, {}))
            if bodies_of(node):
                view.passage = passage_of(node, active, needed)
                view.wants = tuple(i in view.passage.given for i in range(len(node.proto.input)))
                view.around = view.passage.around
            else:
                needed.update(n for n in captured(node.proto) if n in active)
            path.append(view)
            needed.update(view.followed)
    return Reach(path[::-1], active & needed, stops)


Onward = tuple[set[str], list[tuple[NodeView, str]], list[NodeView]]
"""Tensors that carry a derivative, where one ends and why, and the nodes that it goes through."""


def _onward(model: Model, wrt: Iterable[str], held: HeldInputs) -> Onward:
    active, stops, touched = set(wrt), [], []
    for node in model.nodes:
        hit = [n for n in dict.fromkeys([*node.proto.input, *captured(node.proto)]) if n in active]
        if not hit:
            continue
        if bodies_of(node):
            outputs, ended_inside = _out_of(node, active)
            stops += ended_inside
        else:
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
        if outputs:
            active.update(outputs)
            touched.append(node)
    return active, stops, touched


# ----- through the graphs that a node runs -----


@dataclass(frozen=True)
class Inside:
    """The walk through one graph of a node: from the outputs ``starts`` back to ``wrt``, inputs of the graph and tensors around it."""

    body: Body
    wrt: tuple[str, ...]
    starts: tuple[str, ...]


@dataclass(frozen=True)
class Crossed:
    """How a signal crosses a node that runs graphs: the walk through each, the node's inputs to which it leads, and the tensors ``around``
    the node that graphs read.
    """

    inside: tuple[Inside, ...]
    given: frozenset[int]
    around: tuple[str, ...]


def _inner(node: NodeView, body: Body, active: set[str]) -> tuple[set[str], Onward]:
    """The inputs of a body, and tensors around it, that carry a derivative; and what follows from them inside."""
    known = frame_of(node)
    seeds = {n for n in body.captured if n in active}
    if isinstance(known, Repeat):
        pairs = [(c.given, c.inside) for c in known.carried] + [(r.outside, r.inside) for r in known.read]
        seeds |= {body.inputs[inside] for given, inside in pairs if node.proto.input[given] in active}
    found = _onward(body.model, seeds, {})
    while isinstance(known, Repeat):
        more = {body.inputs[c.inside] for c in known.carried if body.outputs[c.made] in found[0]} - seeds
        if not more:
            break
        seeds |= more
        found = _onward(body.model, seeds, {})
    return seeds, found


def _out_of(node: NodeView, active: set[str]) -> tuple[list[str], list[tuple[NodeView, str]]]:
    """The outputs of a node that runs graphs which carry a derivative, and where one ends inside."""
    known, outputs, stops = frame_of(node), dict[str, None](), []
    for body in bodies_of(node):
        _, (reached, ended, _) = _inner(node, body, active)
        stops += ended
        if isinstance(known, Repeat):
            # no step may run at all: then what is carried is what was given
            made = [c.result for c in known.carried if {body.inputs[c.inside], body.outputs[c.made]} & reached]
            made += [s.outside for s in known.stacked if body.outputs[s.inside] in reached]
        else:
            made = [i for i, name in enumerate(body.outputs) if name in reached]
        outputs |= dict.fromkeys(node.proto.output[i] for i in made if i < len(node.proto.output) and node.proto.output[i])
    return list(outputs), stops


def passage_of(node: NodeView, active: set[str], needed: set[str]) -> Crossed:
    """How the signals at the outputs ``needed`` of a node cross its graphs, to tensors that are ``active``."""
    known, inside, given = frame_of(node), [], set[int]()
    outputs = {i for i, name in enumerate(node.proto.output) if name in needed}
    for body in bodies_of(node):
        seeds, _ = _inner(node, body, active)
        carried = known.carried if isinstance(known, Repeat) else ()
        if isinstance(known, Repeat):
            starts = {body.outputs[c.made] for c in carried if c.result in outputs}
            starts |= {body.outputs[s.inside] for s in known.stacked if s.outside in outputs}
        else:
            starts = {name for i, name in enumerate(body.outputs) if i in outputs}
        back = reach(body.model, seeds, starts).active
        while more := {body.outputs[c.made] for c in carried if body.inputs[c.inside] in back} - starts:
            starts |= more
            back = reach(body.model, seeds, starts).active
        wrt = [n for n in dict.fromkeys((*body.inputs, *body.captured)) if n in seeds and n in back]
        inside.append(Inside(body, tuple(wrt), tuple(n for n in dict.fromkeys(body.outputs) if n in starts and n in back)))
        # where no step runs, what comes out is what was given
        given |= {c.given for c in carried if c.result in outputs or body.inputs[c.inside] in wrt}
        given |= {r.outside for r in known.read if body.inputs[r.inside] in wrt} if isinstance(known, Repeat) else set()
    around = dict.fromkeys(n for one in inside for n in one.wrt if n not in one.body.inputs)
    return Crossed(tuple(inside), frozenset(i for i in given if node.proto.input[i] in active), tuple(around))


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
        pending |= set(node.followed)
    return list(found)[::-1]
