"""Data to run a model on where none is given: sizes, values and words that the model accepts, found by trying."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxsal.errors import InputError, OnnxsalError
from onnxsal.limits import refuse_over
from onnxsal.runtime.session import Array, Feed

T = TypeVar("T")

OPEN_SIZE = {4: 64, 5: 32}
"""What an unknown dimension that is not the batch becomes, by rank: room for the strides of a picture or video network; else 8."""
GUESSED = 2**24
"""Random numbers for an input of open sizes: they are guessed, and each guess is run."""
PATIENCE = 5.0
"""Seconds after which no other choice is tried."""
CANDIDATES = 12
"""Sizes and numbers that are read from the model and tried for each open dimension and integer input."""


@dataclass(frozen=True)
class FeedChoice:
    """What is left open by a model, chosen: rows of a batch, enlargement of the other open dimensions, the smallest integer, the size of
    a dimension (by its symbol, or ``input/axis``), and how many values an integer input takes."""

    batch: int = 2
    factor: int = 1
    least: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)


FIRST = (FeedChoice(), FeedChoice(factor=4), FeedChoice(1), FeedChoice(1, 4), FeedChoice(least=1))
"""Tried before anything is read from the weights; a single row, larger pictures, and no 0 among integers (shapes cannot hold it)."""


def accepted(model: onnx.ModelProto, attempt: Callable[[FeedChoice], T], first: tuple[FeedChoice, ...] = FIRST) -> T:
    """What ``attempt`` returns for the first choice that it does not refuse by an ``OnnxsalError``; else the first refusal is raised.

    After the usual choices, one open size or number at a time is set to what stands in the weights near the input. Of several
    refusals the one counts as closer that comes from a later node.
    """
    order = {n.name: i for i, n in enumerate(model.graph.node, 1) if n.name}
    problem, best, reached = None, first[0], -1
    for choice in first:
        try:
            return attempt(choice)
        except OnnxsalError as error:
            problem = problem or error
            if (place := order.get(getattr(error, "node", ""), 0)) > reached:
                best, reached = choice, place
    end, improved = time.monotonic() + PATIENCE, True
    while improved:
        improved = False
        for choice in list(_changed(model, best)):
            if time.monotonic() > end:
                break
            try:
                return attempt(choice)
            except OnnxsalError as error:
                if (place := order.get(getattr(error, "node", ""), 0)) > reached:
                    best, reached, improved = choice, place, True
    assert problem is not None
    raise problem


def fed_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that must be fed: those that no weight is the default of."""
    weights = {t.name for t in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in weights]


def _changed(model: onnx.ModelProto, start: FeedChoice) -> Iterator[FeedChoice]:
    """``start`` with one thing changed, then, for models of few open dimensions, with two."""
    dims: dict[str, list[int]] = {}
    single: list[FeedChoice] = []
    for value in fed_inputs(model):
        numbers = _numbers_near(model.graph, value.name)
        kind = value.type.tensor_type
        for axis, dim in enumerate(kind.shape.dim):
            if not dim.HasField("dim_value"):
                known = dims.setdefault(_key(value.name, axis, dim), [])
                known += [n for n in [*numbers, 1] if n not in known]
        if kind.elem_type in _INTEGERS:
            single += [replace(start, values={**start.values, value.name: n}) for n in (1, *numbers)]
    changes = [(key, size) for key, sizes in reversed(dims.items()) for size in sizes]
    single = [*(replace(start, sizes={**start.sizes, key: size}) for key, size in changes), *single]
    yield from single
    pairs = [(a, b) for i, a in enumerate(changes) for b in changes[i + 1 :] if a[0] != b[0]]
    yield from (replace(start, sizes={**start.sizes, **dict(pair)}) for pair in pairs)


_INTEGERS = {code for code in TensorProto.DataType.values() if code and helper.tensor_dtype_to_np_dtype(code).kind in "iu"}


def _numbers_near(graph: onnx.GraphProto, name: str) -> list[int]:
    """Sizes of the weights that an input meets first, and numbers in the short integer constants there, in the order found."""
    weights = {t.name: t for t in graph.initializer}
    # a constant is a weight in the form of a node
    weights |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.type == AttributeProto.TENSOR}
    behind, found = {name}, dict[int, None]()
    for node in graph.node:
        if behind.isdisjoint(node.input):
            continue
        tensors = [weights[n] for n in node.input if n in weights]
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        for tensor in tensors:
            found |= dict.fromkeys(d * f for d in tensor.dims for f in (1, group) if d * f > 1)
            if tensor.data_type == TensorProto.INT64 and np.prod(tensor.dims) <= 8:
                found |= dict.fromkeys(int(v) for v in numpy_helper.to_array(tensor).reshape(-1) if v > 1)
        if not any(np.prod(t.dims, dtype=float) > 8 for t in tensors):
            behind.update(node.output)
        if len(found) >= CANDIDATES:
            break
    return [n for n in found if n <= 4096][:CANDIDATES]


