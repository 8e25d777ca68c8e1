"""Copies, rearrangements and distances of ONNX Runtime's own (com.microsoft), each written in standard operators."""

from __future__ import annotations

import numpy as np

from onnxsal.ops.contrib_attention import heads_of
from onnxsal.ops.expansion import Writer, expansion


@expansion("ExpandDims")
def _expand_dims(w: Writer) -> None:
    """x with an axis of size 1 more."""
    axis = w.add("Reshape", w.whole(w.input(1)), w.ints([1]))
    w.add("Unsqueeze", w.input(0), axis, output=w.node.output[0])


@expansion("Pad")
def _pad(w: Writer) -> None:
    """x with constants, its edge or its reflection around it; pads [2 axes] or [1, 2 axes]."""
    given = {"mode": w.text("mode")} if w.text("mode") else {}
    pads = w.add("Reshape", w.input(1), w.ints([-1]))
    value = [w.add("Squeeze", w.input(2))] if w.input(2) else []
    w.add("Pad", w.input(0), pads, *value, output=w.node.output[0], **given)


@expansion("GatherND")
def _gather_nd(w: Writer) -> None:
    """Slices of x at indices of int32 or int64."""
    w.add("GatherND", w.input(0), w.whole(w.input(1)), output=w.node.output[0])


@expansion("GridSample")
def _grid_sample(w: Writer) -> None:
    """x between its pixels, at the places of a grid."""
    mode = w.text("mode") or "bilinear"
    newer = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    kept = {k: v for k, v in w.attributes.items() if k != "mode"} | {"mode": newer if w.opset >= 20 else mode}
    w.add("GridSample", w.input(0), w.input(1), output=w.node.output[0], **kept)


@expansion("Trilu")
def _triangle(w: Writer) -> None:
    """The upper or the lower triangle of matrices."""
    w.add("Trilu", *[n for n in (w.input(0), w.input(1)) if n], output=w.node.output[0], **w.attributes)


@expansion("Range")
def _range(w: Writer) -> None:
    """start, start + delta, ... below limit, each of no axes or of one."""
    ends = [w.add("Reshape", w.input(i), w.ints([])) for i in (0, 1)]
    step = w.add("Reshape", w.input(2), w.ints([])) if w.input(2) else w.add("CastLike", w.scalar(1), w.input(0))
    w.add("Range", *ends, step, output=w.node.output[0])


@expansion("UnfoldTensor")
def _unfold(w: Writer) -> None:
    """Slices of ``size`` along an axis, ``step`` apart; the places of a slice become the last axis."""
    rank, size = w.rank(w.input(0)), w.whole_number("size")
    axis = w.whole_number("dim", -1) % rank
    last = w.add("Add", w.size(w.input(0), axis), w.ints([1 - size]))
    begins = w.add("Range", w.scalar(0), w.add("Squeeze", last, w.ints([0])), w.scalar(w.whole_number("step", 1)))
    at = w.add("Add", w.add("Unsqueeze", begins, w.ints([1])), w.ints(list(range(size))))
    slices = w.add("Gather", w.input(0), at, axis=axis)
    order = [a for a in range(rank + 1) if a != axis + 1] + [axis + 1]
    w.add("Transpose", slices, perm=order, output=w.node.output[0])


@expansion("CDist")
def _distances(w: Writer) -> None:
    """Between each row of A and each of B: sum (a - b)^2, or its root."""
    metric = w.text("metric") or "sqeuclidean"
    if metric not in ("euclidean", "sqeuclidean"):
        raise w.refuse(f"measures the distance '{metric}'", "Export it with 'euclidean' or 'sqeuclidean'.")
    off = w.add("Sub", w.add("Unsqueeze", w.input(0), w.ints([1])), w.add("Unsqueeze", w.input(1), w.ints([0])))
    out, squared = w.node.output[0], metric == "sqeuclidean"
    total = w.add("ReduceSum", w.add("Mul", off, off), w.ints([2]), keepdims=0, output=out if squared else "")
    if not squared:
        w.add("Sqrt", total, output=out)


@expansion("ComplexMul", "ComplexMulConj")
def _complex_product(w: Writer) -> None:
    """(a + b i) (c + d i), or with the conjugate of the second, of pairs in the last axis."""
    (a, b), (c, d) = (w.several("Split", [w.input(i)], 2, axis=-1, num_outputs=2) for i in (0, 1))
    if w.node.op_type.endswith("Conj"):
        d = w.add("Neg", d)
    real = w.add("Sub", w.add("Mul", a, c), w.add("Mul", b, d))
    other = w.add("Add", w.add("Mul", a, d), w.add("Mul", b, c))
    w.add("Concat", real, other, axis=-1, output=w.node.output[0])


