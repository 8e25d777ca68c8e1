"""Take the weights out of a model while another library rewrites its nodes: faster, and half the memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

_WEIGHT = 1024
"""Initialisers with more elements are weights; the smaller ones may be shapes and axes, which a rewrite can need to read."""


@dataclass
class Taken:
    """The initialisers that were taken out, and the graph inputs that stand in for them."""

    initializers: list[onnx.TensorProto]
    stand_ins: set[str]


def take_out(proto: onnx.ModelProto) -> Taken:
    """Replace weights by graph inputs of their type; undo with ``put_back``."""
    declared = {i.name for i in proto.graph.input}
    weights = [t for t in proto.graph.initializer if int(np.prod(t.dims, dtype=np.int64)) > _WEIGHT]
    small = [t for t in proto.graph.initializer if int(np.prod(t.dims, dtype=np.int64)) <= _WEIGHT]
    taken = Taken([_moved(t) for t in weights], {t.name for t in weights} - declared)
    kept = [_moved(t) for t in small]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    proto.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in taken.initializers if t.name in taken.stand_ins
    )
    return taken


def put_back(proto: onnx.ModelProto, taken: Taken) -> None:
    """Remove the stand-ins and restore the weights."""
    inputs = [i for i in proto.graph.input if i.name not in taken.stand_ins]
    copies = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in inputs]
    del proto.graph.input[:]
    proto.graph.input.extend(copies)
    proto.graph.initializer.extend(taken.initializers)


def _moved(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A copy that outlives its place in the graph."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    return copy
