"""Which sums may be read behind their ReLU: no relevance arrives where it is closed, so R / z and R / max(z, 0) are the same.

Read there, a sum is never negative, so its stabiliser needs no sign, and the tensor before the ReLU need not be kept: ONNX Runtime
then goes on computing the ReLU together with its convolution.
"""

from __future__ import annotations

from collections import Counter

from onnxsal.engine.plan import Plan, Step
from onnxsal.facts.tags import is_relu
from onnxsal.graph import Value


def zeros_get_nothing(plan: Plan) -> dict[str, bool]:
    """Tensor -> whether its elements that are 0 get none of the relevance, for every tensor on the way."""
    known = dict.fromkeys(plan.starts, False)
    for step in reversed(plan.steps):
        leaves = _leaves_zeros(step, known)
        for name in step.node.followed:
            known[name] = known.get(name, True) and leaves
    return known


def rectified(plan: Plan) -> dict[str, Value]:
    """z -> max(z, 0), for every z that one ReLU alone sends relevance to, and only where max(z, 0) is not 0."""
    readers = Counter(name for step in plan.steps for name in step.node.followed)
    known = zeros_get_nothing(plan)
    found: dict[str, Value] = {}
    for step in plan.steps:
        z = step.node.proto.input[0]
        if _leaves_zeros(step, known) and is_relu(step.node) and readers[z] == 1 and z not in plan.starts:
            found[z] = step.node.y
    return found


def _leaves_zeros(step: Step, known: dict[str, bool]) -> bool:
    """Whether the rule sends nothing to elements that are 0, given what is known of its node's outputs."""
    return step.rule.vanishes(step.node, step.parameters, all(known.get(o, True) for o in step.node.proto.output))
