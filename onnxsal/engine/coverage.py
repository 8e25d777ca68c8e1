"""Which operator families a table of rules speaks of, and which ones it leaves to a row for everything, or to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxsal.engine.table_rows import RuleRow
from onnxsal.ops.registry import REGISTRY


class TableWarning(UserWarning):
    """A rule file can be used, but leaves something unsaid that makes its maps wrong on some models."""


@dataclass(frozen=True)
class Stated:
    """Rows, read as what they say about whole families: rows for tags, positions or names of nodes say nothing about a family."""

    rows: Sequence[RuleRow]

    def about(self, family: str) -> tuple[RuleRow, ...]:
        """The rows that name the family, or operators of it."""
        operators = {op for (_, op), spec in REGISTRY.items() if spec.family == family}
        return tuple(
            row
            for row in self.rows
            if set(row.match) <= {"op", "family"}
            and (family in row.match.get("family", ()) or operators.intersection(row.match.get("op", ())))
        )

    @property
    def rest(self) -> RuleRow | None:
        """The row for every other node."""
        return next((row for row in self.rows if not row.match), None)


def gaps(own: Stated, base: Stated) -> dict[str, str]:
    """Family -> what ``base`` does there, for every family that ``base`` names and ``own`` does not.

    A row for every other node speaks of a family only if it uses the rule that ``base`` uses there.
    """
    families = dict.fromkeys(spec.family for spec in REGISTRY.values())
    missing = {}
    for family in families:
        there = base.about(family)
        rest = own.rest
        if not there or own.about(family) or (rest is not None and rest.use and {row.use for row in there} == {rest.use}):
            continue
        missing[family] = "; ".join(f"row {row.number}: {row.text} -> {row.use or 'refused'}" for row in there)
    return missing
