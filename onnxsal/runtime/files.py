"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxsal.errors import OutputError


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write to a temporary name beside ``path``, then rename, so that a failure never leaves half a file; makes the folder."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".onnxsal-") as folder:
            partial = Path(folder) / "partial"
            partial.write_bytes(data)
            os.replace(partial, target)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error.strerror or error}. Nothing was left behind.") from error
    return target


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a .npz file, whole or not at all, without a second copy of the arrays in memory; makes the folder."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".onnxsal-") as folder:
            partial = Path(folder) / "partial.npz"
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
            os.replace(partial, target)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error.strerror or error}. Nothing was left behind.") from error
    return target
