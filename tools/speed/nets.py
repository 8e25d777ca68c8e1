"""The networks that are timed, written straight as ONNX with random weights: nothing is downloaded and no framework is needed.

Their layouts are those of torchvision and timm as the exporters write them, with batch normalisation folded into the convolutions. Kernels
are drawn so that signals keep their size through the depth (He et al. 2015): a dead network would be quick to explain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]

OPSET = 18
BRANCH = 0.3
"""What the last convolution of a residual branch is scaled by, so that a sum of many keeps its size."""


class Net:
    """A graph that grows: every method appends nodes and returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        name = f"{op_type}_{len(self.nodes)}"
        names = [name, *(f"{name}:{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=name, **attributes))
        return name if outputs == 1 else names

    def const(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def draw(self, *shape: int, scale: float) -> str:
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def conv(self, x: str, cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1, gain: float = 1.0) -> str:
        """A convolution with a bias, as it is after batch normalisation was folded into it; padded to ``size / stride``."""
        fan_in = cin // groups * kernel**2
        w = self.draw(cout, cin // groups, kernel, kernel, scale=gain * math.sqrt(2 / fan_in))
        pads = [kernel // 2 if stride < kernel or kernel == 1 else 0] * 4
        b = self.draw(cout, scale=0.05)
        return self.node("Conv", x, w, b, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=groups, dilations=[1, 1])

    def gemm(self, x: str, cin: int, cout: int) -> str:
        return self.node("Gemm", x, self.draw(cout, cin, scale=math.sqrt(1 / cin)), self.draw(cout, scale=0.05), transB=1)

    def dense(self, x: str, cin: int, cout: int, gain: float = 1.0) -> str:
        """A product and a bias, as exporters write a layer on tokens."""
        return self.node("Add", self.node("MatMul", x, self.draw(cin, cout, scale=gain * math.sqrt(1 / cin))), self.draw(cout, scale=0.02))

    def norm(self, x: str, width: int, epsilon: float) -> str:
        scale = self.const((1 + 0.1 * self.rng.standard_normal(width)).astype(np.float32))
        return self.node("LayerNormalization", x, scale, self.draw(width, scale=0.02), axis=-1, epsilon=epsilon)

    def gelu(self, x: str) -> str:
        """``x (1 + erf(x / sqrt 2)) / 2``, as exporters spell it up to opset 19."""
        erf = self.node("Erf", self.node("Div", x, self.const(np.float32(math.sqrt(2)))))
        return self.node("Mul", self.node("Mul", x, self.node("Add", erf, self.const(np.float32(1)))), self.const(np.float32(0.5)))

    def attention(self, x: str, tokens: str, width: int, heads: int, mask: str = "") -> str:
        """Attention of several heads over ``x`` [N, T, width]; ``mask`` is added to the products. ``tokens``: T, or "0" as it comes."""
        split, back = ([0, int(tokens), heads, width // heads], [0, int(tokens), width])
        parts = [self.dense(x, width, width) for _ in range(3)]
        parts = [self.node("Reshape", part, self.const(np.array(split))) for part in parts]
        q, k, v = (self.node("Transpose", p, perm=perm) for p, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True))
        scores = self.node("Div", self.node("MatMul", q, k), self.const(np.float32(math.sqrt(width // heads))))
        weights = self.node("Softmax", self.node("Add", scores, mask) if mask else scores, axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self.dense(self.node("Reshape", mixed, self.const(np.array(back))), width, width)

    def model(self, inputs: dict[str, tuple[int, Sequence[int | str]]], y: str, classes: int, name: str) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        assert self.nodes[-1].name == y
        ports = [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()]
        out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])]
        graph = helper.make_graph(self.nodes, name, ports, out, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


PICTURE = {"x": (TensorProto.FLOAT, ("N", 3, 224, 224))}


def resnet50(width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)) -> onnx.ModelProto:
    """ResNet-50 as torchvision has it: the stride in the 3 x 3 convolution, a strided 1 x 1 convolution on the shortcut."""
    net, cin = Net(), width
    x = net.node("Relu", net.conv("x", 3, width, 7, 2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=0, dilations=[1, 1])
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            y = net.node("Relu", net.conv(x, cin, inner))
            y = net.node("Relu", net.conv(y, inner, inner, 3, stride))
            y = net.conv(y, inner, 4 * inner, gain=BRANCH)
            x = net.node("Relu", net.node("Add", y, x if block else net.conv(x, cin, 4 * inner, 1, stride)))
            cin = 4 * inner
    y = net.gemm(net.node("Flatten", net.node("GlobalAveragePool", x), axis=1), cin, 1000)
    return net.model(PICTURE, y, 1000, "resnet50")


LARGE = """
    3 16 16 - Relu 1;  3 64 24 - Relu 2;  3 72 24 - Relu 1;  5 72 40 se Relu 2;  5 120 40 se Relu 1;  5 120 40 se Relu 1
    3 240 80 - HardSwish 2;  3 200 80 - HardSwish 1;  3 184 80 - HardSwish 1;  3 184 80 - HardSwish 1
    3 480 112 se HardSwish 1;  3 672 112 se HardSwish 1;  5 672 160 se HardSwish 2;  5 960 160 se HardSwish 1;  5 960 160 se HardSwish 1
"""
"""Table 1 of Howard et al. 2019 (MobileNetV3-Large): kernel, expanded and resulting channels, squeeze-excite, activation, stride."""


def mobilenet_v3(table: str = LARGE) -> onnx.ModelProto:
    """MobileNetV3-Large: inverted residuals with HardSwish and squeeze-excite."""
    net, cin = Net(), 16
    x = net.node("HardSwish", net.conv("x", 3, cin, 3, 2))
    for row in table.replace("\n", ";").split(";"):
        if not row.strip():
            continue
        kernel, wide, cout, excite, act, stride = row.split()
        inner = int(wide)
        y = x if inner == cin else net.node(act, net.conv(x, cin, inner))
        y = net.node(act, net.conv(y, inner, inner, int(kernel), int(stride), groups=inner))
        y = squeezed(net, y, inner) if excite == "se" else y
        same = int(cout) == cin and stride == "1"
        y = net.conv(y, inner, int(cout), gain=0.5 if same else 1)
        x, cin = net.node("Add", x, y) if same else y, int(cout)
    x = net.node("GlobalAveragePool", net.node("HardSwish", net.conv(x, cin, 6 * cin)))
    y = net.gemm(net.node("HardSwish", net.gemm(net.node("Flatten", x, axis=1), 6 * cin, 1280)), 1280, 1000)
    return net.model(PICTURE, y, 1000, "mobilenet_v3")


def squeezed(net: Net, x: str, channels: int) -> str:
    """Squeeze-excite: every channel times a gate that is computed from the means of all."""
    inner = max(8, (channels // 4 + 4) // 8 * 8)
    y = net.node("Relu", net.conv(net.node("GlobalAveragePool", x), channels, inner))
    return net.node("Mul", x, net.node("HardSigmoid", net.conv(y, inner, channels), alpha=1 / 6, beta=0.5))


def vit(depth: int = 12, width: int = 384, heads: int = 6) -> onnx.ModelProto:
    """ViT-S/16 as timm has it: 196 patches and a class token, normalisation first."""
    net = Net()
    patches = net.node("Reshape", net.conv("x", 3, width, 16, 16), net.const(np.array([0, width, 196])))
    count = net.node("Concat", net.node("Shape", "x", start=0, end=1), net.const(np.array([1, width])), axis=0)
    first = net.node("Expand", net.draw(1, 1, width, scale=0.5), count)
    x = net.node("Concat", first, net.node("Transpose", patches, perm=[0, 2, 1]), axis=1)
    x = net.node("Add", x, net.draw(1, 197, width, scale=0.1))
    for _ in range(depth):
        x = net.node("Add", x, net.attention(net.norm(x, width, 1e-6), "197", width, heads))
        inner = net.gelu(net.dense(net.norm(x, width, 1e-6), width, 4 * width))
        x = net.node("Add", x, net.dense(inner, 4 * width, width))
    y = net.node("Gather", net.norm(x, width, 1e-6), net.const(np.array(0)), axis=1)
    return net.model(PICTURE, net.gemm(y, width, 1000), 1000, "vit_s16")


def minilm(depth: int = 6, width: int = 384, heads: int = 12, words: int = 30522) -> onnx.ModelProto:
    """MiniLM-L6-H384 with two classes: ids in; words, positions and types are looked up and added, padding is masked."""
    net = Net()
    ids = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (TensorProto.INT64, ("N", "S")))
    length = net.node("Shape", "input_ids", start=1, end=2)
    positions = net.node("Slice", net.const(np.arange(512)[None]), net.const(np.array([0])), length, net.const(np.array([1])))
    word = net.node("Gather", net.draw(words, width, scale=0.5), "input_ids")
    kind = net.node("Gather", net.draw(2, width, scale=0.2), "token_type_ids")
    place = net.node("Gather", net.draw(512, width, scale=0.2), positions)
    x = net.norm(net.node("Add", net.node("Add", word, kind), place), width, 1e-12)
    seen = net.node("Cast", net.node("Unsqueeze", "attention_mask", net.const(np.array([1, 2]))), to=TensorProto.FLOAT)
    mask = net.node("Mul", net.node("Sub", net.const(np.float32(1)), seen), net.const(np.float32(-1e4)))
    for _ in range(depth):
        x = net.norm(net.node("Add", net.attention(x, "0", width, heads, mask), x), width, 1e-12)
        inner = net.gelu(net.dense(x, width, 4 * width))
        x = net.norm(net.node("Add", net.dense(inner, 4 * width, width), x), width, 1e-12)
    y = net.node("Tanh", net.gemm(net.node("Gather", x, net.const(np.array(0)), axis=1), width, width))
    return net.model(ids, net.gemm(y, width, 2), 2, "minilm")


def lite0() -> onnx.ModelProto:
    """The shipped EfficientNet-Lite0."""
    return onnx.load(ROOT / "models" / "efficientnet_lite0.onnx")


NETS: dict[str, tuple[str, Callable[[], onnx.ModelProto]]] = {
    "resnet50": ("ResNet-50", resnet50),
    "lite0": ("EfficientNet-Lite0 (the shipped file)", lite0),
    "mobilenet_v3": ("MobileNetV3-Large", mobilenet_v3),
    "vit_s16": ("ViT-S/16", vit),
    "minilm": ("MiniLM, 6 layers, 128 tokens", minilm),
}
"""By the name that the command takes: what it is called, and the function that makes it."""


def chain(count: int, width: int = 4) -> onnx.ModelProto:
    """``count`` nodes in a row, Conv and Relu in turn, and a mean: what a conversion costs for each node."""
    net, x = Net(), "x"
    for i in range(count):
        x = net.node("Relu", x) if i % 2 else net.conv(x, width, width, 3)
    y = net.node("Flatten", net.node("GlobalAveragePool", x), axis=1)
    return net.model({"x": (TensorProto.FLOAT, ("N", width, 8, 8))}, y, width, "chain")


def blocks(count: int, width: int = 8) -> onnx.ModelProto:
    """``count`` residual blocks of five nodes: Conv, Relu, Conv, Add, Relu."""
    net, x = Net(), "x"
    for _ in range(count):
        y = net.conv(net.node("Relu", net.conv(x, width, width, 3)), width, width, 3, gain=BRANCH / math.sqrt(count))
        x = net.node("Relu", net.node("Add", y, x))
    y = net.gemm(net.node("Flatten", net.node("GlobalAveragePool", x), axis=1), width, 10)
    return net.model({"x": (TensorProto.FLOAT, ("N", width, 16, 16))}, y, 10, "blocks")
