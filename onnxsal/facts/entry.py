"""Where integers become floating point: bytes of pictures, ids of tokens, characters, flags; and which of several inputs is explained.

An integer has no derivative. The first floating-point tensor that is made of it has one, and says as much of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx import TensorProto

from onnxsal.facts.axes import Spot, trace, used_as_picture
from onnxsal.facts.reach import carries, data_tensors, reach, separators
from onnxsal.facts.solve import ancestors, reached
from onnxsal.facts.tokens import INTEGERS, Lookup, Tokens, belonging, candidates, tokens_of, words_of
from onnxsal.graph import FLOATS, Model, NodeView, Value
from onnxsal.graph.infer import shape_text
from onnxsal.graph.model import captured
from onnxsal.ops.registry import facts_of, spec_of
from onnxsal.ops.statements import APART

VECTORS, NUMBERS, OTHER = "a vector for each entry", "a number for each entry", "made of several entries"

ENTERING = INTEGERS | {TensorProto.BOOL}
"""Types of inputs that have no derivative."""


@dataclass(frozen=True)
class Entrance:
    """Where the integer input ``input`` enters: ``value`` is the first floating-point tensor that is made of it and of constants.

    ``kind`` says how the axes belong together: ``NUMBERS`` [...] of [...], ``VECTORS`` [..., D] of [...], or ``OTHER``. ``same``: it
    holds the integers themselves. ``why`` says why it is the one.
    """

    input: str
    value: Value
    kind: str
    same: bool = False
    why: str = ""

    def __str__(self) -> str:
        return f"'{self.value.name}' {shape_text(self.value.shape)}, {self.kind} of '{self.input}'"


def entries(model: Model, name: str) -> tuple[Entrance, ...]:
    """Every entry of an input, in the order of the graph."""
    return model.once(("entries", name), lambda: tuple(_entries(model, name)))


def _entries(model: Model, name: str) -> list[Entrance]:
    data, own, same, found = data_tensors(model), {name}, {name}, list[Entrance]()
    for node in model.nodes:
        read = [*filter(None, node.proto.input), *captured(node.proto)]
        if own.isdisjoint(read) or facts_of(node).of_sizes or captured(node.proto) or not own.issuperset(data.intersection(read)):
            continue  # of sizes alone, inside a branch or a loop, or mixed with other data
        copied = _copies(node) and same.issuperset(read)
        for output in filter(None, node.proto.output):
            if carries(model, output):
                found.append(Entrance(name, model.value(output), _kind(model, name, output), copied))
            else:
                own.add(output)
                same.update([output] if copied else [])
    return found


def _copies(node: NodeView) -> bool:
    """Whether its output is its input, in another type at most."""
    spec = spec_of(node)
    return spec is not None and spec.keeps == "place"


def _kind(model: Model, name: str, output: str) -> str:
    """How the axes of a tensor belong to those of the input."""
    given, made = model.value(name), model.value(output)
    if given.shape is None or made.shape is None:
        return OTHER
    labels = range(given.rank)
    known = trace(model.nodes, {name: {a: Spot(a) for a in labels}}).get(output, {})
    if not all(a in known and known[a].how is APART and known[a].place == a for a in labels):
        return OTHER
    return {given.rank: NUMBERS, given.rank + 1: VECTORS}.get(made.rank, OTHER)


def tokens_at(model: Model, x: Value) -> Tokens | None:
    """As ``tokens.tokens_of``, also of vectors that no table holds: a class for each byte or character, of which one is set (one-hot)."""
    found = tokens_of(model, x)
    if found is not None or x.shape is None:
        return found
    ones = (one for n in model.input_names if model.value(n).dtype in ENTERING for one in entries(model, n) if one.kind == VECTORS)
    made = (belonging(model, x, one.value, one.input, f"made of them in '{one.value.name}'") for one in ones)
    return next((tokens for tokens in made if tokens is not None), None)


# ----- which one is explained -----


def entry_of(model: Model, name: str) -> Entrance | None:
    """Where the input of that name is explained: at its words (``tokens.words_of``), at the one entry that has a vector for each of its
    entries, or at its only entry; of several at the first tensor that all paths from them cross. ``None`` where there is none.
    """
    looked_up = [one for one in candidates(model) if one.ids == name]
    if len(looked_up) == 1:
        return _of_lookup(looked_up[0], "its vectors")
    found = entries(model, name)
    vectors = [one for one in found if one.kind == VECTORS]
    if not looked_up and len(vectors) == 1:
        return replace(vectors[0], why="the only tensor with a vector for each of them")
    if not looked_up and not vectors and len(found) == 1:
        return replace(found[0], why="the only floating-point tensor that is made of them")
    names = [one.value.name for one in looked_up or vectors or found]
    return _meeting(model, name, names) if names else None


def _of_lookup(one: Lookup, why: str) -> Entrance:
    return Entrance(one.ids, one.value, VECTORS, False, why)


def _meeting(model: Model, name: str, values: Sequence[str]) -> Entrance | None:
    """Where several entries of one input meet: the first tensor that all paths from them to the outputs cross."""
    outputs = [n for n in model.output_names if carries(model, n)]
    path = reach(model, values, outputs).path
    for crossed in separators(path, [n for n in outputs if any(n in node.proto.output for node in path)]):
        if crossed not in values and set(values) <= ancestors(model, [crossed]):
            return Entrance(name, model.value(crossed), _kind(model, name, crossed), False, f"{', '.join(map(repr, values))} meet there")
    return None


def explained_entry(model: Model) -> Entrance | None:
    """The entry that is explained where no input is named, by what the graph proves of it; ``None`` where nothing tells it from others.

    The words, where there are any and no picture; the one input with a vector for each entry (one-hot, or several tables that meet); the
    one that an operator on pictures reads, if no other holds words; or the only one that the outputs depend on.
    """
    used = [n for n in model.input_names if _used(model, n)]
    integer = [n for n in used if model.value(n).dtype in ENTERING]
    pictures = [one for n in integer if (one := entry_of(model, n)) is not None and one.kind != VECTORS and _is_picture(model, one)]
    words, why = words_of(model)
    if words is not None:
        return None if pictures else _of_lookup(words, why)
    texts = {one.ids for one in candidates(model)} or {n for n in integer for one in entries(model, n) if one.kind == VECTORS}
    if len(texts) + len(pictures) > 1:
        return None
    if texts:
        return entry_of(model, *texts)
    if pictures:
        others = f", of {', '.join(map(repr, used))}" if len(used) > 1 else ""
        return replace(pictures[0], why=f"the one that an operator on pictures reads{others}")
    return entry_of(model, integer[0]) if len(used) == len(integer) == 1 else None


def _used(model: Model, name: str) -> bool:
    """Whether an output depends on the values of an input."""
    return bool(reached(model, [name], lambda node: not facts_of(node).of_sizes).intersection(model.output_names))


def _is_picture(model: Model, one: Entrance) -> bool:
    return one.value.dtype in FLOATS and used_as_picture(model, one.value) is not None
