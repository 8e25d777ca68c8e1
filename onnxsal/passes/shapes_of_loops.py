"""Declare the shapes of what loops make: inference takes every step to make another shape, and then knows nothing behind them."""

from __future__ import annotations

import onnx

from onnxsal.facts.bodies import declarations
from onnxsal.graph import Model
from onnxsal.ops.control import frame_of
from onnxsal.passes.base import Pass, PassOutcome


def _run(proto: onnx.ModelProto) -> PassOutcome:
    told: dict[str, onnx.ValueInfoProto] = {}
    while found := [info for node in Model(proto).nodes for info in declarations(node) if info.name not in told]:
        told |= {info.name: info for info in found}
        for info in found:
            _declare(proto.graph, info)
    return PassOutcome(len(told), f"found the shapes of {len(told)} tensor(s) that loops make" if told else "")


def _declare(graph: onnx.GraphProto, info: onnx.ValueInfoProto) -> None:
    known = next((v for v in (*graph.output, *graph.value_info) if v.name == info.name), None)
    if known is None:
        graph.value_info.append(info)
    else:
        known.type.CopyFrom(info.type)


SHAPES_OF_LOOPS = Pass(
    "shapes of loops",
    _run,
    requires=lambda proto: "" if any(frame_of(n) for n in proto.graph.node) else "no node runs a graph",
)
"""After loops that are short are written out: of these inference knows the shapes."""
