"""Samples that are added to the drawn ones when every shard is done: only then is it known which.

A share of all ids is drawn evenly, by workers that know of no other. Of a rare class that may be none, so the first few of every class by
the hash of their ids (``strata``) belong to the sample as well, and so do the samples with the smallest and the largest value of each
number. Those of them that were not drawn make the parts of a second, short round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from onnxsal.errors import InputError
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.run_files import MAPS_FOLDER, maps_name
from onnxsal.fleet.shard import Shard
from onnxsal.fleet.strata import Strata, rank
from onnxsal.fleet.working import OF_SAMPLE
from onnxsal.settings import shown

PICTURED = ("files", "parquet", "arrays")
"""Kinds of shards whose samples have maps as pictures, so that there is something to add."""


@dataclass(frozen=True)
class AddedPart:
    """Some samples of a shard, by their ``ids``, in order."""

    shard: Shard
    ids: tuple[str, ...]
    begin: int = 0

    @property
    def end(self) -> int:
        """How many they are."""
        return len(self.ids)

    @cached_property
    def name(self) -> str:
        """That of the shard, and 12 hex digits of the SHA-256 of the ids."""
        return f"{self.shard.name}-{hashlib.sha256(json.dumps(self.ids).encode()).hexdigest()[:12]}"

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return {"shard": self.shard.as_dict(), "ids": list(self.ids)}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> AddedPart:
        """The part that ``as_dict`` was made of. Raises ``InputError`` for anything else."""
        try:
            return cls(Shard.of(stored["shard"]), tuple(map(str, stored["ids"])))
        except (KeyError, TypeError) as error:
            raise InputError(f"{shown(stored)} describes no part of a shard: {error}.") from error


class Draw(Protocol):
    """How samples are drawn: the ``share`` of all ids by their hash by ``seed``; so many may be ``added`` for each of two reasons."""

    @property
    def seed(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def added(self) -> int: ...


def added_ids(strata: Strata, ends: Iterable[tuple[str, str]], draw: Draw) -> dict[str, tuple[str, ...]]:
    """Shard -> ids, in order, of the first rows of every class and of the ``ends`` (id, shard), at most ``draw.added`` of each, without
    those that are drawn evenly.
    """
    both = dict.fromkeys([*((row.id, row.shard) for row in strata.first(draw.added)), *list(ends)[: draw.added]])
    found: dict[str, list[str]] = {}
    for own, shard in both:
        if rank(own, draw.seed) >= draw.share:
            found.setdefault(shard, []).append(own)
    return {shard: tuple(sorted(ids)) for shard, ids in found.items()}


def added_parts(ids: Mapping[str, tuple[str, ...]], every: Mapping[str, Shard]) -> list[AddedPart]:
    """The parts of the second round, in the order of the data."""
    return [AddedPart(shard, ids[name]) for name, shard in every.items() if name in ids and shard.kind in PICTURED]


def without_maps(place: Folder, keys: Iterable[str], parts: Sequence[AddedPart], maps: str) -> list[AddedPart]:
    """The parts whose maps are to be kept, as ``maps`` says of the drawn sample, and are not there under every key."""
    return without_files(place, MAPS_FOLDER, parts, lambda part: [maps_name(key, part.name) for key in keys]) if maps in OF_SAMPLE else []


def without_files(place: Folder, folder: str, parts: Sequence[AddedPart], names: Callable[[AddedPart], Sequence[str]]) -> list[AddedPart]:
    """The parts of which not all ``names`` are in a folder of the place; that is listed once, however many parts there are."""
    there = {stored.name for stored in place.files(folder)} if parts else set()
    return [part for part in parts if not there.issuperset(names(part))]
