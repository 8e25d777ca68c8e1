"""Where an axis of the input is in a tensor, and where it is in the tensors of graphs that a node runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from onnxsal.facts.bodies import Body, bodies_of
from onnxsal.graph import NodeView
from onnxsal.ops.control import Choice, Repeat, Strip, frame_of
from onnxsal.ops.statements import APART, How


class Spot(NamedTuple):
    """Where an axis is in a tensor, and how it got there; ``runs`` entries of that place in turn belong to one index (0: not known).

    ``apart``: on its way no entries of different indices met, so that it is apart again where it is whole again.
    """

    place: int
    how: How = APART
    runs: int = 1
    apart: bool = True


Trace = Mapping[int, Spot]
"""Axis of the input -> its spot in a tensor. What depends on the input has a trace, if only an empty one."""

Of = Callable[[int | str], Trace | None]
Run = Callable[[Sequence[NodeView], Mapping[str, Trace]], dict[str, Trace]]
"""(nodes of a graph, traces of what it is given) -> those of its tensors."""

Traced = tuple[list[Trace | None], dict[str, Trace]]
"""The traces of the outputs of a node, and of the tensors in its graphs."""

ROUNDS = 4


def through_bodies(node: NodeView, of: Of, run: Run) -> Traced:
    """Where the axes are in the outputs of a node that runs graphs, and in these. Nothing is known where data decides what runs, or how
    often: that is one decision for all samples.
    """
    known = frame_of(node)
    if isinstance(known, Repeat):
        return _repeated(node, known, bodies_of(node)[0], of, run)
    outputs, insides = list[list[Trace | None]](), dict[str, Trace]()
    for body in bodies_of(node):
        seeds = _around(body, of)
        found = run(body.model.nodes, seeds)
        insides |= found
        outputs.append([found.get(name, seeds.get(name)) for name in body.outputs])
    if isinstance(known, Choice) and of(known.by) is not None:
        return [{} for _ in node.proto.output], {name: {} for name in insides}
    return [_same(traces) for traces in zip(*outputs, strict=True)], insides


def _around(body: Body, of: Of) -> dict[str, Trace]:
    return {name: known for name in body.captured if (known := of(name)) is not None}


def _same(traces: Sequence[Trace | None]) -> Trace | None:
    """What several tensors, one of which it is, say together; ``None``: none of them depends on the input."""
    some = [t for t in traces if t is not None]
    if not some:
        return None
    return {axis: spot for axis, spot in some[0].items() if all(t is not None and t.get(axis) == spot for t in traces)}


def _repeated(node: NodeView, known: Repeat, body: Body, of: Of, run: Run) -> Traced:
    asked = [i for i in (known.count, None if known.going is None else known.going[0]) if i is not None]
    seeds = _around(body, of)
    for strip in known.read:
        given = of(strip.outside)
        if given is not None:
            rank = len(node.input(strip.outside).shape or ())
            seeds[body.inputs[strip.inside]] = _sliced(given, strip.axis % rank) if rank else {}
    for carried in known.carried:
        given = of(carried.given)
        if given is not None:
            seeds[body.inputs[carried.inside]] = given
    found = run(body.model.nodes, seeds)
    for turn in range(ROUNDS + 1):
        changed = False
        for carried in known.carried:
            name, made = body.inputs[carried.inside], _made(body, found, seeds, carried.made)
            if made is None and name not in seeds:
                continue
            # a state that begins with constants has the axis from then on, if it has as many entries from the start
            both = _kept(body, name, made) if name not in seeds and made is not None else _same([seeds.get(name), made])
            both = {} if turn == ROUNDS else both
            changed |= seeds.get(name) != both
            seeds[name] = both or {}
        if not changed:
            break
        found = run(body.model.nodes, seeds)
    going = None if known.going is None else _made(body, found, seeds, known.going[2])
    if going is not None or any(of(i) is not None for i in asked):
        return [{} for _ in node.proto.output], {name: {} for name in found}
    outputs: list[Trace | None] = [None] * len(node.proto.output)
    for carried in known.carried:
        outputs[carried.result] = seeds.get(body.inputs[carried.inside])
    for strip in known.stacked:
        made = _made(body, found, seeds, strip.inside)
        outputs[strip.outside] = None if made is None else _stacked(body, strip, made)
    return outputs, found | seeds


def _made(body: Body, found: Mapping[str, Trace], seeds: Mapping[str, Trace], i: int) -> Trace | None:
    return found.get(body.outputs[i], seeds.get(body.outputs[i]))


def _kept(body: Body, name: str, trace: Trace) -> Trace:
    shape = body.model.value(name).shape or ()
    return {axis: spot for axis, spot in trace.items() if spot.place < len(shape) and shape[spot.place] is not None}


def _sliced(trace: Trace, axis: int) -> Trace:
    """Of a slice, without the axis."""
    return {label: s._replace(place=s.place - (s.place > axis)) for label, s in trace.items() if s.place != axis}


def _stacked(body: Body, strip: Strip, trace: Trace) -> Trace:
    """Of slices beside each other."""
    shape = body.model.value(body.outputs[strip.inside]).shape
    if shape is None:
        return {}
    axis = strip.axis % (len(shape) + 1)
    return {label: s._replace(place=s.place + (s.place >= axis)) for label, s in trace.items()}
