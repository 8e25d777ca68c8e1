"""A class that does not exist is told in the file itself: NaN for that sample in all that was added, and -2 as its explained_class."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.engine.method import get_method
from onnxsal.errors import MethodError, TargetError
from tests.oracle import run
from tests.small_models import cnn, draw, make, node, segmenter, tokens, unbatched
from tests.test_contract import FITTED, METHODS, QUICK, convert

X = draw(4, 3, 8, 8, seed=3)
NONE = [5, 5000, -2, -5, 2**31, -(2**31) - 1, 2**32, 2**32 + 1, -(2**32), 2**62, 2**63 - 1, -(2**63)]
"""No classes of a model that has five, and not -1: some become one, or -1, where only their lower 32 bits are looked at."""


def int64(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def told(model: onnx.ModelProto, feed: dict[str, np.ndarray], target: np.ndarray, lost: list[int]) -> dict[str, np.ndarray]:
    """The outputs for ``target``, of which the samples ``lost`` have no class; all else must be as if they had class 0."""
    own = {o.name for o in model.graph.output[: next(i for i, o in enumerate(model.graph.output) if o.name == "attribution")]}
    rows = np.zeros(len(target), bool)
    rows[lost] = True
    got, expected = run(model, feed | {"target": target}), run(model, feed | {"target": np.where(rows, 0, target)})
    for name, value in got.items():
        if name in own:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
            continue
        assert len(value) == len(target), name
        np.testing.assert_array_equal(value[~rows], expected[name][~rows], err_msg=name)
        assert (value[rows] == -2).all() if name == "explained_class" else np.isnan(value[rows]).all(), name
    return got


@pytest.mark.parametrize("method", METHODS)
def test_every_output_of_every_method_is_lost_for_that_sample_alone(method: str):
    """Levels of a map, its rescaling and its largest channel all drop NaN; the components are outputs, too."""
    settings = {"rescale": True, "reduce": "max_abs"} if {"rescale", "reduce"} <= get_method(method).parameters.keys() else {}
    model = convert(cnn(), method, components=True, quantize=4, **settings)
    told(model, {"x": X}, int64(3, 5000, -1, -2), [1, 3])
    alone = run(model, {"x": X, "target": int64(-7)})
    assert alone["explained_class"].tolist() == [-2] * 4
    assert np.isnan(alone["attribution"]).all()


@pytest.mark.parametrize("method", FITTED)
def test_fitted_methods_too(method: str):
    patterns = onnxsal.fit_patterns(cnn(), draw(40, 3, 8, 8))
    told(onnxsal.convert(cnn(), method, patterns=patterns), {"x": X}, int64(3, 5000, -1, -2), [1, 3])


@pytest.mark.parametrize("target", NONE)
def test_every_number_that_is_no_class(target: int):
    told(converted(), {"x": X}, int64(4, target, 0, -1), [1])


_MADE: list[onnx.ModelProto] = []


def converted() -> onnx.ModelProto:
    if not _MADE:
        _MADE.append(onnxsal.convert(cnn(), "lrp_epsilon"))
    return _MADE[0]


KINDS: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, Any], list[int], list[int]]] = {
    "probability": (cnn(), {"x": X}, {"score": "probability"}, [0, 5, 4, -9], [1, 3]),
    "raw": (cnn(), {"x": X}, {"score": "raw"}, [0, 5, 4, -9], [1, 3]),
    "no-softmax": (cnn(final=""), {"x": X}, {}, [0, 5, 4, -9], [1, 3]),
    "one-sigmoid": (cnn(classes=1, final="Sigmoid"), {"x": X}, {}, [1, 2, 0, -2], [1, 3]),
    "one-sigmoid-probability": (cnn(classes=1, final="Sigmoid"), {"x": X}, {"score": "probability"}, [1, 2, 0, -2], [1, 3]),
    "fixed-batch": (cnn(4), {"x": X}, {}, [0, 5, 4, -9], [1, 3]),
    "float64": (cnn(dtype=np.float64), {"x": X.astype(np.float64)}, {}, [0, 5, 4, -9], [1, 3]),
    "segmentation": (segmenter(), {"x": draw(4, 3, 6, 6)}, {}, [71, 72, 0, -36], [1, 3]),
    "classes-known-at-run-time": (segmenter(size="S"), {"x": draw(4, 3, 6, 6)}, {}, [71, 72, 0, -36], [1, 3]),
    "tokens": (tokens(), {"ids": np.arange(20).reshape(4, 5) % 11}, {"input": "embedded"}, [0, 3, 2, -9], [1, 3]),
    "one-sample": (unbatched(), {"x": draw(7, 4)}, {}, [3], [0]),
    "one-number": (make([node("Mul", "x w", "y")], {"x": []}, {"y": [3]}, {"w": draw(3)}), {"x": np.asarray(2, np.float32)}, {}, [3], [0]),
}
"""Model, feed, options, the class of each sample, the samples that have none."""


WAYS = ["gradient", "integrated_gradients", "lrp_epsilon", "deeplift", "smoothgrad"]
NO_RULE = [("deeplift", "probability"), ("deeplift", "raw")]
"""DeepLIFT has no rule for a softmax that is kept."""


@pytest.mark.parametrize(("method", "kind"), [(m, k) for k in KINDS for m in WAYS if (m, k) not in NO_RULE])
def test_every_kind_of_model(method: str, kind: str):
    model, feed, options, target, lost = KINDS[kind]
    quick = {k: v for k, v in QUICK.items() if k in get_method(method).parameters}
    made = onnxsal.convert(model, method, **quick, **options)
    if kind not in ("one-sample", "one-number"):
        told(made, feed, int64(*target), lost)
        return
    found = run(made, feed | {"target": int64(*target)})  # the attribution is shaped like the input, without an axis of samples
    assert found["explained_class"].tolist() == [-2]
    assert all(np.isnan(v).all() for k, v in found.items() if k not in ("y", "explained_class"))
    assert all(np.isfinite(v).all() for v in run(made, feed | {"target": int64(2)}).values())


@pytest.mark.parametrize("size", [6, "S"])
def test_an_explainer_refuses_it_in_words(size: int | str):
    """Before the run where the number of classes is known, else after it. 2**64 - 1 is -1 where it is read as int64."""
    explainer = onnxsal.Explainer(segmenter(size=size), "gradient")
    for target in (72, 2**31, -2, 2**63, 2**64 - 1, -(2**63)):
        with pytest.raises(TargetError, match=r"target .* is out of range.*\(-1 = predicted\)") as caught:
            explainer.explain(draw(2, 3, 6, 6), target=np.asarray([target]))
        assert "72 classes, 0 to 71" in str(caught.value) or (size == "S" and not -1 <= target < 2**63)


def test_a_class_that_is_built_in_exists():
    """Where only a run can tell, the file still says it."""
    with pytest.raises((TargetError, MethodError), match="out of range"):
        onnxsal.convert(cnn(), "gradient", target=5)
    made = onnxsal.convert(segmenter(size="S"), "gradient", target=np.asarray([72]))
    found = run(made, {"x": draw(2, 3, 6, 6)})
    assert found["explained_class"].tolist() == [-2, -2]
    assert np.isnan(found["attribution"]).all()
    assert np.isfinite(run(made, {"x": draw(2, 3, 7, 7)})["attribution"]).all()
    with pytest.raises(TargetError, match="that is built in is out of range"):
        onnxsal.Explainer(made).explain(draw(2, 3, 6, 6))
