"""Does the map depend on what the model has learnt? Sanity checks of Adebayo et al. 2018, arXiv 1810.03292."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxsal.ask.request import Target
from onnxsal.errors import InputError, ModelError, near_miss
from onnxsal.explainer import Explainer
from onnxsal.graph.load import Source
from onnxsal.metrics.input_places import InputPlaces, places_of
from onnxsal.metrics.scorer import Scorer, asked_like, forward_model, scorer_of
from onnxsal.metrics.similarity import Similarity, similarity
from onnxsal.metrics.weights import WeightedLayer, kept_share, randomised, weighted_layers

MODES = ("cascading", "independent")

Train = Callable[[np.ndarray, np.ndarray, int], Source]
"""``train(inputs, labels, seed)``: trains the caller's architecture from scratch and returns it as an ONNX model."""

LEARNT = 0.95


@dataclass(frozen=True)
class ModelRandomization:
    """Likeness of the maps before and after: ``similarities[s]`` at stage s, whose last layer drawn anew is ``stages[s]``.

    ``layers[s]`` counts the layers drawn anew; ``target`` [N] the classes explained, those of the original model throughout; ``how``
    they were drawn; ``kept`` the share of the stored numbers that no stage touches.
    """

    mode: str
    how: str
    stages: tuple[str, ...]
    layers: tuple[int, ...]
    similarities: tuple[Similarity, ...]
    target: np.ndarray
    kept: float

    def measure(self, name: str) -> np.ndarray:
        """One measure of ``Similarity`` as an array [stages, N]."""
        return np.stack([getattr(s, name) for s in self.similarities])

    @property
    def passed(self) -> bool | None:
        """Whether maps changed with the weights: the mean Spearman of their sizes is below 0.5 in the last stage and below that of the
        first (no official criterion exists; this one is ours). ``None`` where a sample's maps are constant there, or for "independent".
        """
        sizes = self.measure("spearman_abs")
        if self.mode != "cascading" or np.isnan(sizes[[0, -1]]).any():
            return None
        first, last = sizes[0].mean(), sizes[-1].mean()
        return bool(last < 0.5 and (last < first or len(sizes) == 1))


@dataclass(frozen=True)
class DataRandomization:
    """Likeness of the maps of the model and of one trained on permuted labels; ``train_accuracy`` of the latter on those labels, and
    ``learnt`` whether it exceeds 0.95: otherwise the maps compare a model with one that has learnt nothing.
    """

    similarity: Similarity
    train_accuracy: float
    learnt: bool
    target: np.ndarray


@dataclass(frozen=True)
class Drawing:
    """How weights are drawn anew, as ``model_randomization`` is asked. Raises ``InputError`` for a mode that is not known."""

    mode: str = "cascading"
    how: str = "normal"
    stages: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode='{self.mode}' is not one of {', '.join(MODES)}{near_miss(self.mode, MODES)}.")


def model_randomization(
    explainer: Explainer,
    x: np.ndarray,
    target: Target = None,
    *,
    mode: str = "cascading",
    how: str = "normal",
    stages: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ModelRandomization:
    """Likeness of the maps of ``x`` [N, ...] to those of models with weights drawn anew; in [-1, 1], smaller is better.

    "cascading": from the layer at the output down, layers drawn anew add up; "independent": one layer at a time, the others as trained.
    ``stages``: how many stages, evenly spaced (default: all layers); the last cascade always has every layer. ``how``: "normal" or
    "permute", see ``randomised``; running statistics of batch normalisation stay. What is compared: see ``similarity``. The class is
    ``target``, or what the original model predicts, in every stage. A method whose maps stay alike does not show what the model has
    learnt.
    """
    x, drawing = np.asarray(x), Drawing(mode, how, stages, seed)
    return randomised_at(explainer, x, target, drawing, places_of(x, explainer.conversion.question.shown[1]), progress)


def randomised_at(
    explainer: Explainer,
    x: np.ndarray,
    target: Target,
    drawing: Drawing,
    places: InputPlaces,
    progress: Callable[[int, int], None] | None = None,
) -> ModelRandomization:
    """``model_randomization`` where ``places`` of ``x`` are known, such as the columns of a table."""
    mode, how = drawing.mode, drawing.how
    plain = forward_model(explainer)
    layers = weighted_layers(plain)
    if not layers:
        raise ModelError("the model stores no weights of layers that are known, so there is nothing to draw anew.")
    original = explainer.explain(x, target)
    done, found = _stages(layers, mode, drawing.stages), []
    for i, (_, drawn) in enumerate(done):
        other = explainer.on(randomised(plain, drawn, how, drawing.seed)).explain(x, original.target)
        found.append(similarity(original, other, places))
        if progress is not None:
            progress(i + 1, len(done))
    names, counts = tuple(n for n, _ in done), tuple(len(d) for _, d in done)
    return ModelRandomization(mode, how, names, counts, tuple(found), original.target, kept_share(plain, layers))


def _stages(layers: list[WeightedLayer], mode: str, most: int | None) -> list[tuple[str, list[WeightedLayer]]]:
    """(the last layer drawn, all layers drawn) of each stage."""
    count = len(layers)
    if most is not None and most < 1:
        raise InputError(f"stages={most} is no number of stages; give 1 or more.")
    chosen = np.arange(count) if most is None or most >= count else np.unique(np.linspace(0, count - 1, most).round().astype(int))
    if most == 1:
        chosen = np.array([count - 1])
    return [(layers[i].name, layers[: i + 1] if mode == "cascading" else [layers[i]]) for i in chosen]


def data_randomization(
    explainer: Explainer,
    train: Train,
    inputs: np.ndarray,
    labels: np.ndarray,
    x: np.ndarray,
    target: Target = None,
    *,
    seed: int = 0,
) -> DataRandomization:
    """Likeness of the maps of ``x`` [N, ...] to those of a model that was trained on permuted labels; in [-1, 1], smaller is better.

    ``explainer`` explains the model trained on the true labels; ``train(inputs, labels, seed)`` trains the same architecture on
    ``inputs`` [M, ...] and labels [M] and returns an ONNX model. The class is ``target``, or what the true model predicts, for both.
    """
    labels = np.asarray(labels)
    if len(labels) != len(inputs):
        raise InputError(f"{len(inputs)} inputs and {len(labels)} labels do not belong together.")
    permuted = np.random.default_rng(seed).permutation(labels)
    model = train(inputs, permuted, seed)
    accuracy = float((Scorer.of(asked_like(explainer, model)).predict(np.asarray(inputs)) == permuted).mean())
    original = explainer.explain(x, target)
    other = explainer.on(model).explain(x, original.target)
    places: InputPlaces = scorer_of(explainer).places(np.asarray(x))
    found = similarity(original, other, places)
    return DataRandomization(found, accuracy, accuracy > LEARNT, original.target)
