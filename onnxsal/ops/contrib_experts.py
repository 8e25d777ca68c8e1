"""Layers of experts, of which each token goes through a few, and pictures cut out of pictures: ONNX Runtime's, in standard operators."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxsal.ops.contrib import fast_gelu, silu
from onnxsal.ops.expansion import END, Writer, expansion


@expansion("MoE")
def _experts(w: Writer) -> None:
    """sum_e g[e] (f(x W1[e]^T + b1[e]) W2[e]^T + b2[e]), g the largest k of a softmax over the experts, scaled to a sum of 1 or not.

    Every expert is computed for every token: those that are not chosen have the weight 0.
    """
    x, router, w1, b1, w2, b2, w3 = (w.input(i) for i in range(7))
    if w.whole_number("use_sparse_mixer"):
        raise w.refuse("mixes its experts sparsely", "Export it with use_sparse_mixer=0.")
    if w3:
        raise w.refuse("has a third layer in its experts", "Export it with fused SwiGLU (swiglu_fusion=1 or 2).")
    rows = w.add("Reshape", x, w.add("Concat", w.ints([-1]), w.size(x, -1), axis=0))
    inner = _activated(w, _layer(w, w.add("Unsqueeze", rows, w.ints([0])), w1, b1))
    shares = w.add("Unsqueeze", w.add("Transpose", _chosen(w, router), perm=[1, 0]), w.ints([2]))
    total = w.add("ReduceSum", w.add("Mul", _layer(w, inner, w2, b2), shares), w.ints([0]), keepdims=0)
    w.add("Reshape", total, w.add("Shape", x), output=w.node.output[0])


def _layer(w: Writer, x: str, weight: str, bias: str) -> str:
    """x [1 or experts, tokens, width] through a layer of each expert."""
    y = w.add("MatMul", x, w.add("Transpose", weight, perm=[0, 2, 1]))
    return w.add("Add", y, w.add("Unsqueeze", bias, w.ints([1]))) if bias else y


def _chosen(w: Writer, router: str) -> str:
    """The shares [tokens, experts] of the experts of each token."""
    shares = w.add("Softmax", router, axis=-1)
    largest, at = w.several("TopK", [shares, w.ints([w.whole_number("k", 1)])], 2, axis=-1)
    if w.whole_number("normalize_routing_weights"):
        largest = w.add("Div", largest, w.add("ReduceSum", largest, w.ints([-1]), keepdims=1))
    none = w.add("Expand", w.typed(0.0, router), w.add("Shape", shares))
    return w.add("ScatterElements", none, at, largest, axis=1)


def _activated(w: Writer, x: str) -> str:
    kind = w.text("activation_type") or "relu"
    if kind == "swiglu":
        return _swiglu(w, x)
    if kind not in ("relu", "gelu", "silu", "identity"):
        raise w.refuse(f"has experts with the activation '{kind}'")
    if kind == "relu":
        return w.add("Relu", x)
    return x if kind == "identity" else silu(w, x) if kind == "silu" else fast_gelu(w, x)


def _swiglu(w: Writer, x: str) -> str:
    """g sigmoid(alpha g) (l + beta), g and l (held within a limit) neighbours or halves of the last axis."""
    fusion, limit = w.whole_number("swiglu_fusion"), w.attributes.get("swiglu_limit")
    if fusion not in (1, 2):
        raise w.refuse("has a SwiGLU of two layers", "Export it with swiglu_fusion=1 or 2.")
    if fusion == 1:
        gate, linear = (w.piece(x, start, END, 2, step=2) for start in (0, 1))
    else:
        gate, linear = w.several("Split", [x], 2, axis=2, num_outputs=2)
    if limit is not None:
        gate = w.add("Min", gate, w.const(float(limit)))
        linear = w.add("Clip", linear, w.const(-float(limit)), w.const(float(limit)))
    opened = w.add("Mul", gate, w.add("Sigmoid", w.add("Mul", gate, w.const(w.number("activation_alpha", 1.0)))))
    return w.add("Mul", opened, w.add("Add", linear, w.const(w.number("activation_beta"))))


@expansion("CropAndResize")
def _crops(w: Writer) -> None:
    """Regions of pictures at one size, between their corners; a constant where a region leaves its picture."""
    x, regions, of, _size = (w.input(i) for i in range(4))
    if (w.text("mode") or "bilinear") != "bilinear":
        raise w.refuse(f"samples with mode '{w.text('mode')}'", "Export it with mode 'bilinear'.")
    given = w.array(3)
    if given is None:
        raise w.refuse("computes the size of its crops", "Export it with a constant size.")
    corners = w.several("Split", [regions], 4, axis=1, num_outputs=4)
    y, z = (_between(w, corners[axis], corners[axis + 2], int(given[axis])) for axis in (0, 1))
    high, wide = (int(n) for n in given)
    y, z = w.add("Unsqueeze", y, w.ints([2, 3])), w.add("Unsqueeze", z, w.ints([1, 3]))
    y, z = (w.add("Expand", part, w.ints([1, high, wide, 1])) for part in (y, z))
    grid = w.add("Concat", z, y, axis=3)
    one, two, zero = w.const(1.0), w.const(2.0), w.const(0.0)
    places = w.add("Sub", w.add("Mul", grid, two), one)
    mode = "linear" if w.opset >= 20 else "bilinear"
    found = w.add("GridSample", w.add("Gather", x, of, axis=0), places, mode=mode, padding_mode="border", align_corners=1)
    inside = w.add("And", w.add("GreaterOrEqual", grid, zero), w.add("LessOrEqual", grid, one))
    both = w.several("Split", [w.add("Cast", inside, to=TensorProto.FLOAT)], 2, axis=3, num_outputs=2)
    seen = w.add("Cast", w.add("Mul", *(w.add("Squeeze", part, w.ints([3])) for part in both)), to=TensorProto.BOOL)
    w.add("Where", w.add("Unsqueeze", seen, w.ints([1])), found, w.const(w.number("extrapolation_value")), output=w.node.output[0])


def _between(w: Writer, start: str, end: str, count: int) -> str:
    """[regions, count]: places from one corner to the other, in parts of the picture; a single one in the middle."""
    parts = w.stored(np.linspace(0, 1, count, dtype=np.float32) if count > 1 else np.full(1, 0.5, np.float32))
    return w.add("Add", start, w.add("Mul", w.add("Sub", end, start), w.add("CastLike", parts, start)))