@expansion("Inverse")
def _inverse(w: Writer) -> None:
    """Matrices of up to three rows, inverted: their adjugates by their determinants."""
    x, rank = w.input(0), w.rank(w.input(0))
    size = w.sizes.get((x, rank - 1)) or w.sizes.get((x, rank - 2))
    if size not in (1, 2, 3):
        raise w.refuse(f"inverts matrices of {size or 'an unknown number of'} rows", "Up to three are known: write the inverse out.")
    if size == 1:
        w.add("Reciprocal", x, output=w.node.output[0])
        return
    rows = [_lines(w, row, size, rank - 1) for row in _lines(w, x, size, rank - 2)]
    minors = _cofactors(w, rows)
    determinant = ""
    for entry, minor in zip(rows[0], minors[0], strict=True):
        part = w.add("Mul", entry, minor)
        determinant = w.add("Add", determinant, part) if determinant else part
    columns = [w.add("Concat", *line, axis=rank - 2) for line in minors]
    w.add("Div", w.add("Concat", *columns, axis=rank - 1), determinant, output=w.node.output[0])


def _lines(w: Writer, x: str, count: int, axis: int) -> list[str]:
    return w.several("Split", [x], count, axis=axis, num_outputs=count)


def _cofactors(w: Writer, m: list[list[str]]) -> list[list[str]]:
    """The cofactor of each entry of a matrix of two or three rows."""
    if len(m) == 2:
        return [[m[1][1], w.add("Neg", m[1][0])], [w.add("Neg", m[0][1]), m[0][0]]]

    def minor(i: int, j: int) -> str:
        a, b, c, d = (i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3
        return w.add("Sub", w.add("Mul", m[a][c], m[b][d]), w.add("Mul", m[a][d], m[b][c]))

    return [[minor(i, j) for j in range(3)] for i in range(3)]


# ----- biases of attention by the distance of places -----


@expansion("RelativePositionBias")
def _relative_bias(w: Writer) -> None:
    """T5's: of each head the number kept for the distance of key and query, near ones each their own, far ones in ranges."""
    buckets, farthest, both = w.sizes.get((w.input(0), 0)), w.whole_number("max_distance"), bool(w.whole_number("is_bidirectional"))
    if buckets is None:
        raise w.refuse("has a table of unknown size", "Export it with the table as a constant.")
    kinds = w.stored(_buckets(buckets // 2 if both else buckets, farthest))
    rows, columns = (w.places(w.add("Reshape", w.whole(w.input(i)), w.ints([1]))) for i in (1, 2))
    ahead = w.add("Sub", columns, w.add("Unsqueeze", rows, w.ints([1])))
    behind = w.add("Neg", ahead)
    distance = w.add("Abs", ahead) if both else w.add("Max", behind, w.ints([0]))
    at = w.add("Gather", kinds, w.add("Min", distance, w.ints([farthest])))
    if both:
        at = w.add("Add", at, w.add("Mul", w.whole(w.add("Greater", ahead, w.ints([0]))), w.ints([buckets // 2])))
    table = w.add("Reshape", w.input(0), w.ints([-1, buckets]))  # it is stored by heads, whatever its shape says
    w.add("Unsqueeze", w.add("Gather", table, at, axis=1), w.ints([0]), output=w.node.output[0])


def _buckets(count: int, farthest: int) -> np.ndarray:
    """The range that each distance from 0 to ``farthest`` falls in: below half of them its own, then on a logarithmic scale."""
    distance, own = np.arange(farthest + 1), count // 2
    with np.errstate(divide="ignore"):
        steps = np.log(distance.astype(np.float32) / own) / np.float32(np.log(farthest / own)) * (count - own)
    far = own + np.maximum(steps, 0).astype(np.int64)
    return np.where(distance < own, distance, np.minimum(far, count - 1)).astype(np.int64)


@expansion("GatedRelativePositionBias")
def _gated_bias(w: Writer) -> None:
    """A bias by distance, times a gate that each query sets: u (r a - 1) + 2."""
    query, query_bias, distances, weight, bias, factor = (w.input(i) for i in range(6))
    if w.input(6):
        raise w.refuse("has texts without their padding (token_offset)")
    q = heads_of(w, query, w.whole_number("num_heads"), query_bias)
    linear = w.add("Add", w.add("MatMul", q, weight), bias)
    halves = w.several("Split", [linear], 2, axis=3, num_outputs=2)
    u, r = (w.add("Sigmoid", w.add("ReduceSum", half, w.ints([3]), keepdims=1)) for half in halves)
    one, two = w.const(1.0), w.const(2.0)
    gate = w.add("Add", w.add("Mul", u, w.add("Sub", w.add("Mul", r, factor), one)), two)
    w.add("Mul", gate, distances, output=w.node.output[0])
