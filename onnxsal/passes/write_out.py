"""Write control flow out where it is known what it does: branches whose condition is known, loops with few steps, lists of tensors.

Each can make the next one known, so that they are tried in turn until nothing changes; inside of graphs that stay, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx

from onnxsal.facts.bodies import bodies_of
from onnxsal.graph import Model, NodeView
from onnxsal.graph.model import all_names
from onnxsal.ops.control import frame_of
from onnxsal.ops.sequences import makes_lists, mapped, works_on_lists
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.passes.inline_branches import inlined
from onnxsal.passes.sequences import Lists
from onnxsal.passes.unroll import unrolled
from onnxsal.passes.written import Written
from onnxsal.protos import graphs_of

Rewrite = Callable[[onnx.NodeProto, NodeView, set[str]], Written | None]

REWRITES: tuple[Rewrite, ...] = (inlined, unrolled)


@dataclass
class _Round:
    """One look at a model: the names that are taken, and what was done."""

    taken: set[str]
    done: list[str] = field(default_factory=list)

    def rewrite(self, graph: onnx.GraphProto, model: Model, lists: Lists) -> None:
        """Write nodes out in ``graph``, of which ``model`` tells what is known; in what stays, inside."""
        nodes: list[onnx.NodeProto] = []
        stored: list[onnx.TensorProto] = []
        before = len(self.done)
        for node, view in zip(graph.node, model.nodes, strict=True):
            written = next((w for w in (rewrite(node, view, self.taken) for rewrite in REWRITES) if w is not None), None)
            resolved = lists.resolved(node, view, self.taken) if written is None else written
            if resolved is None or makes_lists(node, lists.lists, lists.held):
                nodes += [*(resolved.nodes if resolved else ()), node]
                self._inside(node, view, lists)
            else:
                nodes += resolved.nodes
                self.done.append(resolved.what)
            if resolved is not None:
                stored += resolved.initializers
                self.taken.update(o for n in resolved.nodes for o in n.output)
                self.taken.update(t.name for t in resolved.initializers)
        if len(self.done) > before:
            graph.initializer.extend(stored)
            copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in lists.unread(nodes, {o.name for o in graph.output})]
            del graph.node[:]
            graph.node.extend(copies)

    def _inside(self, node: onnx.NodeProto, view: NodeView, lists: Lists) -> None:
        known = frame_of(node)
        for graph, body in zip(known.bodies.values() if known else (), bodies_of(view), strict=True):
            self.rewrite(graph, body.model, lists.inside())


def _run(proto: onnx.ModelProto) -> PassOutcome:
    done: list[str] = []
    while True:
        one = _Round(all_names(proto.graph))
        one.rewrite(proto.graph, Model(proto), Lists())
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
