"""Operators that run graphs of their own: how the tensors of such a node are those of its graphs, and how a walk writes such nodes.

What is here says which tensor is which, no more; the walk through the graphs is the engine's (``engine/inside.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxsal.graph import Emit, NodeView, Value


@dataclass(frozen=True)
class Carried:
    """A tensor that goes from step to step: the input with which it begins, the body's input and output, the output at the end."""

    given: int
    inside: int
    made: int
    result: int


@dataclass(frozen=True)
class Strip:
    """A tensor of which every step takes, or makes, one slice: the node's input or output, the body's, the axis, whether from its end."""

    outside: int
    inside: int
    axis: int = 0
    backwards: bool = False


@dataclass(frozen=True)
class Choice:
    """One of two graphs (by their attributes' names) runs, without inputs: the first if the node's input ``by`` is true. Their outputs are
    the node's, in order.
    """

    bodies: Mapping[str, onnx.GraphProto]
    by: int = 0


@dataclass(frozen=True)
class Repeat:
    """One graph runs again and again, as often as the node's input ``count`` says (``None``: once for each slice), as long as ``going``
    holds: the node's input, and the body's input and output with the same meaning. ``iteration`` is the body's input with the number of
    the step.
    """

    bodies: Mapping[str, onnx.GraphProto]
    carried: tuple[Carried, ...]
    read: tuple[Strip, ...] = ()
    stacked: tuple[Strip, ...] = ()
    count: int | None = None
    going: tuple[int, int, int] | None = None
    iteration: int | None = None


Frame = Choice | Repeat

FRAMES: dict[tuple[str, str], Callable[[onnx.NodeProto], Frame]] = {}
"""Domain and name of an operator that runs graphs -> what is said of its nodes."""


def frame(op_type: str) -> Callable[[Callable[[onnx.NodeProto], Frame]], Callable[[onnx.NodeProto], Frame]]:
    """Register the decorated function as what says of a node of ``op_type`` which tensor is which."""

    def register(function: Callable[[onnx.NodeProto], Frame]) -> Callable[[onnx.NodeProto], Frame]:
        FRAMES["", op_type] = function
        return function

    return register


def frame_of(node: NodeView | onnx.NodeProto) -> Frame | None:
    """Which tensor of the node is which of its graphs; ``None``: it runs none, or one that nothing is known of."""
    known = FRAMES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    return None if known is None else known(node.proto if isinstance(node, NodeView) else node)


def _graphs(node: onnx.NodeProto) -> dict[str, onnx.GraphProto]:
    return {a.name: a.g for a in node.attribute if a.HasField("g")}


def _numbers(node: onnx.NodeProto, name: str, count: int) -> Sequence[int]:
    found = next((list(a.ints) for a in node.attribute if a.name == name), [])
    return found or [0] * count


@frame("If")
def _if(node: onnx.NodeProto) -> Choice:
    """Inlined where the condition is known; else the walk goes through both graphs by an If on the same condition."""
    graphs = _graphs(node)
    return Choice({name: graphs[name] for name in ("then_branch", "else_branch")})


@frame("Loop")
def _loop(node: onnx.NodeProto) -> Repeat:
    """Written out where its steps are known and few; else its states are recorded, and a Loop walks from its last step to its first."""
    body = _graphs(node)["body"]
    states = len(body.input) - 2
    return Repeat(
        {"body": body},
        tuple(Carried(2 + i, 2 + i, 1 + i, i) for i in range(states)),
        stacked=tuple(Strip(i, 1 + i) for i in range(states, len(body.output) - 1)),
        count=0,
        going=(1, 1, 0),
        iteration=0,
    )


@frame("Scan")
def _scan(node: onnx.NodeProto) -> Repeat:
    """Written out where its steps are known and few; else its states are recorded, and a Loop walks from its last step to its first."""
    body = _graphs(node)["body"]
    count = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    states, stacks = len(body.input) - count, len(body.output) - len(body.input) + count
    read = zip(_numbers(node, "scan_input_axes", count), _numbers(node, "scan_input_directions", count), strict=True)
    stacked = zip(_numbers(node, "scan_output_axes", stacks), _numbers(node, "scan_output_directions", stacks), strict=True)
    return Repeat(
        {"body": body},
        tuple(Carried(i, i, i, i) for i in range(states)),
        tuple(Strip(states + i, states + i, axis, bool(back)) for i, (axis, back) in enumerate(read)),
        tuple(Strip(states + i, states + i, axis, bool(back)) for i, (axis, back) in enumerate(stacked)),
    )


