"""Look before converting: the plan of a method, and what there is."""

from __future__ import annotations

from dataclasses import replace
from textwrap import wrap

from onnxsal.ask.request import RUN, Ask, spelled
from onnxsal.display import WIDTH, Displayed, Panel, as_text
from onnxsal.engine.method import Method, known_methods
from onnxsal.engine.plan import Plan
from onnxsal.facade.convert import conversion
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, REGISTRY, OpSpec


@spelled.function
def plan(ask: Ask) -> Plan:
    """Which rule crosses which node, and why; ``print(plan(...))`` shows the table. Nothing is returned that could be run.

    What can be given is as for ``convert``, and the plan is the one that a conversion walks by (of several, the last); ``Plan.found`` and
    ``Plan.doubt`` say what was found out about the model. A method that only runs the model forward has a plan without steps, whose
    ``notes`` tell how often it does. Raises as ``convert``.
    """
    return planned(ask)


def planned(ask: Ask) -> Plan:
    """As ``plan``, of a request."""
    made = conversion(ask.without("plan", *RUN))
    question = made.question
    forward = Plan(made.method.name, (question.x.name,), (question.start.name,), ())
    return replace(
        made.plans[-1] if made.plans else replace(forward, notes=made.runs), found=made.question.found, doubt=made.question.doubt
    )


class KnownMethods(Displayed, dict[str, Method]):
    """KnownMethods by name, which show themselves as a table of what each is."""

    def _panel(self) -> Panel:
        rows = [(name, method.title) for name, method in self.items()]
        return Panel(f"{len(self)} methods", (), ("method", "what it is"), rows)

    def __repr__(self) -> str:
        return as_text(Panel(f"{len(self)} methods", wrap(", ".join(self), WIDTH - 2)))


def methods() -> KnownMethods:
    """Every method by name: those that come with onnxsal, and those that other installed packages add."""
    return KnownMethods(known_methods())


def ops() -> dict[str, OpSpec | str]:
    """Every known operator: how it is explained (``OpSpec``), or why it carries no derivative (``str``)."""
    merged: dict[str, OpSpec | str] = {f"{d}.{o}" if d else o: spec for (d, o), spec in REGISTRY.items()}
    merged |= {f"{d}.{o}" if d else o: reason for (d, o), reason in NOT_DIFFERENTIABLE.items()}
    return dict(sorted(merged.items()))
