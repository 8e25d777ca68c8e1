"""What crosses between a card and its host at every turn of a loop, by the rules after which ONNX Runtime places nodes for CUDA.

A node whose kernel is CUDA's runs on the card, but a few of its inputs are read on the host, and sizes are told there. Nodes that depend on
nothing but such sizes, small constants and what the graph is given are put on the host too. What is wanted on the other side is copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

READ_ON_HOST: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
"""Operator -> the inputs that its CUDA kernel wants in the memory of the host."""

TOLD_ON_HOST = ("Shape", "Size")
"""Operators whose CUDA kernel leaves its result in the memory of the host."""

SMALL = 100
"""Elements of a constant that the host may have too."""


def loop_of(model: onnx.ModelProto) -> onnx.GraphProto:
    """The body of the one loop of a converted model."""
    (loop,) = [n for n in model.graph.node if n.op_type == "Loop"]
    return next(a.g for a in loop.attribute if a.name == "body")


def on_host(body: onnx.GraphProto, constants: Mapping[str, int]) -> set[str]:
    """The tensors of the body that are made on the host; ``constants`` are those around and in it, with their numbers of elements."""
    given, host = {i.name for i in body.input}, set[str]()
    for node in body.node:
        if all(name in constants for name in node.input if name):
            continue
        wanted = READ_ON_HOST.get(node.op_type, ())
        free = [name for name in node.input if name and constants.get(name, SMALL + 1) > SMALL and name not in given]
        asks = any(name in host and i not in wanted for i, name in enumerate(node.input))
        refuses = any(name not in host for name in free) or any(i in wanted and name in host for i, name in enumerate(node.input))
        if node.op_type in TOLD_ON_HOST or (asks and not refuses):
            host.update(node.output)
    return host


def crossing(model: onnx.ModelProto) -> list[tuple[str, bool]]:
    """The tensors that are copied at each turn of the loop of a converted model, and whether to the host or (False) to the card."""
    body = loop_of(model)
    constants = {t.name: math.prod(t.dims) for t in (*model.graph.initializer, *body.initializer)}
    for node in (*model.graph.node, *body.node):  # folded when the file is opened
        if node.input and all(name in constants for name in node.input if name):
            constants.update(dict.fromkeys(node.output, SMALL + 1))
    made = on_host(body, constants)
    host = made | {i.name for i in body.input[:2]}
    wanted = [(o.name, i == 0) for i, o in enumerate(body.output)]  # the loop itself asks on the host whether it goes on
    for node in body.node:
        there = node.op_type not in TOLD_ON_HOST and bool(made.intersection(node.output))
        wanted += [(name, there or i in READ_ON_HOST.get(node.op_type, ())) for i, name in enumerate(node.input) if name]
    return sorted({(name, there) for name, there in wanted if name not in constants and (name in host) != there})
