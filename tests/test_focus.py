"""Focus: its map is its formula, by autograd; it obeys no law and says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import onnxsal
from onnxsal.methods.build import keeps_law
from tests.small_models import cnn, draw
from tests.torch_nets import Residual, export, images, net, swapped


def scaled(m: Tensor) -> Tensor:
    """(m - min) / (max - min) of each map."""
    above = m - m.amin((1, 2), keepdim=True)
    return above / above.amax((1, 2), keepdim=True)


def squeezed(m: Tensor) -> Tensor:
    return torch.tanh(m / m.square().mean((1, 2), keepdim=True).sqrt())


def blurred(m: Tensor, sigma: float) -> Tensor:
    """A Gaussian cut off at four standard deviations, borders repeated."""
    side = int(np.ceil(4 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-side, side + 1, dtype=m.dtype) / sigma) ** 2)
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    return F.conv2d(F.pad(m[:, None], (side,) * 4, mode="replicate"), kernel)[:, 0]


def up(m: Tensor, size: int) -> Tensor:
    """Bilinear, sums kept."""
    return F.interpolate(m[:, None], (size, size), mode="bilinear")[:, 0] * (m.shape[1] * m.shape[2] / size**2)


@pytest.mark.parametrize(("name", "last", "cuts"), [("resnet18", 11, 8), ("vgg", 9, 0)])
@pytest.mark.parametrize("blur", [2.0, 0.7])
def test_the_map_is_its_formula(name: str, last: int, cuts: int, blur: float) -> None:
    size = 64 if cuts else 32
    network, x = swapped(net(name), lambda m: None).double(), images(2, size).double().requires_grad_()
    seen: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, Residual):
            module.act.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    network[last].register_forward_hook(lambda m, given, y: seen.append(y))
    scores = network(x)
    chosen = scores.argmax(1)
    at_x, *signals = torch.autograd.grad(scores.gather(1, chosen[:, None]).sum(), [x, *seen])
    layer, at_layer = seen.pop().detach(), signals.pop()
    assert len(seen) == cuts
    coarse = up((at_layer.mean((2, 3), keepdim=True) * layer).sum(1).relu(), size)
    own = (x * at_x).detach()
    fine = scaled(own.abs().sum(1))
    exponent = squeezed(own.sum(1))
    products = [(a * g).detach() for a, g in zip(seen, signals, strict=True)]
    if products:
        fine = fine + sum(scaled(up(p.abs().sum(1), size)) for p in products)
        exponent = exponent + squeezed(sum(up(p.sum(1), size) for p in products))
    wanted = (coarse / coarse.amax((1, 2), keepdim=True) + 0.4 * scaled(blurred(fine, blur))) * torch.exp(0.5 * exponent)
    found = onnxsal.Explainer(export(net(name), size=size), "focus", blur=blur).explain(
        x.detach().numpy().astype(np.float32), chosen.numpy()
    )
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * float(wanted.max()))
    np.testing.assert_allclose(found.attribution.sum(1), found.saliency_map, rtol=1e-4, atol=1e-6)


def test_it_obeys_no_law_and_says_so() -> None:
    method = onnxsal.methods()["focus"]
    assert "experimental" in method.title
    assert not method.law
    assert not keeps_law(method)
    assert "residual" not in {o.name for o in onnxsal.convert(cnn(), "focus").graph.output}


def test_pictures_of_one_colour_and_no_blur_have_finite_maps() -> None:
    x = np.concatenate([np.zeros((1, 3, 8, 8)), np.full((1, 3, 8, 8), 0.7), draw(1, 3, 8, 8)]).astype(np.float32)
    for blur in (0, 2):
        found = onnxsal.Explainer(cnn(), "focus", blur=blur).explain(x)
        assert np.isfinite(found.saliency_map).all()
        assert found.saliency_map[2].any()
