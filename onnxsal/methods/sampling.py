"""Walks at many points: a Loop inside the converted graph replays the forward part and walks back, a chunk at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from onnxsal.engine.plan import make_plan
from onnxsal.engine.traverse import Visit, traverse
from onnxsal.graph import Emit, Model, Value
from onnxsal.graph.helpers import shape_of
from onnxsal.graph.replay import reads_inputs, replay, replica
from onnxsal.methods.build import Build
from onnxsal.methods.head import emit_seed
from onnxsal.methods.question import Question

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
class Samples:
    """``count`` walks, ``chunk`` of them (times the batch) at once.

    One by one where the model's batch is fixed, or where the replayed part also reads another input: that holds N samples only.
    """

    count: int
    chunk: int

    def size(self, question: Question, view: Model) -> int:
        """Samples per iteration."""
        alone = question.fixed_batch or not question.batched or reads_inputs(question.model, view)
        return 1 if alone else max(1, min(self.chunk, self.count))


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
    op, question = build.op, build.question
    build.plan()  # here, so that a refusal names the model's own nodes and tensors, not the replica's
    prefix = f"{op.prefix}/sample"
    view = replica(question.model, question.x.name, [question.start.name], prefix)
    inner = dataclasses.replace(
        question, model=view, x=view.value(f"{prefix}/{question.x.name}"), start=view.value(f"{prefix}/{question.start.name}")
    )
    body = Emit(view, prefix)
    body.dtype = op.dtype
    iteration, condition = Value(f"{prefix}/iteration", TensorProto.INT64, ()), Value(f"{prefix}/condition", TensorProto.BOOL, ())
    size = samples.size(question, view)
    begin = body.Mul(iteration, size)
    numbers = body.Range(begin, body.Min(body.Add(begin, size), samples.count), 1) if size > 1 else body.Unsqueeze(iteration, [0])
    carried = [Value(f"{prefix}/state{i}") for i in range(len(states))]
    walked = _walk(build, body, inner, points(body, numbers), numbers, noting)
    outputs = [body.Identity(condition), *(body.Identity(s) for s in update(walked, carried))]
    graph = _graph(body, prefix, [iteration, condition, *carried], outputs, op.dtype)
    trips = -(-samples.count // size)
    return list(op.subgraph("Loop", [trips, op.const(True), *states], graph, outputs=len(states)))


def _walk(build: Build, body: Emit, inner: Question, points: Value, numbers: Value, noting: Callable[[Emit], Visit] | None) -> Walked:
    """Replay the forward part at the points, [c, N, ...] or broadcastable to it, and walk back."""
    x, chosen = build.question.x, build.head.explained_class
    tail = body.const([d for d in (x.shape or ())[1:] if isinstance(d, int)]) if _static_tail(x) else body.Shape(body.raw(x), start=1)
    full = body.Expand(points, body.Concat(body.Shape(numbers), shape_of(body, x), axis=0))
    replay(body, inner.model, inner.x.name, body.Reshape(full, body.Concat(body.const([-1]), tail, axis=0)))
    repeated = body.Reshape(body.Expand(chosen, body.Concat(body.Shape(numbers), body.Shape(chosen), axis=0)), [-1])
    plan = make_plan(inner.model, build.method, [inner.x.name], [inner.start.name])
    seed = emit_seed(body, inner, inner.start, repeated)
    signal = traverse(body, plan, {inner.start.name: seed}, noting(body) if noting else None)[inner.x.name]
    return Walked(body, numbers, full, body.Reshape(signal, body.Concat(body.const([-1]), shape_of(body, x), axis=0)))


def _static_tail(x: Value) -> bool:
    return x.shape is not None and all(isinstance(d, int) for d in x.shape[1:])


def _graph(body: Emit, prefix: str, inputs: Sequence[Value], outputs: Sequence[Value], dtype: int) -> onnx.GraphProto:
    """The loop body; its states have the compute type and any shape."""
    nodes, initializers = body.finish(outputs)
    kinds = [TensorProto.INT64, TensorProto.BOOL, *[dtype] * (len(inputs) - 2)]
    shapes: list[list[int] | None] = [[], [], *[None] * (len(inputs) - 2)]
    return helper.make_graph(
        nodes,
        f"{prefix}/body",
        [helper.make_tensor_value_info(v.name, k, s) for v, k, s in zip(inputs, kinds, shapes, strict=True)],
        [helper.make_tensor_value_info(v.name, k, s) for v, k, s in zip(outputs, kinds[1:], shapes[1:], strict=True)],
        initializers,
    )
