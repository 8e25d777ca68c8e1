"""Which sums may be read behind their ReLU: no relevance arrives where it is closed, so R / z and R / max(z, 0) are the same.

Read there, a sum is never negative, so its stabiliser needs no sign, and the tensor before the ReLU need not be kept: ONNX Runtime
then goes on computing the ReLU together with its convolution.
"""

from __future__ import annotations

from collections import Counter

from onnxsal.engine.plan import Plan
from onnxsal.facts.tags import is_relu
from onnxsal.graph import Value


def rectified(plan: Plan) -> dict[str, Value]:
    """z -> max(z, 0), for every z that one ReLU alone sends relevance to, and only where max(z, 0) is not 0."""
    readers = Counter(n for s in plan.steps for n, wanted in zip(s.node.proto.input, s.node.wants, strict=True) if wanted)
    vanishing = dict.fromkeys(plan.starts, False)
    found: dict[str, Value] = {}
    for step in reversed(plan.steps):
        node = step.node
        leaves = step.rule.vanishes(node, step.parameters, all(vanishing.get(o, True) for o in node.proto.output))
        for name in (n for n, wanted in zip(node.proto.input, node.wants, strict=True) if wanted):
            vanishing[name] = vanishing.get(name, True) and leaves
        z = node.proto.input[0]
        if leaves and is_relu(node) and readers[z] == 1 and z not in plan.starts:
            found[z] = node.y
    return found
