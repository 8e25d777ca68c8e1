"""Operators of the file that are explained as others: the walk goes through their copies, the file runs them themselves.

A pass takes such a node out and writes its copy in standard operators, with outputs of the same names: that is the model which rules and
facts see. In what is run (the converted file, a replay of the forward part) the node is back, and makes these tensors; the outputs of
the copy get other names, and the copy is left out where nothing reads it. So the model's own numbers stay as they are, bit for bit, and
each copy reads what the node itself reads: differences do not add up from one node to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Original:
    """A node as the file has it, the version of its domain, and how far floating-point outputs of its copy may be from its own, relative
    to the largest (quantised ones may be one step apart).

    Some copies stand for a few ``nodes``, each of which alone reads the one before it. ``written`` are the tensors that the copy makes.
    """

    nodes: tuple[onnx.NodeProto, ...]
    version: int
    limit: float
    written: frozenset[str] = frozenset()

    @property
    def node(self) -> onnx.NodeProto:
        """The first node, which the copy is called after."""
        return self.nodes[0]

    @property
    def outputs(self) -> list[str]:
        """The tensors that are made, and that the copy makes in the model that is walked."""
        return [o for o in self.nodes[-1].output if o]

    @property
    def reads(self) -> set[str]:
        """The tensors that are read."""
        return {n for node in self.nodes for n in node.input if n} - self.inner

    @property
    def inner(self) -> set[str]:
        """The tensors between the nodes, which nothing else reads."""
        return {o for node in self.nodes[:-1] for o in node.output if o}


def as_run(nodes: Sequence[onnx.NodeProto], originals: Sequence[Original]) -> list[onnx.NodeProto]:
    """The nodes with the originals back, each before the first node of its copy that makes one of its outputs."""
    owner = {name: number for number, original in enumerate(originals) for name in original.outputs}
    result, placed = list[onnx.NodeProto](), set[int]()
    for node in nodes:
        for number in dict.fromkeys(owner[name] for name in node.output if name in owner):
            result += [] if number in placed else originals[number].nodes
            placed.add(number)
        result.append(_apart(node, owner))
    return result


def _apart(node: onnx.NodeProto, owner: Mapping[str, int]) -> onnx.NodeProto:
    """The node, if it is the end of a copy, with other names for the outputs that the original makes."""
    if owner.keys().isdisjoint(node.output):
        return node
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    del renamed.output[:]
    renamed.output.extend(copied(name) if name in owner else name for name in node.output)
    return renamed


def copied(output: str) -> str:
    """What the copy of an output is called where the original makes that."""
    return f"{output}/restated"
