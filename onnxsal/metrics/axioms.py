"""Axioms an explanation can be checked against: completeness, and weak dependence on the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.ask.request import Target
from onnxsal.errors import MethodError, ModelError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.graph.load import Source
from onnxsal.methods.region import region_model
from onnxsal.metrics.scorer import refuse_contrast
from onnxsal.runtime.session import Session, open_session

_PARTS = "fullgrad/"


def completeness(explainer: Explainer, x: np.ndarray, target: Target = None) -> np.ndarray:
    """Relative error [N] of the method's law: |sum of the parts - what they should sum to| / max(|that|, 1e-6).

    For FullGrad the parts are the input term and every node's bias term, and they sum to the score; for integrated gradients
    the attributions, and they sum to the score's gain over the baseline. Range [0, inf), smaller is better, 0 is exact. With
    ``components=True`` the parts of FullGrad are added up here in float64, else the value computed in the graph is returned.
    Raises ``MethodError`` for a method without such a law. Srinivas and Fleuret 2019; Sundararajan et al. 2017.
    """
    result = explainer.explain(x, target)
    if result.residual is None:
        raise MethodError(f"method '{result.method}' has no completeness law; those that have: fullgrad, integrated_gradients.")
    shares = result.components.get(f"{_PARTS}shares")
    if shares is None:
        return result.residual
    score = result.score.astype(np.float64)
    return np.abs(shares.astype(np.float64).sum(1) - score) / np.maximum(np.abs(score), 1e-6)


@dataclass(frozen=True)
class WeakDependence:
    """``difference`` [N]: largest change of the map between two inputs of one linear region, relative to the map's largest value;
    ``distance`` [N]: how far apart the two inputs are (largest element); ``satisfied`` [N]: difference <= rtol.
    """

    difference: np.ndarray
    distance: np.ndarray
    satisfied: np.ndarray


def weak_dependence(
    model: Source, explainer: Explainer, x: np.ndarray, *, step: float = 0.05, rtol: float = 1e-5, halvings: int = 40, seed: int = 0
) -> WeakDependence:
    """Whether the map stays the same within one linear region of a piecewise linear network.

    Each sample is moved in a random direction by ``step`` times its largest value, halved until every ReLU sign and MaxPool
    winner agrees. Gradients and the full-gradient decomposition (input gradient and bias terms; converted with
    ``components=True``) satisfy it; input x gradient and integrated gradients do not, by definition. Raises ``PlanError`` for a
    model that is not piecewise linear and ``ModelError`` where no second input of the region is found. Srinivas and Fleuret 2019.
    """
    refuse_contrast(explainer)
    question = explainer.conversion.question
    regions = open_session(region_model(model, question.x.name, question.output))
    moved = _second_inputs(regions, x, step, halvings, np.random.default_rng(seed))
    first = explainer.explain(x)
    second = explainer.explain(moved, first.target)
    difference = _difference(_invariant_parts(first, x), _invariant_parts(second, moved))
    axes = tuple(range(1, x.ndim))
    return WeakDependence(difference, np.abs(moved - x).max(axes), difference <= rtol)


def _second_inputs(regions: Session, x: np.ndarray, step: float, halvings: int, rng: np.random.Generator) -> np.ndarray:
    """For each sample another input of the same region, at the largest of the tried distances."""
    name = regions.inputs[0].name
    moved = np.empty_like(x)
    for i in range(len(x)):
        sample = x[i : i + 1]
        direction = rng.standard_normal(sample.shape)
        direction *= step * np.abs(sample).max() / np.abs(direction).max()
        home = _signature(regions, name, sample)
        for _ in range(halvings):
            other = (sample + direction).astype(x.dtype)
            if _same(home, _signature(regions, name, other)):
                break
            direction /= 2
        if not _same(home, _signature(regions, name, other)) or np.array_equal(other, sample):
            raise ModelError(f"sample {i} has no neighbour in its linear region that {x.dtype} can tell apart from it.")
        moved[i] = other[0]
    return moved


def _signature(regions: Session, name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v for k, v in regions.run({name: x}).items() if k.startswith("region/")}


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[k], b[k]) for k in a)


def _invariant_parts(result: Explanation, x: np.ndarray) -> list[np.ndarray]:
    """What should not change within a region: the map itself; for FullGrad the input gradient and the bias terms."""
    if f"{_PARTS}shares" not in result.components:
        return [result.saliency_map if result.partial and result.saliency_map is not None else result.attribution]
    with np.errstate(divide="ignore", invalid="ignore"):
        gradient = np.where(x != 0, result.attribution / x, 0)
    skipped = (f"{_PARTS}input", f"{_PARTS}shares")
    return [gradient, *(v for k, v in result.components.items() if k.startswith(_PARTS) and k not in skipped)]


def _difference(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    """Largest absolute change of any part, relative to that part's largest value; [N]."""
    worst = np.zeros(len(first[0]))
    for a, b in zip(first, second, strict=True):
        flat_a, flat_b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
        scale = np.maximum(np.abs(flat_a).max(1), 1e-12)
        worst = np.maximum(worst, np.abs(flat_a - flat_b).max(1) / scale)
    return worst
