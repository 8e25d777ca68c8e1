"""Plan: which rule crosses which node and why, decided and printable before anything is emitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnxsal.backward import Rule
from onnxsal.display import Displayed, Panel
from onnxsal.engine.constants import constants_of
from onnxsal.engine.inside import INSIDE
from onnxsal.engine.method import Method
from onnxsal.errors import MethodError, PlanError
from onnxsal.facts.bodies import bodies_of, least_steps
from onnxsal.facts.fold import Fold
from onnxsal.facts.folds import FOLDED, NORMALISERS
from onnxsal.facts.gates import shares
from onnxsal.facts.grounds import Found
from onnxsal.facts.reach import WIDE_INTEGERS, Reach, reach
from onnxsal.facts.tags import tags_of
from onnxsal.facts.wild import mark
from onnxsal.graph import Model, NodeView, Value
from onnxsal.graph.model import captured
from onnxsal.limits import refuse_over
from onnxsal.ops.registry import advice, family_of, spec_of


@dataclass(frozen=True)
class Step:
    """One node on the path with the rule that crosses it, or, of a node that runs graphs, the plan of the walk through each."""

    node: NodeView
    family: str
    rule: Rule
    parameters: dict[str, Any]
    why: str
    inside: tuple[Plan, ...] = ()


@dataclass(frozen=True, repr=False)
class Plan(Displayed):
    """The walk from ``starts`` back to ``wrt``: its steps in forward order, and the nodes where a signal ends by definition.

    ``found`` is what is known of the model and how, ``doubt`` a reason to read its maps with care ('' = none), where a whole conversion
    was planned.
    """

    method: str
    wrt: tuple[str, ...]
    starts: tuple[str, ...]
    steps: tuple[Step, ...]
    stops: tuple[tuple[NodeView, str], ...] = ()
    notes: tuple[str, ...] = field(default=())
    found: tuple[Found, ...] = ()
    doubt: str = ""

    @property
    def every(self) -> Iterator[Step]:
        """The steps, those through the graphs of nodes behind the nodes themselves."""
        for step in self.steps:
            yield step
            for plan in step.inside:
                yield from plan.every

    def refuse_graphs(self, why: str) -> None:
        """Raise ``PlanError`` where the walk goes through nodes that run graphs; ``why`` says what the method cannot do there."""
        refuse_graphs(self.method, (step.node for step in self.steps), why)

    def counts(self) -> Counter[tuple[str, str]]:
        """(operator, rule) -> number of nodes."""
        return Counter((s.node.op_type, s.rule.name) for s in self.every)

    def _panel(self) -> Panel:
        what = f"{', '.join(self.starts)} -> {', '.join(self.wrt)}"
        title = f"Plan of {self.method}: {what}, {f'{len(self.steps)} nodes' if self.steps else 'run forward only'}"
        facts = [f"{fact.what}: {fact}" for fact in self.found] + [f"ends at {n.label}: {why}" for n, why in self.stops]
        rows = [(op, rule, str(count)) for (op, rule), count in self.counts().most_common()]
        return Panel(title, [*facts, *self.notes], ("operator", "rule", "nodes"), rows, [self.doubt] if self.doubt else [])

    def __str__(self) -> str:
        if not self.steps:
            return "\n".join([f"method {self.method}: {', '.join(self.starts)} at {', '.join(self.wrt)}, run forward only", *self.notes])
        rows = [("node", "operator", "family", "rule", "why")]
        for s in self.every:
            given = ", ".join(f"{k}={v}" for k, v in s.parameters.items())
            rows.append((s.node.name, s.node.op_type, s.family, f"{s.rule.name}({given})" if given else s.rule.name, s.why))
        widths = [max(len(r[i]) for r in rows) for i in range(4)]
        table = ["  ".join(c.ljust(w) for c, w in zip(r, [*widths, 0], strict=True)).rstrip() for r in rows]
        head = f"method {self.method}: {', '.join(self.starts)} -> {', '.join(self.wrt)}, {len(self.steps)} nodes"
        ends = [f"ends at {n.label}: {why}" for n, why in self.stops]
        return "\n".join([head, *table, *ends, *self.notes])


def refuse_graphs(method: str, path: Iterable[NodeView], why: str) -> None:
    """Raise ``PlanError`` where there are nodes on a path that run graphs; ``why`` says what the method cannot do there."""
    inside = [node.label for node in path if bodies_of(node)]
    if inside:
        raise PlanError(
            f"method '{method}' does not explain models whose path leads through graphs that nodes run, {', '.join(inside[:3])}: {why}. "
            "Use method 'gradient' or 'integrated_gradients', or a file in which the condition, or the number of steps, is a constant."
        )


def _unfollowed(model: Model, value: Value) -> bool:
    """Whether a tensor holds sums of quantised values, and nobody knows which: not those of an operator that is walked as another."""
    return value.dtype in WIDE_INTEGERS and value.name not in model.restated


def make_plan(model: Model, method: Method, wrt: Sequence[str], starts: Sequence[str]) -> Plan:
    """Decide the rule of every node between ``starts`` and ``wrt``.

    Raises ``PlanError`` with *every* gap (operators without a gradient, families the method refuses) or, where the score
    does not depend differentiably on an explained tensor at all, with the nodes at which the derivative ends.
    """
    if not method.rules:
        raise no_walk(method)
    found, steps, gaps = _decided(model, method, wrt, starts, Around())
    _require_path(found, wrt, starts)
    if gaps:
        raise PlanError(
            f"method '{method.name}' cannot explain this model; "
            f"{len(gaps)} node(s) between {list(wrt)} and {list(starts)} have no rule:\n  "
            + "\n  ".join(gaps)
            + "\nKnown operators: `onnxsal ops`. A rule file of your own (`--rules mine.toml`) can name a rule for a family or node."
        )
    plan = _plan(method, wrt, starts, found, steps)
    finite = not any(step.node.wild for step in plan.every)
    for step in plan.every:
        step.node.finite = finite
    return replace(plan, notes=_notes(method, list(plan.every)))


def _plan(method: Method, wrt: Sequence[str], starts: Sequence[str], found: Reach, steps: Sequence[Step]) -> Plan:
    return Plan(method.name, tuple(wrt), tuple(starts), tuple(steps), tuple(found.stops))


@dataclass(frozen=True)
class Around:
    """What lies around the graph of a node: whether there is a linear node before it, and one behind it."""

    before: bool = False
    behind: bool = False


def _decided(
    model: Model, method: Method, wrt: Sequence[str], starts: Sequence[str], around: Around
) -> tuple[Reach, list[Step], list[str]]:
    """What is reached, the rule of every node there, and the nodes that have none."""
    found = reach(model, wrt, starts)
    if method.constants:
        found = reach(model, wrt, starts, constants_of(method, found.path))
    folds = {i: fold for row in method.normalise for i, fold in NORMALISERS[row.use](model, {*wrt, *starts}).items()}
    _mark(found.path, folds)
    gaps: list[str] = []
    steps = []
    first, last = _first_and_last(found.path, around)
    for node in found.path:
        spec = spec_of(node)
        if node.passage is not None:
            inner = Around(node.index not in first, node.index not in last)
            steps.append(_through(node, method, inner, gaps))
            continue
        if spec is None:
            gaps.append(f"{node.label}: no gradient is known{advice(node)}")
            continue
        if wide := [v.name for i, v in enumerate(node.inputs) if v is not None and node.want(i) and _unfollowed(model, v)]:
            gaps.append(f"{node.label}: {wide} holds quantised values as wide integers; they are followed in types of up to 16 bits only")
            continue
        choice = method.choose(node, spec.family, _position(node, first, last))
        if isinstance(choice, str):
            gaps.append(f"{node.label}: {choice}")
            continue
        steps.append(Step(node, spec.family, *choice))
    return found, steps, gaps


def _through(node: NodeView, method: Method, around: Around, gaps: list[str]) -> Step:
    """The step through the graphs of a node, with what is missing there added to ``gaps``."""
    plans = []
    refuse_over("steps", least_steps(node), f"{node.label}, which is walked from its last step to its first", PlanError)
    # of several steps each has another before it or behind it
    ends = around if len(node.passage.inside) > 1 else Around(True, True)
    for one in node.passage.inside:
        found, steps, missing = _decided(one.body.model, method, one.wrt, one.starts, ends)
        gaps += missing
        plans.append(_plan(method, one.wrt, one.starts, found, steps))
    return Step(node, "control", INSIDE, {}, "the walk goes through its graphs", tuple(plans))


def no_walk(method: Method) -> MethodError:
    """What there is to say where a plan is asked of a method without rules."""
    return MethodError(f"method '{method.name}' runs the model forward only, so there is no walk to plan.")


def _mark(path: Sequence[NodeView], folds: Mapping[int, Fold]) -> None:
    """Tell the plan's own views of the nodes what they do, and what is folded into which."""
    folded, parts = {n.index for fold in folds.values() for n in fold.tail}, shares(path)
    for node in path:
        node.shares = parts.get(node.index, {})
        node.fold = folds.get(node.index)
        mark(node)
        node.tags = tags_of(node.model).get(node.index, frozenset()) | ({FOLDED} if node.index in folded else frozenset())


