"""LRP on networks: conservation, the published code for residual networks restated, other tools, spellings of one network."""

from __future__ import annotations

import copy
import importlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onnxsal
from onnxsal.metrics import Conservation, conservation
from tests.nets import light
from tests.oracle import run
from tests.small_models import double
from tests.torch_nets import Residual, SubMulAdd, Vit, dead_resnet, export, images, mobilenet, net, randomise, swapped, vgg

LITE0 = Path(__file__).parent.parent / "models" / "efficientnet_lite0.onnx"
RELEVANCE = [name for name, m in onnxsal.methods().items() if m.wrap == "relevance"]


def sums(model: onnx.ModelProto | Path, x: np.ndarray, method: str = "lrp_resnet", **parameters: object) -> Conservation:
    return conservation(onnxsal.Explainer(model, method, components=True, **parameters), x)


@cache
def light_resnet() -> onnx.ModelProto:
    return light("resnet50")


# ----- conservation -----


@pytest.mark.parametrize("split", ["ratio", "symmetric"])
@pytest.mark.parametrize("name", ["lite0", "light_resnet50", "resnet18", "densenet", "mobilenet"])
def test_relevance_is_conserved_without_biases(name: str, split: str) -> None:
    """At the input, after the first and before the last block, and wherever else all paths meet: the score, to 1e-3."""
    if name == "lite0":
        model, x = LITE0, np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    elif name == "light_resnet50":
        model, x = light_resnet(), np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    else:
        model, x = export(net(name)), images(3).numpy()
    result = sums(model, x, split=split)
    blocks = {"lite0": 9, "light_resnet50": 16, "resnet18": 8, "mobilenet": 2}.get(name, 0)
    assert len(result.blocks) == blocks
    assert np.abs(result.error).max() < 1e-3  # measured: 1.4e-4 at most (densenet), the stabiliser of mean pools
    assert result.accounted.max() < 1e-5
    assert not result.warnings


@pytest.mark.parametrize("method", RELEVANCE)
@pytest.mark.parametrize("name", ["resnet18", "vgg"])
def test_every_share_is_accounted_for(method: str, name: str) -> None:
    """Input + bias shares + leak = score at every cut, in float64 to 1e-9; the residual says the same."""
    bounds = {"low": -4.0, "high": 4.0} if "low" in onnxsal.methods()[method].parameters else {}
    model = double(export(net(name)))
    x = images(2).numpy().astype(np.float64)
    made = onnxsal.convert(model, method, components=True, **bounds)
    got = run(made, {"input": x})
    score = got["explained_score"].astype(np.float64)
    for key, value in got.items():
        if key.startswith("relevance/"):
            scale = np.abs(value).sum(1) + np.abs(score)
            assert (np.abs(value.astype(np.float64).sum(1) - score) <= 1e-6 * scale).all(), key  # components are float32
    assert got["residual"].max() < 1e-8
    assert got["attribution"].sum((1, 2, 3)) == pytest.approx(got["relevance/shares"][:, 0], rel=1e-5, abs=1e-6)


def test_absorbed_biases_sum_to_the_score_in_single_precision() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    for method in ("lrp_epsilon", "lrp_epsilon_plus"):
        for model in (LITE0, light_resnet()):
            result = sums(model, x, method)
            assert result.accounted.max() < 1e-5, method
            assert np.abs(result.bias[:, -1]).max() > 0.1 * np.abs(result.score).max()


# ----- no NaN -----


@pytest.mark.parametrize("method", RELEVANCE)
def test_dead_channels_and_black_pictures_give_finite_maps(method: str) -> None:
    model = dead_resnet()
    bounds = {"low": -4.0, "high": 4.0} if "low" in onnxsal.methods()[method].parameters else {}
    for black in (False, True):
        x = images(2).numpy() * np.float32(not black)
        for preset in (None, *onnxsal.methods()[method].presets):
            chosen = {"preset": preset} if preset else bounds
            found = onnxsal.Explainer(export(model), method, **chosen).explain(x)
            assert np.isfinite(found.attribution).all()
            assert np.isfinite(found.saliency_map).all()
            assert np.isfinite(found.residual).all()


# ----- the published code for residual networks, restated -----


