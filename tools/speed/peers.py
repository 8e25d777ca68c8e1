"""PyTorch and its libraries on the same network and input, beside plain inference in ONNX Runtime in the same process."""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tools.speed.measure import Found, feed, pairs, ratios, session

Run = Callable[[], Any]


def forward(network: Any, x: Any, target: Any) -> Run:
    import torch

    def run() -> Any:
        with torch.no_grad():
            return network(x)

    return run


def captum(name: str, **fixed: Any) -> Callable[..., Run]:
    """A method of Captum by its class, of the predicted class, with ``fixed`` settings and a number of steps, if it has such."""

    def made(network: Any, x: Any, target: Any, **steps: int) -> Run:
        from captum import attr

        method = getattr(attr, name)(network)
        return lambda: method.attribute(x, target=target, **fixed, **steps)

    return made


def epsilon_plus(network: Any, x: Any, target: Any) -> Run:
    """Zennit's composite EpsilonPlus."""
    import torch

    with suppress(ModuleNotFoundError):  # it wants torchvision, for networks that are not used here; its modules do not
        importlib.import_module("zennit")
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus

    with torch.no_grad():
        seed = torch.zeros_like(network(x))
    seed.scatter_(1, target[:, None], 1)

    def run() -> Any:
        with Gradient(network, EpsilonPlus()) as attributor:
            return attributor(x.clone(), seed)

    return run


def grad_cam(name: str) -> Callable[..., Run]:
    """A method of pytorch-grad-cam by its class, at the last convolution."""

    def made(network: Any, x: Any, target: Any) -> Run:
        import pytorch_grad_cam
        from torch import nn

        layer = [m for m in network.modules() if isinstance(m, nn.Conv2d)][-1]
        method = getattr(pytorch_grad_cam, name)(network, [layer])
        return lambda: method(x)

    return made


PEERS: dict[str, tuple[str, str, Callable[..., Run]]] = {
    "PyTorch, forward": ("", "torch", forward),
    "Captum Saliency": ("gradient", "captum", captum("Saliency")),
    "Captum GuidedBackprop": ("guided_backprop", "captum", captum("GuidedBackprop")),
    "Captum DeepLift": ("deeplift", "captum", captum("DeepLift")),
    "Captum IntegratedGradients": ("integrated_gradients", "captum", captum("IntegratedGradients", internal_batch_size=5)),
    "Zennit EpsilonPlus": ("lrp_epsilon_plus", "zennit", epsilon_plus),
    "pytorch-grad-cam FullGrad": ("fullgrad", "pytorch_grad_cam", grad_cam("FullGrad")),
    "pytorch-grad-cam GradCAM": ("gradcam", "pytorch_grad_cam", grad_cam("GradCAM")),
}
"""Peer -> the method of ours that it stands beside, the package that it needs, and what makes its run."""


def peers_of(methods: list[str]) -> list[str]:
    """The peers of these methods, PyTorch itself first."""
    return [name for name, (method, _, _) in PEERS.items() if not method or method in methods]


def peer(name: str, file: str, threads: int, batch: int, steps: int, rounds: int, seconds: float) -> Found:
    """Times of one peer, which takes so many ``steps`` (0: it has none), as ``timing`` tells them.

    Raises ``RuntimeError`` where its package is not installed.
    """
    _, package, make = PEERS[name]
    for wanted in ("torch", package):
        if importlib.util.find_spec(wanted) is None:
            raise RuntimeError(f"skipped: {wanted} is not installed")
    import onnx
    import torch

    from tools.speed.twin import Twin

    warnings.simplefilter("ignore")
    network = Twin(onnx.load(file)).eval()
    found: Found = {}
    for kind, clock, count in (("", time.process_time, 1), ("wall_", time.perf_counter, threads))[: 1 + (threads > 1)]:
        torch.set_num_threads(count)
        plain = session(file, count)
        fed = feed(plain, batch)
        x = torch.from_numpy(next(iter(fed.values()))).requires_grad_()
        with torch.no_grad():
            target = network(x).argmax(1)
        run = make(network, x, target, **({"n_steps": steps} if steps else {}))
        times = pairs(lambda plain=plain, fed=fed: plain.run(None, fed), run, clock, rounds, seconds)
        found |= {f"{kind}{key}": value for key, value in ratios(times).items()}
    return found | ({"per_step": found["ratio"] / steps} if steps else {})
