"""Classical models (ai.onnx.ml): every operator against ONNX Runtime's own kernel, every pipeline against scikit-learn itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge, SGDClassifier
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM

import onnxsal
from onnxsal.ask.guard import compare_on_random_input
from onnxsal.errors import InputError, ModelError, PlanError
from onnxsal.facts.heads import squashed
from onnxsal.graph.load import load_model
from onnxsal.ops.classical_linear import sweeps
from onnxsal.ops.expansion import EXPANSIONS
from onnxsal.ops.squashing import Kind
from onnxsal.passes import prepare
from onnxsal.runtime.probe import compare_models
from tests.oracle import run
from tests.small_models import draw, make, node

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of scikit-learn: Platt scaling goes another way from 1.11 on

ML = "ai.onnx.ml"

# ----- one node at a time: ONNX Runtime's own kernel is the oracle -----


def one(op_type: str, outputs: str = "y", kind: int = TensorProto.FLOAT, shape: tuple = ("N", 4), inputs: str = "x", **attributes: object):
    """A model of one node. Its outputs are y, scores, and l, labels."""
    label = TensorProto.STRING if "classlabels_strings" in attributes else TensorProto.INT64
    extra = {"picked": np.array([[2, 0, 2]])} if "picked" in inputs else {}
    types = {"x": kind, "l": label, "y": kind if op_type in ("ArrayFeatureExtractor", "Imputer") else TensorProto.FLOAT}
    shapes = {n: shape for n in inputs.split() if n not in extra}
    return make(
        [node(op_type, inputs, outputs, domain=ML, **attributes)],
        shapes,
        dict.fromkeys(outputs.split()),
        extra,
        types=types,
        domains={ML: 3},
    )


def rows(*shape: int, seed: int = 0, scale: float = 1.0) -> list[float]:
    return draw(*shape, seed=seed, scale=scale).ravel().tolist()


KINDS = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "int64": TensorProto.INT64, "int32": TensorProto.INT32}
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
KERNEL = {"kernel_params": [0.3, 0.2, 3.0]}
PLATT = {n: {"prob_a": (-1 - np.abs(draw(n))).tolist(), "prob_b": rows(n, seed=1, scale=0.2)} for n in (1, 3, 10)}


def classifier(count: int, transform: str, kind: int = TensorProto.FLOAT, scale: float = 1.0) -> onnx.ModelProto:
    names = {"classlabels_ints": list(range(max(count, 2)))} if count % 2 else {"classlabels_strings": ["cat", "dog"]}
    scores = {"coefficients": rows(count, 4, scale=scale), "intercepts": [0.5] * count}
    return one("LinearClassifier", "l y", kind, post_transform=transform, **scores, **names)


def svc(kernel: str, per_class: list[int], transform: str, platt: bool) -> onnx.ModelProto:
    classes, count = len(per_class), sum(per_class)
    pairs = classes * (classes - 1) // 2
    return one(
        *("SVMClassifier", "l y"),
        kernel_type=kernel,
        support_vectors=rows(count, 4, seed=1),
        coefficients=rows(classes - 1, count, seed=2),
        vectors_per_class=per_class,
        rho=rows(pairs, seed=3),
        classlabels_ints=list(range(classes)),
        post_transform=transform,
        **KERNEL,
        **(PLATT[pairs] if platt else {}),
    )


def svr(kernel: str, **more: object) -> onnx.ModelProto:
    given = {"support_vectors": rows(5, 4, seed=1), "coefficients": rows(5, seed=2), "n_supports": 5, "rho": [0.3]}
    return one("SVMRegressor", kernel_type=kernel, **(KERNEL | given | more))


ONE_BY_ONE = {
    **{f"Scaler-{n}": one("Scaler", kind=k, offset=rows(4), scale=rows(4, seed=1)) for n, k in KINDS.items()},
    "Scaler-one": one("Scaler", offset=[0.5], scale=[2.0]),
    "Scaler-vector": one("Scaler", shape=(4,), offset=rows(4), scale=rows(4, seed=1)),
    **{f"Normalizer-{norm}": one("Normalizer", norm=norm) for norm in ("MAX", "L1", "L2")},
    **{f"Normalizer-{n}": one("Normalizer", kind=k, norm="L2") for n, k in KINDS.items()},
    "Normalizer-vector": one("Normalizer", shape=(4,), norm="L1"),
    "Imputer-nan": one("Imputer", imputed_value_floats=rows(4), replaced_value_float=float("nan")),
    "Imputer-zero": one("Imputer", imputed_value_floats=[7.0], replaced_value_float=0.0),
    "Imputer-first": one("Imputer", imputed_value_floats=[7.0, 8.0], replaced_value_float=0.0),
    "ArrayFeatureExtractor": one("ArrayFeatureExtractor", inputs="x picked"),
    "ArrayFeatureExtractor-double": one("ArrayFeatureExtractor", inputs="x picked", kind=TensorProto.DOUBLE),
    "ArrayFeatureExtractor-vector": one("ArrayFeatureExtractor", inputs="x picked", shape=(4,)),
    "ArrayFeatureExtractor-cube": one("ArrayFeatureExtractor", inputs="x picked", shape=("N", 2, 4)),
    "FeatureVectorizer": one("FeatureVectorizer", inputs="x z", inputdimensions=[3, 6]),
    "FeatureVectorizer-double": one("FeatureVectorizer", kind=TensorProto.DOUBLE, inputdimensions=[4]),
    **{
        f"LinearRegressor-{n}-{t}": one(
            "LinearRegressor", coefficients=rows(n, 4, scale=0.05), intercepts=[0.5] * n, targets=n, post_transform=t
        )
        for n in (1, 3)
        for t in (*TRANSFORMS, "PROBIT")
    },
    "LinearRegressor-no-intercept": one("LinearRegressor", coefficients=rows(4)),
    **{f"LinearClassifier-{n}-{t}": classifier(n, t) for n in (1, 2, 3) for t in TRANSFORMS},
    "LinearClassifier-PROBIT": classifier(2, "PROBIT", scale=0.05),
    **{f"LinearClassifier-{n}": classifier(3, "SOFTMAX", k) for n, k in KINDS.items()},
    **{f"SVMRegressor-{k}": svr(k) for k in ("LINEAR", "POLY", "RBF", "SIGMOID")},
    "SVMRegressor-one-class": svr("RBF", one_class=1),
    "SVMRegressor-no-vectors": svr("RBF", support_vectors=[0.0], coefficients=rows(4), n_supports=0),
    **{f"SVMClassifier-2-{k}-platt": svc(k, [3, 2], "NONE", True) for k in ("LINEAR", "POLY", "RBF", "SIGMOID")},
    **{f"SVMClassifier-2-{t}": svc("RBF", [3, 2], t, False) for t in TRANSFORMS},
    **{f"SVMClassifier-3-{t}-{p}": svc("RBF", [2, 3, 1], t, p) for t in TRANSFORMS for p in (False, True)},
    "SVMClassifier-5-platt": svc("RBF", [2, 1, 3, 2, 2], "NONE", True),
    **{
        f"SVMClassifier-no-vectors-{n}": one(
            "SVMClassifier", "l y", coefficients=rows(n, 4), rho=[0.1], classlabels_ints=list(range(n)), post_transform="SOFTMAX", **KERNEL
        )
        for n in (1, 2, 3)
    },
}


def feed(model: onnx.ModelProto, scale: float) -> dict[str, np.ndarray]:
    """Random numbers for every input, some of them 0; NaN where the model replaces it."""
    given = {}
    for seed, value in enumerate(model.graph.input):
        shape = [5 if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        given[value.name] = (draw(*shape, seed=seed) * scale).astype(dtype)
        given[value.name].reshape(-1)[::3] = 0
        replaced = [a.f for n in model.graph.node for a in n.attribute if a.name == "replaced_value_float"]
        if np.isnan(replaced).any():
            given[value.name][0, 1:3] = np.nan
    return given


@pytest.mark.parametrize("model", ONE_BY_ONE.values(), ids=ONE_BY_ONE.keys())
def test_a_node_is_written_in_standard_operators(model: onnx.ModelProto):
    result = prepare(load_model(model), lambda domain, op_type: domain == "", None).model.proto
    assert [n.op_type for n in result.graph.node if n.domain] == [n.op_type for n in model.graph.node if "l" in n.output]
    for scale in (0.3, 3.0):
        assert compare_models(load_model(model), result, feed(model, scale)) < 1e-5
    if "l" in [o.name for o in model.graph.output]:
        before, after = (run(m, feed(model, 1.0))["l"] for m in (model, result))
        np.testing.assert_array_equal(before, after)


def test_every_expansion_is_tested():
    assert {name.split("-")[0] for name in ONE_BY_ONE} == {name for domain, name in EXPANSIONS if domain == ML}


def test_labels_alone_leave_a_classifier_as_it_is():
    """Nothing reads its scores, so there is nothing to write; integers are looked up as before."""
    nodes = [
        node("LinearClassifier", "x", "l scores", domain=ML, coefficients=rows(2, 4), intercepts=[0.0, 0.0], classlabels_ints=[0, 1]),
        node("ArrayFeatureExtractor", "names l", "named", domain=ML),
        node("Tanh", "x", "y"),
    ]
    types = {"named": TensorProto.INT64}
    model = make(nodes, {"x": ["N", 4]}, {"named": None, "y": ["N", 4]}, {"names": np.array([7, 8])}, types=types, domains={ML: 3})
    prepared = prepare(load_model(model), lambda domain, op_type: domain == "", compare_on_random_input)
    assert not prepared.rewritten
    assert [n.op_type for n in prepared.model.proto.graph.node] == [n.op_type for n in nodes]


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (one("Scaler", shape=("N", 4, 2), offset=[0.0], scale=[1.0]), "has an input of 3 axes"),
        (
            one("Imputer", shape=("N", None), imputed_value_floats=[0.0, 1.0], replaced_value_float=0.0),
            "has 2 values to impute for a number",
        ),
        (classifier(1, "PROBIT"), "makes two classes of one score and ends in PROBIT"),
        (one("LinearClassifier", "l y", coefficients=rows(4), classlabels_ints=[0, 1]), "has no intercepts"),
        (svr("COSINE"), "has a kernel 'COSINE'"),
    ],
)
def test_what_has_no_one_meaning_is_refused(model: onnx.ModelProto, what: str):
    with pytest.raises(ModelError, match=rf"node '[yl]' \(ai.onnx.ml.{model.graph.node[0].op_type}\) {what}"):
        prepare(load_model(model), lambda domain, op_type: domain == "", None)


# ----- coupled probabilities -----


def needed(r: np.ndarray) -> int:
    """How many sweeps libsvm's iteration makes on r [k, k] until nothing moves, in float64."""
    k = len(r)
    p, q = np.full(k, 1 / k), -r.T * r
    np.fill_diagonal(q, (r.T**2).sum(1) - np.diag(r) ** 2)
    for sweep in range(101):
        product = q @ p
        if np.abs(product - p @ product).max() < 0.005 / k:
            return sweep
        for i in range(k):
            product = q @ p
            step = (p @ product - product[i]) / q[i, i]
            p[i] += step
            p /= 1 + step
    return 101


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 20])
def test_twice_the_sweeps_that_any_problem_needs_are_written(classes: int):
    rng = np.random.default_rng(classes)
    worst = 0
    for trial in range(200 if classes < 10 else 50):
        z = rng.normal(size=(classes, classes)) * 10 ** rng.uniform(-2, 2)
        if trial % 3 == 1:
            z = np.sign(z) * 16
        if trial % 3 == 2:
            z = np.subtract.outer(z[0], z[0]) + 0.3 * z
        upper = np.triu(np.clip(1 / (1 + np.exp(-np.clip(z, -50, 50))), 1e-7, 1 - 1e-7), 1)
        worst = max(worst, needed(upper + np.tril(1 - upper.T, -1)))
    assert 0 < 2 * worst <= sweeps(classes)


