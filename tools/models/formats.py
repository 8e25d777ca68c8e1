"""The same networks in the formats that deployed files come in: integers of four kinds, and the fused operators of ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tools.models import library
from tools.models.networks import SMALL, seeded, text
from tools.models.numbers import Made
from tools.models.sources import Cache, export

Network = Callable[[Cache], tuple[onnx.ModelProto, dict[str, np.ndarray]]]


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def _of_tests(name: str) -> Network:
    def make(cache: Cache) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        from tests.torch_nets import exported, images

        proto = exported(name)
        return proto, {proto.graph.input[0].name: images(2).numpy()}

    return make


def unet(cache: Cache) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Two levels down and up again; a mask of five classes."""
    import torch
    from torch import nn

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
            self.second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
            self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
            self.last = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))

        def forward(self, x: Any) -> Any:
            high = self.first(x)
            return self.last(torch.cat([high, self.up(self.second(high))], 1))

    feed = {"x": _noise(2, 3, 32, 32)}
    return export(seeded(UNet), feed, ["masks"], False, {"x": {0: "N"}}), feed


def lstm(cache: Cache) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Two directions over twelve steps, and a classifier of the last."""
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 16, batch_first=True, bidirectional=True)
            self.head = nn.Linear(32, 5)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0].mean(1))

    feed = {"x": _noise(2, 12, 6)}
    return export(seeded(Classifier), feed, ["scores"], False, {"x": {0: "N"}}), feed


def whisper(cache: Cache) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    _, model, settings, shape = library.SOUNDS["Whisper encoder"]
    made = library.tensor(model, settings, shape, False)(cache)
    return made.proto, made.feed


NETWORKS: dict[str, tuple[str, Network]] = {
    "ResNet-18": ("bottlenecks left out", _of_tests("resnet18")),
    "U-Net": ("a mask", unet),
    "ViT": ("attention over patches", _of_tests("vit")),
    "Whisper encoder": ("convolutions, then attention", whisper),
    "LSTM": ("both directions", lstm),
}

FORMATS = {
    "QOperator": "static integers: QLinearConv and its like",
    "QDQ": "static integers as QuantizeLinear and DequantizeLinear",
    "dynamic int8": "integers whose scales follow the data",
    "4 bit": "MatMulNBits",
    "fused": "saved by ONNX Runtime, extended optimisation",
}


def formats() -> Iterator[tuple[str, str, Callable[[Cache], Made]]]:
    """(name, what it is, how it is made) of every network in every format that has something to write of it."""
    for name, (what, network) in NETWORKS.items():
        for kind, told in FORMATS.items():
            if (kind != "4 bit" or name in ("ViT", "Whisper encoder")) and (name, kind) != ("Whisper encoder", "QDQ"):
                yield f"{name}, {kind}", f"{what}; {told}", lambda cache, n=network, k=kind: rewritten(*n(cache), k)


def rewritten(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray], kind: str) -> Made:
    """A float32 model in another format; its twin is the model that it was made of."""
    from onnxruntime import quantization as q

    if kind == "dynamic int8":  # scales follow the whole batch
        feed = {k: v[:1] for k, v in feed.items()}
    with tempfile.TemporaryDirectory() as folder:
        source, plain, target = (str(Path(folder) / name) for name in ("source.onnx", "plain.onnx", "target.onnx"))
        onnx.save(proto, source)
        if kind == "fused":
            return Made(_saved(source, target), dict(feed), {})
        q.quant_pre_process(source, plain, skip_symbolic_shape=True)
        if kind in ("QOperator", "QDQ"):
            types = {"activation_type": q.QuantType.QUInt8, "weight_type": q.QuantType.QInt8}
            q.quantize_static(plain, target, _Data(feed), getattr(q.QuantFormat, kind), per_channel=True, **types)
        elif kind == "dynamic int8":
            q.quantize_dynamic(plain, target, weight_type=q.QuantType.QUInt8, op_types_to_quantize=["MatMul", "Gemm", "Conv", "LSTM"])
        else:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            quantizer = MatMulNBitsQuantizer(onnx.load(plain), block_size=16, is_symmetric=False)
            quantizer.process()
            onnx.save(quantizer.model.model, target)
        return Made(onnx.load(target), dict(feed), {}, onnx.load(plain))


class _Data:
    """What activations are calibrated on: the feed, wider, so that no score saturates."""

    def __init__(self, feed: Mapping[str, np.ndarray]) -> None:
        rng = np.random.default_rng(0)
        drawn = [{k: (v + 2 * rng.standard_normal(v.shape)).astype(v.dtype) for k, v in feed.items()} for _ in range(8)]
        self.rest = iter([feed, {k: np.asarray(2 * v, v.dtype) for k, v in feed.items()}, *drawn])

    def get_next(self) -> Any:
        return next(self.rest, None)


def _saved(source: str, target: str) -> onnx.ModelProto:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = target
    options.log_severity_level = 4
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return onnx.load(target)


FUSED: dict[str, tuple[str, str, str, Mapping[str, Any]]] = {
    "BERT": ("bert", "BertForSequenceClassification", "BertConfig", {**SMALL, "num_labels": 5}),
    "GPT-2": ("gpt2", "GPT2LMHeadModel", "GPT2Config",
              {"vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
}  # fmt: skip
"""Name: (what the tool calls it, class, its configuration, settings)."""


def transformer(kind: str, model: str, config: str, settings: Mapping[str, Any]) -> Callable[[Cache], Made]:
    """A text model as the transformers tool of ONNX Runtime fuses it: EmbedLayerNormalization, Attention, SkipLayerNormalization."""

    def make(cache: Cache) -> Made:
        from onnxruntime.transformers import optimizer

        made = text(cache, model, config, settings, False)
        with tempfile.TemporaryDirectory() as folder:
            source = str(Path(folder) / "source.onnx")
            onnx.save(made.proto, source)
            fused = optimizer.optimize_model(source, model_type=kind, num_heads=4, hidden_size=32, opt_level=1)
        return Made(fused.model, made.feed, {})

    return make
