"""Trained networks with pictures that were not trained on: two of ImageNet from packages, others trained here, and how they are fed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxsal.graph.load import load_model  # noqa: E402
from onnxsal.metrics.scorer import Scorer  # noqa: E402
from onnxsal.runtime.beside import beside  # noqa: E402
from onnxsal.runtime.files import write_whole  # noqa: E402
from onnxsal.runtime.preprocess import Preprocess  # noqa: E402
from tests.squeezenet import STAMPS, TOML, stamps  # noqa: E402
from tests.squeezenet import build as squeezenet  # noqa: E402
from tools.reproduce import digits, photographs, small_resnet, trained, vgg9  # noqa: E402

WORK = ROOT / "out" / "which"
LITE0 = ROOT / "models" / "efficientnet_lite0.onnx"
KINDS, TRAINED, SIDE = 10, 3000, 32
"""Stamps that the networks of small colour pictures tell apart, pictures to train on, and their size."""


@dataclass(frozen=True)
class Net:
    """A trained network: its file, the pictures [N, C, H, W] that it is asked about, their classes, black and white, and its accuracy."""

    name: str
    what: str
    path: Path
    x: np.ndarray
    labels: np.ndarray
    black: np.ndarray
    white: np.ndarray
    accuracy: float


def kept(name: str, make: Callable[[], onnx.ModelProto]) -> Path:
    """A model file, made once."""
    path = WORK / name
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        write_whole(path, make().SerializeToString())
    return path


# ----- ImageNet -----


def labelled_stamps(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Tux Paint's stamps that name a class of ImageNet, and the photographs that packages ship (class -1: it is not known)."""
    folder = WORK / "stamps"
    if not folder.is_dir():
        stamps(folder, (ROOT / "models" / "labels" / "imagenet.txt").read_text(encoding="utf-8").splitlines())
    files = sorted(folder.rglob("*.png"))
    others = photographs(12)
    labels = [int(f.parent.name) for f in files] + [-1] * len(others)
    return preprocess.batch([*files, *others]), np.array(labels)


def of_imagenet(name: str, what: str, path: Path, preprocess: Preprocess) -> Net:
    """Pictures that the network recognises, and photographs, in an order drawn once."""
    x, labels = labelled_stamps(preprocess)
    right = Scorer(path).predict(x) == labels
    accuracy = float(right[labels >= 0].mean())
    order = np.random.default_rng(0).permutation(np.flatnonzero(right | (labels < 0)))
    return Net(name, what, path, x[order], labels[order], preprocess.black(), preprocess.white(), accuracy)


def lite0() -> Net:
    return of_imagenet("lite0", "EfficientNet-Lite0, ImageNet, batch-norm folded, ReLU6, 9 shortcuts", LITE0, beside(LITE0).preprocess)


def squeeze() -> Net:
    path = WORK / "squeezenet.onnx"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        squeezenet(path)
        path.with_suffix(".toml").write_text(TOML.format(channels="BGR"), encoding="utf-8")
    return of_imagenet("squeezenet", "SqueezeNet 1.1, ImageNet, ReLU, no shortcuts", path, beside(path).preprocess)


# ----- small colour pictures -----


