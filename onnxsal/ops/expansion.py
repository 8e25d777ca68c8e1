"""Operators that are not walked but written in standard ones: what a function that writes them may use, and the table of these."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxsal.errors import ModelError
from onnxsal.graph import FLOATS
from onnxsal.graph.infer import Shape

MICROSOFT = "com.microsoft"

END = 2**31 - 1
"""The end of an axis, whatever its size."""


class NotYetKnown(Exception):
    """The number of axes or the element type of a tensor is not known before other nodes are written in standard operators."""


class Writer:
    """Collects the standard nodes that replace one node; they write its outputs by their names.

    ``ranks`` tells how many axes tensors have and ``dtypes`` their element types, as far as that is known; a function adds those of its
    outputs that others must know. ``sizes`` are those of axes, where they are numbers. ``constants`` are the initialisers of the graph,
    ``taken`` the names of tensors in the model, to which the writer adds its own. ``opset`` is the version of the standard that is written.
    ``tail`` are the nodes behind it that are written together with it, ``makers`` the nodes by the tensors that they make.
    """

    tail: Sequence[onnx.NodeProto] = ()
    makers: Mapping[str, onnx.NodeProto] = {}

    def __init__(
        self,
        node: onnx.NodeProto,
        ranks: dict[str, int] | None = None,
        dtypes: dict[str, int] | None = None,
        constants: Mapping[str, onnx.TensorProto] | None = None,
        taken: set[str] | None = None,
        opset: int = 18,
        sizes: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self.node = node
        self.ranks = {} if ranks is None else ranks
        self.dtypes = {} if dtypes is None else dtypes
        self.constants = {} if constants is None else constants
        self.taken = set() if taken is None else taken
        self.opset = opset
        self.sizes = {} if sizes is None else sizes
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    # ----- writing -----

    def name(self, kind: str) -> str:
        """``<node>/<kind>``, with a number behind it where a tensor has that name."""
        wanted = f"{self.node.name or next(filter(None, self.node.output))}/{kind}"
        free, count = wanted, 1
        while free in self.taken:
            free, count = f"{wanted}_{count}", count + 1
        self.taken.add(free)
        return free

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append one node named ``<node>/<op>``; returns its output."""
        name = self.name(f"{op_type}{len(self.nodes)}")
        output = output or name
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def several(self, op_type: str, inputs: list[str], outputs: int | list[str], **attributes: Any) -> list[str]:
        """Append one node with several outputs, given by number or by their names ('' = left out)."""
        name = self.name(f"{op_type}{len(self.nodes)}")
        names = [self.name(f"{op_type}{len(self.nodes)}_{i}") for i in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(op_type, inputs, names, name=name, **attributes))
        return names

    def const(self, value: float | list[int], like: str = "") -> str:
        """A constant; floats in float32, cast to the type of ``like`` or else of the first input so that half-precision models work."""
        name = self.stored(np.asarray(value, np.int64 if isinstance(value, list) else np.float32))
        return name if isinstance(value, list) else self.add("CastLike", name, like or self.node.input[0])

    def typed(self, value: float, like: str) -> str:
        """As ``const``, where the type of ``like`` is known a stored number of that type: nothing of it hangs on data."""
        if like not in self.dtypes:
            return self.const(value, like)
        return self.stored(np.asarray(value, helper.tensor_dtype_to_np_dtype(self.dtypes[like])))

    def stored(self, array: np.ndarray) -> str:
        """An initialiser."""
        name = self.name(f"const{len(self.initializers)}")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, values: list[int]) -> str:
        """A constant list of int64."""
        return self.const(values)

    def scalar(self, value: int) -> str:
        """A constant int64 without axes."""
        return self.add("Squeeze", self.const([value]), self.const([0]))

    def size(self, x: str, axis: int) -> str:
        """The size of x along an axis, as a list of one number."""
        return self.add("Shape", x, start=axis) if axis == -1 else self.add("Shape", x, start=axis, end=axis + 1)

    def places(self, size: str) -> str:
        """0, 1, ..., size - 1; ``size`` is a list of one number."""
        return self.add("Range", self.scalar(0), self.add("Squeeze", size, self.ints([0])), self.scalar(1))

    def piece(self, x: str, start: str | int, end: str | int, axis: int, step: int = 1) -> str:
        """x from ``start`` to ``end`` along an axis; where they are names, each holds a list of one number."""
        ends = [place if isinstance(place, str) else self.ints([place]) for place in (start, end)]
        return self.add("Slice", x, *ends, self.ints([axis]), *([self.ints([step])] if step != 1 else []))

    def whole(self, x: str) -> str:
        """x as int64."""
        return self.add("Cast", x, to=TensorProto.INT64)

    # ----- what is known of the node -----

    def input(self, i: int) -> str:
        """Input i, '' where it is left out."""
        return self.node.input[i] if i < len(self.node.input) else ""

    def output(self, i: int) -> str:
        """Output i, '' where it is left out."""
        return self.node.output[i] if i < len(self.node.output) else ""

    def type_of(self, i: int) -> tuple[int, Shape]:
        """Element type and shape of input i, with the sizes that are known. Raises ``NotYetKnown``."""
        name = self.input(i)
        return self.dtype(name), tuple(self.sizes.get((name, axis)) for axis in range(self.rank(name)))

    def array(self, i: int) -> np.ndarray | None:
        """Input i, where it is an initialiser."""
        tensor = self.constants.get(self.input(i))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def rank(self, name: str) -> int:
        """How many axes a tensor has. Raises ``NotYetKnown``."""
        if name not in self.ranks:
            raise NotYetKnown(f"reads '{name}', whose number of axes is not declared")
        return self.ranks[name]

    def dtype(self, *names: str) -> int:
        """The element type of the first of these tensors whose type is known. Raises ``NotYetKnown``."""
        for name in names:
            if name in self.dtypes:
                return self.dtypes[name]
        raise NotYetKnown(f"reads '{names[0]}', whose element type is not declared")

    def text(self, name: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, b"")
        return value.decode() if isinstance(value, bytes) else str(value)

    def number(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def whole_number(self, name: str, default: int = 0) -> int:
        """An int attribute."""
        return int(self.attributes.get(name, default))

    def refuse(self, what: str, advice: str = "") -> ModelError:
        """What is said of a form that is not known: ``what`` the node has or does, and what to do (of fused ones: use those before)."""
        fused = "Use the unoptimised model." if self.node.domain in ("", "ai.onnx", MICROSOFT) else ""
        return ModelError(f"{self.label} {what}, which is not known. {advice or fused}".rstrip())

    @property
    def label(self) -> str:
        """The node in words."""
        name = f"{self.node.domain}.{self.node.op_type}" if self.node.domain else self.node.op_type
        return f"node '{self.node.name or next(filter(None, self.node.output), '')}' ({name})"


Expansion = Callable[[Writer], None]


EXPANSIONS: dict[tuple[str, str], Expansion] = {}
"""Domain and name of an operator -> what writes it in standard ones of opset 18."""

UNSAID: dict[str, tuple[str, int]] = {}
"""Operators that ONNX Runtime reads in the standard domain, which has none of the name -> the domain that they belong to, and the opset
from which on it does not."""


@dataclass(frozen=True)
class Partly:
    """Which nodes of an operator stay, although there is a function that writes it.

    ``output`` is the one that the function makes; the node itself makes the others (``None``: the function makes all). ``of_floats``:
    what works on integers or text stays as it is, since it carries no derivative.
    """

    output: int | None = None
    of_floats: bool = False

    def stays(self, node: onnx.NodeProto, read: Container[str], dtypes: Callable[[], Mapping[str, int]]) -> bool:
        """Whether nothing of a node need be written: nothing reads what would be made, or it holds no floating-point numbers."""
        if self.of_floats and dtypes().get(node.input[0], 0) not in FLOATS | {0}:
            return True
        return self.output is not None and node.output[self.output] not in read


PARTLY: dict[tuple[str, str], Partly] = {}
"""Domain and name of an operator -> which of its nodes stay (not in it: none)."""


def expansion(*op_types: str, domain: str = MICROSOFT, unsaid: int = 0, partly: Partly | None = None) -> Callable[[Expansion], Expansion]:
    """Register the decorated function as what writes ``op_types`` in standard operators, but for what ``partly`` says.

    ``unsaid``: files below this opset may have them in the standard domain, which has no such operator; they are those of ``domain``.
    """

    def register(function: Expansion) -> Expansion:
        EXPANSIONS.update({(domain, op_type): function for op_type in op_types})
        UNSAID.update({op_type: (domain, unsaid) for op_type in op_types if unsaid})
        PARTLY.update({(domain, op_type): partly for op_type in op_types if partly is not None})
        return function

    return register


def expansion_of(node: onnx.NodeProto) -> Expansion | None:
    """What writes a node in standard operators, if it is not walked as it is."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return EXPANSIONS.get((domain, node.op_type))


def partly(node: onnx.NodeProto) -> Partly | None:
    """Which nodes of an operator stay, where some do."""
    return PARTLY.get((node.domain, node.op_type))
