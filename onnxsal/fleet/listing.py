"""What lies in a folder, or in a list of things: which files are samples of their own, and which hold many."""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from onnxsal.disk import reads
from onnxsal.errors import InputError
from onnxsal.fleet.folders import Folder, Stored, file_at
from onnxsal.fleet.shard import Loose
from onnxsal.given.from_files import ARRAYS
from onnxsal.given.text import TEXTS
from onnxsal.metrics.open_dataset import IMAGES, MASKS
from onnxsal.runtime.pictures import picture_suffixes
from onnxsal.runtime.sound import SOUNDS
from onnxsal.runtime.table_files import TABLES
from onnxsal.runtime.table_files import TEXTS as CELLS
from onnxsal.untrusted import whole_text

PARQUET = (".parquet", ".pq")
LINES = (".jsonl", ".ndjson")
MANIFESTS = (*CELLS, *LINES)

HOW = """\
Samples are read from a folder of pictures (one sub-folder for each class), Parquet files (a column of bytes, or of names of files), .npy \
and .npz arrays, .wav sounds, .txt files with a text a line, a manifest (.csv, .tsv or .jsonl with a column 'file'), a table whose columns \
the model takes (as_table=True), URLs of these, or a list of these."""


class Holder(NamedTuple):
    """A file that holds many samples: ``kind`` is "parquet", "arrays", "texts", "table" or "manifest"."""

    kind: str
    folder: Folder
    file: Stored

    @property
    def place(self) -> str:
        """Where it is (``Folder.place``)."""
        return f"{self.folder.place}/{self.file.name}"


@dataclass
class Discovered:
    """What is to be read: ``loose`` files below each of their folders, and ``holders`` of many samples; ``roots`` are the folders that
    were named, or that hold what was named.
    """

    loose: dict[Folder, list[tuple[Stored, Loose]]] = field(default_factory=dict)
    holders: list[Holder] = field(default_factory=list)
    roots: list[Folder] = field(default_factory=list)

    @cached_property
    def top(self) -> str:
        """The folder that all lie in ('' = they lie on several file systems): ids are places below it."""
        parts = [root.place.rstrip("/").split("/") for root in self.roots]
        shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
        return "/".join(level[0] for level in shared)

    def called(self, place: str) -> str:
        """A place below ``top``, as text that can be written anywhere."""
        return whole_text(place[len(self.top) :].lstrip("/") if self.top else place)


def gather_files(items: Sequence[Any], as_table: bool = False) -> Discovered:
    """What lies at paths and URIs. Raises ``InputError`` for one that is not there, or that holds nothing that is read."""
    found = Discovered()
    for item in items:
        if not isinstance(item, str | os.PathLike):
            raise InputError(f"data holds a {type(item).__name__}; shards are made of paths and URLs. {HOW}")
        folder, file = _there(item)
        if file is None:
            _in_folder(found, folder, as_table)
        else:
            found.roots.append(folder)
            _file(found, folder, file, as_table)
    if not found.loose and not found.holders:
        raise InputError(f"no data was given. {HOW}")
    return found


def _there(item: str | os.PathLike[str]) -> tuple[Folder, Stored | None]:
    """A folder; or a file, and the folder that it lies in."""
    whole = Folder.of(item)
    if whole.local is not None and os.path.isdir(whole.local):
        return whole, None
    try:
        folder, name = file_at(item)
    except InputError:
        return whole, None  # a bucket
    if file := folder.stored(name):
        return folder, file
    if whole.local is not None:
        raise InputError(f"data '{item}' is not there. {HOW}")
    return whole, None


def _file(found: Discovered, folder: Folder, file: Stored, as_table: bool) -> None:
    """One file that was named."""
    suffix = _suffix(file.name)
    kind = {**dict.fromkeys(PARQUET, "parquet"), **dict.fromkeys(ARRAYS, "arrays"), **dict.fromkeys(TEXTS, "texts")}.get(suffix)
    kind = "table" if as_table and suffix in TABLES else "manifest" if suffix in MANIFESTS else kind
    if as_table and kind != "table":
        raise InputError(f"'{folder.place}/{file.name}' is no table; as_table=True reads {', '.join(TABLES)}.")
    if kind is None:
        _note(folder, [file])
        found.loose.setdefault(folder, []).append((file, Loose(file.name)))
    else:
        found.holders.append(Holder(kind, folder, file))


