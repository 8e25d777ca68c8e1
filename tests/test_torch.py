"""Networks exported by both of PyTorch's exporters, explained by onnxsal and by PyTorch itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onnxsal
from tests.oracle import run
from tests.torch_nets import Lambda, export, exported, images, net, randomise, resnet18, swapped, torch_gradient, vgg

TOLERANCE = 1e-4


def assert_close(got: np.ndarray, wanted: Tensor | np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Equal up to ``tolerance`` times the largest element."""
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    scale = np.abs(wanted).max()
    assert scale > 0
    assert np.abs(got - wanted).max() <= tolerance * scale


# (network, exporter, opset, constant folding, fixed batch or None for a symbolic one)
EXPORTS = [
    ("resnet18", "legacy", 17, True, None),
    ("resnet18", "legacy", 18, False, None),
    ("resnet18", "dynamo", 20, True, None),
    ("resnet18", "legacy", 20, True, 1),
    ("resnet50", "legacy", 18, False, None),
    ("mobilenet", "legacy", 17, False, None),
    ("mobilenet", "legacy", 18, True, 5),
    ("mobilenet", "dynamo", 18, True, None),
    ("densenet", "legacy", 17, True, None),
    ("densenet", "dynamo", 20, True, None),
    ("vit", "legacy", 17, True, None),
    ("vit", "legacy", 20, False, None),
    ("vit", "dynamo", 20, True, None),
    ("vit", "dynamo", 18, False, 1),
    ("vgg_bn", "dynamo", 20, False, None),
    ("vgg_relu6", "dynamo", 18, True, 5),
]


@pytest.mark.parametrize(("name", "exporter", "opset", "fold", "fixed"), EXPORTS, ids=lambda v: str(v))
def test_gradient_equals_autograd(name: str, exporter: str, opset: int, fold: bool, fixed: int | None) -> None:
    model = net(name)
    explainer = onnxsal.Explainer(exported(name, exporter, opset, fold, fixed), "gradient")
    for batch in (1, 5) if fixed is None else (fixed,):
        x = images(batch, seed=batch)
        logits = model(x)
        for target in (None, 2):
            found = explainer.explain(x.numpy(), target)
            classes = logits.argmax(1) if target is None else torch.full((batch,), target)
            gradient, score = torch_gradient(model, x, classes)
            assert_close(found.attribution, gradient)
            np.testing.assert_array_equal(found.target, classes)
            assert_close(found.score, score)
            assert_close(found.saliency_map, gradient.abs().sum(1))
            (output,) = found.outputs.values()
            assert_close(output, logits)
            assert found.residual is None


def test_exports_are_as_different_as_they_look() -> None:
    """Folded or not, decomposed or not: the table above would prove little if the exporters wrote the same graph each time."""
    kept = Counter(n.op_type for n in exported("resnet18", "legacy", 18, fold=False).graph.node)
    folded = Counter(n.op_type for n in exported("resnet18", "legacy", 17).graph.node)
    assert kept["BatchNormalization"] == kept["Conv"] == folded["Conv"] == 20
    assert not folded["BatchNormalization"]
    plain = Counter(n.op_type for n in exported("vit", "legacy", 17).graph.node)
    assert plain["Erf"] == 2
    assert plain["LayerNormalization"] == 5


@pytest.mark.parametrize("name", ["vit", "mobilenet", "vgg_bn"])
def test_nothing_that_onnx_runtime_optimises_wrongly(name: str) -> None:
    """ONNX Runtime 1.31 breaks a Pad or Resize that names its axes when it moves a Transpose through it; exporters write Transposes."""
    for method in onnxsal.methods():
        try:
            converted = onnxsal.convert(exported(name), method)
        except onnxsal.OnnxsalError:
            continue
        bodies = [a.g for n in converted.graph.node for a in n.attribute if a.type == a.GRAPH]
        for n in (n for graph in (converted.graph, *bodies) for n in graph.node if n.name.startswith("onnxsal/")):
            assert n.op_type != "Pad" or len(n.input) < 4, f"{method}: {n.name}"
            assert n.op_type != "Resize" or not any(a.name == "axes" for a in n.attribute), f"{method}: {n.name}"


