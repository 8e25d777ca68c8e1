"""A Ray that is started for one run: closed to others, silent, and gone afterwards, however the run ends. In processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.test_fleet_ray import ROOT, did, marked, until

pytestmark = pytest.mark.ray

PRIVATE = """
import json, os, signal, sys
from pathlib import Path
from onnxsal.fleet.cluster import Cluster
from onnxsal.fleet.ray import on_ray
from tests.ray_stand_ins import Opened, Receipt, listening, shards

def told(receipt):
    print("told", receipt.shard, *listening(), flush=True)

folder, kept = Path(sys.argv[1]), dict(os.environ)
if len(sys.argv) > 3:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
for todo in json.loads(sys.argv[2]):
    try:
        on_ray(Opened(folder), shards(**todo), Cluster(cpus=1), told, Receipt)
    except (KeyboardInterrupt, SystemExit) as stopped:
        print(repr(stopped), *kept.items() ^ os.environ.items(), flush=True)
        sys.stdin.readline()
"""


NOT_NEEDED = ("dashboard.py", "monitor.py")
"""Processes of Ray that carry no work."""


def command_line(pid: int) -> str:
    """What a process was started with, or its title."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@contextlib.contextmanager
def private(folder: Path, *todo: dict[str, Any], handles: bool = False) -> Iterator[tuple[subprocess.Popen[str], Callable[[], list[int]]]]:
    """A process with a private Ray of its own, and what of it still runs."""
    short = Path(f"/tmp/ox{os.getpid()}")
    short.mkdir()
    mark = f"ONNXSAL_MARK={folder}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}  # what other tests left of another Ray
    env = {**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(short), "ONNXSAL_MARK": str(folder)}
    command = [sys.executable, "-c", PRIVATE, str(folder), json.dumps(todo), *["handles"] * handles]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # who runs tests in the background has it ignored
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=err, env=env, text=True, start_new_session=True, preexec_fn=heard
        )
        try:
            yield process, lambda: marked(mark)
            until(lambda: not list(short.glob("onnxsal-*")), 10)
        finally:
            process.stdin.close()
            process.kill()
            process.wait()
            shutil.rmtree(short)


def interrupt(process: subprocess.Popen[str], number: int, alive: Callable[[], list[int]]) -> None:
    """Send a signal, Ctrl-C to the whole group as a terminal does, and see that only the process itself is left, soon."""
    begin = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    until(lambda: alive() == [process.pid])
    print(f"{signal.Signals(number).name}: {time.monotonic() - begin:.1f} s")


def test_a_private_ray_is_closed_to_others_silent_and_leaves_nothing(tmp_path: Path):
    """When it ends with a signal while workers work, and when it is the second of a process."""
    out, err = tmp_path / "out", tmp_path / "err"
    with private(tmp_path, {"number": 4, "s1": "warn", "s2": "once", "s3": "sleep"}, {"number": 1, "s0": "sleep"}) as (process, alive):
        until(lambda: out.read_text().count("told") == 3 and "s3" in did(tmp_path))
        assert not [line for line in map(command_line, alive()) if any(word in line for word in NOT_NEEDED)]
        interrupt(process, signal.SIGTERM, alive)
        until(lambda: "KeyboardInterrupt()\n" in out.read_text(), 10)
        *told, _ = out.read_text().splitlines()
        (tmp_path / "did").unlink()
        process.stdin.write("\n")
        process.stdin.flush()
        until((tmp_path / "did").exists)
        interrupt(process, signal.SIGINT, alive)
        until(lambda: out.read_text().count("KeyboardInterrupt()\n") == 2, 10)
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert {line.split()[1] for line in told} == {"s0", "s1", "s2"}
    assert all(set(line.split()[2:]) <= loopback and line.split()[2:] for line in told)
    assert out.read_text().splitlines()[3:] == ["KeyboardInterrupt()"] * 2
    warned = [line.strip() for line in err.read_text().splitlines()]
    assert [line.partition("Warning: ")[2] for line in warned[:1]] == ["drawn without a seed"]
    assert warned[1:] == ["warnings.warn(what[1], what[0], stacklevel=1)"]


def test_a_private_ray_is_stopped_while_it_starts(tmp_path: Path):
    """And the program's own handler of SIGTERM has the last word."""
    with private(tmp_path, {"number": 1, "s0": "sleep"}, handles=True) as (process, alive):
        until(lambda: len(alive()) > 2)
        interrupt(process, signal.SIGTERM, alive)
        until(lambda: (tmp_path / "out").read_text() == "SystemExit(143)\n")
    assert (tmp_path / "err").read_text() == ""
    assert not (tmp_path / "did").exists()
