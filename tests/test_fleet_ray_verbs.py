"""The verbs on a Ray that runs: the same bits as without it, whatever is killed, and whoever decodes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_fleet_ray import running
from tests.test_fleet_run import KEPT, explain, files, here, ran

__all__ = ["here", "running"]

pytestmark = pytest.mark.ray


def workers() -> list[int]:
    """The processes of the running Ray that hold a worker; another one on this machine is left alone."""
    mark = os.environ["RAY_AUTH_TOKEN"].encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                ours = (folder / "cmdline").read_bytes().startswith(b"ray::RemoteWorker") and mark in (folder / "environ").read_bytes()
                found += [int(folder.name)] if ours else []
            except OSError:
                continue
    return found


def test_decoded_apart_every_bit_is_the_same(running: str, here: Path, tmp_path: Path):
    all_drawn = ("--sample", 1000)  # nothing is added afterwards, which takes another worker
    explain(here, tmp_path / "plain", "--shard", "1/1", *all_drawn)
    explain(here, tmp_path / "out", "--on", "ray", "--address", running, "--workers", 1, "--decode-workers", 1, *all_drawn)
    assert files(tmp_path / "out", *KEPT) == files(tmp_path / "plain", *KEPT)


def test_evaluate_decodes_nothing_apart(running: str, here: Path, tmp_path: Path):
    words = ("evaluate", here / "net.onnx", here / "data", "--methods", "gradient", "--metrics", "deletion", "-o", tmp_path / "out")
    done = ran(*words, "--on", "ray", "--address", running, "--workers", 1, "--decode-workers", 1, status=2)
    assert "evaluate decodes nothing apart" in " ".join(done.stderr.split())


def test_on_ray_every_bit_is_the_same_where_a_worker_is_killed_too(running: str, here: Path, tmp_path: Path):
    """kill -9 at a moment that nobody chose, while 60 pictures go through shards of 10; then samples are added to the drawn ones."""
    rng = np.random.default_rng(0)
    for i in range(60):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "data" / f"{i:03}.png")
    words = ("explain", here / "net.onnx", tmp_path / "data", "-m", "ig", "--n-steps", 20, "--shard-rows", 10, "--batch-size", 1)
    words += ("--sample", 8)
    ran(*words, "-o", tmp_path / "plain", "--shard", "1/1")
    killed, over = list[int](), threading.Event()

    def kill() -> None:
        while not over.is_set() and len(killed) < 1:
            there = len(list((tmp_path / "out" / "sums").glob("*.json"))) if (tmp_path / "out" / "sums").exists() else 0
            alive = workers()
            if alive and there > 1:
                os.kill(alive[int(rng.integers(len(alive)))], signal.SIGKILL)
                killed.append(there)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = ran(*words, "-o", tmp_path / "out", "--on", "ray", "--address", running, "--workers", 2)
    finally:
        over.set()
        killer.join()
    assert killed
    assert "added to those that were drawn" in " ".join(done.stderr.split())
    assert files(tmp_path / "out", *KEPT) == files(tmp_path / "plain", *KEPT)
