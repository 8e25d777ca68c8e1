"""Where the columns of a table are in a model: which of them every element of a tensor is made of, and where all of them meet.

A pipeline of scikit-learn, as skl2onnx writes it, is fed with an input for each column, names and numbers; it fills gaps, scales numbers
and makes an element of each category (one-hot). The first tensor that holds all of it as floating point, each element made of one column,
is what the table is to the rest of the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxsal.facts.gaps import takes_gaps
from onnxsal.facts.solve import ancestors, forward, reached
from onnxsal.graph import FLOATS, Model, NodeView
from onnxsal.graph.model import captured
from onnxsal.ops.column_flow import MIXED, Columns, columns_through, looks_up
from onnxsal.ops.registry import facts_of


@dataclass(frozen=True, order=True)
class Slot:
    """One column as the model is fed with it: the ``place``-th number or name of each row of ``input``."""

    input: str
    place: int = 0


@dataclass(frozen=True)
class TableTensor:
    """A tensor [N, F] of which each element is made of one column: ``slots`` [F] (``None``: the same for every row)."""

    name: str
    slots: tuple[Slot | None, ...]


def slots_of(model: Model) -> tuple[Slot, ...]:
    """The columns that a model is fed with, in the order of its inputs: those [N] and [N, F] that its outputs depend on.

    None where one of these has other axes, or an open number of columns: then it is not fed with a table.
    """
    return model.once("columns", lambda: tuple(_slots(model)))


def _slots(model: Model) -> list[Slot]:
    found: list[Slot] = []
    for name in _used(model):
        shape = model.value(name).shape
        width = 1 if shape is not None and len(shape) == 1 else shape[1] if shape is not None and len(shape) == 2 else None
        if not isinstance(width, int):
            return []
        found += [Slot(name, place) for place in range(width)]
    return found


def _used(model: Model) -> list[str]:
    """The inputs on whose values an output depends."""
    outputs = set(model.output_names)
    return [n for n in model.input_names if outputs & reached(model, [n], lambda node: not facts_of(node).of_sizes)]


def table_at(model: Model, name: str) -> TableTensor | None:
    """Which column each element of a tensor is made of; ``None`` where that is not known, or an element is made of several."""
    found, slots = _columns(model).get(name), slots_of(model)
    if found is None or (found == MIXED).any() or found.ndim > 2 or (found.ndim == 2 and len(found) != 1):
        return None
    return TableTensor(name, tuple(slots[i - 1] if i else None for i in found.reshape(-1).tolist()))


def table_tensor(model: Model) -> TableTensor | None:
    """The first floating-point tensor in which all columns meet, behind where gaps are filled and categories looked up; an input, where
    there is nothing to fill and to look up. ``None`` where the model is not fed with a table, or there is no such tensor.
    """
    return model.once("table tensor", lambda: _table_tensor(model))


def _table_tensor(model: Model) -> TableTensor | None:
    slots, found = slots_of(model), _columns(model)
    inputs = {slot.input for slot in slots}
    lookups = [node for node in model.nodes if looks_up(node) and any(name in found for name in node.proto.input)]
    for name in found:
        if model.value(name).dtype not in FLOATS or takes_gaps(model, name) or (table := table_at(model, name)) is None:
            continue
        behind = reached(model, [name])
        if any(behind.intersection(node.proto.input) for node in lookups) or found[name].ndim != 2:
            continue
        if inputs <= ancestors(model, [name]) and not _passed_by(model, inputs, name):
            return table
    return None


def _passed_by(model: Model, inputs: Iterable[str], crossed: str) -> bool:
    """Whether a way from ``inputs`` to an output does not go through the tensor ``crossed``."""
    found = set(inputs) - {crossed}
    for node in model.nodes:
        if not facts_of(node).of_sizes and found.intersection((*node.proto.input, *captured(node.proto))):
            found.update(name for name in node.proto.output if name and name != crossed)
    return bool(found.intersection(model.output_names))


def _columns(model: Model) -> dict[str, Columns]:
    """The columns of every tensor that is followed, in the order of the graph."""
    return model.once("columns of tensors", lambda: _followed(model))


def _followed(model: Model) -> dict[str, Columns]:
    seeds: dict[str, Columns] = {}
    for number, slot in enumerate(slots_of(model), 1):
        rank = len(model.value(slot.input).shape or ())
        before = seeds.get(slot.input, np.zeros((1,) * (rank - 1) + (0,), np.int64))
        seeds[slot.input] = np.concatenate([before, np.full((1,) * rank, number)], -1)
    data = reached(model, seeds, lambda node: not facts_of(node).of_sizes)

    def step(node: NodeView, of: object) -> list[Columns | None]:
        given = [node.proto.input[i] for i in range(len(node.proto.input))]
        if not data.intersection(given) or captured(node.proto):
            return []
        parts = [of(i) for i in range(len(given))]  # type: ignore[operator]
        if any(part is None and name in data for part, name in zip(parts, given, strict=True)):
            return []  # made of what is not followed
        return [columns_through(node, parts)]

    return forward(model.nodes, seeds, step)
