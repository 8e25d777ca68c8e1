"""The learnt weights of an ONNX model, layer by layer, and models in which some are drawn anew."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxsal.errors import InputError, ModelError, near_miss
from onnxsal.graph import FLOATS

WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "Gather": (0,),
}
"""Operator -> the inputs that training fits. The running mean and variance of a batch normalisation are statistics, and stay."""

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What adds its bias as a node of its own in some exports."""

THROUGH = ("Identity", "Transpose", "Reshape", "Cast", "Squeeze", "Unsqueeze", "Flatten", "DequantizeLinear")
"""What may stand between a stored weight and the node that uses it."""

HOW = ("normal", "permute")

TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of a standard normal distribution cut off at 2."""


@dataclass(frozen=True)
class Layer:
    """A node with weights: its name, its operator and the stored tensors that training fitted."""

    name: str
    op_type: str
    tensors: tuple[str, ...]


def weighted_layers(proto: onnx.ModelProto) -> list[Layer]:
    """Every layer with weights, from the output down. A weight that several nodes use belongs to the one nearest the output."""
    stored = {name: tensor for name, tensor in _stored(proto.graph).items() if tensor.data_type in FLOATS or _quantised(tensor)}
    producer = {o: n for n in proto.graph.node for o in n.output}
    tails: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        if node.op_type == "Add":
            for name in node.input:
                if name in producer and producer[name].op_type in PRODUCTS:
                    tails.setdefault(name, []).append(node)
    taken: set[str] = set()
    layers = []
    for index, node in reversed(list(enumerate(proto.graph.node))):
        if node.domain not in ("", "ai.onnx") or node.op_type not in WEIGHTS:
            continue
        names = [node.input[i] for i in WEIGHTS[node.op_type] if i < len(node.input)]
        if node.op_type in PRODUCTS:
            names += [n for tail in tails.get(node.output[0], []) for n in tail.input if n != node.output[0]]
        found = [origin for n in names if (origin := _origin(n, producer, stored)) and origin not in taken]
        if found:
            taken.update(found)
            layers.append(Layer(node.name or f"{node.op_type}_{index}", node.op_type, tuple(dict.fromkeys(found))))
    return layers


def kept_share(proto: onnx.ModelProto, layers: Sequence[Layer]) -> float:
    """Share of the stored floating-point numbers that belong to none of ``layers``: statistics, constants, and what was not recognised."""
    sizes = {name: int(np.prod(t.dims, dtype=np.int64)) for name, t in _stored(proto.graph).items() if t.data_type in FLOATS}
    drawn = sum(sizes.get(t, 0) for layer in layers for t in layer.tensors)
    return 1 - drawn / max(sum(sizes.values()), 1)


def randomised(proto: onnx.ModelProto, layers: Sequence[Layer], how: str = "normal", seed: int = 0) -> onnx.ModelProto:
    """A copy of the model with the weights of ``layers`` drawn anew.

    "normal": from a normal distribution with each tensor's own mean and standard deviation, cut off at two of them (kernels with no
    deviation: mean 0, He et al. 2015). "permute": its own values in random order; weights stored as integers are always permuted.
    A tensor's draw depends on ``seed`` and its name only, so models with more and fewer layers drawn agree where both are.
    """
    if how not in HOW:
        raise InputError(f"how='{how}' is not one of {', '.join(HOW)}{near_miss(how, HOW)}.")
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    stored = _stored(copy.graph)
    for layer in layers:
        for name in layer.tensors:
            if name not in stored:
                raise ModelError(f"the model has no stored tensor '{name}', which layer '{layer.name}' is said to have.")
            array = numpy_helper.to_array(stored[name])
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            drawn = _permuted(rng, array) if how == "permute" or stored[name].data_type not in FLOATS else _normal(rng, array)
            stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(drawn), stored[name].name))
    return copy


def _stored(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Every stored tensor by the name it is read under: initialisers, and the values of Constant nodes."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def _quantised(tensor: TensorProto) -> bool:
    return tensor.data_type in (TensorProto.INT8, TensorProto.UINT8) and len(tensor.dims) > 1


def _origin(name: str, producer: dict[str, onnx.NodeProto], stored: dict[str, TensorProto]) -> str | None:
    """The stored tensor that ``name`` is, or is made from by moving or casting only."""
    while name not in stored:
        node = producer.get(name)
        if node is None or node.op_type not in THROUGH:
            return None
        name = node.input[0]
    return name


def _permuted(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    return rng.permutation(array.ravel()).reshape(array.shape)


def _normal(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    values = array.astype(np.float64)
    mean, spread = values.mean(), values.std()
    if spread <= 1e-12 * max(abs(mean), 1e-30) and array.ndim >= 2:
        mean, spread = 0.0, float(np.sqrt(2 / max(int(np.prod(array.shape[1:])), 1)))
    draws = rng.standard_normal(array.shape)
    while (far := np.abs(draws) > 2).any():
        draws[far] = rng.standard_normal(int(far.sum()))
    return np.asarray(mean + spread / TRUNCATED_STD * draws).astype(array.dtype)
