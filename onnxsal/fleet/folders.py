"""Folders that are read and written by the shard: on this machine, or on a remote file system, by the same few verbs.

out = Folder.of("s3://bucket/out")     # or "out", "file:///mnt/out", "memory://out" (a scheme that fsspec knows)
out.write("sums/0f3a.json", data)      # whole or not at all
[file.name for file in out.files("sums")]

What lies on this machine needs no library. pyarrow opens the remote file systems that it knows, fsspec the others, where it is installed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from onnxsal.disk import keeps, open_regular, read_bytes, refuse_input
from onnxsal.errors import InputError, OnnxsalError, OutputError
from onnxsal.runtime.libraries import has, library

TEMPORARY = ".tmp-"
"""What the names of files that are not whole yet begin with; no listing names them."""

OBJECT_STORES = frozenset({"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "adl", "oss", "http", "https", "hf"})
"""Kinds of file systems that have no rename, and in which a file that is written is there once it is whole."""

STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modificationTime", "created", "modified")
"""What file systems of fsspec call that by which a change is known."""


class Stored(NamedTuple):
    """A file: its ``name`` below the folder, with /; its ``size`` in bytes; a ``stamp`` that changes when it is written again (its time,
    or its etag; '' where the file system tells neither).
    """

    name: str
    size: int
    stamp: str


class Remote(NamedTuple):
    """A remote file system of pyarrow, and where the folder is in it; ``inner`` is that of fsspec, where it is one."""

    system: Any
    path: str
    inner: Any = None


class Folder:
    """A folder, which need not be there yet. ``uri`` is absolute: ``Folder.of(uri)`` is the same one, also on another machine where it
    can be reached from there. ``local`` is where it is on this disk, ``None`` of a remote one.
    """

    def __init__(self, uri: str, local: Path | None) -> None:
        self.uri, self.local = uri, local

    @classmethod
    def of(cls, where: str | os.PathLike[str]) -> Folder:
        """The folder at a path or a URI. Raises ``InputError`` for what is neither."""
        text = os.fspath(where)
        if not isinstance(text, str) or not text or "\0" in text:
            raise InputError(f"{where!r} is no folder: give a path, or a URI such as s3://bucket/folder.")
        if "://" not in text:
            return cls._on_disk(Path(os.path.abspath(text)))
        parts = urlsplit(text)
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost"):
                raise InputError(f"'{text}' names the machine '{parts.netloc}': file:///path is on this one.")
            path = os.fsdecode(unquote_to_bytes(parts.path))
            return cls._on_disk(Path(os.path.abspath(path[1:] if os.name == "nt" else path)))
        base, query = _halves(text)
        return cls(base.rstrip("/") + query, None)

    @classmethod
    def _on_disk(cls, path: Path) -> Folder:
        return cls(path.as_uri(), path)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    @property
    def place(self) -> str:
        """Where it is, for people and to be compared: a path with /, or the URI without what follows a question mark."""
        return _halves(self.uri)[0] if self.local is None else self.local.as_posix()

    def at(self, name: str) -> str:
        """The URI of something below it."""
        if self.local is not None:
            return (self.local / name).as_uri()
        base, query = _halves(self.uri)
        return f"{base}/{name if _remote(self.uri).inner is not None else quote(name)}{query}"

    # ----- reading -----

    def files(self, below: str = "") -> list[Stored]:
        """Every file in it and below, or below one of its folders, sorted by name folder by folder; none where it is not there.

        Files that are not whole yet are left out; links to folders are not followed. Raises ``InputError`` where it cannot be listed.
        """
        with _reading(f"folder '{self.at(below) if below else self.uri}'"):
            found = self._files_remote(below) if self.local is None else list(_on_disk(self.local, below))
        kept = [file for file in found if not file.name.rpartition("/")[2].startswith(TEMPORARY)]
        return sorted(kept, key=lambda file: file.name.split("/"))

    def _files_remote(self, below: str) -> list[Stored]:
        there = _remote(self.uri)
        where = _joined(there.path, below)
        if there.inner is not None:
            try:
                told = there.inner.find(where, detail=True)
            except FileNotFoundError:
                return []
            told = {k: v for k, v in told.items() if v.get("type", "file") == "file" and k.strip("/") != where.strip("/")}
            return [Stored(_below(path, there.path), int(v.get("size") or 0), _stamp(v)) for path, v in told.items()]
        fs = library("pyarrow.fs")
        infos = there.system.get_file_info(fs.FileSelector(where, recursive=True, allow_not_found=True))
        kept = [info for info in infos if info.type == fs.FileType.File]
        return [Stored(_below(i.path, there.path), int(i.size or 0), str(i.mtime_ns or "")) for i in kept]

    def stored(self, name: str) -> Stored | None:
        """What is known of one file without reading it; ``None`` where there is none."""
        with _reading(f"'{self.at(name)}'"):
            if self.local is not None:
                try:
                    about = os.stat(self.local / name)
                except (FileNotFoundError, NotADirectoryError):
                    return None
                return Stored(name, about.st_size, str(about.st_mtime_ns)) if not os.path.isdir(self.local / name) else None
            there = _remote(self.uri)
            if there.inner is not None:
                try:
                    told = there.inner.info(_joined(there.path, name))
                except FileNotFoundError:
                    return None
                return Stored(name, int(told.get("size") or 0), _stamp(told)) if told.get("type", "file") == "file" else None
            info = there.system.get_file_info(_joined(there.path, name))
            is_file = info.type == library("pyarrow.fs").FileType.File
            return Stored(name, int(info.size or 0), str(info.mtime_ns or "")) if is_file else None

    def exists(self, name: str) -> bool:
        """Whether a file of that name is there."""
        return self.stored(name) is not None

    def read(self, name: str, ours: bool = False) -> bytes:
        """All of a file; one of ``ours`` is no input of a command, and may be written again. Raises ``InputError``."""
        with _reading(f"'{self._said(name)}'"):
            if self.local is not None:
                if ours:
                    keeps(self.local / name)
                return read_bytes(self.local / name)
            there = _remote(self.uri)
            with there.system.open_input_stream(_joined(there.path, name)) as file:
                return bytes(file.read())

    def open(self, name: str) -> Any:
        """A file, open to be read at any place in it (a ``NativeFile`` of pyarrow). Raises ``InputError``."""
        with _reading(f"'{self._said(name)}'"):
            if self.local is not None:
                return library("pyarrow").PythonFile(open_regular(self.local / name), mode="r")
            there = _remote(self.uri)
            return there.system.open_input_file(_joined(there.path, name))

    def _said(self, name: str) -> str:
        return f"{self.place}/{name}"

    # ----- writing -----

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, in the place of one that is there; makes the folders above it.

        Where there is a rename, it is written under another name first (``TEMPORARY``), on a disk down to the disk itself; an object store
        is given it in one piece. Raises ``OutputError``, also where the file is one that this command reads.
        """
        try:
            if self.local is not None:
                _write_on_disk(self.local / name, data)
            else:
                _write_remote(_remote(self.uri), name, data)
        except OnnxsalError:
            raise
        except Exception as error:  # those of remote file systems share no base class
            raise OutputError(f"'{self._said(name)}' cannot be written: {_why(error)}. Nothing was left behind.") from error

    def sweep(self, seconds: float = 3600) -> None:
        """Remove what a process that was killed left half written here: what is older than so many seconds. Of a remote place nothing."""
        for file in [] if self.local is None else self.local.rglob(f"{TEMPORARY}*"):
            with contextlib.suppress(OSError):  # it is gone already, or another's: it is in nobody's way
                if time.time() - file.stat().st_mtime > seconds:
                    file.unlink()

    def remove(self, name: str) -> None:
        """Remove a file, where it is there. Raises ``OutputError``, also where it is one that this command reads."""
        try:
            if self.local is not None:
                refuse_input(self.local / name)
                (self.local / name).unlink(missing_ok=True)
            elif self.exists(name):
                there = _remote(self.uri)
                there.system.delete_file(_joined(there.path, name))
        except OnnxsalError:
            raise
        except Exception as error:
            raise OutputError(f"'{self._said(name)}' cannot be removed: {_why(error)}.") from error


