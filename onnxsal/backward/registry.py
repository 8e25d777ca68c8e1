"""Rules: how a signal crosses a node, written per family and registered by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.ops.registry import FAMILIES, Rest, implicit_bias

RuleFunction = Callable[..., Sequence[Value | None]]
BiasFunction = Callable[[Emit, NodeView], Rest]
Vanishes = Callable[[NodeView, Mapping[str, Any], bool], bool]


@dataclass(frozen=True)
class Rule:
    """A named way for a signal to cross a node: ``rule(op, node, dys, **parameters) -> one entry per input``. ``kinds`` are the annotations
    of the parameters: what a table may give for them. ``bias(op, node)`` is what the node keeps, ``r = y - sum_i J_i x_i`` with the
    Jacobian that the rule puts in place of the derivative (``None``: nothing), of the first output or a list with one for each.
    """

    name: str
    families: frozenset[str]
    apply: RuleFunction
    parameters: dict[str, Any]
    vanishes: Vanishes
    kinds: dict[str, Any] = field(default_factory=dict)
    bias: BiasFunction = implicit_bias

    def takes(self, family: str) -> bool:
        """Whether the rule is written for this operator family."""
        return family in self.families


RULES: dict[str, Rule] = {}


def never(node: NodeView, parameters: Mapping[str, Any], arrives: bool) -> bool:
    """A rule of which nothing is known: it may send relevance to an element that is 0."""
    return False


def rule(
    name: str, families: Sequence[str] | None = None, vanishes: Vanishes = never, bias: BiasFunction = implicit_bias
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule for ``families`` (all of them if ``None``). Its keyword-only arguments are its parameters.

    ``vanishes`` tells whether an element of the input that is 0 gets none of the signal, if that holds at the output (``arrives``) or not.
    ``bias`` is that of a rule that replaces the derivative.
    """
    chosen = frozenset(FAMILIES if families is None else families)
    if unknown := chosen - set(FAMILIES):
        raise ValueError(f"rule '{name}': unknown families {sorted(unknown)}; known: {', '.join(FAMILIES)}")

    def register(function: RuleFunction) -> RuleFunction:
        if name in RULES:
            raise ValueError(f"rule '{name}' is registered twice")
        keywords = inspect.signature(function).parameters.values()
        parameters = {p.name: p.default for p in keywords if p.kind is inspect.Parameter.KEYWORD_ONLY}
        hints = get_type_hints(function)
        RULES[name] = Rule(name, chosen, function, parameters, vanishes, {n: hints.get(n, Any) for n in parameters}, bias)
        return function

    return register
