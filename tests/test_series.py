"""Series in seconds, sounds from .wav, spectrograms: every map is drawn where its places are."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from onnxsal.cli.app import app
from onnxsal.errors import InputError
from onnxsal.runtime.figures import image_of
from onnxsal.runtime.series_figure import COLUMNS, draw_series, panels, series_axis, series_figure, shared
from onnxsal.runtime.shown import ShownValues
from onnxsal.runtime.sound import read_sound
from tests.small_models import make, node

RATE = 8000


def listener(*shape: object, channels: int = 1) -> onnx.ModelProto:
    """One convolution over the places of a series or picture, a mean, two classes."""
    rng, axes = np.random.default_rng(0), len(shape) - 2
    kernel = rng.normal(size=(4, channels, *[5] * axes)).astype(np.float32)
    nodes = [
        node("Conv", "x k", "c", kernel_shape=[5] * axes, pads=[2] * (2 * axes)),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "f"),
        node("MatMul", "f w", "y"),
    ]
    weights = {"k": kernel, "w": rng.normal(size=(4, 2)).astype(np.float32)}
    return make(nodes, {"x": list(shape)}, {"y": ["N", 2]}, weights)


def recorded(path: Path, values: np.ndarray, width: int = 2, rate: int = RATE) -> Path:
    """Values [channels, length] in -1..1 as PCM."""
    half = 2 ** (8 * width - 1)
    whole = np.ascontiguousarray(np.rint(values.T.astype(np.float64) * half).clip(-half, half - 1), "<i8")
    data = whole.view(np.uint8).reshape(-1, 8)[:, :width].tobytes() if width > 1 else (whole + 128).astype(np.uint8).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(values))
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def burst(count: int = RATE) -> np.ndarray:
    """Silence, a tone from a quarter to half of the time, silence."""
    at = np.arange(count) / count
    return np.where((at >= 0.25) & (at < 0.5), 0.8 * np.sin(2 * np.pi * 200 * at), 0)[None].astype(np.float32)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_sound_is_read_to_its_last_bit(tmp_path: Path, width: int):
    values = np.random.default_rng(width).uniform(-1, 1, (2, 50))
    values[:, :2] = [[-1, 1], [0, -0.5]]
    found = read_sound(recorded(tmp_path / "a.wav", values, width))
    assert found.rate == RATE
    assert found.values.shape == (2, 50)
    np.testing.assert_allclose(found.values, values, atol=1.01 / 2 ** (8 * width - 1) + 1e-7)
    assert found.values[0, 0] == -1
    assert found.values[1, 0] == 0


def test_what_is_no_sound_is_refused(tmp_path: Path):
    good = recorded(tmp_path / "good.wav", burst(100)).read_bytes()
    floats = bytearray(good)
    floats[20] = 3  # the format: IEEE floats
    empty = recorded(tmp_path / "e.wav", burst(100)[:, :0]).read_bytes()
    for name, data in {"cut": good[:30], "text": b"hello", "floats": bytes(floats), "empty": empty}.items():
        (tmp_path / f"{name}.wav").write_bytes(data)
        with pytest.raises(InputError, match=r"sound '.*\.wav'"):
            read_sound(tmp_path / f"{name}.wav")


def test_seconds_follow_from_the_rate():
    seconds = series_axis(100, 50)
    assert seconds.words == "seconds"
    np.testing.assert_allclose(seconds.edges[[0, 1, -1]], [0, 0.01, 0.5])
    np.testing.assert_allclose(series_axis(None, 3).middles, [0, 1, 2])
    for rate in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="no number of places per second"):
            series_axis(rate, 5)


@pytest.mark.parametrize("length", [COLUMNS + 1, 16_000, 3 * COLUMNS - 1])
def test_columns_of_many_places_are_equally_wide(length: int):
    """Otherwise a map is drawn beside what it is about."""
    parts = shared(np.arange(length))
    assert len(parts) == COLUMNS
    begins = np.array([p[0] for p in parts])
    np.testing.assert_allclose(begins, np.arange(COLUMNS) * length / COLUMNS, atol=0.51)


@pytest.mark.parametrize("length", [400, 16_000])
def test_the_map_lies_under_the_signal(length: int):
    """In the picture itself: the dark line is high exactly where the map below is coloured."""
    values = np.zeros(length)
    values[length // 4 : length // 2] = 1
    axes = Figure(figsize=(8, 3), dpi=100).subplots(2, 1)
    draw_series(axes, ShownValues(values[None], length / 2), values)
    image = np.asarray(image_of(axes[0].figure).convert("RGB")).astype(int)
    height = len(image)
    to_pixels = axes[1].transData.transform
    edges = [to_pixels((s, 0))[0] for s in (0.5, 1.0)]
    row = image[height - round(to_pixels((0.5, 0))[1])]
    inside = (axes[1].bbox.x0 + 3, axes[1].bbox.x1 - 3)
    strong = np.flatnonzero(np.abs(row - row[round(inside[0])]).sum(1) > 60)
    strong = strong[(strong > inside[0]) & (strong < inside[1])]
    np.testing.assert_allclose([strong[0], strong[-1] + 1], edges, atol=2)
    above = height - round(axes[0].transData.transform((0, 1.0))[1])
    dark = np.flatnonzero(image[above - 1 : above + 2].sum((0, 2)) < 900)
    dark = dark[(dark > inside[0]) & (dark < inside[1])]
    np.testing.assert_allclose([dark[0], dark[-1] + 1], edges, atol=3)
    assert axes[1].get_xlabel() == "seconds"
    assert axes[1].get_xlim() == (0, 2)


def test_a_spectrogram_has_its_lowest_frequency_below():
    values = np.zeros((1, 8, 20))
    values[0, 1, 5:10] = 1
    shown = ShownValues(values, 10)
    assert panels(shown) == 2
    figure = series_figure(shown, values[0])
    for ax in figure.axes:
        (image,) = ax.get_images()
        assert image.origin == "lower"
        np.testing.assert_allclose(image.get_extent(), [0, 2, -0.5, 7.5])
    assert figure.axes[0].get_ylabel() == "frequency (bin)"
    series_figure(shown, values[0].sum(0))  # a map [T] of frequencies as channels
    with pytest.raises(InputError, match="does not lie on"):
        series_figure(shown, values[0, :, :5])


@pytest.mark.parametrize("shape", [(1, 30), (3, 30), (9, 30), (2, 5000)])
def test_any_number_of_channels(shape: tuple[int, int]):
    values = np.random.default_rng(0).normal(size=shape)
    figure = series_figure(ShownValues(values), values[0])
    assert len(figure.axes) == (2 if shape[0] > 6 else shape[0] + 1)
    assert figure.axes[-1].get_xlabel() == "place"


def explained(tmp_path: Path, model: onnx.ModelProto, *words: object) -> str:
    onnx.save(model, tmp_path / "m.onnx")
    told = ["explain", tmp_path / "m.onnx", *words, "-m", "input_x_gradient", "-o", tmp_path / "out"]
    done = CliRunner().invoke(app, [str(word) for word in told])
    return f"{done.exit_code} {' '.join(done.output.split())}"


def test_a_sound_is_explained_end_to_end(tmp_path: Path):
    file = recorded(tmp_path / "tone.wav", burst())
    assert explained(tmp_path, listener("N", 1, "L"), file).startswith("0 ")
    attribution = np.load(tmp_path / "out/tone.input_x_gradient.npy")
    assert attribution.shape == (1, 1, RATE)
    assert not attribution[..., : RATE // 4 - 3].any()
    assert attribution[..., RATE // 4 : RATE // 2].any()
    assert Image.open(tmp_path / "out/tone.input_x_gradient.overlay.png").width > 900


def test_a_sound_that_does_not_fit_is_refused(tmp_path: Path):
    file = recorded(tmp_path / "tone.wav", burst(800))
    stereo = recorded(tmp_path / "two.wav", np.repeat(burst(800), 2, 0))
    model = listener("N", 1, "L")
    for words, given, message in (
        ([stereo], model, "has 2 channel(s), and the model takes 1"),
        ([file, "--rate", 16000], model, "has 8000 values per second, and --rate says 16000"),
        ([file], listener("N", 1, 500), "has 800 values (0.1 s), and the model takes 500 values (0.0625 s)"),
        ([file], listener("N", 1, "H", "W"), "is not known to read one series"),
        ([file, "--as", "picture"], model, "there is spectrogram"),
        ([file, "--rate", 0], model, "no number of places per second"),
    ):
        assert message in explained(tmp_path, given, *words)
    assert explained(tmp_path, listener("N", 2, "L", channels=2), stereo).startswith("0 ")


@pytest.mark.parametrize("shape", [("N", 1, 12, 40), ("N", 12, 40)])
def test_spectrograms_of_both_layouts(tmp_path: Path, shape: tuple):
    values = np.random.default_rng(0).random((1, *shape[1:])).astype(np.float32)
    np.save(tmp_path / "s.npy", values)
    model = listener(*shape, channels=12 if len(shape) == 3 else 1)
    assert explained(tmp_path, model, tmp_path / "s.npy", "--as", "spectrogram", "--rate", 50).startswith("0 ")
    assert Image.open(io.BytesIO((tmp_path / "out/s.input_x_gradient.overlay.png").read_bytes())).width > 900
