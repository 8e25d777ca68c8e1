"""Whether the numbers of an array are finite, asked where they lie."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx

from onnxsal.runtime.on_device import OnDevice
from onnxsal.runtime.providers import Resolved
from onnxsal.runtime.session import Session, open_session

# its own subtraction leaves 0 of a finite number, and nothing else of any other: their sum is 0, or no number
_CHECK = """<ir_version: 10, opset_import: ["" : 18]> check ({type}[{shape}] x) => ({type} y) {{
    difference = Sub (x, x)
    y = ReduceSum <keepdims = 0> (difference)
}}"""

_TYPES = {"float16": "float16", "float32": "float", "float64": "double"}


def all_finite(array: np.ndarray | OnDevice, providers: Resolved) -> bool:
    """Whether every number of an array is finite. On a card it is asked there, by a model of two nodes, and one number comes back."""
    if array.dtype is None or array.dtype.name not in _TYPES:
        return array.dtype is None or array.dtype.kind != "f" or bool(np.isfinite(np.asarray(array)).all())
    if isinstance(array, np.ndarray):
        return bool(np.isfinite(array).all())
    session = _checker(array.dtype.name, array.ndim, tuple((name, tuple(options.items())) for name, options in providers))
    return bool(np.isfinite(session.run({"x": array})["y"]))


@cache
def _checker(dtype: str, rank: int, providers: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]) -> Session:
    shape = ", ".join(f"d{axis}" for axis in range(rank))
    model = onnx.parser.parse_model(_CHECK.format(type=_TYPES[dtype], shape=shape))
    return open_session(model, [(name, dict(options)) for name, options in providers])
