"""Arrays from .npy and .npz files, which anybody may have written: never pickles, and never more than the limits allow."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onnxsal.disk import open_regular
from onnxsal.errors import InputError, OnnxsalError
from onnxsal.limits import limit, refuse_over
from onnxsal.settings import shown

SMALL = 2**28
"""An archive whose arrays take fewer bytes may be packed as tightly as it likes: zeros are."""


def read_arrays(path: str | os.PathLike[str], what: str = "", hint: str = "") -> dict[str, np.ndarray]:
    """The arrays of a .npz by their names, or that of a .npy under "", mapped from the disk: it is read as it is needed.

    Before an array of an archive is read its head is held against what the archive has of it, and against the limits ``array_bytes`` and
    ``packing``. Raises ``InputError`` with ``hint`` at its end for anything but arrays of plain numbers, truth values or text.
    """
    what = what or f"array '{path}'"
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{what} cannot be read: {shown(path)} is no path.{hint}")
    file = Path(path)
    try:
        with open_regular(file) as opened:
            packed = opened.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        return _archive(file, what) if packed else {"": np.load(file, mmap_mode="r", allow_pickle=False)}
    except OnnxsalError:
        raise
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror or error}.{hint}") from error
    except Exception as error:  # damaged files raise anything: ValueError, EOFError, BadZipFile, MemoryError, SyntaxError
        raise InputError(
            f"{what} is damaged, or not a .npy or .npz file of plain numbers: {error or type(error).__name__}.{hint}"
        ) from error


def read_array(path: Path) -> Any:
    """The array of a .npy file, or the arrays of a .npz file as a dict."""
    found = read_arrays(path)
    return in_memory(found[""], f"array '{path}'") if "" in found else found


def in_memory(array: np.ndarray, what: str) -> np.ndarray:
    """The array, no longer on the disk. Raises ``InputError`` where it is over the limit ``array_bytes``."""
    refuse_over("array_bytes", array.nbytes, f"{what} is too large")
    return np.array(array) if isinstance(array, np.memmap) else array


def refuse_missing(arrays: Iterable[str], wanted: Iterable[str], what: str, hint: str = "") -> None:
    """Raise ``InputError`` where an archive lacks an array that it must have."""
    if missing := sorted(set(wanted) - set(arrays)):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{what} is damaged: the array(s) {', '.join(missing[:3])}{more} are missing.{hint}")


def _archive(file: Path, what: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise InputError(f"{what} is damaged: it holds two arrays of one name.")
        total = sum(entry.file_size for entry in entries)
        refuse_over("array_bytes", total, f"{what} is too large")
        if total > SMALL:
            refuse_over("packing", total / file.stat().st_size, f"{what} is packed too tightly")
        for entry in entries:
            with archive.open(entry) as head:
                promised = _bytes_of(head)  # type: ignore[arg-type]
            if promised > entry.file_size:
                raise ValueError(f"'{entry.filename}' says it has {promised:,} bytes and has {entry.file_size:,}")
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _bytes_of(head: BinaryIO) -> int:
    """How many bytes an array has by its own head."""
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"format {version} is not known")
    shape, _, dtype = read(head)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if len(shape) > limit("nesting") or any(size < 0 for size in shape):
        raise ValueError(f"{len(shape)} sizes, or negative ones")
    return math.prod(shape) * dtype.itemsize
