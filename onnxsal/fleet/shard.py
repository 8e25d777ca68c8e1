"""A shard: some rows of one thing that is read, small enough to be sent anywhere, with a name that says what is in it."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

from onnxsal.errors import InputError
from onnxsal.fleet.folders import Stored, file_at
from onnxsal.settings import shown

KINDS = ("files", "parquet", "arrays", "table", "texts")


class Loose(NamedTuple):
    """A file that is a sample: its ``name`` below the folder, or its URI ('' = the row of a manifest that names none); the ``id`` of the
    sample ('' = the name); the ``word`` that labels it, and its ``mask``, as a file ('' = none).
    """

    name: str
    id: str = ""
    word: str = ""
    mask: str = ""


@dataclass(frozen=True)
class Shard:
    """Rows [``begin``, ``end``) of ``source``, the URI of a folder or a file; ``kind``: one of ``KINDS``. ``stamp`` changes when what is
    read changes: size, and time or etag; of loose files a hash of those of each.

    What else it takes to read it: ``called``, what the ids of rows that have none of their own begin with; ``columns`` (role, column):
    what is read as what; ``word``, which labels every row; ``span``, of a file of lines: where its header ends, where the rows begin and
    end, in bytes, and the number of the first of these rows; ``listing``, of loose files: which they are, packed (``files``).
    """

    kind: str
    source: str
    stamp: str
    begin: int
    end: int
    called: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    word: str = ""
    span: tuple[int, ...] = ()
    listing: str = ""

    def __len__(self) -> int:
        return self.end - self.begin

    @cached_property
    def name(self) -> str:
        """20 hex digits: SHA-256 of all of it. The same in every process and from every working folder; another where anything differs."""
        whole = asdict(self) | {"listing": self.files}  # how tightly it is packed depends on the library
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def files(self) -> tuple[Loose, ...]:
        """The loose files, a row each."""
        if not self.listing:
            return ()
        return tuple(Loose(*row) for row in json.loads(zlib.decompress(base64.b85decode(self.listing))))

    def column(self, role: str) -> str | None:
        """The column that plays a role (content, id, label), if one does."""
        return dict(self.columns).get(role)

    def id(self, row: int) -> str:
        """What a row is called that has no id of its own."""
        return f"{self.called}#{row}"

    def part(self, begin: int, end: int) -> Shard:
        """Some of its rows, [``begin``, ``end``) of the source, as a shard with a name of its own. Raises ``InputError`` for others."""
        if not self.begin <= begin < end <= self.end:
            raise InputError(f"rows {begin} to {end} are no part of a shard with the rows {self.begin} to {self.end}.")
        listing = packed(self.files[begin - self.begin : end - self.begin]) if self.listing else ""
        return replace(self, begin=begin, end=end, listing=listing)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return asdict(self) | {"columns": [list(pair) for pair in self.columns], "span": list(self.span)}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Shard:
        """The shard that ``as_dict`` was made of. Raises ``InputError`` for anything else."""
        try:
            made = dict(stored) | {
                "columns": tuple((str(a), str(b)) for a, b in stored["columns"]),
                "span": tuple(map(int, stored["span"])),
            }
            shard = cls(**made)
            whole = all(isinstance(getattr(shard, f.name), str) == (f.type == "str") for f in fields(shard))
            if (
                not whole
                or shard.kind not in KINDS
                or (shard.listing and len(shard.files) != len(shard))
                or not 0 <= shard.begin < shard.end
            ):
                raise ValueError("its values do not belong together")
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise InputError(f"{shown(stored)} describes no shard: {error}.") from error
        return shard

    def refuse_changed(self) -> None:
        """Raise ``InputError`` where the file is no longer there, or no longer the one that was listed."""
        folder, name = file_at(self.source)
        found = folder.stored(name)
        if found is None:
            raise InputError(f"'{folder.place}/{name}' is not there any more.")
        if stamp_of(found) != self.stamp:
            raise InputError(f"'{folder.place}/{name}' was changed since it was listed: run the same command again.")


def unique(ids: Sequence[str]) -> list[str]:
    """Ids, the second of one id as ID#2, unless that is an id of its own: then the next that is free."""
    given, last = set(ids), dict[str, int]()
    found = []
    for own in ids:
        called, number = own, last.get(own, 0) + 1
        if number > 1:
            while (called := f"{own}#{number}") in given:
                number += 1
            given.add(called)
        last[own] = number
        found.append(called)
    return found


def packed(files: Iterable[Loose]) -> str:
    """Loose files as ``Shard.listing`` holds them: names that follow each other are alike, and take few bytes."""
    rows = [[*row[: max(i for i, part in enumerate(row, 1) if part or i == 1)]] for row in files]
    return base64.b85encode(zlib.compress(json.dumps(rows, separators=(",", ":")).encode())).decode()


def stamp_of(file: Stored) -> str:
    """Size and time of a file, in one word."""
    return f"{file.size}-{file.stamp}"
