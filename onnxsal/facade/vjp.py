"""Plain reverse mode: the vector-Jacobian product of any floating-point outputs with respect to any tensors."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxsal.ask.guard import prepared, refuse_contradiction
from onnxsal.engine.method import get_method
from onnxsal.engine.plan import Plan, make_plan
from onnxsal.engine.traverse import traverse
from onnxsal.errors import TargetError, near_miss
from onnxsal.facts.reach import reach
from onnxsal.graph import FLOATS, HALF, Emit, Model, Value
from onnxsal.graph.assemble import Port, assemble
from onnxsal.graph.emit import PREFIX
from onnxsal.graph.load import Source, load_model
from onnxsal.graph.provenance import refuse_converted
from onnxsal.ops.apart import keep_apart


def vjp(model: Source, wrt: str | Sequence[str] | None = None, outputs: str | Sequence[str] | None = None) -> onnx.ModelProto:
    """The model with its vector-Jacobian product built in: ``vjp/<x> = (d outputs / d x)^T cotangent``.

    Adds an input ``cotangent/<y>`` (shape and type of y) per output in ``outputs`` and an output ``vjp/<x>`` (shape and
    type of x) per tensor in ``wrt``; both default to every floating-point one. ``wrt`` may name graph inputs, initialisers
    (weights) or inner tensors. Half-precision parts of the backward pass run in float32.

    Raises ``TargetError`` for an unknown or non-floating-point name, ``PlanError`` where an operator on the path has no
    gradient or a tensor in ``wrt`` has no differentiable path to ``outputs``.
    """
    proto = load_model(model)
    refuse_converted(proto)
    plain = prepared(model, proto, lambda plain: _planned(plain, wrt, outputs)).model
    plan = _planned(plain, wrt, outputs)
    op = Emit(plain)
    given = {y: Value(f"cotangent/{y}", *plain.types.get(y, (0, None))) for y in plan.starts}
    seeds = dict(given)
    signals = traverse(op, plan, seeds)
    ports = []
    with op.named("vjp"):
        for name in plan.wrt:
            dtype, shape = plain.types.get(name, (0, None))
            result = (
                op.Cast(signals[name], to=dtype, name=f"vjp/{name}") if dtype in HALF else op.Identity(signals[name], name=f"vjp/{name}")
            )
            ports.append(Port(result, dtype, shape))
    cotangents = [Port(v, v.dtype, v.shape) for v in given.values()]
    result = keep_apart(assemble(plain, op, cotangents, ports), op.prefix)
    refuse_contradiction(result, f"{PREFIX}/")
    return result


def _planned(plain: Model, wrt: str | Sequence[str] | None, outputs: str | Sequence[str] | None) -> Plan:
    """The walk from the outputs to the tensors; an input that none of them depends on is left out unless it is named."""
    starts = _chosen(plain, outputs, plain.output_names, "output")
    explained = _chosen(plain, wrt, plain.input_names, "input")
    if wrt is None:
        explained = [n for n in explained if n in reach(plain, [n], starts).active] or explained
    return make_plan(plain, get_method("gradient"), explained, starts)


def _chosen(model: Model, names: str | Sequence[str] | None, every: Sequence[str], kind: str) -> list[str]:
    """The named tensors (default: every floating-point one of ``every``), checked."""
    if names is None:
        chosen = [n for n in every if model.types.get(n, (0, None))[0] in FLOATS]
        if not chosen:
            raise TargetError(f"the model has no floating-point {kind} (its {kind}s: {', '.join(every) or 'none'}); name a tensor.")
        return chosen
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not names:
        raise TargetError(f"no {kind} was named; name one of {', '.join(every)}, or leave it out for every floating-point one.")
    for name in names:
        if name not in model.types:
            raise TargetError(f"the model has no tensor '{name}'{near_miss(name, model.types)}; its {kind}s: {', '.join(every)}.")
        if model.types[name][0] not in FLOATS:
            kind_name = onnx.TensorProto.DataType.Name(model.types[name][0])
            raise TargetError(f"tensor '{name}' is {kind_name}; only floating-point tensors have a gradient.")
    return names
