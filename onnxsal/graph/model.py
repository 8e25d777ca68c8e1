"""A read-only view of an ONNX model: nodes, producers, consumers, types, constants.

The forward part of a model stays the ``ModelProto`` it came as. Nothing here rewrites it, and it never passes through
another library's importer, so metadata, doc strings, quantisation annotations and every constant survive byte for byte.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxsal.errors import ModelError, UnsupportedError
from onnxsal.graph.infer import Inferred, Shape, constant_value, infer
from onnxsal.graph.originals import Original
from onnxsal.protos import graphs_of

T = TypeVar("T")

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Element types that models compute in; tensors of these types can be explained."""


def _codes(names: str) -> frozenset[int]:
    return frozenset(code for name, code in TensorProto.DataType.items() if name in names.split())


FLOAT8 = _codes("FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT4E2M1")
"""Floating-point storage types: a cast to one rounds, and the signal goes straight through it, as through float16."""

GRID = FLOAT8 | _codes("INT8 UINT8 INT16 UINT16 INT4 UINT4 INT2 UINT2")
"""Types that hold quantised values. A tensor of such a type carries a signal only where quantised activations reach it; the
signal itself is floating point, in units of the grid (d score / d q)."""

HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Types whose backward part runs in float32: their range and precision are too small for products of gradients."""


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: its name and, for tensors of the forward model, its element type and static shape.

    ``dtype`` is an ``onnx.TensorProto`` element type (0 = unknown); ``shape`` is ``None`` where not even the rank is known,
    and a dimension is an ``int``, a symbol (``str``) or ``None``.
    """

    name: str
    dtype: int = 0
    shape: Shape | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions; raises ``UnsupportedError`` where the model does not tell."""
        if self.shape is None:
            raise UnsupportedError(
                f"tensor '{self.name}' has no known rank; the rule needs it. "
                "Export the model with shapes, or declare the input's shape before converting."
            )
        return len(self.shape)

    def dim(self, axis: int) -> int | None:
        """The static size of one axis, or ``None`` where it is symbolic or unknown."""
        size = self.shape[axis] if self.shape is not None else None
        return size if isinstance(size, int) else None

    @property
    def static(self) -> tuple[int, ...] | None:
        """The whole shape if every dimension is a number, else ``None``."""
        if self.shape is None or not all(isinstance(d, int) for d in self.shape):
            return None
        return tuple(d for d in self.shape if isinstance(d, int))


Signals = Sequence[Value | None]
"""One for each tensor, ``None`` where there is none: what comes to the outputs of a node, or goes to its inputs."""


class NodeView:
    """One forward node as rules see it: inputs and outputs as ``Value``, attributes with schema defaults, constants.

    What a plan adds to its own views: ``wants[i]`` tells a rule whether input i needs a signal (a rule returns ``None`` for the others),
    ``tags`` what the node does, ``fold`` the ``Fold`` that a relevance rule sees in its place. ``wild`` are the inputs that may hold
    infinities or what is no number, and -1 where its output or slope may be such (empty: all is finite); ``finite``: neither here nor
    anywhere behind it on the walk is there such a number, so no signal can be infinite; ``norm`` tells that it is the root
    of a sum of squares, whose slope at 0 is taken as 0. ``shares``: input -> the part of a product's signal that it takes, where factors
    share it. ``passage`` says how a signal crosses the graphs that the node runs (``None``: it runs none), and ``around`` are the tensors
    that these read and that need a signal.
    """

    def __init__(self, model: Model, proto: onnx.NodeProto, index: int) -> None:
        self.model = model
        self.proto = proto
        self.index = index
        self.op_type = proto.op_type
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.name = proto.name or f"{proto.op_type}_{index}"
        self.wants: tuple[bool, ...] = (False,) * len(proto.input)
        self.tags: frozenset[str] = frozenset()
        self.fold: Any = None
        self.wild: frozenset[int] = frozenset()
        self.norm = False
        self.finite = False
        self.shares: dict[int, float] = {}
        self.passage: Any = None
        self.around: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<{self.op_type} '{self.name}'>"

    @property
    def opset(self) -> int:
        return self.model.opset_of(self.domain)

    @property
    def label(self) -> str:
        """How messages name the node: ``node 'conv1' (Conv, opset 18)``."""
        return f"node '{self.name}' ({self.domain + '.' if self.domain else ''}{self.op_type}, opset {self.opset})"

    @cached_property
    def inputs(self) -> tuple[Value | None, ...]:
        """Inputs in order; ``None`` for an optional input that is not connected."""
        return tuple(self.model.value(n) if n else None for n in self.proto.input)

    @cached_property
    def outputs(self) -> tuple[Value | None, ...]:
        return tuple(self.model.value(n) if n else None for n in self.proto.output)

    def input(self, i: int) -> Value:
        """Input i, which must be connected."""
        value = self.optional(i)
        if value is None:
            raise UnsupportedError(f"{self.label}: input {i} is not connected, and the rule needs it.")
        return value

    def optional(self, i: int) -> Value | None:
        """Input i, or ``None`` where it is left out."""
        return self.inputs[i] if i < len(self.inputs) else None

    def output(self, i: int) -> Value:
        """Output i, which must be named."""
        value = self.outputs[i] if i < len(self.outputs) else None
        if value is None:
            raise UnsupportedError(f"{self.label}: output {i} is not connected, and the rule needs it.")
        return value

    @property
    def x(self) -> Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Value:
        """The first output."""
        return self.output(0)

    def want(self, i: int) -> bool:
        """Whether input i needs a signal (False for inputs that do not exist)."""
        return i < len(self.wants) and self.wants[i]

    @property
    def followed(self) -> list[str]:
        """The tensors that need a signal from this node."""
        return [*(name for name, wanted in zip(self.proto.input, self.wants, strict=True) if wanted), *self.around]

    def replaced(self, inputs: Sequence[Value | None], output: Value) -> NodeView:
        """The same node on other tensors, as rules with modified inputs or weights see it; ``output`` is its result on them.

        A value without a known shape takes that of the tensor it replaces.
        """
        view = copy.copy(self)
        before = self.inputs
        view.__dict__["inputs"] = tuple(_shaped(v, before[i] if i < len(before) else None) for i, v in enumerate(inputs))
        view.__dict__["outputs"] = (_shaped(output, self.outputs[0]), *self.outputs[1:])
        return view

    def like(self, op_type: str, **attributes: Any) -> NodeView:
        """A node of another operator on the same first input and output, as rules that put one operator for another see it."""
        proto = helper.make_node(op_type, [self.proto.input[0]], [self.proto.output[0]], name=self.name, **attributes)
        view = NodeView(self.model, proto, self.index)
        view.wants, view.finite = self.wants[:1], self.finite
        return view

    def may_omit(self, i: int) -> bool:
        """Whether the operator may be written without its input i."""
        schema = onnx.defs.get_schema(self.op_type, self.opset, self.domain)
        return i < len(schema.inputs) and schema.inputs[i].option == onnx.defs.OpSchema.FormalParameterOption.Optional

    def grads(self, *values: Value | None) -> list[Value | None]:
        """Pad a rule's answer with ``None`` to one entry per input."""
        return [*values, *[None] * (len(self.proto.input) - len(values))][: max(len(self.proto.input), 1)]

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return {a.name: helper.get_attribute_value(a) for a in self.proto.attribute}

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, else ``default``, else the operator schema's default, else ``None``. Strings come decoded."""
        value = self.attributes.get(name)
        if value is None and default is None:
            value = self._schema_default(name)
        elif value is None:
            value = default
        return value.decode() if isinstance(value, bytes) else value

    def _schema_default(self, name: str) -> Any:
        try:
            schema = onnx.defs.get_schema(self.op_type, self.opset, self.domain)
        except onnx.defs.SchemaError:
            return None
        entry = schema.attributes.get(name)
        if entry is None or not entry.default_value.name:
            return None
        return helper.get_attribute_value(entry.default_value)

    def const(self, i: int) -> np.ndarray | None:
        """Input i as an array if it is known at conversion time, else ``None``."""
        value = self.optional(i)
        return None if value is None else self.model.constant(value.name)

    def ints(self, i: int, attribute: str | None = None) -> list[int] | None:
        """Integers given as input i (or, in older opsets, as an attribute); ``None`` if absent or only known at run time."""
        array = self.const(i)
        if array is not None:
            return [int(v) for v in array.reshape(-1)]
        if self.optional(i) is None and attribute is not None:
            values = self.attr(attribute)
            return None if values is None else [int(v) for v in np.atleast_1d(values)]
        return None


