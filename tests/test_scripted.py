"""Modules that TorchScript exports with their branches, loops and lists, against autograd of the originals."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import onnxsal


class Steps(nn.Module):
    """A recurrence whose states are put into a list, and stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        states: list[Tensor] = []
        h = torch.zeros(x.size(0), 5)
        for t in range(x.size(1)):
            h = torch.tanh(self.inner(x[:, t]) + h * 0.5)
            states.append(h)
        return self.out(torch.stack(states, 1).mean(1))


class While(nn.Module):
    """Steps until the input is small, with another formula at every second step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = 0
        while bool(x.abs().sum() > 1.0) and n < 20:
            x = torch.tanh(self.inner(x)) * 0.6 if n % 2 == 0 else torch.sin(x) * 0.5
            n += 1
        return self.out(x)


class Chunks(nn.Module):
    """A list of parts of the input, gone through one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(2, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.size(0), 2)
        for part in x.split(2, 1):
            y = y + torch.tanh(self.inner(part)) * y.cos()
        return self.out(y)


CASES: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[int, str]]] = {
    "a list of any length": (Steps, (2, 5, 4), {0: "N", 1: "T"}),
    "a list of a known length": (Steps, (2, 5, 4), {0: "N"}),
    "while": (While, (1, 4), {}),
    "parts": (Chunks, (2, 6), {0: "N"}),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_autograd(name: str) -> None:
    make, shape, symbols = CASES[name]
    torch.manual_seed(0)
    net, buffer = make().eval(), io.BytesIO()
    x = torch.randn(*shape)
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": symbols}}
    torch.onnx.export(torch.jit.script(net), (x,), buffer, opset_version=17, dynamo=False, **names)
    explainer = onnxsal.Explainer(onnx.load_from_string(buffer.getvalue()), "gradient")
    for scale in (1.0, -2.0, 0.1):
        given = (scale * x).requires_grad_(True)
        (wanted,) = torch.autograd.grad(net(given)[:, 1].sum(), given)
        got = explainer.explain(given.detach().numpy(), 1).attribution
        assert np.abs(got - wanted.numpy()).max() <= 1e-5 * np.abs(wanted.numpy()).max()
