"""Quantised ONNX files in torch, in float64, with a gradient: what no quantised runtime has, and what the explanations are compared with.

Every integer is the one that ONNX Runtime computed (all tensors of a run are given), so that both round alike; the derivative of rounding
is 1 where nothing saturates and 0 where something does. Weights are unpacked here anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor

from tests.oracle import run

Attributes = Mapping[str, Any]


def real(q: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1) -> Tensor:
    """(q - zero) scale; one number, or one per index of the axis."""

    def laid(v: Tensor) -> Tensor:
        if v.numel() == 1 or v.ndim > 1:
            return v if v.numel() > 1 else v.reshape(())
        return v.reshape([-1 if i == axis % q.ndim else 1 for i in range(q.ndim)])

    return (q if zero is None else q - laid(zero)) * laid(scale)


class Twin:
    """One run: ``values`` are what ONNX Runtime computed."""

    def __init__(self, model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> None:
        self.model, self.values = model, values

    def scores(self, x: Tensor) -> Tensor:
        """The first output, of the first input."""
        found = {t.name: torch.tensor(np.asarray(numpy_helper.to_array(t)).astype(np.float64)) for t in self.model.graph.initializer}
        self.stored = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        found[self.model.graph.input[0].name] = x
        for node in self.model.graph.node:
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [found.get(n) if n else None for n in node.input]
            if not any(v is not None and v.requires_grad for v in inputs) or self.values[node.output[0]].dtype == np.int64:
                outputs: Any = [torch.tensor(np.asarray(self.values[o]).astype(np.float64)) for o in node.output if o]  # sizes, constants
            else:
                outputs = getattr(self, node.op_type)(node, inputs, given)
            outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
            found.update(zip(node.output, outputs, strict=False))
        return found[self.model.graph.output[0].name]

    def code(self, name: str, exact: Tensor) -> Tensor:
        """The integers that ONNX Runtime rounded ``exact`` to, with the derivative of rounding."""
        own = np.asarray(self.values[name])
        low, high = np.iinfo(own.dtype).min - 0.5, np.iinfo(own.dtype).max + 0.5
        passed = exact * ((exact >= low) & (exact <= high))
        rounded = torch.tensor(own.astype(np.float64))
        assert float((rounded - exact.detach().clamp(low + 0.5, high - 0.5)).abs().max()) <= 1.02  # half a step, and a rounding of its own
        return passed + (rounded - passed).detach()

    def on_grid(self, node: onnx.NodeProto, x: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1) -> Tensor:
        def laid(v: Tensor) -> Tensor:
            return v.reshape(()) if v.numel() == 1 else v.reshape([-1 if i == axis else 1 for i in range(x.ndim)])

        return self.code(node.output[0], x / laid(scale) + (0 if zero is None else laid(zero)))

    # ----- quantised operators -----

    def QuantizeLinear(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, v[0], v[1], v[2] if len(v) > 2 else None, a.get("axis", 1))

    def DequantizeLinear(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return real(v[0], v[1], v[2] if len(v) > 2 else None, a.get("axis", 1))

    def DynamicQuantizeLinear(self, node: Any, v: Any, a: Attributes) -> list[Tensor]:
        scale, zero = (torch.tensor(self.values[o].astype(np.float64)) for o in node.output[1:3])
        exact = v[0] / scale + zero
        return [exact + (torch.tensor(self.values[node.output[0]].astype(np.float64)) - exact).detach(), scale, zero]

    def QLinearConv(self, node: Any, v: Any, a: Attributes) -> Tensor:
        bias = v[8] * v[1] * v[4] if len(v) > 8 else None
        return self.on_grid(node, conv(real(*v[:3]), real(*v[3:6], axis=0), bias, a), v[6], v[7])

    def QLinearMatMul(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, real(*v[:3]) @ real(*v[3:6], axis=-1), v[6], v[7])

    def QGemm(self, node: Any, v: Any, a: Attributes) -> Tensor:
        b = real(*v[3:6], axis=0 if a.get("transB") else 1)
        y = a.get("alpha", 1.0) * real(*v[:3]) @ (b.T if a.get("transB") else b)
        y = y + v[6] * a.get("alpha", 1.0) * v[1] * v[4]
        return self.on_grid(node, y, v[7], v[8]) if len(v) > 7 else y

    def QLinearAdd(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, real(*v[:3]) + real(*v[3:6]), v[6], v[7])

    def QLinearMul(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, real(*v[:3]) * real(*v[3:6]), v[6], v[7])

    def QLinearConcat(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, torch.cat([real(*v[i : i + 3]) for i in range(2, len(v), 3)], a["axis"]), v[0], v[1])

    def QLinearAveragePool(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, self.AveragePool(node, [real(*v[:3])], a), v[3], v[4])

    def QLinearGlobalAveragePool(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, real(*v[:3]).mean((2, 3), keepdim=True), v[3], v[4])

    def QLinearSigmoid(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, real(*v[:3]).sigmoid(), v[3], v[4])

    def QLinearLeakyRelu(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, F.leaky_relu(real(*v[:3]), a["alpha"]), v[3], v[4])

    def QLinearSoftmax(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return self.on_grid(node, real(*v[:3]).softmax(a.get("axis", -1)), v[3], v[4])

    def ConvInteger(self, node: Any, v: Any, a: Attributes) -> Tensor:
        zeros = [v[i] if len(v) > i and v[i] is not None else torch.tensor(0.0) for i in (2, 3)]
        return conv(v[0] - zeros[0], v[1] - zeros[1].reshape(()), None, a)

    def MatMulInteger(self, node: Any, v: Any, a: Attributes) -> Tensor:
        zeros = [v[i] if len(v) > i and v[i] is not None else torch.tensor(0.0) for i in (2, 3)]
        return (v[0] - zeros[0]) @ (v[1] - zeros[1])

    def MatMulNBits(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return v[0] @ torch.tensor(unpacked(self.stored, node, a)).T + (v[5] if len(v) > 5 else 0)

    def DynamicQuantizeLSTM(self, node: Any, v: Any, a: Attributes) -> list[Tensor | None]:
        w, r = ((v[i] - laid(v[j + 1])) * laid(v[j]) for i, j in ((1, 8), (2, 10)))
        return self._lstm(spanned(v[0]), w, r, v[3])

    def LSTM(self, node: Any, v: Any, a: Attributes) -> list[Tensor | None]:
        return self._lstm(v[0], v[1].transpose(1, 2), v[2].transpose(1, 2), v[3])

    def _lstm(self, x: Tensor, w: Tensor, r: Tensor, b: Tensor) -> list[Tensor | None]:
        return [torch.stack([lstm(x, w[d], r[d], b[d], bool(d)) for d in range(len(w))], 1)]

    # ----- others -----

    def Conv(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return conv(v[0], v[1], v[2] if len(v) > 2 else None, a)

    def ConvTranspose(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return F.conv_transpose2d(v[0], v[1], v[2] if len(v) > 2 else None, a["strides"])

    def Gemm(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return v[0] @ (v[1].T if a.get("transB") else v[1]) + v[2]

    def AveragePool(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return F.avg_pool2d(v[0], a["kernel_shape"], a["strides"])

    def MaxPool(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return F.max_pool2d(v[0], a["kernel_shape"], a["strides"])

    def Resize(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return F.interpolate(v[0], scale_factor=2, mode="nearest")

    def ReduceMean(self, node: Any, v: Any, a: Attributes) -> Tensor:
        axes = a["axes"] if "axes" in a else [int(i) for i in v[1]]
        return v[0].mean(tuple(axes), keepdim=bool(a.get("keepdims", 1)))

    def Transpose(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return v[0].permute(a["perm"])

    def Reshape(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return v[0].reshape(self.values[node.output[0]].shape)

    Flatten = Squeeze = Reshape

    def Split(self, node: Any, v: Any, a: Attributes) -> Any:
        return v[0].split([self.values[o].shape[a.get("axis", 0)] for o in node.output], a.get("axis", 0))

    def Slice(self, node: Any, v: Any, a: Attributes) -> Tensor:
        begin, end, axis = (int(v[i]) for i in (1, 2, 3))
        return v[0].narrow(axis, begin, min(end, v[0].shape[axis]) - begin)

    def LayerNormalization(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return F.layer_norm(v[0], v[0].shape[-1:], v[1], v[2], a.get("epsilon", 1e-5))

    def Concat(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return torch.cat(v, a["axis"])

    def Softmax(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return v[0].softmax(a.get("axis", -1))

    def LeakyRelu(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return F.leaky_relu(v[0], a["alpha"])

    def Gather(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return v[0].select(a.get("axis", 0), int(v[1]))

    def Cast(self, node: Any, v: Any, a: Attributes) -> Tensor:
        return v[0]

    Identity = Cast


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, node, v, a: function(*v)


for name, function in {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Pow": torch.pow,
    "MatMul": torch.matmul,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Erf": torch.erf,
    "Sqrt": torch.sqrt,
}.items():
    setattr(Twin, name, _plain(function))


def conv(x: Tensor, w: Tensor, b: Tensor | None, a: Attributes) -> Tensor:
    spatial = w.ndim - 2
    how = F.conv1d if spatial == 1 else F.conv2d
    pads = a.get("pads", [0] * 2 * spatial)
    return how(x, w, b, a.get("strides", [1] * spatial), pads[:spatial], a.get("dilations", [1] * spatial), a.get("group", 1))


def laid(v: Tensor) -> Tensor:
    """One number per direction, or one per column of each."""
    return v.reshape(len(v), 1, -1)


def spanned(x: Tensor) -> Tensor:
    """x on a grid of 8 bits that spans it, with the derivative of what is not rounded."""
    low, high = min(float(x.detach().min()), 0.0), max(float(x.detach().max()), 0.0)
    scale = float(np.float32((high - low) / 255))
    zero = round(-low / scale)
    return x + (((x / scale).round() + zero).clamp(0, 255).sub(zero) * scale - x).detach()


def lstm(x: Tensor, w: Tensor, r: Tensor, b: Tensor, backwards: bool) -> Tensor:
    """x [L, N, I], w [I, 4H], r [H, 4H], b [8H] -> [L, N, H]; gates in the order of the standard."""
    size = r.shape[0]
    h = c = torch.zeros(x.shape[1], size, dtype=x.dtype)
    out: list[Tensor] = []
    for step in reversed(range(len(x))) if backwards else range(len(x)):
        i, o, f, g = (x[step] @ w + h @ r + b[: 4 * size] + b[4 * size :]).split(size, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out[::-1] if backwards else out)


def unpacked(stored: Mapping[str, np.ndarray], node: onnx.NodeProto, a: Attributes) -> np.ndarray:
    """The weights [N, K] of a MatMulNBits, number by number."""
    n, k, block, bits = a["N"], a["K"], a["block_size"], a.get("bits", 4)
    names = [*node.input, "", "", ""]
    blocks, each, mask = -(-k // block), 8 // bits, 2**bits - 1
    codes, scales = stored[names[1]].reshape(n, -1), stored[names[2]].reshape(n, blocks)
    zeros = stored.get(names[3])
    weights = np.zeros((n, k))
    for row in range(n):
        for i in range(k):
            code = (int(codes[row, i // each]) >> bits * (i % each)) & mask
            at = i // block
            zero = 2 ** (bits - 1)
            if zeros is not None:
                packed = zeros.reshape(n, -1)
                zero = (int(packed[row, at // each]) >> bits * (at % each)) & mask if packed.dtype == np.uint8 else float(packed[row, at])
            weights[row, i] = (code - zero) * float(scales[row, at])
    return weights


def twin_gradient(model: onnx.ModelProto, x: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d <seed, scores> / dx and the scores."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    made = [o for n in model.graph.node for o in n.output if o]
    watched.graph.output.extend(onnx.ValueInfoProto(name=o) for o in made if o not in known)
    given = torch.tensor(x.astype(np.float64), requires_grad=True)
    scores = Twin(model, run(watched, {model.graph.input[0].name: x})).scores(given)
    (scores * torch.tensor(seed.astype(np.float64))).sum().backward()
    assert given.grad is not None
    return given.grad.numpy(), scores.detach().numpy()
