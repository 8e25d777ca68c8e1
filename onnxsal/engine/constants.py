"""What a method holds constant: the inputs of nodes through which its walk does not go, decided before anything is refused."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsal.engine.method import Method
from onnxsal.engine.table_rows import RuleRow
from onnxsal.facts.gates import constant_factors
from onnxsal.facts.tags import tags_of
from onnxsal.graph import NodeView
from onnxsal.ops.registry import family_of


def constants_of(method: Method, path: Sequence[NodeView]) -> dict[int, dict[int, str]]:
    """Index of a node on the path -> its inputs that the ``[[constant]]`` rows of the method name, with what the plan says of them."""
    factors, found = constant_factors(path), dict[int, dict[int, str]]()
    for node in path:
        node.tags = tags_of(node.model).get(node.index, frozenset())
        kinds = factors.get(node.index, {})
        for row in (row for row in method.constants if row.matches(node, family_of(node), "inner")):
            for i, wanted in enumerate(node.wants):
                if wanted and (not row.factor or kinds.get(i) in row.factor):
                    found.setdefault(node.index, {})[i] = _why(method, row, kinds.get(i, ""))
    return found


def _why(method: Method, row: RuleRow, kind: str) -> str:
    return row.why or f"method '{method.name}' holds it constant: {kind.replace('_', ' ') or row.what}"
