"""ONNX Runtime's fused operators (com.microsoft), each written in standard ones."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnxsal.ops.expansion import Writer, expansion


def _activate(w: Writer, x: str) -> None:
    """The activation that FusedConv and FusedGemm end in, writing the fused node's output."""
    kind, given = w.text("activation"), [float(v) for v in w.attributes.get("activation_params", [])]
    out = w.node.output[0]
    if kind in ("Relu", "Sigmoid", "Tanh"):
        w.add(kind, x, output=out)
    elif kind == "LeakyRelu":
        w.add(kind, x, output=out, alpha=given[0])
    elif kind == "HardSigmoid":
        w.add(kind, x, output=out, alpha=given[0], beta=given[1])
    elif kind == "Clip":
        w.add(kind, x, w.const(given[0]), w.const(given[1]), output=out)
    elif kind:
        raise w.refuse(f"ends in activation '{kind}'")
    else:
        w.add("Identity", x, output=out)


@expansion("FusedConv")
def _fused_conv(w: Writer) -> None:
    kept = {k: v for k, v in w.attributes.items() if k not in ("activation", "activation_params")}
    y = w.add("Conv", *[n for n in (w.input(0), w.input(1), w.input(2)) if n], **kept)
    _activate(w, w.add("Add", y, w.input(3)) if w.input(3) else y)


@expansion("FusedGemm")
def _fused_gemm(w: Writer) -> None:
    kept = {k: w.attributes[k] for k in ("alpha", "beta", "transA", "transB") if k in w.attributes}
    y = w.add("Gemm", *[n for n in (w.input(0), w.input(1), w.input(2)) if n], **kept)
    w.attributes["activation_params"] = [w.attributes[k] for k in ("activation_alpha", "activation_beta") if k in w.attributes]
    _activate(w, y)


@expansion("FusedMatMul")
def _fused_matmul(w: Writer) -> None:
    if w.attributes.get("transBatchA") or w.attributes.get("transBatchB"):
        raise w.refuse("transposes batch axes")
    sides = [_swap_last(w, w.input(i)) if w.attributes.get(flag) else w.input(i) for i, flag in enumerate(("transA", "transB"))]
    alpha = float(w.attributes.get("alpha", 1.0))
    if alpha == 1.0:
        w.add("MatMul", *sides, output=w.node.output[0])
    else:
        w.add("Mul", w.add("MatMul", *sides), w.const(alpha), output=w.node.output[0])


def _swap_last(w: Writer, x: str) -> str:
    """x with its last two axes swapped, whatever its rank: Einsum says it without knowing the rank."""
    return w.add("Einsum", x, equation="...ij->...ji")


@expansion("Gelu", "BiasGelu")
def _gelu(w: Writer) -> None:
    """x * (1 + erf(x / sqrt 2)) / 2, x with a bias if there is one."""
    x = w.add("Add", w.input(0), w.input(1)) if w.input(1) else w.input(0)
    erf = w.add("Erf", w.add("Mul", x, w.const(float(np.sqrt(0.5)))))
    w.add("Mul", w.add("Mul", x, w.const(0.5)), w.add("Add", erf, w.const(1.0)), output=w.node.output[0])


@expansion("QuickGelu")
def _quick_gelu(w: Writer) -> None:
    """x * sigmoid(alpha x)."""
    gate = w.add("Sigmoid", w.add("Mul", w.input(0), w.const(float(w.attributes.get("alpha", 1.702)))))
    w.add("Mul", w.input(0), gate, output=w.node.output[0])


