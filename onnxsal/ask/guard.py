"""The guard of rewriting passes: run the model before and after on random input and compare."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from onnxsal.ask.layers import Layers
from onnxsal.ask.question import Question, begin
from onnxsal.engine.method import Method
from onnxsal.engine.plan import Plan, make_plan
from onnxsal.errors import ModelError
from onnxsal.graph import Model
from onnxsal.graph.load import Source, load_model
from onnxsal.ops.registry import known
from onnxsal.passes import Prepared, prepare
from onnxsal.runtime.probe import compare_models


def prepared(source: Source, proto: onnx.ModelProto, planned: Callable[[Model], object]) -> Prepared:
    """``proto``, which was read from ``source``, made plain and compared with what it was.

    Where that fails, gaps in the plan are told first: an operator that nobody knows cannot be run either, and that is all there is to it.
    """
    try:
        return prepare(proto, known, compare_on_random_input)
    except ModelError:
        planned(prepare(load_model(source), known).model)
        raise


def plan_of(question: Question, method: Method) -> Plan:
    """The walk that a method begins with, from the scores (Grad-CAM: as far as its layer)."""
    explained = Layers(question).chosen.value.name if method.wrap == "gradcam" else question.x.name
    start = begin(question) if method.seed == "score" else question.start
    return make_plan(question.model, method, [explained], [start.name])


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
