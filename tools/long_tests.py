#!/usr/bin/env python3
"""Write tests/long.txt, the tests that tools/test leaves to tools/test_long, from how long each took.

    tools/test -m "not site" --junitxml=out/tests.xml && tools/long_tests.py out/tests.xml

A function is long where its cases take ``LONG`` times the mean of all cases or more, so a slower machine lists the same ones.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

LONG = 1.5
LIST = Path(__file__).resolve().parent.parent / "tests" / "long.txt"
HEAD = "# Tests that take long: run by tools/test_long, left out by tools/test. Measured and written by tools/long_tests.py.\n"


def long_tests(report: Path) -> list[str]:
    """The functions, as ``tests/test_file.py::test_name``, whose cases take long on average."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        file = str(case.get("classname")).replace(".", "/")
        seconds[f"{file}.py::{str(case.get('name')).partition('[')[0]}"].append(float(case.get("time") or 0))
    every = [one for taken in seconds.values() for one in taken]
    limit = LONG * sum(every) / len(every)
    return sorted(name for name, taken in seconds.items() if sum(taken) / len(taken) >= limit)


if __name__ == "__main__":
    LIST.write_text(HEAD + "\n".join(long_tests(Path(sys.argv[1]))) + "\n")
