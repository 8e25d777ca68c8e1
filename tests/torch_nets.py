"""Networks in plain PyTorch for tests: the layouts of well-known ones at a width and size that run in milliseconds, and their export."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.set_num_threads(1)  # the networks are small, and tests run side by side
Activation = Callable[[], nn.Module]


class Lambda(nn.Module):
    """A function as a module: for functional and reused activations."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=bias), nn.BatchNorm2d(cout)]


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)), or without the last activation."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None, act: nn.Module | None) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch(x) + self.shortcut(x))


def basic(cin: int, cout: int, stride: int, act: Activation) -> Residual:
    branch = nn.Sequential(*conv_bn(cin, cout, 3, stride), act(), *conv_bn(cout, cout, 3))
    same = cin == cout and stride == 1
    return Residual(branch, None if same else nn.Sequential(*conv_bn(cin, cout, 1, stride)), act())


def bottleneck(cin: int, width: int, stride: int, act: Activation) -> Residual:
    cout = 4 * width
    branch = nn.Sequential(*conv_bn(cin, width, 1), act(), *conv_bn(width, width, 3, stride), act(), *conv_bn(width, cout, 1))
    same = cin == cout and stride == 1
    return Residual(branch, None if same else nn.Sequential(*conv_bn(cin, cout, 1, stride)), act())


def resnet18(act: Activation = nn.ReLU, width: int = 8, classes: int = 7, stages: int = 4) -> nn.Module:
    """Two basic blocks at each of four widths (``stages`` for fewer), after a strided 7 x 7 convolution and an overlapping max pool."""
    layers: list[nn.Module] = [*conv_bn(3, width, 7, 2), act(), nn.MaxPool2d(3, 2, 1)]
    cin = width
    for i in range(stages):
        cout = width * 2**i
        layers += [basic(cin, cout, 2 if i else 1, act), basic(cout, cout, 1, act)]
        cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, classes))


def resnet50(act: Activation = nn.ReLU, width: int = 4, classes: int = 7) -> nn.Module:
    """Bottlenecks, 3 + 4 + 6 + 3 of them."""
    layers: list[nn.Module] = [*conv_bn(3, width, 7, 2), act(), nn.MaxPool2d(3, 2, 1)]
    cin = width
    for i, depth in enumerate((3, 4, 6, 3)):
        inner = width * 2**i
        for j in range(depth):
            layers.append(bottleneck(cin, inner, 2 if i and not j else 1, act))
            cin = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, classes))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 2)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def mobilenet(act: Activation = nn.Hardswish, classes: int = 7) -> nn.Module:
    """Inverted residuals with depthwise convolutions, HardSwish and squeeze-excite products."""

    def block(cin: int, wide: int, cout: int, kernel: int, stride: int, excite: bool) -> nn.Module:
        layers = [*conv_bn(cin, wide, 1), act(), *conv_bn(wide, wide, kernel, stride, groups=wide), act()]
        layers += [SqueezeExcite(wide)] if excite else []
        branch = nn.Sequential(*layers, *conv_bn(wide, cout, 1))
        return Residual(branch, None, None) if cin == cout and stride == 1 else branch

    return nn.Sequential(
        *conv_bn(3, 8, 3, 2), act(),
        block(8, 16, 8, 3, 1, True), block(8, 24, 12, 5, 2, False), block(12, 36, 12, 3, 1, True), block(12, 36, 16, 5, 2, True),
        *conv_bn(16, 32, 1), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 24), act(), nn.Linear(24, classes),
    )  # fmt: skip


class Dense(nn.Module):
    """Every layer reads the concatenation of all before it; batch normalisation comes before the convolution, so it cannot be folded."""

    def __init__(self, cin: int, growth: int, depth: int) -> None:
        super().__init__()
        steps = []
        for i in range(depth):
            c = cin + i * growth
            steps.append(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, growth, 3, padding=1, bias=False)))
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = torch.cat([x, step(x)], 1)
        return x


def densenet(classes: int = 7) -> nn.Module:
    transition = [nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 9, 1, bias=False), nn.AvgPool2d(2)]
    last = [nn.BatchNorm2d(21), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(21, classes)]
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), Dense(6, 4, 3), *transition, Dense(9, 4, 3), *last)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, s, w = x.shape
        q, k, v = self.qkv(x).reshape(n, s, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, s, w))


