"""Operators whose weights are stored in 2, 4 or 8 bits with a scale per block, and their copies.

The copy unpacks the same stored bytes, so that the file has no second set of weights; ONNX Runtime does it once, when it opens the file.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxsal.ops.expansion import Writer
from onnxsal.ops.restated import numbers, refuse_older, restated, sizes, unknown

ANEW = "Quantise it again with ONNX Runtime's own quantiser."
PACKED = (2, 4, 8)


def _bits(w: Writer, default: int) -> int:
    bits = int(w.attributes.get("bits", default))
    if bits not in PACKED:
        raise unknown(w, f"has weights of {bits} bits", "Known are 2, 4 and 8.")
    return bits


def _unpacked(w: Writer, packed: str, bits: int, shape: list[int]) -> str:
    """Bytes as the numbers that are packed in each, the lowest bits first, in the shape that is given (0 = as it was)."""
    if bits == 8:
        return w.add("Reshape", packed, w.ints(shape))
    mask, each = w.stored(np.asarray(2**bits - 1, np.uint8)), []
    for shift in range(0, 8, bits):
        moved = w.add("BitShift", packed, w.stored(np.asarray(shift, np.uint8)), direction="RIGHT") if shift else packed
        each.append(w.add("Unsqueeze", w.add("BitwiseAnd", moved, mask) if shift + bits < 8 else moved, w.ints([-1])))
    return w.add("Reshape", w.add("Concat", *each, axis=-1), w.ints(shape))


def _upto(w: Writer, x: str, size: int, axis: int) -> str:
    """The first ``size`` along an axis: rows are padded to whole blocks, or to whole bytes."""
    return w.add("Slice", x, w.ints([0]), w.ints([size]), w.ints([axis]))


ROUNDED = 0.05
"""With accuracy_level 4 a block of A is rounded to 8 bits."""
HALF_UNIT = 2e-3
"""Rounding to float16, of the weights and of the result."""


@restated("MatMulNBits")
def _matmul(w: Writer) -> float | None:
    """A W^T + bias, W [N, K] = (codes - zero) scale, with a scale and a zero point for each block of a row.

    With accuracy_level 4 the node rounds A to 8 bits for each block, too; that is left out, and is how far the copy is from it.
    """
    n, k, block = (int(w.attributes[name]) for name in ("N", "K", "block_size"))
    bits, blocks = _bits(w, 4), -(-k // block)
    if w.attributes.get("weight_prepacked"):
        raise unknown(w, "has weights in a layout of one processor (weight_prepacked)", ANEW)
    if w.input(4):
        raise unknown(w, "has its columns in another order (g_idx)", "Quantise it without act_order.")
    codes = _unpacked(w, w.input(1), bits, [n, blocks, block])
    scale = w.add("Reshape", w.input(2), w.ints([n, blocks, 1]))
    weight = w.add("Mul", w.add("Sub", numbers(w, codes, w.input(2)), _zeros(w, bits, n, blocks)), scale)
    flat = w.add("Reshape", weight, w.ints([n, blocks * block]))
    rows = flat if blocks * block == k else _upto(w, flat, k, 1)
    y = w.add("MatMul", w.input(0), w.add("Transpose", rows, perm=[1, 0]), output="" if w.input(5) else w.node.output[0])
    if w.input(5):
        w.add("Add", y, w.input(5), output=w.node.output[0])
    rounded = int(w.attributes.get("accuracy_level", 0)) == 4
    return ROUNDED if rounded else HALF_UNIT if w.dtypes.get(w.input(2)) == TensorProto.FLOAT16 else None


def _zeros(w: Writer, bits: int, n: int, blocks: int) -> str:
    """The zero points [n, blocks, 1] as numbers: packed like the weights, each row in whole bytes; or numbers; by default the middle."""
    zero, scale = w.input(3), w.input(2)
    if not zero:
        return numbers(w, w.stored(np.asarray(2.0 ** (bits - 1), np.float32)), scale)
    if w.dtypes.get(zero) != TensorProto.UINT8:
        return numbers(w, w.add("Reshape", zero, w.ints([n, blocks, 1])), scale)
    row = -(-blocks * bits // 8)
    codes = _unpacked(w, w.add("Reshape", zero, w.ints([n, row])), bits, [n, row * 8 // bits])
    exact = codes if row * 8 // bits == blocks else _upto(w, codes, blocks, 1)
    return numbers(w, w.add("Reshape", exact, w.ints([n, blocks, 1])), scale)


@restated("GatherBlockQuantized", limit=HALF_UNIT)
def _gather(w: Writer) -> None:
    """Gather of (codes - zero) scale, with a scale and a zero point for each block along ``quantize_axis``.

    The whole table is unpacked, so that it is seen which table it is; where nothing but the looked-up vectors is read, that is left out.
    """
    data, scales, zeros = w.input(0), w.input(2), w.input(3)
    shape, given = sizes(w, data), sizes(w, scales)
    if shape is None or given is None:
        raise unknown(w, "has a table that is not stored", "Explain the model with its weights in the file.")
    refuse_older(w, data, allowed=(TensorProto.UINT8,))
    rank, block, bits = len(shape), int(w.attributes.get("block_size", 128)), _bits(w, 4)
    along = int(w.attributes.get("quantize_axis", 1)) % rank
    packed = w.dtypes.get(data) == TensorProto.UINT8 and bits < 8
    if packed and along != rank - 1:
        raise unknown(w, "packs several numbers of another axis than its last into a byte", ANEW)
    size = shape[along] * (8 // bits if packed else 1)

    def unpacked(name: str, count: int) -> str:
        """Codes or zero points, ``count`` along the axis, as floating-point numbers."""
        if packed:
            codes = _unpacked(w, name, bits, [*(0,) * (rank - 1), -1])
            name = codes if (count * bits) % 8 == 0 else _upto(w, codes, count, along)
        return numbers(w, name, scales)

    spread = w.stored(np.arange(size, dtype=np.int64) // block)
    scale = w.add("Gather", scales, spread, axis=along)
    if zeros:
        shift = w.add("Gather", unpacked(zeros, given[along]), spread, axis=along)
    else:
        middle = 2.0 ** (bits - 1) if w.dtypes.get(data) == TensorProto.UINT8 else 0.0
        shift = numbers(w, w.stored(np.asarray(middle, np.float32)), scales)
    table = w.add("Mul", w.add("Sub", unpacked(data, size), shift), scale)
    w.add("Gather", table, w.input(1), axis=int(w.attributes.get("gather_axis", 0)), output=w.node.output[0])
