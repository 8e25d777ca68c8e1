"""Whether the samples are still those that were explained: every one is read again, and the hash of its bytes compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxsal.errors import InputError
from onnxsal.fleet.feeding import digests
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.merging import MOST_TOLD
from onnxsal.fleet.resume import RunFile, every_shard
from onnxsal.fleet.run_files import Done, done_in, rows_of


def verified(place: Folder, run: RunFile, step: Callable[[str], Any] = str) -> int:
    """Compare every sample that is done with its hash of then; returns how many were compared.

    Raises ``InputError`` naming those that are others now.
    """
    every = every_shard(run)
    key = next(iter(run.keys.values()))
    count, other = 0, []
    for done in (one for one in done_in(place) if one.key == key and one.shard in every):
        step(f"reading {every[done.shard].source} again")
        now = digests(every[done.shard])
        for row in rows_of(place, Done(key, done.shard), ["id", "row", "digest"]).to_pylist():
            count += bool(row["digest"])
            if row["digest"] and now.get(row["row"]) != row["digest"]:
                other.append(row["id"])
    if other:
        named = ", ".join(other[:MOST_TOLD]) + (f" and {len(other) - MOST_TOLD} more" if len(other) > MOST_TOLD else "")
        raise InputError(f"{len(other)} of {count} samples are not those that were explained: {named}.")
    return count
