"""Attention in which several heads of queries share one of keys: that of ONNX Runtime, and that of the standard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxsal.ops.contrib_attention import Weighing, attend, heads_of, joined, together
from onnxsal.ops.contrib_norm import normed
from onnxsal.ops.contrib_rotary import rows_of, turned
from onnxsal.ops.expansion import Writer, expansion


def repeated(w: Writer, x: str, q: str) -> str:
    """Keys or values [N, G, T, width], each repeated for the heads of queries that share it: [N, heads, T, width]."""
    samples, groups, length, width = (w.size(x, i) for i in range(4))
    times = w.add("Div", w.size(q, 1), groups)
    apart = w.add("Unsqueeze", x, w.ints([2]))
    wide = w.add("Expand", apart, w.add("Concat", samples, groups, times, length, width, axis=0))
    return w.add("Reshape", wide, w.add("Concat", samples, w.size(q, 1), length, width, axis=0))


# ----- ONNX Runtime's -----


@dataclass(frozen=True)
class _Lengths:
    """Of each text, [N]: how many keys there are before the new ones, and with those of them that are no padding; of all, [1]: how many new
    ones, and the largest number with them."""

    before: str
    filled: str
    new: str
    total: str

    @classmethod
    def of(cls, w: Writer, q: str) -> _Lengths:
        """Where the new keys are all there are, the first of a text stands at 0, whatever the text's own length is."""
        total, new = w.add("Reshape", w.whole(w.input(6)), w.ints([1])), w.size(q, 2)
        all_keys = w.add("Add", w.whole(w.input(5)), w.ints([1]))
        flat = w.add("Reshape", all_keys, w.ints([-1]))
        before = w.add("Where", w.add("Equal", total, new), w.ints([0]), w.add("Sub", flat, new))
        return cls(before, flat, new, total)


@expansion("GroupQueryAttention")
def _group_query(w: Writer) -> None:
    """softmax(Q K^T / sqrt(d)) V of each head, over the keys up to its own place; K and V of few heads, behind those of the past."""
    _refuse_group_query(w)
    q, k, v = _heads(w)
    if w.input(14):
        epsilon = w.number("qk_norm_epsilon", 1e-6)
        q, k = (normed(w, x, w.input(i), [-1], epsilon, "") for i, x in ((14, q), (15, k)))
    lengths = _Lengths.of(w, q)
    if w.whole_number("do_rotary"):
        positions = _positions(w, lengths)
        cos, sin = (rows_of(w, w.input(i), positions) for i in (7, 8))
        q, k = (turned(w, x, cos, sin, bool(w.whole_number("rotary_interleaved")), True) for x in (q, k))
    k, v = (_kept(w, w.input(3 + i), x, lengths, w.output(1 + i)) for i, x in enumerate((k, v)))
    scores = Weighing(w.number("scale"), w.number("softcap"), [w.input(10)] if w.input(10) else [], _seen(w, lengths), sink=_sink(w))
    if w.whole_number("kv_num_heads") != w.whole_number("num_heads"):
        k, v = repeated(w, k, q), repeated(w, v, q)
    together(w, attend(w, q, k, v, scores), w.node.output[0])
    w.ranks[w.node.output[0]] = 3


def _refuse_group_query(w: Writer) -> None:
    if any(w.text(side) not in ("", "NONE") for side in ("k_quant_type", "v_quant_type")):
        raise w.refuse("keeps its past in integers", "Export it with a past in floating point.")
    if w.whole_number("sliding_window_cache"):
        raise w.refuse("keeps a window of its past only", "Export it with a past of full length.")
    if w.output(3):
        raise w.refuse("also returns its scores", "Export the model without that output.")


def _heads(w: Writer) -> list[str]:
    """Q, K, V [N, heads or G, L, width] of three inputs or of one."""
    heads, groups = w.whole_number("num_heads"), w.whole_number("kv_num_heads")
    if w.input(1):
        return [heads_of(w, w.input(i), count) for i, count in enumerate((heads, groups, groups))]
    return w.several("Split", [heads_of(w, w.input(0), heads + 2 * groups), w.ints([heads, groups, groups])], 3, axis=1)