def _shaped(value: Value | None, like: Value | None) -> Value | None:
    return value if value is None or like is None or value.shape is not None else Value(value.name, value.dtype, like.shape)


class Model:
    """An ONNX model, indexed. Build it once per (immutable) state of the ``ModelProto``.

    ``outer`` is the model around this one, for the body of a loop: its tensors can be read from here. ``copies`` are the indices of the
    nodes of that model that these are copies of; ``within`` is the node of that model that runs this one, if it is a graph of its own.
    ``originals`` are operators of the file that are walked as others (``originals.py``): they are put back where the model is run.
    ``refused`` says of a tensor why the operator that makes it is not. ``supposed``: numbers were made up for open sizes, so no tensor is
    refused for its size.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        outer: Model | None = None,
        copies: Sequence[int] = (),
        originals: Sequence[Original] = (),
        refused: Mapping[str, str] | None = None,
        supposed: bool = False,
    ) -> None:
        self.proto = proto
        self.supposed = supposed
        self.outer = outer
        self.copies = copies
        self.originals = tuple(originals)
        self.restated = frozenset(name for original in originals for name in original.outputs)
        self.written = frozenset(name for original in originals for name in original.written)
        self.refused = refused or {}
        self.within: NodeView | None = None
        self.graph = proto.graph
        self.initializers = {t.name: t for t in self.graph.initializer}
        self.input_names = [i.name for i in self.graph.input if i.name not in self.initializers]
        self.output_names = [o.name for o in self.graph.output]
        self.nodes = [NodeView(self, n, i) for i, n in enumerate(self.graph.node)]
        self.producer = {out: n for n in self.nodes for out in n.proto.output if out}
        self._constants: dict[str, np.ndarray | None] = {}
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, find: Callable[[], T]) -> T:
        """What ``find`` finds out about this model, found once: the model never changes."""
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]

    def keep(self, key: Hashable, found: Any) -> None:
        """What the model around this one found out about it."""
        self._found[key] = found

    def take(self, inferred: Inferred) -> None:
        """From here on this is known of the tensors, and what was found ``once`` is found anew."""
        self.__dict__["inferred"] = inferred
        self.__dict__.pop("types", None)
        self._found.clear()
        self._constants.clear()
        for node in self.nodes:
            node.__dict__.pop("inputs", None)
            node.__dict__.pop("outputs", None)

    def overridable(self, name: str) -> bool:
        """Whether an initialiser is only the default of an input."""
        return any(i.name == name for i in self.graph.input)

    def opset_of(self, domain: str = "") -> int:
        for entry in self.proto.opset_import:
            if entry.domain in ({"", "ai.onnx"} if domain in ("", "ai.onnx") else {domain}):
                return int(entry.version)
        if domain in ("", "ai.onnx"):
            raise ModelError("the model imports no 'ai.onnx' opset; only graphs of standard operators can be explained.")
        return 1

    @property
    def opset(self) -> int:
        return self.opset_of("")

    @cached_property
    def consumers(self) -> dict[str, list[NodeView]]:
        """Tensor name -> nodes that read it, subgraph captures included."""
        users: dict[str, list[NodeView]] = {}
        for node in self.nodes:
            for name in dict.fromkeys([*filter(None, node.proto.input), *captured(node.proto)]):
                users.setdefault(name, []).append(node)
        return users

    @cached_property
    def inferred(self) -> Inferred:
        """What ONNX shape inference and folding of shape arithmetic say about this model."""
        return infer(self.proto, bounded=not self.supposed)

    @cached_property
    def types(self) -> dict[str, tuple[int, Shape | None]]:
        """Tensor name -> (element type, shape), from declarations, initialisers and shape inference."""
        return self.inferred.types

    def value(self, name: str) -> Value:
        """A tensor of this model, or of the one around it, with what is known of its type."""
        if name not in self.types and self.outer is not None:
            return self.outer.value(name)
        dtype, shape = self.types.get(name, (0, None))
        return Value(name, dtype, shape)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a tensor that no input can change: an initialiser, a Constant, or arithmetic on small ones and static shapes."""
        if name not in self._constants:
            local = name in self.types or self.outer is None
            self._constants[name] = self._constant(name) if local else self.outer.constant(name)  # type: ignore[union-attr]
        return self._constants[name]

    def _constant(self, name: str) -> np.ndarray | None:
        if name in self.initializers:
            return None if self.overridable(name) else numpy_helper.to_array(self.initializers[name])
        if name in self.inferred.constants:
            return self.inferred.constants[name]
        node = self.producer.get(name)
        if node is None:
            return None
        # a name for another tensor: exporters share weights by it
        return self.constant(node.x.name) if node.op_type == "Identity" else constant_value(node.proto)


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that the node's subgraphs read from the graph around them."""
    names: list[str] = []
    for graph in graphs_of(node):
        local = {i.name for i in graph.input} | {t.name for t in graph.initializer}
        for inner in graph.node:
            names += [n for n in (*inner.input, *captured(inner)) if n and n not in local]
            local.update(inner.output)
        names += [o.name for o in graph.output if o.name not in local]
    return names


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Every tensor and node name in a graph, for clash checks (subgraphs included)."""
    names = {i.name for i in graph.input} | {o.name for o in graph.output} | {t.name for t in graph.initializer}
    for node in graph.node:
        names.update((*node.input, *node.output, node.name))
        for inner in graphs_of(node):
            names |= all_names(inner)
    names.discard("")
    return names
