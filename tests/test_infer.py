"""Constants that shape inference folds: what the standard's own node cases say, and no more than the standard says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxsal.graph.infer import infer
from tests.conformance import cases_by_operator
from tests.small_models import make, node


def folded(test: object) -> list[tuple[np.ndarray, np.ndarray]]:
    """(value, the standard's) of each output that is known once every input of the case is an initialiser."""
    model = onnx.ModelProto.FromString(test.model.SerializeToString())  # type: ignore[attr-defined]
    inputs, outputs = test.data_sets[0]  # type: ignore[attr-defined]
    if len(model.graph.node) != 1 or not all(isinstance(a, np.ndarray) for a in (*inputs, *outputs)):
        return []
    model.graph.initializer.extend(numpy_helper.from_array(a, i.name) for i, a in zip(model.graph.input, inputs, strict=True))
    del model.graph.input[:]
    constants = infer(model).constants
    return [(constants[o.name], e) for o, e in zip(model.graph.output, outputs, strict=True) if o.name in constants]


def close(value: np.ndarray, expected: np.ndarray) -> bool:
    if expected.dtype.kind in "OSUb":
        return bool(np.array_equal(value, expected))
    return bool(np.allclose(value.astype(float), expected.astype(float), rtol=1e-3, atol=1e-5, equal_nan=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_folded_values_are_the_standards():
    """Every operator of the standard: what is folded is what its case expects. Nothing random and no subgraph is folded."""
    wrong, names = [], set()
    for op_type, tests in cases_by_operator().items():
        for test in tests:
            for value, expected in folded(test):
                names.add(op_type)
                if value.shape != expected.shape or not close(value, expected):
                    wrong.append(test.name)
    assert not wrong
    assert len(names) > 140
    assert {"Shape", "Gather", "Concat", "Sqrt", "Slice", "Where", "Range"} <= names
    assert not names & {"Dropout", "Bernoulli", "RandomNormal", "RandomUniformLike", "Multinomial", "If", "Loop", "Scan"}


def test_the_stand_in_for_a_group_normalisation_is_not_folded():
    """Inference knows no GroupNormalization, so another operator lends it its shape, but not its value."""
    weights = {"x": np.ones((1, 4, 3), np.float32), "s": np.ones(2, np.float32), "b": np.full(2, 7.0, np.float32)}
    inferred = infer(make([node("GroupNormalization", "x s b", "y", num_groups=2)], {}, {"y": [1, 4, 3]}, weights))
    assert inferred.types["y"][1] == (1, 4, 3)
    assert "y" not in inferred.constants


@pytest.mark.parametrize("op_type", ["Scatter", "Nonsense"])
def test_what_nobody_evaluates_is_not_known(op_type: str):
    weights = {"x": np.zeros((2, 2), np.float32), "i": np.zeros((1, 2), np.int64), "u": np.ones((1, 2), np.float32)}
    model = make([node(op_type, "x i u", "y"), node("Shape", "x", "n")], {}, {"y": [2, 2], "n": [2]}, weights, opset=9)
    constants = infer(model).constants
    assert "y" not in constants
    assert constants["n"].tolist() == [2, 2]


def test_of_a_value_that_only_lends_its_type_the_type_is_enough():
    """Exporters write the bounds of a Clip in the type of the data that it bounds."""
    nodes = [node("Mul", "x x", "s"), node("CastLike", "low s", "low_as"), node("CastLike", "s low", "s_as"), node("Clip", "s low_as", "y")]
    model = make(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"low": np.array(2, np.int64)}, opset=19)
    constants = infer(model).constants
    assert constants["low_as"] == 2
    assert constants["low_as"].dtype == np.float32
    assert "s_as" not in constants
