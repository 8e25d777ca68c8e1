"""One rule on one node: models for the tests of relevance rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnxsal.backward import RULES
from onnxsal.backward.walk import Walk
from onnxsal.facts.gates import shares
from onnxsal.facts.reach import reach
from onnxsal.graph import Emit, Model, NodeView, Value
from onnxsal.graph.assemble import Port, assemble


def active_node(model: Model, wrt: str) -> NodeView:
    """The last node, as a walk from its output to ``wrt`` sees it."""
    return reach(model, [wrt], [model.nodes[-1].proto.output[0]]).path[-1]


def with_rule(proto: onnx.ModelProto, name: str, wrt: Sequence[str], kept: bool = False, **parameters: Any) -> onnx.ModelProto:
    """The model with input ``R`` (relevance at its first output) and outputs ``R/<input>``: one rule applied to its last node.

    A node before it with the name of the last one and "0" is the same node on a reference, for the rules that need one. ``kept``: output
    ``kept`` is <R, r>, what the node keeps by its rule's bias r.
    """
    model = Model(onnx.ModelProto.FromString(proto.SerializeToString()))
    path = reach(model, wrt, [model.nodes[-1].proto.output[0]]).path
    node = path[-1]
    node.shares = shares(path).get(node.index, {})
    op = Emit(model)
    twins = [n for n in model.nodes if n.proto.name == f"{node.proto.name}0"]
    op.walk = Walk(reference=dict(zip([node.index], twins, strict=False)))
    given = Value("R", node.y.dtype, node.y.shape)
    with op.at(node):
        answer = RULES[name].apply(op, node, [given, *[None] * (len(node.proto.output) - 1)], **parameters)
        named = {n: v for n, v in zip(node.proto.input, answer, strict=True) if v is not None}
        ports = [Port(op.Identity(v, name=f"R/{n}"), *model.types[n]) for n, v in named.items()]
        if kept:
            bias = RULES[name].bias(op, node)
            total = op.Mul(given, 0.0) if bias is None else op.Mul(given, bias)
            ports.append(Port(op.ReduceSum(total, keepdims=0, name="kept"), op.dtype, ()))
    return assemble(model, op, [Port(given, given.dtype, given.shape)], ports)


def jacobian(run: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(W, b) of an affine function of one array, from its values at 0 and at the unit vectors."""
    shift = run(np.zeros_like(x)).reshape(-1)
    columns = []
    for k in range(x.size):
        unit = np.zeros(x.size, x.dtype)
        unit[k] = 1.0
        columns.append(run(unit.reshape(x.shape)).reshape(-1) - shift)
    return np.stack(columns, axis=1), shift
