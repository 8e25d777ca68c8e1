"""The same network and pictures by Zennit and by Captum: how near the maps are, which choice keeps them apart, and which ranks better."""

from __future__ import annotations

import copy
import importlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxsal import Explainer  # noqa: E402
from onnxsal.metrics.curve import CurveSettings  # noqa: E402
from onnxsal.metrics.faithfulness import PerturbationSettings, id_score, pixel_perturbation  # noqa: E402
from onnxsal.metrics.scorer import Scorer  # noqa: E402
from onnxsal.metrics.statistics import paired, summarise  # noqa: E402
from tools.which.nets import Net, as_trained, resnet  # noqa: E402
from tools.which.text import interval, table  # noqa: E402

Maps = dict[str, np.ndarray]


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's, of the maps of each picture [N]."""
    return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(first, second, strict=True)])


# ----- Zennit -----


def rebuilt(network: Any, merged: bool, sums: bool) -> Any:
    """A copy for Zennit: batch normalisation merged into convolutions, additions as its module Sum."""
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from tests.torch_nets import Residual

    with suppress(ModuleNotFoundError):  # it wants torchvision, for networks that are not used here; its modules do not
        importlib.import_module("zennit")
    from zennit.layer import Sum

    class Summed(nn.Module):
        def __init__(self, block: Residual) -> None:
            super().__init__()
            self.branch, self.shortcut, self.act, self.sum = block.branch, block.shortcut, block.act, Sum()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.sum(torch.stack([self.branch(x), self.shortcut(x)], -1)))

    def walked(module: nn.Module) -> nn.Module:
        for name, child in list(module.named_children()):
            setattr(module, name, walked(child))
        if merged and isinstance(module, nn.Sequential):
            parts = list(module)
            for i in range(len(parts) - 1):
                if isinstance(parts[i], nn.Conv2d) and isinstance(parts[i + 1], nn.BatchNorm2d):
                    parts[i], parts[i + 1] = fuse_conv_bn_eval(parts[i], parts[i + 1]), nn.Identity()
            module = nn.Sequential(*parts)
        return Summed(module) if sums and isinstance(module, Residual) else module

    return walked(copy.deepcopy(network).eval()).requires_grad_()


