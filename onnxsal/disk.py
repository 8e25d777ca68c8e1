"""Files of other people: only regular ones are read, none that is read or foreign is written over, and nothing half-made stays.

with guard():                        # a command
    data = read_bytes(path)          # noted: nothing is written onto this file from here on
    with replacing(out) as partial:  # refused where it is an input, or where somebody else wrote it
        partial.write_bytes(data)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

from onnxsal.errors import OutputError
from onnxsal.litter import temporary_folder
from onnxsal.untrusted import whole_text

Name: TypeAlias = str | os.PathLike[str]

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}

MARKS = (
    b"Software\0onnxsal",
    b'name="generator" content="onnxsal',
    b'\n  "onnxsal": "',
    b"<dc:title>onnxsal",
    b"onnxsal.version",
    b"// onnxsal-data",
    b"onnxsal-arrays",
)
"""What a file of ours says of itself: a picture, a page, a JSON, an SVG, a model, an archive of arrays."""

ARCHIVE_MARK = MARKS[-1]
"""The comment of an archive that onnxsal wrote."""

WRITTEN = "sha256"
"""The key under which a JSON of ours keeps the hashes of the files beside it that cannot say whose they are (CSV, .npy, Parquet)."""


# ----- reading -----


def open_regular(path: Name) -> BufferedReader:
    """A regular file, open for reading; a guard notes that it was read.

    Raises ``OSError`` for anything else (FIFO, device, socket, folder), without waiting for it, and for a name that no file can have.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, f"{error}, which no file name has", path) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is a socket or a device, and only regular files are read", path) from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, f"it is {_kind(found)}, and only regular files are read", path)
    _note(found)
    return os.fdopen(descriptor, "rb")


def _kind(found: os.stat_result) -> str:
    return KINDS.get(stat.S_IFMT(found.st_mode), "no file")


def regular(path: Name) -> Path:
    """The path of a regular file, for libraries that open it themselves. Raises ``OSError`` as ``open_regular``."""
    open_regular(path).close()
    return Path(path)


def read_bytes(path: Name) -> bytes:
    """All of a regular file. Raises ``OSError``."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Name, encoding: str = "utf-8-sig") -> str:
    """All of a regular file as text with the line breaks of Python. Raises ``OSError`` and ``UnicodeDecodeError``."""
    return read_bytes(path).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


# ----- what a command must not write onto -----


@dataclass
class Guard:
    """What a command reads, by device and inode, so that links and other spellings of a name are the same file."""

    inputs: set[tuple[int, int]] = field(default_factory=set)
    written: set[tuple[int, int]] = field(default_factory=set)
    named: set[str] = field(default_factory=set)


_GUARDS: list[Guard] = []


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Within the block nothing is written onto a file that was read or named by ``reads``, nor onto one that onnxsal did not write."""
    _GUARDS.append(Guard())
    try:
        yield
    finally:
        _GUARDS.pop()


def reads(paths: Iterable[Name]) -> None:
    """Name files that will be read."""
    if _GUARDS:
        for path in paths:
            with contextlib.suppress(OSError, ValueError):  # one that is not there cannot be lost
                _note(os.stat(path))


def _note(found: os.stat_result) -> None:
    if _GUARDS and stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in _GUARDS[-1].written:
        _GUARDS[-1].inputs.add((found.st_dev, found.st_ino))


def refuse_input(path: Name) -> os.stat_result | None:
    """What is there, if anything. Raises ``OutputError`` where it is no regular file or, within ``guard``, an input of the command."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"'{path}' cannot be written: {getattr(error, 'strerror', None) or error}. Nothing was left behind.") from error
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"'{path}' cannot be written: it is {_kind(found)}. Nothing was left behind.")
    if _GUARDS and (found.st_dev, found.st_ino) in _GUARDS[-1].inputs:
        raise OutputError(f"'{path}' is a file that this command reads, or a link to one, which is never overwritten. Give another name.")
    return found


def replaces(path: Name) -> None:
    """The user names this very file to be written, so whatever it holds may be replaced. Raises ``OutputError`` where it is an input."""
    refuse_input(path)
    if _GUARDS:
        _GUARDS[-1].named.add(os.path.abspath(path))


def refuse_loss(path: Name, listed_in: Name | None = None, data: bytes | None = None) -> None:
    """Raise ``OutputError`` where writing ``path`` would lose something.

    That is: it is no regular file; or, within ``guard``, it is an input of the command, or is there and onnxsal did not write it. What
    onnxsal wrote says so itself (``MARKS``), or its hash stands in the JSON ``listed_in``. An empty file, or one that holds ``data``
    already, is no loss.
    """
    found = refuse_input(path)
    if found is None or not _GUARDS or os.path.abspath(path) in _GUARDS[-1].named:
        return
    identity = found.st_dev, found.st_ino
    if found.st_size and identity not in _GUARDS[-1].written and not _is_ours(path, listed_in, data):
        raise OutputError(
            f"'{path}' is there already, and is not as onnxsal wrote it, so it is not overwritten. Name another place, or remove it."
        )


def _is_ours(path: Name, listed_in: Name | None, data: bytes | None) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if listed_in is None and any(content.find(mark) >= 0 for mark in MARKS):
            return True
        if data is not None and len(content) == len(data) and content[:] == data:
            return True
        return listed_in is not None and sha256(content) in hashes_in(listed_in).get(whole_text(Path(path).name), "").split()


def hashes_in(path: Name) -> dict[str, str]:
    """The hashes of the files beside a JSON that onnxsal wrote, by name; of any other file none."""
    try:
        kept = json.loads(Path(path).read_bytes())
        return {str(k): str(v) for k, v in kept[WRITTEN].items()} if "onnxsal" in kept else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def sha256(content: bytes | mmap.mmap) -> str:
    """SHA-256 of what a file holds."""
    return hashlib.sha256(content).hexdigest()


# ----- writing -----


@contextlib.contextmanager
def replacing(path: Name, listed_in: Name | None = None, data: bytes | None = None) -> Iterator[Path]:
    """A name in a temporary folder, to be written within the block; then it takes the place of ``path``, whole or not at all.

    Makes the folder. Raises ``OutputError``, also where something would be lost (``refuse_loss``).
    """
    target = Path(path)
    refuse_loss(target, listed_in, data)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent) as folder:
            yield folder / target.name
            place(folder / target.name, target)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error.strerror or error}. Nothing was left behind.") from error


def place(partial: Path, target: Path) -> None:
    """Put a finished file where it belongs, and note that it is ours."""
    os.replace(partial, target)
    keeps(target)


def keeps(path: Path) -> None:
    """Note a file that the command writes, though it may read it again: what it made, or its own state."""
    if _GUARDS:
        found = os.stat(path)
        _GUARDS[-1].written.add((found.st_dev, found.st_ino))


def remove_own(path: Name) -> None:
    """Remove a file that an earlier run left, if it is there. Raises ``OutputError`` where it is not ours, or an input."""
    refuse_loss(path)
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be removed: {error.strerror or error}.") from error