class Vit(nn.Module):
    """Patches, a class token, positions, two pre-norm encoder blocks with softmax attention and GELU."""

    def __init__(self, width: int = 16, size: int = 32, patch: int = 8, classes: int = 7) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Residual(nn.Sequential(nn.LayerNorm(width), Attention(width, 4)), None, None),
                Residual(
                    nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)), None, None
                ),
            )
            for _ in range(2)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def vgg(act: Activation = nn.ReLU, norm: bool = False, bias: bool = True, classes: int = 7, size: int = 32) -> nn.Module:
    """Convolutions with biases, max pools, two wide layers; ``norm`` puts a batch normalisation after every convolution."""
    layers: list[nn.Module] = []
    cin = 3
    for cout, pooled in ((8, True), (12, False), (12, True), (16, True)):
        layers.append(nn.Conv2d(cin, cout, 3, padding=1, bias=bias))
        layers += [nn.BatchNorm2d(cout)] if norm else []
        layers += [act(), nn.MaxPool2d(2)] if pooled else [act()]
        cin = cout
    flat = cin * (size // 8) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 24), act(), nn.Dropout(), nn.Linear(24, classes))


class SubMulAdd(nn.Module):
    """A batch normalisation as Caffe and Keras converters write it: (x - mean) * scale + shift."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        for name, value in (("mean", norm.running_mean), ("scale", scale), ("shift", norm.bias)):
            self.register_buffer(name, value.detach().clone().reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale + self.shift


def swapped(net: nn.Module, swap: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy of the network with modules replaced where ``swap`` returns one."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            other = swap(child)
            if other is not None:
                setattr(module, name, other)
    return net


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """He-initialised weights, sizeable biases, batch-norm statistics with real spread and scales of both signs; evaluation mode."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(t: Tensor, low: float, high: float) -> None:
        t.data.copy_(torch.rand(t.shape, generator=draw) * (high - low) + low)

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = module.weight[0].numel()
            module.weight.data.copy_(torch.randn(module.weight.shape, generator=draw) * (2 / fan) ** 0.5)
            if module.bias is not None:
                uniform(module.bias, -0.3, 0.3)
        elif isinstance(module, nn.BatchNorm2d):
            uniform(module.weight, 0.4, 1.0)
            module.weight.data[::5] *= -1
            uniform(module.bias, -0.4, 0.4)
            uniform(module.running_mean, -0.4, 0.4)
            uniform(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.LayerNorm):
            uniform(module.weight, 0.6, 1.4)
            uniform(module.bias, -0.3, 0.3)
        elif isinstance(module, Vit):
            uniform(module.token, -1, 1)
            uniform(module.positions, -1, 1)
    return net.eval().requires_grad_(False)


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "densenet": densenet,
    "vit": Vit,
    "vgg": vgg,
    "vgg_bn": lambda: vgg(norm=True),
    "vgg_relu6": lambda: vgg(act=nn.ReLU6, norm=True),
}


def dead_resnet() -> nn.Module:
    """A small ResNet of which every second channel is dead: weights, biases and running means are 0, every fourth scale too."""
    network = randomise(resnet18(stages=2))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data[::2] = 0
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data[::2] = 0
            module.running_mean.data[::2] = 0
            module.weight.data[::4] = 0
    return network


@cache
def net(name: str, seed: int = 0) -> nn.Module:
    """A randomised network by name; do not change it."""
    return randomise(NETS[name](), seed)


def images(batch: int, size: int = 32, seed: int = 0) -> Tensor:
    """Standard normal pictures."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed + 100))


def export(
    net: nn.Module,
    exporter: str = "legacy",
    opset: int = 18,
    fold: bool = True,
    batch: int | None = None,
    *,
    size: int = 32,
    example: Tensor | None = None,
) -> onnx.ModelProto:
    """The network as ONNX by torch's ``"dynamo"`` or ``"legacy"`` exporter; ``batch`` is fixed, or symbolic if ``None``."""
    x = images(batch or 2, size) if example is None else example
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            dynamic = ({0: torch.export.Dim.DYNAMIC},) if batch is None else None
            program = torch.onnx.export(net, (x,), dynamo=True, opset_version=opset, optimize=fold, dynamic_shapes=dynamic, verbose=False)
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        names = {"input_names": ["input"], "output_names": ["output"]}
        axes = {"input": {0: "N"}, "output": {0: "N"}} if batch is None else None
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=opset, do_constant_folding=fold, dynamic_axes=axes, **names)
        return onnx.load_from_string(file.getvalue())


@cache
def exported(name: str, exporter: str = "legacy", opset: int = 18, fold: bool = True, batch: int | None = None) -> onnx.ModelProto:
    """A randomised network as ONNX; do not change it."""
    return export(net(name), exporter, opset, fold, batch)


def target_score(logits: Tensor, classes: Tensor | Sequence[int] | None = None) -> Tensor:
    """The logit of each sample's class (default: the best one), [N]."""
    chosen = logits.argmax(1) if classes is None else torch.as_tensor(classes)
    return logits.gather(1, chosen[:, None])[:, 0]


def torch_gradient(net: nn.Module, x: Tensor, classes: Tensor | Sequence[int] | None = None, score: str = "logit") -> tuple[Tensor, Tensor]:
    """(d score / d x, score) by autograd, in float64."""
    net, x = copy.deepcopy(net).double(), x.detach().double().requires_grad_()
    out = net(x)
    chosen = out.argmax(1) if classes is None else torch.as_tensor(classes)
    scores = target_score(F.softmax(out, 1) if score == "probability" else out, chosen)
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    return gradient, scores.detach()
