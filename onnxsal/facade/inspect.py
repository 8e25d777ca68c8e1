"""Look before converting: the plan of a method, what stands in the way, and what there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxsal.ask import guard
from onnxsal.ask.kernels import missing_kernels
from onnxsal.ask.layers import Layers
from onnxsal.ask.question import ask
from onnxsal.engine.method import Method, get_method, shipped_methods
from onnxsal.engine.plan import Plan
from onnxsal.errors import MethodError, OnnxsalError
from onnxsal.facade.convert import DEFAULT_METHOD, Example, conversion
from onnxsal.graph import Model
from onnxsal.graph.load import Source, load_model
from onnxsal.graph.provenance import refuse_converted
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, REGISTRY, OpSpec, known
from onnxsal.passes import prepare
from onnxsal.runtime.kernels import release


def plan(
    model: Source,
    method: str | Path | Method = DEFAULT_METHOD,
    *,
    input: str | None = None,
    output: str | None = None,
    score: str = "logit",
    batched: bool | None = None,
    layout: str | None = None,
    example: Example = None,
) -> Plan:
    """Which rule crosses which node, and why; nothing is emitted. ``print(plan(...))`` shows the table. Raises as ``convert``."""
    proto = load_model(model)
    refuse_converted(proto)
    data = guard.as_example(proto, example, input)
    plain = prepare(proto, known, None, data).model
    guard.refuse_open_rank(plain, input)
    question = ask(plain, input, output, score, batched=batched, layout=layout, example=data)
    chosen = get_method(method)
    return guard.plan_of(question, chosen.bound(chosen.settle({})))


@dataclass(frozen=True)
class Report:
    """Whether a model can be explained by a method, and what runs where.

    ``problem`` is why it cannot ('' = it can); ``missing`` maps (operator, element types) of the *converted* model to the number of
    its nodes that have no kernel on ``provider`` (and would run on the CPU); ``forward_missing`` counts those of the original. ``layers``
    are the candidates for a class activation map, the one that is taken first (for methods with a target layer).
    """

    method: str
    provider: str
    release: str
    problem: str
    input: str
    output: str
    nodes: int
    converted_nodes: int
    passes: tuple[str, ...]
    missing: Mapping[str, int]
    forward_missing: Mapping[str, int]
    layers: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """The model can be explained (nodes without a kernel only cost time)."""
        return not self.problem

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        lists = {"passes": list(self.passes), "layers": list(self.layers)}
        return {**self.__dict__, "ok": self.ok, **lists, "missing": dict(self.missing), "forward_missing": dict(self.forward_missing)}

    def __str__(self) -> str:
        if self.problem:
            return f"cannot be explained by '{self.method}': {self.problem}"
        lines = [
            f"can be explained by '{self.method}': '{self.output}' at '{self.input}', "
            f"{self.nodes} nodes, {self.converted_nodes} when converted"
        ]
        lines += [f"pass {p}" for p in self.passes]
        lines += [f"target layer {self.layers[0]}; other candidates: {', '.join(self.layers[1:]) or 'none'}"] if self.layers else []
        if not self.missing:
            lines.append(f"every node has a kernel on {self.provider} (ONNX Runtime {self.release})")
        falls = "need a cast to float32 that ONNX Runtime inserts, or do not run" if self.provider == "cpu" else "run on the CPU"
        for what, count in self.missing.items():
            own = self.forward_missing.get(what, 0)
            lines.append(f"no {self.provider} kernel for {what}: {count} node(s) {falls} ({own} of them in the original model)")
        return "\n".join(lines)


def check(model: Source, provider: str = "cuda", method: str | Path | Method = DEFAULT_METHOD, **options: Any) -> Report:
    """Can this model be explained, and does every node of the converted model have a kernel on ``provider``?

    ``options`` are those of ``convert``. Never raises for what the model lacks: that is ``Report.problem``.
    """
    name = get_method(method).name
    proto = load_model(model)
    forward = Model(proto)
    absent: dict[str, int] = {}
    try:
        absent = missing_kernels(forward, provider)
        made = conversion(proto, method, **options)
    except MethodError:  # the question is wrong, not the model
        raise
    except OnnxsalError as error:
        first_in, first_out = next(iter(forward.input_names), ""), next(iter(forward.output_names), "")
        return Report(name, provider, release(provider), str(error), first_in, first_out, len(forward.nodes), 0, (), {}, absent)
    return Report(
        name,
        provider,
        release(provider),
        "",
        made.question.x.name,
        made.question.output,
        len(forward.nodes),
        _count(made.proto.graph),
        tuple(made.log),
        missing_kernels(Model(made.proto), provider),
        absent,
        tuple(map(str, Layers(made.question).candidates)) if "layer" in made.method.parameters else (),
    )


def _count(graph: onnx.GraphProto) -> int:
    return sum(1 + sum(_count(a.g) for a in n.attribute if a.type == onnx.AttributeProto.GRAPH) for n in graph.node)


def methods() -> dict[str, Method]:
    """Every method that comes with onnxsal, by name."""
    return dict(shipped_methods())


def ops() -> dict[str, OpSpec | str]:
    """Every known operator: how it is explained (``OpSpec``), or why it carries no derivative (``str``)."""
    merged: dict[str, OpSpec | str] = {f"{d}.{o}" if d else o: spec for (d, o), spec in REGISTRY.items()}
    merged |= {f"{d}.{o}" if d else o: reason for (d, o), reason in NOT_DIFFERENTIABLE.items()}
    return dict(sorted(merged.items()))
