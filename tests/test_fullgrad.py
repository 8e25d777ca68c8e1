"""FullGrad: the decomposition is complete for every graph, and the maps are those of the authors' procedure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

import onnxsal
from onnxsal.errors import MethodError, UnsupportedError
from onnxsal.ops.axes import regrouped
from tests.nets import image_input, light
from tests.noise import normal
from tests.oracle import run
from tests.small_models import cnn, cnn_nhwc, draw, make, node, tokens
from tests.torch_nets import NETS, Lambda, SubMulAdd, export, exported, images, net, randomise, swapped, target_score, vgg

COMPLETE = 1e-4


def explain(
    model: onnx.ModelProto, x: np.ndarray | Tensor, target: object = None, method: str = "fullgrad", **options: object
) -> onnxsal.Explanation:
    return onnxsal.Explainer(model, method, components=True, **options).explain(np.asarray(x), target)  # type: ignore[arg-type]


def assert_complete(found: onnxsal.Explanation, tolerance: float = COMPLETE) -> None:
    """The residual is small and is what it says: the parts miss the score by that much."""
    assert found.residual is not None
    assert found.residual.shape == found.score.shape
    assert np.all(found.residual < tolerance)
    shares = found.components["fullgrad/shares"]
    assert shares.shape == (len(found.score), 3)
    np.testing.assert_allclose(shares.sum(1), found.score, rtol=2 * tolerance, atol=1e-6)


# ----- completeness -----


@pytest.mark.parametrize("name", [n for n in NETS if n != "resnet50"])
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as written"])
def test_complete(name: str, fold: bool) -> None:
    """ReLU, ReLU6, HardSwish, squeeze-excite products, attention, LayerNorm and GELU, with batch-norm folded or as it is."""
    explainer = onnxsal.Explainer(exported(name, opset=17 if fold else 20, fold=fold), components=True)
    for seed, target in ((0, None), (1, 3)):
        assert_complete(explainer.explain(images(3, seed=seed).numpy(), target))


@pytest.mark.parametrize(("name", "opset", "fold"), [("mobilenet", 18, True), ("vit", 20, True), ("vgg_bn", 20, False)])
def test_complete_for_the_other_exporter(name: str, opset: int, fold: bool) -> None:
    """dynamo without optimisation computes batch-norm parameters by Expand and CastLike: they are parameters all the same."""
    found = explain(exported(name, "dynamo", opset, fold), images(3))
    assert_complete(found)
    if name == "vgg_bn":
        assert not found.components["fullgrad/shares"][:, 2].any()


@pytest.mark.parametrize("name", ["vgg_relu6", "mobilenet", "densenet", "vit"])
def test_complete_for_a_probability(name: str) -> None:
    """Softmax added by the question, and Softmax in the file."""
    x = images(2) * 0.2
    assert_complete(explain(exported(name), x, score="probability"))
    assert_complete(explain(export(nn.Sequential(net(name), nn.Softmax(1)).eval()), x, score="probability"))


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_complete_for_networks_of_full_size(name: str) -> None:
    model = light(name)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    assert_complete(onnxsal.Explainer(model, "fullgrad", components=True).explain({image_input(model): x}))


def double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float64."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for node_ in model.graph.node:
        for attribute in node_.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
            elif node_.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: cnn(dtype=np.float64),
        lambda: double(export(randomise(vgg(act=nn.ReLU6, norm=True, size=8)), fold=False, size=8)),
        lambda: double(export(randomise(vgg(act=nn.Hardswish, norm=True, size=8)), fold=True, size=8)),
        lambda: double(exported("vit")),
    ],
    ids=["ReLU", "ReLU6, batch-norm as it is", "HardSwish, folded", "ViT"],
)
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_complete_to_the_last_bits_in_float64(build: Callable[[], onnx.ModelProto], score: str) -> None:
    """By ONNX's reference evaluator, as ONNX Runtime has no float64 convolution."""
    model = build()
    (given,) = [i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    size = given.type.tensor_type.shape.dim[2].dim_value
    x = np.random.default_rng(0).standard_normal((2, 3, size, size))
    found = run(onnxsal.convert(model, "fullgrad", score=score), {given.name: x})
    assert found["attribution"].dtype == np.float64
    assert np.all(found["residual"] < 1e-9)


def test_the_residual_sees_a_missing_part() -> None:
    """Planted: without the implicit bias of saturated units the same sum misses the score by far."""
    found = explain(exported("vgg_relu6"), images(3) * 3)
    own, explicit, implicit = found.components["fullgrad/shares"].T
    assert np.abs(implicit).min() > 1e-2
    assert np.all(np.abs(own + explicit - found.score) > 100 * COMPLETE * np.abs(found.score))


# ----- three spellings of batch normalisation -----


@pytest.mark.parametrize("bias", [True, False], ids=["convolutions with bias", "without"])
def test_forms_of_batch_normalisation(bias: bool) -> None:
    """Folded, BatchNormalization, Sub-Mul-Add: one sum. One map too, unless a folded convolution had a bias of its own."""
    model, x = randomise(vgg(norm=True, bias=bias)), images(3)
    decomposed = swapped(model, lambda m: SubMulAdd(m) if isinstance(m, nn.BatchNorm2d) else None)
    forms = {"folded": export(model), "kept": export(model, fold=False), "decomposed": export(decomposed, fold=False)}
    kinds = {name: {n.op_type for n in form.graph.node} for name, form in forms.items()}
    assert ("BatchNormalization" in kinds["kept"], "Sub" in kinds["decomposed"]) == (True, True)
    assert not {"BatchNormalization", "Sub"} & kinds["folded"]
    found = {name: explain(form, x) for name, form in forms.items()}
    for other in found.values():
        assert_complete(other)
        np.testing.assert_allclose(other.attribution, found["kept"].attribution, rtol=1e-3, atol=1e-5)
        shares, kept = other.components["fullgrad/shares"], found["kept"].components["fullgrad/shares"]
        np.testing.assert_allclose(shares, kept, rtol=1e-3, atol=1e-4)
        assert not shares[:, 2].any(), "batch normalisation has an explicit bias, however it is written"
    folded, kept = found["folded"].saliency_map, found["kept"].saliency_map
    if bias:
        assert np.abs(folded - kept).max() > 0.1 * kept.max()
    else:
        np.testing.assert_allclose(folded, kept, rtol=1e-3)


# ----- the maps -----


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias that a layer adds to each channel of its output."""
    if isinstance(module, nn.BatchNorm2d):
        return module.bias - module.running_mean * module.weight / torch.sqrt(module.running_var + module.eps)
    return module.bias if isinstance(module, nn.Conv2d | nn.Linear) else None


def full_gradient(model: nn.Module, x: Tensor, classes: Tensor | None = None) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor]:
    """(input gradient, [(gradient at the output, bias) of each layer with a bias], score), in float64."""
    model, x, layers = swapped(model, lambda m: None).double(), x.detach().double().requires_grad_(), []
    for module in model.modules():
        if bias_of(module) is not None:
            module.register_forward_hook(lambda m, _, y: layers.append((bias_of(m), y)))
    score = target_score(model(x), classes)
    at_x, *at_layers = torch.autograd.grad(score.sum(), [x, *(y for _, y in layers)])
    terms = [(g, b.reshape(1, -1, *[1] * (g.ndim - 2))) for g, (b, _) in zip(at_layers, layers, strict=True)]
    return at_x, terms, score.detach()


def rescaled(f: Tensor, rescale: str) -> Tensor:
    """(|f| - min) / (max - min + eps), per layer as the authors, per channel as pytorch-grad-cam."""
    axes, epsilon = ((1, 2, 3), 1e-6) if rescale == "layer" else ((2, 3), 1e-7)
    f = f.abs() - f.abs().amin(axes, keepdim=True)
    return f / (f.amax(axes, keepdim=True) + epsilon)


def paint(x: Tensor, at_x: Tensor, maps: list[Tensor], rescale: str = "layer", align_corners: bool = True) -> Tensor:
    """psi of the input term and of each layer's map, summed over channels -> [N, H, W]."""
    total = rescaled(at_x * x, rescale).sum(1)
    for f in maps:
        total = total + F.interpolate(rescaled(f, rescale), size=x.shape[2:], mode="bilinear", align_corners=align_corners).sum(1)
    return total


TWINS = [("vgg", True), ("vgg_bn", False), ("resnet18", False), ("densenet", True)]


@pytest.mark.parametrize(("name", "fold"), [*TWINS, ("resnet50", False)])
def test_map_equals_the_authors_procedure(name: str, fold: bool) -> None:
    model, x = net(name), images(3)
    at_x, terms, score = full_gradient(model, x)
    wanted = paint(x, at_x, [g * b for g, b in terms if g.ndim == 4]).numpy()
    found = explain(exported(name, fold=fold), x)
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * wanted.max(), rtol=0)
    at_input = (at_x * x).numpy()
    np.testing.assert_allclose(found.attribution, at_input, atol=1e-4 * np.abs(at_input).max(), rtol=0)
    # the decomposition itself, layer by layer: the twin's terms sum to the score as well
    explicit = sum((g * b).flatten(1).sum(1) for g, b in terms)
    np.testing.assert_allclose(found.components["fullgrad/shares"][:, 1], explicit, rtol=1e-3, atol=1e-4 * float(score.abs().max()))
    np.testing.assert_allclose(at_input.sum((1, 2, 3)) + explicit.numpy(), score, rtol=1e-9)


