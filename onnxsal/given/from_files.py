"""Pictures and arrays in files, as samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnxsal.ask.question import Question
from onnxsal.ask.request import Ask
from onnxsal.disk import reads
from onnxsal.errors import InputError
from onnxsal.given.prepared import preprocess_of
from onnxsal.given.sample import GivenSample, shown_values
from onnxsal.given.sounds import sound_feed
from onnxsal.runtime.arrays import read_array
from onnxsal.runtime.pictures import Picture, find_pictures
from onnxsal.runtime.preprocess import as_type
from onnxsal.runtime.session import Tensor
from onnxsal.runtime.sound import SOUNDS

ARRAYS = (".npy", ".npz")

UNPREPARED = (*ARRAYS, *SOUNDS)
"""Endings of files that a model is fed with as they are; all others are pictures."""


class Feeding(NamedTuple):
    """How a model is fed: what is asked of it, and the inputs that it must be given. ``rate``: how many places of a series there are per
    second, where that is told; ``spectrogram``: pictures and series are spectrograms.
    """

    question: Question
    inputs: Sequence[Tensor]
    rate: float | None = None
    spectrogram: bool = False


def find_inputs(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, folders with every picture and array below them; each file once. One that is not there is an error."""
    found = [file for path in paths for file in (_in_folder(path) if path.is_dir() else find_pictures([path]))]
    return list(dict.fromkeys(found))


def _in_folder(folder: Path) -> list[Path]:
    arrays = [file for file in folder.rglob("*") if file.suffix.lower() in UNPREPARED and file.is_file()]
    reads(arrays)
    try:
        return sorted([*arrays, *find_pictures([folder])])
    except InputError:
        if arrays:
            return sorted(arrays)
        raise


def file_names(files: Sequence[Path]) -> list[str]:
    """What the results of each file are called: its place below the folder that all share, without the ending unless that is needed."""
    top = os.path.commonpath([file.resolve().parent for file in files])
    places = [Path(os.path.relpath(file.resolve(), top)) for file in files]
    stems = [place.with_suffix("") for place in places]
    return [str(stem if stems.count(stem) == 1 else place) for stem, place in zip(stems, places, strict=True)]


def samples(
    files: Sequence[Path],
    names: Sequence[str],
    ask: Ask,
    fed: Feeding,
    step: Callable[[str], Any] = str,
    damaged: dict[Path, str] | None = None,
) -> Iterator[GivenSample]:
    """Read one file after the other, ``step`` being told of each before. One that cannot be used is noted in ``damaged``; without that it
    is an error.
    """
    for file, name in zip(files, names, strict=True):
        step(str(file))
        try:
            found = _read(file, name, ask, fed)
        except InputError as error:
            if damaged is None:
                raise
            damaged[file] = str(error)
            continue
        yield from found


def _read(file: Path, name: str, ask: Ask, fed: Feeding) -> Iterable[GivenSample]:
    """The samples of one file, which is a picture or an array with any number of them."""
    if file.suffix.lower() in SOUNDS:
        feed, rate = sound_feed(file, fed.question, fed.inputs, fed.rate)
        return [GivenSample(feed, str(file), name, shown_values(fed.question, feed, rate))]
    if file.suffix.lower() not in ARRAYS:
        return [picture_sample(file, str(file), name, ask, fed)]
    return row_samples(array_feed(file, fed.inputs, fed.question.samples), str(file), name, fed)


def picture_sample(picture: Picture, source: str, name: str, ask: Ask, fed: Feeding) -> GivenSample:
    """A picture as the model is fed with it."""
    shown = preprocess_of(ask).shown(picture)
    return GivenSample(picture_feed(shown.seen[None], ask, fed), source, name, shown)


def picture_feed(seen: np.ndarray, ask: Ask, fed: Feeding) -> dict[str, np.ndarray]:
    """Pictures as the model sees them, bytes [N, H, W, 3], as it is fed with them."""
    into = _picture_input(fed.inputs, fed.question.source or fed.question.x.name)
    kind = next((t.dtype for t in fed.inputs if t.name == into), None)
    return {into: as_type(preprocess_of(ask).normalise(seen), kind, into)}


def row_samples(arrays: Mapping[str, np.ndarray], source: str, name: str, fed: Feeding) -> Iterator[GivenSample]:
    """The samples that lie along the first axis of arrays by input. Raises ``InputError``."""
    question = fed.question
    rows = [n for n in arrays if n in question.samples]
    counts = {n: len(arrays[n]) if arrays[n].ndim else 0 for n in rows}
    if len(set(counts.values())) > 1:
        raise InputError(f"'{source}' holds a different number of samples per input: {counts}.")
    count = counts[rows[0]] if rows else 1
    if not count:
        shapes = ", ".join(f"{n} {list(arrays[n].shape)}" for n in rows)
        raise InputError(f"'{source}' holds no samples, which lie along the first axis: {shapes}.")
    apart = ({k: v[i : i + 1] if k in rows else v for k, v in arrays.items()} for i in range(count))
    named = (name if count == 1 else f"{name}-{i}" for i in range(count))
    return (
        GivenSample(feed, source, called, shown_values(question, feed, fed.rate, fed.spectrogram))
        for feed, called in zip(apart, named, strict=True)
    )


def _picture_input(inputs: Sequence[Tensor], explained: str) -> str:
    """Where a picture goes: the explained input, or the only one where an inner tensor is explained."""
    return inputs[0].name if len(inputs) == 1 else explained


def array_feed(file: Path, inputs: Sequence[Tensor], rows: Collection[str]) -> dict[str, np.ndarray]:
    """The inputs in a .npz by their names, or the only input in a .npy; floats get the input's precision, and the inputs ``rows``
    the axis of samples where it is missing.
    """
    return feed_of_arrays(read_array(file), str(file), inputs, rows)


def feed_of_arrays(data: Any, source: str, inputs: Sequence[Tensor], rows: Collection[str]) -> dict[str, np.ndarray]:
    """The same of what a file holds: an array, or arrays by name."""
    if not isinstance(data, dict) or (len(data) == 1 and len(inputs) == 1):
        if len(inputs) != 1:
            listing = ", ".join(map(str, inputs))
            raise InputError(
                f"'{source}' holds one array, and the model has {len(inputs)} inputs: {listing}. Give a .npz with these names."
            )
        data = {inputs[0].name: next(iter(data.values())) if isinstance(data, dict) else data}
    known = {t.name: t for t in inputs}
    return {name: _fitted(array, known.get(name), name in rows) for name, array in data.items()}


def _fitted(array: np.ndarray, tensor: Tensor | None, rows: bool) -> np.ndarray:
    if tensor is None:
        return array  # the session says which inputs there are
    array = with_rows(array, tensor) if rows else array
    if array.dtype.kind == "f" and tensor.dtype is not None and tensor.dtype.kind == "f":
        array = array.astype(tensor.dtype)
    return array


def with_rows(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """An array for an input that holds a row for each sample: one sample alone, which lacks that axis, as a batch of one."""
    return array[None] if tensor.shape is not None and array.ndim == len(tensor.shape) - 1 else array
