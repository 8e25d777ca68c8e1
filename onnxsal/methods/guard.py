"""The guard of rewriting passes: run the model before and after on random input and compare."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from onnxsal.errors import ModelError
from onnxsal.runtime.probe import compare_models, random_feed, relative_difference
from onnxsal.runtime.session import open_session


def compare_on_random_input(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
    """Largest relative difference of the outputs on one random feed.

    ONNX Runtime runs both; where it has no kernels for the original (opset 6 and older), ONNX's reference evaluator runs that one.
    """
    feed = random_feed(after)
    try:
        return compare_models(before, after, feed)
    except ModelError:
        try:
            expected = ReferenceEvaluator(before).run(None, feed)
        except Exception as error:
            raise ModelError(
                f"the model's operators had to be rewritten, and the original runs nowhere here to compare with: {error}. "
                "Export it with opset 18 or higher."
            ) from error
    got = open_session(after, optimise=False).run(feed, [o.name for o in before.graph.output])
    pairs = zip(expected, got.values(), strict=True)
    return max(relative_difference(np.asarray(a), b) for a, b in pairs)
