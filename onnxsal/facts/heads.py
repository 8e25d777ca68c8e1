"""Find the logits: the tensor before the final Softmax, LogSoftmax or Sigmoid, looking through what keeps its order after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx import helper

from onnxsal.graph import Model, NodeView

SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid")
TRANSPARENT = ("Identity", "Cast", "Dropout")
RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
LOGITS = "onnxsal/logits/"
"""Before the name of an output: its logits in its own order, where the model has them only in another one."""


def final_squashing(model: Model, output: str) -> NodeView | None:
    """The Softmax, LogSoftmax or Sigmoid that the output ends in, if any.

    Nodes that reshape, cast, clip or multiply by a positive number may follow it, and a Transpose where the logits exist in that order too.
    """
    turned = LOGITS + output in model.producer
    node = _before(model, output, lambda n: _keeps_order(n) or (turned and n.op_type == "Transpose"))
    return node if node is not None and node.op_type in SQUASHING else None


def logits_of(model: Model, output: str, last: NodeView) -> str:
    """The tensor that holds the logits of an output, in the order of the output."""
    return LOGITS + output if LOGITS + output in model.producer else last.proto.input[0]


def class_axis(model: Model, output: str, last: NodeView) -> int:
    """The axis of the logits along which the classes lie."""
    axis = int(last.attr("axis", -1))
    for perm in _transposes(model, output, last) if LOGITS + output in model.producer else ():
        axis = perm.index(axis % len(perm))
    return axis


def looks_squashed(model: Model, output: str) -> bool:
    """Whether the output ends in a Softmax written in parts, e / sum e: its logits are not looked for."""
    node = _before(model, output, lambda n: _keeps_order(n) or n.op_type == "Transpose")
    if node is None or node.op_type != "Div":
        return False
    above, below = (model.producer.get(name) for name in node.proto.input)
    return above is not None and above.op_type == "Exp" and below is not None and below.op_type == "ReduceSum" and below.x == above.y


def order_logits(model: Model) -> bool:
    """Give every output that is a transposed Softmax, LogSoftmax or Sigmoid its logits in the same order, as nodes at the model's end.

    Returns whether nodes were added to the ``ModelProto``; no other node changes.
    """
    added = []
    for output in model.output_names:
        last = _behind_transposes(model, output)
        name = "" if last is None else last.proto.input[0]
        perms = [] if last is None else list(_transposes(model, output, last))
        for number, perm in enumerate(perms):
            made = f"{LOGITS}{output}" + (f"/{number}" if number + 1 < len(perms) else "")
            added.append(helper.make_node("Transpose", [name], [made], name=made, perm=perm))
            name = made
    model.proto.graph.node.extend(added)
    return bool(added)


def _before(model: Model, output: str, passed: Callable[[NodeView], bool]) -> NodeView | None:
    """The first node on the way back from an output that is not ``passed``."""
    node = model.producer.get(output)
    while node is not None and not node.domain and passed(node):
        node = model.producer.get(_passed(node))
    return None if node is None or node.domain else node


def _keeps_order(node: NodeView) -> bool:
    """Whether the output has the values of the first input, or a growing function of them, in the same order."""
    if node.op_type in (*TRANSPARENT, *RESHAPING, "Clip"):
        return True
    if node.op_type == "Transpose":
        shape, perm = node.x.shape, _perm(node)
        return shape is not None and [p for p in perm if shape[p] != 1] == [p for p in range(len(perm)) if shape[p] != 1]
    return node.op_type in ("Mul", "Div") and _factor(node) is not None


def _factor(node: NodeView) -> int | None:
    """Which operand is a constant number above 0, if one is; of a quotient only the divisor may be."""
    for i in (1, 0) if node.op_type == "Mul" else (1,):
        value = node.const(i)
        if value is not None and value.size == 1 and float(value.item()) > 0:
            return i
    return None


def _passed(node: NodeView) -> str:
    """The tensor that the node passes on."""
    return node.proto.input[1 if node.op_type == "Mul" and _factor(node) == 0 else 0]


def _perm(node: NodeView) -> list[int]:
    return [int(p) for p in node.attr("perm") or range(node.x.rank)[::-1]]


def _behind_transposes(model: Model, output: str) -> NodeView | None:
    """The squashing that an output ends in behind at least one Transpose that changes the order, if no node between reshapes."""
    node = _before(model, output, lambda n: n.op_type not in RESHAPING and (n.op_type == "Transpose" or _keeps_order(n)))
    return node if node is not None and node.op_type in SQUASHING and final_squashing(model, output) is None else None


def _transposes(model: Model, output: str, last: NodeView) -> Iterator[list[int]]:
    """The permutations between the squashing and the output, in forward order."""
    perms: list[list[int]] = []
    node = model.producer.get(output)
    while node is not None and node is not last:
        if node.op_type == "Transpose":
            perms.insert(0, _perm(node))
        node = model.producer.get(_passed(node))
    return iter(perms)
