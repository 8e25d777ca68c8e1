"""Topological sort: node lists written out of order (ONNX Runtime's float16 converter does) put in order, stably."""

from __future__ import annotations

import heapq

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.model import captured
from onnxsal.passes.base import Pass, PassOutcome


def _order(graph: onnx.GraphProto) -> list[int]:
    """Indices of the nodes in topological order; among ready nodes the earlier one first, so sorted lists stay as they are."""
    producer = {out: i for i, node in enumerate(graph.node) for out in node.output if out}
    needs = [{producer[n] for n in (*node.input, *captured(node)) if n in producer} - {i} for i, node in enumerate(graph.node)]
    readers: dict[int, list[int]] = {}
    for i, sources in enumerate(needs):
        for source in sources:
            readers.setdefault(source, []).append(i)
    ready = [i for i, sources in enumerate(needs) if not sources]
    heapq.heapify(ready)
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers.get(i, []):
            needs[reader].discard(i)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(graph.node):
        stuck = [n.name or n.op_type for i, n in enumerate(graph.node) if needs[i]][:5]
        raise ModelError(f"the graph has a cycle through nodes {stuck}; an ONNX graph must not. Export the model again.")
    return order


def _sort(graph: onnx.GraphProto) -> int:
    changed = sum(_sort(a.g) for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH)
    order = _order(graph)
    if order == list(range(len(order))):
        return changed
    nodes = [graph.node[i] for i in order]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return changed + 1


def _run(proto: onnx.ModelProto) -> PassOutcome:
    changed = _sort(proto.graph)
    return PassOutcome(changed, "node list was not in topological order" if changed else "")


SORT = Pass("sort", _run, ensures=lambda proto: "" if _order(proto.graph) == list(range(len(proto.graph.node))) else "still unsorted")