@pytest.mark.parametrize(("name", "fold"), TWINS)
def test_map_equals_pytorch_grad_cam(name: str, fold: bool) -> None:
    """Rescaled per channel and upsampled as OpenCV does, by the preset; up to the rescaling of the sum, which is left out."""
    model, x = net(name), images(3)
    at_x, terms, _ = full_gradient(model, x)
    maps = [g * b for g, b in terms if g.ndim == 4]
    wanted = paint(x, at_x, maps, "channel", align_corners=False).numpy()
    found = explain(exported(name, fold=fold), x, preset="pytorch_grad_cam")
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * wanted.max(), rtol=0)
    wanted = paint(x, at_x, maps, "channel").numpy()
    found = explain(exported(name, fold=fold), x, rescale="channel")
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * wanted.max(), rtol=0)


@pytest.mark.parametrize(("name", "fold"), TWINS)
def test_simple_fullgrad(name: str, fold: bool) -> None:
    """The gradient at the layers that own a bias, in place of gradient times bias."""
    model, x = net(name), images(2)
    at_x, terms, _ = full_gradient(model, x, torch.tensor([2, 2]))
    wanted = paint(x, at_x, [g for g, _ in terms if g.ndim == 4]).numpy()
    found = explain(exported(name, fold=fold), x, 2, "simple_fullgrad")
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * wanted.max(), rtol=0)
    assert found.residual is None


