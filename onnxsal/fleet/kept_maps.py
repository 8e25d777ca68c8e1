"""The maps that a run kept, read again."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.numbers import map_values
from onnxsal.fleet.resume import read_run
from onnxsal.fleet.run_files import MAPS_FOLDER, Done, files_by_shard
from onnxsal.runtime.libraries import library


def maps(out: str | os.PathLike[str], method: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """The maps that a run by the shard kept in ``out``, a folder or a URL: (id of the sample, map float32 [H, W]), shard by shard, each
    sample once.

    A map is within max |map| / 510 of the one that was computed, as it is kept in 8 bits. ``method`` is the name of one of the run's; it
    may be left out where there is only one. The maps of one shard are in memory at a time. Raises ``InputError`` where no run is there,
    for a method that it has not, and where a file is damaged.
    """
    place = Folder.of(os.fspath(out))
    keys = read_run(place).keys
    wanted = next(iter(keys)) if method is None and len(keys) == 1 else method
    if wanted not in keys:
        raise InputError(f"the run in '{place.place}' has no method '{method}'{near_miss(str(method), keys)}; known: {', '.join(keys)}.")
    return _maps(place, keys[wanted])


def _maps(place: Folder, key: str) -> Iterator[tuple[str, np.ndarray]]:
    for shard, names in files_by_shard(place, MAPS_FOLDER, key, ".parquet").items():
        found = dict[str, np.ndarray]()
        for name in names:  # those of samples that were added are whole, also where small ones are kept of all
            found |= _read(place, name, Done(key, shard))
        yield from found.items()


def _read(place: Folder, name: str, done: Done) -> dict[str, np.ndarray]:
    try:
        table = library("pyarrow.parquet").read_table(io.BytesIO(place.read(name, ours=True)))
        return {row["id"]: map_values(row["map"], row["map_scale"]) for row in table.to_pylist()}
    except (OSError, ValueError, KeyError) as error:  # pyarrow's and pillow's own are of these
        raise InputError(f"'{name}' in {place.place} is damaged ({error}): remove it and '{done.name}', and run again.") from error
