"""How much memory a run takes: the bytes of the tensors that are alive at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import helper

from onnxsal.graph import Model
from onnxsal.large import light_copy
from onnxsal.protos import graphs_of
from onnxsal.runtime.batches import fixed_batch


def bytes_per_sample(model: onnx.ModelProto, samples: Collection[str], target: str) -> int | None:
    """The bytes of what is alive at once in a run, for each sample: of an open batch the difference of two samples and one.

    ``samples`` are the inputs that hold samples, ``target`` the one that holds classes. What is made of weights alone is left out: it is
    computed at opening. Kernels take room to work in beside it, and a runtime's arena is larger than what it holds. ``None`` where sizes
    are not known: in loops, and where more than the batch is open.
    """
    count = fixed_batch(model, samples) or (0 if samples else 1)
    if count:
        alive = _most_alive(model, samples, target, count)
        return None if alive is None else alive // count
    one, two = (_most_alive(model, samples, target, rows) for rows in (1, 2))
    return None if one is None or two is None else two - one


def _most_alive(model: onnx.ModelProto, samples: Collection[str], target: str, rows: int) -> int | None:
    """The most bytes that are alive at once in a run of so many ``rows``; ``None`` where a size is not known."""
    if any(next(graphs_of(node), None) is not None for node in model.graph.node):
        return None
    stored = {t.name for t in model.graph.initializer}
    changing = {v.name for v in model.graph.input} - stored
    view = Model(_with_rows(model, samples, target, rows))
    sizes: dict[str, int] = {}
    for node in view.nodes:
        depends = not changing.isdisjoint(node.proto.input)
        changing.update(node.proto.output if depends else ())
        for name in filter(None, node.proto.output):
            value = view.value(name)
            if depends and (value.static is None or not value.dtype):
                return None
            sizes[name] = math.prod(value.static or ()) * helper.tensor_dtype_to_np_dtype(value.dtype).itemsize if depends else 0
    return most_alive(_as_needed(view.proto.graph), sizes, view.output_names)


def _with_rows(model: onnx.ModelProto, samples: Collection[str], target: str, rows: int) -> onnx.ModelProto:
    """A copy in which the batch, by whatever name, has so many rows. Weights have their size and no data; what need not be fed is one."""
    light, stored = light_copy(model), {t.name for t in model.graph.initializer}
    fed = {v.name: v.type.tensor_type.shape.dim for v in light.graph.input if v.name not in stored and v.type.tensor_type.shape.dim}
    names = {fed[name][0].dim_param for name in (*samples, target) if name in fed} - {""}
    for name, shape in fed.items():
        for axis, dim in enumerate(shape):
            if dim.dim_param in names or (axis == 0 and name in samples):
                dim.dim_value = rows
    kept = {t.name for t in light.graph.initializer}
    for value in [v for v in light.graph.input if v.name in kept]:
        light.graph.input.remove(value)
    return light


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
    now = most = 0
    for i, node in enumerate(nodes):
        made = {name: sizes[name] for name in node.output if name}
        alive |= made
        now += sum(made.values())
        most = max(most, now)
        for name in dict.fromkeys((*node.input, *node.output)):
            if name in alive and last[name] == i:
                now -= alive.pop(name)
    return most
