"""Which number is explained: one output, one element, a logit where it is called one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxsal
from onnxsal import Explainer
from onnxsal.ask.question import Question, ask
from onnxsal.errors import TargetError
from onnxsal.graph import Model
from tests.small_models import cnn, draw, make, node, segmenter


def asked(model: onnx.ModelProto, **options: Any) -> Question:
    return ask(Model(model), **options)


# ----- which score -----


def test_one_number_is_no_class_of_a_segmentation():
    explainer = Explainer(segmenter(), "gradient")
    x = draw(2, 3, 6, 6)
    for target in (1, [1, 0], np.asarray(1)):
        with pytest.raises(TargetError, match=r"\[2, 6, 6\] for each sample.*tuple of 3"):
            explainer.explain(x, target=target)
    predicted = explainer.explain(x)
    again = explainer.explain(x, target=predicted.target)
    np.testing.assert_array_equal(again.attribution, predicted.attribution)
    assert explainer.explain(x, target=(1, 2, 3)).target.tolist() == [36 + 12 + 3] * 2


def test_scores_with_axes_of_length_one():
    nodes = [node("Conv", "x w", "y", kernel_shape=[8, 8])]
    model = make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5, 1, 1]}, {"w": draw(5, 3, 8, 8)})
    assert Explainer(model, "gradient").explain(draw(2, 3, 8, 8), target=4).target.tolist() == [4, 4]


def detector() -> onnx.ModelProto:
    weights = {"w": draw(3, 24), "v": draw(3, 30), "s1": np.asarray([-1, 6, 4], np.int64), "s2": np.asarray([-1, 6, 5], np.int64)}
    nodes = [
        node("GlobalAveragePool", "x", "g"),
        node("Flatten", "g", "f"),
        node("MatMul", "f w", "b"),
        node("Reshape", "b s1", "boxes"),
        node("MatMul", "f v", "c"),
        node("Reshape", "c s2", "scores"),
    ]
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"boxes": ["N", 6, 4], "scores": ["N", 6, 5]}, weights)


def test_several_outputs_must_be_named():
    with pytest.raises(TargetError, match=r"'boxes' \[N, 6, 4\], 'scores' \[N, 6, 5\].*--output"):
        onnxsal.convert(detector())
    assert Explainer(detector(), "gradient", output="scores").explain(draw(1, 3, 8, 8), target=(2, 3)).target.tolist() == [13]


def test_outputs_that_start_from_the_same_scores_are_one():
    model = cnn()
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5]))
    assert asked(model).start.name == "logits"
    with pytest.raises(TargetError, match="2 floating-point outputs"):
        asked(model, score="raw")


def test_a_weight_is_no_input():
    model = make([node("MatMul", "x w", "y")], {"x": ["N", 5]}, {"y": ["N", 8]}, {"w": draw(5, 8)})
    with pytest.raises(TargetError, match=r"'w' is a constant.*vjp"):
        Explainer(model, "gradient", input="w")


@pytest.mark.parametrize("shape", [["N"], ["N", 1]])
def test_no_softmax_over_a_single_score(shape: list[Any]):
    nodes = [node("Mul", "x x", "s"), node("ReduceSum", "s one", "y", keepdims=len(shape) - 1)]
    model = make(nodes, {"x": ["N", 5]}, {"y": shape}, {"one": np.asarray([1], np.int64)})
    with pytest.raises(TargetError, match="one score per sample"):
        onnxsal.convert(model, score="probability")
    assert onnxsal.convert(model, "gradient")
