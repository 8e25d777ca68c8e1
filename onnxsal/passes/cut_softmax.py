"""Find the logits: the tensor before the final Softmax, LogSoftmax or Sigmoid, looking through data movement after it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxsal.graph import Model, NodeView

SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid")
TRANSPARENT = ("Identity", "Cast", "Dropout")
RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Score:
    """Where the explanation starts: a tensor, and the final node that was cut to reach it (``None`` = nothing was cut)."""

    tensor: str
    cut: NodeView | None


def final_squashing(model: Model, output: str) -> NodeView | None:
    """The Softmax, LogSoftmax or Sigmoid that the output ends in, if any; nodes that only reshape or cast may follow it."""
    node = model.producer.get(output)
    while node is not None and node.op_type in (*TRANSPARENT, *RESHAPING) and not node.domain:
        node = model.producer.get(node.proto.input[0])
    return node if node is not None and node.op_type in SQUASHING and not node.domain else None


def cut_softmax(model: Model, output: str) -> Score:
    """The tensor of logits behind ``output``; the forward part itself is not changed."""
    node = final_squashing(model, output)
    return Score(output, None) if node is None else Score(node.proto.input[0], node)
