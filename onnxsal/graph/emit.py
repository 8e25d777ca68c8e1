"""Emit: ``op.Mul(a, b)`` appends one node, named after the forward node it explains.

Emission is built on onnx-graphsurgeon, which links the new nodes, drops those nobody reads and exports them. Only what we
add goes through it; the forward part stays the ``ModelProto`` it was (see ``model.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper
from onnx_graphsurgeon.logger import G_LOGGER

from onnxsal.graph.model import GRID, HALF, Model, NodeView, Value, captured
from onnxsal.graph.window_attributes import left_out

T = TypeVar("T")

Operand = Value | float | int | bool | Sequence[int] | Sequence[float] | np.ndarray | None

PREFIX = "onnxsal"

ANYWHERE, ON_CPU, ON_CUDA = "any", "cpu", "cuda"
RUNS_ON = (ANYWHERE, ON_CPU, ON_CUDA)
"""Where a converted file is meant to run. It gives the same map in every place; the form of its nodes suits one."""

MANY = 2000
"""Added nodes from which on the file says what shape signals have. ONNX Runtime's search for memory to reuse grows with the square of the
tensors whose sizes it does not know (9 s for 6,000 of them); what it finds saves that, and costs 2 to 5 % of a run."""


class Emit:
    """Collects nodes that read a forward model; ``op.<Operator>(*operands, **attributes)`` appends one and returns its output.

    Operands are ``Value``s, ``None`` (an input left out) or plain Python: a ``float`` becomes a scalar of the compute type
    (float32, or float64 where the explained node works in float64), an ``int`` or a list of ints an int64 tensor, an array
    itself. ``outputs=2`` returns a tuple. A forward tensor in float16 or bfloat16 is cast to float32 on its first use, so
    rules never meet half precision; so are quantised values where a signal crosses them. ``raw(value)`` opts out.
    """

    def __init__(self, model: Model, prefix: str = PREFIX, runs_on: str = ANYWHERE) -> None:
        self.model = model
        self.prefix = prefix
        self.runs_on = runs_on
        self.dtype: int = TensorProto.FLOAT
        self.walk: object = None
        """What a wrapper lays out for the rules of its walk (``backward.walk.Walk``)."""
        self.shares = False
        """Whether a node that is there already, on the same inputs, is used again: for several walks over one model."""
        self._scope = prefix
        self._narrow = HALF
        self._graph = gs.Graph(opset=model.opset)
        self._tensors: dict[str, gs.Tensor] = {}
        self._copied: dict[str, list[onnx.AttributeProto]] = {}
        self._cache: dict[Any, Any] = {}
        self._counter: dict[str | tuple[str, str], int] = {}
        self._reads: dict[str, list[str]] = {}
        self._declared: dict[str, onnx.ValueInfoProto] = {}

    # ----- where we are -----

    @contextmanager
    def at(self, node: NodeView) -> Iterator[None]:
        """Name what is emitted after ``node`` and compute in its float type (float32 for half precision)."""
        scope, dtype, narrow = self._scope, self.dtype, self._narrow
        self._scope = f"{self.prefix}/{node.name}"
        self.dtype = compute_dtype(node)
        crossed = [*(v for i, v in enumerate(node.inputs) if node.want(i)), *node.outputs]
        self._narrow = HALF | {v.dtype for v in crossed if v is not None and v.dtype in GRID}
        try:
            yield
        finally:
            self._scope, self.dtype, self._narrow = scope, dtype, narrow

    @contextmanager
    def named(self, scope: str, dtype: int = 0) -> Iterator[None]:
        """Name what is emitted ``<prefix>/<scope>/...``, computing in ``dtype`` if given."""
        before = self._scope, self.dtype
        self._scope, self.dtype = f"{self.prefix}/{scope}", dtype or self.dtype
        try:
            yield
        finally:
            self._scope, self.dtype = before

    # ----- operands -----

    @property
    def np_dtype(self) -> np.dtype:
        """NumPy type of the compute type."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.dtype))

    def const(self, value: float | int | bool | Sequence[int] | Sequence[float] | np.ndarray) -> Value:
        """An initialiser; equal constants are shared. Floats take the compute type, ints and lists of ints int64."""
        array = self._as_array(value)
        key = ("const", array.dtype.str, array.shape, array.tobytes())
        if key not in self._cache:
            name = self._unique(f"{self.prefix}/const")
            self._tensors[name] = gs.Constant(name, array)
            self._cache[key] = Value(name, helper.np_dtype_to_tensor_dtype(array.dtype), tuple(array.shape))
        known: Value = self._cache[key]
        return known

    def _as_array(self, value: Any) -> np.ndarray:
        if isinstance(value, np.ndarray | np.generic):
            return np.ascontiguousarray(value).reshape(np.shape(value))
        items = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(v, float) for v in items):
            return np.asarray(value, self.np_dtype)
        if items and all(isinstance(v, bool) for v in items):
            return np.asarray(value, bool)
        return np.asarray(value, np.int64)

    def raw(self, value: Value) -> Value:
        """The forward tensor in its own element type, even where that is half precision."""
        return Value(value.name, 0, value.shape)

    def _operand(self, operand: Operand) -> gs.Tensor:
        if operand is None:
            return gs.Variable.empty()
        if not isinstance(operand, Value):
            operand = self.const(operand)
        if operand.dtype in self._narrow:
            operand = self._as_float(operand)
        if operand.name not in self._tensors:
            self._tensors[operand.name] = gs.Variable(operand.name)
        return self._tensors[operand.name]

    def _as_float(self, value: Value) -> Value:
        return self.cached(("f32", value.name), lambda: self.Cast(self.raw(value), to=TensorProto.FLOAT))

    def cached(self, key: Any, build: Callable[[], T]) -> T:
        """Emit once per key: what several rules ask of the same forward tensor is computed once."""
        if key not in self._cache:
            self._cache[key] = build()
        known: T = self._cache[key]
        return known

    def found(self, key: Any) -> Any:
        """What was ``cached`` under the key, or ``None``."""
        return self._cache.get(key)

    # ----- nodes -----

    def _unique(self, stem: str) -> str:
        count = self._counter.get(stem, 0)
        self._counter[stem] = count + 1
        return f"{stem}{count}"

    def apart(self, stem: str) -> str:
        """``<prefix>/<stem>`` for the tensors of a replica, numbered from the second of that stem on."""
        count = self._counter.get(("apart", stem), 0)
        self._counter["apart", stem] = count + 1
        return f"{self.prefix}/{stem}{count or ''}"

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def append(*operands: Operand, outputs: int = 1, name: str | None = None, **attributes: Any) -> Any:
            if not self.shares or name is not None:
                return self._append(op_type, operands, outputs, name, attributes)
            values = tuple(self._operand(o).name for o in operands)
            told = sorted((k, v.SerializeToString() if isinstance(v, onnx.TensorProto) else repr(v)) for k, v in attributes.items())
            key = ("node", op_type, values, outputs, tuple(told))
            return self.cached(key, lambda: self._append(op_type, operands, outputs, None, attributes))

        return append

    def _append(self, op_type: str, operands: Sequence[Operand], outputs: int, name: str | None, attributes: dict[str, Any]) -> Any:
        """One node. ``name`` fixes its first output's name (for graph outputs)."""
        inputs = [self._operand(o) for o in operands]
        while inputs and inputs[-1].is_empty():
            inputs.pop()
        node_name = self._unique(f"{self._scope}/{op_type}")
        names = [name or node_name] + [f"{node_name}:{i}" for i in range(1, outputs)]
        results = [gs.Variable(n) for n in names]
        self._tensors.update(zip(names, results, strict=True))
        attrs = {k: v for k, v in attributes.items() if v is not None}
        self._graph.nodes.append(gs.Node(op=op_type, name=node_name, attrs=attrs, inputs=inputs, outputs=results))
        values = tuple(Value(n) for n in names)
        return values[0] if outputs == 1 else values

    def clone(self, node: NodeView, inputs: Sequence[Operand], outputs: int = 1, **overrides: Any) -> Any:
        """The same operator with the same attributes (but for ``overrides``) on other inputs."""
        result = self._append(node.op_type, inputs, outputs, None, {})
        emitted = self._graph.nodes[-1]
        emitted.domain = node.domain or None
        kept = [a for a in node.proto.attribute if a.name not in overrides]
        added = [helper.make_attribute(k, v) for k, v in (left_out(node, overrides) | overrides).items() if v is not None]
        self._copied[emitted.name] = [*kept, *added]
        return result

    def declared(self, value: Value, dtype: int, like: Value) -> Value:
        """``value``, of which the file will say that it has this type and the shape of ``like``, a forward tensor.

        A runtime reuses the memory of tensors whose sizes it knows to be the same; others it compares with each other in vain, which is
        most of the time of opening a large file. Inference alone loses a size at many a Reshape and wherever it depends on the target.
        """
        if like.shape is not None:
            self._declared.setdefault(value.name, helper.make_tensor_value_info(value.name, dtype, list(like.shape)))
        return value

    def declarations(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.ValueInfoProto]:
        """What is ``declared`` of the tensors that ``nodes`` make, if these are ``MANY``; of pictures on the CPU always: there a product or
        a sum stays in the blocked layout only if ONNX Runtime sees that its operands have the same shape.
        """
        made = {name for node in nodes for name in node.output} if len(nodes) > MANY or self.runs_on == ON_CPU else set()
        every = len(nodes) > MANY
        return [info for name, info in self._declared.items() if name in made and (every or len(info.type.tensor_type.shape.dim) == 4)]

    def insert(self, node: NodeView) -> None:
        """A node as it is, with its own tensor names (``replay``)."""
        inputs = [self._operand(self.raw(v) if v is not None else None) for v in node.inputs]
        outputs = [gs.Variable(n) if n else gs.Variable.empty() for n in node.proto.output]
        self._tensors.update({t.name: t for t in outputs if not t.is_empty()})
        name = self._unique(f"{self.prefix}/{node.name}/{node.op_type}")
        self._graph.nodes.append(gs.Node(op=node.op_type, name=name, inputs=inputs, outputs=outputs, domain=node.domain or None))
        self._copied[name] = [*node.proto.attribute, *(helper.make_attribute(k, v) for k, v in left_out(node, {}).items())]
        self._reads[name] = captured(node.proto)

    def subgraph(
        self, op_type: str, operands: Sequence[Operand], bodies: Mapping[str, onnx.GraphProto], outputs: int, **attributes: Any
    ) -> tuple[Value, ...]:
        """A control-flow node with its graphs by the names of their attributes; what they read from around them stays alive."""
        results = self._append(op_type, operands, outputs, None, attributes)
        held = [helper.make_attribute(name, body) for name, body in bodies.items()]
        name = self._graph.nodes[-1].name
        self._copied[name] = held
        self._reads[name] = captured(onnx.NodeProto(attribute=held))
        return results if outputs > 1 else (results,)

    # ----- result -----

    def finish(self, outputs: Sequence[Value]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Nodes and initialisers that ``outputs`` need, in emission order (already topological)."""
        wanted = self._wanted([v.name for v in outputs])
        self._graph.outputs = [self._tensors[n] for n in wanted if n in self._tensors]
        with G_LOGGER.suppress():  # it would warn on stdout of a name clash, which ``assemble`` refuses
            self._graph.cleanup()
        exporter = gs.exporters.onnx_exporter.OnnxExporter
        nodes, initializers = [], {}
        for node in self._graph.nodes:
            proto = exporter.export_node(node)
            proto.attribute.extend(self._copied.get(node.name, []))
            nodes.append(proto)
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant) and tensor.name not in initializers:
                    initializers[tensor.name] = exporter.export_tensor_proto(tensor)
        for tensor in self._graph.outputs:
            if isinstance(tensor, gs.Constant) and tensor.name not in initializers:
                initializers[tensor.name] = exporter.export_tensor_proto(tensor)
        return nodes, list(initializers.values())

    def _wanted(self, outputs: Sequence[str]) -> list[str]:
        """``outputs``, and what the graphs of the nodes that these need read from around them."""
        needed, read = set(outputs), []
        for node in reversed(self._graph.nodes if self._reads else []):
            if needed.intersection(t.name for t in node.outputs):
                inside = self._reads.get(node.name, [])
                needed.update(inside, (t.name for t in node.inputs))
                read.append(inside)
        return list(dict.fromkeys([*outputs, *itertools.chain.from_iterable(reversed(read))]))


def compute_dtype(node: NodeView) -> int:
    """float64 where the node works in float64, else float32 (half precision included)."""
    floats = [v.dtype for v in (*node.outputs, *node.inputs) if v is not None and v.dtype]
    return TensorProto.DOUBLE if TensorProto.DOUBLE in floats else TensorProto.FLOAT
