"""DeepLIFT against Captum's, and its law, summation to delta."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import onnxsal
from tests.oracle import run
from tests.small_models import double, make, node
from tests.torch_nets import Vit, conv_bn, export, images, mobilenet, net, randomise, vgg


def unshared(act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A network in which no module is used twice, as Captum needs it: batch normalisation, mean pooling, no shortcut.

    No max pool: Captum's contributions sum to the difference only behind some (see below).
    """
    return randomise(
        nn.Sequential(
            *conv_bn(3, 6, 5, 2, bias=True), act(), nn.AvgPool2d(3, 2, 1), *conv_bn(6, 8, 3), act(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(8 * 16, 20), act(), nn.Linear(20, 7),
        )
    )  # fmt: skip


@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.Softplus])
@pytest.mark.parametrize("reference", [0.0, "noise"])
def test_equals_captum(act: type[nn.Module], reference: float | str) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = unshared(act), images(3)
    x0 = torch.zeros_like(x) if reference == 0.0 else images(3, seed=9) * 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = captum.DeepLift(copy.deepcopy(model).double()).attribute(x.double(), x0.double(), target=2).detach().numpy()
    exported = export(model, fold=False)  # folded weights would be rounded to float32
    made = onnxsal.convert(double(exported), "deeplift", target=2)
    got = run(made, {"input": x.numpy().astype(np.float64), "baseline": x0.numpy().astype(np.float64)})
    assert np.abs(got["attribution"] - wanted).max() <= 1e-6 * np.abs(wanted).max()  # thresholds: 1e-7 here, 1e-10 there
    assert got["residual"].max() < 1e-9
    explainer = onnxsal.Explainer(exported, "deeplift")
    found = explainer.explain(x.numpy(), 2) if reference == 0.0 else explainer.explain(x.numpy(), 2, baseline=x0.numpy())
    # float32: differences of a flat function are rounded away (measured: Sigmoid 3e-3, Captum itself 3e-3; others 2e-5; ReLU 2e-7)
    tolerance = 1e-2 if act is nn.Sigmoid else 1e-4
    assert np.abs(found.attribution - wanted).max() <= tolerance * np.abs(wanted).max()
    assert found.residual is not None
    assert found.residual.max() < 1e-4


POOLED = {
    "pool": [nn.MaxPool2d(2)],
    "ReLU, pool": [nn.ReLU(), nn.MaxPool2d(2)],
    "ReLU, overlapping pool": [nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
}


@pytest.mark.parametrize("reference", [0.0, "noise"])
@pytest.mark.parametrize("layers", POOLED)
def test_max_pools_equal_captum_where_captum_sums_to_the_difference(layers: str, reference: float | str) -> None:
    """Behind a ReLU and with a reference that is not constant Captum (0.9) misses the difference by a third; ours meets it always."""
    captum = pytest.importorskip("captum.attr")
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *POOLED[layers], nn.Flatten(), nn.Linear(4 * 256, 5)))
    x = images(3).double()
    x0 = torch.zeros_like(x) if reference == 0.0 else images(3, seed=9).double() * 0.5
    made = onnxsal.convert(double(export(model)), "deeplift", target=2)
    got = run(made, {"input": x.numpy(), "baseline": x0.numpy()})["attribution"]
    wide = copy.deepcopy(model).double()
    delta = (wide(x) - wide(x0))[:, 2].numpy()
    np.testing.assert_allclose(got.sum((1, 2, 3)), delta, rtol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = captum.DeepLift(wide).attribute(x, x0, target=2).detach().numpy()
    if np.abs(wanted.sum((1, 2, 3)) - delta).max() < 1e-6 * np.abs(delta).max():
        assert np.abs(got - wanted).max() <= 1e-9 * np.abs(wanted).max()
    else:
        assert layers != "pool"
        assert reference == "noise"


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet", "densenet", "vgg_bn", "vgg_relu6"])
def test_contributions_sum_to_the_difference(name: str) -> None:
    """Shortcuts, gates, concatenations and overlapping max pools included."""
    model, x = net(name), images(3)
    found = onnxsal.Explainer(export(model), "deeplift", baseline=0.1).explain(x.numpy())
    scores = [model(t).gather(1, torch.as_tensor(found.target)[:, None])[:, 0] for t in (x, torch.full_like(x, 0.1))]
    np.testing.assert_allclose(found.attribution.sum((1, 2, 3)), (scores[0] - scores[1]).numpy(), rtol=1e-4, atol=1e-5)
    assert found.residual is not None
    assert found.residual.max() < 1e-4  # measured: 1.1e-5 at most
    made = onnxsal.convert(double(export(model)), "deeplift", baseline=0.1)
    assert run(made, {"input": x.numpy().astype(np.float64)})["residual"].max() < 1e-10


def test_products_and_quotients_of_activations_sum_to_the_difference() -> None:
    """y = sum (a b) a / (1 + exp a), in float64."""
    w = np.random.default_rng(0).standard_normal((4, 4))
    model = make(
        [
            node("Relu", "x", "a"),
            node("MatMul", "x w", "b"),
            node("Mul", "a b", "p"),
            node("Exp", "b", "e"),
            node("Add", "e one", "d"),
            node("Div", "p d", "q"),
            node("MatMul", "q w", "y"),
        ],
        {"x": ["N", 4]},
        {"y": ["N", 4]},
        {"w": w, "one": np.ones(1)},
        types={"x": 11, "y": 11},
    )
    made = onnxsal.convert(model, "deeplift", target=1)
    x = np.random.default_rng(1).standard_normal((5, 4))
    got = run(made, {"x": x})
    delta = run(model, {"x": x})["y"][:, 1] - run(model, {"x": 0 * x})["y"][:, 1]
    np.testing.assert_allclose(got["attribution"].sum(1), delta, rtol=1e-9, atol=1e-12)
    assert got["residual"].max() < 1e-8


def test_an_input_at_its_reference_contributes_nothing() -> None:
    model = randomise(vgg())
    found = onnxsal.Explainer(export(model), "deeplift").explain(np.zeros((1, 3, 32, 32), np.float32))
    assert not found.attribution.any()


def test_what_deeplift_does_not_explain_is_refused() -> None:
    with pytest.raises(onnxsal.OnnxsalError, match="couples a whole axis"):
        onnxsal.convert(export(randomise(Vit())), "deeplift")
    with pytest.raises(onnxsal.OnnxsalError, match="score=logit"):
        onnxsal.convert(export(randomise(mobilenet())), "deeplift", score="probability")
