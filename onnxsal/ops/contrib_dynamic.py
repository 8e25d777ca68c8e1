"""Operators whose quantisation follows the data, or that end in sums of integers or in floating point; and their copies.

The grid of the data counts as a constant, as in ``DynamicQuantizeLinear``: it is taken as it was computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxsal.ops.contrib_quantised import factor
from onnxsal.ops.expansion import MICROSOFT, Writer
from onnxsal.ops.restated import Graph, numbers, real, restated, sizes, unknown

ONE_ZERO = "Quantise with one zero point for the whole tensor."


def _whole(w: Writer, i: int, zero: str, axis: int) -> str:
    """Input i less its zero point, as numbers: steps of 1. One zero point, or one per index of ``axis`` where it is stored."""
    known = sizes(w, zero) if zero else ()
    if known is None and w.ranks.get(zero, 0) > 0 and axis != 0:
        raise unknown(w, f"has zero points '{zero}' that are not stored, perhaps one per index of an axis", ONE_ZERO)
    count = int(np.prod(known)) if known else 1
    if known is not None and (len(known) > 1 or (count > 1 and axis == 0)):
        raise unknown(w, f"has zero points of sizes {list(known)} for its input {i}", ONE_ZERO)
    return real(w, w.input(i), w.stored(np.ones((count,) if count > 1 else (), np.float32)), zero, axis=axis if count > 1 else None)


def _to_real(node: onnx.NodeProto, graph: Graph) -> Sequence[onnx.NodeProto]:
    """What makes the sums real numbers, as quantisers write it: perhaps a bias in steps, a Cast, and a product with (the scale of the data)
    (that of the weights)."""
    tail, last = list[onnx.NodeProto](), node
    for op_type in ("Add", "Cast", "Mul"):
        reader = graph.reader(last.output[0])
        if reader is not None and reader.op_type == op_type and list(reader.input).count(last.output[0]) == 1:
            tail.append(reader)
            last = reader
    if [n.op_type for n in tail[-2:]] != ["Cast", "Mul"]:
        return ()
    scales = _scales(node, tail, graph.maker)
    stored = None if scales is None else graph.stored.get(scales[1])
    if stored is None or len(stored.dims) > 1 or (node.op_type == "ConvInteger" and np.prod(stored.dims) != 1):
        return ()  # other scales than one, or one per column
    return tail


def _other(node: onnx.NodeProto, name: str) -> str:
    """What a node of two inputs reads beside ``name``."""
    return next((n for n in node.input if n != name), "")


def _scales(node: onnx.NodeProto, tail: Sequence[onnx.NodeProto], maker: Mapping[str, onnx.NodeProto]) -> tuple[str, str] | None:
    """The scale of the data, which a node gave together with them and their zero point, and the other factor of the product."""
    step, grid = maker.get(_other(tail[-1], tail[-2].output[0])), maker.get(node.input[0])
    if step is None or step.op_type != "Mul" or grid is None or len(grid.output) < 3 or list(node.input[2:3]) != [grid.output[2]]:
        return None
    others = [n for n in step.input if n != grid.output[1]]
    return (grid.output[1], others[0]) if len(others) == 1 else None


def _sums(w: Writer, product: str, axis: int, **attributes: Any) -> None:
    """The sums of products of numbers less their zero points: real ones, or whole ones as int32.

    Real, with both scales, they are what the same layer of the model in floating point makes. Whole ones are exact in float32 up to 2^24,
    and beyond that to 7 digits.
    """
    known = _scales(w.node, w.tail, w.makers) if w.tail else None
    if known is None:
        sums = w.add(product, _whole(w, 0, w.input(2), 0), _whole(w, 1, w.input(3), axis), **attributes)
        w.add("Cast", sums, output=w.node.output[0], to=TensorProto.INT32)
        return
    a, b = real(w, w.input(0), known[0], w.input(2)), real(w, w.input(1), known[1], w.input(3), axis=axis)
    end, biased = w.tail[-1].output[0], len(w.tail) > 2
    y = w.add(product, a, b, output="" if biased else end, **attributes)
    if biased:
        step = _other(w.tail[-1], w.tail[-2].output[0])
        bias = numbers(w, _other(w.tail[0], w.node.output[0]), step)
        w.add("Add", y, w.add("Mul", bias, step), output=end)


@restated("ConvInteger", domain="", tail=_to_real)
def _conv(w: Writer) -> None:
    """Conv of x - x_zero and w - w_zero."""
    _sums(w, "Conv", 0, **w.attributes)


@restated("MatMulInteger", domain="", tail=_to_real)
def _matmul(w: Writer) -> None:
    """(A - a_zero) (B - b_zero), with one zero point of B or one per column."""
    _sums(w, "MatMul", -1)


@restated("MatMulIntegerToFloat")
def _matmul_to_float(w: Writer) -> None:
    """((A - a_zero) a_scale) ((B - b_zero) b_scale) + bias."""
    _plus(w, w.add("MatMul", factor(w, 0, 2, 4, -2), factor(w, 1, 3, 5, -1), output="" if w.input(6) else w.node.output[0]), w.input(6))


@restated("DynamicQuantizeMatMul")
def _dynamic_matmul(w: Writer) -> None:
    """A on a grid of 8 bits that spans it, times (B - b_zero) b_scale, + bias."""
    y = w.add("MatMul", _gridded(w, w.input(0)), factor(w, 1, 2, 3, -1), output="" if w.input(4) else w.node.output[0])
    _plus(w, y, w.input(4))


def _plus(w: Writer, y: str, bias: str) -> None:
    if bias:
        w.add("Add", y, bias, output=w.node.output[0])


def _gridded(w: Writer, x: str) -> str:
    """x through the grid of 8 bits that spans it, and back."""
    q = w.add("DynamicQuantizeLinear", x)
    grid = [f"{q}/{part}" for part in ("scale", "zero")]
    w.nodes[-1].output.extend(grid)
    return w.add("DequantizeLinear", q, *grid)


@restated("DynamicQuantizeLSTM", limit=0.05)
def _lstm(w: Writer) -> None:
    """LSTM of the dequantised weights, on x through a grid of 8 bits. The node rounds the state to such a grid before each step, too;
    that is left out, and is how far the copy is from it."""
    ways = 2 if w.text("direction") == "bidirectional" else 1
    weights = [_stored_weight(w, w.input(i), w.input(j), w.input(j + 1), ways) for i, j in ((1, 8), (2, 10))]
    x = _gridded(w, w.input(0))
    inputs = [x, *weights, *(w.input(i) for i in range(3, 8))]
    while not inputs[-1]:
        inputs.pop()
    w.add("LSTM", *inputs, **w.attributes)
    del w.nodes[-1].output[:]
    w.nodes[-1].output.extend(w.node.output)


def _stored_weight(w: Writer, q: str, scale: str, zero: str, ways: int) -> str:
    """Weights [ways, rows, 4H] with one scale per direction, or one per column, as the LSTM of the standard has them: [ways, 4H, rows]."""
    scales, zeros = (w.add("Reshape", n, w.ints([ways, 1, -1])) for n in (scale, zero))
    plain = w.add("Mul", w.add("Sub", *(numbers(w, n, scale) for n in (q, zeros))), scales)
    return w.add("Transpose", plain, perm=[0, 2, 1])


@restated("QAttention", limit=1e-4)
def _attention(w: Writer) -> None:
    """Attention of the dequantised input and weights."""
    x, weight = real(w, w.input(0), w.input(3), w.input(6)), real(w, w.input(1), w.input(4), w.input(7), axis=1)
    inputs = [x, weight, w.input(2), w.input(5), w.input(8)]
    while not inputs[-1]:
        inputs.pop()
    w.add("Attention", *inputs, **w.attributes, domain=MICROSOFT)
    del w.nodes[-1].output[:]
    w.nodes[-1].output.extend(w.node.output)


@restated("QEmbedLayerNormalization", limit=1e-4)
def _embed(w: Writer) -> None:
    """EmbedLayerNormalization of the dequantised tables."""
    tables = [real(w, w.input(2 + i), w.input(8 + i), w.input(13 + i)) if w.input(2 + i) else "" for i in range(5)]
    inputs = [w.input(0), w.input(1), *tables, w.input(7)]
    while not inputs[-1]:
        inputs.pop()
    w.add("EmbedLayerNormalization", *inputs, **w.attributes, domain=MICROSOFT)
    del w.nodes[-1].output[:]
    w.nodes[-1].output.extend(w.node.output)
