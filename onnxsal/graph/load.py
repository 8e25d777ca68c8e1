"""Read a model from a path, bytes or ``ModelProto``; write one without ever leaving half a file behind."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from google.protobuf.message import DecodeError

from onnxsal.disk import open_regular, place, read_bytes, reads, refuse_input, refuse_loss, regular, replacing
from onnxsal.errors import ModelError, OutputError
from onnxsal.graph.admit import admit
from onnxsal.graph.admit_data import bytes_of, sizes_fault
from onnxsal.graph.admit_sizes import refuse_negative_sizes
from onnxsal.graph.standard import in_usual_form, tensors
from onnxsal.large import pieces, write_in_two

Source: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto


def load_model(source: Source) -> onnx.ModelProto:
    """A model of our own to change: read from a file or bytes, or copied from a ``ModelProto``, and admitted (``admit`` says what holds).

    Negative sizes come back open and sparse tensors dense (``in_usual_form``). Raises ``ModelError``.
    """
    return admitted(read_model(source))


def admitted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` in its usual form, changed in place, if its structure is sound. Raises ``ModelError``."""
    admit(proto)
    usual = in_usual_form(proto)
    refuse_negative_sizes(usual)
    return usual


def read_model(source: Source) -> onnx.ModelProto:
    """As ``load_model``, not admitted: the message as it is written, with the weights it keeps in other files. Raises ``ModelError``."""
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return _with_its_weights(copy, "the model given")
    if isinstance(source, bytes):
        return _with_its_weights(_parse(source, "the bytes given"), "the model in the bytes given")
    path = _path(source)
    proto = _parse(_read(path), f"'{path}'")
    _load_external(proto, path)
    return proto


def _with_its_weights(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Refuse a model whose weights lie in a file that nobody said where it is: what is made of it could not be opened."""
    absent = [t.name for t in tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    if absent:
        raise ModelError(
            f"{what} keeps {len(absent)} of its weights in another file ('{absent[0]}', ...). "
            "Give its path instead, or load it with its data."
        )
    return proto


def read_metadata(source: Source) -> dict[str, str]:
    """The ``metadata_props`` of a model, without the weights it keeps in other files."""
    if isinstance(source, onnx.ModelProto):
        proto = source
    elif isinstance(source, bytes):
        proto = _parse(source, "the bytes given")
    else:
        proto = _parse(_read(_path(source)), f"'{source}'")
    return {p.key: p.value for p in proto.metadata_props}


def size_on_disk(path: Path) -> int:
    """Bytes of a model file and of the files that hold its weights. The message is passed over, not read: most of it is weights."""
    outside: set[str] = set()
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for entry in _inside(data, [onnx.ModelProto.DESCRIPTOR, "graph", "initializer", "external_data"], 0, len(data)):
            said = onnx.StringStringEntryProto.FromString(data[slice(*entry)])
            outside |= {said.value} if said.key == "location" else set()
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in outside)


def _inside(data: mmap.mmap, way: Sequence[Any], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the messages begin and end that are found by ``way``: the kind of the message between ``begin`` and ``end``, and the names of
    the fields that lead inwards."""
    kind, name, *further = way
    wanted = kind.fields_by_name[name]
    while begin < end:
        key, begin = _number(data, begin)
        size = _FIXED.get(key & 7, 0)
        if key & 7 not in _FIXED:
            size, begin = _number(data, begin)
        if key == wanted.number << 3 | _SIZED:
            found = (begin, begin + size)
            yield from _inside(data, [wanted.message_type, *further], *found) if further else (found,)
        begin += size if key & 7 != _VARINT else 0


_VARINT, _SIZED, _FIXED = 0, 2, {1: 8, 5: 4}
"""How protobuf writes a field: as a number, as a number and so many bytes, as so many bytes."""


def _number(data: mmap.mmap, begin: int) -> tuple[int, int]:
    """A number of protobuf's, seven bits in a byte, and where it ends."""
    number = shift = 0
    while data[begin] > 127:
        number |= (data[begin] & 127) << shift
        shift, begin = shift + 7, begin + 1
    return number | data[begin] << shift, begin + 1


def _path(source: object) -> Path:
    if isinstance(source, str | os.PathLike):
        return Path(source)
    raise ModelError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__} ({source!r:.40}).")


def refuse_absent(path: Path) -> None:
    """Raise ``ModelError`` where no regular file is there, before anything else is asked of it."""
    with _reading(path):
        regular(path)


def _read(path: Path) -> bytes:
    with _reading(path):
        return read_bytes(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"model '{path}' cannot be read: {error.strerror or error}. Give the path of an .onnx file.") from error


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{what} is not an ONNX model, or is cut short ({len(data):,} bytes): {error}. Export or download it again."
        ) from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{what} is not an ONNX model, or is cut short: it has {len(proto.graph.node)} nodes and no usable opset.")
    if not all(isinstance(text, str) for p in proto.metadata_props for text in (p.key, p.value)):
        raise ModelError(f"{what} is damaged: its metadata are not text. Export or download it again.")
    return proto


def _load_external(proto: onnx.ModelProto, path: Path) -> None:
    """Read what lies in other files, by onnx's rules of which these may be; its own loop passes over sparse tensors."""
    try:
        for tensor in tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                reads(path.parent / entry.value for entry in tensor.external_data if entry.key == "location")
                _say_how_long(tensor, path.parent)
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
    except (OSError, onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"model '{path}' keeps its weights in another file, which cannot be read: {str(error).rstrip('.')}. "
            "Put that file beside the model."
        ) from error


def _say_how_long(tensor: onnx.TensorProto, folder: Path) -> None:
    """Data of no stated length are as long as type and sizes say: what follows belongs to other tensors. Raises ``ValueError``."""
    fault = sizes_fault(tensor)
    if fault or tensor.data_type == onnx.TensorProto.STRING:
        raise ValueError(f"weight '{tensor.name}' {fault or 'is text, which must be in the model itself'}")
    keys, wanted = {e.key: e.value for e in tensor.external_data}, bytes_of(tensor)
    if keys.get("length", str(wanted)) != str(wanted):
        raise ValueError(f"weight '{tensor.name}' {list(tensor.dims)} takes {wanted:,} bytes, and the model says {keys['length']:.30}")
    begin = int(keys.get("offset") or 0)
    held = (folder / keys.get("location", "")).stat().st_size
    if not 0 <= begin <= begin + wanted <= held:
        raise ValueError(f"weight '{tensor.name}' takes {wanted:,} bytes from byte {begin:,} of a file that has {held:,}")
    if "length" not in keys:
        tensor.external_data.add(key="length", value=str(wanted))


def save_model(proto: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write ``proto``: to a temporary name first, then renamed, so a failure never leaves half a file.

    Weights go to ``<name>.data`` beside it where the model would exceed the 2 GiB that one protobuf file can hold.
    """
    target = Path(path)
    kind = onnx.serialization.registry.get_format_from_file_extension(target.suffix)
    if kind not in (None, "protobuf"):
        raise OutputError(f"'{target}' would be read as {kind}, and a model is written as protobuf: give a name that ends in .onnx.")
    if not target.parent.is_dir():
        raise OutputError(f"'{target}' cannot be written: there is no folder '{target.parent}'. Nothing was left behind.")
    with replacing(target) as partial:
        parts = pieces(proto)
        if parts is not None:
            with partial.open("wb") as file:
                file.writelines(parts)
            return
        write_in_two(proto, partial)
        weights = target.with_name(f"{target.name}.data")
        refuse_input(weights) if target.exists() else refuse_loss(weights)
        place(Path(f"{partial}.data"), weights)
