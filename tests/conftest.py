"""Each of several test processes has a core of its own: threads of ONNX Runtime that wait for each other's cores cost minutes."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")):
            os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
