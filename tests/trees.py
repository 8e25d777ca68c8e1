"""Tree ensembles (ai.onnx.ml), built by hand: full trees of random thresholds and leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxsal.runtime.session import open_session
from tests.small_models import make, node

ML = "ai.onnx.ml"


def forest(features: int = 5, trees: int = 4, depth: int = 3, targets: int = 3, seed: int = 0, classes: bool = False) -> onnx.ModelProto:
    """A regressor with several targets, or a classifier that also returns labels."""
    rng, inner, count = np.random.default_rng(seed), 2**depth - 1, 2 ** (depth + 1) - 1
    places = [(tree, number) for tree in range(trees) for number in range(count)]
    leaves = [place for place in places if place[1] >= inner]
    nodes: dict[str, Any] = {
        "treeids": [t for t, _ in places],
        "nodeids": [n for _, n in places],
        "featureids": [int(rng.integers(features)) if n < inner else 0 for _, n in places],
        "modes": ["BRANCH_LEQ" if n < inner else "LEAF" for _, n in places],
        "values": [float(rng.normal()) / 2 if n < inner else 0.0 for _, n in places],
        "truenodeids": [2 * n + 1 if n < inner else 0 for _, n in places],
        "falsenodeids": [2 * n + 2 if n < inner else 0 for _, n in places],
    }
    ends = {
        "treeids": [t for t, _ in leaves for _ in range(targets)],
        "nodeids": [n for _, n in leaves for _ in range(targets)],
        "ids": [k for _ in leaves for k in range(targets)],
        "weights": [float(w) for w in rng.normal(size=len(leaves) * targets)],
    }
    attributes = {f"nodes_{k}": v for k, v in nodes.items()} | {f"{'class' if classes else 'target'}_{k}": v for k, v in ends.items()}
    if classes:
        attributes |= {"classlabels_int64s": list(range(targets)), "post_transform": "SOFTMAX"}
    else:
        attributes |= {"n_targets": targets}
    ensemble = node(f"TreeEnsemble{'Classifier' if classes else 'Regressor'}", "x", "label y" if classes else "y", domain=ML, **attributes)
    outputs: dict[str, Any] = {"label": ["N"]} if classes else {}
    kinds = {"label": TensorProto.INT64}
    return make([ensemble], {"x": ["N", features]}, outputs | {"y": ["N", targets]}, types=kinds, domains={ML: 3})


def function_of(model: onnx.ModelProto, output: str = "y", **others: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What the model makes of its first input; ``others`` are fed as they are."""
    session = open_session(model)
    first = next(t for t in session.inputs if t.name not in others)
    return lambda x: session.run({first.name: np.asarray(x, first.dtype)} | others, [output])[output]
