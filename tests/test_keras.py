"""A Keras network through tf2onnx: channels last, ReLU6, residual, strided SAME padding, depthwise convolutions."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnxsal
from tests.oracle import run

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="tensorflow is not installed")
TOLERANCE = 1e-4
CLASSES = 6


class Tensorflow:
    """The library, imported when it is first used: seconds that collecting the tests should not take."""

    def __getattr__(self, name: str) -> Any:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow

        return getattr(tensorflow, name)


tf = Tensorflow()


@cache
def network(softmax: bool = True, size: int | None = 33) -> Any:
    """Odd sizes and even strides, so that SAME pads unevenly; weights and batch-norm statistics with real spread."""
    layers, rng = tf.keras.layers, np.random.default_rng(0)
    given = layers.Input((size, size, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(given)
    x = layers.ReLU(max_value=6)(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.ReLU(max_value=6)(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(8, 1)(y))
    x = layers.Add()([x, y])
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    y = layers.SeparableConv2D(12, 5, strides=2, padding="same")(x)
    x = layers.Concatenate()([layers.Activation("swish")(y), layers.LeakyReLU()(layers.AveragePooling2D(2, padding="same")(x))])
    x = layers.Conv2D(10, 3, padding="valid", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = tf.keras.Model(given, layers.Dense(CLASSES, activation="softmax" if softmax else None)(x))
    draws = []
    for weight in model.weights:
        shape, name = weight.shape, weight.path
        if len(shape) > 1:
            depthwise = "depthwise" in name
            fan = np.prod(shape[:2] if depthwise else shape[:-1])
            draws.append(rng.standard_normal(shape) * np.sqrt(2 / fan))
        elif "variance" in name or "gamma" in name:
            draws.append(rng.uniform(0.5, 1.5, shape))
        else:
            draws.append(rng.uniform(-0.5, 0.5, shape))
    model.set_weights(draws)
    return model


@cache
def exported(softmax: bool = True, size: int | None = 33, opset: int = 18, channels_first: bool = False) -> onnx.ModelProto:
    import tf2onnx

    model = network(softmax, size)
    signature = [tf.TensorSpec((None, size, size, 3), tf.float32, name="image")]
    first = ["image"] if channels_first else None
    proto, _ = tf2onnx.convert.from_keras(model, input_signature=signature, opset=opset, inputs_as_nchw=first)
    return proto


def tape_gradient(x: np.ndarray, target: int | None = None, score: str = "logit", size: int | None = 33) -> tuple[np.ndarray, np.ndarray]:
    """(d score / d x, score)."""
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        out = network(score == "probability", size)(given, training=False)
        chosen = tf.argmax(out, 1) if target is None else tf.fill([len(x)], target)
        scores = tf.gather(out, chosen, batch_dims=1)
    return tape.gradient(scores, given).numpy(), scores.numpy()


def pictures(batch: int, size: int = 33) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, size, size, 3)).astype(np.float32)


def assert_close(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("opset", [15, 18])
@pytest.mark.parametrize("batch", [1, 5])
def test_gradient_equals_the_tape(batch: int, opset: int) -> None:
    explainer = onnxsal.Explainer(exported(False, opset=opset), "gradient")
    x = pictures(batch)
    for target in (None, 4):
        found = explainer.explain(x, target)
        wanted, score = tape_gradient(x, target)
        assert_close(found.attribution, wanted)
        assert_close(found.score, score)
        assert found.saliency_map is not None
        assert found.saliency_map.shape == (batch, 33, 33)
        assert_close(found.saliency_map, np.abs(wanted).sum(3))
        (output,) = found.outputs.values()
        assert_close(output, network(False)(x, training=False).numpy())


def test_what_tf2onnx_wrote() -> None:
    """The traits that this file is about are there: channels last, uneven pads, ReLU6 as Clip."""
    model = exported(False)
    kinds = Counter(n.op_type for n in model.graph.node)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:] == [33, 33, 3]
    pads = [
        list(a.ints) for n in model.graph.node for a in n.attribute if n.op_type in ("Conv", "MaxPool", "AveragePool") and a.name == "pads"
    ]
    assert any(p[: len(p) // 2] != p[len(p) // 2 :] for p in pads) or any(
        a.s.startswith(b"SAME") for n in model.graph.node for a in n.attribute if a.name == "auto_pad"
    )
    assert kinds["Transpose"]
    assert kinds["Clip"] + kinds["Min"] >= 2
    assert any(a.name == "group" and a.i > 1 for n in model.graph.node for a in n.attribute)


def test_probability_and_the_logit_behind_a_softmax() -> None:
    """The two networks share their weights; one ends in a Softmax."""
    x = pictures(3)
    for score in ("logit", "probability"):
        found = onnxsal.Explainer(exported(True), "gradient", score=score).explain(x)
        wanted, value = tape_gradient(x, score=score)
        assert_close(found.attribution, wanted)
        assert_close(found.score, value)


def test_channels_first_input() -> None:
    found = onnxsal.Explainer(exported(False, channels_first=True), "gradient").explain(pictures(2).transpose(0, 3, 1, 2))
    wanted, _ = tape_gradient(pictures(2))
    assert_close(found.attribution, wanted.transpose(0, 3, 1, 2))
    assert_close(found.saliency_map, np.abs(wanted).sum(3))


def test_symbolic_height_and_width() -> None:
    """SAME padding of unknown sizes: which side is padded, and how much, is only known at run time."""
    explainer = onnxsal.Explainer(exported(False, None), "gradient")
    for size in (32, 37):
        x = pictures(2, size)
        wanted, score = tape_gradient(x, size=None)
        found = explainer.explain(x)
        assert_close(found.score, score)
        assert_close(found.attribution, wanted)


def test_fullgrad_is_complete() -> None:
    """ReLU6, swish and a squeezed network in channels-first layers behind a channels-last input."""
    x = pictures(3)
    for biases in ("explicit", "all"):
        found = onnxsal.Explainer(exported(False), "fullgrad", biases=biases, components=True).explain(x * 2)
        assert found.residual.max() < 1e-4
        assert found.saliency_map.shape == (3, 33, 33)
        maps = [v for v in found.components.values() if v.shape == (3, 33, 33)]
        np.testing.assert_allclose(sum(maps), found.saliency_map, rtol=1e-4)
    assert len(maps) > 5


BENT = {
    "tf.nn.relu": lambda x: tf.nn.relu(x),
    "tf.nn.relu6": lambda x: tf.nn.relu6(x),
    "ReLU(6)": lambda x: tf.keras.layers.ReLU(max_value=6)(x),
    "relu6": lambda x: tf.keras.activations.relu6(x),
    "hard_silu": lambda x: tf.keras.activations.hard_silu(x),
    "hard_sigmoid": lambda x: tf.keras.activations.hard_sigmoid(x),
}


def test_derivatives_at_the_ends_of_intervals() -> None:
    """At exactly the points where activations bend, one to a row, as TensorFlow has it."""
    import tf2onnx

    def rows(x: Any) -> Any:
        return tf.concat([f(x[i : i + 1]) for i, f in enumerate(BENT.values())], 0)

    x = np.repeat(np.array([[-9, -3, 0, 0.5, 3, 6, 9]], np.float32), len(BENT), 0)
    signature = [tf.TensorSpec(x.shape, tf.float32, name="x")]
    model, _ = tf2onnx.convert.from_function(tf.function(rows, input_signature=signature), input_signature=signature, opset=18)
    made, given = onnxsal.vjp(model), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        y = rows(given)
    (source, out) = (i.name for i in made.graph.input)
    got = run(made, {source: x, out: np.ones_like(x)})[f"vjp/{source}"]
    for name, row, expected in zip(BENT, got, tape.gradient(y, given).numpy(), strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(("sizes", "channels"), [((24,), 1), ((None,), 3), ((6, 8, 10), 2)])
def test_gradcam_of_series_and_volumes(sizes: tuple[int | None, ...], channels: int) -> None:
    """Channels come last; Conv1D is written as a picture of one line. Against the tape of TensorFlow, enlarged by torch."""
    layers, count = tf.keras.layers, len(sizes)
    tf.keras.utils.set_random_seed(1)
    given = layers.Input((*sizes, channels), name="x")
    x = getattr(layers, f"Conv{count}D")(6, 3, padding="same", activation="relu")(given)
    x = getattr(layers, f"MaxPooling{count}D")(2)(x)
    x = getattr(layers, f"Conv{count}D")(8, 3, padding="same", activation="relu", name="last")(x)
    model = tf.keras.Model(given, layers.Dense(4)(getattr(layers, f"GlobalAveragePooling{count}D")()(x)))
    data = np.random.default_rng(0).standard_normal((2, *(d or 21 for d in sizes), channels)).astype(np.float32)
    head = tf.keras.Model(model.get_layer("last").output, model.output)
    activations, classes = tf.keras.Model(given, model.get_layer("last").output)(data), np.asarray([1, 3])
    with tf.GradientTape() as tape:
        tape.watch(activations)
        scores = tf.gather(head(activations), classes, batch_dims=1)
    gradient, kept = tape.gradient(scores, activations).numpy(), activations.numpy()
    coarse = np.maximum((gradient.mean(tuple(range(1, count + 1)), keepdims=True) * kept).sum(-1), 0)
    mode = {1: "linear", 3: "trilinear"}[count]
    wanted = torch.nn.functional.interpolate(torch.from_numpy(coarse)[:, None], data.shape[1:-1], mode=mode, align_corners=False)[:, 0]
    signature = [tf.TensorSpec([None, *sizes, channels], tf.float32, name="x")]
    proto = importlib.import_module("tf2onnx.convert").from_keras(model, input_signature=signature, opset=17)[0]
    found = onnxsal.Explainer(proto, "gradcam").explain(data, classes)
    assert found.saliency_map is not None
    np.testing.assert_allclose(found.saliency_map, wanted.numpy(), atol=1e-5 * float(wanted.max()))
    residual = onnxsal.Explainer(proto, "fullgrad").explain(data, classes).residual
    assert residual is not None
    assert residual.max() < 1e-5