@pytest.mark.parametrize(("name", "fold"), [("vgg_bn", False), ("resnet18", False)])
@pytest.mark.parametrize("rescale", ["layer", "channel"])
def test_smooth_fullgrad(name: str, fold: bool, rescale: str) -> None:
    """Terms averaged over noisy pictures with their signs, then psi once; the input term is summed over channels before that."""
    model, x = net(name), images(2)
    classes = model(x).argmax(1)
    sigma = 0.15 * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    at_input, layers = torch.zeros(2, 1, 32, 32), []
    for noise in normal(3, 4, 3 * 32 * 32).reshape(4, 1, 3, 32, 32):
        point = x + sigma * torch.tensor(noise)
        at_x, terms, _ = full_gradient(model, point, classes)
        at_input = at_input + (at_x * point).sum(1, keepdim=True) / 4
        maps = [g * b / 4 for g, b in terms if g.ndim == 4]
        layers = [a + b for a, b in zip(layers, maps, strict=True)] if layers else maps
    wanted = paint(torch.ones_like(at_input), at_input, layers, rescale).numpy()
    found = explain(exported(name, fold=fold), x, None, "smooth_fullgrad", n_samples=4, seed=3, rescale=rescale, chunk=3)
    np.testing.assert_array_equal(found.target, classes)
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * wanted.max(), rtol=0)
    np.testing.assert_allclose(sum(found.components.values()), found.saliency_map, rtol=1e-4)


