"""Runs at many points: a Loop inside the converted graph replays the forward part, and walks back if asked to, a chunk at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxsal.ask.question import Question
from onnxsal.engine.plan import make_plan
from onnxsal.engine.traverse import Visit, traverse
from onnxsal.errors import MethodError
from onnxsal.facts.bodies import data_decides
from onnxsal.facts.footprint import bytes_of_row
from onnxsal.graph import Emit, Model, Value
from onnxsal.graph.body import LoopBody
from onnxsal.graph.chunk import Chunk, rows_within
from onnxsal.graph.emit import ON_CUDA
from onnxsal.graph.helpers import recast, shape_of, signal_type
from onnxsal.graph.replay import in_a_row, reads_inputs, replay, replica
from onnxsal.methods.build import Build
from onnxsal.methods.head import Chosen, emit_seed, score_of, scores
from onnxsal.settings import shown

AUTO = "auto"

Points = Callable[[Emit, Value], Value]
"""(body, int64 sample numbers [c]) -> inputs to evaluate, broadcastable to [c, N, ...]."""


@dataclass(frozen=True)
class Walked:
    """One chunk of walks: where they were (``points`` [c, N, ...]), what came back (``signals``), and the chunk's samples."""

    body: Emit
    numbers: Value
    points: Value
    signals: Value

    def per_sample(self, value: Value, like: Value) -> Value:
        """[c * N, ...] of the body as [c, N, ...], with the shape that ``like`` has outside."""
        return self.body.Reshape(value, self.body.Concat(self.body.const([-1]), shape_of(self.body, like), axis=0))


Update = Callable[[Walked, Sequence[Value]], Sequence[Value]]
"""(one chunk, states) -> new states."""


@dataclass(frozen=True)
class Scored:
    """One chunk of plain runs: the scores of the explained class [c, N], and where the replayed tensors are."""

    body: Emit
    numbers: Value
    inner: Question
    scores: Value
    chosen: Value

    def tensor(self, name: str) -> Value:
        """A replayed tensor, [c * N, ...]; it must be among the targets of the loop."""
        return self.inner.model.value(f"{self.body.prefix}/{name}")

    def per_run(self, value: Value) -> Value:
        """[c * N] of the body as [c, N]."""
        return _rows(self.body, value, self.numbers)


@dataclass(frozen=True)
class Samples:
    """``count`` runs (a number, or a scalar of the graph), in chunks as the setting ``chunk`` says; ``what`` names one."""

    count: int | Value
    what: str = "perturbation"

    def chunk(self, build: Build, view: Model) -> Chunk:
        """As the setting says, which from here on tells what "auto" is. Raises ``MethodError`` where it says nothing that there is.

        One by one where the model's batch is fixed, where the replayed part also reads another input, which holds N samples only, or where
        data decides what runs: that is decided once for all that is fed.
        """
        question, place = build.question, build.op.runs_on
        one = question.fixed_batch or not question.batched
        alone = one or reads_inputs(question.model, view) or data_decides(question.model)
        if build.settings["chunk"] == AUTO:
            rows = 1 if alone else rows_within(place, bytes_of_row(question.model, question.x, view.copies))
            build.settings["chunk"] = 1 if rows == 1 else f"{rows} rows"
        said = build.settings["chunk"]
        chunk = Chunk.read(said)
        if chunk is None:
            raise MethodError(
                f"method '{build.method.name}': chunk={shown(said)} is no number of samples in one turn; give a whole number of 1 or "
                f'more (times the batch), "64 rows" for as many as make 64 with the batch, or "{AUTO}".'
            )
        return Chunk() if alone else dataclasses.replace(chunk, x=question.x, even=place == ON_CUDA)


def sampled_walks(
    build: Build,
    samples: Samples,
    points: Points,
    states: Sequence[Value],
    update: Update,
    noting: Callable[[Emit], Visit] | None = None,
) -> list[Value]:
    """Emit ``Loop`` over chunks of samples; returns the final states.

    Every iteration replays the forward part at ``points``, walks back from the explained class of the *clean* input, and lets
    ``update`` fold the signals into the states; ``noting(body)`` is the walk's visitor. Memory is that of one chunk, whatever the
    number of samples.
    """
    build.plan()  # here, so that a refusal names the model's own nodes and tensors, not the replica's

    def step(body: Emit, inner: Question, numbers: Value, carried: Sequence[Value]) -> Sequence[Value]:
        full, chosen = _replay(build, body, inner, points(body, numbers), numbers)
        plan = make_plan(inner.model, build.method, [inner.x.name], [inner.start.name])
        seed = emit_seed(body, inner, inner.start, chosen)
        signal = traverse(body, plan, {inner.start.name: seed}, noting(body) if noting else None)[inner.x.name]
        shape = body.Concat(body.const([-1]), shape_of(body, build.question.x), axis=0)
        return update(Walked(body, numbers, full, body.Reshape(signal, shape)), carried)

    return _loop(build, samples, [build.question.start.name], states, step)