def keio(model: nn.Sequential, x: Tensor, split: str = "ratio") -> Tensor:
    """Formulas of the published code, one step after the other, for a chain of layers and basic or bottleneck blocks."""

    def zplus(layer: nn.Conv2d, a: Tensor, r: Tensor) -> Tensor:
        up = layer.weight.clamp(min=0)
        z = F.conv2d(a, up, layer.bias, layer.stride, layer.padding) + 1e-5

        def forward(t: Tensor) -> Tensor:
            return F.conv2d(t, up, None, layer.stride, layer.padding)

        _, c = torch.autograd.functional.vjp(forward, a, r / z)
        return a * c

    def dense(layer: nn.Linear, a: Tensor, r: Tensor) -> Tensor:
        up = layer.weight.clamp(min=0)
        return a * ((r / (a @ up.T + 1e-5)) @ up)

    def mean(size: int, a: Tensor, r: Tensor) -> Tensor:
        z = F.avg_pool2d(a, size) + 1e-5
        return a * F.interpolate(r / z, scale_factor=size, mode="nearest") / size**2

    def back(layers: list[nn.Module], a: Tensor, r: Tensor) -> Tensor:
        """Relevance at the first layer's input; ``a`` is that input."""
        inputs = [a]
        for layer in layers[:-1]:
            inputs.append(layer(inputs[-1]))
        for layer, given in zip(reversed(layers), reversed(inputs), strict=True):
            r = one(layer, given, r)
        return r

    def one(layer: nn.Module, a: Tensor, r: Tensor) -> Tensor:
        if isinstance(layer, nn.Conv2d):
            return zplus(layer, a, r)
        if isinstance(layer, nn.Linear):
            return dense(layer, a, r)
        if isinstance(layer, nn.MaxPool2d):
            return mean(2, a, r)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            return mean(a.shape[-1], a, r)
        if isinstance(layer, nn.Flatten):
            return r.reshape(a.shape)
        if isinstance(layer, Residual):
            return block(layer, a, r)
        assert isinstance(layer, nn.BatchNorm2d | nn.ReLU)
        return r

    def block(layer: Residual, a: Tensor, r: Tensor) -> Tensor:
        f, s = layer.branch(a), layer.shortcut(a)
        plain = isinstance(layer.shortcut, nn.Identity)
        total = f.abs() + s.abs()
        share = torch.where(total == 0, 0.5, f.abs() / total.clamp(min=1e-45))
        if split == "symmetric":
            share = torch.full_like(f, 0.5)
        if split == "latest" and plain:
            share = torch.ones_like(f)
        main = back(list(layer.branch), a, r * share)
        rest = r * (1 - share)
        return main + (rest if plain else back(list(layer.shortcut), a, rest))

    layers = list(model)
    logits = model(x)
    p, top = F.softmax(logits, 1).max(1)
    r = torch.zeros_like(logits).scatter(1, top[:, None], p[:, None])
    first, *others = layers
    inputs = [first(x)]
    for layer in others[:-1]:
        inputs.append(layer(inputs[-1]))
    for layer, given in zip(reversed(others), reversed(inputs), strict=True):
        r = one(layer, given, r)
    return zplus(first, torch.ones_like(x), r)  # the stored picture is replaced by ones


@pytest.mark.parametrize(("preset", "split"), [("keio", "ratio"), ("keio_symmetric", "symmetric"), ("keio_latest", "latest")])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_keio_presets_equal_the_restated_steps(name: str, preset: str, split: str) -> None:
    model, x = net(name), images(2, seed=4)
    exported = export(model, "legacy", 18, fold=False)
    assert any(n.op_type == "BatchNormalization" for n in exported.graph.node)
    for proto in (exported, export(nn.Sequential(model, nn.Softmax(1)).eval(), "legacy", 18, fold=False)):
        found = onnxsal.Explainer(proto, "lrp_resnet", preset=preset).explain(x.numpy())
        with torch.enable_grad():
            wanted = keio(model, x, split).detach().numpy()
        assert np.abs(found.attribution - wanted).max() <= 1e-4 * np.abs(wanted).max()
        np.testing.assert_allclose(found.saliency_map, wanted.sum(1), atol=1e-4 * np.abs(wanted).max() * 3)
        np.testing.assert_allclose(found.score, F.softmax(model(x), 1).max(1).values, rtol=1e-4)


# ----- one network in many spellings -----


