"""Operators that stay in the file and are explained as standard ones beside them: the table of these, and what writes them.

A quantised operator computes in integers, where nothing has a derivative. It is written again in floating point around the same integers:
``DequantizeLinear``, the floating-point operator, ``QuantizeLinear``, with the node's own scales and zero points. The two round differently
now and then, by one step of the grid at most. So the file's own node stays and makes the values, and only the walk goes through the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxsal.errors import ModelError
from onnxsal.graph.infer import constant_tensor
from onnxsal.graph.model import captured
from onnxsal.ops.expansion import MICROSOFT, Writer

ROUNDING = 1e-5
"""How far a copy may be from an operator whose output is no quantised value, relative to the largest one: sums in another order."""


class Graph:
    """Who makes and who reads the tensors of a graph, and which are stored."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.stored = {t.name: t for t in graph.initializer}
        self.stored |= {n.output[0]: t for n in graph.node if (t := constant_tensor(n)) is not None}
        self.maker = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in (*node.input, *captured(node)):
                self._readers.setdefault(name, []).append(node)
        self._declared = {o.name for o in graph.output}

    def reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; ``None`` where there are several, none, or it is an output of the graph."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._declared else None


Behind = Callable[[onnx.NodeProto, Graph], Sequence[onnx.NodeProto]]
"""The nodes behind a node that its copy stands for as well, each of which alone reads the one before it."""

Copy = Callable[[Writer], float | None]
"""Writes the copy; it may return the limit of this node."""


@dataclass(frozen=True)
class Restatement:
    """What writes the copy, and how far its floating-point outputs may be from the operator's own, relative to the largest; and which nodes
    behind it the copy stands for as well."""

    write: Copy
    limit: float
    tail: Behind


RESTATED: dict[tuple[str, str], Restatement] = {}
"""Domain and name of an operator -> its copy in standard operators of opset 18."""


def restated(
    *op_types: str, domain: str = MICROSOFT, limit: float = ROUNDING, tail: Behind = lambda node, graph: ()
) -> Callable[[Copy], Copy]:
    """Register the decorated function as what writes ``op_types`` a second time, in floating point."""

    def register(function: Copy) -> Copy:
        RESTATED.update({(domain, op_type): Restatement(function, limit, tail) for op_type in op_types})
        return function

    return register


def restatement_of(node: onnx.NodeProto) -> Restatement | None:
    """How a node is written a second time, if it is."""
    return RESTATED.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def unknown(w: Writer, what: str, advice: str) -> ModelError:
    """Said of a form that is not known: ``what`` the node has or does, and what to do."""
    name = f"{w.node.domain}.{w.node.op_type}" if w.node.domain else w.node.op_type
    return ModelError(f"node '{w.node.name}' ({name}) {what}, which has no copy in floating point. {advice}")


# ----- what the copies are made of -----


WIDE = 21
"""From this opset on the standard knows quantised values of 4 and 16 bits."""


def refuse_older(w: Writer, name: str, *, allowed: Collection[int]) -> None:
    """Raises ``ModelError`` where a tensor is of another type than the ``allowed`` ones, and the model of an older opset than ``WIDE``."""
    kind = w.dtypes.get(name, 0)
    if kind and kind not in allowed and w.opset < WIDE:
        told = TensorProto.DataType.Name(kind).lower()
        raise unknown(w, f"has quantised values of {told} in a model of opset {w.opset}", f"Export it with opset {WIDE} or higher.")


def sizes(w: Writer, name: str) -> tuple[int, ...] | None:
    """The sizes of a stored tensor, else ``None``."""
    tensor = w.constants.get(name)
    return None if tensor is None else tuple(tensor.dims)


def _zeros(w: Writer, zero: str, scale: str) -> str:
    """The zero point with as many numbers as the scale has: some files have one for all channels."""
    of_scale, tensor = sizes(w, scale), w.constants.get(zero)
    if tensor is None or of_scale is None or int(np.prod(of_scale)) == 1 or tuple(tensor.dims) == of_scale:
        return zero
    array = numpy_helper.to_array(tensor)
    return w.stored(np.broadcast_to(array.reshape(-1), of_scale))


def real(w: Writer, quantised: str, scale: str, zero: str = "", axis: int | None = None) -> str:
    """(quantised - zero) scale, where these are one number or, along ``axis``, one per index."""
    given: dict[str, Any] = {} if axis is None else {"axis": axis}
    return w.add("DequantizeLinear", *(n for n in (quantised, scale, _zeros(w, zero, scale)) if n), **given)


def on_grid(w: Writer, x: str, scale: str, zero: str, output: str = "") -> str:
    """round(x / scale) + zero, cut off where the type ends; without a zero point it is 0 of the type of the node's first input."""
    return w.add("QuantizeLinear", x, scale, zero or w.const(0.0), output=output or w.node.output[0])


def numbers(w: Writer, x: str, like: str) -> str:
    """Integers as floating-point numbers of the type of ``like``, a scale."""
    return w.add("Cast", x, to=w.dtypes.get(like) or TensorProto.FLOAT)


def float_of(w: Writer, i: int) -> str:
    """Inputs i, i + 1 and i + 2 as a real tensor: quantised, scale and zero point of one tensor each."""
    return real(w, w.input(i), w.input(i + 1), w.input(i + 2))
