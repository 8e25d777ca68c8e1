"""Normalisations, rotary embeddings, products, streams and rearrangements that ONNX Runtime fuses or adds: each against its own kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnxruntime.capi import _pybind_state

from onnxsal.errors import ModelError
from onnxsal.ops.expansion import EXPANSIONS, MICROSOFT, UNSAID
from onnxsal.ops.registry import NOT_DIFFERENTIABLE, NOT_YET, REGISTRY
from tests.fused_models import Row, check_gradient, check_outputs, close, plain, row
from tests.oracle import run
from tests.small_models import draw

N, L, D = 2, 3, 8


def rotary(x: np.ndarray, places: np.ndarray, op_type: str = "RotaryEmbedding", width: int = 4, **attributes: object) -> Row:
    angles = draw(12, width // 2, seed=3)
    return row(op_type, "y", "cos sin", x=x, places=places, cos=np.cos(angles), sin=np.sin(angles), **attributes)


def standard_rotary(x: np.ndarray, places: np.ndarray | None, width: int = 4, known_sizes: bool = False, **attributes: object) -> Row:
    rows = (12,) if places is not None else (N, L)
    angles = draw(*rows, width // 2, seed=3)
    given = {"x": x, "cos": np.cos(angles), "sin": np.sin(angles), "places": places}
    return row("RotaryEmbedding", "y", domain="", opset=23, given=given, known_sizes=known_sizes, attributes=attributes)


FLAT, HEADS, PLACES = draw(N, L, D), draw(N, 2, L, 4), np.array([[3, 4, 5], [0, 1, 7]])
SIDE = {"x": draw(N, L, D), "skip": draw(N, L, D, seed=1), "gamma": draw(D, seed=2)}
ROTARY = {
    "RotaryEmbedding-flat": rotary(FLAT, PLACES),
    "RotaryEmbedding-heads": rotary(HEADS, PLACES),
    "RotaryEmbedding-offset": rotary(FLAT, np.array([2])),
    "RotaryEmbedding-offset-heads": rotary(HEADS, np.array([2]), interleaved=1),
    "RotaryEmbedding-interleaved": rotary(FLAT, PLACES, interleaved=1),
    "RotaryEmbedding-partial": rotary(FLAT, PLACES, num_heads=1, rotary_embedding_dim=4),
    "RotaryEmbedding-partial-interleaved": rotary(draw(N, 1, L, D), PLACES, num_heads=1, rotary_embedding_dim=4, interleaved=1),
    "MRotaryEmbedding-sections": rotary(
        draw(N, L, 24), np.stack([PLACES, PLACES[::-1], PLACES + 1]), "MRotaryEmbedding", 12, mrope_section=[2, 2, 2], num_heads=2
    ),
    "MRotaryEmbedding-turns": rotary(
        draw(N, 2, L, 12), np.stack([PLACES, PLACES[::-1], PLACES + 1]), "MRotaryEmbedding", 12, mrope_section=[3, 2, 1], mrope_layout=1
    ),
    "standard-flat": standard_rotary(FLAT, PLACES, num_heads=2),
    "standard-heads": standard_rotary(HEADS, PLACES),
    "standard-no-places": standard_rotary(FLAT, None, num_heads=2, interleaved=1),
    "standard-partial": standard_rotary(HEADS, PLACES, 2, rotary_embedding_dim=2),
    "standard-partial-interleaved": standard_rotary(FLAT, None, 2, num_heads=2, rotary_embedding_dim=2, interleaved=1),
    "standard-sizes": standard_rotary(FLAT, PLACES, num_heads=2, known_sizes=True),
}
NORMS = {
    "SkipLayerNormalization-sum": row("SkipLayerNormalization", "y . . s", given=SIDE, beta=draw(D, seed=3), bias=draw(D, seed=4)),
    "SkipLayerNormalization-row": row("SkipLayerNormalization", given=SIDE | {"skip": draw(L, D, seed=1)}, epsilon=1e-3),
    "SkipSimplifiedLayerNormalization": row("SkipSimplifiedLayerNormalization", given=SIDE),
    "SkipSimplifiedLayerNormalization-sum": row(
        "SkipSimplifiedLayerNormalization", "y . . s", given=SIDE, bias=draw(D, seed=4), epsilon=1e-3
    ),
    "SimplifiedLayerNormalization": row("SimplifiedLayerNormalization", domain="", x=draw(N, L, D), scale=draw(D, seed=1), epsilon=1e-3),
    "SimplifiedLayerNormalization-axis": row("SimplifiedLayerNormalization", domain="", x=draw(N, L, D), scale=draw(L, D, seed=1), axis=1),
    "SimplifiedLayerNormalization-negative": row(
        "SimplifiedLayerNormalization", domain="", x=draw(N, L, D), scale=draw(L, D, seed=1), axis=-2
    ),
    "SimplifiedLayerNormalization-root": row("SimplifiedLayerNormalization", "y s", domain="", x=draw(N, L, D), scale=draw(D, seed=1)),
    "SimplifiedLayerNormalization-old": row("SimplifiedLayerNormalization", domain="", opset=13, x=draw(N, L, D), scale=draw(D, seed=1)),
    "BranchwiseRMSNorm": row("BranchwiseRMSNorm", x=draw(N, 3, 4), scale=draw(4, seed=1)),
    "BranchwiseRMSNorm-flat": row("BranchwiseRMSNorm", x=draw(N, 12), scale=draw(12, seed=1), num_branches=3),
    "GatedRMSNorm": row("GatedRMSNorm", x=draw(N, L, D), scale=draw(4, seed=1), gate=draw(N, L, D, seed=2)),
    "GatedRMSNorm-sigmoid": row("GatedRMSNorm", x=draw(N, L, D), scale=draw(8, seed=1), gate=draw(N, L, D, seed=2), activation="sigmoid"),
    "EngramGate": row(
        "EngramGate",
        "y s",
        given={
            "k": draw(N, L, 2, 8),
            "q": draw(N, L, 2, 8, seed=1),
            "v": draw(N, L, 8, seed=2),
            "ks": draw(2, 8, seed=3),
            "qs": draw(2, 8, seed=4),
            "last": draw(2, 8, seed=5),
        },
    ),
}
IDS = np.array([[1, 4, 0], [2, 3, 3]], np.int32)


def embedding(outputs: str = "y count", **inputs: np.ndarray | None) -> Row:
    order = dict.fromkeys(("ids", "kinds", "word", "place", "kind", "gamma", "beta", "kept", "places"))
    tables = {"ids": IDS, "word": draw(5, 4, seed=1), "place": draw(6, 4, seed=2), "gamma": draw(4, seed=3), "beta": draw(4, seed=4)}
    return row("EmbedLayerNormalization", outputs, given=order | tables | inputs, known_sizes=True)


KINDS = {"kinds": np.array([[0, 1, 1], [0, 0, 1]], np.int32), "kind": draw(2, 4, seed=5)}
EMBEDDINGS = {
    "EmbedLayerNormalization-two": embedding(),
    "EmbedLayerNormalization-kinds": embedding(**KINDS),
    "EmbedLayerNormalization-places": embedding(places=np.array([[0, 2, 1], [5, 3, 0]], np.int32)),
    "EmbedLayerNormalization-row": embedding(places=np.array([[3, 2, 1]], np.int32)),
    "EmbedLayerNormalization-sum": embedding("y count s", **KINDS, kept=np.array([[1, 1, 0], [1, 1, 1]], np.int32)),
}
A, B = draw(2, 3, 4, 5), draw(2, 3, 5, 6, seed=1)
PRODUCTS = {
    "FusedMatMul-batch-left": row("FusedMatMul", a=np.moveaxis(A, 2, 0).copy(), b=B, transBatchA=1, alpha=0.5),
    "FusedMatMul-batch-both": row(
        "FusedMatMul", a=np.moveaxis(A, 2, 0).copy(), b=np.moveaxis(B, 2, 0).copy(), transBatchA=1, transBatchB=1
    ),
    "FusedMatMul-batch-swap": row("FusedMatMul", a=np.moveaxis(A, 3, 0).copy(), b=B, transBatchA=1, transA=1),
    "TransposeMatMul": row("TransposeMatMul", a=draw(3, 4), b=draw(5, 4, seed=1), transB=1),
    "ConvTransposeWithDynamicPads": row(
        "ConvTransposeWithDynamicPads",
        weights="w pads",
        x=draw(1, 2, 5, 5),
        w=draw(2, 3, 3, 3, seed=1),
        pads=np.array([1, 1, 1, 1]),
        strides=[2, 2],
    ),
    "HyperConnectionPreMix": row("HyperConnectionPreMix", x=draw(N, L, 2, 4), g=draw(N, L, 2, seed=1), reduction_scale=0.5),
    "HyperConnectionPreMix-flat": row("HyperConnectionPreMix", x=draw(N, L, 8), g=draw(N, L, 2, seed=1), num_branches=2),
    "HyperConnectionPreMix-wide": row("HyperConnectionPreMix", x=draw(N, L, 8), g=draw(N, L, 2, 4, seed=1), num_branches=2),
    "HyperConnectionPostMix": row(
        "HyperConnectionPostMix", x=draw(N, L, 2, 4), b=draw(N, L, 4, seed=1), g=draw(N, L, 2, seed=2), m=draw(N, L, 2, 2, seed=3)
    ),
    "HyperConnectionPostMix-flat": row(
        "HyperConnectionPostMix", x=draw(N, L, 8), b=draw(N, L, 4, seed=1), g=draw(N, L, 2, 1, seed=2), num_branches=2
    ),
    "GatedAdd": row("GatedAdd", x=draw(N, L, D), z=draw(N, L, D, seed=1), gate=draw(N, L, 1, seed=2)),
    "ScaledSiLU": row("ScaledSiLU", x=draw(N, D), alpha=0.7),
    "LinearAttentionGate": row(
        "LinearAttentionGate", "y s", a=draw(N, L, 4), d=draw(4, seed=1), e=draw(4, seed=2), b=draw(N, L, 4, seed=3)
    ),
    "CausalConvWithState": row(
        "CausalConvWithState",
        "y s",
        "w",
        given={"x": draw(N, 4, 6), "w": draw(4, 1, 3, seed=1), "b": draw(4, seed=2), "past": draw(N, 4, 2, seed=3)},
        activation="silu",
    ),
    "CausalConvWithState-dilated": row(
        "CausalConvWithState", "y s", "w", given={"x": draw(N, 4, 6), "w": draw(4, 1, 3, seed=1)}, dilation=2
    ),
}
ENDS = {
    **{kind: {} for kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign")},
    **{kind: {"activation_alpha": 0.3} for kind in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu")},
    **{kind: {"activation_alpha": 0.3, "activation_beta": 0.7} for kind in ("HardSigmoid", "ScaledTanh", "ParametricSoftplus")},
    "Selu": {"activation_alpha": 1.5, "activation_gamma": 1.1},
}
GEMMS = {f"FusedGemm-{k}": row("FusedGemm", x=draw(3, 4), w=draw(4, 5, seed=1), activation=k, attributes=a) for k, a in ENDS.items()}


def experts(fusion: int = 1, **attributes: object) -> Row:
    """Three experts of width 4 over five tokens."""
    given = {"x": draw(5, 8), "router": draw(5, 3, seed=1), "w1": draw(3, 4 * fusion, 8, seed=2), "b1": draw(3, 4 * fusion, seed=3)}
    return row("MoE", given=given | {"w2": draw(3, 8, 4, seed=4), "b2": draw(3, 8, seed=5)}, **attributes)


REGIONS = np.array([[0.1, 0.2, 0.8, 0.7], [-0.2, 0.3, 0.6, 1.3]], np.float32)
EXPERTS = {
    **{f"MoE-{kind}": experts(k=2, activation_type=kind) for kind in ("relu", "gelu", "silu", "identity")},
    "MoE-one": experts(k=1),
    "MoE-normalised": experts(k=2, normalize_routing_weights=1),
    "MoE-swiglu": experts(2, k=2, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.7, activation_beta=1.0, swiglu_limit=1.5),
    "MoE-swiglu-smooth": experts(2, k=2, activation_type="swiglu", swiglu_fusion=1),
    "CropAndResize-stored": row(
        "CropAndResize",
        weights="r of size",
        x=draw(2, 3, 6, 7),
        r=REGIONS,
        of=np.array([1, 0], np.int32),
        size=np.array([1, 3], np.int32),
    ),
    "CropAndResize": row(
        "CropAndResize",
        weights="of size",
        x=draw(2, 3, 6, 7),
        r=REGIONS,
        of=np.array([1, 0], np.int32),
        size=np.array([4, 3], np.int32),
        extrapolation_value=0.3,
    ),
}
MATRIX = draw(2, 3, 3) + 3 * np.eye(3, dtype=np.float32)
FORMS = {
    "ExpandDims": row("ExpandDims", weights="axis", x=draw(N, D), axis=np.array(1, np.int32)),
    "Pad": row("Pad", weights="pads", x=draw(2, 3), pads=np.array([[0, 1, 2, 0]]), value=np.array([0.5], np.float32)),
    "Pad-reflect": row("Pad", weights="pads", x=draw(3, 4), pads=np.array([1, 1, 0, 2]), mode="reflect"),
    "GatherND": row("GatherND", x=draw(3, 4), at=np.array([[1], [2]], np.int32)),
    "GridSample": row("GridSample", x=draw(1, 2, 4, 4), grid=draw(1, 3, 3, 2, seed=1, scale=0.5), mode="bilinear", padding_mode="border"),
    "Trilu": row("Trilu", weights="k", x=draw(3, 4), k=np.array(1), upper=0),
    "Range": row("Range", weights="a b c", a=np.array([1.0], np.float32), b=np.array([4.0], np.float32), c=np.array(0.5, np.float32)),
    "UnfoldTensor": row("UnfoldTensor", x=draw(2, 7, 3), dim=1, size=3, step=2),
    "CDist": row("CDist", a=draw(3, 4), b=draw(2, 4, seed=1), metric="euclidean"),
    "CDist-squared": row("CDist", a=draw(3, 4), b=draw(2, 4, seed=1), metric="sqeuclidean"),
    "Inverse": row("Inverse", x=MATRIX, known_sizes=True),
    "Inverse-two": row("Inverse", x=draw(2, 2) + 2 * np.eye(2, dtype=np.float32), known_sizes=True),
    "Inverse-one": row("Inverse", x=draw(4, 1, 1) + 3, known_sizes=True),
    "SampleOp": row("SampleOp", x=draw(2, 3)),
    "Affine": row("Affine", domain="", opset=9, x=draw(2, 3), alpha=0.5, beta=1.5),
    "ScaledTanh": row("ScaledTanh", domain="", opset=9, x=draw(2, 3), alpha=0.5, beta=1.5),
    "ParametricSoftplus": row("ParametricSoftplus", domain="", opset=9, x=draw(2, 3), alpha=0.5, beta=1.5),
    "Scale": row("Scale", domain="", opset=9, x=draw(2, 3), scale=0.3),
    "ImageScaler": row("ImageScaler", domain="", opset=9, x=draw(1, 3, 2, 2), scale=0.3, bias=[0.1, 0.2, 0.3]),
    "Crop": row("Crop", domain="", opset=9, x=draw(1, 2, 6, 7), border=[1, 2, 1, 0]),
    "DynamicSlice": row(
        "DynamicSlice", weights="b e a", domain="", opset=9, x=draw(4, 5), b=np.array([1]), e=np.array([4]), a=np.array([1])
    ),
    "Crop-size": row("Crop", domain="", opset=9, x=draw(1, 2, 6, 7), border=[1, 2, 0, 0], attributes={"scale": [2, 3]}),
}
ROWS = ROTARY | NORMS | EMBEDDINGS | PRODUCTS | GEMMS | EXPERTS | FORMS
FLAT_ONES = {"Range", "MoE-swiglu", "CropAndResize"}
"""Nothing in the first is differentiated; the others have kinks that are as near as the steps of finite differences."""


@pytest.mark.parametrize("name", ROWS)
def test_a_form_returns_what_its_kernel_does(name: str):
    check_outputs(ROWS[name])


@pytest.mark.parametrize("name", sorted(ROWS.keys() - FLAT_ONES))
def test_the_gradient_of_a_form_is_the_slope_of_its_kernel(name: str):
    check_gradient(ROWS[name])


# ----- what ONNX Runtime has no kernel for on CPU: the formulas of its documentation are the oracle -----

Oracle = Callable[..., np.ndarray | tuple[np.ndarray, ...]]


def erf_gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def group_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int = 2, last: bool = True, swish: bool = True) -> np.ndarray:
    first = np.moveaxis(x, 3, 1) if last else x
    apart = first.reshape(len(x), groups, -1).astype(np.float64)
    even = ((apart - apart.mean(2, keepdims=True)) / np.sqrt(apart.var(2, keepdims=True) + 1e-5)).reshape(first.shape)
    y = even * gamma.reshape(1, -1, 1, 1) + beta.reshape(1, -1, 1, 1)
    y = y / (1 + np.exp(-y)) if swish else y
    return np.moveaxis(y, 1, 3) if last else y


def skip_group_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, skip: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    total = x + (skip if skip.ndim == 4 else skip[:, None, None]) + bias
    return group_norm(total, gamma, beta), total


def complex_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product = (a[..., 0] + 1j * a[..., 1]) * (b[..., 0] + 1j * b[..., 1])
    return np.stack([product.real, product.imag], -1)


def conv_last(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:3], axis=(1, 2))
    return np.einsum("nhwckl,mklc->nhwm", windows, w) + b


def t5_bias(table: np.ndarray, rows: np.ndarray, columns: np.ndarray, both: bool, farthest: int) -> np.ndarray:
    """As T5's own code has it, in torch."""
    import torch

    count = len(table)
    ahead = torch.arange(int(columns))[None] - torch.arange(int(rows))[:, None]
    at = torch.zeros_like(ahead)
    if both:
        count //= 2
        at, distance = at + (ahead > 0) * count, ahead.abs()
    else:
        distance = -torch.clamp(ahead, max=0)
    own = count // 2
    far = own + (torch.log(distance.float() / own) / np.log(farthest / own) * (count - own)).to(torch.long)
    at = at + torch.where(distance < own, distance, torch.clamp(far, max=count - 1))
    return table.reshape(-1, len(table))[:, at.numpy()][None]


