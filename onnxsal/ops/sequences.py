"""Lists of tensors: what a node on lists does to them, where it is known which tensors they hold, in operators on tensors.

A list is the names of its tensors. What is not known stays as it is, and is refused where a signal would have to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxsal.graph import NodeView
from onnxsal.ops.control import COPY, stacked
from onnxsal.ops.registry import not_yet

Names = tuple[str, ...]

Stack = tuple[str, int]
"""A tensor whose slices along its first axis are the tensors of a list, however many, and how many axes it has."""


@dataclass
class TensorList:
    """A node on lists that is being resolved. ``lists`` has what is known of lists, ``held`` what optional values hold ('' = nothing),
    ``stacks`` the lists that are a tensor's slices.
    """

    node: onnx.NodeProto
    view: NodeView
    prefix: str
    lists: dict[str, Names]
    held: dict[str, str]
    stacks: dict[str, Stack]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def input(self, i: int) -> str:
        """The name of input i, '' where it is left out."""
        return self.node.input[i] if i < len(self.node.input) else ""

    def of(self, i: int) -> Names | None:
        """The tensors of the list that is input i."""
        return self.lists.get(self.input(i))

    def position(self, i: int, count: int, default: int) -> int | None:
        """A position among ``count``, which is input i; ``None``: not known."""
        array = self.view.const(i)
        if array is None or array.size != 1:
            return None if self.input(i) else default
        at = int(array.reshape(-1)[0])
        at = at + count if at < 0 else at
        return at if 0 <= at <= count else None

    def makes(self, names: Sequence[str]) -> bool:
        """The node's output is the list of these tensors."""
        self.lists[self.node.output[0]] = tuple(names)
        return True

    def same(self, name: str) -> bool:
        """The node's output is this tensor, or this list."""
        result = self.node.output[0]
        if name in self.lists:
            return self.makes(self.lists[name])
        self.nodes.append(helper.make_node(COPY, [name], [result], name=f"{result}/{COPY}"))
        return True

    def constant(self, array: np.ndarray, result: str) -> str:
        """A constant as the tensor ``result``."""
        self.initializers.append(numpy_helper.from_array(array, result))
        return result


Resolve = Callable[[TensorList], bool]

LISTS: dict[str, Resolve] = {}
"""Operator -> what resolves a node of it; it tells whether that was known."""

WHY = (
    "it is not known before the model runs which tensors its list holds; export the model with a fixed number of elements, or with one "
    "tensor in their place"
)


def on_lists(op_type: str) -> Callable[[Resolve], Resolve]:
    """Register the decorated function as what resolves nodes of ``op_type``."""

    def register(function: Resolve) -> Resolve:
        LISTS[op_type] = function
        return function

    return register


not_yet(
    WHY,
    *("SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt", "SplitToSequence", "ConcatFromSequence", "SequenceMap"),
    *("Optional", "OptionalGetElement"),
)


@on_lists("SequenceConstruct")
def _construct(it: TensorList) -> bool:
    """A list of its inputs."""
    return it.makes(it.node.input)


@on_lists("SequenceEmpty")
def _empty(it: TensorList) -> bool:
    """A list of nothing."""
    return it.makes(())


@on_lists("SequenceInsert")
def _insert(it: TensorList) -> bool:
    """The list with one tensor more, at a position that is known."""
    names = it.of(0)
    at = None if names is None else it.position(2, len(names), len(names))
    return names is not None and at is not None and it.makes([*names[:at], it.input(1), *names[at:]])


@on_lists("SequenceErase")
def _erase(it: TensorList) -> bool:
    """The list without the tensor at a position that is known."""
    names = it.of(0)
    at = None if not names else it.position(1, len(names), len(names) - 1)
    return names is not None and at is not None and it.makes([*names[:at], *names[at + 1 :]])


@on_lists("SequenceAt")
def _at(it: TensorList) -> bool:
    """The tensor at a position that is known."""
    names = it.of(0)
    at = None if names is None else it.position(1, len(names), 0)
    return names is not None and at is not None and at < len(names) and it.same(names[at])


@on_lists("SequenceLength")
def _length(it: TensorList) -> bool:
    """A constant."""
    names = it.of(0)
    return names is not None and it.same(it.constant(np.asarray(len(names), np.int64), f"{it.prefix}length"))


