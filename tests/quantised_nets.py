"""Random small networks with quantisation at random places, in every spelling that exporters and ONNX Runtime's own quantiser have."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
KINDS: dict[str, tuple[Any, int]] = {
    "uint8": (np.uint8, 10),
    "int8": (np.int8, 10),
    "uint16": (np.uint16, 21),
    "int16": (np.int16, 21),
    "uint4": (ml_dtypes.uint4, 21),
    "int4": (ml_dtypes.int4, 21),
    "float8e4m3fn": (ml_dtypes.float8_e4m3fn, 19),
    "float8e5m2": (ml_dtypes.float8_e5m2, 19),
}
"""Types of quantised tensors, and the first opset that has them."""

OPSETS = (13, 17, 19, 21)
ROUNDINGS = ("pair", "by channel", "by hand", "half", "half scale", "dynamic", "between", "twice", "another scale", "swallowed")
INTEGER = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


class Net:
    """A network that is put together node by node; ``used`` says which forms of quantisation it has."""

    def __init__(self, rng: np.random.Generator, opset: int) -> None:
        self.rng, self.opset = rng, opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.used: list[str] = []

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        outputs = attributes.pop("outputs", 1)
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def const(self, array: Any, kind: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array).astype(kind), name))
        return name

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def kind(self) -> str:
        return str(self.pick([k for k, (_, first) in KINDS.items() if first <= self.opset]))

    def grid(self, kind: str, spread: float = 3.0, shape: tuple[int, ...] = ()) -> tuple[str, str]:
        """A scale so that about -spread to spread fits, and a zero point (0 for floats, as the standard has it)."""
        dtype = KINDS[kind][0]
        if kind.startswith("float8"):
            return self.const(np.full(shape, 0.02)), self.const(np.zeros(shape), dtype)
        info = ml_dtypes.iinfo(dtype)
        span, middle = int(info.max) - int(info.min), (int(info.max) + int(info.min) + 1) // 2
        scale = 2 * spread / span * self.rng.uniform(0.7, 1.3, shape)
        shifted = self.pick([0, 0, 1]) * np.ones(shape, int)
        return self.const(scale), self.const(middle + shifted, dtype)

    def weight(self, array: np.ndarray, axis: int) -> str:
        """As float, or stored as integers with one scale, one per channel along ``axis``, or one per two along the next."""
        how = str(self.pick(["float", "tensor", "channel", *(["blocks"] if self.opset >= 21 else [])]))
        if how == "float":
            return self.const(array)
        kind = str(self.pick([k for k in ("int8", "uint8", "int4") if KINDS[k][1] <= self.opset]))
        self.used.append(f"{how} weights in {kind}")
        dtype, beside = KINDS[kind][0], 1 - axis
        low, high = int(ml_dtypes.iinfo(dtype).min), int(ml_dtypes.iinfo(dtype).max)
        zero = (low + high + 1) // 2
        if how == "blocks":
            scale = np.add.reduceat(np.abs(array), range(0, array.shape[beside], 2), beside) / (high - zero)
            spread, given = np.repeat(scale, 2, beside).take(range(array.shape[beside]), beside), {"axis": beside, "block_size": 2}
        else:
            others = tuple(i for i in range(array.ndim) if i != axis)
            spread = np.abs(array).max(others, keepdims=True) / (high - zero) if how == "channel" else np.abs(array).max() / (high - zero)
            scale, given = np.reshape(spread, (-1,) if how == "channel" else ()), {"axis": axis} if how == "channel" else {}
        codes = np.clip(np.rint(array / spread) + zero, low, high)
        stored = [self.const(codes, dtype), self.const(scale), self.const(np.full(scale.shape, zero), dtype)]
        return self.add("DequantizeLinear", *stored, **given)

    def rounded(self, x: str, channels: int, rank: int) -> str:
        """``x`` through a quantised tensor and back, in one of the spellings."""
        how, kind = str(self.pick(ROUNDINGS)), self.kind()
        if self.rng.random() < 0.03:
            how = "microsoft"  # ONNX Runtime's own domain, which is refused
        if how in ("between", "twice", "another scale", "by hand", "by channel") and kind not in ("uint8", "int8"):
            kind = "uint8"
        if how == "half scale" and self.opset < 19:
            how = "pair"
        if how == "swallowed":
            kind = "uint8"
        if how == "microsoft":
            kind = str(self.pick(["uint16", "int16", "uint8"]))
        self.used.append(f"{how} {kind}")
        return self._spelled(how, kind, x, channels, rank)

    def _spelled(self, how: str, kind: str, x: str, channels: int, rank: int) -> str:
        if how == "dynamic":
            q = self.add("DynamicQuantizeLinear", x, outputs=3)
            return self.add("DequantizeLinear", q, f"{q[:-2]}_1", f"{q[:-2]}_2")
        if how == "swallowed":  # a ReLU that the quantiser left to the grid, which begins at zero
            scale, zero = self.const(0.02), self.const(0, np.uint8)
            return self.add("DequantizeLinear", self.add("QuantizeLinear", x, scale, zero), scale, zero)
        if how == "half":
            return self.add("Cast", self.add("Cast", self._spelled("pair", kind, x, channels, rank), to=HALF), to=FLOAT)
        if how == "half scale":
            dtype = KINDS[kind][0]
            scale, zero = self.const(0.05, np.float16), self.const(0 if "float" in kind or kind.startswith("int") else 8, dtype)
            q = self.add("QuantizeLinear", self.add("Cast", x, to=HALF), scale, zero)
            return self.add("Cast", self.add("DequantizeLinear", q, scale, zero), to=FLOAT)
        shape = (channels,) if how == "by channel" else ()
        given: dict[str, Any] = {"axis": 1} if how == "by channel" else {"domain": "com.microsoft"} if how == "microsoft" else {}
        scale, zero = self.grid(kind, shape=shape)
        q = self.add("QuantizeLinear", x, scale, zero, **given)
        if how == "by hand":
            shifted = self.add("Sub", self.add("Cast", q, to=FLOAT), self.add("Cast", zero, to=FLOAT))
            return self.add("Mul", shifted, scale)
        if how == "between":
            q = self._moved(q, kind, rank)
        if how == "twice":
            other = self.add("DequantizeLinear", q, scale, zero)
            return self.add("Add", self.add("DequantizeLinear", q, scale, zero), other)
        if how == "another scale":
            scale = self.const(0.031)
        return self.add("DequantizeLinear", q, scale, zero, **given)

    def _moved(self, q: str, kind: str, rank: int) -> str:
        """An operator on the integers themselves, between the pair."""
        how = str(self.pick(["Identity", "Reshape", "Transpose", "MaxPool", "Clip"]))
        if how == "Reshape":
            return self.add("Reshape", q, self.const([0] * rank, np.int64))
        if how == "Transpose":
            return self.add("Transpose", self.add("Transpose", q, perm=[*range(rank)][::-1]), perm=[*range(rank)][::-1])
        if how == "MaxPool" and rank == 4:
            return self.add("MaxPool", q, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        if how == "Clip":
            low, high = (40, 250) if kind == "uint8" else (-90, 120)
            return self.add("Clip", q, self.const(low, KINDS[kind][0]), self.const(high, KINDS[kind][0]))
        return self.add("Identity", q)

    def maybe(self, x: str, channels: int, rank: int = 4) -> str:
        return self.rounded(x, channels, rank) if self.rng.random() < 0.5 else x

    def conv(self, x: str, channels: tuple[int, int]) -> str:
        """3x3, weights and bias stored in one way or another."""
        w = self.rng.normal(size=(channels[1], channels[0], 3, 3)) / np.sqrt(9 * channels[0])
        bias = self.rng.normal(size=channels[1]) * 0.2
        if self.rng.random() < 0.5:
            b = self.add("DequantizeLinear", self.const(np.rint(bias / 1e-3), np.int32), self.const(1e-3), self.const(0, np.int32))
        else:
            b = self.const(bias)
        return self.add("Conv", x, self.weight(w, 0), b, pads=[1, 1, 1, 1])

    def activation(self, x: str) -> str:
        how = str(self.pick(["Relu", "Clip", "LeakyRelu", "Sigmoid", "none"]))
        if how == "none":
            return x
        return self.add("Clip", x, self.const(0), self.const(6)) if how == "Clip" else self.add(how, x)

    def integer(self, how: str, x: str) -> str:
        """An operator that computes in integers; ``x`` is [N, 4, 8, 8], or [N, 4] for matrices."""
        self.used.append(how)
        one, zero = self.const(0.03), self.const(128, np.uint8)
        shape = (4, 4, 1, 1) if "Conv" in how else (4, 4)
        w, weights = self.const(self.rng.integers(-30, 30, shape), np.int8), [self.const(0.02), self.const(0, np.int8)]
        if how.startswith("QLinear"):
            q = self.add("QuantizeLinear", x, one, zero)
            return self.add("DequantizeLinear", self.add(how, q, one, zero, w, *weights, one, zero), one, zero)
        q = self.add("DynamicQuantizeLinear", x, outputs=3)
        sums = self.add("Cast", self.add(how, q, w, f"{q[:-2]}_2"), to=FLOAT)
        return self.add("Mul", sums, self.add("Mul", f"{q[:-2]}_1", weights[0]))


def quantised_net(seed: int, integer: bool = False) -> tuple[onnx.ModelProto, list[str]]:
    """A picture [N, 3, 8, 8] or [N, 8, 8, 3] -> convolutions, branches, a mean, a matrix -> scores [N, 5]; and the forms it has.

    ``integer``: one operator computes in integers.
    """
    rng = np.random.default_rng(seed)
    net = Net(rng, int(rng.choice(OPSETS)))
    last = bool(rng.random() < 0.3)
    x = net.add("Transpose", net.maybe("x", 8), perm=[0, 3, 1, 2]) if last else "x"
    h = net.activation(net.maybe(net.conv(net.maybe(x, 3), (3, 4)), 4))
    how = str(net.pick(INTEGER)) if integer else ""
    if "Conv" in how:
        h = net.integer(how, h)
    if rng.random() < 0.5:
        branch = net.maybe(net.activation(net.conv(net.maybe(h, 4), (4, 4))), 4)
        h = net.maybe(net.add("Add", net.maybe(h, 4), branch), 4)
    if rng.random() < 0.5:
        h = net.add(str(net.pick(["MaxPool", "AveragePool"])), net.maybe(h, 4), kernel_shape=[2, 2], strides=[2, 2])
    h = net.add("Flatten", net.maybe(net.add("GlobalAveragePool", net.maybe(h, 4)), 4))
    if "MatMul" in how:
        h = net.integer(how, h)
    h = net.add("MatMul", net.maybe(h, 4, 2), net.weight(rng.normal(size=(4, 5)), 1))
    h = net.maybe(net.add("Add", h, net.const(rng.normal(size=5))), 5, 2)
    if rng.random() < 0.5:
        h = net.maybe(net.add("Softmax", h), 5, 2)
    net.nodes.append(helper.make_node("Identity", [h], ["y"], name="last"))
    ports = [helper.make_tensor_value_info(n, FLOAT, s) for n, s in (("x", ["N", 8, 8, 3] if last else ["N", 3, 8, 8]), ("y", ["N", 5]))]
    graph = helper.make_graph(net.nodes, "quantised", ports[:1], ports[1:], net.weights)
    domains = [helper.make_opsetid("", net.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10), net.used
