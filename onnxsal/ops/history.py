"""What single operators meant in older opsets, where ONNX's version converter does not carry it over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxsal.graph.infer import constant_tensor, inferred, without_weights

Change = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Repair:
    """A change that models below opset ``since`` need, before they are converted (``first``) or afterwards."""

    since: int
    first: bool
    apply: Change


REPAIRS: list[Repair] = []


def repair(since: int, first: bool = False) -> Callable[[Change], Change]:
    """Register the decorated function as a ``Repair``."""

    def register(change: Change) -> Change:
        REPAIRS.append(Repair(since, first, change))
        return change

    return register


@repair(since=7, first=True)
def _reshape_slopes(proto: onnx.ModelProto) -> None:
    """PRelu-6 slopes [C] run along axis 1; from opset 7 they broadcast from the right, so they become [C, 1, 1]."""
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in inferred(without_weights(proto)).graph.value_info
        if v.type.tensor_type.HasField("shape")
    }
    ranks |= {v.name: len(v.type.tensor_type.shape.dim) for v in proto.graph.input if v.type.tensor_type.HasField("shape")}
    slopes = {n.input[1]: ranks.get(n.input[0]) for n in proto.graph.node if n.op_type == "PRelu"}
    for tensor in proto.graph.initializer:
        rank = slopes.get(tensor.name)
        if rank is not None and len(tensor.dims) == 1 and tensor.dims[0] > 1 and rank > 2:
            array = numpy_helper.to_array(tensor).reshape(-1, *[1] * (rank - 2))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@repair(since=11)
def _restore_resize(proto: onnx.ModelProto) -> None:
    """Give Resize nodes (Upsample too, by now) the meaning that they had up to opset 10, which the converter forgets.

    Coordinates are asymmetric. The nearest element is the lower one when enlarging; ONNX Runtime takes the upper one when shrinking.
    """
    _as_before_11(proto.graph, {})


def _as_before_11(graph: onnx.GraphProto, known: dict[str, np.ndarray]) -> None:
    known = known | {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.dims and t.dims[0] <= 8 and len(t.dims) == 1}
    for node in graph.node:
        stored = constant_tensor(node)
        if stored is not None:
            known[node.output[0]] = numpy_helper.to_array(stored)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _as_before_11(attribute.g, known)
        if node.op_type == "Resize":
            scales = known.get(node.input[2]) if len(node.input) > 2 else None
            shrinks = scales is not None and scales.size and scales.max() <= 1
            _set_attribute(node, "coordinate_transformation_mode", "asymmetric")
            _set_attribute(node, "nearest_mode", "ceil" if shrinks else "floor")


@repair(since=10)
def _forget_mask_types(proto: onnx.ModelProto) -> None:
    """The mask of a Dropout was floating point up to opset 9 and is boolean now; what the model says of its type is out of date."""
    graph = proto.graph
    masks = {n.output[1] for n in graph.node if n.op_type == "Dropout" and len(n.output) > 1}
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name not in masks]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _set_attribute(node: onnx.NodeProto, name: str, value: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend([*copies, helper.make_attribute(name, value)])


@repair(since=13)
def _plain_softmax(proto: onnx.ModelProto) -> None:
    """Up to opset 12 a Softmax took all axes from one on together; where that one was the last it is a Softmax over that axis.

    Where the converter does not know how many axes there are, it writes Flatten, Softmax and Reshape instead.
    """
    graph = proto.graph
    made = {output: node for node in graph.node for output in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    found = [flat for node in graph.node if (flat := _flattened(node, made, readers)) is not None]
    if not found:
        return
    known = inferred(without_weights(proto)).graph
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in (*known.input, *known.value_info, *known.output)
        if v.type.tensor_type.HasField("shape")
    }
    gone: set[str] = set()
    for flatten, softmax, reshape, shape in found:
        axis = next((a.i for a in flatten.attribute if a.name == "axis"), 1)
        if ranks.get(flatten.input[0]) == axis + 1:
            gone.update((*flatten.output, *softmax.output, *(shape.output if readers[shape.output[0]] == 1 else ())))
            name = reshape.output[0]
            reshape.CopyFrom(helper.make_node(softmax.op_type, [flatten.input[0]], [name], name=softmax.name, axis=-1))
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node if n.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(kept)


def _flattened(
    node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], readers: Mapping[str, int]
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """(Flatten of x, Softmax, Reshape, Shape of x), where a node is such a Reshape and nothing else reads the first two."""
    if node.op_type != "Reshape":
        return None
    softmax, shape = made.get(node.input[0]), made.get(node.input[1])
    flatten = made.get(softmax.input[0]) if softmax is not None and softmax.op_type in ("Softmax", "LogSoftmax", "Hardmax") else None
    if softmax is None or shape is None or flatten is None or (flatten.op_type, shape.op_type) != ("Flatten", "Shape"):
        return None
    alone = readers[softmax.output[0]] == 1 == readers[flatten.output[0]]
    return (flatten, softmax, node, shape) if alone and shape.input[0] == flatten.input[0] else None
