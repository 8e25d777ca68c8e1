"""Folders on this disk and on remote file systems: the same verbs, whole files or none, and one clear error."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import fsspec
import pytest
from pyarrow.fs import LocalFileSystem

from onnxsal.disk import guard
from onnxsal.errors import InputError, OutputError
from onnxsal.fleet import folders
from onnxsal.fleet.folders import TEMPORARY, Folder, Remote, file_at
from tests.fleet_data import in_memory

NAMES = ["b.bin", "a-b/x", "a/b/deep", "a/ä ö", "a/100%25 #?", "sums/0f.json"]


def places(tmp_path: Path) -> dict[str, Folder]:
    return {
        "path": Folder.of(tmp_path / "a folder"),
        "file": Folder.of((tmp_path / "another #1").as_uri()),
        "memory": Folder.of(in_memory(tmp_path)),
    }


@pytest.fixture(params=["path", "file", "memory", "arrow"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder of each kind; "arrow" stands for the remote systems that pyarrow itself knows."""
    if request.param != "arrow":
        return places(tmp_path)[request.param]
    monkeypatch.setattr(
        folders, "_opened", lambda uri, _: Remote(LocalFileSystem(), unquote(uri.removeprefix("arrow://").partition("?")[0]))
    )
    return Folder.of(f"arrow://{tmp_path}/there?region=x")


