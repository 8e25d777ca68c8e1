"""The samples that were drawn of all, found again in the rows of a run."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.errors import InputError
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.feeding import dataset
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.merging import WholeRun
from onnxsal.fleet.run_files import rows_of
from onnxsal.metrics.dataset import Dataset, Entry
from onnxsal.metrics.scorer import Scorer
from onnxsal.runtime.session import Tensor


def _drawn_rows(table: Any, added: Collection[str]) -> Iterator[dict[str, Any]]:
    """The rows of a shard that are in the sample and have an explanation."""
    drawn = [yes or own in added for yes, own in zip(table.column("sampled").to_pylist(), table.column("id").to_pylist(), strict=True)]
    return (row for row in table.filter(drawn).to_pylist() if not row["why"])


@dataclass(frozen=True)
class DrawnSample:
    """``names`` of the samples that were drawn (or added) and have an explanation, in the order of the data; ``shard_of`` each; ``rows``
    their places in the source; ``labels`` their classes; ``maps`` the small maps of each way, float32 [n, k], where all have one of the
    same shape. ``added``: those that are no part of the even draw.
    """

    names: Sequence[str]
    shard_of: Mapping[str, str]
    rows: Mapping[str, int]
    labels: Mapping[str, int | None]
    maps: Mapping[str, np.ndarray]
    every: Mapping[str, Shard]
    source: str
    added: Collection[str] = ()

    @property
    def shards(self) -> list[str]:
        """The shards that they are in, in order."""
        return list(dict.fromkeys(self.shard_of.values()))

    @property
    def of_rows(self) -> bool:
        """Whether they are rows of tables."""
        return any(self.every[name].kind == "table" for name in self.shards if name in self.every)

    def of_shard(self, shard: str) -> list[str]:
        """Those that are in a shard."""
        return [name for name in self.names if self.shard_of[name] == shard]

    def places(self) -> Iterator[tuple[Shard, list[int]]]:
        """Each shard, with the places of the drawn samples among its rows."""
        for name in self.shards:
            shard = self.every[name]
            yield shard, [self.rows[n] - shard.begin for n in self.of_shard(name)]

    def dataset(self, ask: Ask, state: Path) -> Dataset:
        """The samples as data of an audit: read again only where something is made anew; their hashes are those that were noted."""
        return _Noted(self, ask, state)


class _Noted(Dataset):
    """Samples whose hashes are known, which are read from their shard where one is wanted."""

    def __init__(self, drawn: DrawnSample, ask: Ask, state: Path) -> None:
        self._drawn, self._ask, self._open = drawn, ask, dict[str, Dataset]()
        super().__init__([self._entry(name) for name in drawn.names], source=drawn.source)
        with state.open(encoding="utf-8") as file:
            self._noted = {line["sample"]: line["digest"] for line in map(json.loads, file)}

    def _entry(self, name: str) -> Entry:
        def read() -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
            sample = self._shard(name).read(name)
            return sample.x, sample.picture, sample.mask

        return Entry(name, read, lambda: [], self._drawn.labels[name])

    def _shard(self, name: str) -> Dataset:
        of = self._drawn.shard_of[name]
        if of not in self._open:
            self._open = {of: dataset(self._drawn.every[of], self._tensor, self._ask.preprocess, self._ask.labels)}
        return self._open[of]

    @cached_property
    def _tensor(self) -> Tensor:
        return Scorer.of(self._ask).session.inputs[0]

    def digest(self, name: str) -> str:
        """The hash that was noted when the sample was looked at, else that of what is there now."""
        return self._noted[name] if name in self._noted else self._shard(name).digest(name)


def drawn_sample(place: Folder, whole: WholeRun, ways: Sequence[str]) -> DrawnSample:
    """The drawn samples of a run, from the rows of its shards. Raises ``InputError`` where the data cannot be listed here."""
    if whole.unlisted:
        raise InputError(whole.unlisted)
    run, every = whole.run, whole.every
    order = {name: number for number, name in enumerate(every)}
    found: dict[str, dict[str, Any]] = {}
    small: dict[str, dict[str, np.ndarray]] = {way: {} for way in ways}
    for number, way in enumerate(ways):
        for done in sorted((d for d in whole.done if d.key == run.keys[way]), key=lambda d: order[d.shard]):
            table = rows_of(place, done, ["id", "row", "label", "why", "sampled", "small", "small_shape"])
            for row in _drawn_rows(table, frozenset(whole.added.get(done.shard, ()))):
                if number == 0:
                    found[row["id"]] = {**row, "shard": done.shard}
                if row["small"] is not None:
                    small[way][row["id"]] = np.frombuffer(row["small"], "<f2").astype(np.float32)
    names = [name for name in found if all(name in maps for maps in small.values())] if any(small.values()) else list(found)
    maps = {
        way: np.stack([one[name] for name in names]) for way, one in small.items() if names and len({v.size for v in one.values()}) == 1
    }
    return DrawnSample(
        names,
        {name: found[name]["shard"] for name in names},
        {name: found[name]["row"] for name in names},
        {name: found[name]["label"] for name in names},
        maps,
        every,
        ", ".join(run.data),
        [name for name in names if not found[name]["sampled"]],
    )