@pytest.mark.parametrize("method", RELEVANCE)
def test_spellings_of_one_network_give_one_map(method: str) -> None:
    """Batch normalisation as a node, folded, as Sub-Mul-Add; Sum for Add; and the exporters' ways."""
    model, x = net("resnet18"), images(2).numpy()
    bounds = {"low": -4.0, "high": 4.0} if "low" in onnxsal.methods()[method].parameters else {}
    spelled = swapped(model, lambda m: SubMulAdd(m) if isinstance(m, nn.BatchNorm2d) else None).eval()
    kept = export(model, "legacy", 18, fold=False)
    summed = onnx.ModelProto.FromString(kept.SerializeToString())
    for item in summed.graph.node:
        if item.op_type == "Add":
            item.op_type = "Sum"
    others = {"folded": export(model, "legacy", 17), "sub-mul-add": export(spelled, "legacy", 18, fold=False), "sum": summed}
    wanted = onnxsal.Explainer(kept, method, **bounds).explain(x, 3).attribution
    for name, other in others.items():
        got = onnxsal.Explainer(other, method, **bounds).explain(x, 3).attribution
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max(), (method, name)  # measured: 1.3e-6 at most


def test_channels_last_gives_the_same_map() -> None:
    model, x = net("resnet18"), images(2).numpy()
    plain = export(model, "legacy", 18, fold=False)
    turned = onnx.ModelProto.FromString(plain.SerializeToString())
    (given,) = [i for i in turned.graph.input if i.name == "input"]
    dims = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    turned.graph.input.remove(given)
    turned.graph.input.append(onnx.helper.make_tensor_value_info("nhwc", 1, [dims[0], dims[2], dims[3], dims[1]]))
    first = onnx.helper.make_node("Transpose", ["nhwc"], ["input"], perm=[0, 3, 1, 2], name="to_nchw")
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in turned.graph.node]
    del turned.graph.node[:]
    turned.graph.node.extend([first, *nodes])
    for method, more in (("lrp_resnet", {}), ("lrp_epsilon_gamma_box", {"low": [-4.0, -5.0, -6.0], "high": 4.0})):
        wanted = onnxsal.Explainer(plain, method, **more).explain(x, 3)
        got = onnxsal.Explainer(turned, method, **more).explain(x.transpose(0, 2, 3, 1), 3)
        assert np.abs(got.attribution.transpose(0, 3, 1, 2) - wanted.attribution).max() <= 1e-4 * np.abs(wanted.attribution).max()
        np.testing.assert_allclose(got.saliency_map, wanted.saliency_map, atol=1e-4 * np.abs(wanted.saliency_map).max())


def test_bounds_are_those_of_the_models_input() -> None:
    """A network that normalises its pictures itself: the box is 0..255 outside, and what that becomes inside."""
    model, x = net("vgg"), images(2)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).reshape(1, 3, 1, 1)

    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, pixels: Tensor) -> Tensor:
            return self.net((pixels / 255 - mean) / std)

    pixels = (x * std + mean) * 255
    low, high = ((-mean / std).reshape(-1).tolist(), ((1 - mean) / std).reshape(-1).tolist())
    wanted = onnxsal.Explainer(export(model), "lrp_epsilon_gamma_box", low=low, high=high).explain(x.numpy(), 1)
    got = onnxsal.Explainer(export(Normalising().eval()), "lrp_epsilon_gamma_box", low=0.0, high=255.0).explain(pixels.numpy(), 1)
    assert np.abs(got.attribution - wanted.attribution).max() <= 1e-3 * np.abs(wanted.attribution).max()
    with pytest.raises(onnxsal.OnnxsalError, match="need the preprocessing"):
        onnxsal.convert(export(model), "lrp_epsilon_gamma_box")
    edges = {"black": np.full((1, 3, 1, 1), -2.0, np.float32), "white": np.full((1, 3, 1, 1), 2.0, np.float32)}
    named = onnxsal.Explainer(export(model), "lrp_epsilon_gamma_box", **edges).explain(x.numpy(), 1)
    plain = onnxsal.Explainer(export(model), "lrp_epsilon_gamma_box", low=-2.0, high=2.0).explain(x.numpy(), 1)
    np.testing.assert_array_equal(named.attribution, plain.attribution)