def _notes(method: Method, steps: Sequence[Step]) -> tuple[str, ...]:
    """Rules of the method that met no node. If none of its own rules did, its map would be the gradient under another name."""
    own = {row.use for row in method.rules} - {"gradient"}
    unused = sorted(own - {s.rule.name for s in steps})
    if own and len(unused) == len(own):
        wanted = "; ".join(row.text for row in method.rules if row.use in own)
        kinds = ", ".join(f"{n} {t}" for t, n in Counter(s.node.op_type for s in steps).most_common())
        raise PlanError(
            f"method '{method.name}' would be the plain gradient under another name: its rule(s) {', '.join(unused)} ({wanted}) apply to "
            f"none of the {len(steps)} nodes on the path ({kinds}). Use method 'gradient', or a rule file that names other nodes."
        )
    return tuple(f"note: rule '{u}' applies to no node of this model" for u in unused)


def _require_path(found: Reach, wrt: Sequence[str], starts: Sequence[str]) -> None:
    dead = [w for w in wrt if w not in found.active or (not found.path and w not in starts)]
    if not dead:
        return
    ends = "\n  ".join(f"{n.label}: {why}" for n, why in found.stops) or "no node connects them"
    raise PlanError(
        f"no differentiable path from {dead} to {list(starts)}, so there is nothing to explain; the derivative ends at:\n  {ends}\n"
        "Explain another output (--output) or an inner floating-point tensor (--input), such as an embedding. Methods that only run the "
        "model need no derivative: feature_ablation, shapley_sampling, occlusion, rise."
    )


