"""Operators that are not walked but written in standard ones: what a function that writes them may use, and the table of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxsal.errors import ModelError

MICROSOFT = "com.microsoft"


class Writer:
    """Collects the standard nodes that replace one node; they write its outputs by their names.

    ``ranks`` tells how many axes tensors have and ``dtypes`` their element types, as far as that is known; a function adds those of its
    outputs that others must know. ``constants`` are the initialisers of the graph, ``opset`` is what its standard operators are of.
    ``tail`` are the nodes behind it that are written together with it, ``makers`` the nodes by the tensors that they make.
    """

    opset = 18
    tail: Sequence[onnx.NodeProto] = ()
    makers: Mapping[str, onnx.NodeProto] = {}

    def __init__(
        self,
        node: onnx.NodeProto,
        ranks: dict[str, int] | None = None,
        dtypes: dict[str, int] | None = None,
        constants: Mapping[str, onnx.TensorProto] | None = None,
    ) -> None:
        self.node = node
        self.ranks = {} if ranks is None else ranks
        self.dtypes = {} if dtypes is None else dtypes
        self.constants = {} if constants is None else constants
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append one node named ``<node>/<op>``; returns its output."""
        name = f"{self.node.name or self.node.output[0]}/{op_type}{len(self.nodes)}"
        output = output or name
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def const(self, value: float | list[int]) -> str:
        """A constant; floats in float32, cast to the type of the first input so that half-precision models work."""
        array = np.asarray(value, np.int64 if isinstance(value, list) else np.float32)
        name = f"{self.node.name or self.node.output[0]}/const{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name if isinstance(value, list) else self.add("CastLike", name, self.node.input[0])

    def ints(self, values: list[int]) -> str:
        """A constant list of int64."""
        return self.const(values)

    def scalar(self, value: int) -> str:
        """A constant int64 without axes."""
        return self.add("Squeeze", self.const([value]), self.const([0]))

    def input(self, i: int) -> str:
        """Input i, '' where it is left out."""
        return self.node.input[i] if i < len(self.node.input) else ""

    def array(self, i: int) -> np.ndarray | None:
        """Input i, where it is an initialiser."""
        tensor = self.constants.get(self.input(i))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def refuse(self, what: str) -> ModelError:
        """What is said of a form that is not known: ``what`` the node has or does."""
        name = f"{self.node.domain}.{self.node.op_type}" if self.node.domain else self.node.op_type
        return ModelError(f"node '{self.node.name}' ({name}) {what}, which is not known. Use the unoptimised model.")

    def text(self, name: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, b"")
        return value.decode() if isinstance(value, bytes) else str(value)


Expansion = Callable[[Writer], None]

EXPANSIONS: dict[tuple[str, str], Expansion] = {}
"""Domain and name of an operator -> what writes it in standard ones of opset 18."""


def expansion(*op_types: str, domain: str = MICROSOFT) -> Callable[[Expansion], Expansion]:
    """Register the decorated function as what writes ``op_types`` in standard operators."""

    def register(function: Expansion) -> Expansion:
        EXPANSIONS.update({(domain, op_type): function for op_type in op_types})
        return function

    return register


def expansion_of(node: onnx.NodeProto) -> Expansion | None:
    """What writes a node in standard operators, if it is not walked as it is."""
    return EXPANSIONS.get((node.domain, node.op_type))
