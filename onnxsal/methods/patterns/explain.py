"""``patternnet`` and ``pattern_attribution``: the walk with learned patterns, started with the score itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from onnxsal.engine.plan import Plan, Step
from onnxsal.engine.traverse import traverse
from onnxsal.errors import MethodError, UnsupportedError
from onnxsal.facts.linear_layers import LinearLayer
from onnxsal.graph import Emit, Value
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.head import emit_seed
from onnxsal.methods.patterns.file import LayerPatterns, load_patterns, named_layers, patterns_for

RULE = "patterns"


@wrap("patterns")
def explain(build: Build) -> Result:
    """R = f_c at the score, so that the result is linear in it; at linear layers R = J^T R with a+, or w * a+, in place of w."""
    question, op = build.question, build.op
    if question.score == "probability":
        raise MethodError(
            f"method '{build.method.name}' explains a logit: the way from it to a probability has no pattern. Leave score= out."
        )
    build.plan().refuse_graphs("patterns are fitted to the layers of the file, not to those inside")
    plan = with_patterns(build, build.plan())
    hot = emit_seed(op, question, question.start, build.head.chosen)
    seed = op.Mul(hot, question.start)
    narrow = bottlenecks(plan, question.start.name) if build.settings.get("project") else set()

    def visit(step: Step, signals: list[Value | None]) -> None:
        if step.node.index in narrow and signals[0] is not None:
            signals[0] = _projected(op, signals[0], list(range(1 if question.batched else 0, step.node.y.rank)))

    return Result(traverse(op, plan, {question.start.name: seed}, visit)[question.x.name])


def bottlenecks(plan: Plan, start: str) -> set[int]:
    """The linear nodes through whose one output the whole signal passes: scaling it there keeps the direction of the result."""
    live, found = {start}, set()
    for step in reversed(plan.steps):
        outputs = live.intersection(step.node.proto.output)
        if outputs == live == {step.node.y.name} and step.rule.name == RULE:
            found.add(step.node.index)
        live -= outputs
        if outputs:
            live.update(n for n, wanted in zip(step.node.proto.input, step.node.wants, strict=True) if wanted)
    return found


def _projected(op: Emit, signal: Value, axes: list[int]) -> Value:
    """The signal with a largest absolute value of 1 in each sample (a signal of zeros stays as it is)."""
    largest = op.ReduceMax(op.Abs(signal), axes, keepdims=1)
    return op.Div(signal, op.Where(op.Greater(largest, 0.0), largest, 1.0))


def with_patterns(build: Build, plan: Plan) -> Plan:
    """The plan with the kernel of each linear layer in its step."""
    settings = build.settings
    layers = {n: layer for n, layer in named_layers(build.question.model).items() if _step(plan, layer) is not None}
    if inner := [n for n, layer in layers.items() if build.question.start.name in layer.inner]:
        raise UnsupportedError(
            f"tensor '{build.question.start.name}' is within the linear layer of '{inner[0]}'; explain its result (--output)."
        )
    if isinstance(settings["patterns"], str) and not settings["patterns"]:
        raise MethodError(
            f"method '{build.method.name}' needs patterns learned from data: onnxsal fit-patterns MODEL DATA -o patterns.npz, then "
            "--patterns patterns.npz (patterns= in Python)."
        )
    learned = patterns_for(load_patterns(settings["patterns"]), layers, build.method.name)
    kernels = {}
    for name, layer in layers.items():
        last = settings["last"] == "linear" and _is_last(plan, layer, layers)
        estimator = "linear" if last else settings["estimator"]
        step = _step(plan, layer)
        times_weight = step is not None and bool(step.parameters.get("times_weight"))
        kernels[layer.node.index] = kernel_of(layer, learned[name], estimator, times_weight)
    steps = (dataclasses.replace(s, parameters={**s.parameters, **_kernel(kernels, s)}) for s in plan.steps)
    return dataclasses.replace(plan, steps=tuple(steps))


def kernel_of(layer: LinearLayer, learned: LayerPatterns, estimator: str, times_weight: bool) -> np.ndarray:
    """What stands in for the weight: a, or w * a with the weight of the whole layer; a Gemm's alpha, applied once more, is taken out."""
    pattern = learned.patterns[estimator]
    rows = layer.rows(pattern) * (layer.weights if times_weight else 1.0) / layer.kind.scale(layer.node)
    return layer.like_kernel(rows).astype(pattern.dtype)


def _kernel(kernels: dict[int, np.ndarray], step: Step) -> dict[str, Any]:
    return {"kernel": kernels[step.node.index]} if step.node.index in kernels and step.rule.name == RULE else {}


def _step(plan: Plan, layer: LinearLayer) -> Step | None:
    return next((s for s in plan.steps if s.node.index == layer.node.index and s.rule.name == RULE), None)


def _is_last(plan: Plan, layer: LinearLayer, layers: dict[str, LinearLayer]) -> bool:
    """Whether no linear layer follows on the path."""
    ahead = {layer.y.name}
    for step in plan.steps:
        if ahead.intersection(step.node.proto.input):
            ahead.update(step.node.proto.output)
    return not any(ahead.intersection((other.node.x.name,)) for other in layers.values())
