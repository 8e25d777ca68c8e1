"""Nodes on lists of tensors, and on optional values, as nodes on the tensors themselves, where it is known what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx

from onnxsal.graph import NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.sequences import Listed, Names, makes_lists, mapped, on_lists_of, works_on_lists
from onnxsal.passes.written import Written, label, unused


@dataclass
class Lists:
    """What is known of the lists and optional values of a graph, and of those around it."""

    lists: dict[str, Names] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    pieces: set[str] = field(default_factory=set)
    """Tensors that were written for lists."""

    def inside(self) -> Lists:
        """The same for a graph of a node."""
        return Lists(dict(self.lists), dict(self.held))

    def resolved(self, node: onnx.NodeProto, view: NodeView, taken: set[str]) -> Written | None:
        """What stands for a node on lists: nothing, where it makes a list that is now known. ``None``: it stays."""
        if mapped(node) is not None:
            return self._mapped(node, taken)
        resolve = on_lists_of(node)
        if resolve is None or not (works_on_lists(node) or {*node.input} & {*self.lists, *self.held}):
            return None
        it = Listed(node, view, unused(label(node), taken), self.lists, self.held)
        if not resolve(it):
            return None
        self.pieces.update(o for n in it.nodes for o in n.output if not self._ends(node, o))
        return Written("nodes on lists of tensors, resolved", it.nodes, it.initializers)

    @staticmethod
    def _ends(node: onnx.NodeProto, name: str) -> bool:
        return name in node.output

    def _mapped(self, node: onnx.NodeProto, taken: set[str]) -> Written | None:
        """The graph of a node that runs it on every element of a list, once for each."""
        graph = mapped(node)
        count = len(self.lists.get(node.input[0], ()))
        if graph is None or node.input[0] not in self.lists or any(len(self.lists.get(n, range(count))) != count for n in node.input):
            return None
        prefix = unused(label(node), taken)
        written = Written("nodes on lists of tensors, resolved")
        stored = written.store(graph, prefix)
        results: list[list[str]] = [[] for _ in graph.output]
        for i in range(count):
            given = [self.lists[n][i] if n in self.lists else n for n in node.input]
            bound = stored | {v.name: name for v, name in zip(graph.input, given, strict=True)}
            ends = [f"{prefix}{i}/output{j}" for j in range(len(graph.output))]
            written.copy(graph, f"{prefix}{i}/", bound, ends)
            for made, end in zip(results, ends, strict=True):
                made.append(end)
        self.pieces.update(o for n in written.nodes for o in n.output)
        self.lists |= {name: tuple(made) for name, made in zip(node.output, results, strict=True)}
        return written

    def unread(self, nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
        """The nodes without those that only make lists, or pieces for them, which nothing reads any more."""
        read, kept = set(outputs), []
        for node in reversed(nodes):
            only = makes_lists(node, self.lists, self.held) or all(o in self.pieces for o in node.output)
            if not only or read.intersection(node.output):
                read.update((*node.input, *captured(node)))
                kept.append(node)
        return kept[::-1]
