"""Fused operators in half precision and in float64: the types stay, and the numbers are those of the kernel or of float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxsal
from tests import test_fused_attention, test_fused_forms
from tests.fused_models import Row, close, plain
from tests.oracle import run

EVERY = test_fused_attention.ROWS | test_fused_forms.ROWS | {name: one for name, (one, _) in test_fused_forms.DRAWN.items()}


def cast(one: Row, dtype: type) -> Row:
    """The row with its floats in another type."""
    model, code = onnx.ModelProto.FromString(one.model.SerializeToString()), onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = code
    return replace(one, model=model, feed={n: a.astype(dtype) if a.dtype == np.float32 else a for n, a in one.feed.items()})


HALVES = [
    *("Attention-mask-causal", "Attention-past-causal-mask", "MultiHead-cross-bias", "MultiHead-added-keys", "Grouped-rotary-interleaved"),
    *("Grouped-next-ragged-window", "Grouped-smooth", "Standard-softcap-scale", "Standard-mask-infinite", "Standard-precision"),
    *(
        "SkipSimplifiedLayerNormalization-sum",
        "SimplifiedLayerNormalization",
        "RotaryEmbedding-interleaved",
        "standard-flat",
        "GatedRMSNorm",
    ),
    *("EngramGate", "BranchwiseRMSNorm-flat", "GroupNorm", "SkipGroupNorm-flat", "NhwcConv", "BiasSplitGelu", "FusedMatMulActivation"),
]


@pytest.mark.parametrize("name", HALVES)
def test_half_precision_stays_half(name: str):
    """The norms are computed in float32, as the kernels do, and nothing overflows where a mask is added."""
    one = EVERY[name]
    half = cast(one, np.float16)
    got, expected = run(plain(half.model), half.feed), run(plain(one.model), one.feed)
    for output in one.outputs:
        assert got[output].dtype == np.float16
        close(got[output].astype(np.float32), expected[output], 2e-2)


def test_a_norm_of_large_halves_does_not_overflow():
    """Squares of 1000 are beyond float16. (ONNX Runtime computes in float32 on CPU anyway; ONNX's evaluator does not.)"""
    half = cast(EVERY["SimplifiedLayerNormalization"], np.float16)
    feed = half.feed | {"x": half.feed["x"] * np.float16(1000)}
    (y,) = ReferenceEvaluator(plain(half.model)).run(["y"], feed)
    assert y.dtype == np.float16
    assert np.isfinite(y).all()
    assert np.abs(y).max() > 0.5


DOUBLES = [
    *("FusedMatMul-batch-both", "CDist", "Inverse", "Trilu", "SimplifiedLayerNormalization-axis"),
]


@pytest.mark.parametrize("name", DOUBLES)
def test_float64_is_exact(name: str):
    """Outputs and gradients are those of the kernel in float64: finite differences of it, to nine digits."""
    one = cast(EVERY[name], np.float64)
    model = plain(one.model)
    before = run(one.model, one.feed)
    for output in one.outputs:
        close(run(model, one.feed)[output], before[output], 1e-12)
    rng = np.random.default_rng(1)
    signal, way = rng.standard_normal(before["y"].shape), {n: rng.standard_normal(one.feed[n].shape) for n in one.floats}
    got = run(onnxsal.vjp(model, one.floats, "y"), {**one.feed, "cotangent/y": signal})
    ends = [run(one.model, one.feed | {n: one.feed[n] + h * way[n] for n in one.floats})["y"] for h in (1e-5, -1e-5)]
    expected = float(((ends[0] - ends[1]) * signal).sum() / 2e-5)
    np.testing.assert_allclose(sum(float((got[f"vjp/{n}"] * way[n]).sum()) for n in one.floats), expected, rtol=1e-8, atol=1e-8)
