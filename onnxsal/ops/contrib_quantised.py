"""Operators that compute with quantised values, and their copies: dequantise, compute in floating point, quantise.

Each reads tensors of 8 bits with a scale and a zero point and writes one. The copy has the scales and zero points of the node itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from onnxsal.ops.expansion import Writer
from onnxsal.ops.restated import float_of, numbers, on_grid, real, refuse_older, restated, sizes, unknown

EIGHT = (TensorProto.INT8, TensorProto.UINT8)


def _kept(w: Writer, *without: str) -> dict[str, Any]:
    return {k: v for k, v in w.attributes.items() if k not in without}


def _rank(w: Writer, name: str) -> int:
    """How many axes a tensor has. Raises ``ModelError`` where that is not known."""
    rank = w.ranks.get(name)
    if rank is None:
        raise unknown(w, f"reads '{name}', whose number of axes is not known", "Declare the input's shape before converting.")
    return rank


def _channels_first(w: Writer, x: str, rank: int) -> str:
    return w.add("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])


def _channels_last(w: Writer, x: str, rank: int) -> str:
    return w.add("Transpose", x, perm=[0, *range(2, rank), 1])


def _bias(w: Writer, name: str, *scales: str) -> str:
    """A bias of int32, in steps of the product of the scales."""
    step = w.add("Mul", *scales)
    return real(w, name, step, axis=0)


@restated("QLinearConv", domain="")
@restated("QLinearConv")
def _conv(w: Writer) -> None:
    """Conv; one scale for the weights, or one per output channel; a bias in steps of the product of both scales."""
    last, x = bool(w.attributes.get("channels_last")), float_of(w, 0)
    rank = _rank(w, w.input(3)) if last else 0
    weight = real(w, w.input(3), w.input(4), w.input(5), axis=0)
    bias = [_bias(w, w.input(8), w.input(1), w.input(4))] if w.input(8) else []
    y = w.add("Conv", _channels_first(w, x, rank) if last else x, weight, *bias, **_kept(w, "channels_last"))
    on_grid(w, _channels_last(w, y, rank) if last else y, w.input(6), w.input(7))


@restated("QLinearMatMul", domain="")
def _matmul(w: Writer) -> None:
    """MatMul; one scale for each factor, or one per row of the first and per column of the second."""
    on_grid(w, w.add("MatMul", factor(w, 0, 1, 2, -2), factor(w, 3, 4, 5, -1)), w.input(6), w.input(7))


def factor(w: Writer, i: int, scale: int, zero: int, axis: int) -> str:
    """A factor of a matrix product, with one scale or one per index of ``axis``. Raises ``ModelError`` for more scales."""
    known = sizes(w, w.input(scale))
    if known is not None and len(known) > 1:
        raise unknown(w, f"has scales of sizes {list(known)}", "Quantise with one scale, or one per row or column.")
    return real(w, w.input(i), w.input(scale), w.input(zero), axis=axis)


@restated("QGemm")
def _gemm(w: Writer) -> None:
    """Gemm; the bias is int32 in steps of alpha and both scales. Without a scale of the output that is floating point."""
    alpha = float(w.attributes.get("alpha", 1.0))
    columns = 0 if w.attributes.get("transB") else 1
    a, b = float_of(w, 0), real(w, w.input(3), w.input(4), w.input(5), axis=columns)
    bias = []
    if w.input(6):
        step = w.add("Mul", w.add("Mul", w.input(1), w.stored(np.asarray(alpha, np.float32))), w.input(4))
        bias = [w.add("Mul", numbers(w, w.input(6), step), step)]
    output = "" if w.input(7) else w.node.output[0]
    y = w.add("Gemm", a, b, *bias, output=output, **_kept(w))
    if w.input(7):
        on_grid(w, y, w.input(7), w.input(8))


@restated("QLinearAdd", "QLinearMul")
def _binary(w: Writer) -> None:
    """a + b, or a b."""
    how = {"QLinearAdd": "Add", "QLinearMul": "Mul"}[w.node.op_type]
    on_grid(w, w.add(how, float_of(w, 0), float_of(w, 3)), w.input(6), w.input(7))


@restated("QLinearConcat")
def _concat(w: Writer) -> None:
    """Concat of tensors with scales of their own."""
    parts = [float_of(w, i) for i in range(2, len(w.node.input), 3)]
    on_grid(w, w.add("Concat", *parts, axis=int(w.attributes["axis"])), w.input(0), w.input(1))


@restated("QLinearWhere")
def _where(w: Writer) -> None:
    on_grid(w, w.add("Where", w.input(0), float_of(w, 1), float_of(w, 4)), w.input(7), w.input(8))


@restated("QLinearAveragePool", "QLinearGlobalAveragePool")
def _pool(w: Writer) -> None:
    """The mean over windows, or over all places."""
    how, last = w.node.op_type.removeprefix("QLinear"), bool(w.attributes.get("channels_last"))
    rank = _rank(w, w.input(0)) if last else 0
    x = float_of(w, 0)
    y = w.add(how, _channels_first(w, x, rank) if last else x, **_kept(w, "channels_last"))
    on_grid(w, _channels_last(w, y, rank) if last else y, w.input(3), w.input(4))


@restated("QLinearSigmoid", "QLinearLeakyRelu")
def _activation(w: Writer) -> None:
    on_grid(w, w.add(w.node.op_type.removeprefix("QLinear"), float_of(w, 0), **_kept(w)), w.input(3), w.input(4))


@restated("QLinearSoftmax")
def _softmax(w: Writer) -> None:
    """Softmax along an axis; up to opset 12 over that axis and all behind it."""
    axis, x = int(w.attributes.get("axis", -1)), float_of(w, 0)
    rank = w.ranks.get(w.input(0))
    if int(w.attributes.get("opset", 13)) >= 13 or axis == -1 or axis + 1 == rank:
        y = w.add("Softmax", x, axis=axis)
    else:
        y = w.add("Reshape", w.add("Softmax", w.add("Flatten", x, axis=axis), axis=-1), w.add("Shape", x))
    on_grid(w, y, w.input(3), w.input(4))


@restated("QuantizeLinear")
def _quantize(w: Writer) -> None:
    """As the standard's."""
    refuse_older(w, w.input(2), allowed=EIGHT)
    w.add("QuantizeLinear", *w.node.input, output=w.node.output[0], **_kept(w))


@restated("DequantizeLinear")
def _dequantize(w: Writer) -> None:
    """As the standard's."""
    refuse_older(w, w.input(2) or w.input(0), allowed=(*EIGHT, TensorProto.INT32))
    w.add("DequantizeLinear", *w.node.input, output=w.node.output[0], **_kept(w))
