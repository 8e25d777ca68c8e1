"""Temporary folders that do not outlive their process: a signal waits until they are gone, and what a killed process left is removed.

The name of a folder says which process made it: ``.onnxsal-<host>-<boot>-<processes>-<pid>-<start>-<random>``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import tempfile
import threading
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = ".onnxsal-"

STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process at once, before it can tidy up. (SIGINT raises ``KeyboardInterrupt``, which tidies up.)"""


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder in ``parent`` (that of the system, if ``None``) that is gone after the block.

    First removes what killed processes left there.
    """
    where = Path(tempfile.gettempdir()) if parent is None else parent
    _sweep_once(where)
    with _signals_wait(), tempfile.TemporaryDirectory(dir=where, prefix=f"{PREFIX}{_own()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A signal that ends the process does so after the block, with the status that it would have had."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPPING}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if came:
            os.kill(os.getpid(), came[0])


# ----- what killed processes left -----


class Maker(NamedTuple):
    """Which process made a folder: machine, its start, the process's number space, its number and its start."""

    host: str
    boot: str
    space: str
    pid: str
    start: str

    def __str__(self) -> str:
        return "-".join(self)


def _own() -> Maker:
    return Maker(_host(), _boot(), _space(), str(os.getpid()), _start(os.getpid()) or "0")


@cache
def _host() -> str:
    """Names this machine: by its identity, its network card where it has none, and its name."""
    identity = _line("/etc/machine-id") or f"{uuid.getnode():x}"
    return _short(f"{identity} {os.uname().nodename if hasattr(os, 'uname') else os.environ.get('COMPUTERNAME', '')}")


@cache
def _boot() -> str:
    return _short(_line("/proc/sys/kernel/random/boot_id"))


@cache
def _space() -> str:
    """Processes of two containers may have one number: this tells the containers apart."""
    with contextlib.suppress(OSError):
        return str(os.stat("/proc/self/ns/pid").st_ino)
    return "0"


def _start(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; ``None`` where there is no such process."""
    text = _line(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split()[19] if text else None


def _line(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def is_left(name: str, changed: float) -> bool:
    """Whether a folder of this name, ``changed`` at that time, is one that a process of this machine made which is no more."""
    parts = name.removeprefix(PREFIX).split("-")
    if not name.startswith(PREFIX) or len(parts) != len(Maker._fields) + 1 or not Path("/proc/self/stat").exists():
        return False
    maker, own = Maker(*parts[:-1]), _own()
    if maker.host != own.host or not maker.pid.isdecimal():
        return False
    if maker.boot != own.boot:
        return changed < _boot_time()  # another machine of that name would have changed it since
    return maker.space == own.space and _start(int(maker.pid)) != maker.start


def _boot_time() -> float:
    for line in _line("/proc/stat").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


_SWEPT: set[tuple[int, int]] = set()
"""Folders that were looked through in this process."""


def _sweep_once(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in _SWEPT:
            return
        _SWEPT.add((place.st_dev, place.st_ino))
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name.startswith(PREFIX)]
        for entry in found:
            about: Any = entry.stat(follow_symlinks=False)
            mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
            if stat.S_ISDIR(about.st_mode) and mine and is_left(entry.name, about.st_mtime):
                shutil.rmtree(entry.path, ignore_errors=True)
