"""Networks with attention, normalisation and gates in plain PyTorch, whose gradient can be the modified one of cp_lrp or attnlrp.

The twin is written with ``detach``, so it shares no formula with what is tested: in mode "" a network is itself (and is exported so).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODE = ""


@contextmanager
def mode(name: str) -> Iterator[None]:
    """What the gradient of the networks is: '' (the true one), "cp" or "attn"."""
    global MODE
    MODE, before = name, MODE
    try:
        yield
    finally:
        MODE = before


def half(t: Tensor) -> Tensor:
    """The tensor, with half of its gradient."""
    return t / 2 + (t / 2).detach() if MODE == "attn" else t


def ratio(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), with y / x for its derivative."""
    return f(x) if not MODE else x * (f(x) / x).detach()


def held(t: Tensor) -> Tensor:
    """A factor that both methods hold constant."""
    return t.detach() if MODE else t


class Norm(nn.Module):
    """LayerNorm, or RMSNorm."""

    def __init__(self, width: int, centred: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, 1e-5) if centred else nn.RMSNorm(width, 1e-5)
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        if not MODE and (self.centred or not torch.jit.is_tracing()):
            return self.norm(x)
        if not MODE:  # the older exporter has no RMSNorm: as model libraries write it
            return self.norm.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        c = x - x.mean(-1, keepdim=True) if self.centred else x
        y = c / (c.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().detach() * self.norm.weight
        return y + self.norm.bias if self.centred else y


def rotate(x: Tensor) -> Tensor:
    """Rotary positions of [N, H, L, D]."""
    length, width = x.shape[-2:]
    angle = torch.arange(length, dtype=x.dtype)[:, None] / 100.0 ** (torch.arange(0, width, 2, dtype=x.dtype) / width)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Attention(nn.Module):
    """Softmax attention with an optional padding mask; ``causal`` with rotary positions."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=not causal) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, length, width = x.shape
        q, k, v = (f(x).reshape(n, length, self.heads, width // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.causal:
            q, k = rotate(q), rotate(k)
        seen = None if mask is None else mask[:, None, None, :]
        if not MODE:
            out = F.scaled_dot_product_attention(q, k, v, seen, is_causal=self.causal)
        else:
            scores = half(q @ k.transpose(-1, -2)) / math.sqrt(width // self.heads)
            if self.causal:
                seen = torch.ones(length, length, dtype=torch.bool).tril()
            weights = scores.softmax(-1) if seen is None else torch.where(seen, scores, -1e30).softmax(-1) * seen
            out = half((weights.detach() if MODE == "cp" else weights) @ v)
        return self.o(out.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """``bert``: norms after the additions, GELU; ``vit``: norms before; ``decoder``: RMSNorm before, rotary causal attention, SwiGLU."""

    def __init__(self, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.attention = Attention(width, heads, kind == "decoder")
        self.norms = nn.ModuleList(Norm(width, kind != "decoder") for _ in range(2))
        self.up, self.down = nn.Linear(width, 2 * width, bias=kind != "decoder"), nn.Linear(2 * width, width, bias=kind != "decoder")
        self.gate = nn.Linear(width, 2 * width, bias=False) if kind == "decoder" else None

    def feed(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(ratio(F.gelu, self.up(x)))
        gate = ratio(F.silu, self.gate(x))
        return self.down(half((gate.detach() if MODE == "cp" else gate) * self.up(x)))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.kind == "bert":
            x = self.norms[0](x + self.attention(x, mask))
            return self.norms[1](x + self.feed(x))
        x = x + self.attention(self.norms[0](x), mask)
        return x + self.feed(self.norms[1](x))


class Encoder(nn.Module):
    """Embeddings [N, L, D] (and a padding mask [N, L]), positions, blocks, and a head that reads the mean, or the last position."""

    def __init__(self, kind: str, width: int = 16, heads: int = 2, depth: int = 2, length: int = 6) -> None:
        super().__init__()
        self.kind = kind
        self.place = nn.Parameter(torch.randn(length, width) * 0.3)
        self.first, self.last = Norm(width, kind != "decoder"), Norm(width, kind != "decoder")
        self.blocks = nn.ModuleList(Block(width, heads, kind) for _ in range(depth))
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x if self.kind == "decoder" else x + self.place
        x = self.first(x) if self.kind == "bert" else x
        for block in self.blocks:
            x = block(x, mask)
        if self.kind == "decoder":
            return self.head(self.last(x)[:, -1])
        if mask is None:
            pooled = self.last(x).mean(1)
        else:
            kept = mask[:, :, None].to(x.dtype)
            pooled = (x * kept).sum(1) / kept.sum(1).clamp(min=1.0)
        return self.head(ratio(torch.tanh, self.pool(pooled)))


class Patches(nn.Module):
    """A ViT on [N, 3, 16, 16]: patches of 4, a class token, an encoder of pre-norm blocks."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.randn(1, 1, width) * 0.3)
        self.place = nn.Parameter(torch.randn(1, 17, width) * 0.3)
        self.blocks = nn.ModuleList(Block(width, 2, "vit") for _ in range(1))
        self.norm, self.head = Norm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x, None)
        return self.head(self.norm(x)[:, 0])


