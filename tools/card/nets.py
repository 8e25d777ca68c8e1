"""The three networks that a card is checked with: written as ONNX with random weights, so that nothing need be there but the project."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from tools.speed.nets import PICTURE, Net, resnet50, vit

V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Table 2 of Sandler et al. 2018 (MobileNetV2): expansion, channels, blocks, stride of the first."""


def mobilenet_v2(table: Sequence[tuple[int, int, int, int]] = V2, stem: int = 32, last: int = 1280) -> onnx.ModelProto:
    """MobileNetV2: inverted residuals with depthwise convolutions and ReLU6."""
    net = Net()
    none, six = net.const(np.float32(0)), net.const(np.float32(6))

    def relu6(x: str) -> str:
        return net.node("Clip", x, none, six)

    x, cin = relu6(net.conv("x", 3, stem, 3, 2)), stem
    for expansion, cout, count, stride in table:
        for block in range(count):
            step, inner = (1 if block else stride), expansion * cin
            y = x if expansion == 1 else relu6(net.conv(x, cin, inner))
            y = net.conv(relu6(net.conv(y, inner, inner, 3, step, groups=inner)), inner, cout, gain=0.7)
            x, cin = (net.node("Add", x, y) if step == 1 and cin == cout else y), cout
    x = net.node("GlobalAveragePool", relu6(net.conv(x, cin, last)))
    return net.model(PICTURE, net.gemm(net.node("Flatten", x, axis=1), last, 1000), 1000, "mobilenet_v2")


def networks(tiny: bool = False) -> dict[str, onnx.ModelProto]:
    """By their names; ``tiny`` ones have the same layouts, and are explained in moments on a CPU."""
    if tiny:
        few = ((1, 8, 1, 1), (2, 8, 2, 2))
        return {
            "ResNet-50": resnet50(8, (1, 1, 1, 1)),
            "MobileNetV2": mobilenet_v2(few, 8, 16),
            "ViT-S/16": vit(1, 48, 3),
        }
    return {"ResNet-50": resnet50(), "MobileNetV2": mobilenet_v2(), "ViT-S/16": vit()}
