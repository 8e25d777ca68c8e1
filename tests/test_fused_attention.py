"""Attention as ONNX Runtime fuses it and as the standard has it: every form, against its own kernel."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsal.errors import ModelError
from tests.fused_models import Row, check_gradient, check_outputs, close, plain, row
from tests.oracle import run
from tests.small_models import draw

N, L, T, D = 2, 3, 5, 8
INT = np.int32


def ints(*values: object) -> np.ndarray:
    return np.array(values, INT)


MASKS = {
    "ends": ints(3, 2),
    "ends-begins": ints(3, 2, 1, 0),
    "packed": ints(3, 2, 0, 3, 5, 0, 3, 5),
    "keys": ints([1, 1, 0], [0, 1, 1]),
    "rows": ints([[1, 0, 1], [1, 1, 0], [0, 1, 1]], [[1, 1, 1], [1, 0, 1], [1, 0, 0]]),
}


def attention(
    mask: np.ndarray | None = None, past: int = 0, bias: np.ndarray | None = None, outputs: str = "y", **attributes: object
) -> Row:
    before = draw(2, N, 2, past, 4, seed=4) if past else None
    x, w, b = draw(N, L, D), draw(D, 24, seed=1, scale=0.4), draw(24, seed=2)
    given = {"x": x, "w": w, "b": b, "mask": mask, "past": before, "bias": bias}
    return row("Attention", outputs, "w b", given=given, num_heads=2, **attributes)


ATTENTION = {
    "plain": attention(),
    "causal": attention(unidirectional=1),
    "scale": attention(scale=0.3),
    **{f"mask-{name}": attention(mask) for name, mask in MASKS.items()},
    "mask-filter": attention(MASKS["keys"], mask_filter_value=-2.0),
    "mask-causal": attention(MASKS["keys"], unidirectional=1, mask_filter_value=-2.0),
    "past": attention(past=4, outputs="y present"),
    "past-causal-mask": attention(ints([1, 1, 0, 1, 1, 1, 1], [1] * 7), 4, outputs="y present", unidirectional=1),
    "present": attention(outputs="y present", unidirectional=1),
    "bias": attention(bias=draw(N, 2, L, L, seed=5)),
    "bias-one": attention(MASKS["keys"], bias=draw(1, 1, L, L, seed=5)),
    "wide": row(
        "Attention", "y", "w b", x=draw(N, L, D), w=draw(D, 28, seed=1), b=draw(28, seed=2), num_heads=2, qkv_hidden_sizes=[8, 8, 12]
    ),
}


def heads(mask: np.ndarray | None = None, outputs: str = "y", **more: object) -> Row:
    given = {"q": draw(N, L, D), "k": draw(N, T, D, seed=1), "v": draw(N, T, 12, seed=2), "b": None, "mask": mask}
    given |= {k: v for k, v in more.items() if isinstance(v, np.ndarray)}
    return row("MultiHeadAttention", outputs, given=given, num_heads=2, **{k: v for k, v in more.items() if k not in given})


PAST = {"bias": None, "past_k": draw(N, 2, 4, 4, seed=5), "past_v": draw(N, 2, 4, 4, seed=6)}
MULTI_HEAD = {
    "cross": heads(),
    "cross-bias": heads(b=draw(28, seed=3)),
    "cross-scale": heads(scale=0.7),
    "cross-causal": heads(unidirectional=1),
    "lengths": heads(ints(5, 3)),
    "keys": heads(ints([1, 1, 0, 1, 1], [1, 0, 1, 1, 0])),
    "rows": heads(np.tile(ints([1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [1, 0, 0, 0, 0]), (N, 1, 1))),
    "added": heads(None, bias=draw(1, 2, L, T, seed=4)),
    "added-keys": heads(ints([1, 1, 0, 1, 1], [1, 0, 1, 1, 0]), bias=draw(N, 1, L, T, seed=4), mask_filter_value=-3.0),
    "apart": row("MultiHeadAttention", q=draw(N, L, D), k=draw(N, 2, T, 4, seed=1), v=draw(N, 2, T, 4, seed=2), num_heads=2),
    "past": row(
        "MultiHeadAttention",
        "y pk pv",
        num_heads=2,
        given={"q": draw(N, L, D), "k": draw(N, L, D, seed=1), "v": draw(N, L, D, seed=2), "b": draw(24, seed=3), "mask": None, **PAST},
    ),
    "past-causal": row(
        "MultiHeadAttention",
        "y pk pv",
        num_heads=2,
        unidirectional=1,
        given={"q": draw(N, L, D), "k": draw(N, L, D, seed=1), "v": draw(N, L, D, seed=2), "b": None, "mask": None, **PAST},
    ),
    "present": row(
        "MultiHeadAttention", "y pk pv", q=draw(N, L, D), k=draw(N, L, D, seed=1), v=draw(N, L, D, seed=2), num_heads=2, unidirectional=1
    ),
    "scores": heads(None, "y . . s", bias=draw(1, 2, L, T, seed=4)),
    "scores-plain": heads(None, "y . . s"),
}


def decoder(outputs: str = "y", **inputs: np.ndarray | None) -> Row:
    given = dict.fromkeys(["q", "k", "v", "mask", "bias", "past_k", "past_v", "length", "beams", "table", "b"])
    return row("DecoderMaskedMultiHeadAttention", outputs, given=given | inputs, num_heads=2)


DECODER = {
    "cross-mask": decoder(
        q=draw(N, 1, D), k=draw(N, 2, T, 4, seed=1), v=draw(N, 2, T, 4, seed=2), mask=ints([1, 1, 0, 1, 1], [1, 0, 1, 1, 0])
    ),
    "cross": decoder(q=draw(N, 1, D), k=draw(N, 2, T, 4, seed=1), v=draw(N, 2, T, 4, seed=2)),
}


def grouped(
    length: int = L, past: int = 0, lengths: tuple[int, ...] = (), packed: bool = False, rotary: bool = False, **more: object
) -> Row:
    """Four heads of queries and two of keys, of width 16."""
    total = max(lengths, default=past + length)
    ends = np.array(lengths or [total] * N, INT) - 1
    q, k, v = (draw(len(ends), length, 16 * n, seed=i) for i, n in enumerate((4, 2, 2)))
    given: dict[str, np.ndarray | None] = {
        "q": np.concatenate([q, k, v], 2) if packed else q,
        "k": None if packed else k,
        "v": None if packed else v,
    }
    given |= {name: draw(len(ends), 2, past, 16, seed=7 + i) if past else None for i, name in enumerate(("past_k", "past_v"))}
    given |= {"ends": ends, "total": np.array(total, INT)}
    angles = draw(16, 8, seed=9)
    given |= {"cos": np.cos(angles), "sin": np.sin(angles)} if rotary else {"cos": None, "sin": None}
    given |= dict.fromkeys(("places", "bias", "sink")) | {k: v for k, v in more.items() if isinstance(v, np.ndarray)}
    attributes = {k: v for k, v in more.items() if k not in given}
    return row("GroupQueryAttention", "y pk pv", "cos sin", given=given, num_heads=4, kv_num_heads=2, do_rotary=int(rotary), **attributes)


GROUPED = {
    "prompt": grouped(),
    "prompt-ragged": grouped(3, 0, (3, 2), rotary=True),
    "prompt-ragged-unordered": grouped(3, 0, (3, 2), causal=0),
    "packed": grouped(packed=True),
    "rotary": grouped(rotary=True),
    "rotary-interleaved": grouped(rotary=True, rotary_interleaved=1),
    "rotary-packed": grouped(rotary=True, packed=True),
    "softcap": grouped(softcap=2.0),
    "scale": grouped(scale=0.2),
    "window": grouped(5, local_window_size=2),
    "smooth": grouped(smooth_softmax=1),
    "sink": grouped(sink=draw(4, seed=11)),
    "bias": grouped(bias=draw(1, 4, L, L, seed=12)),
    "bias-infinite-sink": grouped(bias=np.where(np.eye(L) > 0, 0.5, -np.inf).astype(np.float32).reshape(1, 1, L, L), smooth_softmax=1),
    "next": grouped(1, 4, rotary=True),
    "next-ragged": grouped(1, 4, (5, 3), rotary=True),
    "next-ragged-window": grouped(1, 4, (5, 3), rotary=True, local_window_size=2),
    "next-bias": grouped(1, 4, bias=draw(N, 1, 1, 5, seed=12)),
    "next-places": grouped(1, 4, rotary=True, places=np.array([[4], [2]], np.int64)),
    "places": grouped(3, rotary=True, places=np.array([[1, 2, 3], [1, 2, 3]], np.int64)),
    "several-next": grouped(2, 4, (6,), rotary=True),
    "unordered": grouped(causal=0),
}
"""One row for each form."""


def standard(shape: str = "3d", opset: int = 23, length: int = L, outputs: str = "y", groups: int = 2, **more: object) -> Row:
    """Four heads of queries and two (or four) of keys, of width 4 and values of width 6."""
    counts, widths, lengths = (4, groups, groups), (4, 4, 6), (length, T, T)
    size = zip(counts, lengths, widths, strict=True)
    arrays = [draw(N, s, n * d, seed=i) if shape == "3d" else draw(N, n, s, d, seed=i) for i, (n, s, d) in enumerate(size)]
    given = dict(zip("qkv", arrays, strict=True)) | dict.fromkeys(("mask", "past_k", "past_v"))
    given |= {"lengths": None} if opset > 23 else {}
    given |= {k: v for k, v in more.items() if isinstance(v, np.ndarray)}
    attributes = {k: v for k, v in more.items() if k not in given}
    attributes |= {"q_num_heads": 4, "kv_num_heads": groups} if shape == "3d" else {}
    return row("Attention", outputs, domain="", opset=opset, given=given, **attributes)


TRUTH = draw(N, 1, L, T, seed=20) > 0
STANDARD = {
    "3d": standard(),
    "4d": standard("4d"),
    "4d-even": standard("4d", groups=4),
    "4d-sizes": standard("4d", groups=4, known_sizes=True),
    "causal": standard(is_causal=1),
    "softcap-scale": standard(softcap=1.5, scale=0.4),
    "mask": standard(mask=draw(L, T, seed=8)),
    "mask-stored": standard(mask=draw(L, T, seed=8), weights="mask"),
    "mask-truth": standard("4d", mask=TRUTH),
    "mask-blind": standard("4d", mask=np.arange(N * L * T).reshape(N, 1, L, T) >= 2 * T, opset=24),
    "mask-infinite": standard(mask=np.where(TRUTH, 0.5, -np.inf).astype(np.float32)),
    "mask-causal": standard(mask=draw(L, T, seed=8), is_causal=1),
    "past": standard(outputs="y pk pv", past_k=draw(N, 2, 3, 4, seed=5), past_v=draw(N, 2, 3, 6, seed=6), is_causal=1),
    "mode-0": standard(outputs="y . . s", qk_matmul_output_mode=0, mask=draw(L, T, seed=8), softcap=2.0),
    "mode-1": standard(outputs="y . . s", qk_matmul_output_mode=1, mask=draw(L, T, seed=8), softcap=2.0),
    "mode-1-plain": standard(outputs="y . . s", qk_matmul_output_mode=1, mask=draw(L, T, seed=8)),
    "mode-2": standard(outputs="y . . s", qk_matmul_output_mode=2, mask=draw(L, T, seed=8)),
    "mode-3": standard(outputs="y . . s", qk_matmul_output_mode=3, mask=draw(L, T, seed=8)),
    "precision": standard(softmax_precision=1),
    "lengths": standard("4d", opset=24, lengths=np.array([5, 2], np.int64)),
}
ROWS = {
    f"{kind}-{name}": one
    for kind, table in (
        ("Attention", ATTENTION),
        ("MultiHead", MULTI_HEAD),
        ("Decoder", DECODER),
        ("Grouped", GROUPED),
        ("Standard", STANDARD),
    )
    for name, one in table.items()
}


@pytest.mark.parametrize("name", ROWS)
def test_a_form_returns_what_its_kernel_does(name: str):
    check_outputs(ROWS[name])


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_of_a_form_is_the_slope_of_its_kernel(name: str):
    check_gradient(ROWS[name])


def test_one_query_behind_a_past_is_attended_to_like_any():
    """ONNX Runtime's kernel on CPU runs the decoder's form only with a shared buffer: the same by MultiHeadAttention is the oracle."""
    inputs = {"q": draw(N, 1, D), "k": draw(N, 1, D, seed=1), "v": draw(N, 1, D, seed=2)}
    past = {"past_k": draw(N, 2, 4, 4, seed=3), "past_v": draw(N, 2, 4, 4, seed=4)}
    mask = ints([1, 0, 1, 1, 1], [0, 1, 1, 1, 1])
    one = decoder("y pk pv", **inputs, **past, mask=mask)
    same = row("MultiHeadAttention", "y pk pv", given={**inputs, "b": None, "mask": mask, "bias": None, **past}, num_heads=2)
    for name, value in run(same.model, same.feed).items():
        close(run(plain(one.model), one.feed)[name], value)


PACKED = {
    "three": lambda q, k, v: {"x": np.stack([q, k, v], 3)},
    "two": lambda q, k, v: {"x": q.reshape(N, L, D), "kv": np.stack([k, v], 3)},
}


@pytest.mark.parametrize("bias", [None, draw(3 * D, seed=5)], ids=["plain", "bias"])
@pytest.mark.parametrize("form", PACKED)
def test_packed_inputs_are_those_apart(form: str, bias: np.ndarray | None):
    """ONNX Runtime has no kernel on CPU for packed inputs: the same apart is the oracle."""
    parts = [draw(N, L, 2, 4, seed=i) for i in range(3)]
    inputs = PACKED[form](*parts)
    one = row("MultiHeadAttention", given={**inputs, **dict.fromkeys("kv"[len(inputs) - 1 :]), "b": bias}, num_heads=2)
    q, k, v = (part.reshape(N, L, D) for part in parts)
    same = row("MultiHeadAttention", q=q, k=k, v=v, b=bias, num_heads=2)
    close(run(plain(one.model), one.feed)["y"], run(same.model, same.feed)["y"])


def test_attention_without_a_bias_is_that_with_a_bias_of_zeros():
    """ONNX Runtime's kernel on CPU crashes without one, so it is never run so."""
    x, w = draw(N, L, D), draw(D, 24, seed=1)
    none = row("Attention", "y", "w", x=x, w=w, num_heads=2)
    same = row("Attention", "y", "w b", x=x, w=w, b=np.zeros(24, np.float32), num_heads=2)
    close(run(plain(none.model), none.feed)["y"], run(same.model, same.feed)["y"])