def test_map_of_the_folded_network_is_that_of_its_twin() -> None:
    """What is explained is the file: folded, it equals the authors' procedure on the folded network."""
    model, x = net("vgg_bn"), images(2)
    layers = list(swapped(model, lambda m: None))
    for i, module in enumerate(layers):
        if isinstance(module, nn.BatchNorm2d):
            layers[i - 1 : i + 1] = [torch.nn.utils.fusion.fuse_conv_bn_eval(layers[i - 1], module), nn.Identity()]
    at_x, terms, _ = full_gradient(nn.Sequential(*layers), x)
    wanted = paint(x, at_x, [g * b for g, b in terms if g.ndim == 4]).numpy()
    np.testing.assert_allclose(explain(export(model), x).saliency_map, wanted, atol=1e-4 * wanted.max(), rtol=0)


def test_implicit_biases_in_the_map() -> None:
    """``biases="all"`` adds the maps of saturated ReLU6 units, 6 times the gradient there."""
    model, x = net("vgg_relu6"), images(2) * 3
    taps: list[tuple[Tensor, Tensor]] = []
    watched = swapped(model, lambda m: None).double()
    for module in watched.modules():
        if isinstance(module, nn.ReLU6):
            module.register_forward_hook(lambda m, i, y: taps.append((i[0], y)))
    given = x.double().requires_grad_()
    signals = torch.autograd.grad(target_score(watched(given)).sum(), [y for _, y in taps])
    saturated = [g * 6 * (z > 6) for g, (z, _) in zip(signals, taps, strict=True) if g.ndim == 4]
    assert all(s.any() for s in saturated)
    at_x, terms, _ = full_gradient(model, x)
    wanted = paint(x, at_x, [*(g * b for g, b in terms if g.ndim == 4), *saturated]).numpy()
    found = explain(export(model, fold=False), x, biases="all")
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * wanted.max(), rtol=0)


# ----- components -----


@pytest.mark.parametrize("biases", ["explicit", "all"])
def test_components_are_the_parts(biases: str) -> None:
    """Maps add up to the saliency map; what is no part of it comes as a share of the score; all of the score is accounted for."""
    found = explain(exported("mobilenet", fold=False), images(3), biases=biases)
    maps = {k: v for k, v in found.components.items() if v.shape == (3, 32, 32)}
    sums = {k: v for k, v in found.components.items() if v.shape == (3,)}
    assert set(maps) | set(sums) | {"fullgrad/shares"} == set(found.components)
    np.testing.assert_allclose(sum(maps.values()), found.saliency_map, rtol=1e-5)
    assert "fullgrad/input" in maps
    kinds = {n.name: n.op_type for n in exported("mobilenet", fold=False).graph.node}
    shown = {kinds[k.removeprefix("fullgrad/")] for k in maps if k != "fullgrad/input"}
    assert shown == {"Conv", "BatchNormalization"} | ({"HardSwish", "HardSigmoid", "Mul"} if biases == "all" else set())