@expansion("FastGelu")
def _fast_gelu(w: Writer) -> None:
    """x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    x = w.add("Add", w.input(0), w.input(1)) if w.input(1) else w.input(0)
    cube = w.add("Mul", w.add("Mul", x, x), x)
    inner = w.add("Mul", w.add("Add", x, w.add("Mul", cube, w.const(0.044715))), w.const(float(np.sqrt(2 / np.pi))))
    w.add("Mul", w.add("Mul", x, w.const(0.5)), w.add("Add", w.add("Tanh", inner), w.const(1.0)), output=w.node.output[0])


@expansion("SkipLayerNormalization")
def _skip_layer_norm(w: Writer) -> None:
    """LayerNormalization(input + skip + bias) over the last axis."""
    if any(w.node.output[1:3]):
        raise w.refuse("also returns its mean or deviation")
    total = w.node.output[3] if len(w.node.output) > 3 else ""
    summed = w.add("Add", w.input(0), w.input(1), output="" if w.input(4) else total)
    if w.input(4):
        summed = w.add("Add", summed, w.input(4), output=total)
    inputs = [summed, w.input(2), *([w.input(3)] if w.input(3) else [])]
    w.add("LayerNormalization", *inputs, output=w.node.output[0], axis=-1, epsilon=float(w.attributes.get("epsilon", 1e-12)))


@expansion("SimplifiedLayerNormalization", domain="")  # ONNX Runtime saves it in the standard domain, which has no such operator
def _root_mean_square_norm(w: Writer) -> None:
    """scale x / sqrt(mean(x^2) + epsilon), over the last axis."""
    if int(w.attributes.get("axis", -1)) != -1 or any(w.node.output[1:]):
        raise w.refuse("has an axis other than the last, or returns its deviation too")
    x, epsilon = w.input(0), w.const(float(w.attributes.get("epsilon", 1e-5)))
    mean = w.add("ReduceMean", w.add("Mul", x, x), w.const([-1]), keepdims=1)
    root = w.add("Sqrt", w.add("Add", mean, epsilon))
    w.add("Mul", w.add("Div", x, root), w.input(1), output=w.node.output[0])


# ----- embeddings and attention, as ONNX Runtime's transformers tool fuses them -----


@expansion("EmbedLayerNormalization")
def _embed(w: Writer) -> None:
    """LayerNormalization(word[ids] + position[0 ... L - 1] + segment[kinds]), and how many positions of each text the mask keeps."""
    ids, kinds, word, position, segment, gamma, beta, mask, places = (w.input(i) for i in range(9))
    outputs = [*w.node.output, "", ""][:3]
    if places:
        embedded = w.add("Add", w.add("Gather", word, ids), w.add("Gather", position, places))
    else:
        length = w.add("Shape", ids, start=1, end=2)
        embedded = w.add("Add", w.add("Gather", word, ids), w.add("Slice", position, w.ints([0]), length, w.ints([0])))
    if segment:
        embedded = w.add("Add", embedded, w.add("Gather", segment, kinds))
    if outputs[2]:
        w.add("Identity", embedded, output=outputs[2])
    epsilon = float(w.attributes.get("epsilon", 1e-12))
    w.add("LayerNormalization", embedded, gamma, beta, output=outputs[0], axis=-1, epsilon=epsilon)
    if outputs[1]:
        kept = mask or w.add("Mul", ids, w.add("Cast", w.ints([0]), to=onnx.TensorProto.INT32))
        ones = w.add("Equal", kept, w.add("Cast", w.ints([1]), to=onnx.TensorProto.INT32))
        w.add("ReduceSum", w.add("Cast", ones, to=onnx.TensorProto.INT32), w.ints([1]), output=outputs[1], keepdims=0)
        w.ranks[outputs[1]] = 1


@expansion("Attention")
def _attention(w: Writer) -> None:
    """softmax(Q K^T / sqrt(d) + mask) V of each head, with Q, K, V = x W + b."""
    x, weight, bias, mask = (w.input(i) for i in range(4))
    if any(w.input(i) for i in range(4, 8)) or any(w.node.output[1:]) or w.attributes.get("do_rotary"):
        raise w.refuse("has a past, a bias of its scores, or rotary positions")
    heads, sizes = int(w.attributes["num_heads"]), [int(d) for d in w.attributes.get("qkv_hidden_sizes", [])]
    if len(set(sizes)) > 1:
        raise w.refuse("has values of another width than its keys")
    packed = w.add("Add", w.add("MatMul", x, weight), bias) if bias else w.add("MatMul", x, weight)
    parts = [f"{w.node.output[0]}/{part}" for part in ("q", "k", "v")]
    w.nodes.append(helper.make_node("Split", [packed], parts, name=f"{w.node.output[0]}/Split", axis=-1, num_outputs=3))
    apart = [w.add("Reshape", part, w.ints([0, 0, heads, -1])) for part in parts]
    q, k, v = (w.add("Transpose", t, perm=perm) for t, perm in zip(apart, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True))
    scale = float(w.attributes.get("scale", 0.0))
    if scale:
        scores = w.add("Mul", w.add("MatMul", q, k), w.const(scale))
    else:
        width = w.add("CastLike", w.add("Shape", q, start=3, end=4), x)
        scores = w.add("Div", w.add("MatMul", q, k), w.add("Sqrt", width))
    masked = _masked(w, scores, mask, x)
    out = w.add("MatMul", w.add("Softmax", masked, axis=-1), v)
    w.add("Reshape", w.add("Transpose", out, perm=[0, 2, 1, 3]), w.ints([0, 0, -1]), output=w.node.output[0])


def _masked(w: Writer, scores: str, mask: str, x: str) -> str:
    """Scores [N, H, L, L], with the filter value added at positions that are not to be seen."""
    low, zero = w.const(float(w.attributes.get("mask_filter_value", -10000.0))), w.const(0.0)
    length = w.add("Squeeze", w.add("Shape", x, start=1, end=2), w.ints([0]))
    places = w.add("Range", w.scalar(0), length, w.scalar(1))
    if mask:
        rank = w.ranks.get(mask)
        if rank == 1:  # how many positions of each text count
            seen = w.add("Less", places, w.add("Unsqueeze", w.add("Cast", mask, to=onnx.TensorProto.INT64), w.ints([1])))
        elif rank in (2, 3):
            seen = w.add("Greater", w.add("Cast", mask, to=onnx.TensorProto.INT64), w.ints([0]))
        else:
            raise w.refuse(f"has a mask of {'an unknown number of' if rank is None else rank} axes")
        added = w.add("Where", seen, zero, low)
        scores = w.add("Add", scores, w.add("Unsqueeze", added, w.ints([1] if rank == 3 else [1, 2])))
    if w.attributes.get("unidirectional"):
        seen = w.add("LessOrEqual", places, w.add("Unsqueeze", places, w.ints([1])))
        scores = w.add("Add", scores, w.add("Where", seen, zero, low))
    return scores