def file_at(where: str | os.PathLike[str]) -> tuple[Folder, str]:
    """The folder that a file at a path or a URI lies in, and its name there. Raises ``InputError`` for what cannot be a file."""
    whole = Folder.of(where)
    if whole.local is not None:
        return Folder.of(whole.local.parent), whole.local.name
    base, query = _halves(whole.uri)
    above, _, name = base.rpartition("/")
    if not name or above.endswith(("/", ":")):
        raise InputError(f"'{whole.uri}' names no file: a folder stands before its name, as in s3://bucket/file.")
    folder = Folder.of(above + query)
    return folder, name if _remote(folder.uri).inner is not None else os.fsdecode(unquote_to_bytes(name))


# ----- on this disk -----


def _on_disk(top: Path, below: str) -> Iterator[Stored]:
    """Every file below, in no order; one that vanishes while it is looked at is none."""
    start = len(str(top)) + (not str(top).endswith(os.sep))
    todo = [str(top / below) if below else str(top)]
    while todo:
        try:
            entries = os.scandir(todo.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.is_file():
                        about = entry.stat()
                        yield Stored(entry.path[start:].replace(os.sep, "/"), about.st_size, str(about.st_mtime_ns))


def _write_on_disk(target: Path, data: bytes) -> None:
    refuse_input(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a machine that loses its power may keep the new name of an empty file
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong is told, not that there is nothing to remove
            partial.unlink(missing_ok=True)
        raise
    keeps(target)
    if hasattr(os, "O_DIRECTORY"):  # the name itself; Windows has no such call
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# ----- on a remote file system -----


def _halves(uri: str) -> tuple[str, str]:
    """A URI before its question mark, and from there on: how its file system is reached. Of the web it belongs to the file's name."""
    if uri.startswith(("http://", "https://")):
        return uri, ""
    base, mark, query = uri.partition("?")
    return base, mark + query


def _remote(uri: str) -> Remote:
    return _opened(uri, os.getpid())


@lru_cache(maxsize=128)
def _opened(uri: str, process: int) -> Remote:
    """The file system of a URI, opened once in each process: what a fork inherits of a connection is of no use."""
    fs, scheme = library("pyarrow.fs"), urlsplit(uri).scheme
    try:
        system, path = fs.FileSystem.from_uri(quote(uri, safe="%/:?&=#@+,;!$'()*[]~"))
        return Remote(system, path.rstrip("/"))
    except Exception as error:
        if "nrecognized filesystem" not in str(error):
            raise InputError(f"'{uri}' cannot be opened: {_why(error)}.") from error
    if not has("fsspec"):
        raise InputError(f"'{uri}': pyarrow knows no scheme {scheme}://. Install fsspec and its package for it: pip install fsspec.")
    try:
        inner, path = library("fsspec.core").url_to_fs(uri)
    except Exception as error:
        raise InputError(f"'{uri}' cannot be opened: neither pyarrow nor fsspec knows {scheme}:// here ({_why(error)}).") from error
    return Remote(fs.PyFileSystem(fs.FSSpecHandler(inner)), path.rstrip("/"), inner)


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if name else path


def _below(path: str, top: str) -> str:
    return path.strip("/")[len(top.strip("/")) :].lstrip("/")


def _stamp(told: dict[str, Any]) -> str:
    found = next((told[key] for key in STAMPS if told.get(key)), "")
    return str(found.timestamp() if isinstance(found, datetime) else found)  # one system tells both, by what it is asked


def _write_remote(there: Remote, name: str, data: bytes) -> None:
    target = _joined(there.path, name)
    kinds = {there.system.type_name.removeprefix("py::fsspec+")}
    if there.inner is not None:
        protocol = there.inner.protocol
        kinds |= {protocol} if isinstance(protocol, str) else set(protocol)
    whole = bool(kinds & OBJECT_STORES)
    above = posixpath.dirname(target)
    if not whole:
        there.system.create_dir(above, recursive=True)
    first = target if whole else f"{above}/{TEMPORARY}{uuid.uuid4().hex}"
    try:
        if there.inner is not None:
            there.inner.pipe_file(first, data)
        else:
            with there.system.open_output_stream(first) as file:
                file.write(data)
        if first != target:
            there.system.move(first, target)
    except BaseException:
        if first != target:
            with contextlib.suppress(Exception):
                there.system.delete_file(first)
        raise


# ----- errors -----


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Makes whatever a file system raises our error."""
    try:
        yield
    except OnnxsalError:
        raise
    except Exception as error:  # those of remote file systems share no base class
        raise InputError(f"{what} cannot be read: {_why(error)}.") from error


def _why(error: Exception) -> str:
    """An error of a file system in one line."""
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__) if isinstance(error, OSError) else str(error)
    return " ".join(str(text or type(error).__name__).split())[:300].rstrip(".")