class ConvNext(nn.Module):
    """Depthwise convolution, LayerNorm over channels (channels first, so written out), GELU, layer scale, shortcut."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, width, 4, 4), nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.scale, self.weight, self.bias = (nn.Parameter(torch.randn(width, 1, 1) * 0.5) for _ in range(3))
        self.up, self.down, self.head = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1), nn.Linear(width, 3)

    def norm(self, x: Tensor) -> Tensor:
        c = x - x.mean(1, keepdim=True)
        return c / held((c.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()) * self.weight + self.bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.scale * self.down(ratio(F.gelu, self.up(self.norm(self.depthwise(x)))))
        return self.head(x.mean((2, 3)))


class Excite(nn.Module):
    """Squeeze and excite with a sigmoid, SiLU before it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = nn.Conv2d(3, width, 3, 2), nn.Linear(width, 4), nn.Linear(4, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = ratio(F.silu, self.stem(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return self.head(F.relu(x * held(gate)[:, :, None, None]).mean((2, 3)))


NETS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: Encoder("bert"),
    "decoder": lambda: Encoder("decoder", depth=1),
    "vit": Patches,
    "convnext": ConvNext,
    "excite": Excite,
}


def net(name: str) -> nn.Module:
    """A seeded network with parameters that are no defaults (scales and shifts of norms too)."""
    torch.manual_seed(len(name))
    made = NETS[name]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return made


def feeds(name: str, count: int = 3) -> tuple[Tensor, ...]:
    """Inputs of a network: of the BERT the last two positions of sample 1 are padding, and all of sample 2."""
    draw = torch.Generator().manual_seed(7)
    if name in ("vit", "convnext", "excite"):
        return (torch.randn(count, 3, 16, 16, generator=draw),)
    x = torch.randn(count, 6, 16, generator=draw)
    mask = torch.ones(count, 6, dtype=torch.bool)
    mask[1:2, 4:], mask[2:3] = False, False
    return (x,) if name == "decoder" else (x, mask)


def export(made: nn.Module, given: tuple[Tensor, ...], exporter: str, opset: int) -> onnx.ModelProto:
    """The network as ONNX, its batch symbolic."""
    names = ["x", "mask"][: len(given)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
            program = torch.onnx.export(
                made, given, dynamo=True, opset_version=opset, dynamic_shapes=shapes, input_names=names, output_names=["y"], verbose=False
            )
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        axes = {n: {0: "N"} for n in (*names, "y")}
        torch.onnx.export(made, given, file, dynamo=False, opset_version=opset, dynamic_axes=axes, input_names=names, output_names=["y"])
        return onnx.load_from_string(file.getvalue())


def twin(made: nn.Module, given: tuple[Tensor, ...], how: str, target: int = 1) -> tuple[Tensor, Tensor]:
    """(x * modified gradient of the target's score, scores), in float64."""
    made = made.double()
    x, *rest = given
    x = x.double().requires_grad_()
    with mode(how):
        score = made(x, *rest)[:, target]
    (g,) = torch.autograd.grad(score.sum(), x)
    made.float()
    return (x * g).detach(), score.detach()
