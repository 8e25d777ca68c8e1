"""The linear region of a piecewise linear network that an input lies in, as a model whose outputs tell regions apart."""

from __future__ import annotations

import onnx

from onnxsal.ask.question import ask
from onnxsal.errors import PlanError
from onnxsal.facts.reach import reach
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.assemble import Port, assemble
from onnxsal.graph.helpers import ones_like, reshape_like
from onnxsal.graph.load import Source, load_model
from onnxsal.ops.registry import known, spec_of, vjp
from onnxsal.passes import prepare

BENDING = ("activation", "select", "max_pool", "elementwise")
"""Families whose slope can change with the input. In the others it does not, or it changes everywhere (products, normalisations)."""

CURVED = ("normalization", "softmax", "loss", "product")


def region_model(model: Source, input: str | None = None, output: str | None = None) -> onnx.ModelProto:
    """The model with an output ``region/<node>`` per node that bends: its slopes, the same for all inputs of one linear region.

    The slope is the vector-Jacobian product with ones (with a ramp, for maxima over windows, where it tells which element won),
    so ReLU signs, clipping and MaxPool winners are all seen. Raises ``PlanError`` where the model is not piecewise linear.
    """
    proto = load_model(model)
    question = ask(prepare(proto, known).model, input, output)
    path = reach(question.model, [question.x.name], [question.start.name]).path
    op = Emit(question.model)
    ports = []
    for node in path:
        spec = spec_of(node)
        family = spec.family if spec else "unknown"
        several = sum(node.wants) > 1
        if family in ("normalization", "product") and not several and _is_affine(node):
            continue
        if family in (*CURVED, "unknown") or (family == "linear" and several):
            raise PlanError(f"{node.label} is not piecewise linear, so there are no linear regions to compare within.")
        if family in BENDING:
            with op.at(node):
                slopes = [v for v in vjp(op, node, [_probe(op, node, family)]) if v is not None]
                for i, slope in enumerate(slopes):
                    named = op.Identity(slope, name=f"region/{node.name}/{i}")
                    ports.append(Port(Value(named.name), op.dtype, None))
    return assemble(question.model, op, [], ports)


def _is_affine(node: NodeView) -> bool:
    """Whether all inputs but the wanted one are constants of an operator that is linear in it: a batch-norm, a scaling."""
    others = (i for i, v in enumerate(node.inputs) if v is not None and not node.wants[i])
    numerator = node.want(0) or node.op_type == "Mul"
    return node.op_type in ("BatchNormalization", "Mul", "Div") and numerator and all(node.const(i) is not None for i in others)


def _probe(op: Emit, node: NodeView, family: str) -> Value:
    """A cotangent that makes the slope tell: ones, or different numbers for each window of a maximum."""
    ones = ones_like(op, node.y)
    if family != "max_pool":
        return ones
    count = op.Size(op.raw(node.y))
    ramp = op.Cast(op.Range(1, op.Add(count, 1), 1), to=op.dtype)
    return reshape_like(op, ramp, node.y)