# ----- pipelines -----

X = draw(80, 4, dtype=np.float64)
CLASS = (X[:, 0] > 0.3).astype(int) + (X[:, 1] > 0)
SIDE = (X[:, 0] + X[:, 2] > 0).astype(int)
LEVEL = X @ [1.0, 2.0, -1.0, 0.5] + np.sin(3 * X[:, 0])


@dataclass(frozen=True)
class Pipeline:
    """An estimator, what it learns, which of its functions the file computes, and in which types skl2onnx writes it."""

    estimator: BaseEstimator
    target: np.ndarray | None
    function: str = "predict"
    data: np.ndarray = field(default_factory=lambda: X)
    double: bool = True
    column: int = 1
    explained: int = 1
    tolerance: float = 2e-4


def scores(estimator: BaseEstimator, target: np.ndarray, **more: object) -> Pipeline:
    return Pipeline(estimator, target, "predict_proba", **more)


def after(*steps: BaseEstimator, **more: object) -> Pipeline:
    """A regression behind something else: what comes before it must be passed exactly."""
    return Pipeline(make_pipeline(*steps, LinearRegression()), LEVEL, **more)


MLP = {"max_iter": 60, "random_state": 0}
PIPELINES = {
    "logistic-2": scores(LogisticRegression(), SIDE),
    "logistic-3": scores(LogisticRegression(), CLASS),
    "logistic-names": scores(LogisticRegression(), np.array(["cat", "dog", "eel"])[CLASS]),
    "one-vs-rest": scores(OneVsRestClassifier(LogisticRegression()), CLASS),
    "calibrated": scores(CalibratedClassifierCV(LinearSVC(random_state=0), cv=2), CLASS),
    "linear-svc-2": Pipeline(LinearSVC(random_state=0), SIDE, "decision_function", double=False),
    "linear-svc-3": Pipeline(LinearSVC(random_state=0), CLASS, "decision_function", double=False),
    "sgd": scores(SGDClassifier(loss="log_loss", random_state=0), CLASS, tolerance=2e-3),
    "gaussian-nb": scores(GaussianNB(), CLASS),
    "multinomial-nb": scores(MultinomialNB(), CLASS, data=np.abs(X)),
    "mlp-2": scores(MLPClassifier(hidden_layer_sizes=(5,), activation="tanh", **MLP), SIDE),
    "mlp-3": scores(MLPClassifier(hidden_layer_sizes=(5,), activation="logistic", **MLP), CLASS),
    "lda": scores(LinearDiscriminantAnalysis(), CLASS),
    "qda": scores(QuadraticDiscriminantAnalysis(), CLASS, tolerance=1e-3),
    "stack": scores(StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]), CLASS, tolerance=1e-3),
    "gmm": scores(GaussianMixture(2, random_state=0), SIDE, double=False),
    "columns": scores(
        make_pipeline(
            ColumnTransformer([("a", StandardScaler(), [0, 2]), ("b", MinMaxScaler(), [1])], remainder="passthrough"), LogisticRegression()
        ),
        CLASS,
    ),
    # of two classes the file returns [s, -s]
    **{f"svc-2-{k}": Pipeline(SVC(kernel=k), SIDE, "decision_function", explained=0) for k in ("linear", "poly", "rbf", "sigmoid")},
    "svc-3": Pipeline(SVC(), CLASS, "decision_function", tolerance=2e-3),
    "svc-platt-2": scores(SVC(kernel="poly", probability=True, random_state=0), SIDE, tolerance=2e-3),
    "svc-platt-3": scores(SVC(probability=True, random_state=0), CLASS, tolerance=2e-3),
    **{f"svr-{k}": Pipeline(SVR(kernel=k), LEVEL, double=False) for k in ("linear", "poly", "rbf", "sigmoid")},
    "one-class": Pipeline(OneClassSVM(), None, "decision_function", double=False),
    "ridge": Pipeline(Ridge(), LEVEL),
    "poisson": Pipeline(PoissonRegressor(), np.abs(LEVEL)),
    "pls": Pipeline(PLSRegression(2), LEVEL),
    "mlp": Pipeline(MLPRegressor(hidden_layer_sizes=(6,), activation="tanh", **MLP), LEVEL),
    "k-means": Pipeline(make_pipeline(PCA(2), KMeans(3, n_init=2, random_state=0)), None, "transform"),
    "standard": after(StandardScaler()),
    "min-max": after(MinMaxScaler()),
    "robust": after(RobustScaler()),
    "max-abs": after(MaxAbsScaler()),
    "polynomial": after(PolynomialFeatures(2), double=False),
    "norm-l1": after(Normalizer("l1")),
    "norm-l2": after(Normalizer("l2")),
    "norm-max": after(Normalizer("max"), data=np.abs(X), double=False),
    "imputer": after(SimpleImputer(), double=False),
    "power": after(PowerTransformer(), double=False),
    "quantile": after(QuantileTransformer(n_quantiles=20), tolerance=2e-3),
    "whitened": after(PCA(2, whiten=True)),
}
CASES = [(name, double) for name, pipeline in PIPELINES.items() for double in (False, True) if pipeline.double or not double]


