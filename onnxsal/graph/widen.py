"""The float32 twin of a half-precision model: the same graph, in which no tensor is rounded to sixteen bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from onnxsal.graph.model import HALF

NAMES_A_TYPE = frozenset({"dtype", "output_datatype", "output_dtype", "precision", "softmax_precision", "stash_type", "to"})
"""Integer attributes of standard operators whose number is an element type."""

UNITS = {TensorProto.FLOAT16: 2.0**-10, TensorProto.BFLOAT16: 2.0**-7}
"""One unit in the last place of each half-precision type, for numbers from 1 to 2."""


def unit_of(proto: onnx.ModelProto) -> float:
    """One unit in the last place of the coarsest half-precision type in the model, relative; 0.0 where there is none."""
    return max((UNITS[getattr(place, field)] for place, field in _halves(proto)), default=0.0)


def float32_twin(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``proto`` with every float16 and bfloat16 made float32, those of its inputs and outputs too."""
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    for place, field in list(_halves(twin)):
        if isinstance(place, TensorProto):
            place.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(place).astype(np.float32), place.name))
        else:
            setattr(place, field, TensorProto.FLOAT)
    return twin


def _halves(message: Any) -> Iterator[tuple[Any, str]]:
    """Every message below (types, tensors, attributes; of subgraphs and functions too) that names a half-precision type, and its field."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if isinstance(value, Iterable) else [value]:
            name = _type_field(part)
            if name and getattr(part, name) in HALF:
                yield part, name
            if not isinstance(part, TensorProto):
                yield from _halves(part)


def _type_field(message: Any) -> str:
    """The field that holds an element type, or ''."""
    if isinstance(message, TensorProto):
        return "data_type"
    if isinstance(message, AttributeProto):
        return "i" if message.name in NAMES_A_TYPE and message.type == AttributeProto.INT else ""
    return "elem_type" if isinstance(getattr(message, "elem_type", None), int) else ""
