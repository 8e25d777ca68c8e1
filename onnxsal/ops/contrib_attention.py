"""Attention as ONNX Runtime fuses it, with as many heads of keys as of queries, each form written in standard operators.

Q, K, V are [N, heads, length, width] once they are apart; L is the length of the queries, T that of the keys, P of it from before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxsal.ops.expansion import END, MICROSOFT, Writer, expansion

LOWEST = {TensorProto.FLOAT16: -65504.0}
"""The smallest number of an element type, where it is not that of float32."""

NO_BUFFER = "Export the model without a shared buffer for past and present, and without beam search."


@dataclass(frozen=True)
class Weighing:
    """What becomes of the scores Q K^T of heads.

    They are multiplied by ``scale`` (0: 1 / sqrt(width)), held below ``softcap`` by a tanh (0: not), and ``added`` to. Where ``seen`` is
    false their probability is 0; ``blind`` says that a query may see nothing, which gives zeros. ``sink`` [1, heads, 1, 1] is one more
    score in the sum of the softmax, which is computed in ``precision`` (0: as it comes). They are written to the outputs ``raw`` (scaled),
    ``capped`` (held below), ``complete`` (what the softmax takes) and ``probabilities``, where these have names.
    """

    scale: float = 0.0
    softcap: float = 0.0
    added: Sequence[str] = ()
    seen: str = ""
    blind: bool = False
    sink: str = ""
    precision: int = 0
    raw: str = ""
    capped: str = ""
    complete: str = ""
    probabilities: str = ""


def attend(w: Writer, q: str, k: str, v: str, scores: Weighing) -> str:
    """softmax(scale Q K^T + ...) V [N, heads, L, width]. The queries are scaled before the product, which half precision might not hold."""
    like = w.input(0)
    if scores.scale:
        scaled = w.add("Mul", q, w.const(scores.scale))
    else:
        scaled = w.add("Div", q, w.add("Sqrt", w.add("CastLike", w.add("Shape", q, start=3, end=4), like)))
    total = w.add("MatMul", scaled, w.add("Transpose", k, perm=[0, 1, 3, 2]), output=scores.raw)
    if scores.softcap:
        cap = w.const(scores.softcap)
        total = w.add("Mul", w.add("Tanh", w.add("Div", total, cap)), cap, output=scores.capped)
    for added in scores.added:
        total = w.add("Add", total, added)
    if scores.seen:
        total = w.add("Where", scores.seen, total, lowest(w, like))
    if scores.complete:
        w.add("Identity", total, output=scores.complete)
    return w.add("MatMul", _softmax(w, total, scores), v)


def _softmax(w: Writer, total: str, scores: Weighing) -> str:
    """Along the last axis; with a sink, over one score more, which is cut off again."""
    if scores.precision:
        total = w.add("Cast", total, to=scores.precision)
    if scores.sink:
        shape = w.add("Concat", w.add("Shape", total, end=3), w.ints([1]), axis=0)
        both = w.add("Concat", total, w.add("Expand", scores.sink, shape), axis=-1)
        weights = w.piece(w.add("Softmax", both, axis=-1), 0, -1, -1)
    else:
        weights = w.add("Softmax", total, axis=-1)
    if scores.precision:
        weights = w.add("CastLike", weights, w.input(0))
    if scores.blind:
        weights = w.add("Where", scores.seen, weights, w.typed(0.0, w.input(0)))
    if scores.probabilities:
        w.add("Identity", weights, output=scores.probabilities)
    return weights


def lowest(w: Writer, like: str) -> str:
    """The smallest number: no score is below it."""
    return w.typed(LOWEST.get(w.dtype(like), -3.4028234663852886e38), like)


def heads_of(w: Writer, x: str, heads: int, bias: str = "") -> str:
    """[N, L, heads * width] as [N, heads, L, width], with a bias [heads * width]."""
    x = w.add("Add", x, bias) if bias else x
    return w.add("Transpose", w.add("Reshape", x, w.ints([0, 0, heads, -1])), perm=[0, 2, 1, 3])


def together(w: Writer, x: str, output: str = "") -> str:
    """[N, heads, L, width] as [N, L, heads * width]."""
    return w.add("Reshape", w.add("Transpose", x, perm=[0, 2, 1, 3]), w.ints([0, 0, -1]), output=output)


def joined(w: Writer, past: str, new: str, output: str = "") -> str:
    """Keys (or values) from before and new ones, along the length; without a past the new ones."""
    if past:
        return w.add("Concat", past, new, axis=2, output=output)
    return w.add("Identity", new, output=output) if output else new


def additive(w: Writer, seen: str) -> str:
    """0 where ``seen``, and the node's filter value elsewhere."""
    low, zero = (w.const(v) for v in (w.number("mask_filter_value", -10000.0), 0.0))
    return w.add("Where", seen, zero, low)


