"""Give an input without a shape the number of axes that it must have; its sizes stay open."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnxsal.graph.infer import infer_shapes, without_weights
from onnxsal.passes.base import Pass, PassOutcome

HIGHEST = 6
"""Tensors of more axes are not looked for."""


def declare_ranks(example: Mapping[str, np.ndarray] | None = None) -> Pass:
    """A pass that takes the number of axes from ``example``, or else from the graph, where inference accepts one number only."""

    def run(proto: onnx.ModelProto) -> PassOutcome:
        told = []
        for value in rankless(proto):
            if example is not None and value.name in example:
                rank, why = np.ndim(example[value.name]), "in the data given"
            else:
                fitting = possible_ranks(proto, value.name)
                if len(fitting) != 1:
                    continue
                rank, why = fitting[0], "the only number that the nodes reading it take"
            _declare(value, rank)
            told.append(f"input '{value.name}' has {rank} axes, {why}")
        return PassOutcome(len(told), "; ".join(told))

    return Pass("declare ranks", run, requires=lambda proto: "" if rankless(proto) else "every input has a shape")


def rankless(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The tensors among the inputs whose number of axes is not declared."""
    weights = {t.name for t in proto.graph.initializer}
    return [
        v
        for v in proto.graph.input
        if v.name not in weights and v.type.HasField("tensor_type") and not v.type.tensor_type.HasField("shape")
    ]


def possible_ranks(proto: onnx.ModelProto, name: str) -> list[int]:
    """The numbers of axes of an input under which shape inference finds no contradiction anywhere in the model."""
    fitting = []
    for rank in range(HIGHEST + 1):
        light = onnx.ModelProto()
        light.CopyFrom(without_weights(proto))
        _declare(next(v for v in light.graph.input if v.name == name), rank)
        try:
            infer_shapes(light, strict_mode=True)
        except Exception:  # onnx raises several kinds here, without a common base: each is the contradiction looked for
            continue
        fitting.append(rank)
    return fitting


def _declare(value: onnx.ValueInfoProto, rank: int) -> None:
    shape = value.type.tensor_type.shape
    shape.Clear()
    shape.SetInParent()
    for _ in range(rank):
        shape.dim.add()
