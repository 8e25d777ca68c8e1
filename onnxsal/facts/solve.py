"""One forward solver for every fact, and one walk over what a tensor is computed from.

A fact is a value per tensor. An operator states (``ops/``) what its outputs have where its inputs have this; the solver only goes
through the nodes in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from onnxsal.graph import Model, NodeView
from onnxsal.graph.model import captured

T = TypeVar("T")

Transfer = Callable[[NodeView, Callable[[int | str], T | None]], Sequence[T | None]]
"""(node, fact of its input i, or of a tensor that its subgraphs read by name) -> the fact of each output, ``None`` where nothing is known;
missing ones are not known either."""


def forward(
    nodes: Iterable[NodeView], seeds: Mapping[str, T], step: Transfer[T], given: Callable[[str], T | None] = lambda name: None
) -> dict[str, T]:
    """The fact of every tensor that ``nodes`` (in topological order) make: ``seeds`` and what follows from them.

    ``given`` is asked for tensors that no node makes: weights, constants, tensors of the model around a loop's body.
    """
    found: dict[str, T] = dict(seeds)

    for node in nodes:
        names = node.proto.input

        def of(i: int | str, names: Sequence[str] = names) -> T | None:
            name = i if isinstance(i, str) else names[i] if i < len(names) else ""
            return None if not name else found[name] if name in found else given(name)

        for name, fact in zip(node.proto.output, step(node, of), strict=False):
            if name and fact is not None:
                found[name] = fact
    return found


def reached(model: Model, sources: Iterable[str], through: Callable[[NodeView], bool] = lambda node: True) -> set[str]:
    """The tensors that depend on ``sources``, these included, by way of nodes that let it ``through``."""
    found = set(sources)
    for node in model.nodes:
        if found.intersection((*node.proto.input, *captured(node.proto))) and through(node):
            found.update(filter(None, node.proto.output))
    return found


def ancestors(model: Model, names: Iterable[str], reads: Callable[[NodeView], Iterable[str]] | None = None) -> set[str]:
    """The tensors that ``names`` are computed from, these included; ``reads`` says which inputs of a node count (default: all)."""
    found, todo = set[str](), list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        node = model.producer.get(name)
        if node is not None:
            todo += filter(None, (*node.proto.input, *captured(node.proto)) if reads is None else reads(node))
    return found