def causal(w: Writer, q: str, k: str, before: str) -> str:
    """[L, T]: whether key j is at or before query i, of which the first is behind ``before`` keys ('' = none).

    As in ONNX Runtime's kernel the last query sees every key, which makes a difference only where there are more keys than queries.
    """
    rows, columns = w.size(q, 2), w.size(k, 2)
    places = w.places(rows)
    own = w.add("Add", places, before) if before else places
    own = w.add("Where", w.add("Equal", places, w.add("Sub", rows, w.ints([1]))), columns, own)
    return w.add("LessOrEqual", w.places(columns), w.add("Unsqueeze", own, w.ints([1])))


# ----- masks of keys -----


def padding(w: Writer, mask: str, q: str, k: str) -> str:
    """Which keys a mask lets be seen, with axes that fit [N, heads, L, T].

    [N]: how many, from the left; [2 N]: the ends, then the beginnings; [3 N + 2]: how many, then what kernels need beside it; [N, T],
    [N, L, T] and [N, 1, M, M] (of a longest length M): more than 0 where seen.
    """
    rank, whole = w.rank(mask), w.whole(mask)
    if rank == 1:
        return _ranges(w, whole, q, k)
    if rank == 4:
        columns = w.size(k, 2)
        whole = w.piece(w.piece(whole, w.add("Sub", columns, w.size(q, 2)), columns, 2), 0, columns, 3)
    elif rank in (2, 3):
        whole = w.add("Unsqueeze", whole, w.ints([1] if rank == 3 else [1, 2]))
    else:
        raise w.refuse(f"has a mask of {rank} axes")
    return w.add("Greater", whole, w.ints([0]))


def _ranges(w: Writer, mask: str, q: str, k: str) -> str:
    """[N, 1, 1, T] of a mask [N], [2 N] or [3 N + 2]."""
    samples, places = w.size(q, 0), w.places(w.size(k, 2))
    apart = w.ints([1, 2, 3])
    ends = w.add("Unsqueeze", w.piece(mask, 0, samples, 0), apart)
    double = w.add("Add", samples, samples)
    begins = w.piece(w.add("Concat", mask, w.add("Expand", w.ints([0]), samples), axis=0), samples, double, 0)
    begins = w.add("Where", w.add("Equal", w.add("Shape", mask), double), begins, w.ints([0]))
    before, after = w.add("Less", places, ends), w.add("GreaterOrEqual", places, w.add("Unsqueeze", begins, apart))
    return w.add("And", before, after)


def _masked(w: Writer, mask: str, bias: str, q: str, k: str, before: str, complete: str = "") -> Weighing:
    """What the padding, the order and the node's own bias make of the scores."""
    added = [additive(w, padding(w, mask, q, k))] if mask else []
    seen = causal(w, q, k, before) if w.whole_number("unidirectional") else ""
    return Weighing(w.number("scale"), added=[*added, bias] if bias else added, seen=seen, complete=complete)


# ----- the operators -----


def lacks_bias(node: onnx.NodeProto) -> bool:
    """Whether it is an Attention without a bias, at which ONNX Runtime's kernel on CPU ends the process."""
    return (node.domain, node.op_type) == (MICROSOFT, "Attention") and not (len(node.input) > 2 and node.input[2])


def with_bias(node: onnx.NodeProto, weight: onnx.TensorProto | None) -> onnx.TensorProto:
    """Give it a bias of zeros, which is returned. Raises ``ModelError`` where the weights, and with them its size, are computed."""
    writer = Writer(node)
    if weight is None:
        raise writer.refuse("computes its weights and has no bias", "Export it with stored weights, or with a bias.")
    bias = numpy_helper.from_array(np.zeros(weight.dims[-1], helper.tensor_dtype_to_np_dtype(weight.data_type)), writer.name("bias"))
    node.input.extend([""] * (3 - len(node.input)))
    node.input[2] = bias.name
    return bias


