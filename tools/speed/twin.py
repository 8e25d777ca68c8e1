"""The timed networks in PyTorch, for its libraries: the same weights, one module for each layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn


class Conv(nn.Module):
    """The module of PyTorch, which pads the same at both ends; what is padded otherwise (TensorFlow's "same") is padded before."""

    def __init__(self, told: Mapping[str, Any], w: Tensor, b: Tensor | None) -> None:
        super().__init__()
        pads, groups = told["pads"], told.get("group", 1)
        even = pads[:2] == pads[2:]
        self.pads = None if even else [pads[1], pads[3], pads[0], pads[2]]
        self.layer = nn.Conv2d(
            *(w.shape[1] * groups, w.shape[0], tuple(w.shape[2:])),
            stride=tuple(told.get("strides", (1, 1))),
            padding=tuple(pads[:2]) if even else 0,
            groups=groups,
            bias=b is not None,
        )
        self.layer.weight = nn.Parameter(w)
        self.layer.bias = None if b is None else nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x if self.pads is None else F.pad(x, self.pads))


def gemm(told: Mapping[str, Any], w: Tensor, b: Tensor | None) -> nn.Module:
    w = w if told.get("transB", 0) else w.T.contiguous()
    layer = nn.Linear(w.shape[1], w.shape[0], bias=b is not None)
    layer.weight = nn.Parameter(w)
    layer.bias = None if b is None else nn.Parameter(b)
    return layer


def clip(told: Mapping[str, Any], low: Tensor, high: Tensor) -> nn.Module:
    return nn.ReLU6() if (float(low), float(high)) == (0.0, 6.0) else nn.Hardtanh(float(low), float(high))


MODULES: dict[str, Callable[..., nn.Module]] = {
    "Conv": Conv,
    "Gemm": gemm,
    "Relu": lambda told: nn.ReLU(),
    "Clip": clip,
    "HardSwish": lambda told: nn.Hardswish(),
    "HardSigmoid": lambda told: nn.Hardsigmoid(),
    "Softmax": lambda told: nn.Softmax(told.get("axis", -1)),
    "MaxPool": lambda told: nn.MaxPool2d(told["kernel_shape"], told["strides"], told["pads"][:2]),
    "GlobalAveragePool": lambda told: nn.AdaptiveAvgPool2d(1),
    "Flatten": lambda told: nn.Flatten(told.get("axis", 1)),
}
"""Layers: made of their attributes and their weights."""


def reshape(told: Mapping[str, Any], x: Tensor, to: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(to.tolist())])


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda told, a, b: a + b,
    "Mul": lambda told, a, b: a * b,
    "Div": lambda told, a, b: a / b,
    "MatMul": lambda told, a, b: a @ b,
    "Erf": lambda told, x: torch.erf(x),
    "Reshape": reshape,
    "Transpose": lambda told, x: x.permute(told["perm"]),
    "Concat": lambda told, *parts: torch.cat(parts, told["axis"]),
    "Shape": lambda told, x: torch.tensor(x.shape)[told.get("start", 0) : told.get("end")],
    "Expand": lambda told, x, to: x.expand(to.tolist()),
    "Gather": lambda told, x, at: x.select(told["axis"], int(at)),
    "LayerNormalization": lambda told, x, w, b: F.layer_norm(x, w.shape, w, b, told["epsilon"]),
}
"""Everything else."""


class Twin(nn.Module):
    """A network of the file's nodes, in their order. Raises ``ValueError`` for an operator that is in neither table."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        if unknown := {n.op_type for n in graph.node} - MODULES.keys() - FUNCTIONS.keys():
            raise ValueError(f"no twin in PyTorch was written for {', '.join(sorted(unknown))}")
        given = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self.layers = nn.ModuleList()
        self.nodes: list[tuple[Callable[..., Tensor], list[str], str]] = []
        for node in graph.node:
            told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            names = list(node.input)
            if node.op_type in MODULES:
                weights = [given[n] if n else torch.tensor(-math.inf) for n in names[1:]]
                bias = [None] if node.op_type in ("Conv", "Gemm") and len(weights) == 1 else []
                self.layers.append(MODULES[node.op_type](told, *weights, *bias))
                self.nodes.append((self.layers[-1], names[:1], node.output[0]))
            else:
                self.nodes.append((_told(FUNCTIONS[node.op_type], told), names, node.output[0]))
        read = {n for _, names, _ in self.nodes for n in names}
        self.names = [n for n in given if n in read]
        for i, name in enumerate(self.names):
            self.register_buffer(f"given{i}", given[name])

    def forward(self, x: Tensor) -> Tensor:
        values = {self.input: x} | {n: getattr(self, f"given{i}") for i, n in enumerate(self.names)}
        for run, names, output in self.nodes:
            values[output] = run(*(values[n] for n in names))
        return values[self.output]


def _told(function: Callable[..., Tensor], told: Mapping[str, Any]) -> Callable[..., Tensor]:
    return lambda *values: function(told, *values)
