"""Classical models (ai.onnx.ml): what prepares a table for them, written in standard operators.

Every formula is that of ONNX Runtime's kernels, which compute in float32 but for what is said. A table is [N, C], a row per sample; a
vector [C] is a table of one row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxsal.graph import NodeView
from onnxsal.graph.infer import Shape
from onnxsal.ops.expansion import Partly, Writer, expansion
from onnxsal.ops.registry import not_differentiable

CLASSICAL = "ai.onnx.ml"
"""The domain of classical models."""

not_differentiable(
    "it splits at thresholds, so it is piecewise constant",
    *("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
    domain=CLASSICAL,
)
not_differentiable("it is 0 up to a threshold and 1 above, so its derivative is 0 almost everywhere", "Binarizer", domain=CLASSICAL)
not_differentiable(
    "it looks values up in a list, so it is piecewise constant", *("CategoryMapper", "LabelEncoder", "OneHotEncoder"), domain=CLASSICAL
)
not_differentiable("it reads or makes a map, which is no tensor", *("CastMap", "DictVectorizer", "ZipMap"), domain=CLASSICAL)


_MAPS = {"ZipMap": 0}
"""Operators whose output is a table of numbers under names -> the input that is the table."""


def behind_map(node: NodeView) -> str:
    """The tensor that a node returns as maps from names to numbers, one map a row ('' = it makes something else)."""
    return node.proto.input[_MAPS[node.op_type]] if node.domain == CLASSICAL and node.op_type in _MAPS else ""


def asks_for_gaps(node: NodeView) -> bool:
    """Whether a node tells which elements are no number."""
    return node.op_type == "IsNaN"


def fills_gaps(node: NodeView, name: str) -> bool:
    """Whether a node takes elements of the tensor ``name`` only where they are numbers, and something else elsewhere."""
    if node.op_type != "Where" or list(node.proto.input[1:]).count(name) != 1 or node.proto.input[2] != name:
        return False
    asked = node.model.producer.get(node.proto.input[0])
    return asked is not None and asks_for_gaps(asked) and asked.proto.input[0] == name


_NAMES = ("classlabels_strings", "classlabels_ints", "classlabels_int64s")


def class_names(node: NodeView) -> list[str]:
    """The names of classes that a classifier or a map holds, in order ([]: it is none)."""
    if node.domain != CLASSICAL:
        return []
    held: list[Any] = next((names for key in _NAMES if (names := node.attributes.get(key))), [])
    return [name.decode() if isinstance(name, bytes) else str(name) for name in held]


def made_by(node: onnx.NodeProto) -> list[tuple[int, list[int | None]]]:
    """Element types and shapes of the outputs of a tree ensemble, of which shape inference tells nothing ([]: of any other node)."""
    if node.domain != CLASSICAL:
        return []
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "TreeEnsembleRegressor":
        return [(TensorProto.FLOAT, [None, int(given.get("n_targets", 1))])]
    if node.op_type == "TreeEnsembleClassifier":
        texts, ints = given.get("classlabels_strings", []), given.get("classlabels_int64s", [])
        count = len(texts) or len(ints)
        return [(TensorProto.STRING if texts else TensorProto.INT64, [None]), (TensorProto.FLOAT, [None, count if count > 1 else None])]
    return []


def table(w: Writer, i: int = 0) -> tuple[str, int | None]:
    """Input i as float32 [N, C], and C where it is known."""
    _, shape = _few_axes(w, i)
    x = as_float(w, i)
    return w.add("Unsqueeze", x, w.ints([0])) if len(shape) == 1 else x, _features(shape)


def as_float(w: Writer, i: int = 0) -> str:
    """Input i in float32."""
    return w.input(i) if w.type_of(i)[0] == TensorProto.FLOAT else w.add("Cast", w.input(i), to=TensorProto.FLOAT)


def number(w: Writer, value: float | np.floating[Any]) -> str:
    """A float32 constant without axes."""
    return w.stored(np.asarray(value, np.float32))


def numbers(w: Writer, name: str, dtype: Any = np.float32) -> np.ndarray:
    """A list of numbers among the attributes, [] where it is left out."""
    return np.asarray(w.attributes.get(name, []), dtype)


def _few_axes(w: Writer, i: int = 0) -> tuple[int, Shape]:
    """Element type and shape of an input with one or two axes; of others the kernels make something else, or nothing."""
    kind, shape = w.type_of(i)
    if not 1 <= len(shape) <= 2:
        raise w.refuse(f"has an input of {len(shape)} axes")
    return kind, shape


def _features(shape: Shape) -> int | None:
    """The size of the last axis, where it is known."""
    return shape[-1] if isinstance(shape[-1], int) else None


@expansion("Scaler", domain=CLASSICAL)
def _scaler(w: Writer) -> None:
    """(x - offset) scale, each a number or one for each feature; in the type of x, if that is double, and float32 afterwards."""
    kind, _ = _few_axes(w)
    double = kind == TensorProto.DOUBLE
    x = w.input(0) if double else as_float(w)
    offset, scale = (w.stored(numbers(w, name).astype(np.float64 if double else np.float32)) for name in ("offset", "scale"))
    out = w.node.output[0]
    scaled = w.add("Mul", w.add("Sub", x, offset), scale, output="" if double else out)
    if double:
        w.add("Cast", scaled, to=TensorProto.FLOAT, output=out)


@expansion("Normalizer", domain=CLASSICAL)
def _normalizer(w: Writer) -> None:
    """x / max x, x / sum |x| or x / sqrt(sum x^2) over the last axis; x itself, where that is 0."""
    _few_axes(w)
    x, norm, last = as_float(w), w.text("norm") or "MAX", w.ints([-1])
    if norm == "MAX":
        size = w.add("ReduceMax", x, last)
    elif norm == "L1":
        size = w.add("ReduceSum", w.add("Abs", x), last)
    else:
        size = w.add("ReduceSum", w.add("Mul", x, x), last)
    size = w.add("Where", w.add("Equal", size, number(w, 0)), number(w, 1), size)
    w.add("Div", x, w.add("Sqrt", size) if norm == "L2" else size, output=w.node.output[0])


@expansion("Imputer", domain=CLASSICAL, partly=Partly(of_floats=True))
def _imputer(w: Writer) -> None:
    """The imputed value where x is the replaced value (both NaN are the same), x elsewhere."""
    features = _features(_few_axes(w)[1])
    imputed, x = numbers(w, "imputed_value_floats"), w.input(0)
    if len(imputed) > 1 and features is None:
        raise w.refuse(f"has {len(imputed)} values to impute for a number of features that the model does not tell")
    replaced = np.float32(w.attributes.get("replaced_value_float", 0.0))
    hit = w.add("IsNaN", x) if np.isnan(replaced) else w.add("Equal", x, number(w, replaced))
    w.add("Where", hit, w.stored(imputed if len(imputed) == features else imputed[:1]), x, output=w.node.output[0])


@expansion("ArrayFeatureExtractor", domain=CLASSICAL, partly=Partly(of_floats=True))
def _array_feature_extractor(w: Writer) -> None:
    """The elements y of the last axis of x; of a vector, as a table of one row."""
    _, shape = w.type_of(0)
    index, out = w.add("Reshape", w.input(1), w.ints([-1])), w.node.output[0]
    if len(shape) == 1:
        w.add("Unsqueeze", w.add("Gather", w.input(0), index, axis=0), w.ints([0]), output=out)
    else:
        w.add("Gather", w.input(0), index, axis=len(shape) - 1, output=out)


@expansion("FeatureVectorizer", domain=CLASSICAL)
def _feature_vectorizer(w: Writer) -> None:
    """The columns of all tables side by side: of each as many as ``inputdimensions`` says, zeros where it has fewer."""
    wanted, parts = [int(n) for n in w.attributes.get("inputdimensions", [])], []
    for i, count in enumerate(wanted):
        x, features = table(w, i)
        if features is None:
            raise w.refuse("has an input whose number of features the model does not tell")
        if features > count:
            x = w.add("Slice", x, w.ints([0]), w.ints([count]), w.ints([1]))
        elif features < count:
            x = w.add("Pad", x, w.ints([0, 0, 0, count - features]))
        parts.append(x)
    w.add("Concat", *parts, axis=1, output=w.node.output[0])
