"""Give outputs whose logits stand in another order, or times a number, their logits as they belong to them: nodes at the model's end."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxsal.facts.heads import FIRST, LOGITS, in_place, squashed
from onnxsal.graph import Model
from onnxsal.ops.squashing import FINAL, Squashed


def order_logits(model: Model) -> bool:
    """Give every output that is a softmax or sigmoid of logits in another order of axes (Transposes follow it), or of a tensor times a
    number (1/2 + tanh(z)/2 is the sigmoid of 2z), these logits as a tensor of their own.

    Returns whether nodes were added to the ``ModelProto``; no other node changes.
    """
    added = []
    for output in (*model.output_names, *(FIRST + name for name in model.output_names if FIRST + name in model.producer)):
        fact = squashed(model).get(output)
        if fact is not None and fact.kind in FINAL and LOGITS + output not in model.producer and not in_place(model, output, fact):
            added += _nodes(model, output, fact)
    model.proto.graph.node.extend(added)
    return bool(added)


def _nodes(model: Model, output: str, fact: Squashed) -> list[onnx.NodeProto]:
    name, made, nodes = fact.logits, LOGITS + output, []
    if fact.factor != 1.0:
        factor = f"{made}/factor"
        array = np.asarray(fact.factor, helper.tensor_dtype_to_np_dtype(model.value(name).dtype))
        model.proto.graph.initializer.append(numpy_helper.from_array(array, factor))
        product = f"{made}/product" if fact.perm else made
        # what the pass writes: the logits times their factor
        nodes.append(helper.make_node("Mul", [name, factor], [product], name=product))
        name = product
    if fact.perm:
        # and in the order of the output
        nodes.append(helper.make_node("Transpose", [name], [made], name=made, perm=list(fact.perm)))
    return nodes
