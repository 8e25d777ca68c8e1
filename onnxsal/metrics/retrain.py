"""Remove (or keep) what a map calls important in every picture, train anew, and see what accuracy is left."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.explainer import Explainer
from onnxsal.metrics.input_places import InputPlaces, Maps, chosen_map, constant, maps_at
from onnxsal.metrics.ranking import ranks
from onnxsal.metrics.sanity import Train
from onnxsal.metrics.scorer import Scorer, scorer_of
from onnxsal.runtime.arrays import read_arrays, refuse_missing
from onnxsal.runtime.files import write_arrays, write_whole
from onnxsal.settings import Number, Phrase, checked, parse_json, read_text, schema

Set = tuple[np.ndarray, np.ndarray]
"""Inputs [M, ...] and labels [M]."""

REPLACEMENTS = ("mean", "black")

_AT_ONCE = 256


class ConstantMapWarning(UserWarning):
    """Some maps rank nothing: their pixels are taken at random."""


class RetrainOptions(TypedDict, total=False):
    """The fields of ``RetrainSettings``, as keywords."""

    percent: Sequence[float]
    seeds: Sequence[int]
    replacement: str
    black: np.ndarray | float | None
    ties: str
    state: str | os.PathLike[str] | None


@dataclass(frozen=True)
class RetrainSettings:
    """What ``roar`` and ``kar`` can be told; the words are theirs. Raises ``InputError`` for a value that is not known."""

    percent: Sequence[float] = (10, 30, 50, 70, 90)
    seeds: Sequence[int] = (0, 1, 2)
    replacement: str = "mean"
    black: np.ndarray | float | None = None
    ties: str = "random"
    state: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not len(self.percent) or min(self.percent) <= 0 or max(self.percent) > 100:
            raise InputError(f"percent={self.percent} must be numbers above 0 and up to 100.")
        if not len(self.seeds) or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds={self.seeds} must be different numbers, at least one.")
        if self.replacement not in REPLACEMENTS:
            known = f"{', '.join(REPLACEMENTS)}{near_miss(self.replacement, REPLACEMENTS)}"
            raise InputError(f"replacement '{self.replacement}' is not one of {known}.")


@dataclass(frozen=True)
class Retraining:
    """Test accuracy after training on changed pictures: ``accuracy`` [K, S] in [0, 1] for ``percent`` [K] of the pixels and ``seeds`` [S];
    ``clean`` [S] on the pictures as they are. ``kept``: whether those pixels were kept (kar) or removed (roar). ``constant``: how many maps
    (train, test) rank nothing, so that their pixels were taken at random.
    """

    percent: np.ndarray
    accuracy: np.ndarray
    clean: np.ndarray
    seeds: tuple[int, ...]
    kept: bool
    replacement: str
    constant: tuple[int, int]


@dataclass(frozen=True)
class _Pictures:
    """A set with the rank of every pixel."""

    x: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    places: InputPlaces


def roar(
    explainer: Explainer,
    train: Train,
    train_set: Set,
    test_set: Set,
    maps: tuple[Maps, Maps] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[RetrainOptions],
) -> Retraining:
    """Remove and retrain: test accuracy once the most salient ``percent`` of every picture's pixels are replaced; smaller is better.

    ``train(inputs, labels, seed)`` trains from scratch and returns an ONNX model. ``explainer`` explains one fixed model, for each
    picture's own label; ``maps`` (for the train and the test set) take the place of its maps. ``replacement``: "mean" is each channel's
    mean over the training set, "black" the value ``black`` of a black pixel in the model's input. ``percent`` (default:
    10, 30, 50, 70, 90), ``seeds`` of the trainings (0, 1, 2), ``ties`` (random): see ``ranks``. Whole pixels are ranked, not channels.
    ``state``: a file that keeps what is done (maps beside it); with it an interrupted run goes on where it stopped. The replaced
    pixels themselves can give the class away, and blurry maps do well. Hooker et al. 2019, arXiv 1806.10758; black: Srinivas and
    Fleuret 2019.
    """
    return _retrain(False, explainer, train, (train_set, test_set), maps, RetrainSettings(**options), progress)


def kar(
    explainer: Explainer,
    train: Train,
    train_set: Set,
    test_set: Set,
    maps: tuple[Maps, Maps] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[RetrainOptions],
) -> Retraining:
    """Keep and retrain: test accuracy once all but the most salient ``percent`` of the pixels are replaced; larger is better.

    Arguments as for ``roar``. Hooker et al. 2019, arXiv 1806.10758.
    """
    return _retrain(True, explainer, train, (train_set, test_set), maps, RetrainSettings(**options), progress)


def _retrain(
    keep: bool,
    explainer: Explainer,
    train: Train,
    given_sets: tuple[Set, Set],
    maps: tuple[Maps, Maps] | None,
    how: RetrainSettings,
    progress: Callable[[int, int], None] | None,
) -> Retraining:
    black = None if how.black is None else np.asarray(how.black).tolist()
    settings = {"keep": keep, "replacement": how.replacement, "ties": how.ties, "black": black}
    given = [] if maps is None else [chosen_map(m) for m in maps]
    record = _Record(how.state, _fingerprint(explainer, settings, *(array for s in given_sets for array in s), *given))
    wanted = zip(given_sets, given or (None, None), ("train", "test"), strict=True)
    sets = [_ranked(explainer, pictures, m, how.ties, record, name) for pictures, m, name in wanted]
    fill = _fill(sets[0], how.replacement, how.black)
    pairs = [(p, s) for p in (0.0, *map(float, how.percent)) for s in how.seeds]
    for done, (share, seed) in enumerate(pairs):
        if record.get(share, seed) is None:
            changed = [p.x if share == 0 else _changed(p, share, fill, keep) for p in sets]
            model = Scorer(train(changed[0], sets[0].labels, seed), providers=explainer.session.obtained)
            record.put(share, seed, float((model.predict(changed[1]) == sets[1].labels).mean()))
        if progress is not None:
            progress(done + 1, len(pairs))
    found = np.array([record.get(*p) for p in pairs], np.float64).reshape(-1, len(how.seeds))
    percent = np.asarray(how.percent, np.float64)
    return Retraining(percent, found[1:], found[0], tuple(how.seeds), keep, how.replacement, record.constant())


def _fill(pictures: _Pictures, replacement: str, black: np.ndarray | float | None) -> np.ndarray:
    """The replacing value, broadcastable over a set."""
    if replacement == "black":
        if black is None:
            raise InputError("replacement 'black' is a black pixel after preprocessing: give its value, black=preprocess.black().")
        return np.asarray(black, pictures.x.dtype)
    axes = (0, *pictures.places.axes(pictures.x)) if pictures.places.picture else (0,)
    return np.asarray(pictures.x.mean(axes, keepdims=True, dtype=np.float64).astype(pictures.x.dtype))


def _changed(pictures: _Pictures, percent: float, fill: np.ndarray, keep: bool) -> np.ndarray:
    chosen = pictures.places.over(pictures.ranks < int(percent / 100 * pictures.places.count))
    return np.where(chosen == keep, pictures.x, fill)


def _ranked(explainer: Explainer, pictures: Set, maps: np.ndarray | None, ties: str, record: _Record, name: str) -> _Pictures:
    """A set with its pixels ranked; maps are computed in chunks, once: they are kept with the state."""
    x, labels = np.asarray(pictures[0]), np.asarray(pictures[1])
    if len(x) != len(labels) or not len(x):
        raise InputError(f"{len(x)} inputs and {len(labels)} labels do not make a {name} set.")
    places = scorer_of(explainer).places(x)
    found = record.maps(name)
    if maps is not None:
        found = maps_at(maps, x, places)
    elif found is None:
        parts = [slice(i, i + _AT_ONCE) for i in range(0, len(x), _AT_ONCE)]
        found = np.concatenate([maps_at(explainer.explain(x[p], labels[p]), x[p], places) for p in parts])
        record.keep_maps(name, found)
    flat = int(constant(found).sum())
    if flat:
        text = f"{flat} of {len(x)} maps of the {name} set are constant: their pixels are taken at random."
        warnings.warn(text, ConstantMapWarning, stacklevel=4)
    record.flat[name] = flat
    return _Pictures(x, labels, ranks(found, ties), places)


def _fingerprint(explainer: Explainer, settings: dict[str, Any], *arrays: np.ndarray) -> str:
    """What a run depends on, but for the shares and seeds, which may be added to later."""
    conversion = explainer.conversion
    facts = {p.key: p.value for p in conversion.proto.metadata_props if p.key.startswith("onnxsal.")}
    digest = hashlib.sha256(json.dumps([facts, settings], sort_keys=True).encode())
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@schema
class _Trained:
    """The file of a run: which one it is, and the accuracies by "percent/seed"."""

    run: Phrase
    accuracy: dict[Phrase, Number]


def _trained(text: str, what: str) -> _Trained:
    try:
        return checked(_Trained, parse_json(text, "it"), "it")
    except InputError as error:
        raise InputError(f"{what} is damaged: {error} Delete it to begin again.") from error


class _Record:
    """What is done, in memory and in a JSON file if one is named; written whole after every training."""

    def __init__(self, path: str | os.PathLike[str] | None, run: str) -> None:
        self.path = None if path is None else Path(path)
        self.run = run
        self.flat: dict[str, int] = {}
        self._accuracy: dict[str, float] = {}
        if self.path is not None and self.path.exists():
            self._accuracy = self._read(self.path)

    def _read(self, path: Path) -> dict[str, float]:
        what = f"state '{path}'"
        stored = _trained(read_text(path, what), what)
        if stored.run != self.run:
            raise InputError(f"state '{path}' is of another run: other data, maps, model or settings. Name another file, or delete it.")
        return stored.accuracy

    def get(self, percent: float, seed: int) -> float | None:
        return self._accuracy.get(f"{percent:g}/{seed}")

    def put(self, percent: float, seed: int, accuracy: float) -> None:
        self._accuracy[f"{percent:g}/{seed}"] = accuracy
        if self.path is not None:
            write_whole(self.path, (json.dumps({"run": self.run, "accuracy": self._accuracy}, indent=1) + "\n").encode())

    def constant(self) -> tuple[int, int]:
        return self.flat["train"], self.flat["test"]

    def _beside(self, name: str) -> Path | None:
        return None if self.path is None else self.path.with_name(f"{self.path.name}.{name}.npz")

    def maps(self, name: str) -> np.ndarray | None:
        """Maps that an interrupted run had finished."""
        path = self._beside(name)
        if path is None or not path.exists():
            return None
        stored = read_arrays(path, f"state '{path}'", " Delete it to begin again.")
        refuse_missing(stored, ("maps", "run"), f"state '{path}'", " Delete it to begin again.")
        return stored["maps"] if str(stored["run"]) == self.run else None

    def keep_maps(self, name: str, maps: np.ndarray) -> None:
        path = self._beside(name)
        if path is not None:
            write_arrays(path, {"maps": maps, "run": np.asarray(self.run)})
