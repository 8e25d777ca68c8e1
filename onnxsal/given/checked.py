"""What is fed to a model, held against what it takes: an array for each input, numbers that mean something, as many rows in each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.given.from_files import Feeding
from onnxsal.runtime.finite import all_finite
from onnxsal.runtime.on_device import OnDevice, where_it_lies
from onnxsal.runtime.session import Session


def checked_feed(x: Any, fed: Feeding, session: Session, gaps: Collection[str]) -> dict[str, Any]:
    """Arrays by input, wherever they lie; NaN is taken by the inputs in ``gaps`` only. Raises ``InputError``."""
    if isinstance(x, Mapping):
        feed = {k: where_it_lies(v, k) for k, v in x.items()}
    elif len(fed.inputs) == 1:
        feed = {fed.inputs[0].name: where_it_lies(x, fed.inputs[0].name)}
    else:
        names = ", ".join(map(str, fed.inputs))
        raise InputError(f"the model has {len(fed.inputs)} inputs ({names}); give a dict with an array for each.")
    for name, array in feed.items():
        if bad := _wild(array, session, name in gaps):
            raise InputError(f"input '{name}' has {bad} value(s) that are NaN or infinite; a map of them would mean nothing.")
        if name in fed.question.samples and (array.ndim == 0 or len(array) == 0):
            raise InputError(f"input '{name}' has shape {list(array.shape)}; it needs a batch axis with at least one sample.")
    return feed


def _wild(array: np.ndarray | OnDevice, session: Session, gaps: bool) -> int:
    """How many values of an input mean nothing; those of one that may have gaps are counted on the host, wherever it lies."""
    if isinstance(array, OnDevice) and array.device != session.device:
        return 0  # the session refuses it
    if array.dtype is None or array.dtype.kind != "f" or (not gaps and all_finite(array, session.obtained)):
        return 0
    numbers = np.asarray(array)
    return int((np.isinf(numbers) if gaps else ~np.isfinite(numbers)).sum())


def sample_count(feed: Mapping[str, Any], rows: Collection[str]) -> int:
    """The number of samples, of which every input in ``rows`` holds one row each. Raises ``InputError``."""
    sizes = {name: len(array) for name, array in feed.items() if name in rows}
    if not sizes:
        return 1
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"the inputs hold different numbers of samples ({listing}); give one row per sample in each.")
    return next(iter(sizes.values()))