def test_a_mask_of_all_places_is_cut_to_the_keys():
    """[N, 1, M, M], of Megatron's GPT-2; ONNX Runtime knows it on CUDA only. The same rows as [N, L, T] are the oracle."""
    whole = (draw(N, 1, 9, 9, seed=3) > -0.5).astype(INT)
    one, same = (attention(mask, 4, outputs="y present") for mask in (whole, whole[:, 0, 4:7, :7].copy()))
    close(run(plain(one.model), one.feed)["y"], run(same.model, same.feed)["y"])


REFUSED = {
    "buffer": (attention(past=4, past_present_share_buffer=1), "shares a buffer of its past and present"),
    "rotary": (attention(do_rotary=1), "do_rotary"),
    "integers": (grouped(k_quant_type="PER_TENSOR"), "keeps its past in integers"),
    "window": (grouped(sliding_window_cache=1), "keeps a window of its past"),
    "beams": (decoder(q=draw(N, 1, D), past_k=draw(N, 2, 4, 4), past_v=draw(N, 2, 4, 4), length=ints(3)), "searches with beams"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name: str):
    one, words = REFUSED[name]
    with pytest.raises(ModelError, match=words) as caught:
        plain(one.model)
    assert f"node 'n' (com.microsoft.{one.model.graph.node[0].op_type})" in str(caught.value)
