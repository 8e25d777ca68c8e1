#!/usr/bin/env python3
"""Runs commands on files that were spoilt at random, and keeps those that end as they must not.

    tools/fuzz.py --minutes 60 [--seed 1]     # cases number 1, 2, 3 ...; what fails is reduced and kept in tests/fuzz/found/
    tools/fuzz.py --replay FILE ...           # one more time, what was kept

Each command runs in a child process with limits on time (10 s) and memory (2 GB). It must end with status 0, 1 or 2, say why in one line,
leave nothing behind, print strict JSON where that was asked for, and what ``convert`` writes must open. Ends with status 1 where one does
not. Faults that arise in the same place are one class, of which the first is kept.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.fuzz.cases import Case, drawn  # noqa: E402
from tests.fuzz.judge import fault_of, is_ours, place_of  # noqa: E402
from tests.fuzz.reduce import reduced  # noqa: E402

FOUND = ROOT / "tests" / "fuzz" / "found"


def class_of(case: Case, fault: str) -> tuple[str, str]:
    """What makes two faults the same: how the command ended, and where in onnxsal."""
    return fault.split(":")[0], place_of(case)


def keep(case: Case, fault: str, name: str) -> Path:
    """Reduce the case and write it down."""
    kind = class_of(case, fault)
    small = reduced(case, lambda c: bool(again := fault_of(c)) and class_of(c, again) == kind)
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{name}.json"
    path.write_text(small.kept(fault_of(small)) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=1, help="the number of the first case")
    parser.add_argument("--replay", nargs="+", type=Path, default=[], metavar="FILE")
    args = parser.parse_args()
    if args.replay:
        faults = [(path, fault_of(Case.read(path))) for path in args.replay]
        print("\n".join(f"{path.name}: {fault or 'as it should be'}" for path, fault in faults))
        sys.exit(any(is_ours(fault) for _, fault in faults))
    seed, end = args.seed, time.monotonic() + 60 * args.minutes
    kinds: collections.Counter[str] = collections.Counter()
    classes: collections.Counter[tuple[str, str]] = collections.Counter()
    alone = 0
    while time.monotonic() < end:
        case = drawn(seed)
        fault = fault_of(case)
        kinds[case.kind] += 1
        if fault and not is_ours(fault):
            alone += 1
            print(f"case {seed}, {' '.join(case.words)}: {fault}", flush=True)
        elif fault and fault_of(case):  # not for once: the machine may have been slow
            kind = class_of(case, fault)
            classes[kind] += 1
            if classes[kind] == 1:
                path = keep(case, fault, f"{case.words[0]}_{seed}")
                print(f"case {seed}, {' '.join(case.words)}: {fault[:300]}\n    in {kind[1]}; kept as {path.name}", flush=True)
        seed += 1
    counts = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
    print(
        f"{kinds.total():,} cases ({counts}); {len(classes)} classes of faults, {classes.total()} in all; "
        f"in {alone} ONNX Runtime dies without onnxsal too"
    )
    sys.exit(bool(classes))


if __name__ == "__main__":
    main()
