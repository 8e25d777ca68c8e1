"""float16 and int8 files: their maps are those of the float32 model, up to the precision that was given away."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

import onnxsal
from tests.quantised_files import saturates
from tests.torch_nets import export

CORRELATION = 0.95
METHODS = ["gradient", "input_x_gradient", "guided_backprop", "deconvnet", "ig", "smoothgrad", "fullgrad", "simple_fullgrad"]


def figures(count: int, seed: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Frames, discs, crosses and bars of a random colour, at random places on noise: something to learn in seconds."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((count, 3, size, size)) * 0.25, rng.integers(0, 4, count)
    for picture, kind in zip(x, y, strict=True):
        row, column, radius = rng.integers(5, size - 5), rng.integers(5, size - 5), rng.integers(3, 5)
        down, right = np.abs(np.mgrid[:size, :size] - np.asarray([row, column])[:, None, None])
        far = np.maximum(down, right)
        cross = ((right <= 0) & (down <= radius)) | ((down <= 0) & (right <= radius))
        shapes = [(far <= radius) & (far >= radius - 1), down**2 + right**2 <= radius**2, cross, (right <= 1) & (down <= radius)]
        picture += shapes[kind] * rng.uniform(0.8, 1.6, 3)[:, None, None]
    return x.astype(np.float32), y


@cache
def trained() -> onnx.ModelProto:
    """A small network that tells the figures apart, with batch normalisation, in float32."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 5, padding=2), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4))
    x, y = (torch.tensor(a) for a in figures(800, 0))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(5):
        for batch in torch.randperm(len(x)).split(40):
            loss = F.cross_entropy(net(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval()
    unseen, wanted = figures(200, 1)
    assert (net(torch.tensor(unseen)).argmax(1).numpy() == wanted).mean() > 0.9
    return export(net, example=x[:2])


@cache
def expected(method: str) -> onnxsal.Explanation:
    return onnxsal.Explainer(trained(), method).explain(pictures())


def pictures() -> np.ndarray:
    return figures(30, 2)[0]


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's, per sample."""
    rows = [v.reshape(len(v), -1).astype(np.float64) for v in (a, b)]
    return np.asarray([np.corrcoef(p, q)[0, 1] for p, q in zip(*rows, strict=True)])


def assert_like_float32(found: onnxsal.Explanation, method: str) -> None:
    wanted = expected(method)
    np.testing.assert_array_equal(found.target, wanted.target)
    assert np.abs(found.attribution).max() > 0
    assert correlations(found.attribution, wanted.attribution).min() > CORRELATION
    assert correlations(found.saliency_map, wanted.saliency_map).min() > CORRELATION


@cache
def half(keep_io_types: bool) -> onnx.ModelProto:
    return convert_float_to_float16(onnx.ModelProto.FromString(trained().SerializeToString()), keep_io_types=keep_io_types)


@pytest.mark.parametrize("keep_io_types", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_float16(method: str, keep_io_types: bool) -> None:
    """The backward part runs in float32, whatever the type of the model's inputs."""
    x = pictures() if keep_io_types else pictures().astype(np.float16)
    found = onnxsal.Explainer(half(keep_io_types), method).explain(x, expected(method).target)
    assert_like_float32(found, method)
    assert found.attribution.dtype == found.saliency_map.dtype == found.score.dtype == np.float32


def test_float16_node_lists_are_unsorted() -> None:
    """ONNX Runtime's converter appends its Casts at the end: the file that it writes is no valid order of execution."""
    model, known = half(True), {t.name for t in half(True).graph.initializer} | {"input"}
    order = []
    for n in model.graph.node:
        order.append(all(i in known for i in n.input if i))
        known.update(n.output)
    assert not all(order)


class Calibration(CalibrationDataReader):
    """Pictures by the batch."""

    def __init__(self) -> None:
        self.batches = iter(np.split(figures(200, 3)[0], 10))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


def quantized(folder: Path, form: QuantFormat, per_channel: bool, activations: QuantType) -> onnx.ModelProto:
    path = folder / f"{form}-{per_channel}-{activations}.onnx"
    if not path.exists():
        logging.getLogger().setLevel(logging.ERROR)
        onnx.save(trained(), folder / "float32.onnx")
        options = {"quant_format": form, "per_channel": per_channel, "weight_type": QuantType.QInt8, "activation_type": activations}
        options["reduce_range"] = saturates()
        quantize_static(folder / "float32.onnx", path, Calibration(), **options)
    return onnx.load(path)


@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8], ids=["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("method", METHODS)
def test_int8(method: str, per_channel: bool, activations: QuantType, folder: Path) -> None:
    """Quantised with QDQ nodes, into which the ReLU nodes have vanished."""
    model = quantized(folder, QuantFormat.QDQ, per_channel, activations)
    kinds = Counter(n.op_type for n in model.graph.node)
    assert kinds["DequantizeLinear"] > 10
    assert not kinds["Relu"]
    found = onnxsal.Explainer(model, method).explain(pictures(), expected(method).target)
    assert_like_float32(found, method)
    if method == "fullgrad":
        assert found.residual.max() < 1e-4


def test_rectifiers_that_vanished_are_found(folder: Path) -> None:
    """The two QuantizeLinear after the convolutions, not those after pools, which cut nothing off though they start at zero too."""
    for activations in (QuantType.QUInt8, QuantType.QInt8):
        plan = onnxsal.plan(quantized(folder, QuantFormat.QDQ, False, activations), "guided_backprop")
        guided = [s.node for s in plan.steps if s.rule.name == "guided"]
        assert [n.op_type for n in guided] == ["QuantizeLinear"] * 2
        assert [n.model.producer[n.x.name].op_type for n in guided] == ["Conv"] * 2


class StraightThrough(torch.autograd.Function):
    """Round to the grid; backward, the identity where the unrounded value lies inside its range."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, low: int, high: int) -> torch.Tensor:
        ctx.inside = (x >= (low - zero) * scale) & (x <= (high - zero) * scale)  # type: ignore[attr-defined]
        return ((torch.round(x / scale) + zero).clamp(low, high) - zero) * scale

    @staticmethod
    def backward(ctx: object, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return dy * ctx.inside, None, None, None, None  # type: ignore[attr-defined]


def straight_through_gradient(model: onnx.ModelProto, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The gradient of a QDQ model by PyTorch, node by node."""
    given = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    values = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)).double() for t in model.graph.initializer} | {"input": given}
    limits = {
        t.name: np.iinfo(onnx.numpy_helper.to_array(t).dtype) for t in model.graph.initializer if t.data_type != onnx.TensorProto.FLOAT
    }
    grid: dict[str, torch.Tensor] = {}
    for n in model.graph.node:
        first, *rest = (values.get(i) for i in n.input)
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        out = n.output[0]
        if n.op_type == "QuantizeLinear":  # the value on the grid, which the DequantizeLinear after it returns as it is
            bounds = limits[n.input[2]]
            values[out] = grid[out] = StraightThrough.apply(first, rest[0], rest[1], bounds.min, bounds.max)
        elif n.op_type == "DequantizeLinear":
            scale, zero = rest
            shape = [-1, *[1] * (first.ndim - 1)] if scale.ndim else []
            values[out] = first if n.input[0] in grid else (first - zero.reshape(shape)) * scale.reshape(shape)
        elif n.op_type == "Conv":
            values[out] = F.conv2d(first, *rest, padding=settings["pads"][:2])
        elif n.op_type == "Gemm":
            values[out] = F.linear(first, *rest)
        elif n.op_type == "MaxPool":
            values[out] = F.max_pool2d(first, 2)
        elif n.op_type == "GlobalAveragePool":
            values[out] = first.mean((2, 3), keepdim=True)
        else:
            assert n.op_type == "Flatten"
            values[out] = first.flatten(1)
    score = values[model.graph.output[0].name].gather(1, torch.tensor(classes)[:, None]).sum()
    return torch.autograd.grad(score, given)[0].numpy()


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
def test_int8_gradient_is_straight_through(per_channel: bool, folder: Path) -> None:
    """By PyTorch on the same scales.

    Not to the last digit: sums of quantised products are exactly zero in a percent of the places, where the rounding of either
    computation decides whether a unit counts as rectified.
    """
    model = quantized(folder, QuantFormat.QDQ, per_channel, QuantType.QUInt8)
    found = onnxsal.Explainer(model, "gradient").explain(pictures())
    assert correlations(found.attribution, straight_through_gradient(model, pictures(), found.target)).min() > 0.99