def _positions(w: Writer, lengths: _Lengths) -> str:
    """Of the new keys [N, L]: behind those before; where they are given, of one key its own, of several as they count up from the first."""
    places = w.places(lengths.new)
    if not w.input(9):
        return w.add("Add", w.add("Unsqueeze", lengths.before, w.ints([1])), places)
    first = w.piece(w.piece(w.input(9), 0, 1, 0), 0, 1, 1)
    return w.add("Where", w.add("Equal", lengths.new, w.ints([1])), w.input(9), w.add("Add", first, places))


def _kept(w: Writer, past: str, new: str, lengths: _Lengths, output: str) -> str:
    """Keys (or values) of all places [N, G, T, width]: each text's own from before, then its new ones; ``output`` has the past's length at
    least, and 0 behind them."""
    if not past:
        return w.add("Identity", new, output=output) if output else new
    both, length = w.add("Concat", past, new, axis=2), w.size(past, 2)
    columns = w.places(w.add("Max", lengths.total, length))
    before = w.add("Unsqueeze", lengths.before, w.ints([1]))
    shifted = w.add("Add", columns, w.add("Sub", length, before))
    filled = w.add("Less", columns, w.add("Add", before, lengths.new))
    at = w.add("Where", w.add("Less", columns, before), columns, w.add("Where", filled, shifted, w.ints([0])))
    at, filled = (w.add("Unsqueeze", x, w.ints([1, 3])) for x in (at, filled))
    shape = w.add("Concat", w.size(both, 0), w.size(both, 1), w.ints([1]), w.size(both, 3), axis=0)
    picked = w.add("GatherElements", both, w.add("Expand", at, shape), axis=2)
    present = w.add("Where", filled, picked, w.const(0.0), output=output)
    return w.piece(present, 0, lengths.total, 2)


def _seen(w: Writer, lengths: _Lengths) -> str:
    """[N, 1, L, T]: the keys that are no padding, up to the query's own place, or as many of them as the window holds."""
    columns, apart = w.places(lengths.total), w.ints([1, 2, 3])
    filled = w.add("Less", columns, w.add("Unsqueeze", lengths.filled, apart))
    if not w.whole_number("causal", 1):
        return filled
    own = w.add("Add", w.add("Unsqueeze", lengths.before, apart), w.add("Unsqueeze", w.places(lengths.new), w.ints([1])))
    seen, window = w.add("And", filled, w.add("LessOrEqual", columns, own)), w.whole_number("local_window_size", -1)
    return seen if window < 0 else w.add("And", seen, w.add("Greater", columns, w.add("Sub", own, w.ints([window]))))


def _sink(w: Writer) -> str:
    """One more score of each head, or 0."""
    if w.input(11):
        return w.add("Reshape", w.input(11), w.ints([1, -1, 1, 1]))
    return w.const(0.0) if w.whole_number("smooth_softmax") else ""


# ----- the standard's -----