# ----- what a walk writes -----


def choose(op: Emit, condition: Value, bodies: Sequence[onnx.GraphProto]) -> tuple[Value, ...]:
    """Emit a node that runs the first graph if the condition holds, else the second."""
    return op.subgraph("If", [condition], {"then_branch": bodies[0], "else_branch": bodies[1]}, len(bodies[0].output))


def repeat(op: Emit, count: Value | None, going: Value | None, states: Sequence[Value], body: onnx.GraphProto) -> tuple[Value, ...]:
    """Emit a node that runs a graph ``count`` times, or as long as the condition holds; its last states, then what steps made, stacked."""
    return op.subgraph("Loop", [count, going, *states], {"body": body}, len(body.output) - 1)


def empty_sequence(op: Emit, dtype: int) -> Value:
    """A sequence of tensors of that element type, with none in it yet."""
    empty: Value = op.SequenceEmpty(dtype=dtype)
    return empty


def sequence_info(name: str, dtype: int) -> onnx.ValueInfoProto:
    """The declaration of a sequence of tensors."""
    return helper.make_tensor_sequence_value_info(name, dtype, None)


# ----- sizes -----

OPEN = -(2**40)
"""In place of a size that is not known: no size is negative."""


def sizes_told(node: NodeView) -> np.ndarray | None:
    """What a node that tells sizes says, with ``OPEN`` for those that are not known; ``None`` where it tells none, or not even how many."""
    if node.op_type not in ("Shape", "Size") or node.x.shape is None:
        return None
    sizes = [d if isinstance(d, int) else OPEN for d in node.x.shape]
    if node.op_type == "Size":
        return None if OPEN in sizes else np.asarray(np.prod(sizes, dtype=np.int64))
    return np.asarray(sizes[slice(node.attr("start") or 0, node.attr("end"))], np.int64)


def takes_all(node: NodeView) -> bool:
    """Whether a node cuts all of its input out of it, ``x[:]``: inference does not see that sizes without a number stay as they are."""
    if node.op_type != "Slice" or node.domain:
        return False
    starts, ends, steps = node.ints(1), node.ints(2), [1] if node.optional(4) is None else node.ints(4)
    if starts is None or ends is None or steps is None:
        return False
    return not any(starts) and all(end >= 2**31 - 1 for end in ends) and all(step == 1 for step in steps)


# ----- what stands for steps that are written out -----

Nodes = list[onnx.NodeProto]
Tensors = list[onnx.TensorProto]

COPY = "Identity"
"""A tensor under another name."""


def _ints(tensors: Tensors, name: str, values: int | list[int]) -> str:
    tensors.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
    return name


def slice_of(nodes: Nodes, tensors: Tensors, name: str, axis: int, at: int, result: str) -> None:
    """Append what takes one slice of a tensor, without the axis."""
    nodes.append(helper.make_node("Gather", [name, _ints(tensors, f"{result}/at", at)], [result], name=f"{result}/Gather", axis=axis))


def stacked(nodes: Nodes, tensors: Tensors, names: Sequence[str], axis: int, result: str, prefix: str) -> None:
    """Append what lays tensors beside each other along a new axis."""
    scope = f"{prefix}{result}"
    axes = _ints(tensors, f"{scope}/axis", [axis])
    wide = [f"{scope}/{i}" for i in range(len(names))] if len(names) > 1 else [result]
    nodes += [helper.make_node("Unsqueeze", [n, axes], [w], name=f"{w}/Unsqueeze") for n, w in zip(names, wide, strict=True)]
    if len(names) > 1:
        nodes.append(helper.make_node("Concat", wide, [result], name=f"{scope}/Concat", axis=axis))
