"""Give outputs that count samples along another axis than the first a copy with the samples first: nodes at the model's end.

Recognisers of sequences answer [steps, samples, classes], as recurrent layers do. What is asked of the copy is asked sample by sample.
"""

from __future__ import annotations

import onnx
from onnx import helper

from onnxsal.facts.axes import samples_axis
from onnxsal.facts.heads import FIRST
from onnxsal.graph import FLOATS, Model


def samples_first(model: Model) -> bool:
    """Add a Transpose to every floating-point output of which it is proved that another axis than the first is axis 0 of the first input.

    Returns whether there were any; no other node of the ``ModelProto`` changes.
    """
    moved = {name: axis for name in model.output_names if (axis := _axis(model, name))}
    model.proto.graph.node.extend(_turned(model, name, axis) for name, axis in moved.items())
    return bool(moved)


def _axis(model: Model, output: str) -> int:
    """The axis of an output that is axis 0 of the first input; 0 where it is that itself, or where nothing is proved."""
    value = model.value(output)
    if value.dtype not in FLOATS or value.shape is None or len(value.shape) < 2 or FIRST + output in model.producer:
        return 0
    axis = samples_axis(model, output)
    return axis if axis and value.shape[axis] != 1 else 0


def _turned(model: Model, output: str, axis: int) -> onnx.NodeProto:
    name, rest = FIRST + output, [a for a in range(model.value(output).rank) if a != axis]
    # the output, its samples first
    return helper.make_node("Transpose", [output], [name], name=name, perm=[axis, *rest])