def test_what_is_written_is_read_and_listed(folder: Folder):
    assert folder.files() == []
    assert not folder.exists("b.bin")
    names = [name for name in NAMES if "memory" not in folder.uri or "#" not in name]
    for i, name in enumerate(names):
        folder.write(name, b"first and longer")
        folder.write(name, bytes([i]) * i)
    found = folder.files()
    assert [file.name for file in found] == [Path(p).as_posix() for p in sorted(map(Path, names))], "as Path sorts: folder by folder"
    for i, name in enumerate(names):
        assert folder.read(name) == bytes([i]) * i
        assert folder.exists(name)
        assert folder.stored(name) == next(file for file in found if file.name == name)
        assert next(file.size for file in found if file.name == name) == i
        with folder.open(name) as file:
            file.seek(i // 2)
            assert file.read() == bytes([i]) * (i - i // 2)
        above, own = file_at(folder.at(name))
        assert above.read(own) == folder.read(name)
    assert [file.name for file in folder.files("a")] == [file.name for file in found if file.name.startswith("a/")]
    assert not folder.exists("a"), "a folder is no file"
    assert Folder.of(folder.uri) == folder
    assert Folder.of(folder.uri).read("b.bin") == folder.read("b.bin")
    folder.remove("b.bin")
    folder.remove("b.bin")
    assert not folder.exists("b.bin")
    assert len(folder.files()) == len(names) - 1


def test_a_stamp_changes_when_a_file_does(folder: Folder, tmp_path: Path):
    folder.write("x", b"1")
    before = folder.stored("x")
    assert folder.stored("x") == before
    folder.write("x", b"2")
    if "memory" not in folder.uri:
        (file,) = tmp_path.rglob("x")
        os.utime(file, ns=(0, int(before.stamp) + 1))
    after = folder.stored("x")
    assert before.size == after.size
    assert before.stamp != after.stamp


def test_a_uri_does_not_depend_on_where_a_path_was_given_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    from_above = Folder.of("sub/../data")
    monkeypatch.chdir(tmp_path / "sub")
    assert Folder.of("../data/").uri == from_above.uri == Folder.of(tmp_path / "data").uri == (tmp_path / "data").as_uri()
    assert from_above.local == tmp_path / "data"


def test_names_that_are_not_utf8(tmp_path: Path):
    with open(os.fsencode(tmp_path) + b"/p\xff", "wb") as file:
        file.write(b"1")
    folder = Folder.of(tmp_path)
    (found,) = folder.files()
    assert folder.read(found.name) == b"1"
    above, name = file_at(folder.at(found.name))
    assert above.read(name) == b"1"


# ----- whole or not at all -----


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str):
    folder = Folder.of(tmp_path / "out")
    folder.write("sums/a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(folders.os, fails, full)
        for name in ("sums/a", "sums/b"):
            with pytest.raises(OutputError, match=r"No space left on device.*Nothing was left behind"):
                folder.write(name, b"new")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a"]
    assert folder.read("sums/a") == b"old"


def test_a_disk_that_is_really_full(tmp_path: Path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        folder = Folder.of(tmp_path)
        folder.write("a", bytes(8192))
        with pytest.raises(OutputError, match="No space left"):
            folder.write("b", bytes(200_000))
        assert os.listdir(tmp_path) == ["a"]
        folder.write("c", bytes(8192))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("fails", ["pipe_file", "mv"])
def test_a_remote_system_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str):
    folder = places(tmp_path)["memory"]
    folder.write("a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(fsspec.implementations.memory.MemoryFileSystem, fails, full)
        with pytest.raises(OutputError, match="No space left"):
            folder.write("a", b"new")
    assert [(file.name, file.size) for file in folder.files()] == [("a", 3)]
    assert not [name for name in folders._remote(folder.uri).inner.find("/") if TEMPORARY in name]
    assert folder.read("a") == b"old"


@pytest.mark.parametrize("store", [False, True])
def test_another_name_first_where_there_is_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: bool):
    folder, put = places(tmp_path)["memory"], []
    own = fsspec.implementations.memory.MemoryFileSystem.pipe_file

    def pipe_file(self: object, path: str, value: bytes, **more: object) -> None:
        put.append(path.rpartition("/")[2])
        own(self, path, value, **more)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "pipe_file", pipe_file)
    monkeypatch.setattr(folders, "OBJECT_STORES", {"memory"} if store else set())
    folder.write("sub/a", b"1")
    assert folder.read("sub/a") == b"1"
    assert len(put) == 1
    assert put[0] == "a" if store else put[0].startswith(TEMPORARY)


def test_what_is_not_whole_yet_is_not_listed(folder: Folder):
    folder.write("sums/a", b"1")
    folder.write(f"sums/{TEMPORARY}0f", b"2")
    assert [file.name for file in folder.files()] == ["sums/a"]


def test_writers_of_one_name_never_mix(tmp_path: Path):
    folder, parts = Folder.of(tmp_path), [bytes([i]) * 50_000 for i in range(4)]
    threads = [threading.Thread(target=lambda d=d: [folder.write("x", d) for _ in range(5)]) for d in parts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not folder.exists("x") or folder.read("x") in parts
    assert os.listdir(tmp_path) == ["x"]


def test_an_input_is_neither_written_over_nor_removed(tmp_path: Path):
    folder = Folder.of(tmp_path)
    folder.write("given", b"1")
    with guard():
        folder.read("given")
        folder.write("made", b"2")
        folder.read("made")
        folder.write("made", b"3")
        for act in (lambda: folder.write("given", b"2"), lambda: folder.remove("given")):
            with pytest.raises(OutputError, match="never overwritten"):
                act()
    assert folder.read("given") == b"1"


# ----- errors -----


def test_a_missing_file(folder: Folder):
    for read in (folder.read, folder.open):
        with pytest.raises(InputError, match=r"nothing/here' cannot be read: No such file or directory\."):
            read("nothing/here")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    folder = Folder.of(tmp_path)
    assert folder.files() == []
    with pytest.raises(InputError, match="FIFO"):
        folder.read("pipe")


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(folders.os, "scandir", refused)
    with pytest.raises(InputError, match="Permission denied"):
        Folder.of(tmp_path).files()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Folder.of(""), "is no folder"),
        (lambda: Folder.of("a\0b"), "is no folder"),
        (lambda: Folder.of("file://elsewhere/x"), "names the machine 'elsewhere'"),
        (lambda: Folder.of("nobody://x").files(), "neither pyarrow nor fsspec knows nobody://"),
        (lambda: file_at("s3://bucket"), "names no file"),
    ],
)
def test_what_is_no_place(act: Callable[[], object], message: str):
    with pytest.raises(InputError, match=message):
        act()


def test_without_fsspec_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "has", lambda name: False)
    with pytest.raises(InputError, match=r"no scheme lonely://.*pip install fsspec"):
        Folder.of("lonely://x").files()


def test_how_a_remote_system_is_reached_stays_with_its_files():
    folder = Folder.of("s3://bucket/a/b?region=x")
    assert folder.at("c/d e.png") == "s3://bucket/a/b/c/d%20e.png?region=x"
    assert folder.place == "s3://bucket/a/b"
