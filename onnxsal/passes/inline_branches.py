"""Branches whose condition no input can change: the one that runs stands in the place of both."""

from __future__ import annotations

import onnx

from onnxsal.graph import NodeView
from onnxsal.ops.control import Choice, frame_of
from onnxsal.passes.sizes import value_of
from onnxsal.passes.written import Room, Written, label, unused


def inlined(node: onnx.NodeProto, view: NodeView, room: Room) -> Written | None:
    """The nodes of the graph that runs; ``None`` where that is known at run time only."""
    known = frame_of(node)
    if not isinstance(known, Choice):
        return None
    condition = value_of(view, known.by)
    if condition is None or condition.size != 1:
        return None
    return replaced(node, known, 0 if condition.reshape(-1)[0] else 1, room)


def replaced(node: onnx.NodeProto, known: Choice, which: int, room: Room) -> Written:
    """The nodes of one of its graphs in the place of a node."""
    graph = list(known.bodies.values())[which]
    prefix = unused(label(node), room.taken)
    written = Written("branches of a known condition, inlined")
    written.copy(graph, prefix, written.store(graph, prefix), list(node.output))
    return written