@on_lists("SplitToSequence")
def _split(it: TensorList) -> bool:
    """A piece for each number of the second input, or as long as it says (the last may be shorter), or of length 1, whose axis may go."""
    x, given = it.view.input(0), it.view.const(1)
    if it.input(1) and given is None:
        return False
    if given is not None and given.ndim == 1:
        sizes = [int(n) for n in given]
    else:
        axis = it.view.attr("axis") or 0
        length = x.dim(axis % x.rank) if x.shape is not None else None
        if not length:
            return False
        step = 1 if given is None else max(int(given), 1)
        sizes = [min(step, length - at) for at in range(0, length, step)]
    axis = it.view.attr("axis") or 0
    names = [f"{it.prefix}{i}" for i in range(len(sizes))]
    lengths = it.constant(np.asarray(sizes, np.int64), f"{it.prefix}sizes")
    it.nodes.append(helper.make_node("Split", [it.input(0), lengths], names, name=f"{it.prefix}Split", axis=axis))
    if not it.input(1) and it.view.attr("keepdims") == 0:
        axes = it.constant(np.asarray([axis], np.int64), f"{it.prefix}axes")
        slices = [f"{name}/slice" for name in names]
        it.nodes += [helper.make_node("Squeeze", [n, axes], [s], name=f"{s}/Squeeze") for n, s in zip(names, slices, strict=True)]
        names = slices
    return it.makes(names)


@on_lists("ConcatFromSequence")
def _concat(it: TensorList) -> bool:
    """The tensors of the list joined, along an axis or a new one."""
    names, axis = it.of(0), it.view.attr("axis")
    result = it.node.output[0]
    if it.input(0) in it.stacks:
        name, rank = it.stacks[it.input(0)]
        at = axis % rank
        perm = [*range(1, at + 1), 0, *range(at + 1, rank)]
        it.nodes.append(helper.make_node("Transpose", [name], [result], name=f"{it.prefix}Transpose", perm=perm))
        return True
    if not names:
        return False
    if it.view.attr("new_axis"):
        stacked(it.nodes, it.initializers, names, axis, result, it.prefix)
        return True
    it.nodes.append(helper.make_node("Concat", list(names), [result], name=f"{it.prefix}Concat", axis=axis))
    return True


@on_lists(COPY)
def _identity(it: TensorList) -> bool:
    if it.input(0) in it.held:
        it.held[it.node.output[0]] = it.held[it.input(0)]
        return True
    return it.of(0) is not None and it.same(it.input(0))


@on_lists("Optional")
def _optional(it: TensorList) -> bool:
    """What it holds, if anything."""
    it.held[it.node.output[0]] = it.input(0)
    return True


@on_lists("OptionalGetElement")
def _element(it: TensorList) -> bool:
    """What is held."""
    name = it.held.get(it.input(0), it.input(0) if _is_value(it) else "")
    return bool(name) and it.same(name)


@on_lists("OptionalHasElement")
def _has_element(it: TensorList) -> bool:
    """A constant."""
    known = not it.input(0) or it.input(0) in it.held or _is_value(it)
    if not known:
        return False
    has = bool(it.held.get(it.input(0), it.input(0)))
    return it.same(it.constant(np.asarray(has), f"{it.prefix}has"))


def _is_value(it: TensorList) -> bool:
    """Whether the first input is a tensor or a list itself, and nothing optional."""
    return it.of(0) is not None or bool((value := it.view.optional(0)) and value.dtype)


def appended(node: onnx.NodeProto) -> str:
    """The tensor that a node puts at the end of a list ('' = it does something else)."""
    appends = node.op_type == "SequenceInsert" and not any(node.input[2:])
    return node.input[1] if appends else ""


def stacks(node: onnx.NodeProto) -> bool:
    """Whether a node lays the tensors of a list beside each other along a new axis."""
    return node.op_type == "ConcatFromSequence" and any(a.name == "new_axis" and a.i for a in node.attribute)


def mapped(node: onnx.NodeProto) -> onnx.GraphProto | None:
    """The graph that a node runs on every element of its first input, and on those of its other lists beside it."""
    return node.attribute[0].g if node.op_type == "SequenceMap" and node.domain in ("", "ai.onnx") else None


def on_lists_of(node: onnx.NodeProto) -> Resolve | None:
    """What resolves a node on lists of tensors."""
    return LISTS.get(node.op_type) if node.domain in ("", "ai.onnx") else None


def makes_lists(node: onnx.NodeProto, lists: Mapping[str, Names], held: Mapping[str, str]) -> bool:
    """Whether the outputs of a node are lists that are known, or what holds them."""
    return all(name in lists or name in held for name in node.output if name)


def works_on_lists(node: onnx.NodeProto) -> bool:
    """Whether a node makes, reads or holds lists, and nothing else."""
    return on_lists_of(node) is not None and node.op_type != COPY
