"""The one reverse walk. It keeps a signal per tensor, adds where a tensor has several readers, and knows no operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnxsal.engine.inside import cross
from onnxsal.engine.plan import Plan, Step
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import signal_type

Visit = Callable[[Step, list[Value | None]], None]


def traverse(op: Emit, plan: Plan, seeds: Mapping[str, Value], visit: Visit | None = None) -> dict[str, Value]:
    """Carry ``seeds`` (signal per start tensor) back through the plan; returns the signal at every ``wrt`` tensor reached.

    ``visit`` sees each step with the signals at its outputs before the rule is applied (FullGrad's bias terms, relevance sums).
    """
    arrived: dict[str, list[Value]] = {name: [seed] for name, seed in seeds.items()}
    for step in reversed(plan.steps):
        dys = [_sum(op, arrived, name) for name in step.node.proto.output]
        if all(dy is None for dy in dys):
            continue
        with op.at(step.node):
            if visit is not None:
                visit(step, dys)
            answer = _sent(op, step, dys)
        for name, signal in answer:
            if signal is not None:
                value = step.node.model.value(name)
                arrived.setdefault(name, []).append(op.declared(signal, signal_type(value), value))
    return {name: total for name in plan.wrt if (total := _sum(op, arrived, name)) is not None}


def _sent(op: Emit, step: Step, dys: list[Value | None]) -> Iterable[tuple[str, Value | None]]:
    """What a step sends, and to which tensors: by its rule, or by the walk through the graphs of its node."""
    if step.inside:
        return cross(op, step.node, step.inside, dys, traverse)
    return zip(step.node.proto.input, step.rule.apply(op, step.node, dys, **step.parameters), strict=True)


def _sum(op: Emit, arrived: dict[str, list[Value]], name: str) -> Value | None:
    """The signal at a tensor: the sum of what its readers sent. Summed once, also if asked for again."""
    parts = arrived.get(name, [])
    while len(parts) > 1:
        parts = [op.Add(parts[0], parts[1]), *parts[2:]]
        arrived[name] = parts
    return parts[0] if parts else None
