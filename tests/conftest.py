"""Each worker of the test run keeps to a core of its own: two workers whose sessions each spread over both cores hinder one another."""

import os
import re


def pytest_configure() -> None:
    """Bind this worker to its core, where the system can."""
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[1]) % len(cores)]})
