"""How much memory a run takes: the bytes of the tensors that are alive at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import helper

from onnxsal.graph import Model
from onnxsal.large import light_copy
from onnxsal.protos import graphs_of


def bytes_per_sample(model: onnx.ModelProto, samples: Collection[str], target: str) -> int | None:
    """The bytes that one sample more takes in a run: the difference of two samples and one, in the most that is alive at once.

    ``samples`` are the inputs that hold samples, ``target`` the one that holds classes. Kernels take room to work in beside it, and a
    runtime's arena is larger than what it holds. ``None`` where sizes are not known: in loops, and where more than the batch is open.
    """
    one, two = (_most_alive(_with_rows(model, samples, target, rows)) for rows in (1, 2))
    return None if one is None or two is None else two - one


def _with_rows(model: onnx.ModelProto, samples: Collection[str], target: str, rows: int) -> onnx.ModelProto:
    """A copy without weights in which the batch, by whatever name, has so many rows."""
    light = light_copy(model)
    stored = {t.name for t in light.graph.initializer}
    for value in [v for v in light.graph.input if v.name in stored]:  # what need not be fed has the size that is stored
        light.graph.input.remove(value)
    dims = {v.name: v.type.tensor_type.shape.dim for v in light.graph.input if v.type.tensor_type.shape.dim}
    names = {dims[name][0].dim_param for name in (*samples, target) if name in dims} - {""}
    for name, shape in dims.items():
        for axis, dim in enumerate(shape):
            if dim.dim_param in names or (axis == 0 and name in samples):
                dim.dim_value = rows
    return light


def _most_alive(light: onnx.ModelProto) -> int | None:
    """The most bytes that are alive at once, weights and inputs left out; ``None`` where a size is not known."""
    if any(next(graphs_of(node), None) is not None for node in light.graph.node):
        return None
    model = Model(light)
    sizes: dict[str, int] = {}
    for name in (name for node in model.nodes for name in node.proto.output if name):
        value = model.value(name)
        if value.static is None or not value.dtype:
            return None
        sizes[name] = math.prod(value.static) * helper.tensor_dtype_to_np_dtype(value.dtype).itemsize
    return most_alive(_as_needed(light.graph), sizes, [o.name for o in light.graph.output])


def _as_needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in the order of a walk back from the outputs, each when it is needed: about the order in which ONNX Runtime runs them."""
    makers = {name: node for node in graph.node for name in node.output if name}
    order: dict[int, onnx.NodeProto] = {}
    for output in graph.output:
        todo = [(makers[output.name], False)] if output.name in makers else []
        while todo:
            node, ready = todo.pop()
            if ready:
                order.setdefault(id(node), node)
            elif id(node) not in order:
                todo.append((node, True))
                todo += [(makers[name], False) for name in reversed(node.input) if name in makers and id(makers[name]) not in order]
    return list(order.values())


def most_alive(nodes: Sequence[onnx.NodeProto], sizes: Mapping[str, int], kept: Collection[str]) -> int:
    """The largest sum of ``sizes`` of tensors that are alive: made by a node that ran, and read by one that did not, or ``kept``."""
    last = {name: i for i, node in enumerate(nodes) for name in (*node.output, *node.input)} | dict.fromkeys(kept, len(nodes))
    alive: dict[str, int] = {}
    most = 0
    for i, node in enumerate(nodes):
        alive |= {name: sizes[name] for name in node.output if name}
        most = max(most, sum(alive.values()))
        for name in (*node.input, *node.output):
            if name in alive and last[name] == i:
                del alive[name]
    return most
