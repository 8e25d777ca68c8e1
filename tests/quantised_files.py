"""Small networks as ONNX Runtime's quantisers write them: static (QOperator), dynamic in 8 bits, weights in blocks of 4 or 8 bits."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto
from onnx import helper as oh
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from torch import Tensor, nn

from tests.oracle import run


class Matrix(nn.Module):
    """x W + b along the last axis, which is exported as MatMul and Add."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(before, after) * 0.4), nn.Parameter(torch.randn(after) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Cnn(nn.Module):
    """Convolutions with a shortcut, a pool, a leaky ReLU, a mean, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = Matrix(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        h = (h + self.third(self.second(h).relu())).relu()
        return self.last(F.leaky_relu(F.avg_pool2d(h, 2), 0.1).mean((2, 3)))


class Unet(nn.Module):
    """Down by a pool, up by a ConvTranspose and a Resize, a Concat; scores per place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.third, self.last = nn.Conv2d(8, 4, 3, padding=1), Matrix(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).relu()
        u = self.up(self.down(F.max_pool2d(a, 2)).relu())
        h = self.third(torch.cat([a, u], 1)).sigmoid()
        h = F.interpolate(F.avg_pool2d(h, 2), scale_factor=2, mode="nearest")
        return self.last(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A transformer's: two heads, GELU, layer norms first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.all, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.all(self.before(x)).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * (width // 2) ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, length, width))
        return x + self.narrow(F.gelu(self.wide(self.between(x))))


class Vit(nn.Module):
    """Patches of 4 x 4, positions, a block, a mean, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 4, 8) * 0.1)
        self.block, self.norm, self.last = Block(8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.block(self.patches(x).flatten(2).transpose(1, 2) + self.places)).mean(1))


class Whisper(nn.Module):
    """Two convolutions over time, the second with stride 2, positions, a block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 8, 3, stride=2, padding=1)
        self.places, self.block, self.last = nn.Parameter(torch.randn(1, 8, 8) * 0.1), Block(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.second(F.gelu(self.first(x)))).transpose(1, 2) + self.places
        return self.last(self.block(h).mean(1))


class Lstm(nn.Module):
    """Both directions, a mean over time, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.LSTM(4, 6, batch_first=True, bidirectional=True), Matrix(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x)[0].mean(1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (Cnn, (3, 8, 8)),
    "unet": (Unet, (3, 8, 8)),
    "vit": (Vit, (3, 8, 8)),
    "whisper": (Whisper, (6, 16)),
    "lstm": (Lstm, (7, 4)),
}

FORMATS = ("static", "static int8", "dynamic", "4 bits", "8 bits")


@cache
def floating(name: str, opset: int = 17) -> tuple[nn.Module, onnx.ModelProto]:
    """The network and its export, any number of samples."""
    torch.manual_seed(3)
    made, shape = NETS[name]
    net, buffer = made().eval(), io.BytesIO()
    axes = {"x": {0: "N"}, "y": {0: "N"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
        torch.onnx.export(net, (torch.randn(2, *shape),), buffer, opset_version=opset, dynamo=False, **names)  # type: ignore[arg-type]
    return net, onnx.load_from_string(buffer.getvalue())


def data(name: str, count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *NETS[name][1])).astype(np.float32)


@cache
def saturates() -> bool:
    """Whether this processor adds pairs of 8-bit products in 16 bits, as those without VNNI do: sums with 8-bit weights can be wrong."""
    a, y = oh.make_tensor_value_info("a", TensorProto.UINT8, [1, 4]), oh.make_tensor_value_info("y", TensorProto.INT32, [1, 1])
    weight = oh.make_tensor("w", TensorProto.INT8, [4, 1], [127] * 4)
    graph = oh.make_graph([oh.make_node("MatMulInteger", ["a", "w"], ["y"])], "sum", [a], [y], [weight])
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)
    return int(run(model, {"a": np.full((1, 4), 255, np.uint8)})["y"].item()) != 4 * 255 * 127


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.feeds = iter([{"x": data(name, 2, seed)} for seed in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


@contextlib.contextmanager
def _quietly() -> Iterator[Path]:
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Path(folder)
    finally:
        logging.disable(logging.NOTSET)


@cache
def quantised(name: str, how: str, opset: int = 17) -> onnx.ModelProto:
    """The network in one of the ``FORMATS``; "qdq" is as "static", with pairs around floating-point operators.

    Weights have 8 bits, and 7 where the processor ``saturates``: no sum of two products leaves 16 bits then.
    """
    model = floating(name, opset)[1]
    if how.endswith("bits"):
        quantiser = MatMulNBitsQuantizer(onnx.ModelProto.FromString(model.SerializeToString()), bits=int(how[0]), block_size=16)
        with _quietly():
            quantiser.process()
        return quantiser.model.model
    with _quietly() as folder:
        onnx.save(model, folder / "float.onnx")
        files = (folder / "float.onnx", folder / "quantised.onnx")
        if how == "dynamic":
            quantize_dynamic(*files, per_channel=True, weight_type=QuantType.QInt8, reduce_range=saturates())
        else:
            quantize_static(
                *files,
                _Samples(name),
                quant_format=QuantFormat.QDQ if how == "qdq" else QuantFormat.QOperator,
                per_channel="int8" not in how,
                activation_type=QuantType.QInt8 if "int8" in how else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=saturates(),
            )
        return onnx.load(folder / "quantised.onnx")