def small_stamps(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [N, 3, 32, 32] in -1..1 of ten stamps: each on a smooth random ground, of random size, place and side."""
    from PIL import Image

    files = sorted(STAMPS.rglob("*.png"))
    chosen = [Image.open(files[i]).convert("RGBA") for i in np.random.default_rng(7).choice(len(files), KINDS, replace=False)]
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, KINDS, count)
    pictures = np.empty((count, SIDE, SIDE, 3), np.float32)
    for i, label in enumerate(labels):
        ground = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        stamp, side = chosen[label], int(rng.integers(14, 27))
        width, height = (max(4, int(side * d / max(stamp.size))) for d in stamp.size)
        small = stamp.resize((width, height), Image.Resampling.LANCZOS)
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else small
        ground.paste(small, (int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))), small)
        pictures[i] = np.asarray(ground, np.float32) / 127.5 - 1
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)), labels.astype(np.int64)


def resnet(blocks: int) -> Any:
    """The residual networks for CIFAR of He et al. 2016: three stages of ``blocks`` basic blocks, 16, 32 and 64 channels."""
    from torch import nn

    from tests.torch_nets import basic, conv_bn

    layers: list[Any] = [*conv_bn(3, 16, 3), nn.ReLU()]
    cin = 16
    for stage, cout in enumerate((16, 32, 64)):
        for i in range(blocks):
            layers.append(basic(cin, cout, 2 if stage and not i else 1, nn.ReLU))
            cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, KINDS))


def vit() -> Any:
    """Patches of 4 x 4, width 48, two encoder blocks."""
    from tests.torch_nets import Vit, randomise

    return randomise(Vit(48, SIDE, 4, KINDS), 3).train().requires_grad_()


def on_stamps(name: str, what: str, make: Callable[[], Any], epochs: int) -> Net:
    path = kept(f"{name}.onnx", lambda: as_trained(name, make, epochs)[1])
    x, labels = small_stamps(400, 2)
    right = Scorer(path).predict(x) == labels
    return Net(name, what, path, x[right], labels[right], *(np.full((1, 3, 1, 1), v, np.float32) for v in (-1, 1)), float(right.mean()))


def as_trained(name: str, make: Callable[[], Any], epochs: int) -> tuple[Any, onnx.ModelProto]:
    """The network in torch, trained once, and as ONNX with batch normalisation folded."""
    import torch

    from tests.torch_nets import export

    x, y = small_stamps(TRAINED, 1)
    path, network = WORK / f"{name}.pt", make()
    if path.exists():
        network.load_state_dict(torch.load(path))
    else:
        WORK.mkdir(parents=True, exist_ok=True)
        train(network, x, y, epochs)
        torch.save(network.state_dict(), path)
    return network.eval(), export(network.eval().requires_grad_(False), example=torch.from_numpy(x[:2]))


def train(network: Any, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """By Adam, one cycle of learning rates, in place."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    pictures, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=-(-len(x) // 64) * epochs)
    for epoch in range(epochs):
        losses = []
        for part in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(pictures[part]), labels[part])
            loss.backward()
            losses.append(float(loss.detach()))
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.3f}", file=sys.stderr, flush=True)


def resnet56() -> Net:
    return on_stamps("resnet56", "ResNet-56 (CIFAR's), trained on ten stamps at 32 x 32, 27 shortcuts", lambda: resnet(9), 3)


def vit_stamps() -> Net:
    return on_stamps("vit", "ViT, 64 patches, two blocks of width 48, trained on the same", vit, 20)


# ----- digits -----


def on_digits(name: str, what: str, make: Callable[[], Any], epochs: int) -> Net:
    x, y = digits()
    path = kept(f"{name}.onnx", lambda: trained(make, x[:TRAINED], y[:TRAINED], 0, epochs))
    right = Scorer(path).predict(x[-400:]) == y[-400:]
    black, white = (np.full((1, 1, 1, 1), v, np.float32) for v in (x.min(), x.max()))
    return Net(name, what, path, x[-400:][right], y[-400:][right], black, white, float(right.mean()))


def vgg_digits() -> Net:
    return on_digits("vgg9", "nine layers like VGG with batch-norm (folded), MNIST, no shortcuts", vgg9, 4)


def resnet_digits() -> Net:
    return on_digits("resnet10", "four basic blocks, MNIST, 4 shortcuts", small_resnet, 4)


NETS: dict[str, Callable[[], Net]] = {
    "lite0": lite0,
    "squeezenet": squeeze,
    "resnet56": resnet56,
    "vit": vit_stamps,
    "vgg9": vgg_digits,
    "resnet10": resnet_digits,
}


def names_of(model: Path) -> tuple[str, str]:
    """The model's input and output."""
    graph = load_model(model).graph
    weights = {t.name for t in graph.initializer}
    return next(i.name for i in graph.input if i.name not in weights), graph.output[0].name
