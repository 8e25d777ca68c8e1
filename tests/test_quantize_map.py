"""Heat quantization: floor levels per sample, in the graph; the attribution and its law stay."""

from __future__ import annotations

import numpy as np
import pytest

import onnxsal
from onnxsal.graph import Emit, Model, Value
from onnxsal.graph.assemble import Port, assemble
from onnxsal.methods.build import quantized
from tests.oracle import run
from tests.small_models import make, node
from tests.torch_nets import export, images, net


def by_hand(pixels: np.ndarray, levels: int) -> np.ndarray:
    proto = make([node("Identity", "m", "y")], {"m": list(pixels.shape)}, {"y": list(pixels.shape)})
    model = Model(proto)
    op = Emit(model)
    made = quantized(op, model.value("m"), levels, 2)
    op.Identity(made, name="q")
    return run(assemble(model, op, [], [Port(Value("q"), 1, pixels.shape)]), {"m": pixels})["q"]


def test_levels_by_hand() -> None:
    pixels = np.asarray([0, 0.1, 0.15, 0.5, 0.99, 1], np.float32).reshape(1, 2, 3)
    np.testing.assert_allclose(by_hand(pixels, 8).reshape(-1), np.asarray([0, 0, 1, 3, 6, 7]) / 7, atol=1e-7)
    both = np.concatenate([pixels, pixels * 30 - 4, np.full_like(pixels, 2.5)])
    got = by_hand(both, 8)
    np.testing.assert_allclose(got[1], got[0] * 30 - 4, atol=1e-5)
    np.testing.assert_array_equal(got[2], both[2])  # a constant map stays as it is


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "lrp_resnet"])
def test_any_map_can_be_quantized(method: str) -> None:
    exported, x = export(net("resnet18")), images(3).numpy()
    plain = onnxsal.Explainer(exported, method).explain(x)
    coarse = onnxsal.Explainer(exported, method, quantize=8).explain(x)
    np.testing.assert_array_equal(coarse.attribution, plain.attribution)
    assert (plain.residual is None) == (coarse.residual is None)
    for before, after in zip(plain.saliency_map, coarse.saliency_map, strict=True):
        assert len(np.unique(after)) <= 8
        assert (after <= before + 1e-6 * np.abs(before).max()).all()
        assert after.max() == pytest.approx(before.max(), rel=1e-5)
    again = onnxsal.Explainer(onnxsal.convert(exported, method, quantize=8, runs_on="cpu"), quantize=8).explain(x)
    np.testing.assert_array_equal(again.saliency_map, coarse.saliency_map)
    with pytest.raises(onnxsal.OnnxsalError, match="cannot be changed afterwards"):
        onnxsal.Explainer(onnxsal.convert(exported, method, quantize=8), quantize=4)


def test_wrong_levels_are_refused() -> None:
    exported = export(net("vgg"))
    for levels in (1, 0, True, 2.5):
        with pytest.raises(onnxsal.OnnxsalError, match="levels"):
            onnxsal.convert(exported, quantize=levels)  # type: ignore[arg-type]
    flat = make([node("MatMul", "x w", "y")], {"x": ["N", 3]}, {"y": ["N", 2]}, {"w": np.ones((3, 2), np.float32)})
    with pytest.raises(onnxsal.OnnxsalError, match="no picture, series or volume"):
        onnxsal.convert(flat, quantize=8)
