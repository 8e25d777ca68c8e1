"""Arrays of a .npy or .npz file a few rows at a time, wherever the file lies: never a pickle, and no more in memory than is asked for."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from onnxsal.errors import InputError, OnnxsalError
from onnxsal.limits import limit, refuse_over


class ArrayHead(NamedTuple):
    """What an array says of itself: its ``shape``, its ``dtype``, and whether its first axis varies fastest (``columns``)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one row along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return math.prod(self.shape) * self.dtype.itemsize


class StoredArrays:
    """The arrays of an open file, by name ("" in a .npy): ``heads``, and rows of them. Raises ``InputError`` for a damaged file."""

    def __init__(self, file: Any, what: str) -> None:
        self._file, self._what = file, what
        with self._said():
            packed = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
            file.seek(0)
            self._archive = zipfile.ZipFile(file) if packed else None
            self._entries = {"": ""} if self._archive is None else _entries(self._archive)
            self.heads = {name: self._head(name) for name in self._entries}

    def rows(self, names: Collection[str], begin: int, end: int, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Rows [``begin``, ``end``) of several arrays side by side, up to ``size`` at once."""
        whole = {name: self.whole(name) for name in names if self.heads[name].columns}
        with contextlib.ExitStack() as stack:
            open_at = {name: stack.enter_context(self._at(name, begin)) for name in names if name not in whole}
            for at in range(begin, end, size):
                count = min(size, end - at)
                with self._said():
                    taken = {name: self._taken(file, name, count) for name, file in open_at.items()}
                yield {name: whole[name][at : at + count] if name in whole else taken[name] for name in names}

    def whole(self, name: str) -> np.ndarray:
        """All of an array. Raises ``InputError`` where it is over the limit ``array_bytes``."""
        head = self.heads[name]
        refuse_over("array_bytes", head.nbytes, f"{self._what} is too large")
        with self._said(), self._stream(name) as file:
            _read_head(file)
            values = np.frombuffer(_exactly(file, head.nbytes), head.dtype)
            return values.reshape(head.shape, order="F" if head.columns else "C").copy()

    @contextlib.contextmanager
    def _stream(self, name: str) -> Iterator[Any]:
        """The stored array, from its head on."""
        if self._archive is None:
            self._file.seek(0)
            yield self._file
            return
        with self._archive.open(self._entries[name]) as file:
            yield file

    @contextlib.contextmanager
    def _at(self, name: str, row: int) -> Iterator[Any]:
        """The stored array, from a row on."""
        with self._stream(name) as file:
            with self._said():
                _read_head(file)
                file.seek(row * self.heads[name].row_bytes, io.SEEK_CUR)
            yield file

    def _taken(self, file: Any, name: str, count: int) -> np.ndarray:
        head = self.heads[name]
        return np.frombuffer(_exactly(file, count * head.row_bytes), head.dtype).reshape(count, *head.shape[1:])

    def _head(self, name: str) -> ArrayHead:
        with self._stream(name) as file:
            head = _read_head(file)
            if self._archive is not None and head.nbytes > self._archive.getinfo(self._entries[name]).file_size:
                raise ValueError(f"'{name}' says it has {head.nbytes:,} bytes, which are more than there are")
            return head

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OnnxsalError:
            raise
        except Exception as error:  # damaged files raise anything: ValueError, EOFError, BadZipFile, zlib.error, SyntaxError
            raise InputError(
                f"{self._what} is damaged, or not a .npy or .npz file of plain numbers: {error or type(error).__name__}."
            ) from error


def _entries(archive: zipfile.ZipFile) -> dict[str, str]:
    names = [entry.filename for entry in archive.infolist()]
    if len(set(names)) < len(names):
        raise ValueError("it holds two arrays of one name")
    return {name.removesuffix(".npy"): name for name in names}


def _read_head(file: Any) -> ArrayHead:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"format {version} is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if len(shape) > limit("nesting") or any(size < 0 for size in shape):
        raise ValueError(f"{len(shape)} sizes, or negative ones")
    return ArrayHead(shape, dtype, columns and len(shape) > 1)


def _exactly(file: Any, count: int) -> bytes:
    data = bytes(file.read(count))
    if len(data) < count:
        raise ValueError("it ends too early")
    return data
