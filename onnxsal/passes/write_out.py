"""Write control flow out where it is known what it does: branches whose condition is known, loops with few steps, lists of tensors.

Each can make the next one known, so that they are tried in turn until nothing changes; inside of graphs that stay, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx

from onnxsal.facts.bodies import bodies_of, standing_alone
from onnxsal.graph import Model, NodeView
from onnxsal.graph.infer import infer_shapes, without_weights
from onnxsal.graph.model import all_names
from onnxsal.ops.control import Choice, frame_of, takes_all
from onnxsal.ops.sequences import makes_lists, mapped, works_on_lists
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.passes.inline_branches import inlined, replaced
from onnxsal.passes.lists import Lists
from onnxsal.passes.unroll import unrolled
from onnxsal.passes.written import Room, Written
from onnxsal.protos import graphs_of

Rewrite = Callable[[onnx.NodeProto, NodeView, Room], Written | None]


def _copied(node: onnx.NodeProto, view: NodeView, room: Room) -> Written | None:
    """A node that takes all of its input is a copy."""
    if not takes_all(view):
        return None
    written = Written("slices of all there is, seen as copies")
    written.same(node.input[0], node.output[0])
    return written


REWRITES: tuple[Rewrite, ...] = (inlined, unrolled, _copied)


@dataclass
class _Round:
    """One look at a model: what may still be written, and what was done."""

    room: Room
    done: list[str] = field(default_factory=list)

    def rewrite(self, graph: onnx.GraphProto, model: Model, lists: Lists) -> None:
        """Write nodes out in ``graph``, of which ``model`` tells what is known; in what stays, inside."""
        nodes: list[onnx.NodeProto] = []
        stored: list[onnx.TensorProto] = []
        before = len(self.done)
        for node, view in zip(graph.node, model.nodes, strict=True):
            written = next((w for w in (rewrite(node, view, self.room) for rewrite in REWRITES) if w is not None), None)
            written = lists.gathered(node, view, graph) if written is None else written
            resolved = lists.resolved(node, view, self.room.taken) if written is None else written
            if resolved is None or makes_lists(node, lists.lists, lists.held):
                nodes += [*(resolved.nodes if resolved else ()), node]
                self._inside(node, view, lists)
            else:
                nodes += resolved.nodes
                self.done.append(resolved.what)
            if resolved is not None:
                stored += resolved.initializers
                self.room.taken.update(o for n in resolved.nodes for o in n.output)
                self.room.taken.update(t.name for t in resolved.initializers)
        if len(self.done) > before:
            graph.initializer.extend(stored)
            copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in lists.unread(nodes, {o.name for o in graph.output})]
            del graph.node[:]
            graph.node.extend(copies)

    def _inside(self, node: onnx.NodeProto, view: NodeView, lists: Lists) -> None:
        known = frame_of(node)
        for graph, body in zip(known.bodies.values() if known else (), bodies_of(view), strict=True):
            self.rewrite(graph, body.model, lists.inside())

    def decide_ranks(self, graph: onnx.GraphProto, model: Model, alone: onnx.ModelProto) -> None:
        """Of branches that make tensors of different numbers of axes, take the one that the nodes behind can read, if it is one only.

        Where the other would run, the model fails. Exporters write a Squeeze of a size that they do not know so. ``alone`` is the graph as
        a model of its own.
        """
        for index, (node, view) in enumerate(zip(graph.node, model.nodes, strict=True)):
            known = frame_of(node)
            if isinstance(known, Choice) and any(v is not None and v.shape is None for v in view.outputs):
                fitting = [i for i in range(len(known.bodies)) if _fits(alone, index, i)]
                if len(fitting) == 1:
                    written = replaced(node, known, fitting[0], self.room)
                    nodes = [*graph.node[:index], *written.nodes, *graph.node[index + 1 :]]
                    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
                    del graph.node[:]
                    graph.node.extend(copies)
                    graph.initializer.extend(written.initializers)
                    self.done.append("branches after which the other nodes cannot run, left out")
                    return
            for inner, body in zip(known.bodies.values() if known else (), bodies_of(view), strict=True):
                self.decide_ranks(inner, body.model, standing_alone(body))
                if self.done:
                    return


def _fits(alone: onnx.ModelProto, index: int, which: int) -> bool:
    """Whether inference finds no contradiction in a model if one of its nodes runs this graph of its two."""
    trial = onnx.ModelProto()
    trial.CopyFrom(without_weights(alone))
    graph = trial.graph
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    node = onnx.NodeProto.FromString(graph.node[index].SerializeToString())
    known = frame_of(node)
    assert isinstance(known, Choice)
    written = replaced(node, known, which, Room(all_names(graph)))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (*graph.node[:index], *written.nodes, *graph.node[index + 1 :])]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(written.initializers)
    try:
        _until_done(trial, Room(set()))
        for left in graph.node:
            if frame_of(left):  # what may not run must not count: nobody knows what this one makes
                left.domain = "unknown"
                del left.attribute[:]
        trial.opset_import.add(domain="unknown", version=1)
        infer_shapes(trial, strict_mode=True)
    except Exception:  # onnx raises several kinds here, without a common base: each is the contradiction looked for
        return False
    return True


def _until_done(proto: onnx.ModelProto, room: Room) -> list[str]:
    done: list[str] = []
    while True:
        one = _Round(room.again(proto.graph))
        one.rewrite(proto.graph, Model(proto), Lists())
        if not one.done:
            return done
        done += one.done


def _run(proto: onnx.ModelProto) -> PassOutcome:
    done: list[str] = []
    room = Room(set())
    while True:
        done += _until_done(proto, room)
        one = _Round(room.again(proto.graph))
        one.decide_ranks(proto.graph, Model(proto), proto)
        if not one.done:
            break
        done += one.done
    kinds = {what: done.count(what) for what in dict.fromkeys(done)}
    return PassOutcome(len(done), "; ".join(f"{what}: {count}" for what, count in kinds.items()))


def _concerns(graph: onnx.GraphProto) -> bool:
    return any(frame_of(n) or mapped(n) or works_on_lists(n) or any(map(_concerns, graphs_of(n))) for n in graph.node)


WRITE_OUT = Pass(
    "write out control flow",
    _run,
    requires=lambda proto: "" if _concerns(proto.graph) else "no node runs a graph, or works on a list",
    rewrites=True,
)
"""After the opset was raised: what is written is of opset 18."""
