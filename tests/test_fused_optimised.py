"""Files as the optimiser for transformers of ONNX Runtime writes them: explained as what they were made of."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import onnxsal
from tests.fused_models import close
from tests.oracle import run
from tests.small_models import draw

optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
F = nn.functional


class SelfAttention(nn.Module):
    """As BERT's, with a mask of tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.dense = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)

    def apart(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), self.heads, x.size(2) // self.heads).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.apart(self.query(x)), self.apart(self.key(x)), self.apart(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1)) + mask
        mixed = torch.matmul(torch.softmax(scores, -1), v).permute(0, 2, 1, 3).contiguous()
        return self.norm(self.dense(mixed.view(x.size(0), x.size(1), x.size(2))) + x)


class Encoder(nn.Module):
    """Two layers of BERT over vectors of tokens."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(SelfAttention(width, 2) for _ in range(2))
        self.ups, self.downs = (nn.ModuleList(nn.Linear(*s) for _ in range(2)) for s in ((width, 16), (16, width)))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.first, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        added = (1.0 - mask[:, None, None, :].to(torch.float32)) * -10000.0
        x = self.first(x)
        for attention, up, down, norm in zip(self.attentions, self.ups, self.downs, self.norms, strict=True):
            x = attention(x, added)
            x = norm(down(F.gelu(up(x))) + x)
        return self.head(x[:, 0])


class CrossAttention(nn.Module):
    """As a diffusion model's, of pixels or of words."""

    def __init__(self, width: int, words: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (
            nn.Linear(width, width, bias=False),
            nn.Linear(words, width, bias=False),
            nn.Linear(words, width, bias=False),
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        n, heads = x.shape[0], self.heads
        q, k, v = (
            f(t).reshape(n, -1, heads, x.shape[-1] // heads).transpose(1, 2) for f, t in ((self.q, x), (self.k, words), (self.v, words))
        )
        weights = (q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, -1, x.shape[-1]))


class Denoiser(nn.Module):
    """A block of a diffusion U-Net: group norms with SiLU around convolutions, then pixels that attend to each other and to words."""

    def __init__(self, width: int = 8, words: int = 6) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(*s, 3, padding=1) for s in ((3, width), (width, width), (width, width), (width, 2)))
        self.layer_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = CrossAttention(width, width), CrossAttention(width, words)
        self.time, self.inner, self.outer = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        x = self.convs[0](x)
        y = self.convs[1](F.silu(self.norms[0](x))) + self.time(F.silu(time))[:, :, None, None]
        x = x + self.convs[2](F.silu(self.norms[1](y)))
        n, width, high, wide = x.shape
        y = self.inner(self.norms[2](x).permute(0, 2, 3, 1).reshape(n, high * wide, width))
        a, b, c = self.layer_norms
        z = a(y)
        y = y + self.own(z, z)
        y = y + self.cross(b(y), words)
        left, right = self.up(c(y)).chunk(2, -1)
        y = y + self.down(left * F.gelu(right))
        x = x + self.outer(y).reshape(n, high, wide, width).permute(0, 3, 1, 2)
        return self.convs[3](F.silu(self.norms[3](x)))


def drawn(*shape: int) -> Tensor:
    return torch.from_numpy(draw(*shape, seed=len(shape)))


TOKENS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
NETS = {
    "bert": (Encoder, ["x", "mask"], [drawn(2, 5, 8), TOKENS], (2, 8)),
    "unet": (Denoiser, ["x", "time", "words"], [drawn(2, 3, 4, 4), drawn(2, 4), drawn(2, 5, 6)], (0, 0)),
}
WRITTEN = {
    "bert": {"Attention", "SkipLayerNormalization", "BiasGelu"},
    "unet": {"GroupNorm", "SkipGroupNorm", "NhwcConv", "BiasSplitGelu", "SkipLayerNormalization"},
}


def files(kind: str, folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    """The network as exported and as optimised, and data."""
    torch.manual_seed(0)
    net, names, data, (heads, width) = NETS[kind]
    path = str(folder / f"{kind}.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net().eval(), tuple(data), path, input_names=names, output_names=["y"], opset_version=17, dynamo=False,
            dynamic_axes={n: {0: "N"} for n in (*names, "y")},
        )  # fmt: skip
        optimised = optimizer.optimize_model(path, kind, num_heads=heads, hidden_size=width, opt_level=0)
        optimised.save_model_to_file(str(folder / "optimised.onnx"))
    return onnx.load(path), onnx.load(str(folder / "optimised.onnx")), {n: t.numpy() for n, t in zip(names, data, strict=True)}


@pytest.mark.parametrize("kind", NETS)
def test_an_optimised_file_is_explained_as_what_it_was(kind: str, tmp_path: Path):
    """The optimiser did fuse; gradients of every output to every input agree, and so do maps of relevance where there are classes."""
    original, optimised, feed = files(kind, tmp_path)
    assert WRITTEN[kind] <= {n.op_type for n in optimised.graph.node if n.domain == "com.microsoft"}
    products = [onnxsal.vjp(m, None, "y") for m in (original, optimised)]
    signal = {"cotangent/y": np.random.default_rng(3).standard_normal(run(original, feed)["y"].shape).astype(np.float32)}
    before, after = (run(m, feed | signal) for m in products)
    for name in before:
        scale = float(np.abs(before[name]).max())
        close(after[name] / scale, before[name] / scale, 2e-5)
    if kind == "bert":
        before, after = (run(onnxsal.convert(m, "attnlrp", target=1), feed)["attribution"] for m in (original, optimised))
        close(after / np.abs(before).max(), before / np.abs(before).max())