def sampled_scores(
    build: Build,
    samples: Samples,
    points: Points,
    states: Sequence[Value],
    update: Callable[[Scored, Sequence[Value]], Sequence[Value]],
    rows: Callable[[Emit, Question, Value], Value] | None = None,
    also: Sequence[str] = (),
    beside: Mapping[str, Points] | None = None,
) -> list[Value]:
    """As ``sampled_walks`` without the walk: ``update`` folds the scores of the explained class into the states.

    ``rows`` makes the scores [c * N, K] from the replayed start (default: the question's own); ``also`` names other tensors that
    ``update`` wants to see; ``beside`` are other inputs that are replaced too.
    """

    def step(body: Emit, inner: Question, numbers: Value, carried: Sequence[Value]) -> Sequence[Value]:
        others = {name: made(body, numbers) for name, made in (beside or {}).items()}
        _, chosen = _replay(build, body, inner, points(body, numbers), numbers, others)
        score = score_of(body, (rows or scores)(body, inner, inner.start), chosen)
        score = recast(body, score, signal_type(inner.start), body.dtype)
        return update(Scored(body, numbers, inner, _rows(body, score, numbers), chosen.target), carried)

    often = "" if isinstance(samples.count, Value) else f"{samples.count:,} times, "
    build.runs.append(f"beside its own pass, the model runs forward {often}once for each {samples.what}, for every sample")
    return _loop(build, samples, [build.question.start.name, *also], states, step, list(beside or ()))


ChunkStep = Callable[[LoopBody, Question, Value, Sequence[Value]], Sequence[Value]]
"""(body, the question in the replica, sample numbers, states) -> new states."""


def _loop(
    build: Build, samples: Samples, targets: Sequence[str], states: Sequence[Value], step: ChunkStep, beside: Sequence[str] = ()
) -> list[Value]:
    """``Loop`` over chunks of sample numbers, with a replica of the part from the explained input (and those ``beside``) to ``targets``."""
    op, question = build.op, build.question
    prefix = op.apart("sample")
    view = replica(question.model, question.x.name, targets, prefix, beside)
    chunk = samples.chunk(build, view)
    if chunk.several:
        in_a_row(view, question.x, f"{prefix}/runs")
    inner = dataclasses.replace(
        question, model=view, x=view.value(f"{prefix}/{question.x.name}"), start=view.value(f"{prefix}/{question.start.name}")
    )
    body = LoopBody(view, question.x, prefix, op.runs_on, op.dtype)
    carried = [Value(f"{prefix}/state{i}") for i in range(len(states))]
    graph = body.graph(carried, step(body, inner, body.numbers(chunk.size(body, samples.count), samples.count), carried))
    # what is emitted here: the one node with a body
    return list(op.subgraph("Loop", [chunk.turns(op, samples.count), op.const(True), *states], {"body": graph}, outputs=len(states)))


def _replay(
    build: Build, body: Emit, inner: Question, points: Value, numbers: Value, beside: Mapping[str, Value] | None = None
) -> tuple[Value, Chosen]:
    """Replay the forward part at the points, broadcastable to [c, N, ...]; returns them, and the explained class of each run [c * N]."""
    x, chosen = build.question.x, build.head.chosen
    full, runs = _in_a_row(body, x, points, numbers)
    prefix = inner.x.name.removesuffix(x.name)
    others = {f"{prefix}{name}": _in_a_row(body, inner.model.value(name), value, numbers)[1] for name, value in (beside or {}).items()}
    replay(body, inner.model, inner.x.name, runs, others)

    def repeated(value: Value) -> Value:
        return body.Expand(value, body.Concat(body.Shape(numbers), body.Shape(value), axis=0))

    def of_rows(rows: Value) -> Value:
        return body.Reshape(repeated(rows), body.Concat([-1], body.Shape(rows, start=1), axis=0))

    return full, chosen.each(lambda c: body.Reshape(repeated(c), [-1]), of_rows)


def _in_a_row(body: Emit, x: Value, points: Value, numbers: Value) -> tuple[Value, Value]:
    """Points of an input as [c, N, ...] and as [c * N, ...]."""
    tail = body.const([d for d in (x.shape or ())[1:] if isinstance(d, int)]) if _static_tail(x) else body.Shape(body.raw(x), start=1)
    full = body.Expand(points, body.Concat(body.Shape(numbers), shape_of(body, x), axis=0))
    return full, body.Reshape(full, body.Concat(body.const([-1]), tail, axis=0))


def _rows(body: Emit, value: Value, numbers: Value) -> Value:
    return body.Reshape(value, body.Concat(body.Shape(numbers), body.const([-1]), axis=0))


def _static_tail(x: Value) -> bool:
    return x.shape is not None and all(isinstance(d, int) for d in x.shape[1:])
