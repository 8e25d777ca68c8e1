"""Models of scikit-learn as skl2onnx writes them (ai.onnx.ml), fitted on seeded data of six columns; some have no derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tools.models.numbers import Made
from tools.models.sources import Cache

COLUMNS, ROWS, CLASSES = 6, 240, 3


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, a class of three and a number: both follow from a random linear map with noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, COLUMNS))
    scores = x @ rng.normal(size=(COLUMNS, CLASSES)) + 0.3 * rng.normal(size=(ROWS, CLASSES))
    return x, scores.argmax(1), scores[:, 0] + 0.2 * x[:, 1] ** 2


def _models() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, which target it is fitted to ("class", "two", "number", "none"), and the estimator."""
    from sklearn import (
        decomposition,
        discriminant_analysis,
        ensemble,
        linear_model,
        naive_bayes,
        neighbors,
        neural_network,
        preprocessing,
        svm,
        tree,
    )
    from sklearn.cluster import KMeans
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline as after

    yield "LinearRegression", "number", linear_model.LinearRegression
    yield "Ridge after StandardScaler", "number", lambda: after(preprocessing.StandardScaler(), linear_model.Ridge())
    yield "Lasso after MinMaxScaler", "number", lambda: after(preprocessing.MinMaxScaler(), linear_model.Lasso(0.01))
    yield "ElasticNet after PolynomialFeatures", "number", lambda: after(preprocessing.PolynomialFeatures(2), linear_model.ElasticNet(0.01))
    yield "PLSRegression", "number", lambda: PLSRegression(2)
    yield "LogisticRegression", "class", lambda: after(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    yield "LogisticRegression of two classes", "two", linear_model.LogisticRegression
    yield "LogisticRegression after Normalizer", "class", lambda: after(preprocessing.Normalizer(), linear_model.LogisticRegression())
    yield "LogisticRegression after SimpleImputer", "class", lambda: after(SimpleImputer(), linear_model.LogisticRegression())
    yield "LogisticRegression after RobustScaler", "class", lambda: after(preprocessing.RobustScaler(), linear_model.LogisticRegression())
    yield "LogisticRegression after PCA", "class", lambda: after(decomposition.PCA(3), linear_model.LogisticRegression())
    yield "SGDClassifier", "class", lambda: linear_model.SGDClassifier(loss="log_loss", random_state=0)
    yield "LinearDiscriminantAnalysis", "class", discriminant_analysis.LinearDiscriminantAnalysis
    yield "QuadraticDiscriminantAnalysis", "class", discriminant_analysis.QuadraticDiscriminantAnalysis
    yield "GaussianNB", "class", naive_bayes.GaussianNB
    yield "MLPClassifier", "class", lambda: neural_network.MLPClassifier(hidden_layer_sizes=(16, 8), max_iter=300, random_state=0)
    yield (
        "MLPRegressor, tanh",
        "number",
        lambda: neural_network.MLPRegressor(hidden_layer_sizes=(16,), activation="tanh", max_iter=300, random_state=0),
    )
    yield "SVC, RBF, probabilities", "class", lambda: svm.SVC(probability=True, random_state=0)
    yield "SVC, polynomial, two classes", "two", lambda: svm.SVC(kernel="poly", probability=True, random_state=0)
    yield "SVR, RBF", "number", svm.SVR
    yield "NuSVR, sigmoid", "number", lambda: svm.NuSVR(kernel="sigmoid")
    yield "GaussianProcessRegressor", "number", lambda: GaussianProcessRegressor(alpha=0.1)
    yield "KMeans", "none", lambda: KMeans(3, n_init=1, random_state=0)
    yield "PCA", "none", lambda: decomposition.PCA(3)
    yield (
        "VotingClassifier",
        "class",
        lambda: ensemble.VotingClassifier(
            [("a", linear_model.LogisticRegression()), ("b", naive_bayes.GaussianNB())], voting="soft", flatten_transform=False
        ),
    )
    yield "DecisionTreeClassifier", "class", lambda: tree.DecisionTreeClassifier(max_depth=4, random_state=0)
    yield "RandomForestRegressor", "number", lambda: ensemble.RandomForestRegressor(8, max_depth=4, random_state=0)
    yield "GradientBoostingClassifier", "class", lambda: ensemble.GradientBoostingClassifier(n_estimators=6, random_state=0)
    yield "KNeighborsRegressor", "number", lambda: neighbors.KNeighborsRegressor(5)


NAMES = (
    "LinearRegression", "Ridge after StandardScaler", "Lasso after MinMaxScaler", "ElasticNet after PolynomialFeatures", "PLSRegression",
    "LogisticRegression", "LogisticRegression of two classes", "LogisticRegression after Normalizer",
    "LogisticRegression after SimpleImputer", "LogisticRegression after RobustScaler", "LogisticRegression after PCA", "SGDClassifier",
    "LinearDiscriminantAnalysis", "QuadraticDiscriminantAnalysis", "GaussianNB", "MLPClassifier", "MLPRegressor, tanh",
    "SVC, RBF, probabilities", "SVC, polynomial, two classes", "SVR, RBF", "NuSVR, sigmoid", "GaussianProcessRegressor", "KMeans", "PCA",
    "VotingClassifier", "DecisionTreeClassifier", "RandomForestRegressor", "GradientBoostingClassifier",
    "KNeighborsRegressor",
)  # fmt: skip
"""The models, without scikit-learn: the table is read where it is not installed."""

ZIPMAP = ("LogisticRegression of two classes", "GaussianNB", "DecisionTreeClassifier")
"""Written with a map of class to probability as output, as skl2onnx does unless told otherwise."""

SINGLE = (
    "ElasticNet after PolynomialFeatures", "LogisticRegression after SimpleImputer", "SVC, RBF, probabilities",
    "SVC, polynomial, two classes", "SVR, RBF", "NuSVR, sigmoid", *ZIPMAP, "RandomForestRegressor", "GradientBoostingClassifier",
)  # fmt: skip
"""In float32: ONNX Runtime does not open, or has no kernel for, what skl2onnx writes of these in float64."""


def classical(name: str) -> Callable[[Cache], Made]:
    """The model, fed five rows, in float64 where ONNX Runtime can run that."""

    def make(cache: Cache) -> Made:
        import warnings

        from skl2onnx import to_onnx

        kind, build = next((kind, build) for known, kind, build in _models() if known == name)
        x, classes, numbers = _data()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = build().fit(x, {"class": classes, "two": classes == 0, "number": numbers}.get(kind, numbers))
            plain = name in ZIPMAP or kind not in ("class", "two")
            options = {} if plain else {"zipmap": False}
            kind_of_number = np.float32 if name in SINGLE else np.float64
            proto = to_onnx(fitted, x[:1].astype(kind_of_number), options=options, target_opset={"": 18, "ai.onnx.ml": 3})
        feed = {proto.graph.input[0].name: x[:5].astype(kind_of_number)}
        scores = {"KMeans": "scores"}.get(name)
        return Made(proto, feed, {"output": scores} if scores else {}, heavy="SV" in name)  # kernels of such are in float32 alone

    return make
