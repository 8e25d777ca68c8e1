"""Whether a model can be explained, what was found out about it, and what runs where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxsal.ask.class_names import classes_of, refuse_misfit
from onnxsal.ask.guard import as_example
from onnxsal.ask.layers import layers_of
from onnxsal.ask.missing_kernels import missing_kernels
from onnxsal.ask.question import Question
from onnxsal.ask.request import DEFAULT_METHOD, RUN, Ask
from onnxsal.display import Displayed, Panel
from onnxsal.engine.method import Method
from onnxsal.errors import MethodError, ModelError, ModelTooLarge, OnnxsalError
from onnxsal.facade.convert import Conversion, decide, emit
from onnxsal.facade.drift import Drift, drift
from onnxsal.facts.grounds import Found, fact_lines
from onnxsal.graph import Model
from onnxsal.graph.load import Source, admitted, read_model
from onnxsal.runtime.kernels import release


@dataclass(frozen=True, repr=False)
class Report(Displayed):
    """Whether a model can be explained by a method, what was found out about it, and what runs where.

    ``problem`` is why it cannot ('' = it can); ``missing`` maps (operator, element types) of the *converted* model to the number of
    its nodes that have no kernel on ``provider`` (and would run on the CPU); ``forward_missing`` counts those of the original. ``layers``
    are the candidates for a class activation map, the one that is taken first (for methods with a target layer). ``found`` says of each
    fact how it is known, ``doubt`` what is not known and was assumed ('' = nothing), ``drift`` how far the model's own outputs move
    (``None`` = not asked, or it cannot be explained).
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
    found: tuple[Found, ...] = ()
    doubt: str = ""
    drift: Drift | None = None

    @property
    def ok(self) -> bool:
        """The model can be explained (nodes without a kernel only cost time)."""
        return not self.problem

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        lists: dict[str, Any] = {"passes": list(self.passes), "layers": list(self.layers), "found": [fact.as_dict() for fact in self.found]}
        lists["drift"] = None if self.drift is None else self.drift.as_dict()
        return {**self.__dict__, "ok": self.ok, **lists, "missing": dict(self.missing), "forward_missing": dict(self.forward_missing)}

    def _panel(self) -> Panel:
        title = f"Report: {'can' if self.ok else 'cannot'} be explained by {self.method}"
        title += f", {self.output} at {self.input}, {self.nodes} nodes, {self.converted_nodes} when converted" if self.ok else ""
        facts = [f"{fact.what}: {fact}" for fact in self.found]
        facts += [f"target layer: {self.layers[0]}"] if self.layers else []
        facts += [] if self.missing or not self.ok else [f"every node has a kernel on {self.provider} (ONNX Runtime {self.release})"]
        facts += [str(self.drift)] if self.drift else []
        rows = [(what, str(count), str(self.forward_missing.get(what, 0))) for what, count in self.missing.items()]
        columns = (f"no {self.provider} kernel for", "nodes", "of them in the original")
        return Panel(title, facts, columns if rows else (), rows, [*filter(None, (self.problem, self.doubt))])

    def __str__(self) -> str:
        known = fact_lines(self.found, self.doubt)
        if self.problem:
            return "\n".join([f"cannot be explained by '{self.method}': {self.problem}", *known])
        lines = [
            f"can be explained by '{self.method}': '{self.output}' at '{self.input}', "
            f"{self.nodes} nodes, {self.converted_nodes} when converted",
            *known,
        ]
        lines += [f"pass {p}" for p in self.passes]
        lines += [f"target layer {self.layers[0]}; other candidates: {', '.join(self.layers[1:]) or 'none'}"] if self.layers else []
        if not self.missing:
            lines.append(f"every node has a kernel on {self.provider} (ONNX Runtime {self.release})")
        falls = "need a cast to float32 that ONNX Runtime inserts, or do not run" if self.provider == "cpu" else "run on the CPU"
        for what, count in self.missing.items():
            own = self.forward_missing.get(what, 0)
            lines.append(f"no {self.provider} kernel for {what}: {count} node(s) {falls} ({own} of them in the original model)")
        lines += [str(self.drift)] if self.drift else []
        return "\n".join(lines)


def check(
    model: Source,
    provider: str = "cuda",
    method: str | Path | Method = DEFAULT_METHOD,
    compare: bool = True,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> Report:
    """Can this model be explained, what is known of it and how, and does every node of the converted one have a kernel on ``provider``?

    ``options`` are those of ``convert``. ``compare`` also runs original and converted file once, to see how far the model's own outputs
    move. Never raises for what the model lacks: that is ``Report.problem``, in the words of ``convert``. ``labels`` that do not fit the
    model's classes are no fault of the model, and raise ``InputError``.
    """
    return checked(Ask.of(model, method, labels=labels, **options), provider, compare)


def checked(ask: Ask, provider: str, compare: bool = True) -> Report:
    """As ``check``, of a request."""
    ask, proto = replace(ask.without("check", *RUN), method=ask.chosen), read_model(ask.model)
    try:
        forward = Model(admitted(proto))
    except ModelTooLarge:
        raise
    except ModelError as error:
        return Report(ask.chosen.name, provider, release(provider), str(error), "", "", len(proto.graph.node), 0, (), {}, {})
    absent: dict[str, int] = {}
    question: Question | None = None
    try:
        absent = missing_kernels(forward, provider)
        decided = decide(replace(ask, model=proto, labels=None))
        question = decided.question
        made = emit(decided)
    except MethodError:  # the question is wrong, not the model
        raise
    except OnnxsalError as error:
        first, last = (next(iter(names), "") for names in (forward.input_names, forward.output_names))
        refused = Report(ask.chosen.name, provider, release(provider), str(error), first, last, len(forward.nodes), 0, (), {}, absent)
        return refused if question is None else _known(refused, ask, question)
    found = Report(ask.chosen.name, provider, release(provider), "", "", "", len(forward.nodes), _count(made.proto.graph), (), {}, absent)
    return replace(
        _known(found, ask, made.question),
        passes=tuple(made.log),
        missing=missing_kernels(Model(made.proto), provider),
        layers=_candidates(made),
        drift=drift(ask.model, proto, made.proto, as_example(proto, ask.example, ask.input)) if compare else None,
    )


def _known(report: Report, ask: Ask, question: Question) -> Report:
    """The report with what was found out about the model. Raises ``InputError`` for labels that do not fit it."""
    refuse_misfit(ask.labels, classes_of(question), question.output)
    return replace(report, input=question.x.name, output=question.output, found=question.found, doubt=question.doubt)


def _candidates(made: Conversion) -> tuple[str, ...]:
    """The layer that the map is made of, then others that it could be made of; nothing where the method took none."""
    if made.layer is None:
        return ()
    others = layers_of(made.question).candidates
    return (str(made.layer), *(str(other) for other in others if other.value.name != made.layer.value.name))


def _count(graph: onnx.GraphProto) -> int:
    return sum(1 + sum(_count(a.g) for a in n.attribute if a.type == onnx.AttributeProto.GRAPH) for n in graph.node)
