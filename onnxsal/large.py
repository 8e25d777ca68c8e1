"""Models over the 2 GiB that one protobuf message holds: the weights go to a data file beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import onnx
from google.protobuf.message import EncodeError
from onnx import numpy_helper

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