def linear_positions(path: Sequence[NodeView]) -> dict[int, str]:
    """Node index -> 'first' or 'last' by data flow among linear nodes: no linear node before it, or none after it, on any path."""
    first, last = _first_and_last(path, Around())
    return {i: "first" if i in first else "last" for i in first | last}


def _position(node: NodeView, first: set[int], last: set[int]) -> str:
    return "first" if node.index in first else "last" if node.index in last else "inner"


def _first_and_last(path: Sequence[NodeView], around: Around) -> tuple[set[int], set[int]]:
    """Of the linear nodes, and nodes with such inside, those with no linear node before them, and those with none behind them."""
    ids = {n.index for n in path if _is_linear(n)}
    behind: set[str] = set()
    first = set()
    for node in path:
        after = any(n in behind for n in (*node.proto.input, *captured(node.proto)))
        if node.index in ids and not after and not around.before:
            first.add(node.index)
        if after or node.index in ids:
            behind.update(node.proto.output)
    ahead: set[str] = set()
    last = set()
    for node in reversed(path):
        before = any(o in ahead for o in node.proto.output)
        if node.index in ids and not before and not around.behind:
            last.add(node.index)
        if before or node.index in ids:
            ahead.update((*node.proto.input, *captured(node.proto)))
    return first, last


def _is_linear(node: NodeView) -> bool:
    inner = [n for body in bodies_of(node) for n in body.model.nodes]
    return family_of(node) == "linear" or any(map(_is_linear, inner))