def test_components_without_a_picture_sum_to_the_score() -> None:
    """A vector input has the decomposition and the attribution, but no map: every bias term comes as a share."""
    weights = {"w1": draw(6, 5, seed=1), "b1": draw(5, seed=2), "w2": draw(5, 4, seed=3), "b2": draw(4, seed=4)}
    nodes = [node("Gemm", "x w1 b1", "h"), node("Gelu", "h", "g"), node("MatMul", "g w2", "m"), node("Add", "m b2", "y")]
    found = explain(make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights, opset=20), draw(3, 6))
    assert found.saliency_map is None
    assert set(found.components) == {"fullgrad/shares", "fullgrad/h", "fullgrad/g", "fullgrad/y"}
    terms = sum(v for k, v in found.components.items() if k != "fullgrad/shares")
    np.testing.assert_allclose(terms + found.attribution.sum(1), found.score, rtol=1e-5)
    np.testing.assert_allclose(found.components["fullgrad/shares"][:, 2], found.components["fullgrad/g"], rtol=1e-5)


def test_layers_choose_what_is_shown() -> None:
    model = exported("vgg_bn", fold=False)
    convolutions = [n.name for n in model.graph.node if n.op_type == "Conv"]
    x = images(2)
    every, some = explain(model, x), explain(model, x, layers=convolutions[:2])
    wanted = sum(every.components[k] for k in ("fullgrad/input", *(f"fullgrad/{c}" for c in convolutions[:2])))
    np.testing.assert_allclose(some.saliency_map, wanted, rtol=1e-5)
    np.testing.assert_array_equal(some.residual, every.residual)
    with pytest.raises(MethodError, match="did you mean"):
        explain(model, x, layers=[convolutions[0] + "x"])


# ----- layouts -----


def test_channels_last() -> None:
    """The same network on [N, H, W, C]: the same map, and components of the inner channels-first layers."""
    x = draw(3, 8, 8, 3)
    last, first = explain(cnn_nhwc(), x, biases="all"), explain(cnn(), x.transpose(0, 3, 1, 2), biases="all")
    assert_complete(last)
    np.testing.assert_allclose(last.saliency_map, first.saliency_map, rtol=1e-4)
    np.testing.assert_allclose(last.attribution, first.attribution.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-6)


def test_channels_last_all_the_way() -> None:
    """Dense layers over the last axis, and implicit biases between them: axes are followed, not assumed."""
    weights = {"w1": draw(3, 5, seed=1), "b1": draw(5, seed=2), "w2": draw(5, 4, seed=3), "axes": np.asarray([1, 2], np.int64)}
    weights |= {"zero": np.float32(0), "six": np.float32(6), "gain": np.float32(20)}
    nodes = [
        node("MatMul", "x w1", "m"),
        node("Add", "m b1", "a"),
        node("Mul", "a gain", "s"),
        node("Clip", "s zero six", "c"),
        node("MatMul", "c w2", "h"),
        node("ReduceMean", "h axes", "y", keepdims=0),
    ]
    x = draw(2, 6, 8, 3)
    found = explain(make(nodes, {"x": ["N", 6, 8, 3]}, {"y": ["N", 4]}, weights), x, biases="all")
    assert_complete(found)
    given = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    t = {k: torch.tensor(v, dtype=torch.float64) for k, v in weights.items() if k != "axes"}
    a = given @ t["w1"] + t["b1"]
    c = (20 * a).clamp(0, 6)
    out = (c @ t["w2"]).mean((1, 2))
    g_x, g_a, g_c = torch.autograd.grad(target_score(out).sum(), [given, a, c])
    pictures = (given, g_x, g_a * t["b1"], g_c * 6 * (20 * a > 6))
    image, at_x, *maps = (v.detach().permute(0, 3, 1, 2) for v in pictures)
    wanted = paint(image, at_x, maps).numpy()
    np.testing.assert_allclose(found.saliency_map, wanted, rtol=1e-4)


