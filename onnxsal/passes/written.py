"""Copies of the nodes of a graph as nodes of the graph around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper

from onnxsal.graph.model import all_names
from onnxsal.graph.replay import rename
from onnxsal.ops.control import COPY


@dataclass
class Written:
    """Nodes that stand for another one, with the constants that they need; ``what`` was done, for the log."""

    what: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def copy(self, graph: onnx.GraphProto, prefix: str, bound: Mapping[str, str], results: Sequence[str]) -> None:
        """Append the nodes of ``graph``, its inputs being the tensors ``bound``; its outputs are called ``results``, the rest
        ``<prefix><its name>``. Weights are those that ``store`` added.
        """
        made = [o for n in graph.node for o in n.output if o]
        names = {name: f"{prefix}{name}" for name in made} | dict(bound)
        ends = dict[str, str]()
        for output, result in zip(graph.output, results, strict=True):
            if result and output.name in made and output.name not in ends:
                ends[output.name] = names[output.name] = result
        for index, node in enumerate(graph.node):
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.name = f"{prefix}{node.name or f'{node.op_type}_{index}'}"
            rename(copied, names)
            self.nodes.append(copied)
        for output, result in zip(graph.output, results, strict=True):
            if result and ends.get(output.name) != result:
                self.same(names.get(output.name, output.name), result)

    def store(self, graph: onnx.GraphProto, prefix: str) -> dict[str, str]:
        """Take the weights of ``graph``, called ``<prefix><their name>``; returns the new names."""
        for tensor in graph.initializer:
            copied = onnx.TensorProto()
            copied.CopyFrom(tensor)
            copied.name = f"{prefix}{tensor.name}"
            self.initializers.append(copied)
        return {t.name: f"{prefix}{t.name}" for t in graph.initializer}

    def same(self, name: str, result: str) -> None:
        """A tensor under another name."""
        self.nodes.append(helper.make_node(COPY, [name], [result], name=f"{result}/{COPY}"))


MOST = 4000
"""The nodes that the loops of a model are written out into, all together: loops in loops multiply."""


@dataclass
class Room:
    """The names that are taken, and how many more nodes loops may be written out into."""

    taken: set[str]
    nodes: int = MOST

    def again(self, graph: onnx.GraphProto) -> Room:
        """The same room, for a graph in which nodes were written."""
        self.taken = all_names(graph)
        return self


def label(node: onnx.NodeProto) -> str:
    """How a node is called in the names of what stands for it."""
    return node.name or next(filter(None, node.output), node.op_type)


def unused(prefix: str, taken: set[str]) -> str:
    """The prefix, with a number if need be, so that no name in ``taken`` begins with it."""
    count, found = 0, f"{prefix}/"
    while any(name.startswith(found) for name in taken):
        count, found = count + 1, f"{prefix}/{count + 1}/"
    return found
