"""Operators that are not walked but written in standard ones: what a function that writes them may use, and the table of these."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxsal.errors import ModelError
from onnxsal.graph import FLOATS
from onnxsal.graph.infer import Shape, Types

MICROSOFT = "com.microsoft"


class Writer:
    """Collects the standard nodes that replace one node; they write its outputs by their names.

    ``ranks`` tells how many axes tensors have and ``dtypes`` their element types, as far as that is known; a function adds those of its
    outputs that others must know. ``constants`` are the initialisers of the graph. ``infer`` tells the types and shapes of what stands
    before the node, once that is written in standard operators.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        ranks: dict[str, int] | None = None,
        dtypes: dict[str, int] | None = None,
        constants: Mapping[str, onnx.TensorProto] | None = None,
        infer: Callable[[], Types] = dict,
    ) -> None:
        self.node = node
        self.ranks = {} if ranks is None else ranks
        self.dtypes = {} if dtypes is None else dtypes
        self.constants = {} if constants is None else constants
        self.infer = infer
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

    def tensor(self, array: np.ndarray) -> str:
        """A constant of any shape, in its own type."""
        name = f"{self.node.name or self.node.output[0]}/const{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, values: list[int]) -> str:
        """A constant list of int64."""
        return self.const(values)

    def scalar(self, value: int) -> str:
        """A constant int64 without axes."""
        return self.add("Squeeze", self.const([value]), self.const([0]))

    def input(self, i: int) -> str:
        """Input i, '' where it is left out."""
        return self.node.input[i] if i < len(self.node.input) else ""

    def type_of(self, i: int) -> tuple[int, Shape | None]:
        """Element type (0: not known) and shape (``None``: not even the number of axes is known) of input i."""
        return self.infer().get(self.input(i), (0, None))

    def array(self, i: int) -> np.ndarray | None:
        """Input i, where it is an initialiser."""
        tensor = self.constants.get(self.input(i))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def refuse(self, what: str) -> ModelError:
        """What is said of a form that is not known: ``what`` the node has or does."""
        name = f"{self.node.domain}.{self.node.op_type}" if self.node.domain else self.node.op_type
        fused = " Use the unoptimised model." if self.node.domain == MICROSOFT else ""
        return ModelError(f"node '{self.node.name}' ({name}) {what}, which is not known.{fused}")

    def text(self, name: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, b"")
        return value.decode() if isinstance(value, bytes) else str(value)


Expansion = Callable[[Writer], None]


EXPANSIONS: dict[tuple[str, str], Expansion] = {}
"""Domain and name of an operator -> what writes it in standard ones of opset 18."""


@dataclass(frozen=True)
class Partly:
    """Which nodes of an operator stay, although there is a function that writes it.

    ``output`` is the one that the function makes; the node itself makes the others (``None``: the function makes all). ``of_floats``:
    what works on integers or text stays as it is, since it carries no derivative.
    """

    output: int | None = None
    of_floats: bool = False

    def stays(self, node: onnx.NodeProto, read: Container[str], types: Types) -> bool:
        """Whether nothing of a node need be written: nothing reads what would be made, or it holds no floating-point numbers."""
        if self.of_floats and types.get(node.input[0], (0, None))[0] not in FLOATS | {0}:
            return True
        return self.output is not None and node.output[self.output] not in read


PARTLY: dict[tuple[str, str], Partly] = {}
"""Domain and name of an operator -> which of its nodes stay (not in it: none)."""


def expansion(*op_types: str, domain: str = MICROSOFT, partly: Partly | None = None) -> Callable[[Expansion], Expansion]:
    """Register the decorated function as what writes ``op_types`` in standard operators, but for what ``partly`` says."""

    def register(function: Expansion) -> Expansion:
        EXPANSIONS.update({(domain, op_type): function for op_type in op_types})
        PARTLY.update({(domain, op_type): partly for op_type in op_types if partly is not None})
        return function

    return register


def expansion_of(node: onnx.NodeProto) -> Expansion | None:
    """What writes a node in standard operators, if it is not walked as it is."""
    return EXPANSIONS.get((node.domain, node.op_type))


def partly(node: onnx.NodeProto) -> Partly | None:
    """Which nodes of an operator stay, where some do."""
    return PARTLY.get((node.domain, node.op_type))