# ----- relations, refusals, other tools -----


def test_lrp_zero_without_biases_is_input_times_gradient() -> None:
    model, x = randomise(vgg(bias=False)), images(2).numpy()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()
    wanted = onnxsal.Explainer(export(model), "input_x_gradient").explain(x, 1).attribution
    found = onnxsal.Explainer(export(model), "lrp_zero").explain(x, 1)
    assert np.abs(found.attribution - wanted).max() <= 1e-3 * np.abs(wanted).max()
    assert found.residual.max() < 1e-3


def test_forward_part_size_and_defaults() -> None:
    """The file stays small, the model's own outputs stay, and no default is an LRP method."""
    exported = export(net("resnet18"))
    x = images(2).numpy()
    before = run(exported, {"input": x})["output"]
    for method in ("lrp_epsilon", "lrp_resnet", "lrp_alpha2_beta1"):
        np.testing.assert_array_equal(run(onnxsal.convert(exported, method), {"input": x})["output"], before)
    source = LITE0.read_bytes()
    for method in ("lrp_epsilon", "lrp_resnet"):
        assert len(onnxsal.convert(source, method).SerializeToString()) <= 1.05 * len(source)
    assert onnxsal.Explainer(exported).method not in RELEVANCE


def test_what_has_no_rule_is_refused_with_a_reason() -> None:
    with pytest.raises(onnxsal.OnnxsalError, match="softmax inside a network"):
        onnxsal.convert(export(randomise(Vit())), "lrp_epsilon")
    with pytest.raises(onnxsal.OnnxsalError, match="is not one of"):
        onnxsal.convert(export(net("vgg")), "lrp_resnet", split="other")


def test_gates_take_no_relevance() -> None:
    """Squeeze-and-excite, swish and hard swish, whatever the exporter made of them."""
    model = randomise(mobilenet(act=nn.SiLU))
    found = onnxsal.Explainer(export(model), "lrp_resnet").explain(images(2).numpy())
    assert np.isfinite(found.attribution).all()
    assert found.residual.max() < 1e-3


def test_the_same_on_any_batch() -> None:
    x = images(3).numpy()
    explainer = onnxsal.Explainer(export(net("resnet18")), "lrp_resnet")
    whole = explainer.explain(x)
    for i in range(3):
        one = explainer.explain(x[i : i + 1])
        np.testing.assert_allclose(one.attribution[0], whole.attribution[i], rtol=1e-3, atol=1e-5 * np.abs(one.attribution).max())
        np.testing.assert_allclose(one.residual, whole.residual[i : i + 1], atol=1e-5)


ZENNIT = {
    "lrp_epsilon_plus": ("EpsilonPlus", {}),
    "lrp_alpha2_beta1": ("EpsilonAlpha2Beta1", {"preset": "zennit"}),
    "lrp_epsilon_plus_flat": ("EpsilonPlusFlat", {}),
    "lrp_epsilon_gamma_box": ("EpsilonGammaBox", {"low": -4.0, "high": 4.0}),
}


@pytest.mark.parametrize("method", ZENNIT)
def test_equals_zennit(method: str) -> None:
    """A network like VGG, positive and negative biases, the same weights."""
    with suppress(ModuleNotFoundError):  # the package wants torchvision, for networks that are not used here; its modules do not
        importlib.import_module("zennit")
    composites = pytest.importorskip("zennit.composites")
    attribution = pytest.importorskip("zennit.attribution")
    name, given = ZENNIT[method]
    model, x = net("vgg"), images(2)
    options = {"low": torch.full((1, 3, 1, 1), -4.0), "high": torch.full((1, 3, 1, 1), 4.0)} if "low" in given else {}
    logits = model(x)
    top = logits.argmax(1)
    seed = torch.zeros_like(logits).scatter(1, top[:, None], logits.gather(1, top[:, None]))
    with attribution.Gradient(copy.deepcopy(model).requires_grad_(), getattr(composites, name)(**options)) as attributor:
        _, wanted = attributor(x.clone(), seed)
    found = onnxsal.Explainer(export(model), method, **given).explain(x.numpy())
    wanted = wanted.detach().numpy()
    assert np.abs(found.attribution - wanted).max() <= 1e-5 * np.abs(wanted).max()  # measured with 0.5.1: 1.3e-6 at most
