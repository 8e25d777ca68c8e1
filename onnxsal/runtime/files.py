"""Write a file whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxsal.disk import ARCHIVE_MARK, replacing


def write_whole(path: str | os.PathLike[str], data: bytes, listed_in: str | os.PathLike[str] | None = None) -> Path:
    """Write to a temporary name beside ``path``, then rename, so that a failure never leaves half a file; makes the folder.

    Raises ``OutputError``, also where something would be lost (``disk.refuse_loss``, which says what ``listed_in`` is).
    """
    with replacing(path, listed_in, data) as partial:
        partial.write_bytes(data)
    return Path(path)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a .npz file, whole or not at all, without a second copy of the arrays in memory; makes the folder."""
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.comment = ARCHIVE_MARK
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return Path(path)
