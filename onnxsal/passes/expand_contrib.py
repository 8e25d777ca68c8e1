"""Write operators in standard ones: what ONNX Runtime fuses when it saves a model (com.microsoft), and classical models."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, MutableSequence, Sequence
from functools import cache

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.infer import inferred, without_weights
from onnxsal.graph.model import captured
from onnxsal.graph.standard import graphs, nodes
from onnxsal.ops.contrib_attention import lacks_bias, with_bias
from onnxsal.ops.expansion import UNSAID, NotYetKnown, Writer, expansion_of, partly
from onnxsal.passes.base import Pass, PassOutcome, forget_unused_domains
from onnxsal.passes.raise_opset import opset
from onnxsal.protos import graphs_of

SMALL = 64
"""Stored tensors of as many elements may say sizes."""

LAYOUT_DOMAINS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")


# ----- the domain of what is saved without one -----


def _unsaid(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in nodes(proto) if _is_unsaid(n, opset(proto))]


def _is_unsaid(node: onnx.NodeProto, version: int) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in UNSAID and version < UNSAID[node.op_type][1]


def _name_domain(proto: onnx.ModelProto) -> PassOutcome:
    found = _unsaid(proto)
    _give_domain(found, proto.opset_import)
    return PassOutcome(len(found), f"{', '.join(sorted({n.op_type for n in found}))} belong to ONNX Runtime, not to the standard")


def _give_domain(found: Sequence[onnx.NodeProto], imports: MutableSequence[onnx.OperatorSetIdProto], more: Collection[str] = ()) -> None:
    for node in found:
        node.domain = UNSAID[node.op_type][0]
    for domain in {*(n.domain for n in found), *more} - {o.domain for o in imports}:
        imports.append(onnx.helper.make_opsetid(domain, 1))


NAME_DOMAIN = Pass(
    "name the domain of ONNX Runtime's operators",
    _name_domain,
    requires=lambda proto: "" if _unsaid(proto) else "every operator has its domain",
    rewrites=True,
)
"""Before the opset is raised: ONNX's version converter stops at an operator of the standard domain that the standard does not have."""


# ----- what kernels lack -----


def _lacking(proto: onnx.ModelProto) -> list[tuple[onnx.GraphProto, onnx.NodeProto]]:
    return [(graph, node) for graph in graphs(proto) for node in graph.node if lacks_bias(node)]


def _unsaid_in_functions(proto: onnx.ModelProto) -> list[tuple[onnx.FunctionProto, onnx.NodeProto]]:
    return [(f, n) for f in proto.functions for n in f.node if _is_unsaid(n, opset(proto))]


def _complete(proto: onnx.ModelProto) -> PassOutcome:
    lacking, unsaid = _lacking(proto), _unsaid_in_functions(proto)
    weights = {t.name: t for graph in graphs(proto) for t in graph.initializer}
    for graph, node in lacking:
        graph.initializer.append(with_bias(node, weights.get(node.input[1])))
    for function, node in unsaid:
        _give_domain([node], function.opset_import)
    _give_domain([], proto.opset_import, {n.domain for _, n in unsaid})
    return PassOutcome(len(lacking) + len(unsaid), f"completed {len(lacking) + len(unsaid)} fused node(s) at which ONNX Runtime fails")


COMPLETE = Pass(
    "complete fused operators",
    _complete,
    requires=lambda proto: "" if _lacking(proto) or _unsaid_in_functions(proto) else "no fused operator lacks anything",
)
"""First of all: the model is run as it came to compare it with what is made of it, and ONNX Runtime ends the process at a fused Attention
without a bias, and at operators that it saved in the standard domain where they stand in functions."""


# ----- the expansion -----


def _requires(proto: onnx.ModelProto) -> str:
    layout = [n for n in nodes(proto) if n.domain in LAYOUT_DOMAINS]
    if layout:
        raise ModelError(
            f"node '{layout[0].name}' ({layout[0].domain}.{layout[0].op_type}): the file was saved by ONNX Runtime with full optimisation, "
            "which writes layouts for one processor. Use the original model, or save with at most ORT_ENABLE_EXTENDED."
        )
    return "" if _expandable(proto.graph, _dtypes(proto)) else "no fused operator"


Dtypes = Callable[[], Mapping[str, int]]
"""Element types of tensors, found out where they are asked for."""


def _dtypes(proto: onnx.ModelProto) -> Dtypes:
    return cache(lambda: Learnt(proto).dtypes)


def _expandable(graph: onnx.GraphProto, dtypes: Dtypes) -> bool:
    read = _read(graph)
    return any(
        (expansion_of(node) is not None and not _stays(node, read, dtypes)) or any(_expandable(inner, dtypes) for inner in _inner(node))
        for node in graph.node
    )


def _read(graph: onnx.GraphProto) -> set[str]:
    """Tensors that something reads, or that the graph returns."""
    return {name for n in graph.node for name in (*n.input, *captured(n))} | {o.name for o in graph.output}


def _stays(node: onnx.NodeProto, read: Collection[str], dtypes: Dtypes) -> bool:
    some = partly(node)
    return some is not None and some.stays(node, read, dtypes)


