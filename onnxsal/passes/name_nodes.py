"""Name the nodes: every node gets a name of its own, because rules, plans and emitted nodes speak of nodes by name."""

from __future__ import annotations

import onnx

from onnxsal.passes.base import Pass, PassOutcome


def _run(proto: onnx.ModelProto) -> PassOutcome:
    seen: set[str] = set()
    changed = 0
    taken = {n.name for n in proto.graph.node if n.name}
    for index, node in enumerate(proto.graph.node):
        if not node.name or node.name in seen:
            stem = node.name or f"{node.op_type}_{index}"
            candidate, count = stem, 1
            while candidate in seen or (candidate in taken and candidate != node.name) or candidate == node.name:
                candidate, count = f"{stem}_{count}", count + 1
            node.name = candidate
            changed += 1
        seen.add(node.name)
    return PassOutcome(changed, f"named {changed} node(s) without a name of their own" if changed else "")


NAME_NODES = Pass(
    "name nodes",
    _run,
    ensures=lambda proto: "" if len({n.name for n in proto.graph.node}) == len(proto.graph.node) else "names are not unique",
)
