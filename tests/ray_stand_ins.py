"""Stand-ins for what is explained on Ray: workers that fail in every way. All processes of the tests import them, so they import little."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.errors import ProviderError


@dataclass(frozen=True)
class Shard:
    name: str
    does: str = ""
    begin: int = 0
    end: int = 10

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Shard:
        assert type(given) is dict
        assert all(isinstance(v, str | int | float) for v in given.values())
        return cls(**given)


@dataclass(frozen=True)
class Receipt:
    shard: str
    rows: int
    bad: int
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Opened:
    """Makes a worker, or fails to; notes what it and its worker do in a folder."""

    folder: Path
    fails: str = ""
    slow: float = 0.05

    def __call__(self) -> Worker:
        (self.folder / f"open-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        if self.fails == "error":
            raise ProviderError("CUDAExecutionProvider was asked for and not obtained")
        if self.fails == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        return Worker(self)


@dataclass
class Worker:
    opened: Opened

    def do(self, shard: Shard) -> Receipt:
        with (self.opened.folder / "did").open("a") as file:
            file.write(f"{shard.name} {os.getpid()}\n")
        ACTS.get(shard.does, lambda folder: None)(self.opened.folder)
        time.sleep(self.opened.slow)
        return Receipt(shard.name, 10, 0, self.opened.slow, "it vanished" * (shard.does == "vanished"))

    def do_block(self, block: dict[str, Any]) -> Receipt:
        """That what arrives is the whole of one block, as it was decoded."""
        name, begin, end = block["name"], block["begin"], block["end"]
        assert block["pixels"].shape == (end - begin, 112, 112, 3)
        assert block["pixels"].dtype == np.uint8
        assert (block["pixels"][:, 0, 0, 0] == np.arange(begin, end) % 251).all()
        assert block["ids"] == [f"{name}#{i}" for i in range(begin, end)]
        if begin == 256:
            ACTS.get(block["does"], lambda folder: None)(self.opened.folder)
        with (self.opened.folder / "did").open("a") as file:
            file.write(f"{name} {begin} {end} {os.getpid()} {block['by']}\n")
        return Receipt(f"{name}[{begin}:{end}]", end - begin, 0, 0)


@dataclass(frozen=True)
class Decoding:
    """Blocks of 256 rows, of 10 MB; the last is smaller."""

    folder: Path

    def __call__(self, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        shard = Shard.of(given)
        for begin in range(shard.begin, shard.end, 256):
            if begin == 256 and shard.does.startswith("decoding "):
                ACTS[shard.does.removeprefix("decoding ")](self.folder)
            rows = range(begin, min(begin + 256, shard.end))
            pixels = np.zeros((len(rows), 112, 112, 3), np.uint8)
            pixels += (np.array(rows) % 251).astype(np.uint8)[:, None, None, None]
            about = {"name": shard.name, "begin": rows.start, "end": rows.stop, "does": shard.does, "by": os.getpid()}
            yield {**about, "pixels": pixels, "ids": [f"{shard.name}#{i}" for i in rows]}


def once(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        (folder / "died").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)


def warn(folder: Path) -> None:
    warnings.warn("drawn without a seed", UserWarning, stacklevel=2)
    logging.getLogger("onnxsal.runtime").warning("a node runs on the CPU")
    print("noise of a library")
    print("noise of a library", file=sys.stderr)


def fault(folder: Path) -> None:
    raise ZeroDivisionError("a fault of ours")


ACTS: dict[str, Callable[[Path], object]] = {
    "kill": lambda folder: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda folder: os.kill(os.getpid(), signal.SIGSEGV),
    "once": once,
    "warn": warn,
    "fault": fault,
    "exit": lambda folder: sys.exit(3),
    "sleep": lambda folder: time.sleep(600),
}


def shards(number: int, **does: str) -> list[Shard]:
    """``number`` of them, of which those named s<i> do something else than the rest."""
    return [Shard(f"s{i}", does.get(f"s{i}", "")) for i in range(number)]


def listening() -> list[str]:
    """The addresses, in hexadecimal, at which a descendant of this process listens."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    sockets = set()
    for pid in ours:
        with contextlib.suppress(OSError):
            sockets |= {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return sorted({row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets})
