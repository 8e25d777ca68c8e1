"""The part of a model that computes some of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from onnxsal.facts.solve import ancestors
from onnxsal.graph import Model
from onnxsal.large import Apart, apart


def cut_out(proto: onnx.ModelProto, used: set[str]) -> onnx.ModelProto:
    """The nodes that make the tensors ``used``, and the weights among these: a model still without inputs and outputs."""
    whole, part = proto.graph, onnx.ModelProto(ir_version=proto.ir_version)
    part.opset_import.extend(proto.opset_import)
    part.functions.extend(proto.functions)
    part.graph.name = whole.name or "part"
    part.graph.node.extend(n for n in whole.node if not used.isdisjoint(n.output))
    part.graph.initializer.extend(t for t in whole.initializer if t.name in used)
    part.graph.sparse_initializer.extend(t for t in whole.sparse_initializer if t.values.name in used)
    return part


def part_of(model: Model, outputs: Sequence[str]) -> Apart:
    """A model of the nodes that ``outputs`` (any tensors) need, with the inputs they need; no declared shape but the inputs' is kept."""
    used, whole = ancestors(model, outputs), apart(model.proto)
    part = cut_out(whole.light, used)
    part.graph.input.extend(i for i in model.proto.graph.input if i.name in used)
    part.graph.output.extend(helper.make_tensor_value_info(n, model.value(n).dtype, None) for n in outputs)
    return Apart(part, {name: weight for name, weight in whole.weights.items() if name in used})