@functools.cache
def converted(name: str, double: bool, zipmap: bool = False) -> onnx.ModelProto:
    """The file of a fitted pipeline; a table of scores instead of maps unless ``zipmap``."""
    pipeline = PIPELINES[name]
    return written(fitted(name), double, zipmap if pipeline.function == "predict_proba" and name != "gmm" else None)


@functools.cache
def fitted(name: str) -> BaseEstimator:
    pipeline = PIPELINES[name]
    return pipeline.estimator.fit(pipeline.data, pipeline.target)


def written(estimator: BaseEstimator, double: bool = False, zipmap: bool | None = None) -> onnx.ModelProto:
    kind = DoubleTensorType if double else FloatTensorType
    last = getattr(estimator, "steps", [("", estimator)])[-1][1]
    if zipmap is None and hasattr(last, "classes_") and not isinstance(last, LinearSVC):
        zipmap = False
    options = None if zipmap is None else {id(last): {"zipmap": zipmap}}
    versions = {"": 18, ML: 3}
    return to_onnx(estimator, initial_types=[("x", kind([None, 4]))], options=options, target_opset=versions)


def slopes(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences [N, C] of f: [N, C] -> [N], row by row."""
    found = np.empty_like(x)
    for j in range(x.shape[1]):
        move = step * np.eye(x.shape[1])[j]
        found[:, j] = (f(x + move) - f(x - move)) / (2 * step)
    return found


@pytest.mark.parametrize(("name", "double"), CASES, ids=[f"{n}-{'double' if d else 'float'}" for n, d in CASES])
def test_a_pipeline_has_the_derivative_of_scikit_learn(name: str, double: bool):
    pipeline = PIPELINES[name]
    model = converted(name, double)
    x = pipeline.data[:4].astype(np.float64 if double else np.float32)
    found = onnxsal.Explainer(model, "gradient", score="raw").explain(x, 0 if single(name) else pipeline.explained)

    def f(rows: np.ndarray) -> np.ndarray:
        values = getattr(fitted(name), pipeline.function)(rows)
        return values if values.ndim == 1 else values[:, pipeline.column]

    expected = slopes(f, x.astype(np.float64))
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(found.score, f(x.astype(np.float64)), rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(found.attribution, expected, rtol=0, atol=pipeline.tolerance * np.abs(expected).max())
    assert found.attribution.dtype == x.dtype


def single(name: str) -> bool:
    """Whether the file has one score per sample."""
    return PIPELINES[name].function == "predict" or name in ("one-class", "linear-svc-2")


# ----- maps, labels, what the plan says -----


@pytest.mark.parametrize("name", ["logistic-2", "logistic-names", "one-vs-rest"])
def test_a_map_is_explained_at_the_table_behind_it(name: str):
    plain, mapped = converted(name, False), converted(name, False, zipmap=True)
    x = X[:5].astype(np.float32)
    expected = onnxsal.Explainer(plain, "gradient").explain(x, 1)
    explainer = onnxsal.Explainer(mapped, "gradient", batch_size=2)
    found = explainer.explain(x, 1)
    np.testing.assert_allclose(found.attribution, expected.attribution, rtol=1e-4, atol=1e-7)
    question = explainer.conversion.question
    told = {fact.what: str(fact) for fact in question.found}
    assert "output 'output_probability' is a map of its columns" in told["output"]
    np.testing.assert_array_equal(
        onnxsal.Explainer(mapped, "gradient", output="output_probability").explain(x[:2], 1).score, found.score[:2]
    )
    before, now = run(mapped, {"x": x}), found.outputs
    np.testing.assert_array_equal(now["output_label"], before["output_label"])
    assert len(now["output_probability"]) == 5
    for one_map, other in zip(now["output_probability"], before["output_probability"], strict=True):
        assert one_map.keys() == other.keys()
        np.testing.assert_allclose(list(one_map.values()), list(other.values()), rtol=1e-5)
    again = onnxsal.Explainer(onnxsal.convert(mapped, "gradient")).explain(x, 1)
    np.testing.assert_array_equal(again.attribution, found.attribution)
    assert again.outputs["output_probability"] == now["output_probability"]
    report = onnxsal.check(mapped, "cpu", "gradient")
    assert report.ok
    assert report.drift.converted < 1e-5


def test_the_outputs_of_a_file_stay():
    model = converted("svc-platt-3", False)
    result = onnxsal.convert(model, "gradient")
    assert [o.name for o in result.graph.output][:2] == [o.name for o in model.graph.output]
    before, now = run(model, {"x": X.astype(np.float32)}), run(result, {"x": X.astype(np.float32), "target": np.array([-1])})
    np.testing.assert_array_equal(now["label"], before["label"])
    np.testing.assert_allclose(now["probabilities"], before["probabilities"], rtol=2e-5)


def test_a_class_goes_by_the_name_that_the_file_gives_it():
    explainer = onnxsal.Explainer(converted("logistic-names", False), "gradient")
    assert explainer.labels == ["cat", "dog", "eel"]
    x = X[:2].astype(np.float32)
    np.testing.assert_array_equal(explainer.explain(x, "eel").attribution, explainer.explain(x, 2).attribution)
    named = onnxsal.Explainer(converted("logistic-names", False), "gradient", labels=["a", "b", "c"])
    assert named.labels == ["a", "b", "c"]
    assert onnxsal.Explainer(converted("ridge", False), "gradient").labels is None


@pytest.mark.parametrize(("name", "link"), [("logistic-2", "sigmoid"), ("logistic-3", "softmax"), ("lda", "softmax"), ("mlp-3", "softmax")])
def test_the_logits_of_a_classifier_are_explained(name: str, link: str):
    """Before the softmax or sigmoid, and also before a division by the sum of a softmax, which is 1."""
    explainer = onnxsal.Explainer(converted(name, False), "gradient")
    question = explainer.conversion.question
    assert (question.score, question.link) == ("logit", link)
    if name != "mlp-3":
        coefficients = fitted(name).coef_[-1]
        found = explainer.explain(X[:3].astype(np.float32), 2 if link == "softmax" else 1)
        np.testing.assert_allclose(found.attribution, np.tile(coefficients, (3, 1)), rtol=1e-5)


def test_a_sum_that_is_not_of_the_softmax_hides_the_logits():
    for nodes in (["Abs", "ReduceSum"], ["ReduceSum"]):
        for axes in ([-1], [0]):
            names = ["p", *(f"s{i}" for i in range(len(nodes)))]
            steps = [node(op, f"{a} axes" if op == "ReduceSum" else a, b) for op, a, b in zip(nodes, names, names[1:], strict=False)]
            model = make(
                [node("Softmax", "x", "p"), *steps, node("Div", f"p {names[-1]}", "y")],
                {"x": ["N", 3]},
                {"y": None},
                {"axes": np.array(axes)},
            )
            question = onnxsal.Explainer(model, "gradient", batched=axes == [-1]).conversion.question
            assert (question.start.name == "x") == (axes == [-1])
            fact = squashed(question.model).get(names[-1])
            assert (fact is not None and fact.kind == Kind.ONE) == (axes == [-1])


def test_missing_values_may_be_fed_to_a_model_that_imputes_them():
    """They have no influence: the derivative is 0 there, and elsewhere that of the rest."""
    columns = ColumnTransformer([("a", SimpleImputer(), [0, 2]), ("b", StandardScaler(), [1])])
    fitted, x = make_pipeline(columns, LinearRegression()).fit(X, LEVEL), X[:3].astype(np.float32)
    gaps = x.copy()
    gaps[0, 0] = gaps[2, 2] = np.nan
    whole = written(make_pipeline(SimpleImputer(), StandardScaler(), LinearRegression()).fit(X, LEVEL))
    for model, estimator in ((whole, None), (written(fitted), fitted)):
        explainer = onnxsal.Explainer(model, "gradient")
        if estimator is not None:  # column 1 goes another way, and is not imputed
            with pytest.raises(InputError, match="NaN"):
                explainer.explain(gaps)
            continue
        found, full = explainer.explain(gaps), explainer.explain(x)
        np.testing.assert_array_equal(found.attribution, np.where(np.isnan(gaps), 0, full.attribution))
        with pytest.raises(InputError, match="infinite"):
            explainer.explain(np.where(np.isnan(gaps), np.inf, x).astype(np.float32))


def test_names_and_numbers_side_by_side():
    """A column of names is looked up beside the numbers that are explained; its one-hot columns are no part of the map."""
    names = np.array(["a", "b", "c"])[np.random.default_rng(0).integers(0, 3, 80)]
    mixed = np.empty((80, 3), object)
    mixed[:, :2], mixed[:, 2] = X[:, :2], names
    steps = [("n", StandardScaler(), [0, 1]), ("c", OneHotEncoder(), [2])]
    estimator = make_pipeline(ColumnTransformer(steps), LogisticRegression()).fit(mixed, SIDE)
    kinds = [("numbers", FloatTensorType([None, 2])), ("names", StringTensorType([None, 1]))]
    options = {id(estimator[-1]): {"zipmap": False}}
    model = to_onnx(estimator, initial_types=kinds, options=options, target_opset={"": 18, ML: 3})
    feed = {"numbers": X[:3, :2].astype(np.float32), "names": names[:3, None].astype(object)}
    found = onnxsal.Explainer(model, "gradient").explain(feed, 1)
    slopes = estimator[-1].coef_[0, :2] / estimator[0].named_transformers_["n"].scale_
    np.testing.assert_allclose(found.attribution, np.tile(slopes, (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.score, estimator.decision_function(mixed[:3]), rtol=1e-5)


# ----- what has no gradient -----

STEPS = {
    "Binarizer": make_pipeline(Binarizer(), LinearRegression()),
    "Less": make_pipeline(KBinsDiscretizer(3, encode="ordinal"), LinearRegression()),
    "Greater": BernoulliNB(),
    "TreeEnsembleClassifier": RandomForestClassifier(3, max_depth=3, random_state=0),
}


@pytest.mark.parametrize("op_type", STEPS)
def test_steps_are_named_with_what_explains_them(op_type: str):
    target = CLASS if op_type in ("Greater", "TreeEnsembleClassifier") else LEVEL
    estimator = STEPS[op_type].fit(X, target)
    for zipmap in (None, True) if op_type in ("Greater", "TreeEnsembleClassifier") else (None,):
        with pytest.raises(PlanError, match=rf"node '{op_type}' \((ai.onnx.ml.)?{op_type}, .*") as caught:
            onnxsal.Explainer(written(estimator, zipmap=zipmap), "gradient")
        assert "piecewise constant" in str(caught.value) or "0 almost everywhere" in str(caught.value)
        for method in ("feature_ablation", "shapley_sampling", "occlusion", "rise"):
            assert method in str(caught.value)


# ----- methods -----

METHODS = {
    "gradient_x_input": {},
    "integrated_gradients": {"steps": 64},
    "smoothgrad": {"samples": 4},
    "fullgrad": {},
    "deeplift": {},
    "lrp_epsilon": {},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp-3", "mlp", "columns", "standard", "svr-rbf"])
def test_methods_explain_pipelines(method: str, name: str):
    """With the law that each obeys; the logit, where there is one."""
    if method in ("deeplift", "lrp_epsilon") and name == "svr-rbf":
        pytest.skip("no rule of theirs is made for kernels")
    x = X[:3].astype(np.float32)
    found = onnxsal.Explainer(converted(name, False), method, **METHODS[method]).explain(x, 0)
    assert found.attribution.shape == x.shape
    assert found.attribution.any(1).all()
    if method in ("fullgrad", "deeplift", "integrated_gradients"):
        assert found.residual.max() < (2e-2 if method == "integrated_gradients" else 1e-4)
