"""Normalisations and embeddings that ONNX Runtime's optimisers fuse, each written in standard operators."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxsal.ops.contrib import silu
from onnxsal.ops.expansion import END, Writer, expansion

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@expansion("SkipLayerNormalization")
def _skip_layer_norm(w: Writer) -> None:
    """LayerNormalization(input + skip + bias) over the last axis."""
    summed = _sum(w, w.input(4))
    inputs = [summed, w.input(2), *([w.input(3)] if w.input(3) else [])]
    outputs = [w.output(i) for i in range(3)]
    while not outputs[-1]:
        outputs.pop()
    w.several("LayerNormalization", inputs, outputs, axis=-1, epsilon=w.number("epsilon", 1e-12))


def _sum(w: Writer, bias: str) -> str:
    """input + skip + bias, which is also output 3."""
    total = w.output(3)
    summed = w.add("Add", w.input(0), w.input(1), output="" if bias else total)
    return w.add("Add", summed, bias, output=total) if bias else summed


@expansion("SkipSimplifiedLayerNormalization")
def _skip_root_mean_square_norm(w: Writer) -> None:
    """scale s / sqrt(mean(s^2) + epsilon) over the last axis, s = input + skip + bias."""
    summed = _sum(w, w.input(3))
    outputs = (w.output(0), w.output(2))
    normed(w, summed, w.input(2), [-1], w.number("epsilon", 1e-12), *outputs)
    if w.output(1):
        raise w.refuse("returns a mean, which it does not compute")


@expansion("SimplifiedLayerNormalization", unsaid=END)
def _root_mean_square_norm(w: Writer) -> None:
    """scale x / sqrt(mean(x^2) + epsilon) over the axes from ``axis`` on."""
    x, axis = w.input(0), w.whole_number("axis", -1)
    axes = list(range(axis, 0)) if axis < 0 else list(range(axis, w.rank(x)))
    normed(w, x, w.input(1), axes, w.number("epsilon", 1e-5), w.output(0), w.output(1))


def normed(w: Writer, x: str, scale: str, axes: list[int], epsilon: float, output: str, inverse: str = "") -> str:
    """scale x / sqrt(mean(x^2) + epsilon); ``inverse`` is 1 / sqrt(mean(x^2) + epsilon). Half precision is computed in float32."""
    half = w.dtype(x, scale, w.input(0)) in HALVES
    wide = w.add("Cast", x, to=TensorProto.FLOAT) if half else x
    mean = w.add("ReduceMean", w.add("Mul", wide, wide), w.const(axes), keepdims=1)
    root = w.add("Sqrt", w.add("Add", mean, w.const(epsilon, wide)))
    if inverse:
        w.add("Reciprocal", root, output=inverse)
    ratio = w.add("Div", wide, root)
    return w.add("Mul", w.add("CastLike", ratio, scale) if half else ratio, scale, output=output)


@expansion("GroupNorm")
def _group_norm(w: Writer) -> None:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, by groups of channels of [N, H, W, C] or [N, C, H, W]; then silu or nothing."""
    _grouped(w, w.input(0))


@expansion("SkipGroupNorm")
def _skip_group_norm(w: Writer) -> None:
    """GroupNorm of s = x + skip + bias, where ``skip`` has the shape of x, or no size (or size 1) along height and width."""
    x, skip, bias = w.input(0), w.input(3), w.input(4)
    last = bool(w.whole_number("channels_last", 1))
    if w.rank(skip) == 2:
        skip = w.add("Unsqueeze", skip, w.ints([1, 2] if last else [2, 3]))
    summed = w.add("Add", x, skip, output="" if bias else w.output(1))
    if bias:
        summed = w.add("Add", summed, bias if last else w.add("Reshape", bias, w.ints([1, -1, 1, 1])), output=w.output(1))
    _grouped(w, summed)


def _grouped(w: Writer, x: str) -> None:
    """Its groups are the channels of an InstanceNormalization, as exporters write it."""
    last, groups, activation = bool(w.whole_number("channels_last", 1)), w.whole_number("groups"), w.whole_number("activation")
    if activation not in (0, 1):
        raise w.refuse(f"ends in activation {activation}")
    first = w.add("Transpose", x, perm=[0, 3, 1, 2]) if last else x
    ones, zeros = (w.add("CastLike", w.stored(np.full(groups, v, np.float32)), x) for v in (1, 0))
    apart = w.add("Reshape", first, w.ints([0, groups, -1]))
    even = w.add("InstanceNormalization", apart, ones, zeros, epsilon=w.number("epsilon", 1e-5))
    even = w.add("Reshape", even, w.add("Shape", first))
    gamma, beta = (w.add("Reshape", w.add("CastLike", w.input(i), x), w.ints([1, -1, 1, 1])) for i in (1, 2))
    plain = not last and not activation
    y = w.add("Add", w.add("Mul", even, gamma), beta, output=w.node.output[0] if plain else "")
    if activation:
        y = silu(w, y, "" if last else w.node.output[0])
    if last:
        w.add("Transpose", y, perm=[0, 2, 3, 1], output=w.node.output[0])


@expansion("EmbedLayerNormalization")
def _embed(w: Writer) -> None:
    """LayerNormalization(word[ids] + position[0 ... L - 1] + segment[kinds]), and how many positions of each text the mask keeps."""
    ids, kinds, word, position, segment, gamma, beta, mask, places = (w.input(i) for i in range(9))
    if places:
        embedded = w.add("Add", w.add("Gather", word, ids), w.add("Gather", position, places))
    else:
        length = w.add("Shape", ids, start=1, end=2)
        embedded = w.add("Add", w.add("Gather", word, ids), w.add("Slice", position, w.ints([0]), length, w.ints([0])))
    if segment:
        embedded = w.add("Add", embedded, w.add("Gather", segment, kinds))
    if w.output(2):
        w.add("Identity", embedded, output=w.output(2))
    epsilon = w.number("epsilon", 1e-12)
    w.add("LayerNormalization", embedded, gamma, beta, output=w.node.output[0], axis=-1, epsilon=epsilon)
    if w.output(1):
        kept = mask or w.add("Mul", ids, w.add("Cast", w.ints([0]), to=TensorProto.INT32))
        ones = w.add("Equal", kept, w.add("Cast", w.ints([1]), to=TensorProto.INT32))
        w.add("ReduceSum", w.add("Cast", ones, to=TensorProto.INT32), w.ints([1]), output=w.output(1), keepdims=0)
        w.ranks[w.output(1)] = 1
