"""The attributes of convolutions, every one of them written out: not every runtime knows what the standard says of one that is left out.

ONNX Runtime's older WebGPU provider (JSEP) refuses a Conv without dilations, and reads strides and pads of another as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxsal.graph.model import NodeView

CONVOLUTIONS = ("Conv", "ConvTranspose")
"""The operators that take them: a node of the file that is copied may leave some out, whatever wrote it."""

Sides = Sequence[int] | np.ndarray | None


def window_attributes(
    places: int, kernel: Sides = None, strides: Sides = None, dilations: Sides = None, pads: Sides = None, group: int = 1
) -> dict[str, Any]:
    """All attributes of a convolution over ``places`` axes; what is not given is what the standard says of an attribute that is left out.

    ``kernel`` is its shape, where that is known before the file is run; else it is left to the runtime, which reads it from the weight.
    """
    steps = {"strides": strides, "dilations": dilations}
    told = {name: [1] * places if given is None else list(map(int, given)) for name, given in steps.items()}
    told["pads"] = [0] * 2 * places if pads is None else list(map(int, pads))
    return told | {"group": int(group), "kernel_shape": None if kernel is None else list(map(int, kernel))}


def left_out(node: NodeView, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that a convolution of the file leaves out, for a copy of it with ``overrides``; of other nodes none.

    Where ``auto_pad`` says what is padded, pads are not named beside it.
    """
    if node.op_type not in CONVOLUTIONS or node.domain or len(node.inputs) < 2:
        return {}
    shape = node.input(1).shape or node.x.shape
    if shape is None:
        return {}
    kernel = [size for size in (node.input(1).shape or ())[2:] if isinstance(size, int)]
    whole = window_attributes(len(shape) - 2, kernel if len(kernel) == len(shape) - 2 else None)
    if node.attr("auto_pad", "NOTSET") != "NOTSET":
        del whole["pads"]
    return {name: value for name, value in whole.items() if value is not None and name not in node.attributes and name not in overrides}