def random_feed(
    model: onnx.ModelProto, seed: int = 0, batch: int = 2, factor: int = 1, dims: Mapping[str, int] | None = None, least: int = 0
) -> dict[str, Any]:
    """An array for every input that must be fed. One symbol is one size everywhere: ``dims`` gives it, else ``batch`` if it leads a shape.

    ``factor`` enlarges the other open dimensions. Floats are standard normal, indices stay inside the table they look up, other
    integers are 0 or 1, none below ``least``; text is a word that the model knows, if it knows any.
    """
    return feed_of(model, FeedChoice(batch, factor, least, dims or {}), seed)


def feed_of(model: onnx.ModelProto, choice: FeedChoice, seed: int = 0, given: Feed | None = None) -> dict[str, Any]:
    """What ``choice`` stands for, drawn; the inputs in ``given`` are taken as they are, and their symbols have their sizes everywhere."""
    rng, sizes = np.random.default_rng(seed), dict(choice.sizes)
    inputs = fed_inputs(model)
    feed = {v.name: given[v.name] for v in inputs if given and v.name in given}
    for value in inputs:
        if value.name in feed:
            dims = zip(value.type.tensor_type.shape.dim, np.shape(feed[value.name]), strict=False)
            sizes |= {dim.dim_param: size for dim, size in dims if dim.dim_param}
    for value in inputs:
        if value.name not in feed:
            feed[value.name] = _drawn(model.graph, value.name, value.type, choice, sizes, rng)
    if inputs and not any(np.size(array) for array in feed.values()):
        # nothing would be learnt, and some of ONNX Runtime's kernels end the process on it
        raise InputError(f"input '{inputs[0].name}' has no elements: declare sizes of 1 or more in the model.")
    return feed


def _drawn(
    graph: onnx.GraphProto, name: str, kind: onnx.TypeProto, choice: FeedChoice, sizes: dict[str, int], rng: np.random.Generator
) -> Any:
    for inside in ("sequence_type", "optional_type"):
        if kind.HasField(inside):
            element = _drawn(graph, name, getattr(kind, inside).elem_type, choice, sizes, rng)
            return [element] if inside == "sequence_type" else element
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        raise InputError(f"input '{name}' is not a tensor of known rank: give its data yourself (example= in Python, --example FILE).")
    shape = _shape(name, kind.tensor_type, choice, sizes)
    refuse_over("drawn", math.prod(shape), f"input '{name}' {shape}")
    if math.prod(shape) >= GUESSED and any(not dim.HasField("dim_value") for dim in kind.tensor_type.shape.dim):
        raise InputError(f"input '{name}' {shape} is too large to be guessed: give data of its kind (example= in Python, --example FILE).")
    if kind.tensor_type.elem_type == TensorProto.STRING:
        return rng.choice(np.asarray(_words(graph, name), object), shape)
    dtype = helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
    if dtype.kind not in "iub":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    count = choice.values.get(name) or _rows(graph, name)
    return np.asarray(rng.integers(min(choice.least, count - 1), count, shape)).astype(dtype)


def _key(name: str, axis: int, dim: Any) -> str:
    return dim.dim_param or f"{name}/{axis}"


def _shape(name: str, kind: onnx.TypeProto.Tensor, choice: FeedChoice, sizes: dict[str, int]) -> list[int]:
    rank, shape = len(kind.shape.dim), []
    for axis, dim in enumerate(kind.shape.dim):
        default = choice.batch if axis == 0 else choice.factor * OPEN_SIZE.get(rank, 8)
        shape.append(int(dim.dim_value) if dim.HasField("dim_value") else sizes.setdefault(_key(name, axis, dim), default))
    return shape


def _words(graph: onnx.GraphProto, name: str) -> list[bytes | str]:
    """The words that the nodes reading a text input list in their attributes, else one that no model knows."""
    readers = [n for n in graph.node if name in n.input]
    words = [w.decode(errors="replace") for n in readers for a in n.attribute if a.type == AttributeProto.STRINGS for w in a.strings]
    return words or ["a"]


def _rows(graph: onnx.GraphProto, name: str) -> int:
    """How many values an integer input may take: the rows of the smallest table it looks up (through Casts), else two."""
    tables = {t.name: t.dims for t in graph.initializer}
    rows, names = [], {name}
    for node in graph.node:
        # sessions lie beside operators, not above them: what passes an index on, and what looks it up
        if node.op_type in ("Cast", "Identity") and node.input[0] in names:
            names.add(node.output[0])
        # a table of vectors
        elif node.op_type == "Gather" and node.input[1] in names and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            rows.append(int(tables[node.input[0]][axis]))
    return min(rows, default=2)


def rows_of(array: Array, count: int) -> Array:
    """``array`` with ``count`` rows: its own, repeated as often as needed."""
    return np.take(array, np.arange(count) % max(len(array), 1), axis=0) if array.ndim and len(array) else array