def _in_folder(found: Discovered, folder: Folder, as_table: bool) -> None:
    """What a folder holds, of one kind: a manifest at its top, or Parquet, or pictures, sounds and arrays, or texts."""
    kept = [file for file in folder.files() if not _hidden(file.name, ".")]
    of: dict[str, list[Stored]] = {}
    for file in kept:
        of.setdefault(_suffix(file.name), []).append(file)
    parquet = [f for f in _of(of, PARQUET) if not _hidden(f.name, "_")]
    manifests = [f for f in _of(of, MANIFESTS) if "/" not in f.name]
    samples = _of(of, (*picture_suffixes(), *SOUNDS))
    if as_table:
        holders = [Holder("table", folder, f) for f in _of(of, TABLES) if not _hidden(f.name, "_")]
    elif manifests:
        if len(manifests) > 1:
            names = ", ".join(f.name for f in manifests)
            raise InputError(f"'{folder.place}' holds {len(manifests)} tables ({names}): name the one to read as DATA.")
        holders = [Holder("manifest", folder, manifests[0])]
    elif parquet:
        if samples:
            raise InputError(
                f"'{folder.place}' holds {len(parquet)} Parquet files ('{parquet[0].name}') and {len(samples)} pictures or sounds "
                f"('{samples[0].name}'): name the ones or the others as DATA."
            )
        holders = [Holder("parquet", folder, f) for f in parquet]
    elif samples or _of(of, ARRAYS):
        holders = [Holder("arrays", folder, f) for f in _of(of, ARRAYS)]
    else:
        holders = [Holder("texts", folder, f) for f in _of(of, TEXTS)]
    root, loose = _classed(folder, samples) if not as_table and not manifests and samples else (folder, [])
    if not holders and not loose:
        raise InputError(f"data '{folder.place}' is not there, or nothing in it is read. {HOW}")
    _note(root, [file for file, _ in loose])
    found.roots.append(root)
    found.holders += holders
    if loose:
        found.loose.setdefault(root, []).extend(loose)


def _classed(folder: Folder, samples: Sequence[Stored]) -> tuple[Folder, list[tuple[Stored, Loose]]]:
    """Pictures and sounds with the words that label them and their masks, below the folder that they are called from.

    As ``metrics.open_dataset``: masks lie in ``MASKS``, each at the place of its picture, which may be below ``IMAGES``.
    """
    own = [file for file in samples if file.name.startswith(f"{MASKS}/")]
    rest = [file for file in samples if not file.name.startswith(f"{MASKS}/")]
    apart = bool(own) and any(file.name.startswith(f"{IMAGES}/") for file in rest)
    if not own:
        return folder, [(file, Loose(file.name, "", _word(file.name))) for file in rest]
    root = Folder.of(folder.at(IMAGES)) if apart else folder
    cut = len(IMAGES) + 1 if apart else 0
    masks = {posixpath.splitext(file.name[len(MASKS) + 1 :])[0]: ("../" if apart else "") + file.name for file in own}
    placed = [file._replace(name=file.name[cut:]) for file in rest if not apart or file.name.startswith(f"{IMAGES}/")]
    return root, [(f, Loose(f.name, "", _word(f.name), masks.get(posixpath.splitext(f.name)[0], ""))) for f in placed]


def _word(name: str) -> str:
    """The sub-folder that a file lies in, which may name a class."""
    first, inside, _ = name.partition("/")
    return first if inside else ""


def _of(by_suffix: dict[str, list[Stored]], suffixes: Iterable[str]) -> list[Stored]:
    found = [by_suffix[suffix] for suffix in dict.fromkeys(suffixes) if suffix in by_suffix]
    return found[0] if len(found) == 1 else sorted((file for files in found for file in files), key=lambda file: file.name.split("/"))


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _hidden(name: str, mark: str) -> bool:
    return name.startswith(mark) or f"/{mark}" in name


def _note(folder: Folder, files: Iterable[Stored]) -> None:
    """Nothing is written onto these (``disk.guard``)."""
    if folder.local is not None:
        reads(folder.local / file.name for file in files)


def merged(found: Discovered) -> Iterator[tuple[Folder, list[tuple[Stored, Loose]]]]:
    """Loose files by the folder that they are read from, each once, sorted: all below one folder, where they lie on this disk."""
    groups = list(found.loose.items())
    locals_ = [folder.local for folder, _ in groups if folder.local is not None]
    if len(locals_) > 1:
        top = Path(os.path.commonpath(locals_))
        below = {folder: folder.local.relative_to(top).as_posix() for folder, _ in groups if folder.local is not None}
        groups = [(folder, files) for folder, files in groups if folder.local is None]
        moved = [_moved(one, "" if at == "." else f"{at}/") for folder, at in below.items() for one in found.loose[folder]]
        groups.insert(0, (Folder.of(top), moved))
    for folder, files in groups:
        once = {file.name: (file, loose) for file, loose in reversed(files)}
        ordered = [once[name] for name in sorted(once, key=lambda name: name.split("/"))]
        at = "" if folder.place == found.top else f"{folder.place}/"  # else every file is called by its name there
        yield folder, [(file, _called(found, at, loose)) for file, loose in ordered]


def _moved(one: tuple[Stored, Loose], at: str) -> tuple[Stored, Loose]:
    file, loose = one
    mask = posixpath.normpath(at + loose.mask) if loose.mask else ""
    return file._replace(name=at + file.name), loose._replace(name=at + loose.name, mask=mask)


def _called(found: Discovered, at: str, loose: Loose) -> Loose:
    """With its id, where that is not its name."""
    if not at and loose.name.isascii() and "\\" not in loose.name:
        return loose
    called = found.called(at + loose.name) if at else whole_text(loose.name)
    return loose if called == loose.name else loose._replace(id=called)
