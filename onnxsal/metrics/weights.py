"""The learnt weights of an ONNX model, layer by layer, and models in which some are drawn anew."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxsal.ask.guard import plain_model
from onnxsal.errors import InputError, ModelError, near_miss
from onnxsal.graph import FLOATS
from onnxsal.graph.infer import constant_tensor
from onnxsal.graph.load import Source, load_model
from onnxsal.ops.registry import spec_of

HOW = ("normal", "permute")

TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of a standard normal distribution cut off at 2."""


@dataclass(frozen=True)
class WeightedLayer:
    """A node with weights: its name, its operator and the stored tensors that training fitted."""

    name: str
    op_type: str
    tensors: tuple[str, ...]


def weighted_layers(proto: onnx.ModelProto) -> list[WeightedLayer]:
    """Every layer with weights, from the output down. A weight that several nodes use belongs to the one nearest the output."""
    stored = {name: tensor for name, tensor in _stored(proto.graph).items() if tensor.data_type in FLOATS or _quantised(tensor)}
    producer = {o: n for n in proto.graph.node for o in n.output}
    tails: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        if _adds(node):
            for name in node.input:
                tails.setdefault(name, []).append(node)
    taken: set[str] = set()
    layers = []
    for index, node in reversed(list(enumerate(proto.graph.node))):
        spec = spec_of(node)
        if spec is None or not spec.trained:
            continue
        names = [node.input[i] for i in spec.trained if i < len(node.input)]
        if spec.units is not None:  # some exports add the bias as a node of its own
            names += [n for tail in tails.get(node.output[0], []) for n in tail.input if n != node.output[0]]
        found = [origin for n in names if (origin := _origin(n, producer, stored)) and origin not in taken]
        if found:
            taken.update(found)
            layers.append(WeightedLayer(node.name or f"{node.op_type}_{index}", node.op_type, tuple(dict.fromkeys(found))))
    return layers


def has_weights(model: Source) -> bool:
    """Whether a model stores weights that can be drawn anew: a network does, trees do not."""
    return bool(weighted_layers(plain_model(load_model(model), None).proto))


def _adds(node: onnx.NodeProto) -> bool:
    """Whether the node is a sum of tensors, element by element."""
    spec = spec_of(node)
    return spec is not None and spec.family == "add" and spec.roles is not None and not spec.roles.negated


def kept_share(proto: onnx.ModelProto, layers: Sequence[WeightedLayer]) -> float:
    """Share of the stored floating-point numbers that belong to none of ``layers``: statistics, constants, and what was not recognised."""
    sizes = {name: int(np.prod(t.dims, dtype=np.int64)) for name, t in _stored(proto.graph).items() if t.data_type in FLOATS}
    drawn = sum(sizes.get(t, 0) for layer in layers for t in layer.tensors)
    return 1 - drawn / max(sum(sizes.values()), 1)


def randomised(proto: onnx.ModelProto, layers: Sequence[WeightedLayer], how: str = "normal", seed: int = 0) -> onnx.ModelProto:
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
        tensor = constant_tensor(node)
        if tensor is not None:
            found[node.output[0]] = tensor
    return found


def _quantised(tensor: TensorProto) -> bool:
    return tensor.data_type in (TensorProto.INT8, TensorProto.UINT8) and len(tensor.dims) > 1


def _origin(name: str, producer: dict[str, onnx.NodeProto], stored: dict[str, TensorProto]) -> str | None:
    """The stored tensor that ``name`` is, or is made from by moving or casting only."""
    while name not in stored:
        node = producer.get(name)
        spec = None if node is None else spec_of(node)
        if node is None or spec is None or not (spec.keeps or spec.family == "quantize"):
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
