"""What was done and how long it took, told to the logger "onnxsal", which says nothing unless the program that imports us sets it up."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(log: logging.Logger, what: str) -> Iterator[None]:
    """Log at INFO how many seconds the block took, unless it raises."""
    begin = time.perf_counter()
    yield
    log.info("%s in %.2f s", what, time.perf_counter() - begin)
