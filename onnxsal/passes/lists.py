"""Nodes on lists of tensors, and on optional values, as nodes on the tensors themselves, where it is known what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper

from onnxsal.facts.bodies import Body, bodies_of
from onnxsal.graph import NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.control import COPY, Carried, Repeat, frame_of
from onnxsal.ops.sequences import Names, Stack, TensorList, appended, makes_lists, mapped, on_lists_of, stacks, works_on_lists
from onnxsal.passes.written import Written, label, unused


@dataclass
class Lists:
    """What is known of the lists and optional values of a graph, and of those around it."""

    lists: dict[str, Names] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    stacks: dict[str, Stack] = field(default_factory=dict)
    pieces: set[str] = field(default_factory=set)
    """Tensors that were written for lists."""

    def inside(self) -> Lists:
        """The same for a graph of a node."""
        return Lists(dict(self.lists), dict(self.held), dict(self.stacks))

    def resolved(self, node: onnx.NodeProto, view: NodeView, taken: set[str]) -> Written | None:
        """What stands for a node on lists: nothing, where it makes a list that is now known. ``None``: it stays."""
        if mapped(node) is not None:
            return self._mapped(node, taken)
        resolve = on_lists_of(node)
        if resolve is None or not (works_on_lists(node) or {*node.input} & {*self.lists, *self.held}):
            return None
        it = TensorList(node, view, unused(label(node), taken), self.lists, self.held, self.stacks)
        if not resolve(it):
            return None
        self.pieces.update(o for n in it.nodes for o in n.output if not self._ends(node, o))
        return Written("nodes on lists of tensors, resolved", it.nodes, it.initializers)

    @staticmethod
    def _ends(node: onnx.NodeProto, name: str) -> bool:
        return name in node.output

    def gathered(self, node: onnx.NodeProto, view: NodeView, graph: onnx.GraphProto) -> Written | None:
        """A loop that puts a tensor at the end of a list at every step, of which no more is read than all of it laid beside each other, as
        a loop that stacks these tensors. ``None``: it is none.
        """
        known = frame_of(node)
        if not isinstance(known, Repeat) or known.count is None:
            return None
        for carried in known.carried:
            (body,) = bodies_of(view)
            (inner,) = known.bodies.values()
            name, made = inner.input[carried.inside].name, inner.output[carried.made].name
            readers = [n for n in inner.node if name in (*n.input, *captured(n))]
            tensor = appended(readers[0]) if len(readers) == 1 else ""
            result = node.output[carried.result]
            outer = [n for n in graph.node if result in (*n.input, *captured(n))]
            only = tensor and readers[0].output[0] == made and [o.name for o in inner.output].count(made) == 1
            only = only and not any(made in (*n.input, *captured(n)) for n in inner.node) and all(map(stacks, outer))
            value = body.model.value(_in_body(body, inner, tensor)) if only else None
            if not only or value is None or value.shape is None or not value.dtype or self.lists.get(node.input[carried.given]) != ():
                continue
            if result in (o.name for o in graph.output):
                continue
            self.stacks[result] = f"{result}/stacked", value.rank + 1
            return Written("lists that loops fill, stacked", [_stacking(node, carried, readers[0], f"{result}/stacked", value.dtype)])
        return None

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


def _in_body(body: Body, graph: onnx.GraphProto, name: str) -> str:
    """What a tensor of a graph is called in the body's model."""
    own = [*(v.name for v in graph.input), *(o for n in graph.node for o in n.output)]
    renamed = [*body.inputs, *(o for n in body.model.nodes for o in n.proto.output)]
    return dict(zip(own, renamed, strict=True)).get(name, name)


def _stacking(node: onnx.NodeProto, carried: Carried, append: onnx.NodeProto, result: str, dtype: int) -> onnx.NodeProto:
    """A loop without the list, which stacks the tensors that were put into it."""
    loop = onnx.NodeProto()
    loop.CopyFrom(node)
    body = next(a.g for a in loop.attribute if a.HasField("g"))
    end = f"{result}/slice"
    nodes = [n for n in body.node if n.output != append.output] + [helper.make_node(COPY, [append.input[1]], [end], name=end)]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del body.node[:], body.input[carried.inside], body.output[carried.made], loop.input[carried.given], loop.output[carried.result]
    body.node.extend(copies)
    body.output.append(helper.make_tensor_value_info(end, dtype, None))
    loop.output.append(result)
    return loop
