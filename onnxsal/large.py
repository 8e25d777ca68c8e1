"""Models whose weights are most of them: looked at, opened and run without copies of these; over 2 GiB written in two files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper, numpy_helper

WEIGHT = 1024
"""Initialisers with more elements are weights; the smaller ones may be shapes and axes, which inference and rewrites need to read."""

SMALLEST = 1024
"""Weights of fewer bytes stay in the model file."""
ALIGNMENT = 4096
"""Offsets in the data file, so that it can be mapped into memory."""


def serialised(model: onnx.ModelProto) -> bytes | None:
    """The model as bytes, or None where it outgrows one message (its size cannot be asked then: protobuf raises instead)."""
    try:
        data: bytes = model.SerializeToString()
    except (EncodeError, ValueError):
        return None
    return data


def write_in_two(model: onnx.ModelProto, path: Path) -> Path:
    """Write ``path`` and ``<path>.data``. Unlike ``onnx.save`` it leaves ``model`` its weights, and never holds them twice."""
    data = path.with_name(f"{path.name}.data")
    light = onnx.ModelProto()
    _copy_fields(model, light, but="graph")
    _copy_fields(model.graph, light.graph, but="initializer")
    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            light.graph.initializer.append(_moved(tensor, file, data.name))
    path.write_bytes(light.SerializeToString())
    return path


def _copy_fields(source: Any, target: Any, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            getattr(target, field.name).extend(value)


def _moved(tensor: onnx.TensorProto, file: BinaryIO, location: str) -> onnx.TensorProto:
    """The tensor with its bytes in ``file``; small ones, strings and those already outside as they are."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return tensor
    raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
    if len(raw) < SMALLEST:
        return tensor
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    moved = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=tensor.doc_string)
    moved.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", file.tell()), ("length", len(raw))):
        moved.external_data.add(key=key, value=str(value))
    file.write(raw)
    return moved


# ----- weights apart -----


def is_weight(tensor: TensorProto) -> bool:
    """Whether an initialiser has so many elements that it is no shape arithmetic."""
    return int(np.prod(tensor.dims, dtype=np.int64)) > WEIGHT


def weights_as_inputs(model: onnx.ModelProto, weights: Collection[str]) -> onnx.ModelProto:
    """A copy in which the initialisers named ``weights`` are inputs of their type: the same graph, without their data."""
    light = onnx.ModelProto()
    _copy_fields(model, light, but="graph")
    _copy_fields(model.graph, light.graph, but="initializer")
    declared = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in weights:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def light_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with all weights as inputs: for types and shapes, and for another library to rewrite its nodes, without a copy of the data."""
    return weights_as_inputs(model, {t.name for t in model.graph.initializer if is_weight(t)})


def separable(model: onnx.ModelProto) -> set[str]:
    """The weights that a runtime takes as inputs just as well: of a numeric type, with all their data, and with a name of their own."""
    taken = {name for node in model.graph.node for name in node.output} | {o.name for o in model.graph.output}
    twice, seen = set[str](), set[str]()
    for tensor in model.graph.initializer:
        (twice if tensor.name in seen else seen).add(tensor.name)
    return {t.name for t in model.graph.initializer if t.name not in taken | twice and is_weight(t) and _is_whole(t)}


_SAME_NAME = ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_FED = {TensorProto.DataType.Value(name.upper()): np.dtype(name) for name in _SAME_NAME}
_FED |= {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.DOUBLE: np.dtype(np.float64)}
"""Types that numpy has too, so that a runtime can be fed with them."""


def _is_whole(tensor: TensorProto) -> bool:
    """Whether the raw data fill the tensor's sizes, to the byte."""
    if tensor.data_type not in _FED or tensor.data_location == TensorProto.EXTERNAL or not tensor.HasField("raw_data"):
        return False
    return len(tensor.raw_data) == _FED[tensor.data_type].itemsize * int(np.prod(tensor.dims, dtype=np.int64))


@dataclass(frozen=True)
class Apart:
    """A model and its weights apart, so that several models share them, and none is copied to be opened or run.

    In ``light`` the initialisers that are in ``weights`` have their name, type and sizes, but no data.
    """

    light: onnx.ModelProto
    weights: Mapping[str, bytes]

    def fed(self) -> onnx.ModelProto:
        """The model with the weights as inputs, to be fed with ``arrays``."""
        return weights_as_inputs(self.light, self.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name, as they are fed: views."""
        kinds = {t.name: (_FED[t.data_type], tuple(t.dims)) for t in self.light.graph.initializer if t.name in self.weights}
        return {name: np.frombuffer(self.weights[name], dtype).reshape(shape) for name, (dtype, shape) in kinds.items()}

    def whole(self) -> onnx.ModelProto:
        """The model as it was."""
        whole = onnx.ModelProto()
        whole.CopyFrom(self.light)
        for tensor in whole.graph.initializer:
            if tensor.name in self.weights:
                tensor.raw_data = self.weights[tensor.name]
        return whole


def apart(model: onnx.ModelProto, like: Apart | None = None) -> Apart:
    """``model`` with its weights apart; a weight that is the same in ``like`` is shared with it."""
    gone, weights = separable(model), dict[str, bytes]()
    light = onnx.ModelProto()
    _copy_fields(model, light, but="graph")
    _copy_fields(model.graph, light.graph, but="initializer")
    for tensor in model.graph.initializer:
        if tensor.name not in gone:
            light.graph.initializer.append(tensor)
            continue
        _copy_fields(tensor, light.graph.initializer.add(), but="raw_data")
        data, known = tensor.raw_data, None if like is None else like.weights.get(tensor.name)
        weights[tensor.name] = known if known is not None and known == data else data
    return Apart(light, weights)
