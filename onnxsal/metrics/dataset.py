"""Samples of a data set, read when they are asked for; a damaged one is listed and stops nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.errors import InputError
from onnxsal.metrics.data_kind import PICTURES, DataKind


@dataclass(frozen=True)
class Sample:
    """One sample: ``x`` [1, ...] is the model's input, ``picture`` [H, W, 3] bytes what the model sees (``None`` where there is none),
    ``label`` the index of its class, ``mask`` bool [H, W] where the object is; ``digest`` tells whether it is still the same sample.
    """

    name: str
    digest: str
    x: np.ndarray
    picture: np.ndarray | None = None
    label: int | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Entry:
    """Where a sample is: ``read`` gives it (or raises ``InputError``), ``content`` the bytes that it depends on."""

    name: str
    read: Callable[[], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]
    content: Callable[[], Sequence[bytes]]
    label: int | None = None
    masked: bool = False


class Dataset:
    """Samples by name, read when they are asked for. ``damaged`` (name -> why) grows as damaged ones are met; ``notes`` say what was
    read as what; ``kind`` what they are; ``source`` where they are from, of data that are given as such.
    """

    def __init__(self, entries: Sequence[Entry], notes: Sequence[str] = (), kind: DataKind = PICTURES, source: str = "") -> None:
        self._entries = {e.name: e for e in entries}
        self.notes, self.kind, self.source = tuple(notes), kind, source
        self.damaged: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every sample, damaged ones included, in order."""
        return tuple(self._entries)

    @property
    def labelled(self) -> int:
        """How many samples have a label."""
        return sum(e.label is not None for e in self._entries.values())

    @property
    def masked(self) -> int:
        """How many samples have a mask."""
        return sum(e.masked for e in self._entries.values())

    def label(self, name: str) -> int | None:
        """The index of a sample's class, without reading it."""
        return self._entries[name].label

    def some(self, count: int, seed: int = 0) -> Dataset:
        """``count`` samples drawn by a seed, in their order (all, where there are no more)."""
        kept = sorted(np.random.default_rng(seed).permutation(len(self))[:count])
        entries = list(self._entries.values())
        what = self.kind.many if self.kind.named else "samples"
        note = [f"{count} of {len(self)} {what}, drawn by seed {seed}"] if count < len(self) else []
        return self._part([entries[i] for i in kept], [*self.notes, *note])

    def only(self, names: Sequence[str]) -> Dataset:
        """The samples of these names, in their order here."""
        wanted = set(names)
        return self._part([e for e in self._entries.values() if e.name in wanted], self.notes)

    def _part(self, entries: Sequence[Entry], notes: Sequence[str]) -> Dataset:
        """Some of the samples."""
        return Dataset(entries, notes, self.kind, self.source)

    def digest(self, name: str) -> str:
        """A hash of what the sample is made of, without decoding it. Raises ``InputError`` where it cannot be read."""
        entry = self._entries[name]
        found = hashlib.sha256(str(entry.label).encode())
        try:
            for part in entry.content():
                found.update(hashlib.sha256(part).digest())
        except OSError as error:
            raise InputError(f"sample '{name}' cannot be read: {error.strerror or error}.") from error
        return found.hexdigest()[:20]

    def read(self, name: str) -> Sample:
        """One sample. Raises ``InputError`` where it is damaged, or its mask has no inside or no outside."""
        entry = self._entries[name]
        digest = self.digest(name)
        x, picture, mask = entry.read()
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise InputError(f"sample '{name}' holds NaN or infinite values.")
        if mask is not None and picture is not None and mask.shape != picture.shape[:2]:
            raise InputError(
                f"the mask of '{name}' is {mask.shape[0]}x{mask.shape[1]} where the model sees {picture.shape[0]}x{picture.shape[1]}."
            )
        if mask is not None and mask.all() == mask.any():
            part = "all" if mask.all() else "nothing"
            raise InputError(
                f"the mask of '{name}' calls {part} that the model sees of the picture object, so no map can lie on it or beside it. "
                "Give the mask of the object, in which the object is white, or none."
            )
        return Sample(name, digest, x, picture, entry.label, mask)

    def samples(self, names: Sequence[str] | None = None) -> Iterator[Sample]:
        """The samples (those named), but for damaged ones, which are put into ``damaged``."""
        for name in self.names if names is None else names:
            try:
                yield self.read(name)
            except InputError as error:
                self.damaged[name] = str(error)

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def batches(self, size: int, names: Sequence[str] | None = None) -> Iterator[list[Sample]]:
        """Lists of up to ``size`` neighbours of one shape."""
        held: list[Sample] = []
        for sample in self.samples(names):
            if held and (len(held) == size or held[0].x.shape != sample.x.shape):
                yield held
                held = []
            held.append(sample)
        if held:
            yield held


MOST_REASONS = 20
"""So many samples of which nothing could be used are told one by one."""


def none_left(samples: str, done: str, whys: Mapping[str, str]) -> str:
    """That none of the ``samples`` could be ``done``, and why, a line for each: sample -> why."""
    lines = [f"none of the {samples} could be {done}:", *(f"{name}: {why}" for name, why in list(whys.items())[:MOST_REASONS])]
    return "\n".join([*lines, *([f"... and {len(whys) - MOST_REASONS} more"] if len(whys) > MOST_REASONS else [])])
