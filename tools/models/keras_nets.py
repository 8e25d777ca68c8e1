"""Networks of Keras, of random weights, through tf2onnx: recurrent layers, one and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tools.models.numbers import Made
from tools.models.sources import Cache

Layers = Callable[[Any], list[Any]]

NETS: dict[str, tuple[str, tuple[int, ...], Layers]] = {
    "Keras LSTM": ("a recurrent layer", (7, 4), lambda k: [k.LSTM(6), k.Dense(3)]),
    "Keras GRU": ("a recurrent layer, reset after", (7, 4), lambda k: [k.GRU(6), k.Dense(3)]),
    "Keras GRU, reset before": ("written as a loop", (7, 4), lambda k: [k.GRU(6, reset_after=False), k.Dense(3)]),
    "Keras SimpleRNN": ("a recurrent layer", (7, 4), lambda k: [k.SimpleRNN(6), k.Dense(3)]),
    "Keras Bidirectional": ("both directions, sequences", (7, 4), lambda k: [
        k.Bidirectional(k.LSTM(4, return_sequences=True)), k.GlobalAveragePooling1D(), k.Dense(3)]),
    "Keras ConvLSTM": ("video: convolutions that carry a state", (4, 8, 8, 2), lambda k: [
        k.ConvLSTM2D(4, 3, padding="same"), k.GlobalAveragePooling2D(), k.Dense(3)]),
    "Keras Conv1D": ("a series", (24, 3), lambda k: [
        k.Conv1D(6, 3, activation="relu"), k.MaxPooling1D(), k.Conv1D(8, 3, activation="relu"), k.GlobalMaxPooling1D(), k.Dense(3)]),
    "Keras Conv3D": ("a volume", (6, 8, 8, 2), lambda k: [
        k.Conv3D(4, 3, activation="relu"), k.Conv3D(6, 3, activation="relu"), k.GlobalAveragePooling3D(), k.Dense(3)]),
    "Keras SeparableConv1D": ("a series, depthwise", (24, 3), lambda k: [
        k.SeparableConv1D(6, 3, activation="swish"), k.LayerNormalization(), k.GlobalAveragePooling1D(), k.Dense(3)]),
    "Keras TimeDistributed": ("a picture per step, then a recurrent layer", (4, 8, 8, 2), lambda k: [
        k.TimeDistributed(k.Conv2D(4, 3, activation="relu")), k.TimeDistributed(k.GlobalAveragePooling2D()), k.LSTM(4), k.Dense(3)]),
}  # fmt: skip
"""Name: (what it is, shape of a sample, layers)."""


def net(name: str) -> Callable[[Cache], Made]:
    """A small network of layers."""
    _, shape, layers = NETS[name]

    def make(cache: Cache) -> Made:
        import keras

        keras.utils.set_random_seed(0)
        return _converted(keras.Sequential([keras.Input(shape), *layers(keras.layers)]), shape, 2)

    return make


def _converted(network: Any, shape: tuple[int, ...], count: int) -> Made:
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *shape), tf.float32, name="x")]
    proto, _ = tf2onnx.convert.from_function(tf.function(lambda x: network(x, training=False)), signature, opset=17)
    return Made(proto, {"x": np.random.default_rng(1).uniform(-1, 1, (count, *shape)).astype(np.float32)}, {})
