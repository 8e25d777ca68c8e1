"""The files of a run: what is written of each shard, in which order, and what is there already.

OUT/run.json                          what the run is: settings, versions, keys, the listing in short
OUT/model/<key>.onnx                  the converted model of each way, which workers open
OUT/maps/<key>-<shard>.parquet        pictures of maps, where they are kept; of samples that are added, <key>-<shard>-<ids>.parquet
OUT/stats/<key>-<shard>.parquet       a row for each sample
OUT/sums/<key>-<shard>.json           what can be added up; written last: where it is, the shard is done
OUT/report/                           what ``merge`` makes of it

``key`` says what was computed (model, method, parameters, preprocessing, version), ``shard`` of which bytes. Each file is written whole or
not at all, and the same content whoever writes it, so two workers on one shard, or two runs on one OUT, end with the same files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.sums import Sums
from onnxsal.fleet.working import OF_MAPS, SEED, SHARD
from onnxsal.runtime.libraries import library
from onnxsal.settings import Phrase, Whole, as_text, checked, open_schema, parse_json

STATS, MAPS_FOLDER, SUMS, MODELS, REPORT, RUN = "stats", "maps", "sums", "model", "report", "run.json"


@open_schema
class PartDone:
    """What the file of sums of a shard says beside the sums: of which shard, and how many rows of it have no explanation."""

    onnxsal: Phrase
    key: Phrase
    shard: Phrase
    source: str
    begin: Whole
    end: Whole
    rows: Whole
    bad: Whole
    sums: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A shard that is done under one key."""

    key: str
    shard: str

    @property
    def name(self) -> str:
        """The file of its sums."""
        return f"{SUMS}/{self.key}-{self.shard}.json"


def done_in(place: Folder) -> list[Done]:
    """Every shard that is done, by key and name, in order: a listing of the sums."""
    found = []
    for stored in place.files(SUMS):
        key, dash, shard = stored.name.rpartition("/")[2].removesuffix(".json").partition("-")
        if dash and stored.name.endswith(".json"):
            found.append(Done(key, shard))
    return sorted(found, key=lambda one: (one.key, one.shard))


def files_by_shard(place: Folder, folder: str, key: str, ending: str) -> dict[str, list[str]]:
    """The files <key>-<shard> and <key>-<shard>-<ids> (of what was added) in a folder, by shard; that of the shard itself comes first."""
    found: dict[str, list[str]] = {}
    for stored in place.files(folder):
        of, _, part = stored.name.removeprefix(f"{folder}/").removesuffix(ending).partition("-")
        if of == key and stored.name.endswith(ending):
            found.setdefault(part.partition("-")[0], []).append(stored.name)
    return {shard: sorted(names, key=lambda name: (len(name), name)) for shard, names in sorted(found.items())}


def write_part(place: Folder, key: str, shard: Shard, table: Any, sums: Sums) -> None:
    """Write what was computed of a shard: the maps, then the rows, then the sums, whose file says that it is done."""
    name = f"{key}-{shard.name}"
    pictured = [c for c in OF_MAPS if c in table.column_names]
    if pictured and table.column(pictured[0]).null_count < len(table):
        write_maps(place, key, shard.name, table)
    place.write(f"{STATS}/{name}.parquet", as_parquet(table.drop_columns(pictured)))
    bad = sum(bool(why) for why in table.column("why").to_pylist())
    about = {"onnxsal": version("onnxsal"), "key": key, "shard": shard.name, "source": shard.source, "begin": shard.begin, "end": shard.end}
    text = json.dumps({**about, "rows": len(table), "bad": bad, "sums": json.loads(sums.as_json())})
    place.write(Done(key, shard.name).name, text.encode())


def maps_name(key: str, part: str) -> str:
    """The file of the maps of a shard, or of the samples of it that were added."""
    return f"{MAPS_FOLDER}/{key}-{part}.parquet"


def write_maps(place: Folder, key: str, part: str, table: Any) -> None:
    """Write the maps that are in a table of ``work``."""
    kept = table.filter(table.column(OF_MAPS[0]).is_valid()).select(["id", *OF_MAPS])
    place.write(maps_name(key, part), as_parquet(kept))


def read_part(place: Folder, done: Done) -> tuple[PartDone, Sums]:
    """The sums of a shard that is done. Raises ``InputError`` where the file is damaged, or is of another shard than its name says."""
    where = f"'{done.name}' in {place.place}"
    said = checked(PartDone, parse_json(as_text(place.read(done.name, ours=True), where), where, names=True), where)
    if (said.key, said.shard) != (done.key, done.shard):
        raise InputError(f"{where} holds the sums of another shard, {said.key}-{said.shard}: remove it, and run again.")
    return said, Sums.from_data(said.sums, f"the sums in {where}")


def as_parquet(table: Any) -> bytes:
    """A table as a Parquet file, compressed by zstd; the same bytes for the same table."""
    buffer = io.BytesIO()
    library("pyarrow.parquet").write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def rows_of(place: Folder, done: Done, columns: Sequence[str] | None = None) -> Any:
    """The rows of a shard that is done, or some columns of them. Raises ``InputError`` where the file is missing or damaged."""
    name = f"{STATS}/{done.key}-{done.shard}.parquet"
    try:
        return library("pyarrow.parquet").read_table(io.BytesIO(place.read(name, ours=True)), columns=columns)
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        raise InputError(f"'{name}' in {place.place} is damaged ({error}): remove '{done.name}' and run again.") from error


def numbers_in(table: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of numbers of a table, float64 with NaN where there is no value."""
    return {name: np.array([np.nan if v is None else v for v in table.column(name).to_pylist()], np.float64) for name in names}


def counts_in(table: Any) -> dict[str, dict[str, int]]:
    """How often each class is predicted and given as a label, how often each was right, and each reason for no explanation."""
    counted: dict[str, dict[str, int]] = {"predicted": {}, "label": {}, "right": {}, "why": {}}
    columns = {name: table.column(name).to_pylist() for name in ("predicted", "label", "right", "why")}
    for predicted, label, right, why in zip(*columns.values(), strict=True):
        told = {"predicted": predicted, "label": label, "right": label if right else None, "why": why or None}
        for name, value in told.items():
            if value is not None:
                counted[name][str(value)] = counted[name].get(str(value), 0) + 1
    return counted


STRATA = ("predicted", "label")
"""The classes that the first rows of each are kept of."""


def strata_in(table: Any) -> dict[str, list[str]]:
    """The classes of each row of a table, '' where it has none, or no explanation."""
    there = [not why for why in table.column("why").to_pylist()]
    found = {name: table.column(name).to_pylist() for name in STRATA}
    return {n: [str(v) if ok and v is not None else "" for v, ok in zip(c, there, strict=True)] for n, c in found.items()}


def summed(table: Any, names: Sequence[str]) -> Sums:
    """The sums of a table of ``work``: its columns of numbers, and how often each class was predicted, given and right."""
    told = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if SHARD not in told or SEED not in told:
        raise InputError("the table does not say which shard it is of: give tables as `onnxsal.fleet.work` returns them.")
    columns, ids = numbers_in(table, names), table.column("id").to_pylist()
    return Sums.of(told[SHARD], int(told[SEED]), ids, columns, counts_in(table), strata=strata_in(table))
