"""The part of a model that computes some of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from onnxsal.facts.solve import ancestors
from onnxsal.graph import Model, NodeView, Value
from onnxsal.graph.infer import Shape
from onnxsal.graph.model import captured
from onnxsal.graph.provenance import METADATA
from onnxsal.large import Apart, apart


def part_of(model: Model, outputs: Sequence[str], declared: bool = False, given: Sequence[Value] = ()) -> Apart:
    """A model of the nodes that ``outputs`` (any tensors) need, with the inputs they need; no declared shape but the inputs' is kept.

    ``declared`` keeps what the file declares: inputs that nothing needs, the graph's outputs as they stand there and in that order,
    shapes, scales of quantised tensors, who made it (not the metadata of a conversion). Tensors that are ``given`` are its only inputs,
    and what they are computed from is left out.
    """
    cut = {value.name for value in given}
    used = ancestors(model, outputs, lambda node: () if cut.intersection(node.proto.output) else _reads(node))
    whole = apart(model.proto)
    graph, part = whole.light.graph, onnx.ModelProto(ir_version=whole.light.ir_version)
    part.opset_import.extend(whole.light.opset_import)
    part.functions.extend(whole.light.functions)
    part.graph.name = graph.name or "part"
    part.graph.node.extend(n for n in graph.node if not used.isdisjoint(n.output) and cut.isdisjoint(n.output))
    part.graph.initializer.extend(t for t in graph.initializer if t.name in used)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in used)
    stored = {t.name for t in graph.initializer}
    if given:
        part.graph.input.extend(helper.make_tensor_value_info(v.name, v.dtype, _open(v.shape)) for v in given)
    part.graph.input.extend(i for i in graph.input if not given and (i.name in used or (declared and i.name not in stored)))
    if declared:
        _declare(part, whole.light, used, outputs)
    else:
        no_tensors = {o.name: o for o in graph.output if not o.type.HasField("tensor_type")}
        part.graph.output.extend(no_tensors.get(n) or helper.make_tensor_value_info(n, model.value(n).dtype, None) for n in outputs)
    return Apart(part, {name: weight for name, weight in whole.weights.items() if name in used})


def _reads(node: NodeView) -> list[str]:
    return [name for name in (*node.proto.input, *captured(node.proto)) if name]


def _open(shape: Shape | None) -> list[int | str | None] | None:
    """A shape without the names that inference invents, which would bind sizes of one part to each other."""
    return None if shape is None else [d if isinstance(d, int) else None for d in shape]


def _declare(part: onnx.ModelProto, whole: onnx.ModelProto, used: set[str], outputs: Sequence[str]) -> None:
    """Take over what is said of the tensors of a part, and of its file."""
    for field in ("producer_name", "producer_version", "domain", "model_version"):
        setattr(part, field, getattr(whole, field))
    part.metadata_props.extend(p for p in whole.metadata_props if not p.key.startswith(METADATA))
    part.graph.output.extend(o for o in whole.graph.output if o.name in outputs)
    part.graph.value_info.extend(v for v in whole.graph.value_info if v.name in used)
    part.graph.quantization_annotation.extend(a for a in whole.graph.quantization_annotation if a.tensor_name in used)
