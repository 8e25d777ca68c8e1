"""The guard of rewriting passes: run the model before and after on random input and compare."""

from __future__ import annotations

import onnx

from onnxsal.errors import ModelError
from onnxsal.runtime.probe import compare_models


def compare_on_random_input(before: bytes | onnx.ModelProto, after: onnx.ModelProto) -> float:
    """Largest relative difference of the outputs on random feeds.

    ONNX Runtime runs both; where it has no kernels for the original (opset 6 and older), ONNX's reference evaluator runs that one.
    """
    try:
        return compare_models(before, after)
    except ModelError as error:
        raise ModelError(
            f"the model's operators had to be rewritten, and the outputs before and after could not be compared: {error} "
            "Export it with opset 18 or higher, and without fused operators."
        ) from error
