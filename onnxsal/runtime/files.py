"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
