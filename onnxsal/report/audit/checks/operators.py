"""Can each method explain this model, and which of its operators would run on the CPU when it is converted?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxsal.errors import OnnxsalError
from onnxsal.facade.check import checked
from onnxsal.facade.inspect import ops
from onnxsal.metrics.evaluation import Way
from onnxsal.ops.expansion import EXPANSIONS
from onnxsal.ops.restated import RESTATED
from onnxsal.report.audit.blocks import Block, Cell, Table
from onnxsal.report.audit.card import card
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.verdict import Finding, Judgement, Severity

KERNELS_OF = "cuda"
"""The provider whose kernels are looked up: where a model is put into production."""


@dataclass(frozen=True)
class KnownOperator:
    """An operator of the model, its number of nodes, and the formula of its gradient, or why there is none."""

    operator: str
    count: int
    kind: Literal["differentiable", "no derivative", "rewritten", "unknown"]
    note: str

    @classmethod
    def of(cls, operator: str, count: int) -> KnownOperator:
        """As it is registered."""
        entry = ops().get(operator, None)
        if entry is None:
            domain, _, name = operator.rpartition(".")
            if (domain, name) in EXPANSIONS or (domain, name) in RESTATED:
                return cls(operator, count, "rewritten", "written in standard operators, and explained as these")
            return cls(operator, count, "unknown", "")
        return cls(operator, count, *(("no derivative", entry) if isinstance(entry, str) else ("differentiable", entry.formula)))


@dataclass(frozen=True)
class OnModel:
    """Why a method cannot explain the model ('' = it can), the nodes of the converted one, and those, by operator, without a kernel."""

    method: str
    problem: str
    nodes: int = 0
    passes: Sequence[str] = ()
    missing: Mapping[str, int] | None = None

    @classmethod
    def of(cls, evidence: Evidence, way: Way) -> OnModel:
        """By one method, as it was asked."""
        if way.name in evidence.seen.refused:
            return cls(way.name, evidence.seen.refused[way.name])
        try:
            found = checked(evidence.own.asked(way).at_rest, KERNELS_OF, compare=False)
        except OnnxsalError as error:
            return cls(way.name, str(error))
        return cls(way.name, found.problem, found.converted_nodes, found.passes, found.missing)


@dataclass(frozen=True)
class Operators(
    Check,
    name="operators",
    title="Can each method explain this model?",
    seeks="methods that cannot explain the model",
    order=90,
    costly=True,
):
    """Which operators are known, and what each method makes of the model."""

    provider: str
    operators: Sequence[KnownOperator]
    methods: Sequence[OnModel]

    @classmethod
    def measure(cls, evidence: Evidence) -> Operators:
        counted = card(evidence.own, None).operators
        return cls(
            KERNELS_OF, [KnownOperator.of(*row) for row in counted.items()], [OnModel.of(evidence, w) for w in evidence.request.ways]
        )

    def judge(self, evidence: Evidence) -> Iterator[Judgement]:
        for row in self.methods:
            slow, title = sum((row.missing or {}).values()), f"{row.method} cannot explain this model"
            advice = "Leave the method out, or follow what the message says."
            if row.problem and evidence.request.offered:
                yield Judgement.none(row.problem, row.method)
                continue
            wrong = Finding(f"refused-{row.method}", Severity.WARNING, 10, title, row.problem, advice) if row.problem else None
            words = row.problem or (f"{slow} nodes have no kernel on {self.provider}, and would run on the CPU" if slow else "")
            yield Judgement.of(row.nodes, "some nodes when converted", 0, 0, method=row.method, words=words, wrong=wrong)

    def show(self, evidence: Evidence) -> Iterator[Block]:
        missing = [None if m.problem else "; ".join(f"{k}: {v}" for k, v in (m.missing or {}).items()) or "none" for m in self.methods]
        rows = [
            (m.method, Cell(m.problem or "yes", mark="wrong" if m.problem else ""), m.nodes, x)
            for m, x in zip(self.methods, missing, strict=True)
        ]
        heads = ("Method", "Explains it", "#Nodes when converted", f"Without a kernel on {self.provider}")
        kernels = f"operators of the converted model, with their number, that ONNX Runtime has no kernel for on {self.provider}"
        yield Table(f"Methods on this model, and the {kernels}", heads, rows)
        heads = ("Operator", "#Nodes", "Known as", "Gradient, or why there is none")
        yield Table("Operators of the model", heads, [(x.operator, x.count, x.kind, x.note) for x in self.operators])