def zennit(network: Any, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """EpsilonPlus from the logit of the class, summed over channels [N, H, W]."""
    import torch
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus

    pictures = torch.from_numpy(x)
    with torch.no_grad():
        logits = network(pictures)
    chosen = torch.from_numpy(target)[:, None]
    seed = torch.zeros_like(logits).scatter(1, chosen, logits.gather(1, chosen))
    with Gradient(network, EpsilonPlus()) as attributor:
        _, relevance = attributor(pictures.clone(), seed)
    return relevance.detach().sum(1).numpy()


ZENNIT = {
    "Zennit, as the network is written": (False, False),
    "Zennit, batch-norm merged": (True, False),
    "Zennit, merged, additions as Sum": (True, True),
}


def relevance_maps(net: Net, x: np.ndarray, target: np.ndarray) -> Maps:
    """lrp_epsilon_plus with each way to split an addition, and Zennit's composite on three spellings of the network."""
    network, _ = as_trained("resnet56", lambda: resnet(9), 3)
    maps = {}
    for split in ("ratio", "symmetric", "signed"):
        maps[f"lrp_epsilon_plus, {split}"] = Explainer(net.path, "lrp_epsilon_plus", split=split).explain(x, target).saliency_map
    for name, (merged, sums) in ZENNIT.items():
        maps[name] = zennit(rebuilt(network, merged, sums), x, target)
    return maps


# ----- Captum -----


def captum_maps(x: np.ndarray, target: np.ndarray) -> Maps:
    """NoiseTunnel over Saliency, with its defaults and with one choice after the other changed; sums of absolute values over channels."""
    import torch
    from captum.attr import NoiseTunnel, Saliency

    network, _ = as_trained("resnet56", lambda: resnet(9), 3)
    pictures, chosen = torch.from_numpy(x), torch.from_numpy(target)
    spread = float(np.mean(np.ptp(x.reshape(len(x), -1), axis=1)))
    torch.manual_seed(0)
    maps = {}
    for name, absolute, stdev, count in (
        ("Captum's defaults: absolute g averaged, sigma 1, 5 samples", True, 1.0, 5),
        ("signed g averaged, sigma 1, 5 samples", False, 1.0, 5),
        ("signed, sigma .15 of the range, 5 samples", False, 0.15 * spread, 5),
        ("signed, sigma .15 of the range, 50 samples", False, 0.15 * spread, 50),
        ("absolute g averaged, sigma .15 of the range, 50 samples", True, 0.15 * spread, 50),
    ):
        found = NoiseTunnel(Saliency(network)).attribute(
            pictures, nt_type="smoothgrad", nt_samples=count, nt_samples_batch_size=5, stdevs=stdev, target=chosen, abs=absolute
        )
        maps[name] = found.detach().abs().sum(1).numpy()
    return maps


def smoothgrad_maps(net: Net, x: np.ndarray, target: np.ndarray) -> Maps:
    """Ours: the defaults, another seed, more samples; and those of Captum."""
    own = {}
    for name, seed in (("smoothgrad, defaults", 0), ("smoothgrad, another seed", 1)):
        own[name] = Explainer(net.path, "smoothgrad", seed=seed).explain(x, target).saliency_map
    return own | captum_maps(x, target)


# ----- the tables -----


def compared(net: Net, x: np.ndarray, target: np.ndarray, maps: Maps, against: list[str]) -> str:
    """Per map: its sum over the score, correlations with some, ID, and the change when the 25 % least salient pixels are black."""
    scorer = Scorer(net.path)
    score = scorer.logits(x)[np.arange(len(x)), target]
    how = PerturbationSettings((25.0,), "black")
    rows = []
    first: tuple[np.ndarray, np.ndarray] | None = None
    for name, one in maps.items():
        order = id_score(scorer, x, one, target, CurveSettings()).value
        change = pixel_perturbation(scorer, x, one, target, how, black=net.black).least_probability.mean(1)
        first = first or (order, change)
        near = [interval(summarise(correlation(one, maps[other]))) for other in against]
        total = f"{np.median(one.sum((1, 2)) / score):.3g}"
        apart = [interval(paired(values, base)) for values, base in zip((order, change), first, strict=True)]
        rows.append([name, total, *near, interval(summarise(order)), apart[0], interval(summarise(change)), apart[1]])
    heads = ["map", "sum / score (median)", *(f"correlation with {n}" for n in against)]
    return table([*heads, "ID (larger)", "ID less the first's", "change, 25 % least salient (smaller)", "change less the first's"], rows)


def sections(net: Net, count: int) -> list[str]:
    """Why two maps of one name differ."""
    x = net.x[:count]
    target = Scorer(net.path).predict(x)
    names = ["lrp_epsilon_plus, ratio", "lrp_epsilon_plus, symmetric", "lrp_epsilon_plus, signed"]
    return [
        f"## lrp_epsilon_plus and Zennit's EpsilonPlus, {net.name}, n = {len(x)}",
        "The rules of single layers agree; additions and batch normalisation do not. Where additions are its module Sum "
        "and batch normalisation is merged into convolutions, Zennit's map is ours with `split=signed`. Where an "
        "addition is a plain `+`, as networks are usually written, each branch is sent all of the relevance: the map is "
        "ours with `split=symmetric`, and its sum is doubled at every shortcut, 2^27 times the relevance that there is. "
        "Where batch normalisation stands by itself, relevance passes it as it is. So nothing is amiss in our rules; "
        "which split ranks better is in the table.",
        compared(net, x, target, relevance_maps(net, x, target), names),
        f"## SmoothGrad and Captum's NoiseTunnel, {net.name}, n = {len(x)}",
        "The noise is another: Captum adds a standard deviation of 1 whatever the range of the picture, ours 0.15 of "
        "the range, as Smilkov et al. 2017 advise; it takes 5 samples, ours 50; and Saliency takes absolute values "
        "before they are averaged, ours after. With the same three choices the maps are as near as two seeds of ours "
        "are, so nothing is amiss.",
        compared(net, x, target, smoothgrad_maps(net, x, target), ["smoothgrad, defaults"]),
    ]