@pytest.mark.parametrize("batch", [None, 1, 3], ids=["symbolic", "batch 1", "batch 3"])
@pytest.mark.parametrize("heads", ["sequence first", "samples first"])
def test_samples_on_another_axis(heads: str, batch: int | None) -> None:
    """A transformer that works on [sequence, sample, feature], with sample and head merged: biases still go to their sample."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = heads == "sequence first"
            self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
            self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            if self.first:
                x = x.transpose(0, 1)
                s, n, e = x.shape
                q, k, v = (t.reshape(s, n * 2, e // 2).transpose(0, 1) for t in self.qkv(x).chunk(3, -1))
                mixed = (torch.softmax(q @ k.transpose(1, 2), -1) @ v).transpose(0, 1).reshape(s, n, e)
                return self.head(self.norm(x + self.out(mixed))).mean(0)
            n, s, e = x.shape
            q, k, v = (t.reshape(n, s, 2, e // 2).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            mixed = (torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(n, s, e)
            return self.head(self.norm(x + self.out(mixed))).mean(1)

    torch.manual_seed(0)
    model = Encoder().eval()
    x = torch.randn(batch or 3, 4, 6)
    written = export(model, batch=batch, example=x)
    found = explain(written, x.numpy())
    assert_complete(found)
    assert found.score.shape == (len(x),)
    for i in range(len(x)):  # one by one, there is no axis to mistake
        if batch is None:
            alone = explain(written, x[i : i + 1].numpy(), found.target[i])
            np.testing.assert_allclose(alone.components["fullgrad/shares"][0], found.components["fullgrad/shares"][i], rtol=1e-3, atol=1e-5)


def test_windows_of_a_picture() -> None:
    """Attention within windows, which are counted along the samples' axis, with an added position bias: no layer is painted from them."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
            self.qkv, self.position = nn.Linear(4, 12), nn.Parameter(torch.randn(1, 2, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x)).permute(0, 2, 3, 1)
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
            q, k, v = self.qkv(x).reshape(-1, 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
            x = (torch.softmax(q @ k.transpose(-1, -2) + self.position, -1) @ v).transpose(1, 2).reshape(-1, 4, c)
            x = x.reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
            return self.head(x.mean((1, 2)))

    torch.manual_seed(0)
    model = randomise(Windows(), 3)
    for batch in (None, 1, 2):
        written = export(model, batch=batch, size=8)
        for biases in ("explicit", "all"):
            found = explain(written, images(batch or 3, 8), biases=biases)
            assert_complete(found)
            assert found.saliency_map.shape == (batch or 3, 8, 8)
            kinds = {n.name: n.op_type for n in written.graph.node}
            shown = [kinds[k.removeprefix("fullgrad/")] for k, v in found.components.items() if v.ndim == 3 and k != "fullgrad/input"]
            assert shown == ["Conv"]


@pytest.mark.parametrize(
    ("before", "axis", "after", "wanted"),
    [
        (["N", 4, 6], 0, ["M", 6], 0),
        (["S", "N", 8], 1, ["S", "M", 4], 1),
        ([4, "N", 8], 1, [2, 2, "N", 8], 2),
        ([4, 1, 5, 8], 2, [4, 5, 8], 1),
        ([4, 5, 8], 1, [4, 1, 5, 8], 2),
        ([4, 5, 8], 1, [20, 8], None),
        ([None, 5, 8], 1, [None, 5, 8], 1),
        ([None, 5, 8], 1, [None, 8, 5], None),
        ([None, 5, 8], 1, [None, 5, 2, 4], 1),
    ],
)
def test_regrouped_axis(before: list, axis: int, after: list, wanted: int | None) -> None:
    moved = regrouped(before, axis, after)
    assert (None if moved is None else moved[0]) == wanted


def test_samples_that_run_fastest() -> None:
    """torch's own encoder turns [N, L, E] to [L, N, E] and joins both axes for its projections: sample n is every N-th row, from n on."""
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    net = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), Lambda(lambda t: t.mean(1)), nn.Linear(8, 3)
    ).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4)
    x = torch.randn(3, 5, 8)
    for batch in (None, 3):
        written = export(net, batch=batch, example=x)
        found = explain(written, x)
        assert_complete(found)
        alone = explain(export(net, batch=1, example=x[:1]), x[1:2])  # every axis is summed over where there is one sample
        shares = [e.components["fullgrad/shares"] for e in (found[1], alone)]
        np.testing.assert_allclose(*shares, rtol=1e-3, atol=1e-4)


