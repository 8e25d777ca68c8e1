"""Operators of ONNX Runtime for recent language models (gates, streams side by side, convolutions with a state), in standard ones."""

from __future__ import annotations

from onnxsal.ops.contrib import silu
from onnxsal.ops.contrib_norm import normed
from onnxsal.ops.expansion import END, Writer, expansion


def _split_last(w: Writer, x: str, *last: str) -> str:
    """x with its last axis as several of the sizes ``last``, each a list."""
    before = w.add("Shape", x, end=-1)
    return w.add("Reshape", x, w.add("Concat", before, *last, axis=0))


def _branches(w: Writer, x: str) -> str:
    """Streams [..., C, H], which may lie flat."""
    count = w.whole_number("num_branches")
    return _split_last(w, x, w.ints([count, -1])) if count else x


def _gates(w: Writer, i: int) -> str:
    """Input i as [..., C, 1] or [..., C, H], in the type of the streams."""
    count = w.whole_number("num_branches")
    gates, rank = w.add("CastLike", w.input(i), w.input(0)), w.rank(w.input(0)) + bool(count)
    if w.rank(w.input(i)) == rank:
        return gates
    return _split_last(w, gates, w.ints([count, -1])) if count else w.add("Unsqueeze", gates, w.ints([-1]))


@expansion("HyperConnectionPreMix")
def _pre_mix(w: Writer) -> None:
    """reduction_scale sum_c x[c] gate[c]."""
    total = w.add("ReduceSum", w.add("Mul", _branches(w, w.input(0)), _gates(w, 1)), w.ints([-2]), keepdims=0)
    w.add("Mul", total, w.const(w.number("reduction_scale", 1.0)), output=w.node.output[0])


@expansion("HyperConnectionPostMix")
def _post_mix(w: Writer) -> None:
    """sum_c mix[c, k] x[c] + gate[k] block."""
    x = _branches(w, w.input(0))
    if w.input(3):
        x = w.add("MatMul", w.add("Einsum", w.add("CastLike", w.input(3), w.input(0)), equation="...ij->...ji"), x)
    block = w.add("Unsqueeze", w.input(1), w.ints([-2]))
    total = w.add("Add", x, w.add("Mul", _gates(w, 2), block))
    w.add("Reshape", total, w.add("Shape", w.input(0)), output=w.node.output[0])


@expansion("BranchwiseRMSNorm")
def _branchwise_norm(w: Writer) -> None:
    """scale x / sqrt(mean(x^2) + epsilon) of each branch."""
    x = _branches(w, w.input(0))
    scale = w.const(1.0)
    if w.input(1):
        scale = w.add("CastLike", w.input(1), w.input(0))
        if w.rank(w.input(1)) == 1:  # one for all branches, or for each in turn
            scale = w.add("Reshape", scale, w.add("Concat", w.ints([-1]), w.size(x, -1), axis=0))
    even = normed(w, x, scale, [-1], w.number("epsilon", 1e-5), "")
    w.add("Reshape", even, w.add("Shape", w.input(0)), output=w.node.output[0])


@expansion("GatedRMSNorm")
def _gated_norm(w: Writer) -> None:
    """scale x / sqrt(mean(x^2) + epsilon) of groups as long as the scale, times silu or sigmoid of a gate."""
    x, scale, gate = (w.input(i) for i in range(3))
    even = normed(w, _split_last(w, x, w.ints([-1]), w.size(scale, 0)), scale, [-1], w.number("epsilon", 1e-5), "")
    kind = w.text("activation") or "silu"
    if kind not in ("silu", "swish", "sigmoid"):
        raise w.refuse(f"has the gate '{kind}'")
    opened = w.add("Sigmoid", gate) if kind == "sigmoid" else silu(w, gate)
    w.add("Mul", w.add("Reshape", even, w.add("Shape", x)), opened, output=w.node.output[0])


@expansion("GatedAdd")
def _gated_add(w: Writer) -> None:
    """x + y gate."""
    w.add("Add", w.input(0), w.add("Mul", w.input(1), w.input(2)), output=w.node.output[0])


@expansion("ScaledSiLU")
def _scaled_silu(w: Writer) -> None:
    """silu(scale x)."""
    scale = w.add("CastLike", w.input(1), w.input(0)) if w.input(1) else w.const(w.number("alpha", 1.0))
    silu(w, w.add("Mul", w.input(0), scale), w.node.output[0])


@expansion("LinearAttentionGate")
def _decay(w: Writer) -> None:
    """decay_scale softplus(a + dt_bias), and sigmoid(b)."""
    a, bias, scale, b = (w.input(i) for i in range(4))
    bias, scale = (w.add("CastLike", x, a) for x in (bias, scale))
    w.add("Mul", scale, w.add("Softplus", w.add("Add", a, bias)), output=w.node.output[0])
    if w.output(1):
        w.add("Sigmoid", b, output=w.output(1))


@expansion("EngramGate")
def _engram(w: Writer) -> None:
    """value sigmoid(sign(d) sqrt(max(|d|, 1e-6))), d = the product of the normalised key and query by sqrt(width); and this normalised."""
    key, query, value, key_scale, query_scale, last_scale = (w.input(i) for i in range(6))
    epsilon = w.number("epsilon", 1e-5)
    even = [normed(w, x, s, [-1], epsilon, "") for x, s in ((key, key_scale), (query, query_scale))]
    total = w.add("ReduceSum", w.add("Mul", *even), w.ints([-1]), keepdims=1)
    dot = w.add("Div", total, w.add("Sqrt", w.add("CastLike", w.size(key, -1), key)))
    root = w.add("Sqrt", w.add("Max", w.add("Abs", dot), w.const(1e-6)))
    gate = w.add("Sigmoid", w.add("Mul", w.add("Sign", dot), root))
    gated = w.add("Mul", gate, w.add("Unsqueeze", value, w.ints([2])), output=w.node.output[0])
    if w.output(1):
        normed(w, gated, last_scale, [-1], epsilon, w.output(1))


@expansion("CausalConvWithState")
def _causal_conv(w: Writer) -> None:
    """Each channel of [N, C, L] convolved over the places up to its own, behind those of the state; then silu or nothing."""
    x, weight, bias, past = (w.input(i) for i in range(4))
    channels, taps = w.sizes.get((weight, 0)), w.sizes.get((weight, 2))
    if w.whole_number("ndim", 1) != 1 or w.whole_number("channels_last") or w.whole_number("state_window"):
        raise w.refuse("has more than one axis of places, channels last, or a window of states")
    if channels is None or taps is None:
        raise w.refuse("has weights of unknown size", "Export it with the weights as constants.")
    reach = (taps - 1) * w.whole_number("dilation", 1)
    whole = w.add("Concat", past, x, axis=2) if past else w.add("Pad", x, w.ints([0, 0, reach, 0, 0, 0]))
    if w.output(1):
        end = w.size(whole, 2)
        w.add("Slice", whole, w.add("Sub", end, w.ints([reach])), w.ints([END]), w.ints([2]), output=w.output(1))
    kind, out = w.text("activation") or "none", w.node.output[0]
    if kind not in ("silu", "swish", "none"):
        raise w.refuse(f"ends in activation '{kind}'")
    inputs = [whole, weight, *([bias] if bias else [])]
    y = w.add("Conv", *inputs, group=channels, dilations=[w.whole_number("dilation", 1)], output=out if kind == "none" else "")
    if kind != "none":
        silu(w, y, out)
