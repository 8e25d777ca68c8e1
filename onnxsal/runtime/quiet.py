"""Import ONNX Runtime without what it logs about graphics devices that it cannot read: that comes before its log level can be set."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator

NOISE = b"device_discovery.cc"


def import_quietly(name: str) -> None:
    """Import a module; lines of device discovery that it writes to stderr are dropped, all others are kept."""
    if name in sys.modules:
        return
    with _without_noise():
        importlib.import_module(name)


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """The library writes to the file descriptor itself, so that is what is held back meanwhile."""
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (AttributeError, OSError):  # no stderr at all, as in a window application
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            kept = b"".join(line for line in held if NOISE not in line)
            if kept:
                os.write(2, kept)