@expansion("Attention")
def _attention(w: Writer) -> None:
    """softmax(Q K^T / sqrt(d) + mask) V of each head, with Q, K, V = x W + b, K and V behind those of the past."""
    x, weight, bias, mask, past, bias_of_scores, past_length = (w.input(i) for i in range(7))
    if past_length or w.whole_number("past_present_share_buffer"):
        raise w.refuse("shares a buffer of its past and present", NO_BUFFER)
    if w.whole_number("do_rotary"):
        raise w.refuse("turns its queries and keys (do_rotary)")
    heads, sizes = w.whole_number("num_heads"), [int(d) for d in w.attributes.get("qkv_hidden_sizes", [])]
    packed = w.add("Add", w.add("MatMul", x, weight), bias) if bias else w.add("MatMul", x, weight)
    given = {} if sizes else {"num_outputs": 3}
    parts = w.several("Split", [packed, w.ints(sizes)] if sizes else [packed], 3, axis=-1, **given)
    q, k, v = (heads_of(w, part, heads) for part in parts)
    if past:
        both = w.several("Split", [past], 2, axis=0, num_outputs=2)
        k, v = (joined(w, w.add("Squeeze", old, w.ints([0])), new) for old, new in zip(both, (k, v), strict=True))
    if w.output(1):
        w.add("Concat", *[w.add("Unsqueeze", part, w.ints([0])) for part in (k, v)], axis=0, output=w.output(1))
    before = w.size(past, 3) if past else ""
    together(w, attend(w, q, k, v, _masked(w, mask, bias_of_scores, q, k, before)), w.node.output[0])
    w.ranks[w.node.output[0]] = 3


@expansion("MultiHeadAttention")
def _multi_head(w: Writer) -> None:
    """softmax(Q K^T / sqrt(d) + mask) V of each head; Q, K and V are three inputs, or packed into one or two."""
    _separate(w, [w.input(i) for i in range(8)], w.input(8) or w.input(9))


@expansion("DecoderMaskedMultiHeadAttention")
def _decoder_multi_head(w: Writer) -> None:
    """As MultiHeadAttention, with one query."""
    query, key, value, mask, bias_of_scores, past_key, past_value, length, beams, beam_table, bias = (w.input(i) for i in range(11))
    buffer = w.whole_number("past_present_share_buffer")
    _separate(w, [query, key, value, bias, mask, bias_of_scores, past_key, past_value], buffer or length or beams or beam_table)


def _separate(w: Writer, inputs: Sequence[str], shared: str | int) -> None:
    if shared:
        raise w.refuse("shares a buffer of its past and present, or searches with beams", NO_BUFFER)
    query, key, value, bias, mask, bias_of_scores, past_key, past_value = inputs
    q, k, v = _parts(w, query, key, value, bias)
    k, v = joined(w, past_key, k, w.output(1)), joined(w, past_value, v, w.output(2))
    before = w.size(past_key, 2) if past_key else ""
    together(w, attend(w, q, k, v, _masked(w, mask, bias_of_scores, q, k, before, w.output(3))), w.node.output[0])
    w.ranks[w.node.output[0]] = 3


def _parts(w: Writer, query: str, key: str, value: str, bias: str) -> list[str]:
    """Q, K, V [N, heads, length, width] of separate inputs, of [N, L, heads, 3, width], of K and V in one, or of K and V that are apart."""
    heads = w.whole_number("num_heads")
    if not key:
        return _biased(w, _unpacked(w, query, 3), bias, heads)
    if not value:
        return _biased(w, [heads_of(w, query, heads), *_unpacked(w, key, 2)], bias, heads)
    if w.rank(key) == 4:  # of another text, computed once: they have their bias
        return [heads_of(w, query, heads, _bias_parts(w, query, bias)[0] if bias else ""), key, value]
    biases = _bias_parts(w, query, bias) if bias else ["", "", ""]
    return [heads_of(w, x, heads, b) for x, b in zip((query, key, value), biases, strict=True)]


def _unpacked(w: Writer, x: str, count: int) -> list[str]:
    """The parts of [N, L, heads, count, width]."""
    if w.rank(x) != 5:
        raise w.refuse(f"packs its inputs into {w.rank(x)} axes", "Export it with queries, keys and values apart.")
    parts = w.several("Split", [x], count, axis=3, num_outputs=count)
    return [w.add("Transpose", w.add("Squeeze", part, w.ints([3])), perm=[0, 2, 1, 3]) for part in parts]


def _biased(w: Writer, parts: list[str], bias: str, heads: int) -> list[str]:
    """Parts that are heads already, each with its third of a bias."""
    if not bias:
        return parts
    thirds = w.several("Split", [bias], 3, axis=0, num_outputs=3)
    return [w.add("Add", part, w.add("Reshape", third, w.ints([1, heads, 1, -1]))) for part, third in zip(parts, thirds, strict=True)]


def _bias_parts(w: Writer, query: str, bias: str) -> list[str]:
    """The bias of Q and of K, as long as the last axis of the queries, and that of V."""
    width = w.size(query, -1)
    double = w.add("Add", width, width)
    return [w.piece(bias, 0, width, 0), w.piece(bias, width, double, 0), w.piece(bias, double, END, 0)]