def test_targets_differ_per_sample() -> None:
    model, x = net("vgg"), images(4)
    classes = torch.tensor([6, 0, 3, 0])
    found = onnxsal.Explainer(export(model), "gradient").explain(x.numpy(), classes.numpy())
    assert_close(found.attribution, torch_gradient(model, x, classes)[0])


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_probability_score(exporter: str) -> None:
    """The derivative of the Softmax, in the file or added by the question; the logit of a file with a Softmax."""
    model, x = net("vgg_bn"), images(3) * 0.3
    gradient, score = torch_gradient(model, x, score="probability")
    with_softmax = export(nn.Sequential(model, nn.Softmax(1)).eval(), exporter)
    for written in (exported("vgg_bn", exporter), with_softmax):
        found = onnxsal.Explainer(written, "gradient", score="probability").explain(x.numpy())
        assert_close(found.attribution, gradient)
        assert_close(found.score, score)
    found = onnxsal.Explainer(with_softmax, "gradient").explain(x.numpy())
    assert_close(found.attribution, torch_gradient(model, x)[0])


def test_input_x_gradient() -> None:
    model, x = net("resnet18"), images(3)
    found = onnxsal.Explainer(exported("resnet18", opset=17), "input_x_gradient").explain(x.numpy())
    assert_close(found.attribution, torch_gradient(model, x)[0] * x)


def test_mixed_precision_model() -> None:
    """A float32 picture and float32 convolutions before a float64 classifier: the signal changes type where the model does."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            *layers, last = randomise(vgg(norm=True))
            self.features, self.classifier = nn.Sequential(*layers), last.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.features(x).double())

    model, x = Mixed().eval(), images(2)
    for score in ("logit", "probability"):
        gradient, _ = torch_gradient(model, x, score=score)
        found = onnxsal.Explainer(export(model), "gradient", score=score).explain(x.numpy())
        assert_close(found.attribution, gradient)
        assert found.attribution.dtype == np.float32


# ----- rectifier rules -----


class Guided(torch.autograd.Function):
    """Backward: 1[0 < z < top] 1[dy > 0] dy."""

    @staticmethod
    def forward(ctx: object, z: Tensor, top: float) -> Tensor:
        ctx.save_for_backward(z)  # type: ignore[attr-defined]
        ctx.top = top  # type: ignore[attr-defined]
        return z.clamp(0, top)

    @staticmethod
    def backward(ctx: object, dy: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return dy * ((z > 0) & (z < ctx.top) & (dy > 0)), None  # type: ignore[attr-defined]


class Deconv(torch.autograd.Function):
    """Backward: 1[dy > 0] dy."""

    @staticmethod
    def forward(ctx: object, z: Tensor, top: float) -> Tensor:
        return z.clamp(0, top)

    @staticmethod
    def backward(ctx: object, dy: Tensor) -> tuple[Tensor, None]:
        return dy * (dy > 0), None


CUSTOM = {"guided_backprop": Guided, "deconvnet": Deconv}


def with_custom_backward(model: nn.Module, function: type[torch.autograd.Function]) -> nn.Module:
    def swap(module: nn.Module) -> nn.Module | None:
        tops = {nn.ReLU: float("inf"), nn.ReLU6: 6.0}
        top = tops.get(type(module))
        return None if top is None else Lambda(lambda z: function.apply(z, top))

    return swapped(model, swap)


@pytest.mark.parametrize("method", CUSTOM)
@pytest.mark.parametrize(
    ("name", "exporter", "opset", "fold"),
    [
        ("vgg", "legacy", 17, True),
        ("vgg_bn", "dynamo", 20, False),
        ("resnet18", "legacy", 18, False),
        ("densenet", "legacy", 17, True),
        ("vgg_relu6", "legacy", 17, False),
    ],
)
def test_rectifier_rules_equal_a_custom_backward(method: str, name: str, exporter: str, opset: int, fold: bool) -> None:
    model, x = net(name), images(3)
    custom = with_custom_backward(model, CUSTOM[method])
    found = onnxsal.Explainer(exported(name, exporter, opset, fold), method).explain(x.numpy(), 4)
    wanted, score = torch_gradient(custom, x, [4] * 3)
    assert_close(found.attribution, wanted)
    assert_close(found.score, score)
    plain, _ = torch_gradient(model, x, [4] * 3)
    assert (wanted - plain).abs().max() > 0.1 * plain.abs().max()


def spellings(top: float) -> dict[str, nn.Module]:
    """Ways to write one activation: a module each, one module for all, in place, a function, a clamp, Max or Min."""
    reused = nn.ReLU() if top == float("inf") else nn.ReLU6()
    if top == float("inf"):
        ways = {
            "module": nn.ReLU,
            "reused": lambda: reused,
            "in place": lambda: nn.ReLU(inplace=True),
            "function": lambda: Lambda(F.relu),
            "function in place": lambda: Lambda(lambda x: F.relu(x, inplace=True)),
            "clamp": lambda: Lambda(lambda x: x.clamp(min=0)),
            "maximum": lambda: Lambda(lambda x: torch.maximum(x, torch.zeros(1))),
        }
    else:
        ways = {
            "module": nn.ReLU6,
            "reused": lambda: reused,
            "in place": lambda: nn.ReLU6(inplace=True),
            "function": lambda: Lambda(F.relu6),
            "clamp": lambda: Lambda(lambda x: x.clamp(0, 6)),
            "hardtanh": lambda: nn.Hardtanh(0, 6),
        }
    state = randomise(resnet18(stages=2)).state_dict()
    built = {name: resnet18(act=way, stages=2).eval() for name, way in ways.items()}
    for other in built.values():
        other.load_state_dict(state)
    return built


@pytest.mark.parametrize("top", [float("inf"), 6.0])
def test_spellings_of_the_rectifier_give_one_map(top: float) -> None:
    x = images(2)
    written = {name: export(model) for name, model in spellings(top).items()}
    for method in ("gradient", *CUSTOM):
        maps = {name: onnxsal.Explainer(model, method).explain(x.numpy()).attribution for name, model in written.items()}
        for name, other in maps.items():
            np.testing.assert_allclose(other, maps["module"], rtol=1e-5, atol=1e-6 * np.abs(other).max(), err_msg=f"{method}, {name}")


def test_rectifier_rule_without_a_rectifier_is_refused() -> None:
    """A GELU network has no ReLU to guide: the map would be the gradient under another name."""
    with pytest.raises(onnxsal.OnnxsalError, match="plain gradient under another name"):
        onnxsal.convert(exported("vit"), "guided_backprop")


def test_zero_gradient_at_zero() -> None:
    """Relu'(0) = 0 as in PyTorch: a black picture through bias-free convolutions has a zero gradient."""
    model, x = randomise(vgg(bias=False)), torch.zeros(1, 3, 32, 32)
    found = onnxsal.Explainer(export(model), "gradient").explain(x.numpy())
    assert not torch_gradient(model, x)[0].any()
    assert not found.attribution.any()


