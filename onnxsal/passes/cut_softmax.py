"""Find the logits: the tensor before the final Softmax, LogSoftmax or Sigmoid, looking through data movement after it."""

from __future__ import annotations

from onnxsal.graph import Model, NodeView

SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid")
TRANSPARENT = ("Identity", "Cast", "Dropout")
RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def final_squashing(model: Model, output: str) -> NodeView | None:
    """The Softmax, LogSoftmax or Sigmoid that the output ends in, if any; nodes that only reshape or cast may follow it."""
    node = model.producer.get(output)
    while node is not None and node.op_type in (*TRANSPARENT, *RESHAPING) and not node.domain:
        node = model.producer.get(node.proto.input[0])
    return node if node is not None and node.op_type in SQUASHING and not node.domain else None
