"""The walk through nodes that run graphs: written as nodes of the same kind, whose graphs run the forward ones again and walk back.

A choice is walked by a choice on the same condition. What is repeated is walked from its last step to its first: the states at the start of
every step are recorded by a run of their own, and the signals of what the graph reads from around it are summed over the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import TensorProto, helper

from onnxsal.backward.book import Book
from onnxsal.backward.registry import Rule, never
from onnxsal.backward.walk import walk_of
from onnxsal.errors import UnsupportedError
from onnxsal.facts.bodies import Body
from onnxsal.facts.reach import Inside
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import END
from onnxsal.graph.helpers import add_up, dim_of, recast, reshape_like, signal_type, zeros_like
from onnxsal.graph.model import captured
from onnxsal.graph.replay import set_apart
from onnxsal.ops.control import Carried, Choice, Repeat, Strip, choose, empty_sequence, frame_of, repeat, sequence_info

Sent = list[tuple[str, Value]]
"""Tensors and the signals that go to them."""

Traverse = Callable[[Emit, Any, Mapping[str, Value]], Mapping[str, Value]]
"""The walk itself: (where nodes go, the plan of a graph, signals at its ends) -> the signals that arrive."""


def _is_crossed(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> Sequence[Value | None]:
    raise AssertionError(f"{node.label} is crossed by a walk through its graphs")


def _no_bias(op: Emit, node: NodeView) -> None:
    raise UnsupportedError(
        f"{node.label}: what the nodes of its graphs keep for themselves is not told apart from outside, so the full-gradient of this "
        "model is not known. Use another method, such as gradient or integrated_gradients, or make the condition, or the number of steps, "
        "a constant of the file: then it is written out before the walk."
    )


INSIDE = Rule("inside", frozenset(), _is_crossed, {}, never, bias=_no_bias)
"""Stands in a plan for the rules of the nodes inside."""


def cross(op: Emit, node: NodeView, plans: Sequence[Any], dys: Sequence[Value | None], traverse: Traverse) -> Sent:
    """Emit the walk through the graphs of a node, from the signals ``dys`` at its outputs; ``plans`` has the plan of each graph."""
    known = frame_of(node)
    if isinstance(known, Choice):
        return _choice(op, node, plans, dys, traverse)
    assert isinstance(known, Repeat)
    return _Repetition(op, node, known, node.passage.inside[0], op.apart(f"{node.name}/walk")).cross(plans[0], dys, traverse)


# ----- one graph -----


@dataclass(frozen=True)
class _Walked:
    """One graph that was walked back: where its nodes go, what arrived, and what its book has."""

    op: Emit
    signals: Mapping[str, Value]

    def at(self, model: Any, name: str) -> Value:
        """The signal at a tensor, zeros where none arrived."""
        return self.signals[name] if name in self.signals else _zeros(self.op, model.value(name))

    def booked(self) -> list[Value | None]:
        """What biases took and what leaked, [N] each, as far as there is any."""
        book = walk_of(self.op).book
        entries = [] if book is None else [book.bias, book.leak]
        return [add_up(self.op, [recast(self.op, v, kind, self.op.dtype) for v, kind in some]) if some else None for some in entries]


def _begin(op: Emit, body: Body, prefix: str) -> Emit:
    inner = Emit(body.model, prefix)
    walk = walk_of(op)
    book = None if walk.book is None else Book(walk.book.samples, walk.book.layouts)
    inner.dtype, inner.walk = op.dtype, replace(walk, book=book, rectified={}, zeros_get_nothing={}, reference=None)
    return inner


def _zeros(op: Emit, value: Value) -> Value:
    with op.named("none", signal_type(value)):
        return zeros_like(op, value)


def _no_share(op: Emit, book: Book) -> Value:
    """0 for every sample."""
    count = op.const([1]) if book.samples is None or book.alone else dim_of(op, book.samples, 0)
    return op.ConstantOfShape(count, value=helper.make_tensor("zero", op.dtype, [1], [0.0]))


def _run_again(op: Emit, body: Body) -> None:
    """The forward nodes of a graph; those that nothing reads are dropped."""
    for node in body.model.nodes:
        op.insert(node)


def _add(op: Emit, seeds: dict[str, Value], name: str, signal: Value) -> None:
    seeds[name] = op.Add(seeds[name], signal) if name in seeds else signal


Given = tuple[Value, onnx.ValueInfoProto]
"""An input of a graph that is written, and its declaration."""


def _port(name: str, dtype: int, shape: Sequence[Any] | None = None) -> Given:
    return Value(name, dtype), helper.make_tensor_value_info(name, dtype, shape)


def _graph(
    op: Emit, body: Body, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[tuple[Value, onnx.ValueInfoProto]]
) -> onnx.GraphProto:
    """A graph of what was emitted, with the weights of ``body`` that it uses; ``outputs`` with their declarations (names do not count)."""
    ends = [op.Identity(value) for value, _ in outputs]
    nodes, initializers = op.finish(ends)
    used = {n for node in nodes for n in (*node.input, *captured(node))}
    stored = [t for name, t in body.model.initializers.items() if name in used]
    declared = []
    for end, (_, info) in zip(ends, outputs, strict=True):
        declared.append(onnx.ValueInfoProto.FromString(info.SerializeToString()))
        declared[-1].name = end.name
    graph = helper.make_graph(nodes, op.prefix, list(inputs), declared, [*stored, *initializers])
    set_apart(graph, op.prefix)
    return graph


def _declared(dtype: int, shape: Sequence[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("", dtype, shape)


# ----- a choice -----


def _choice(op: Emit, node: NodeView, plans: Sequence[Any], dys: Sequence[Value | None], traverse: Traverse) -> Sent:
    """dx = the sum of what the graph that ran sends to x; 0 where it does not read x. Both graphs send to the same tensors."""
    known, prefix = frame_of(node), op.apart(f"{node.name}/walk")
    assert isinstance(known, Choice)
    walked = []
    for name, inside, plan in zip(known.bodies, node.passage.inside, plans, strict=True):
        inner, seeds = _begin(op, inside.body, f"{prefix}/{name}"), dict[str, Value]()
        _run_again(inner, inside.body)
        for made, dy in zip(inside.body.outputs, dys, strict=True):
            if dy is not None and made in inside.starts:
                _add(inner, seeds, made, dy)
        walked.append(_Walked(inner, traverse(inner, plan, seeds)))
    book, shares = walk_of(op).book, [one.booked() for one in walked]
    taken = [i for i in range(2) if book is not None and any(share[i] is not None for share in shares)]
    graphs = []
    for one, inside, share in zip(walked, node.passage.inside, shares, strict=True):
        values = [(one.at(inside.body.model, n), _declared(signal_type(node.model.value(n)))) for n in node.around]
        assert book is not None or not taken
        values += [(share[i] or _no_share(one.op, book), _declared(op.dtype)) for i in taken]  # type: ignore[arg-type]
        graphs.append(_graph(one.op, inside.body, [], values))
    if not graphs[0].output:
        return []
    results = choose(op, node.input(known.by), graphs)
    for i, total in zip(taken, results[len(node.around) :], strict=True):
        (book.bias, book.leak)[i].append((total, op.dtype))  # type: ignore[union-attr]
    return list(zip(node.around, results, strict=False))


# ----- a repetition -----


@dataclass(frozen=True)
class _Repetition:
    """The walk through what a node repeats. ``<prefix>/steps`` is how often it ran, ``<prefix>/state<k>`` what it carried into
    each step.
    """

    op: Emit
    node: NodeView
    known: Repeat
    inside: Inside
    prefix: str

    @property
    def body(self) -> Body:
        return self.inside.body

    @property
    def steps(self) -> Value:
        return Value(f"{self.prefix}/steps", TensorProto.INT64, ())

    def taken(self, at: Carried | Strip) -> Value:
        """What the graph takes at every step."""
        return self.body.model.value(self.body.inputs[at.inside])

    def cross(self, plan: Any, dys: Sequence[Value | None], traverse: Traverse) -> Sent:
        """Emit it: the run that records, then the walk."""
        op, body, known, wrt = self.op, self.body, self.known, self.inside.wrt
        tracked = [c for c in known.carried if self._is_tracked(c)]
        read = [r for r in known.read if body.inputs[r.inside] in wrt]
        inner = _begin(op, body, self.prefix)
        turn, going = _port(f"{self.prefix}/turn", TensorProto.INT64, []), _port(f"{self.prefix}/going", TensorProto.BOOL, [])
        step = inner.Sub(inner.Sub(self.steps, 1), turn[0])
        self._bind(inner, step)
        for k, carried in enumerate(known.carried):
            self._recall(inner, k, carried, step)
        _run_again(inner, body)
        carry = [_port(f"{self.prefix}/signal{k}", signal_type(self.taken(c))) for k, c in enumerate(tracked)]
        sums = [_port(f"{self.prefix}/sum{i}", signal_type(self.node.model.value(n))) for i, n in enumerate(self.node.around)]
        seeds = self._seeds(inner, dict(zip(tracked, (v for v, _ in carry), strict=True)), dys, step)
        walked = _Walked(inner, traverse(inner, plan, seeds))
        values = [(going[0], _declared(TensorProto.BOOL, []))]
        values += [(walked.at(body.model, body.inputs[c.inside]), _declared(signal_type(self.taken(c)))) for c in tracked]
        for name, (total, info) in zip(self.node.around, sums, strict=True):
            values.append((inner.Add(total, walked.signals[name]) if name in walked.signals else total, info))
        shares = [(i, share) for i, share in enumerate(walked.booked()) if share is not None]
        booked = [_port(f"{self.prefix}/share{i}", op.dtype) for i, _ in shares]
        values += [(inner.Add(total, share), info) for (total, info), (_, share) in zip(booked, shares, strict=True)]
        for r in read:
            rank = len(self.taken(r).shape or ())
            shape = None if self.taken(r).shape is None else [None] * rank
            values.append((walked.at(body.model, body.inputs[r.inside]), _declared(signal_type(self.taken(r)), shape)))
        graph = _graph(inner, body, [info for _, info in (turn, going, *carry, *sums, *booked)], values)
        final = self._record(set(captured(onnx.NodeProto(attribute=[helper.make_attribute("body", graph)]))), dys, tracked)
        begin = [final[c] if dys[c.result] is None else dys[c.result] for c in tracked]
        begin += [_zeros(op, self.node.model.value(n)) for n in self.node.around]
        book = walk_of(op).book
        begin += [_no_share(op, book) for _ in shares]  # type: ignore[arg-type]
        results = list(repeat(op, self.steps, op.const(True), begin, graph))  # type: ignore[arg-type]
        for (i, _), total in zip(shares, results[len(begin) - len(shares) :], strict=False):
            (book.bias, book.leak)[i].append((total, op.dtype))  # type: ignore[union-attr]
        sent = [(self.node.proto.input[c.given], r) for c, r in zip(tracked, results, strict=False) if self.node.want(c.given)]
        sent += zip(self.node.around, results[len(tracked) :], strict=False)
        strips = zip(read, results[len(begin) :], strict=True)
        return [*sent, *((self.node.proto.input[r.outside], self._laid_out(r, signals)) for r, signals in strips)]

    def _is_tracked(self, carried: Carried) -> bool:
        """Whether a signal goes from step to step with what is carried."""
        inside, made = self.body.inputs[carried.inside], self.body.outputs[carried.made]
        return inside in self.inside.wrt or made in self.inside.starts or self.node.want(carried.given)

    # ----- in the graph -----

    def _bind(self, inner: Emit, step: Value) -> None:
        """Give the graph the number of the step, and its slices; that it goes on is true while it runs."""
        known, body = self.known, self.body
        if known.iteration is not None and known.going is not None:
            for at, value in ((known.iteration, step), (known.going[1], inner.const(True))):
                name = body.inputs[at]
                shape = body.model.value(name).shape
                inner.Reshape(value, [1] * len(shape), name=name) if shape else inner.Identity(value, name=name)
        for r in known.read:
            axis = self._axis(self.node.input(r.outside), r)
            inner.Gather(inner.raw(self.node.input(r.outside)), self._at(inner, step, r), axis=axis, name=body.inputs[r.inside])

    def _axis(self, value: Value, strip: Strip) -> int:
        return strip.axis if strip.axis >= 0 else strip.axis % value.rank

    def _at(self, inner: Emit, step: Value, strip: Strip) -> Value:
        """The index of a step's slice."""
        last: Value = inner.Sub(inner.Sub(self.steps, 1), step) if strip.backwards else step
        return last

    def _keeps_shape(self, carried: Carried) -> bool:
        """Whether what is carried has the same shape at every step, so that the steps can be stacked."""
        shape = self.taken(carried).shape
        return self.known.count is None or (shape is not None and not any(d is None for d in shape))

    def _recall(self, inner: Emit, k: int, carried: Carried, step: Value) -> None:
        name, recorded = self.body.inputs[carried.inside], Value(f"{self.prefix}/state{k}")
        if self._keeps_shape(carried):
            inner.Gather(recorded, step, axis=0, name=name)
        else:
            inner.SequenceAt(recorded, step, name=name)

    def _seeds(self, inner: Emit, carry: Mapping[Carried, Value], dys: Sequence[Value | None], step: Value) -> dict[str, Value]:
        """The signals at what a step makes: of what is carried on, and its slices of the signals at what is stacked."""
        body, seeds = self.body, dict[str, Value]()
        for carried, signal in carry.items():
            if body.outputs[carried.made] in self.inside.starts:
                _add(inner, seeds, body.outputs[carried.made], signal)
        for s in self.known.stacked:
            dy = dys[s.outside] if s.outside < len(dys) else None
            if dy is not None and body.outputs[s.inside] in self.inside.starts:
                axis = self._axis(self.node.output(s.outside), s)
                _add(inner, seeds, body.outputs[s.inside], inner.Gather(dy, self._at(inner, step, s), axis=axis))
        return seeds

    # ----- around it -----

    def _record(self, read: set[str], dys: Sequence[Value | None], tracked: Sequence[Carried]) -> dict[Carried, Value]:
        """Emit what the walk reads: how often it ran, and what was carried into every step. Returns zeros like what was carried at last,
        for what has no signal there.
        """
        op, known = self.op, self.known
        kept = [(k, c) for k, c in enumerate(known.carried) if f"{self.prefix}/state{k}" in read]
        open_ends = [c for c in tracked if dys[c.result] is None and not self._is_told(c)]
        ends = {c: _zeros(op, self.node.output(c.result)) for c in tracked if dys[c.result] is None and self._is_told(c)}
        if known.count is None:
            first = known.read[0]
            value = self.node.input(first.outside)
            op.Squeeze(dim_of(op, value, first.axis % value.rank), [0], name=self.steps.name)
        if known.count is None and not kept and not open_ends:
            return ends
        results = self._run(kept)
        if known.count is not None:
            op.Size(results.pop(), name=self.steps.name)
        for (k, _), stack in zip(kept, results[len(known.carried) :], strict=True):
            op.Identity(stack, name=f"{self.prefix}/state{k}")
        last = dict(zip(known.carried, results, strict=False))
        return ends | {c: _zeros(op, Value(last[c].name, self.taken(c).dtype)) for c in open_ends}

    def _is_told(self, carried: Carried) -> bool:
        return carried.result < len(self.node.outputs) and self.node.outputs[carried.result] is not None

    def _run(self, kept: Sequence[tuple[int, Carried]]) -> list[Value]:
        """Emit the forward graph once more: its final states, what was carried into each step of those that are ``kept``, in their order,
        and the numbers of the steps where it decides itself how often it runs.
        """
        op, node, known, body = self.op, self.node, self.known, self.body
        run = Emit(body.model, f"{self.prefix}/record")
        turn, going = _port(f"{run.prefix}/turn", TensorProto.INT64, []), _port(f"{run.prefix}/going", TensorProto.BOOL, [])
        self._bind(run, turn[0])
        _run_again(run, body)
        growing = [(k, c) for k, c in kept if not self._keeps_shape(c)]
        states = [(Value(body.inputs[c.inside]), _info(body.inputs[c.inside], self.taken(c).dtype)) for c in known.carried]
        lists = [(Value(f"{run.prefix}/states{k}"), sequence_info(f"{run.prefix}/states{k}", self.taken(c).dtype)) for k, c in growing]
        more = going[0] if known.going is None else run.Squeeze(Value(body.outputs[known.going[2]]))
        values = [(more, _declared(TensorProto.BOOL, []))]
        values += [(Value(body.outputs[c.made]), _declared(self.taken(c).dtype)) for c in known.carried]
        for (_, c), (before, info) in zip(growing, lists, strict=True):
            values.append((run.SequenceInsert(before, Value(body.inputs[c.inside])), info))
        values += [(Value(body.inputs[c.inside]), _declared(self.taken(c).dtype)) for _, c in kept if self._keeps_shape(c)]
        values += [(turn[0], _declared(TensorProto.INT64, []))] if known.count is not None else []
        graph = _graph(run, body, [info for _, info in (turn, going, *states, *lists)], values)
        count = self.steps if known.count is None else node.optional(known.count)
        begin = None if known.going is None else node.optional(known.going[0])
        given = [op.raw(node.input(c.given)) for c in known.carried] + [empty_sequence(op, self.taken(c).dtype) for _, c in growing]
        results = list(repeat(op, count, begin, given, graph))
        made = dict(zip([c for _, c in growing], results[len(known.carried) :], strict=False))
        stacked = iter(results[len(known.carried) + len(growing) :])
        recorded = [made[c] if c in made else next(stacked) for _, c in kept]
        return [*results[: len(known.carried)], *recorded, *stacked]

    def _laid_out(self, strip: Strip, signals: Value) -> Value:
        """The signals of the slices, from the last step to the first along axis 0, as the tensor that they are slices of."""
        op, x = self.op, self.node.input(strip.outside)
        axis = strip.axis % x.rank
        if not strip.backwards:
            signals = op.Slice(signals, [-1], [-END], [0], [-1])
        if axis:
            signals = op.Transpose(signals, perm=[*range(1, axis + 1), 0, *range(axis + 1, x.rank)])
        # of no step at all nothing tells the other sizes
        return signals if x.dim(axis) else reshape_like(op, signals, x)


def _info(name: str, dtype: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, None)
