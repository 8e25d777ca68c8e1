"""Declare the shapes of what loops make: inference takes every step to make another shape, and then knows nothing behind them."""

from __future__ import annotations

import onnx

from onnxsal.facts.bodies import declare
from onnxsal.ops.control import frame_of
from onnxsal.passes.base import Pass, PassOutcome


def _run(proto: onnx.ModelProto) -> PassOutcome:
    told = declare(proto)
    return PassOutcome(len(told), f"found the shapes of {len(told)} tensor(s) that loops make" if told else "")


SHAPES_OF_LOOPS = Pass(
    "shapes of loops",
    _run,
    requires=lambda proto: "" if any(frame_of(n) for n in proto.graph.node) else "no node runs a graph",
)
"""After loops that are short are written out: of these inference knows the shapes."""