BENT = {
    "relu": F.relu,
    "relu6": F.relu6,
    "ReLU6": nn.ReLU6(),
    "Hardtanh(0, 6)": nn.Hardtanh(0.0, 6.0),
    "clamp": lambda x: torch.clamp(x, -1.0, 2.0),
    "x relu6(x + 3) / 6": lambda x: x * F.relu6(x + 3) / 6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
}


@pytest.mark.parametrize(("exporter", "fold"), [("legacy", True), ("dynamo", True), ("dynamo", False)])
def test_derivatives_at_the_ends_of_intervals(exporter: str, fold: bool) -> None:
    """At exactly the points where activations bend, one to a row, as PyTorch has it.

    What no file tells: Hardtanh(-1, 1) is exported as the Clip that torch.clamp is, and counts as that; torch.clamp(x, 0, 6) as a ReLU6.
    """
    rows = Lambda(lambda x: torch.cat([f(x[i : i + 1]) for i, f in enumerate(BENT.values())]))
    x = torch.tensor([[-9.0, -3.0, -1.0, 0.0, 0.5, 2.0, 3.0, 6.0, 9.0]]).repeat(len(BENT), 1).requires_grad_()
    made = onnxsal.vjp(export(rows, exporter, 18, fold, len(BENT), example=x.detach()))
    (wanted,) = torch.autograd.grad(rows(x).sum(), x)
    (source, out) = (i.name for i in made.graph.input)
    got = run(made, {source: x.detach().numpy(), out: np.ones(x.shape, np.float32)})[f"vjp/{source}"]
    for name, row, expected in zip(BENT, got, wanted, strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-6, err_msg=name)
