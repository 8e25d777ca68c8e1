"""Random feeds and before/after comparisons: what guards a pass that rewrites the forward part of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxsal.errors import InputError, ModelError, OnnxsalError
from onnxsal.runtime.session import Array, Feed, open_session

OPEN_SIZE = {4: 64, 5: 32}
"""What an unknown dimension that is not the batch becomes, by rank: room for the strides of a picture or video network; else 8."""
ENOUGH = 10_000
"""Random numbers that exercise a model: a picture's worth. A model fed with fewer is run a second time."""
ATTEMPTS = ((2, 1, 0), (2, 4, 0), (1, 1, 0), (1, 4, 0), (2, 1, 1))
"""Batch, enlargement of the open dimensions and smallest integer (shapes cannot hold 0), tried until the model accepts a random feed."""


def compare_models(before: onnx.ModelProto | bytes, after: onnx.ModelProto, feeds: Feed | Iterable[Feed] | None = None) -> float:
    """The largest relative difference of ``before``'s outputs in ``after``: max |b - a| / max |a|, per output tensor.

    0.0 is bit-identical (NaN equal to NaN); ``inf`` is a tensor that changed its shape or type or has NaN or infinity in other
    places. Without ``feeds`` random ones are drawn. Both run unoptimised; an old model for which ONNX Runtime has no kernels
    runs in ONNX's reference evaluator.
    """
    data, before = before, onnx.ModelProto.FromString(before) if isinstance(before, bytes) else before
    names = [o.name for o in before.graph.output]
    lost = set(names) - {o.name for o in after.graph.output}
    if lost:
        raise ModelError(f"the rewritten model lost outputs: {', '.join(sorted(lost))}.")
    runs = list(_runs(before, _runner(before, data), feeds))  # one session after the other: each holds the weights once more
    second, worst = open_session(after, optimise=False), 0.0
    for feed, kept in runs:
        now = second.run(feed, names)
        worst = max(worst, *(relative_difference(kept[n], now[n]) for n in names))
    return worst


def _runner(model: onnx.ModelProto, data: onnx.ModelProto | bytes) -> Any:
    """``feed -> outputs`` for a model as it is; ``data`` is the same model, serialised if it is at hand (weights are slow to write)."""
    try:
        return open_session(data, optimise=False).run
    except ModelError as refused:
        try:
            evaluator = ReferenceEvaluator(model)
        except Exception:  # the reference evaluator raises anything; what matters to the user is why ONNX Runtime refused
            raise refused from None
    names = [o.name for o in model.graph.output]

    def run(feed: Feed) -> dict[str, Any]:
        try:
            return dict(zip(names, evaluator.run(None, dict(feed)), strict=True))
        except Exception as error:
            raise ModelError(f"the model runs neither in ONNX Runtime nor in ONNX's reference evaluator: {error}.") from error

    return run


def _runs(model: onnx.ModelProto, run: Any, feeds: Feed | Iterable[Feed] | None) -> Iterable[tuple[Feed, dict[str, Any]]]:
    """Each feed with what ``run`` makes of it; random feeds in the first sizes that the model accepts."""
    if feeds is not None:
        return [(feed, run(feed)) for feed in ([feeds] if isinstance(feeds, Mapping) else feeds)]
    problem: OnnxsalError | None = None
    for batch, factor, least in ATTEMPTS:
        drawn = [random_feed(model, 0, batch, factor, least=least)]
        if sum(a.size for a in drawn[0].values()) < ENOUGH:
            drawn.append(random_feed(model, 1, batch, factor, least=least))
        try:
            return [(feed, run(feed)) for feed in drawn]
        except OnnxsalError as error:
            problem = problem or error
    raise ModelError(f"no random input could be found on which to compare the model before and after rewriting: {problem}")


def relative_difference(a: Any, b: Any) -> float:
    """max |b - a| / max |a| over finite entries; ``inf`` where shape, type or the places of NaN and infinity differ."""
    if isinstance(a, list) and isinstance(b, list):
        return max((relative_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0) if len(a) == len(b) else np.inf
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiubc":
        return 0.0 if np.array_equal(a, b) else np.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=a.dtype.kind in "fc") or not np.all(np.isfinite(b[finite])):
        return np.inf
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    was, now = a[finite].astype(wide), b[finite].astype(wide)
    gap = float(np.max(np.abs(now - was), initial=0.0))
    return gap / max(float(np.max(np.abs(was))), np.finfo(np.float64).tiny) if gap else 0.0


def random_feed(
    model: onnx.ModelProto, seed: int = 0, batch: int = 2, factor: int = 1, dims: Mapping[str, int] | None = None, least: int = 0
) -> dict[str, Array]:
    """An array for every input that must be fed. One symbol is one size everywhere: ``dims`` gives it, else ``batch`` if it leads a shape.

    ``factor`` enlarges the other open dimensions. Floats are standard normal, indices stay inside the table they look up, other
    integers are 0 or 1, none below ``least``.
    """
    rng = np.random.default_rng(seed)
    sizes = dict(dims or {})
    given = {t.name for t in model.graph.initializer}
    feed = {}
    for value in model.graph.input:
        if value.name not in given:
            shape = _shape(value, sizes, batch, factor)
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            rows = _rows(model.graph, value.name)
            drawn = rng.integers(min(least, rows - 1), rows, shape) if dtype.kind in "iub" else rng.standard_normal(shape)
            feed[value.name] = np.asarray(drawn).astype(dtype)
    return feed


def _shape(value: onnx.ValueInfoProto, sizes: dict[str, int], batch: int, factor: int) -> list[int]:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape") or kind.elem_type == TensorProto.STRING:
        raise InputError(f"input '{value.name}' is not a number tensor of known rank: give its data yourself.")
    rank = len(kind.shape.dim)
    shape = []
    for at, dim in enumerate(kind.shape.dim):
        default = batch if at == 0 else factor * OPEN_SIZE.get(rank, 8)
        if dim.HasField("dim_value"):
            shape.append(int(dim.dim_value))
        else:
            shape.append(sizes.setdefault(dim.dim_param, default) if dim.dim_param else default)
    return shape


def _rows(graph: onnx.GraphProto, name: str) -> int:
    """How many values an integer input may take: the rows of the smallest table it looks up (through Casts), else two."""
    tables = {t.name: t.dims for t in graph.initializer}
    rows, names = [], {name}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in names:
            names.add(node.output[0])
        elif node.op_type == "Gather" and node.input[1] in names and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            rows.append(int(tables[node.input[0]][axis]))
    return min(rows, default=2)
