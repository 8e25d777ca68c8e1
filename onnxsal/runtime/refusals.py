"""What ONNX Runtime says when it refuses a model or a run, and what we make of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state as state

from onnxsal.errors import InputError, ModelError, OnnxsalError
from onnxsal.runtime.on_device import OnDevice
from onnxsal.untrusted import library_text

_OPENING = (
    (r"rotobuf parsing failed|No graph was found", "it is not an ONNX model, or is cut short. Export or download it again."),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        "its IR version is {1} and this onnxruntime reads up to {2}. Save it with an older ir_version (10 suits every opset up to 22).",
    ),
    (
        r"Opset (\d+) is under development.*for domain (\S+) is till opset (\d+)",
        "it uses opset {1} of {2} and this onnxruntime knows up to {3}. Export it with an older opset, or install a newer onnxruntime.",
    ),
    (
        r"not a registered function/op|No Op registered",
        "{0}. Custom operators cannot be run: export the model with standard ONNX operators.",
    ),
    (r"[Ee]xternal data", "{0}. Its weights are in another file: open it by path, with that file beside it."),
    (r"Could not find an implementation", "{0}. ONNX Runtime lacks that operator in this type: export the model as float32."),
    (r"", "{0}. Run onnx.checker.check_model on it, or export it again."),
)
"""What ONNX Runtime says when it refuses a model, and what we make of it ({0} is its text, {1} ... the groups)."""


def open_error(error: BaseException, what: str) -> ModelError:
    """The model ``what`` cannot be opened: why, and what to do."""
    text = library_text(error)
    found, advice = next((m, advice) for pattern, advice in _OPENING if (m := re.search(pattern, text)))
    return ModelError(f"{what} cannot be opened: {advice.format(text, *found.groups())}")


def lacks_kernel(error: BaseException) -> str:
    """The operator and opset, as in 'Conv(22)', if a model was refused only because this provider has no kernel for one of its nodes ('' =
    for another reason): the model itself is in order."""
    found = re.search(r"Could not find an implementation for (\S+)", str(error))
    return found[1] if found and isinstance(error.__cause__, state.NotImplemented) else ""


def without_kernel(error: BaseException) -> str:
    """The name of the operator for which ONNX Runtime said it has no kernel at all, or no schema ('' = it said something else)."""
    found = re.search(r"Could not find an implementation for (\w+)\(|\S+:(\w+)\(-?\d+\) is not a registered", str(error))
    return next(filter(None, found.groups())) if found else ""


def run_error(error: BaseException, arrays: Mapping[str, Any]) -> OnnxsalError:
    """A run failed on these inputs: at which node, and what to do."""
    text = library_text(error)
    given = ", ".join(f"{n} {a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray | OnDevice) else n for n, a in arrays.items())
    if re.search(r"[Ff]ailed to allocate|out of memory|bad_alloc|bad allocation", text):
        return InputError(f"not enough memory for inputs {given}: use a smaller batch ({text}).")
    node = re.search(r"while running (\S+) node\. Name:'(.*?)' Status Message: (.*)", text)
    if node:
        failed = ModelError(f"{node[1]} '{node[2]}' failed on inputs {given}: {node[3]}. Check that the input sizes fit the model.")
        failed.node = node[2]
        return failed
    return ModelError(f"the model failed on inputs {given}: {text}.")
