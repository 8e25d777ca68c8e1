"""Emit for the body of a loop: a graph that reads the tensors of the one around it, and says the shapes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from onnxsal.graph.emit import ON_CPU, Emit, Operand
from onnxsal.graph.model import Model, Value
from onnxsal.graph.replay import constants


class LoopBody(Emit):
    """Collects the nodes of a loop's body over a ``replica`` of what is computed from ``around``; ``iteration`` and ``condition`` are what
    every body is given.
    """

    def __init__(self, view: Model, around: Value, prefix: str, runs_on: str, dtype: int) -> None:
        super().__init__(view, prefix, runs_on)
        self.around = around
        self.dtype = dtype
        self.iteration = Value(f"{prefix}/iteration", TensorProto.INT64, ())
        self.condition = Value(f"{prefix}/condition", TensorProto.BOOL, ())
        self._weights: dict[str, Value] = {}

    def _operand(self, operand: Operand) -> Any:
        return super()._operand(self._own(operand) if isinstance(operand, Value) and self._is_weight(operand.name) else operand)

    def _is_weight(self, name: str) -> bool:
        """Whether the tensor is a weight of a convolution, a bias, a scale: a constant around the body that is no matrix. ONNX Runtime
        packs the matrices of products wherever they lie.
        """
        around = self.model.outer
        if self.runs_on != ON_CPU or around is None or name not in constants(around):
            return False
        kind, shape = around.types.get(name, (0, None))
        return kind == TensorProto.FLOAT and shape is not None and len(shape) != 2

    def _own(self, weight: Value) -> Value:
        """A weight of the model around as a constant of this graph: the largest of one tensor is that tensor, to the last bit.

        ONNX Runtime computes a convolution in its blocked layout only if the weight belongs to the same graph, and it folds this node
        when it opens the file. Stored here, the weight would be in the file twice.
        """
        if weight.name not in self._weights:
            self._weights[weight.name] = weight  # what the node itself reads
            self._weights[weight.name] = self.Max(weight, name=f"{self.prefix}/own/{weight.name}")
        return self._weights[weight.name]

    def counter(self) -> Value:
        """The number of the iteration, int64 scalar.

        Where a card may run it, a 0 that is computed from a size is added. ONNX Runtime computes on the host what depends on sizes only,
        and on the card all else; the bounds of a Range and the condition are read on the host, and would be copied there at every turn.
        """
        if self.runs_on == ON_CPU:
            return self.iteration
        size = self.cached("size around", lambda: self.Size(self.raw(self.around)))
        return self.cached("counter", lambda: self.Add(self.iteration, self.Sub(size, size)))

    def numbers(self, size: Value | int, count: Value | int) -> Value:
        """``size`` whole numbers from the iteration times ``size`` on, those below ``count``: int64 [c]."""
        if size == 1 and self.runs_on == ON_CPU:
            return self.Unsqueeze(self.iteration, [0])
        begin = self.counter() if size == 1 else self.Mul(self.counter(), size)
        end = self.Add(begin, size)
        whole = isinstance(size, int) and isinstance(count, int) and count % size == 0
        return self.Range(begin, end if whole else self.Min(end, count), 1)

    def goes_on(self) -> Value:
        """The condition, which never changes."""
        return self.Identity(self.condition) if self.runs_on == ON_CPU else self.GreaterOrEqual(self.counter(), 0)

    def graph(self, states: Sequence[Value], outputs: Sequence[Value]) -> onnx.GraphProto:
        """The body, which turns ``states`` of the compute type and any shape into ``outputs``."""
        outputs = [self.goes_on(), *(self.Identity(value) for value in outputs)]
        nodes, initializers = self.finish(outputs)
        kinds = [TensorProto.INT64, TensorProto.BOOL, *[self.dtype] * len(states)]
        shapes: list[list[int] | None] = [[], [], *[None] * len(states)]
        given = zip([self.iteration, self.condition, *states], kinds, shapes, strict=True)
        told = zip(outputs, kinds[1:], shapes[1:], strict=True)
        return helper.make_graph(
            nodes,
            f"{self.prefix}/body",
            [helper.make_tensor_value_info(v.name, k, s) for v, k, s in given],
            [helper.make_tensor_value_info(v.name, k, s) for v, k, s in told],
            initializers,
            value_info=self.declarations(nodes),
        )

    def declarations(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.ValueInfoProto]:
        """The shapes of the replica's tensors and what is ``declared``: inference alone loses them where runs are put in a row, and with
        them goes the layout that elementwise nodes could have shared on the CPU.
        """
        if self.runs_on != ON_CPU:
            return super().declarations(nodes)
        made = {name for node in nodes for name in node.output}
        known = {name: (kind, shape) for name, (kind, shape) in self.model.types.items() if name in made and shape is not None}
        replayed = [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in known.items()]
        return [*replayed, *(info for name, info in self._declared.items() if name in made and name not in known)]
