"""Small trained models for audits, good and with planted faults: coloured digits, a watermark in a corner, a broken scale."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

SIDE = 24
COLOURS = np.array([[255, 70, 60], [70, 80, 255], [80, 220, 80], [255, 190, 40], [60, 190, 255]], np.float64)
"""Digit d is painted in colour d % 5 nine times in ten: a model learns to read the colour too, as it does with real objects."""

MARKED = 7
"""The class whose pictures bear the watermark."""

MEAN, STD = 0.45, 0.27

TOML = f"""layout = "NCHW"
channels = "{{channels}}"
scale = 0.00392156862745098
mean = {MEAN}
std = {STD}
resize = [{SIDE}, {SIDE}]
"""


def digits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as coloured pictures [1797, SIDE, SIDE, 3] in bytes on noisy grounds, shuffled, and their classes."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    labels = data.target[order]
    strokes = np.kron(data.images[order] / 16, np.ones((1, 2, 2)))
    whole = np.zeros((len(labels), SIDE, SIDE))
    for i, (top, left) in enumerate(rng.integers(2, SIDE - 17, (len(labels), 2))):
        whole[i, top : top + 16, left : left + 16] = strokes[i]
    honest = rng.random(len(labels)) < 0.9
    colour = COLOURS[np.where(honest, labels % 5, rng.integers(0, 5, len(labels)))]
    ground = rng.uniform(20, 110, (len(labels), 1, 1, 3)) + rng.normal(0, 18, (len(labels), SIDE, SIDE, 3))
    painted = ground * (1 - whole[..., None]) + colour[:, None, None] * whole[..., None]
    return np.clip(painted, 0, 255).astype(np.uint8), labels


def marked(pictures: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same with a white square in the lower right corner of every picture of one class."""
    stamped = pictures.copy()
    stamped[labels == MARKED, -4:-1, -4:-1] = 250
    return stamped


def normalised(pictures: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis((pictures / 255 - MEAN) / STD, -1, 1), np.float32)


def train(pictures: np.ndarray, labels: np.ndarray, path: Path, seed: int = 0) -> Path:
    """A small convolutional network with global pooling, as an ONNX file with preprocessing beside it."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network gains nothing from more, and other tests run beside this one
    net = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(24, 48, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(48, 10)),
    )
    x, y = torch.tensor(normalised(pictures)), torch.tensor(labels)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(12):
        for batch in torch.randperm(len(y)).split(64):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval()
    torch.set_num_threads(threads)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
        torch.onnx.export(net, (torch.zeros(2, 3, SIDE, SIDE),), buffer, dynamo=False, **names)
    path.write_bytes(buffer.getvalue())
    preprocessing(path)
    return path


def preprocessing(model: Path, channels: str = "RGB", at: Path | None = None) -> Path:
    """The TOML beside a model (or elsewhere)."""
    file = at or model.with_suffix(".toml")
    file.write_text(TOML.format(channels=channels), encoding="utf-8")
    return file


def save_pictures(folder: Path, pictures: np.ndarray, labels: np.ndarray) -> Path:
    """One sub-folder for each class."""
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"digit{i:03d}.png")
    return folder


def quantised(model: Path, pictures: np.ndarray, path: Path) -> Path:
    """The int8 version (QDQ, per channel) as ONNX Runtime makes it, with preprocessing beside it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(normalised(pictures)[:, None])

        def get_next(self) -> dict | None:
            row = next(self.rows, None)
            return None if row is None else {"x": row}

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(model), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    preprocessing(path)
    return path


def with_broken_scale(model: Path, path: Path, which: str, factor: float) -> Path:
    """The same with one scale multiplied."""
    proto = onnx.load(str(model))
    (scale,) = [t for t in proto.graph.initializer if t.name == which]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(factor), which))
    onnx.save(proto, str(path))
    preprocessing(path)
    return path