def gated_bias(query: np.ndarray, bias: np.ndarray, by_distance: np.ndarray, w: np.ndarray, b: np.ndarray, a: np.ndarray) -> np.ndarray:
    q = (query + bias).reshape(N, L, 2, 4).transpose(0, 2, 1, 3)
    gates = 1 / (1 + np.exp(-(q @ w + b).reshape(N, 2, L, 2, -1).sum(-1)))
    return (gates[..., :1] * (gates[..., 1:] * a - 1) + 2) * by_distance


def softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    e = np.exp(x - x.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


PICTURE = {"x": draw(2, 3, 3, 4), "gamma": draw(4, seed=1), "beta": draw(4, seed=2)}
DRAWN = {
    "GroupNorm": (row("GroupNorm", given=PICTURE, groups=2, activation=1), group_norm),
    "GroupNorm-first": (
        row("GroupNorm", given=PICTURE | {"x": draw(2, 4, 3, 3)}, groups=2, activation=0, channels_last=0),
        lambda *a: group_norm(*a, last=False, swish=False),
    ),
    "SkipGroupNorm": (
        row("SkipGroupNorm", "y s", given=PICTURE, skip=draw(2, 3, 3, 4, seed=3), bias=draw(4, seed=4), groups=2, activation=1),
        skip_group_norm,
    ),
    "SkipGroupNorm-flat": (
        row("SkipGroupNorm", "y s", given=PICTURE, skip=draw(2, 4, seed=3), bias=draw(4, seed=4), groups=2, activation=1),
        skip_group_norm,
    ),
    "BiasSplitGelu": (row("BiasSplitGelu", x=draw(N, L, D), b=draw(D, seed=1)), lambda x, b: (x + b)[..., :4] * erf_gelu((x + b)[..., 4:])),
    "BiasAdd": (row("BiasAdd", x=draw(N, L, D), b=draw(D, seed=1), s=draw(N, L, D, seed=2)), lambda x, b, s: x + b + s),
    "BiasDropout": (row("BiasDropout", x=draw(N, L, D), b=draw(D, seed=1), s=draw(N, L, D, seed=2)), lambda x, b, s: x + b + s),
    "BiasSoftmax": (
        row("BiasSoftmax", x=draw(N, L, D), b=draw(1, 1, D, seed=1), axis=2, is_inner_broadcast=1),
        lambda x, b: softmax(x + b, (2,)),
    ),
    "BiasSoftmax-all": (
        row("BiasSoftmax", x=draw(N, L, D), b=draw(N, 1, D, seed=1), axis=1, is_inner_broadcast=1),
        lambda x, b: softmax(x + b, (1, 2)),
    ),
    "ComplexMul": (row("ComplexMul", a=draw(3, 4, 2), b=draw(4, 2, seed=1)), complex_product),
    "ComplexMulConj": (
        row("ComplexMulConj", a=draw(3, 4, 2), b=draw(4, 2, seed=1)),
        lambda a, b: complex_product(a, b * np.float32([1, -1])),
    ),
    "NhwcConv": (row("NhwcConv", x=draw(2, 5, 5, 3), w=draw(4, 3, 3, 3, seed=1), b=draw(4, seed=2), kernel_shape=[3, 3]), conv_last),
    "GemmFastGelu": (
        row("GemmFastGelu", x=draw(N, D), w=draw(D, 3, seed=1), b=draw(3, seed=2)),
        lambda x, w, b: (lambda u: u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))) / 2)(x @ w + b),
    ),
    "FusedMatMulActivation": (
        row("FusedMatMulActivation", a=draw(3, 4), b=draw(5, 4, seed=1), transB=1, alpha=0.5, activation="LeakyRelu", activation_alpha=0.2),
        lambda a, b: (lambda u: np.where(u > 0, u, 0.2 * u))(0.5 * a @ b.T),
    ),
    "RelativePositionBias": (
        row("RelativePositionBias", weights="t", t=draw(8, 2), rows=np.array(9), columns=np.array(40), max_distance=32, is_bidirectional=1),
        lambda rows, columns: t5_bias(draw(8, 2), rows, columns, True, 32),
    ),
    "RelativePositionBias-before": (
        row("RelativePositionBias", weights="t", t=draw(8, 2), rows=np.array(40), columns=np.array(40), max_distance=20),
        lambda rows, columns: t5_bias(draw(8, 2), rows, columns, False, 20),
    ),
    "GatedRelativePositionBias": (
        row(
            "GatedRelativePositionBias",
            num_heads=2,
            q=draw(N, L, D),
            qb=draw(D, seed=1),
            p=draw(1, 2, L, L, seed=2),
            w=draw(4, 6, seed=3),
            b=draw(6, seed=4),
            a=draw(1, 2, 1, 1, seed=5),
        ),
        gated_bias,
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_form_without_a_kernel_returns_what_is_documented(name: str):
    one, oracle = DRAWN[name]
    expected = oracle(*one.feed.values())
    got = run(plain(one.model), one.feed)
    for output, value in zip(one.outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
        close(got[output], value.astype(np.float32))


@pytest.mark.parametrize(("size", "words"), [(4, "4 rows"), (3, "an unknown number of rows")], ids=["four", "unknown"])
def test_large_inverses_are_refused(size: int, words: str):
    with pytest.raises(ModelError, match=words):
        plain(row("Inverse", x=draw(2, size, size), known_sizes=size > 3).model)


@pytest.mark.parametrize("kind", sorted(k for k, given in ENDS.items() if given))
def test_an_activation_without_its_attributes_is_refused(kind: str):
    """As ONNX Runtime refuses it: fused nodes have no defaults."""
    with pytest.raises(ModelError, match=f"ends in activation '{kind}' without its alpha"):
        plain(row("FusedGemm", x=draw(3, 4), w=draw(4, 5), activation=kind).model)


def test_gates_in_halves_are_gates_in_turn():
    """ONNX Runtime knows a gate before its partner on CPU, and all gates before all partners elsewhere."""
    halves = experts(2, k=2, activation_type="swiglu", swiglu_fusion=2)
    turn = {name: halves.feed[name][:, [0, 4, 1, 5, 2, 6, 3, 7]] for name in ("w1", "b1")}
    close(run(plain(halves.model), halves.feed)["y"], run(ROWS["MoE-swiglu-smooth"].model, halves.feed | turn)["y"])


# ----- every operator of ONNX Runtime -----

QUANTISED = ("Quant", "QLinear", "QOrdered", "QAttention", "QEmbed", "QGemm", "QMoE", "MatMulN", "MatMulB", "MatMulF", "MatMulI")
QUANTISED += ("NhwcMaxPool", "MulInteger", "ReduceSumInteger", "BFP", "WithOrder", "GemmFloat8", "DequantizeLinear")
"""Parts of names: operators of integers are tested by themselves."""


def test_every_operator_is_known_or_refused_with_advice():
    """Of each operator that ONNX Runtime has, it is said what becomes of it."""
    every = {s.name for s in _pybind_state.get_all_operator_schema() if s.domain == MICROSOFT}
    said = {name for table in (EXPANSIONS, REGISTRY, NOT_DIFFERENTIABLE, NOT_YET) for domain, name in table if domain == MICROSOFT}
    assert {name for name in every - said if not any(part in name for part in QUANTISED)} == set()
    assert said - every == set(UNSAID)


def test_every_expansion_is_tested():
    from tests.test_fused import ONE_BY_ONE
    from tests.test_fused_attention import ROWS as ATTENTION

    models = [m.graph.node[0] for m in ONE_BY_ONE.values()]
    models += [r.model.graph.node[0] for r in (*ROWS.values(), *ATTENTION.values(), *(r for r, _ in DRAWN.values()))]
    tested = {(MICROSOFT if n.op_type in UNSAID else n.domain, n.op_type) for n in models}
    ours = {key for key, written in EXPANSIONS.items() if written.__module__.startswith("onnxsal.ops.contrib")}
    assert ours - tested == set()