@expansion("Attention", domain="")
def _standard_attention(w: Writer) -> None:
    """softmax(scale Q K^T + mask) V of each head, of [N, L, heads * width] or [N, heads, L, width]; K and V behind those of the past."""
    mask, past, lengths = w.input(3), [w.input(4), w.input(5)], w.input(6)
    flat, heads = w.rank(w.input(0)) == 3, [w.whole_number(name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    q, k, v = (heads_of(w, w.input(i), n) if flat else w.input(i) for i, n in enumerate(heads))
    k, v = (joined(w, before, new, w.output(1 + i)) for i, (before, new) in enumerate(zip(past, (k, v), strict=True)))
    seen, added = _standard_mask(w, mask, q, k)
    limits = [x for x in (seen, _order(w, q, k, past[0], lengths), _filled(w, k, lengths)) if x]
    while len(limits) > 1:
        limits = [w.add("And", limits[0], limits[1]), *limits[2:]]
    written = dict(zip(("raw", "capped", "complete", "probabilities"), [""] * 4, strict=True))
    written[list(written)[_mode(w)]] = w.output(3)
    counts = heads[:2] if flat else [w.sizes.get((w.input(i), 1), -1 - i) for i in (0, 1)]
    if counts[0] != counts[1]:
        k, v = repeated(w, k, q), repeated(w, v, q)
    scores = Weighing(
        w.number("scale"),
        w.number("softcap"),
        added,
        "".join(limits),
        blind=bool(seen or lengths),
        precision=w.whole_number("softmax_precision"),
        **written,
    )
    out = attend(w, q, k, v, scores)
    if flat:
        together(w, out, w.node.output[0])
    else:
        w.add("Identity", out, output=w.node.output[0])
    w.ranks[w.node.output[0]] = w.rank(w.input(0))


def _mode(w: Writer) -> int:
    """Which scores are an output; without a softcap those before and after it are the same."""
    mode = w.whole_number("qk_matmul_output_mode")
    return 0 if mode == 1 and not w.number("softcap") else mode


def _standard_mask(w: Writer, mask: str, q: str, k: str) -> tuple[str, list[str]]:
    """What is seen, and what is added to the scores, by a mask [..., L, T or less]: true where seen, or added; -inf is not seen."""
    if not mask:
        return "", []
    truth, stored = w.dtype(mask) == TensorProto.BOOL, w.array(3)
    if w.opset >= 24:
        mask = _widened(w, mask, k, truth)
    if truth:
        return mask, []
    if stored is not None and w.opset < 24 and np.isfinite(stored).all():
        return "", [mask]
    hidden = w.add("And", w.add("IsInf", w.add("Cast", mask, to=TensorProto.FLOAT)), w.add("Less", mask, w.const(0.0, mask)))
    return w.add("Not", hidden), [w.add("Where", hidden, w.const(0.0, mask), mask)]


def _widened(w: Writer, mask: str, k: str, truth: bool) -> str:
    """A mask with as many columns as there are keys: those beyond it are not seen."""
    width = w.add("Sub", w.size(k, 2), w.size(mask, -1))
    pads = w.add("Concat", w.ints([0]), width, axis=0)
    fill = w.add("Cast", w.const(0.0), to=TensorProto.BOOL) if truth else w.const(float("-inf"), mask)
    return w.add("Pad", mask, pads, fill, w.ints([-1]))


def _order(w: Writer, q: str, k: str, past: str, lengths: str) -> str:
    """Which keys are at or before each query, and within its window: [L, T], or [N, 1, L, T] where the texts have lengths."""
    window = [w.whole_number(f"{side}_window_size", -1) for side in ("left", "right")]
    if w.whole_number("is_causal"):
        window[1] = 0 if window[1] < 0 else min(window[1], 0)
    if max(window) < 0:
        return ""
    own = w.add("Unsqueeze", w.places(w.size(q, 2)), w.ints([1]))
    if past:
        own = w.add("Add", own, w.size(past, 2))
    elif lengths:
        own = w.add("Add", own, w.add("Unsqueeze", w.add("Sub", lengths, w.size(q, 2)), w.ints([1, 2, 3])))
    columns, seen = w.places(w.size(k, 2)), []
    if window[0] >= 0:
        seen.append(w.add("GreaterOrEqual", columns, w.add("Sub", own, w.ints([window[0]]))))
    if window[1] >= 0:
        seen.append(w.add("LessOrEqual", columns, w.add("Add", own, w.ints([window[1]]))))
    return w.add("And", *seen) if len(seen) == 2 else seen[0]


def _filled(w: Writer, k: str, lengths: str) -> str:
    """[N, 1, 1, T]: which keys the texts have."""
    if not lengths:
        return ""
    return w.add("Less", w.places(w.size(k, 2)), w.add("Unsqueeze", lengths, w.ints([1, 2, 3])))
