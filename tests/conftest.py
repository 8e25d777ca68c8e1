"""Each worker of the test run keeps to a core of its own: two workers whose sessions each spread over both cores hinder one another.
Not with Ray, whose processes start side by side. Tests that take long are marked so, by the list in long.txt.
"""

import os
import re
from pathlib import Path

import pytest

LONG = frozenset((Path(__file__).parent / "long.txt").read_text().splitlines())


def pytest_configure(config: pytest.Config) -> None:
    """Bind this worker to its core, where the system can."""
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    if worker and config.option.markexpr != "ray" and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[1]) % len(cores)]})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before -m selects."""
    for item in items:
        if item.nodeid.partition("[")[0] in LONG:
            item.add_marker("long")
