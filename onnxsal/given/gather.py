"""What a call of ``explain`` is given, whatever it is: paths, pictures, arrays, or a list of any of these, as one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from onnxsal.ask.request import Ask
from onnxsal.errors import InputError
from onnxsal.given.from_files import ARRAYS, Feeding, file_names, find_inputs, picture_sample, row_samples, samples, with_rows
from onnxsal.given.prepared import preprocess_of
from onnxsal.given.sample import GivenSample, stacked
from onnxsal.given.seen import shown_arrays
from onnxsal.given.tables import given_rows
from onnxsal.runtime.arrays import read_array
from onnxsal.runtime.on_device import OnDevice, where_it_lies
from onnxsal.runtime.shown import AnyShown, ShownPicture
from onnxsal.runtime.table_files import is_table

ToldOf: TypeAlias = Callable[[str], Any]
"""Is told of each file before it is read."""

WHOLE_PICTURES = 2**27
"""So many pixels of whole pictures are kept to be shown, all samples of one call together; of those after them what the model saw."""


class Gathered(NamedTuple):
    """``feed``: an array for the only input, or arrays by input. Of each sample: what it is ``shown`` as, and its ``source``. ``doubt``:
    why what is given may have been taken for something else ('' = it cannot).
    """

    feed: Any
    shown: Sequence[AnyShown | None] = ()
    sources: tuple[str, ...] = ()
    doubt: str = ""

    def again(self, count: int) -> Gathered:
        """The only sample as often as there are places in it that are explained."""
        return self._replace(shown=(self.shown[0],) * count if self.shown else (), sources=self.sources * count)


def is_many(given: Any) -> bool:
    """Whether there may be much to read: a folder, or a list."""
    return isinstance(given, list | tuple) or (isinstance(given, str | PathLike) and Path(given).is_dir())


def gather(given: Any, ask: Ask, fed: Feeding, step: ToldOf = str) -> Gathered:
    """One batch of what is given, of a table with named columns every row. Arrays and dicts of arrays are taken as they are; what lies
    on a card stays there.

    Raises ``InputError`` for what is no sample of the model, and for samples that do not make one batch.
    """
    if is_table(given):
        rows = given_rows(given, ask, fed)
        return Gathered(rows.feed, rows.shown, doubt=rows.doubt)
    one = _one(given)
    if one or _several(given, fed):
        found = list(_numbered([sample for item in ([given] if one else given) for sample in _samples(item, ask, fed, step)]))
        return _together(found, fed)
    feed = given if isinstance(given, Mapping) or len(fed.inputs) != 1 else {fed.inputs[0].name: given}
    if not isinstance(feed, Mapping):
        return Gathered(given)
    feed = {name: where_it_lies(array, name) for name, array in feed.items()}
    return Gathered(feed, shown_arrays(fed.question, ask.preprocess, feed))


def example_of(given: Any, ask: Ask) -> Any:
    """What is given, or the first of it, as data that the model is fed with where it does not say yet how: arrays as they are."""
    if isinstance(given, list | tuple) and given and (_one(given[0]) or isinstance(given[0], Mapping)):
        given = given[0]
    if isinstance(given, str | PathLike):
        file = find_inputs([Path(given)])[0]
        if file.suffix.lower() in ARRAYS:
            return read_array(file)
        given = file
    if isinstance(given, Image.Image | PathLike):
        prepared = preprocess_of(ask)
        return prepared.normalise(prepared.display(given)[None])
    return given


def _one(given: Any) -> bool:
    """Whether it is a path or a picture."""
    return isinstance(given, str | PathLike | Image.Image)


def _several(given: Any, fed: Feeding) -> bool:
    """Whether it is a list of things, rather than an array that is written as a list, or words that the model itself reads."""
    if not isinstance(given, list | tuple):
        return False
    only = fed.inputs[0] if len(fed.inputs) == 1 else None
    arrays = [isinstance(item, np.ndarray) or hasattr(item, "__dlpack_device__") for item in given]
    if only is not None and (not only.type.startswith("tensor(") or (only.dtype == object and not any(arrays))):
        return False
    if any(_one(item) or isinstance(item, Mapping) for item in given):
        return True
    return any(arrays) and only is not None and bool(only.shape)


def _samples(item: Any, ask: Ask, fed: Feeding, step: ToldOf) -> Iterator[GivenSample]:
    """The samples of one thing that is given."""
    if isinstance(item, str | PathLike):
        files = find_inputs([Path(item)])
        for sample in samples(files, file_names(files), ask, fed, step):
            pixels = () if sample.shown is not None else shown_arrays(fed.question, ask.preprocess, sample.feed)
            yield replace(sample, shown=pixels[0]) if pixels else sample
        return
    if isinstance(item, Image.Image):
        yield picture_sample(item, getattr(item, "filename", ""), "", ask, fed)
        return
    if not isinstance(item, Mapping) and len(fed.inputs) != 1:
        listing = ", ".join(map(str, fed.inputs))
        raise InputError(f"the model has {len(fed.inputs)} inputs ({listing}), and the list holds a {type(item).__name__}: give dicts.")
    known = {t.name: t for t in fed.inputs}
    arrays: dict[str, np.ndarray] = {}
    for name, value in (item if isinstance(item, Mapping) else {fed.inputs[0].name: item}).items():
        array = where_it_lies(value, name)
        if isinstance(array, OnDevice):
            raise InputError(f"a list holds a part of input '{name}' that lies on a card: give one array there that holds all samples.")
        arrays[name] = with_rows(array, known[name]) if name in known and name in fed.question.samples else array
    shown = shown_arrays(fed.question, ask.preprocess, arrays)
    for number, sample in enumerate(row_samples(arrays, "", "", fed)):
        yield replace(sample, shown=shown[number]) if shown else sample


def _numbered(found: Sequence[GivenSample]) -> Iterator[GivenSample]:
    """The samples, called by the file they are from, and by their number where it has several, or they are from none."""
    at = 0
    for source, group in groupby(found, key=lambda sample: sample.source):
        rows = list(group)
        for number, sample in enumerate(rows):
            name = Path(source).name + (f"[{number}]" if len(rows) > 1 else "") if source else f"[{at}]"
            yield replace(sample, name=name)
            at += 1


def _together(found: Sequence[GivenSample], fed: Feeding) -> Gathered:
    """Samples as one batch: a row of each in every input that holds samples, and one array for all in every other."""
    if not found:
        raise InputError("an empty list was given: there is nothing to explain.")
    rows, first = set(fed.question.samples), found[0]
    for sample in found[1:]:
        if sample.feed.keys() != first.feed.keys():
            raise InputError(
                f"'{first.name}' gives the input(s) {', '.join(first.feed)}, and '{sample.name}' {', '.join(sample.feed)}: give the same "
                "of each sample."
            )
        for name, array in sample.feed.items():
            _refuse_apart(name, (first, sample), name in rows)
            if name not in rows and not np.array_equal(array, first.feed[name]):
                raise InputError(
                    f"input '{name}' is no row of a sample but one for all, and '{first.name}' and '{sample.name}' give different ones: "
                    "explain them one by one."
                )
    together = stacked([GivenSample({k: v for k, v in sample.feed.items() if k in rows}) for sample in found])
    feed = {name: together.get(name, array) for name, array in first.feed.items()}
    return Gathered(feed, tuple(_kept(found)), tuple(sample.name for sample in found))


def _refuse_apart(name: str, pair: tuple[GivenSample, GivenSample], rows: bool) -> None:
    """Raise ``InputError`` where two samples do not fit into one array."""
    shapes = [sample.feed[name].shape[1 if rows else 0 :] for sample in pair]
    if shapes[0] != shapes[1]:
        said = " and ".join(f"{list(shape)} of '{sample.name}'" for shape, sample in zip(shapes, pair, strict=True))
        raise InputError(
            f"what is given makes no batch: input '{name}' is {said}. Explain them one by one, or let the preprocessing bring pictures to "
            "one size (resize, crop)."
        )


def _kept(found: Sequence[GivenSample]) -> Iterator[AnyShown | None]:
    """What the samples are shown as, with whole pictures as far as these are kept."""
    left = WHOLE_PICTURES
    for sample in found:
        shown = sample.shown
        if isinstance(shown, ShownPicture) and shown.original is not None:
            left -= shown.original.width * shown.original.height
            shown = shown if left >= 0 else ShownPicture(shown.seen)
        yield shown
