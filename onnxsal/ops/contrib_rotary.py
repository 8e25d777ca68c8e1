"""Rotary position embeddings: pairs of elements of queries and keys turned by angles that grow with the position."""

from __future__ import annotations

from onnxsal.ops.contrib_attention import together
from onnxsal.ops.expansion import END, Writer, expansion


def turned(w: Writer, x: str, cos: str, sin: str, interleaved: bool, partly: bool, output: str = "") -> str:
    """x [N, heads, L, width] with its pairs turned: a cos - b sin, b cos + a sin.

    ``cos`` and ``sin`` fit [N, heads, L, turned width / 2]. A pair is the elements i and i + half, or neighbours (``interleaved``).
    ``partly``: the width may be greater than what is turned; the rest stays.
    """
    half = w.size(cos, -1)
    double = w.add("Add", half, half)
    whole = w.piece(x, 0, double, 3) if partly else x
    if interleaved:
        a, b = (w.piece(whole, start, END, 3, step=2) for start in (0, 1))
    else:
        a, b = w.piece(whole, 0, half, 3), w.piece(whole, half, END, 3)
    real = w.add("Sub", w.add("Mul", a, cos), w.add("Mul", b, sin))
    other = w.add("Add", w.add("Mul", b, cos), w.add("Mul", a, sin))
    if interleaved:
        pairs = w.add("Concat", *[w.add("Unsqueeze", part, w.ints([4])) for part in (real, other)], axis=4)
        parts = [w.add("Reshape", pairs, w.ints([0, 0, 0, -1]), output="" if partly else output)]
    else:
        parts = [real, other]
    if partly:
        parts.append(w.piece(x, double, END, 3))
    return w.add("Concat", *parts, axis=3, output=output) if len(parts) > 1 else parts[0]


def rows_of(w: Writer, cache: str, positions: str) -> str:
    """The rows of a cache at positions [N, L] or [1, L], as [N, 1, L, half]."""
    return w.add("Unsqueeze", w.add("Gather", cache, positions), w.ints([1]))


@expansion("RotaryEmbedding")
def _rotary(w: Writer) -> None:
    """x with its pairs turned by the angles at the positions, which count up from one number or are given [N, L]."""
    x, positions, cos, sin = (w.input(i) for i in range(4))
    if w.whole_number("is_packed_batching") or w.number("scale", 1.0) != 1.0:
        raise w.refuse("packs texts of several lengths, or scales its angles", "Export the model without either.")
    rows = w.size(x, 2 if w.rank(x) == 4 else 1)
    if w.rank(positions) == 1:
        positions = w.add("Add", positions, w.places(rows))
        positions = w.add("Unsqueeze", positions, w.ints([0]))
    _rotate(w, x, [rows_of(w, cache, positions) for cache in (cos, sin)])


@expansion("MRotaryEmbedding")
def _sectioned_rotary(w: Writer) -> None:
    """RotaryEmbedding whose angles follow one of three positions [3, N, L] (time, height, width), by the column of the cache."""
    x, positions, cos, sin = (w.input(i) for i in range(4))
    if w.whole_number("is_packed_batching") or w.number("scale", 1.0) != 1.0:
        raise w.refuse("packs texts of several lengths, or scales its angles", "Export the model without either.")
    sections = [int(n) for n in w.attributes["mrope_section"]]
    stream = _streams(sections, w.whole_number("mrope_layout"))
    picked = w.add("Gather", w.add("Transpose", positions, perm=[1, 2, 0]), w.ints(stream), axis=2)
    # each column of the cache at its own position: [N, L, half] pairs of (position, column)
    wide = w.add("Expand", w.ints(list(range(len(stream)))), w.add("Shape", picked))
    pairs = w.add("Concat", *[w.add("Unsqueeze", part, w.ints([3])) for part in (picked, wide)], axis=3)
    _rotate(w, x, [w.add("Unsqueeze", w.add("GatherND", cache, pairs), w.ints([1])) for cache in (cos, sin)])


def _streams(sections: list[int], layout: int) -> list[int]:
    """Which of the three positions each column of the cache follows: in sections, or in turn from each begin on."""
    if layout == 0:
        return [stream for stream, size in enumerate(sections) for _ in range(size)]
    return [next((s for s in (1, 2) if i % 3 == s and i < 3 * sections[s]), 0) for i in range(sum(sections))]


@expansion("RotaryEmbedding", domain="")
def _standard_rotary(w: Writer) -> None:
    """x with its pairs turned by the angles at the positions [N, L]; without them the caches are [N, L, half] already."""
    x, cos, sin, positions = (w.input(i) for i in range(4))
    if positions:
        _rotate(w, x, [rows_of(w, cache, positions) for cache in (cos, sin)])
    else:
        _rotate(w, x, [w.add("Unsqueeze", cache, w.ints([1])) for cache in (cos, sin)])


def _rotate(w: Writer, x: str, angles: list[str]) -> None:
    """Turn x [N, heads, L, width] or [N, L, heads * width], writing the node's output."""
    cos, sin = angles
    heads, interleaved = w.whole_number("num_heads"), bool(w.whole_number("interleaved"))
    partly, rank = bool(w.whole_number("rotary_embedding_dim")), w.rank(x)
    if rank not in (3, 4):
        raise w.refuse(f"has an input of {rank} axes", "It takes [N, L, heads * width] or [N, heads, L, width].")
    if rank == 4:
        turned(w, x, cos, sin, interleaved, partly, w.node.output[0])
    else:
        half = w.size(cos, -1)
        shape = w.ints([0, 0, heads, -1]) if heads else w.add("Concat", w.ints([0, 0, -1]), w.add("Add", half, half), axis=0)
        apart = w.add("Transpose", w.add("Reshape", x, shape), perm=[0, 2, 1, 3])
        together(w, turned(w, apart, cos, sin, interleaved, partly), w.node.output[0])
    w.ranks[w.node.output[0]] = rank
