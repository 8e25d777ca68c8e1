"""Tokens: where integer ids become vectors, which of these are the words, and what the axes of such a tensor mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import TensorProto

from onnxsal.facts.axes import Picture, Spot, trace
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.places import Grid
from onnxsal.facts.reach import data_tensors
from onnxsal.facts.solve import ancestors, reached
from onnxsal.graph import FLOATS, Model, NodeView, Value
from onnxsal.graph.infer import shape_text
from onnxsal.ops.registry import family_of, spec_of
from onnxsal.ops.statements import APART

INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8}) | frozenset(
    {TensorProto.UINT64, TensorProto.UINT32, TensorProto.UINT16, TensorProto.UINT8}
)
"""Types that ids have."""

MORE = 8
"""Of tables whose rows are summed, one with this many times as many rows as any other holds the words; else nobody knows which does."""

_ENTRIES = frozenset({"movement", "select", "elementwise", "add", "product"})
"""Families whose integers are still one per id: casts, other shapes, negative ids counted from the end, an offset."""

_SUMMED = frozenset({"movement", "add"})
"""Families that lie between a looked-up vector and the sum of all vectors of its token."""


@dataclass(frozen=True)
class Lookup:
    """Rows of a table [V, D], picked by an index: ``value`` [..., D] is the first floating-point tensor that holds them.

    ``ids`` is the integer input whose entries are the index ('' = it is a constant, made of sizes, or computed from something else, such as
    positions that are counted); ``rows`` is V, where it is known.
    """

    node: NodeView
    value: Value
    ids: str
    rows: int | None

    @property
    def table(self) -> str:
        return str(self.node.proto.input[0])

    def __str__(self) -> str:
        rows = "" if self.rows is None else f" of {self.rows} rows"
        return f"'{self.value.name}' {shape_text(self.value.shape)}, '{self.ids}' looked up in '{self.table}'{rows}"


@dataclass(frozen=True)
class Tokens:
    """What is known of an explained tensor [..., D] that holds a vector per token.

    ``ids`` is the integer input, of its shape without D, whose entries the tokens are; or they are patches of ``picture``, with the axes
    ``axes``, in a ``grid``.
    """

    ids: str
    found: Found
    grid: Grid | None = None
    picture: Value | None = None
    axes: Picture | None = None


def lookups(model: Model) -> tuple[Lookup, ...]:
    """Every table of vectors that is looked up, in the order of the graph."""
    return model.once("lookups", lambda: tuple(_lookups(model)))


def words_of(model: Model) -> tuple[Lookup | None, str]:
    """The lookup of the words and why it is that one; ``None`` where there is none, or none of several that stands out.

    The only lookup of an integer input; or, of several whose vectors are summed for each token, the one whose table has at least 8 times
    as many rows as every other (types of tokens, and positions that are fed, are few).
    """
    found = candidates(model)
    if len(found) < 2:
        return (found[0], "the only table that an integer input is looked up in") if found else (None, "")
    rows = sorted(found, key=lambda one: one.rows or 0)
    most, others = rows[-1], rows[:-1]
    if any(one.rows is None for one in found) or (most.rows or 0) < MORE * (others[-1].rows or 0) or not _are_summed(model, found):
        return None, ""
    small = ", ".join(f"'{one.table}' ({one.rows})" for one in others)
    return most, f"its table has {most.rows} rows, those that are added to it far fewer: {small}"


def candidates(model: Model) -> list[Lookup]:
    """The lookups whose index is an integer input, entry by entry."""
    return [one for one in lookups(model) if one.ids]


def tokens_of(model: Model, x: Value) -> Tokens | None:
    """What the vectors of ``x`` are, where each is made from one token alone: looked up, or then scaled, shifted or normalised."""
    return model.once(("tokens", x.name), lambda: _tokens_of(model, x))


def _tokens_of(model: Model, x: Value) -> Tokens | None:
    found = candidates(model)
    chosen = words_of(model)[0]
    for one in [chosen, *found] if chosen else found:
        rows = "" if one.rows is None else f" of {one.rows} rows"
        tokens = belonging(model, x, one.value, one.ids, f"looked up in '{one.table}'{rows}")
        if tokens is not None:
            return tokens
    return None


def belonging(model: Model, x: Value, vectors: Value, ids: str, why: str) -> Tokens | None:
    """What the vectors of ``x`` are, if each is made of one of ``vectors``, which belong to the entries of ``ids``."""
    labels = range(vectors.rank - 1) if vectors.shape is not None else ()
    if not labels or x.shape is None or x.rank != vectors.rank:
        return None
    known = trace(model.nodes, {vectors.name: {a: Spot(a) for a in labels}}).get(x.name, {})
    if not all(a in known and known[a].how is APART and known[a].place == a for a in labels):
        return None
    value = f"each vector of '{x.name}' {shape_text(x.shape)} belongs to an entry of '{ids}'"
    return Tokens(ids, Found("tokens", value, Ground.PROVED, why))


# ----- lookups -----


def _lookups(model: Model) -> Iterator[Lookup]:
    data = data_tensors(model)
    for node in model.nodes:
        spec = spec_of(node)
        if spec is None or spec.family != "movement" or 0 not in spec.trained or node.proto.input[0] in data:
            continue
        table, index = node.x, node.input(1)
        if table.shape is None or table.rank != 2 or int(node.attr("axis")) % 2:
            continue
        ids = _ids_of(model, index) if index.name in data else ""
        value = _vectors(model, node, data, model.value(ids) if ids else index)
        if value is not None:
            yield Lookup(node, value, ids, table.dim(0))


def _ids_of(model: Model, index: Value) -> str:
    """The one integer input whose entries an index is made of; '' where there is none, or it went through comparisons, counts or sums."""

    def entries(node: NodeView) -> list[str]:
        own = family_of(node) in _ENTRIES
        return [v.name for v in node.inputs if v is not None and v.dtype in INTEGERS] if own else []

    inputs = [n for n in model.input_names if n in ancestors(model, [index.name], entries)]
    return inputs[0] if len(inputs) == 1 else ""


def _vectors(model: Model, node: NodeView, data: set[str], ids: Value) -> Value | None:
    """The looked-up vectors as floating-point numbers, shaped like the ids: behind what undoes a quantised table, and ids in one row."""
    value: Value | None = node.outputs[0]
    stored = value is not None and value.dtype not in FLOATS
    while value is not None and (
        value.dtype not in FLOATS or stored or value.shape is None or len(value.shape) != len(ids.shape or ()) + 1
    ):
        users = model.consumers.get(value.name, [])
        after = users[0] if len(users) == 1 else None
        alone = after is not None and all(v is None or v.name == value.name or v.name not in data for v in after.inputs)
        if after is None or not alone or not _restores(after, value, stored):
            break
        value = after.outputs[0]
    return value if value is not None and value.dtype in FLOATS and value.shape is not None and value.rank > 1 else None


def _restores(node: NodeView, value: Value, stored: bool) -> bool:
    """Whether a node gives the vectors of a stored table their own numbers, or all of them another shape."""
    spec, first = spec_of(node), node.optional(0)
    if spec is None or first is None:
        return False
    if spec.keeps == "order":
        return first.name == value.name
    others = [v for v in node.inputs if v is not None and v.name != value.name and v.dtype in FLOATS]
    single = all(v.static in ((), (1,)) for v in others)
    return stored and (spec.family == "quantize" or spec.keeps == "place" or (spec.family in ("add", "product") and single))


def _are_summed(model: Model, found: list[Lookup]) -> bool:
    """Whether the vectors of all lookups meet in one sum, with nothing but movements and other additions before it."""
    ways = [reached(model, [one.value.name], lambda node: family_of(node) in _SUMMED) for one in found]
    return bool(set.intersection(*ways))
