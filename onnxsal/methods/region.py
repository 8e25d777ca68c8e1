"""The linear region of a piecewise linear network that an input lies in, as a model whose outputs tell regions apart."""

from __future__ import annotations

import onnx

from onnxsal.ask.guard import plain_model
from onnxsal.ask.question import ask
from onnxsal.errors import PlanError
from onnxsal.facts.reach import reach
from onnxsal.facts.wild import mark
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.assemble import Port, assemble
from onnxsal.graph.helpers import ones_like, reshape_like
from onnxsal.graph.load import Source, load_model
from onnxsal.ops.apart import keep_apart
from onnxsal.ops.registry import OpSpec, spec_of, vjp

BENDING = ("activation", "select", "max_pool", "elementwise")
"""Families whose slope can change with the input. In the others it does not, or it changes everywhere (products, normalisations)."""

CURVED = ("normalization", "softmax", "loss", "product")


def region_model(model: Source, input: str | None = None, output: str | None = None) -> onnx.ModelProto:
    """The model with an output ``region/<node>`` per node that bends: its slopes, the same for all inputs of one linear region.

    The slope is the vector-Jacobian product with ones (with a ramp, for maxima over windows, where it tells which element won),
    so ReLU signs, clipping and MaxPool winners are all seen. Raises ``PlanError`` where the model is not piecewise linear.
    """
    proto = load_model(model)
    question = ask(plain_model(proto), input, output)
    path = reach(question.model, [question.x.name], [question.start.name]).path
    op = Emit(question.model)
    ports = []
    for node in path:
        spec = spec_of(node)
        family = spec.family if spec else "unknown"
        several = sum(node.wants) > 1
        if spec is not None and family in ("normalization", "product") and not several and _is_affine(spec, node):
            continue
        if family in (*CURVED, "unknown") or (family == "linear" and several):
            raise PlanError(f"{node.label} is not piecewise linear, so there are no linear regions to compare within.")
        if family in BENDING:
            mark(node)
            with op.at(node):
                slopes = [v for v in vjp(op, node, [_probe(op, node, family)]) if v is not None]
                for i, slope in enumerate(slopes):
                    named = op.Identity(slope, name=f"region/{node.name}/{i}")
                    ports.append(Port(Value(named.name), op.dtype, None))
    return keep_apart(assemble(question.model, op, [], ports), op.prefix)


def _is_affine(spec: OpSpec, node: NodeView) -> bool:
    """Whether constants do no more than scale and shift the one wanted input: a batch normalisation, a scaling."""
    others = (i for i, v in enumerate(node.inputs) if v is not None and not node.wants[i])
    scales = spec.scaling is not None and spec.scaling.takes(node, node.wants.index(True))
    return scales and all(node.const(i) is not None for i in others)


def _probe(op: Emit, node: NodeView, family: str) -> Value:
    """A cotangent that makes the slope tell: ones, or different numbers for each window of a maximum."""
    ones = ones_like(op, node.y)
    if family != "max_pool":
        return ones
    count = op.Size(op.raw(node.y))
    ramp = op.Cast(op.Range(1, op.Add(count, 1), 1), to=op.dtype)
    return reshape_like(op, ramp, node.y)
