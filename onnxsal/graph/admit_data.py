"""Tensors and types as a file holds them: known element types, sizes that can be, and data that fill them to the byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from onnxsal.errors import ModelError, ModelTooLarge
from onnxsal.limits import refuse_over

KNOWN = frozenset(code for code in TensorProto.DataType.values() if code != TensorProto.UNDEFINED)
_BITS = {name: int(name.lstrip("UINTFLOA")[0]) for name in ("UINT2", "INT2", "UINT4", "INT4", "FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2")}
BITS = {
    code: _BITS.get(TensorProto.DataType.Name(code)) or 8 * helper.tensor_dtype_to_np_dtype(code).itemsize
    for code in KNOWN - {TensorProto.STRING}
}
"""Element type -> bits of one element in raw data."""
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "raw_data")
LARGEST = 2**31 - 1
"""Sizes and counts above this are none: 32 bits hold no more, and no runtime takes them."""

AGAIN = "Export or download the model again."


def sizes_fault(tensor: TensorProto) -> str:
    """What is wrong with the type or the sizes of a tensor ('' = nothing)."""
    if tensor.data_type not in KNOWN:
        return f"has element type {tensor.data_type}, which onnx {onnx.__version__} does not know"
    refuse_over("axes", len(tensor.dims), f"tensor '{tensor.name}'", ModelTooLarge)
    if any(not 0 <= d <= LARGEST for d in tensor.dims) or math.prod(max(d, 1) for d in tensor.dims) > 2**40:
        return f"has sizes {_list(tensor.dims)}, which no tensor in memory can have: each is from 0 to {LARGEST:,}"
    return ""


def bytes_of(tensor: TensorProto) -> int:
    """The bytes that the tensor's data take, of a known type with sizes that are numbers."""
    return bytes_at(tensor.data_type, tensor.dims)


def bytes_at(kind: int, sizes: Sequence[int]) -> int:
    """The bytes that a tensor of such sizes takes; texts and unknown types count one for each."""
    return -(-math.prod(sizes) * BITS.get(kind, 8) // 8)


def refuse_tensor(tensor: TensorProto, what: str) -> None:
    """Raise ``ModelError`` where type, sizes and data contradict each other. Data in another file have been read before."""
    fault = sizes_fault(tensor) or _data_fault(tensor)
    if fault:
        raise ModelError(f"{what} is damaged: it {fault}. {AGAIN}")


def _data_fault(tensor: TensorProto) -> str:
    kind = tensor.data_type
    if tensor.HasField("segment"):
        return "is a segment of a tensor, which no runtime reads"
    if tensor.data_location == TensorProto.EXTERNAL:
        return ""  # the reader of the file refuses it, or has read it
    fields = [name for name in _FIELDS if (tensor.HasField(name) if name == "raw_data" else len(getattr(tensor, name)))]
    if len(fields) > 1:
        return f"holds its data twice, as {fields[0]} and {fields[1]}"
    count = math.prod(tensor.dims)
    if fields == ["raw_data"] and kind != TensorProto.STRING:
        return "" if len(tensor.raw_data) == bytes_of(tensor) else _unfilled(tensor, len(tensor.raw_data), bytes_of(tensor), "bytes")
    own = helper.tensor_dtype_to_field(kind)
    if fields and fields[0] != own:
        return f"is {TensorProto.DataType.Name(kind).lower()} and holds {fields[0]}"
    held, wanted = len(getattr(tensor, own)), _numbers(kind, count)
    if held != wanted:
        return _unfilled(tensor, held, wanted, "entries")
    return "holds text that is not UTF-8" if kind == TensorProto.STRING and not all(map(_is_text, tensor.string_data)) else ""


def _numbers(kind: int, count: int) -> int:
    """How many numbers of a field hold ``count`` elements: complex ones take two, and several of less than a byte share one."""
    if kind in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    return -(-count // (8 // BITS[kind])) if kind in BITS and BITS[kind] in (2, 4) else count


def _unfilled(tensor: TensorProto, found: int, wanted: int, unit: str) -> str:
    kind = TensorProto.DataType.Name(tensor.data_type).lower()
    return f"holds {found:,} {unit}, and {kind} {_list(tensor.dims)} takes {wanted:,}"


def _list(dims: Sequence[int]) -> str:
    return str(list(dims)) if len(dims) <= 8 else f"[{', '.join(map(str, dims[:8]))}, ...]"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def refuse_type(value: onnx.ValueInfoProto, where: str) -> None:
    """Raise ``ModelError`` for a declared type that is none. -1 is an open size, as some exporters write it; no type is told later."""
    kind = value.type
    while (inside := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, inside).elem_type
    if inside not in ("tensor_type", "sparse_tensor_type"):
        return
    tensor = getattr(kind, inside)
    if tensor.elem_type and tensor.elem_type not in KNOWN:
        raise ModelError(
            f"'{value.name}' in {where} has element type {tensor.elem_type}, which onnx {onnx.__version__} does not know. {AGAIN}"
        )
    dims = tensor.shape.dim
    refuse_over("axes", len(dims), f"'{value.name}' in {where}", ModelTooLarge)
    for dim in dims:
        if not -1 <= dim.dim_value <= LARGEST:
            raise ModelError(
                f"'{value.name}' in {where} has a size of {dim.dim_value:,}; sizes are 0 to {LARGEST:,}, and -1 an open one. {AGAIN}"
            )
        if not isinstance(dim.dim_param, str):
            raise ModelError(f"'{value.name}' in {where} is damaged: names in it are not text ({dim.dim_param!r:.60}). {AGAIN}")