def regrouped_twice(mixed: list[int]) -> onnx.ModelProto:
    """[2 samples, 2, 3], the samples second, in another shape, with a bias, and back."""
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Reshape", "t mixed", "r"),
        node("Add", "r b", "a"),
        node("Relu", "a", "h"),
        node("Reshape", "h back", "u"),
        node("ReduceSum", "u axes", "y", keepdims=0),
    ]
    weights = {"mixed": np.asarray(mixed), "b": draw(mixed[0], 1, seed=2), "back": np.asarray([2, 2, 3]), "axes": np.asarray([0])}
    return make(nodes, {"x": [2, 2, 3]}, {"y": [2, 3]}, weights)


def test_unknown_samples_are_refused() -> None:
    """Mixed beyond recognition in a model with a fixed batch of 2: no share per sample rather than a wrong one."""
    with pytest.raises(UnsupportedError, match="not known which axis of its output counts the samples"):
        onnxsal.convert(regrouped_twice([3, 4]), "fullgrad")


@pytest.mark.parametrize("mixed", [[4, 3], [12, 1], [2, 6]])
def test_samples_inside_an_axis_are_found(mixed: list[int]) -> None:
    """Rows in turn, or runs of three elements in turn, belong to each sample."""
    assert_complete(explain(regrouped_twice(mixed), draw(2, 2, 3, seed=5)))


def test_token_model_at_its_embedding() -> None:
    found = onnxsal.Explainer(tokens(), "fullgrad", input="embedded", components=True).explain(np.asarray([[1, 2, 3], [4, 5, 6]]))
    assert_complete(found)
    assert found.saliency_map is None


# ----- worked numbers -----


@pytest.mark.parametrize(("x", "parts", "score"), [(2.0, (0, 1, 0), 1.0), (0.5, (0.5, 1, -1), 0.5), (-1.0, (-1, 1, -1), -1.0)])
def test_worked_example(x: float, parts: tuple[float, ...], score: float) -> None:
    """f = a - relu(b - x) with a = b = 1: the terms of x, a and b."""
    nodes = [node("Sub", "b x", "z"), node("Relu", "z", "r"), node("Sub", "a r", "y")]
    model = make(nodes, {"x": ["N", 1]}, {"y": ["N", 1]}, {"a": np.float32([1]), "b": np.float32([1])})
    found = explain(model, np.float32([[x]]))
    assert found.score == [score]
    assert found.attribution == [[parts[0]]]
    assert found.components["fullgrad/y"] == [parts[1]]
    assert found.components["fullgrad/z"] == [parts[2]]
    assert found.residual == [0]


def test_worked_batch_normalisation() -> None:
    """gamma 2, beta 0.5, mean 3, variance 4: an effective bias of -2.5, and 2.5 at x = 5."""
    weights = {"g": np.float32([2]), "b": np.float32([0.5]), "m": np.float32([3]), "v": np.float32([4])}
    nodes = [node("BatchNormalization", "x g b m v", "n", epsilon=0.0), node("Flatten", "n", "y")]
    found = explain(make(nodes, {"x": ["N", 1, 1, 1]}, {"y": ["N", 1]}, weights), np.full((1, 1, 1, 1), 5, np.float32))
    assert found.components["fullgrad/shares"].tolist() == [[5.0, -2.5, 0.0]]
    assert found.score == [2.5]
