"""The part of a model that computes some of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import helper

from onnxsal.graph.model import Model, captured


def needed_names(proto: onnx.ModelProto, outputs: Collection[str]) -> set[str]:
    """The tensors that ``outputs`` are computed from, themselves included."""
    reads = {o: [*filter(None, n.input), *captured(n)] for n in proto.graph.node for o in n.output if o}
    used, todo = set[str](), list(outputs)
    while todo:
        name = todo.pop()
        if name not in used:
            used.add(name)
            todo += reads.get(name, [])
    return used


def part_of(model: Model, outputs: Sequence[str]) -> onnx.ModelProto:
    """A model of the nodes that ``outputs`` (any tensors) need, with the inputs they need; no declared shape but the inputs' is kept."""
    whole, used = model.proto.graph, needed_names(model.proto, outputs)
    part = onnx.ModelProto(ir_version=model.proto.ir_version)
    part.opset_import.extend(model.proto.opset_import)
    part.functions.extend(model.proto.functions)
    part.graph.name = whole.name or "part"
    part.graph.node.extend(n for n in whole.node if used.intersection(n.output))
    part.graph.initializer.extend(t for t in whole.initializer if t.name in used)
    part.graph.sparse_initializer.extend(t for t in whole.sparse_initializer if t.values.name in used)
    part.graph.input.extend(i for i in whole.input if i.name in used)
    part.graph.output.extend(helper.make_tensor_value_info(n, model.value(n).dtype, None) for n in outputs)
    return part
