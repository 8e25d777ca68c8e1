"""Models whose weights are most of them: looked at, opened and run without copies of these; over 2 GiB written in two files."""

from __future__ import annotations

import io
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import TensorProto, helper, numpy_helper

WEIGHT = 1024
"""Initialisers with more elements are weights; the smaller ones may be shapes and axes, which inference and rewrites need to read."""

LARGEST = 2**31 - 1
"""Bytes that one protobuf message holds at most; larger models keep their weights in a file beside it."""

SMALLEST = 1024
"""Weights of fewer bytes stay in the model file."""
ALIGNMENT = 4096
"""Offsets in the data file, so that it can be mapped into memory."""


def serialised(model: onnx.ModelProto) -> bytes | None:
    """The model as bytes, or None where it outgrows one message."""
    parts = pieces(model)
    if parts is None:
        return None
    file = io.BytesIO()
    for part in parts:
        file.write(part)
    return file.getvalue()


def pieces(model: onnx.ModelProto) -> Iterator[bytes] | None:
    """The bytes of the model one after the other, or None where they outgrow one message.

    protobuf itself holds a message three times when it writes it. A length stands before the graph, so each weight is written twice: for
    its size, and when its turn comes.
    """
    if UnknownFieldSet(model) or UnknownFieldSet(model.graph):
        return _at_once(model)  # fields of a newer onnx have no name here, by which they could be copied
    head, tail = (part.SerializeToString() for part in _around(model, "graph"))
    first, last = (part.SerializeToString() for part in _around(model.graph, "initializer"))
    try:
        sizes = [sum(map(len, _pieces_of(tensor))) for tensor in model.graph.initializer]
    except (EncodeError, ValueError):
        return None
    before = [_prefix(model.graph, "initializer", size) for size in sizes]
    length = len(first) + sum(map(len, before)) + sum(sizes) + len(last)
    begin = _prefix(model, "graph", length)
    if len(head) + len(begin) + length + len(tail) > LARGEST:
        return None
    weights = ((prefix, *_pieces_of(tensor)) for prefix, tensor in zip(before, model.graph.initializer, strict=True))
    return itertools.chain((head, begin, first), itertools.chain.from_iterable(weights), (last, tail))


_OTHER_DATA = ("segment", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _pieces_of(tensor: TensorProto) -> tuple[bytes, ...]:
    """The bytes of a tensor: what stands before its data, these, what stands behind them."""
    other = any(tensor.HasField(name) if name == "segment" else getattr(tensor, name) for name in _OTHER_DATA)
    if other or not tensor.HasField("raw_data") or UnknownFieldSet(tensor):
        return (tensor.SerializeToString(),)
    first, last = (part.SerializeToString() for part in _around(_described(tensor), "raw_data"))
    data = tensor.raw_data
    return first + _prefix(tensor, "raw_data", len(data)), data, last


def _at_once(model: onnx.ModelProto) -> Iterator[bytes] | None:
    try:
        return iter((model.SerializeToString(),))
    except (EncodeError, ValueError):
        return None


def _around(message: Any, name: str) -> tuple[Any, Any]:
    """Copies of ``message`` with the fields before the one called ``name`` and with those behind it."""
    number, parts = message.DESCRIPTOR.fields_by_name[name].number, (type(message)(), type(message)())
    for field, value in message.ListFields():
        if field.number != number:
            _copy_field(field.name, value, parts[field.number > number])
    return parts


def _prefix(message: Any, name: str, length: int) -> bytes:
    """What stands before ``length`` bytes that are the field ``name`` of a message: the field's number and kind, and the length."""
    found = bytearray()
    for number in (message.DESCRIPTOR.fields_by_name[name].number << 3 | 2, length):
        while number > 127:
            found.append(number & 127 | 128)
            number >>= 7
        found.append(number)
    return bytes(found)


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
        if field.name != but:
            _copy_field(field.name, value, target)


def _copy_field(name: str, value: Any, target: Any) -> None:
    if isinstance(value, str | bytes | int | float):
        setattr(target, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        getattr(target, name).extend(value)


def _described(tensor: TensorProto) -> TensorProto:
    """What is said of a tensor, without its data: to list its fields, as ``_copy_fields`` does, would copy these."""
    described = TensorProto(dims=tensor.dims, external_data=tensor.external_data, metadata_props=tensor.metadata_props)
    for name in ("name", "data_type", "doc_string", "data_location"):
        if tensor.HasField(name):
            setattr(described, name, getattr(tensor, name))
    return described


def _moved(tensor: onnx.TensorProto, file: BinaryIO, location: str) -> onnx.TensorProto:
    """The tensor with its bytes in ``file``; small ones, strings and those already outside as they are."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return tensor
    raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
    if len(raw) < SMALLEST:
        return tensor
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    moved = _described(tensor)
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
    taken |= twice
    return {t.name for t in model.graph.initializer if t.name not in taken and is_weight(t) and _is_whole(t)}


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
        light.graph.initializer.append(_described(tensor))
        data, known = tensor.raw_data, None if like is None else like.weights.get(tensor.name)
        weights[tensor.name] = known if known is not None and known == data else data
    return Apart(light, weights)
