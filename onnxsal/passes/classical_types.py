"""Declare what classical operators make of a table, where shape inference tells nothing of it."""

from __future__ import annotations

import onnx
from onnx import helper

from onnxsal.graph.infer import infer_shapes, types_of, without_weights
from onnxsal.ops.classical import made_by
from onnxsal.passes.base import Pass, PassOutcome


def _undeclared(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    told = [(name, *made) for n in proto.graph.node for name, made in zip(n.output, made_by(n), strict=False) if name]
    if not told:
        return []
    types = types_of(infer_shapes(without_weights(proto)))
    return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in told if not types.get(name, (0, None))[0]]


def _run(proto: onnx.ModelProto) -> PassOutcome:
    proto.graph.value_info.extend(_undeclared(proto))
    return PassOutcome()


CLASSICAL_TYPES = Pass(
    "types of classical operators",
    _run,
    requires=lambda proto: "" if any(made_by(n) for n in proto.graph.node) else "no such operator",
)