def _beside(node: onnx.NodeProto, read: set[str]) -> list[onnx.NodeProto]:
    """The node itself, where it still makes what is read, such as the names of classes; what is written anew gets another name."""
    some = partly(node)
    if some is None or some.output is None or not read.intersection(o for i, o in enumerate(node.output) if i != some.output):
        return []
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    copy.output[some.output] = f"{node.output[some.output]}/beside"
    return [copy]


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node, where the standard says what they mean. (Others, as of a search by beams, are read by their operators.)"""
    return graphs_of(node) if node.domain in ("", "ai.onnx") else iter(())


class Learnt:
    """Ranks, sizes that are numbers, and element types of tensors, as far as inference tells, in all graphs; and all names."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.opset = opset(proto)
        self.ranks: dict[str, int] = {}
        self.dtypes: dict[str, int] = {}
        self.sizes: dict[tuple[str, int], int] = {}
        self.taken: set[str] = set()
        for graph in graphs(inferred(without_weights(proto))):
            for value in (*graph.input, *graph.value_info, *graph.output):
                self._learn(value.name, value.type.tensor_type)
        for graph in graphs(proto):
            self.stored(graph.initializer)
            self.taken |= {v.name for v in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
            self.taken |= {n.name for n in graph.node}

    def stored(self, tensors: Sequence[onnx.TensorProto]) -> dict[str, onnx.TensorProto]:
        """Learn of stored tensors; returns them by their names."""
        for tensor in tensors:
            self._learn(tensor.name, onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims).tensor_type)
        return {tensor.name: tensor for tensor in tensors}

    def follow(self, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> None:
        """Learn what one node makes of what is known of its inputs: then few nodes wait until the whole graph is inferred again."""
        given = {name: self._type(name) for name in node.input if name}
        if all(name in self.ranks and name in self.dtypes for name in node.output if name) or None in given.values():
            return
        small = {name: constants[name] for name in given if name in constants and math.prod(constants[name].dims) <= SMALL}
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
            found = onnx.shape_inference.infer_node_outputs(schema, node, given, small)
        except Exception:  # onnx raises several kinds here, without a common base; not to know something yet is no mistake
            return
        for name, kind in found.items():
            self._learn(name, kind.tensor_type)

    def _type(self, name: str) -> onnx.TypeProto | None:
        if name not in self.dtypes:
            return None
        shape = [self.sizes.get((name, axis)) for axis in range(self.ranks[name])] if name in self.ranks else None
        return onnx.helper.make_tensor_type_proto(self.dtypes[name], shape)

    def _learn(self, name: str, kind: onnx.TypeProto.Tensor) -> None:
        if kind.HasField("shape"):
            self.ranks[name] = len(kind.shape.dim)
            self.sizes |= {(name, axis): d.dim_value for axis, d in enumerate(kind.shape.dim) if d.HasField("dim_value")}
        if kind.elem_type:
            self.dtypes[name] = kind.elem_type


def _run(proto: onnx.ModelProto) -> PassOutcome:
    """Write nodes until none is left. A node that must know more than is inferred before others are written waits for the next round."""
    expanded: list[str] = []
    waiting: list[ModelError] = []
    while not expanded or waiting:
        known, before = Learnt(proto), len(expanded)
        waiting = list(_round(proto.graph, known, {}, expanded))
        if waiting and len(expanded) == before:
            raise waiting[0]
    forget_unused_domains(proto)
    names = ", ".join(sorted(set(expanded)))
    return PassOutcome(len(expanded), f"expanded {len(expanded)} fused node(s): {names}")


def _round(graph: onnx.GraphProto, known: Learnt, around: dict[str, onnx.TensorProto], expanded: list[str]) -> Iterator[ModelError]:
    """Write the nodes of a graph and of those inside it of which enough is known; yields what is said of the others."""
    written: list[onnx.NodeProto] = []
    read = _read(graph)
    constants = around | {t.name: t for t in graph.initializer}
    for node in graph.node:
        for inner in _inner(node):
            yield from _round(inner, known, constants, expanded)
        expand = None if _stays(node, read, lambda: known.dtypes) else expansion_of(node)
        writer = Writer(node, known.ranks, known.dtypes, constants, known.taken, known.opset, known.sizes)
        try:
            if expand is not None:
                expand(writer)
        except NotYetKnown as missing:
            expand = None
            yield writer.refuse(str(missing), "Declare its shape (value_info), or use the unoptimised model.")
        if expand is None:
            new = [onnx.NodeProto.FromString(node.SerializeToString())]
        else:
            new = [*writer.nodes, *_beside(node, read)]
            graph.initializer.extend(writer.initializers)
            constants |= known.stored(writer.initializers)
            expanded.append(node.op_type)
        for made in new:
            known.follow(made, constants)
        written += new
    del graph.node[:]
    graph.node.extend(written)


EXPAND_CONTRIB = Pass(
    "expand fused operators",
    _run,
    requires=_requires,
    ensures=lambda proto: "fused operators remain" if _expandable(proto.graph, _dtypes(proto)) else "",
    rewrites=True,
)
"""After the opset was raised: the standard nodes it writes (LayerNormalization, CastLike) are those of opset 18."""
