"""Loops of few steps, written out step by step: then every rule and every fact sees their nodes as any others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxsal.facts.bodies import Body, bodies_of
from onnxsal.graph import NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.control import Repeat, Strip, frame_of, slice_of, stacked
from onnxsal.passes.sizes import is_small, value_of
from onnxsal.passes.written import Room, Written, label, unused
from onnxsal.protos import graphs_of

UNROLLED = 2000
"""The most nodes that a loop is written out into. A walk adds several times as many, and ONNX Runtime's time to open a file grows with the
square of what it holds; beyond, the loop is walked as a loop."""


def unrolled(node: onnx.NodeProto, view: NodeView, room: Room) -> Written | None:
    """The steps one after the other; ``None`` where their number is not known, or they are many."""
    known = frame_of(node)
    if not isinstance(known, Repeat):
        return None
    (body,) = bodies_of(view)
    (graph,) = known.bodies.values()
    size = max(_size(graph), 1)
    most = min(UNROLLED, room.nodes) // size
    steps = _steps(view, known, body, most)
    ends = [node.output[s.outside] for s in known.stacked if s.outside < len(node.output)]
    if steps is None or steps > most or (steps == 0 and any(ends)):
        return None
    room.nodes -= steps * size
    return _Unrolled(node, view, known, graph, unused(label(node), room.taken)).written(steps)


def _size(graph: onnx.GraphProto) -> int:
    return sum(1 + sum(_size(inner) for inner in graphs_of(n)) for n in graph.node)


# ----- how many -----


def _steps(view: NodeView, known: Repeat, body: Body, most: int) -> int | None:
    """How often the graph runs; ``None`` where that is not known, or more than ``most``."""
    if known.count is None:
        value = view.input(known.read[0].outside)
        return None if value.shape is None else value.dim(known.read[0].axis % value.rank)
    assert known.going is not None
    count, going = value_of(view, known.count), value_of(view, known.going[0])
    if (count is None and view.optional(known.count) is not None) or (going is None and view.optional(known.going[0]) is not None):
        return None
    limit = most + 1 if count is None else min(int(count.reshape(-1)[0]), most + 1)
    if limit <= 0 or (going is not None and not going.reshape(-1)[0]):
        return 0
    found = _counted(view, known, body, limit)
    return found if found is not None and found <= most else None


def _counted(view: NodeView, known: Repeat, body: Body, limit: int) -> int | None:
    """After how many steps the condition ends, or ``limit``, where it depends on nothing but counters: known when they begin, and from
    step to step. They are run; ``None`` where there is more to it.
    """
    assert known.iteration is not None
    assert known.going is not None
    step, going, more = body.inputs[known.iteration], body.inputs[known.going[1]], body.outputs[known.going[2]]
    counters = {body.inputs[c.inside]: c for c in known.carried if view.const(c.given) is not None}
    while True:
        given = {step, going, *counters}
        kept = {name: c for name, c in counters.items() if _before(body, [body.outputs[c.made]], given) is not None}
        if len(kept) == len(counters):
            break
        counters = kept
    names = [more, *(body.outputs[c.made] for c in counters.values())]
    nodes = _before(body, names, {step, going, *counters})
    if nodes is None:
        # counters that the condition does not need must not stand in the way
        return None
    values = {name: view.const(c.given) for name, c in counters.items()}
    shapes = {name: body.model.value(name).shape or () for name in (step, going)}
    run = _runner(body, nodes, [step, going, *counters], names)
    for number in range(limit):
        fed = {step: np.full([1] * len(shapes[step]), number, np.int64), going: np.full([1] * len(shapes[going]), True), **values}
        results = run(fed)
        if results is None:
            return None
        values = dict(zip(counters, results[1:], strict=True))
        if not np.reshape(results[0], -1)[0]:
            return number + 1
    return limit


def _before(body: Body, names: list[str], given: set[str]) -> list[onnx.NodeProto] | None:
    """The nodes that ``names`` need, in order, if they need nothing else that changes than what is ``given``."""
    needed, todo = set[str](), list(names)
    while todo:
        name = todo.pop()
        node = body.model.producer.get(name)
        if name in needed or name in given or body.model.constant(name) is not None:
            continue
        if node is None or captured(node.proto) or not all(map(is_small, node.outputs)):
            return None
        needed.add(name)
        todo += filter(None, node.proto.input)
    return [n.proto for n in body.model.nodes if needed.intersection(n.proto.output)]


def _runner(body: Body, nodes: list[onnx.NodeProto], given: list[str], names: list[str]):  # type: ignore[no-untyped-def]
    """Runs nodes on what is given."""
    read = {n for node in nodes for n in node.input if n} | set(names)
    constants = {n: array for n in read if n not in given and (array := body.model.constant(n)) is not None}
    graph = helper.make_graph(
        nodes,
        "counters",
        [onnx.ValueInfoProto(name=n) for n in given],
        [onnx.ValueInfoProto(name=n) for n in names],
        [numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=body.model.proto.opset_import)

    def run(fed: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
        try:
            results: list[np.ndarray] = ReferenceEvaluator(model).run(None, dict(fed))
        except Exception:  # onnx raises several kinds here, without a common base; not to know a count is no mistake
            return None
        return results

    return run


# ----- one after the other -----


@dataclass(frozen=True)
class _Unrolled:
    node: onnx.NodeProto
    view: NodeView
    known: Repeat
    graph: onnx.GraphProto
    prefix: str

    def written(self, steps: int) -> Written:
        node, known, graph = self.node, self.known, self.graph
        written = Written("loops of few steps, written out")
        stored = written.store(graph, self.prefix)
        states = {c: node.input[c.given] for c in known.carried}
        made: dict[Strip, list[str]] = {s: [] for s in known.stacked}
        for step in range(steps):
            prefix, last = f"{self.prefix}{step}/", step == steps - 1
            bound = stored | {graph.input[c.inside].name: name for c, name in states.items()} | self._given(written, prefix, step)
            for strip in known.read:
                sliced = f"{prefix}{graph.input[strip.inside].name}"
                rank = self.view.input(strip.outside).rank
                at = steps - 1 - step if strip.backwards else step
                slice_of(written.nodes, written.initializers, node.input[strip.outside], strip.axis % rank, at, sliced)
                bound[graph.input[strip.inside].name] = sliced
            results = [f"{prefix}output{i}" for i in range(len(graph.output))]
            for c in known.carried:
                if last and c.result < len(node.output) and node.output[c.result]:
                    results[c.made] = node.output[c.result]
            written.copy(graph, prefix, bound, results)
            states = {c: results[c.made] for c in known.carried}
            for strip, names in made.items():
                names.append(results[strip.inside])
        for c in known.carried if not steps else ():
            if c.result < len(node.output) and node.output[c.result]:
                written.same(node.input[c.given], node.output[c.result])
        for strip, names in made.items():
            if strip.outside < len(node.output) and node.output[strip.outside]:
                ordered = names[::-1] if strip.backwards else names
                stacked(written.nodes, written.initializers, ordered, strip.axis, node.output[strip.outside], self.prefix)
        return written

    def _given(self, written: Written, prefix: str, step: int) -> dict[str, str]:
        """The number of the step and that it goes on, as constants of the shape in which the graph takes them."""
        known, given = self.known, dict[str, str]()
        if known.iteration is None or known.going is None:
            return given
        for at, value in ((known.iteration, np.int64(step)), (known.going[1], np.bool_(True))):
            declared = self.graph.input[at]
            name = f"{prefix}{declared.name}"
            written.initializers.append(numpy_helper.from_array(np.full([1] * len(declared.type.tensor_type.shape.dim), value), name))
            given[declared.name] = name
        return given
