"""A run over shards: what there is to do, what is done, and doing it here, whole or one part of several.

onnxsal explain model.onnx pictures/ -o out --shard 3/16     # the third of sixteen jobs; in any order, on any machine
onnxsal merge out                                            # at any time
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from onnxsal.errors import InputError
from onnxsal.fleet.added import AddedPart
from onnxsal.fleet.cutting import Shard, shards
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.job import Receipt, Worker
from onnxsal.fleet.run_files import RUN, done_in, read_part
from onnxsal.settings import FileName, Number, Phrase, Whole, as_text, checked, open_schema, parse_json

MAX_BAD = 0.01
"""The share of samples without an explanation above which a run ends with status 1."""


class AllBadError(InputError):
    """Nothing of the first shard could be explained: something is wrong with the model or the data as a whole."""


@open_schema
class RunFile:
    """``run.json``: what a run is. ``data`` as it was given, absolute; ``keys`` those of its ways; ``share`` of the samples is drawn by
    ``seed``, and when all is done at most so many are ``added`` for each of two reasons; ``total`` and ``shards`` are what the listing
    found.
    """

    onnxsal: Phrase
    verb: Phrase
    keys: dict[Phrase, Phrase]
    data: list[FileName]
    shard_rows: Whole
    total: Whole
    shards: Whole
    seed: Whole
    share: Number
    added: Whole
    facts: dict[str, Any]


@dataclass(frozen=True)
class Todo:
    """The shards of a run: all of them, and those that are not done under every key, of which the ``fresh`` are done under none; ``stale``
    are done and no longer in the data.
    """

    every: Sequence[Shard]
    left: Sequence[Shard]
    fresh: Sequence[Shard]
    stale: Sequence[str]

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.end - shard.begin for shard in self.every)


def every_shard(run: RunFile) -> dict[str, Shard]:
    """The shards that the data of a run make now, by name, in order. Raises ``InputError`` where they cannot be listed here."""
    return {shard.name: shard for shard in shards(run.data, run.shard_rows, **run.facts.get("listing", {}))}


def todo(place: Folder, keys: Sequence[str], every: Sequence[Shard]) -> Todo:
    """What is left of the shards, by a listing of what is done; part of a shard counts as nothing done of it."""
    done: dict[str, set[str]] = {key: set() for key in keys}
    for one in done_in(place):
        if one.key in done:
            done[one.key].add(one.shard)
    whole, some = set.intersection(*done.values()) if done else set(), set.union(set(), *done.values())
    left, fresh = ([shard for shard in every if shard.name not in names] for names in (whole, some))
    return Todo(every, left, fresh, sorted(some - {shard.name for shard in every}))


def begun(place: Folder, made: RunFile) -> RunFile:
    """``made``, written as run.json; or what an earlier run left there, if it is the same run: its draw of the sample stays.

    Raises ``InputError`` where the place holds another run.
    """
    place.sweep()
    if not place.exists(RUN):
        place.write(RUN, (json.dumps(_plain(made), indent=2) + "\n").encode())
        return made
    found = read_run(place)
    if (found.verb, found.keys, found.seed, found.data) != (made.verb, made.keys, made.seed, made.data):
        other = found.keys.keys() != made.keys.keys()
        what = "other methods" if other else "another model, preprocessing, setting, target or version"
        what = f"other data than {', '.join(found.data)}" if found.keys == made.keys and found.data != made.data else what
        raise InputError(
            f"'{place.place}' holds another run ({found.verb} by {', '.join(found.keys)}, onnxsal {found.onnxsal}; "
            f"this one is {made.verb} by {', '.join(made.keys)}, with {what}): give another --out, or remove what is there."
        )
    return found


def read_run(place: Folder) -> RunFile:
    """What run.json says. Raises ``InputError`` where there is none, or it is damaged."""
    if not place.exists(RUN):
        raise InputError(f"'{place.place}' holds no run (there is no {RUN}): name the --out of explain, evaluate or audit by the shard.")
    where = f"'{RUN}' in {place.place}"
    return checked(RunFile, parse_json(as_text(place.read(RUN, ours=True), where), where, names=True), where)


def _plain(made: RunFile) -> dict[str, Any]:
    return {name: getattr(made, name) for name in RunFile.__dataclass_fields__}


def run_file(
    verb: str, keys: Mapping[str, str], data: Sequence[str], shard_rows: int, every: Sequence[Shard], facts: dict[str, Any]
) -> RunFile:
    """``run.json`` of a run that begins."""
    total = sum(shard.end - shard.begin for shard in every)
    drawn = {name: facts[name] for name in ("seed", "share", "added")}
    return RunFile(version("onnxsal"), verb, dict(keys), list(data), shard_rows, total, len(every), **drawn, facts=facts)


# ----- parts -----


def part_of_run(text: str) -> tuple[int, int]:
    """ "3/16" as (3, 16). Raises ``InputError`` for anything that is no part."""
    found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text.strip())
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--shard '{text}' is no part of a run: give I/N with I from 1 to N, such as 3/16.")
    return number, count


def mine(work: Todo, part: tuple[int, int]) -> list[Shard]:
    """What is left of one part of several: of all shards, done or not, every so-manieth, so that each part knows its own without asking
    the others, and none has more than one shard more than another.
    """
    number, count = part
    own = {shard.name for shard in work.every[number - 1 :: count]}
    return [shard for shard in work.left if shard.name in own]


# ----- doing it -----


@dataclass
class DoneSoFar:
    """What was done of a run so far; decides when it is to be given up. ``told`` hears of every receipt."""

    told: Callable[[Receipt], None] = lambda receipt: None
    receipts: list[Receipt] = field(default_factory=list)

    def __call__(self, receipt: Receipt) -> None:
        """Note a receipt. Raises ``AllBadError`` where it is the first, and nothing of it could be explained."""
        first = not self.receipts
        self.receipts.append(receipt)
        self.told(receipt)
        if first and not receipt.why and receipt.rows and receipt.bad == receipt.rows:
            raise AllBadError(
                f"none of the {receipt.rows} samples of the first shard could be explained; each says why in its row of stats/. "
                "Mend the data or what is asked, and remove what is in --out."
            )

    @property
    def failed(self) -> list[Receipt]:
        """Shards that are not done."""
        return [receipt for receipt in self.receipts if receipt.why]


def run_here(opened: Callable[[], Worker], left: Sequence[Shard | AddedPart], told: Callable[[Receipt], None]) -> None:
    """Do shards one after the other in this process; one that fails three times is told as such, and the others are done."""
    worker = opened() if left else None
    for shard in left:
        assert worker is not None
        for _ in range(TRIES):
            receipt = worker.do(shard)
            if not receipt.why:
                break
        told(receipt)


TRIES = 3
"""So often a shard is tried."""


def refuse_foreign(place: Folder) -> None:
    """Raise ``InputError`` where a folder holds something that is no run of ours."""
    if place.exists(RUN):
        return
    strangers = [stored.name for stored in place.files()]
    if strangers:
        raise InputError(f"'{place.place}' holds other files ('{strangers[0]}'), and no run of onnxsal: name an empty place.")


def forget_bad(place: Folder, keys: Sequence[str]) -> int:
    """Make the shards undone that hold samples without an explanation; returns how many."""
    count = 0
    for one in done_in(place):
        if one.key in keys and read_part(place, one)[0].bad:
            place.remove(one.name)
            count += 1
    return count
