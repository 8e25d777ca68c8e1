"""What one converted file costs, each measurement in a process of its own, beside plain inference of the same model in the same process.

Time is taken of both in turn (plain, method, plain, method ...) and compared pair by pair; the ratio is the median of the pairs'. What is
steady is the time that the process was given, on one thread; what a user feels is the time on the wall, on all threads. Threads without
work sleep: those of a session that waits its turn would spin and take the cores from the other one, which slows the short run more than
the long one and so flatters the ratio. Memory is the peak above what the process held before.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
Found = dict[str, Any]

WARM = 2
"""Runs before the first that counts."""

PRODUCTS = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
"""Kernels of ONNX Runtime that are convolutions and matrix products, whatever the layout: the floor of a walk is their time alone."""

REORDERS = ("ReorderInput", "ReorderOutput")
"""Nodes by which ONNX Runtime enters and leaves the blocked layout of its convolutions."""


def alone(task: str, **given: Any) -> Found:
    """What a task of ``__main__`` finds in a process of its own. Raises ``RuntimeError`` with the last line of its complaint."""
    command = [sys.executable, "-m", "tools.speed", task, json.dumps(given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no word of it"])[-1])
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(name: str) -> float:
    """MB of memory that this process holds now (``VmRSS``) or held at most (``VmHWM``)."""
    told = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if told is None:  # ru_maxrss is no substitute: it also holds what the process was that started this one
        raise RuntimeError(f"/proc/self/status does not tell {name}; memory is measured on Linux")
    return int(told[1]) * 1024 / 1e6


# ----- conversion -----


def conversion(file: str, method: str, place: str, out: str, settings: Found) -> Found:
    """Seconds and MB of a conversion, what it writes to ``out`` relative to the file, and the reorders left in the optimised file.

    A small model is converted first, so that what is imported on the first use is no matter of this one.
    """
    import onnxsal
    from onnxsal.runtime.session import optimised

    onnxsal.convert(ROOT / "models" / "tiny" / "cnn.onnx", "fullgrad")
    before, begin = memory_of("VmRSS"), time.perf_counter()
    converted = onnxsal.convert(file, method, runs_on=place, **settings)
    found: Found = {"convert_s": time.perf_counter() - begin, "convert_mb": memory_of("VmHWM") - before, "nodes": len(converted.graph.node)}
    Path(out).write_bytes(converted.SerializeToString())
    found["size"] = Path(out).stat().st_size / Path(file).stat().st_size
    return found | {"reorders": reorders(optimised(out).graph)}


def reorders(graph: onnx.GraphProto) -> int:
    """How often a graph, and those inside it, enter or leave the blocked layout."""
    inner = [g for n in graph.node for a in n.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
    return sum(n.op_type in REORDERS for n in graph.node) + sum(map(reorders, inner))


# ----- time -----


def session(path: str, threads: int, **options: Any) -> Any:
    """A session on the CPU with so many threads, which sleep when they have no work."""
    import onnxruntime as ort

    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads, chosen.log_severity_level = threads, 4
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in options.items():
        setattr(chosen, name, value)
    return ort.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])


def feed(opened: Any, batch: int, tokens: int = 128) -> dict[str, np.ndarray]:
    """Random data for the inputs of a session: pictures, or ids that are all words (masks 1, types 0); the predicted class as target."""
    rng, data = np.random.default_rng(0), dict[str, np.ndarray]()
    for port in opened.get_inputs():
        sizes = [d if isinstance(d, int) else tokens if i else batch for i, d in enumerate(port.shape)]
        if port.name == "target":
            data[port.name] = np.full(1, -1)
        elif port.type == "tensor(float)":
            data[port.name] = rng.standard_normal(sizes).astype(np.float32)
        else:
            low, high = {"attention_mask": (1, 2), "token_type_ids": (0, 1)}.get(port.name, (999, 9999))
            data[port.name] = rng.integers(low, high, sizes)
    return data


def pairs(first: Callable[[], Any], second: Callable[[], Any], clock: Callable[[], float], rounds: int, seconds: float) -> np.ndarray:
    """Times [n, 2] of both in turn: ``rounds`` of them, fewer (but three) where these would take longer than so many seconds."""

    def timed(run: Callable[[], Any]) -> float:
        begin = clock()
        run()
        return clock() - begin

    begin = time.perf_counter()
    for _ in range(WARM):
        first(), second()
    each = (time.perf_counter() - begin) / WARM
    count = int(min(rounds, max(3, seconds / max(each, 1e-6))))
    return np.array([(timed(first), timed(second)) for _ in range(count)])


def ratios(times: np.ndarray) -> Found:
    """The median of the pairs' ratios, the ratio of the fastest runs (others only ever add time), and the median ms of both."""
    plain, method = 1e3 * np.median(times, axis=0)
    quick = times.min(axis=0)
    return {
        "ratio": float(np.median(times[:, 1] / times[:, 0])),
        "best": float(quick[1] / quick[0]),
        "ms": float(method),
        "plain_ms": float(plain),
    }


def timing(file: str, converted: str, threads: int, batch: int, rounds: int, seconds: float) -> Found:
    """Process time on one thread and, where ``threads`` are more, the time on the wall; without a ``converted`` file of plain inference."""
    found: Found = {}
    clocks = {"": (time.process_time, 1), **({"wall_": (time.perf_counter, threads)} if threads > 1 else {})}
    for kind, (clock, count) in clocks.items():
        plain = session(file, count)
        method = session(converted, count) if converted else plain
        x, y = feed(plain, batch), feed(method, batch)

        def run_plain(plain: Any = plain, x: Any = x) -> None:
            plain.run(None, x)

        def run_method(method: Any = method, y: Any = y) -> None:
            method.run(None, y)

        found |= {f"{kind}{name}": value for name, value in ratios(pairs(run_plain, run_method, clock, rounds, seconds)).items()}
    return found


# ----- the floor -----


def profile(path: str, batch: int, runs: int) -> list[Counter[str]]:
    """Milliseconds by kernel of each of so many runs on one thread, and of the whole run as ``""``."""
    with tempfile.TemporaryDirectory() as folder:
        opened = session(path, 1, enable_profiling=True, profile_file_prefix=f"{folder}/profile")
        data = feed(opened, batch)
        for _ in range(runs + WARM):
            opened.run(None, data)
        events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    whole = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")[WARM:]
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    found = []
    for begin, end in whole:
        spent = Counter({"": (end - begin) / 1e3})
        for event in kernels:
            if begin <= event["ts"] < end:
                spent[event["args"]["op_name"]] += event["dur"] / 1e3
        found.append(spent)
    return found


def shares(path: str, batch: int, rounds: int, seconds: float) -> Found:
    """The share that each kernel has in a run, by its name, and that of all ``PRODUCTS`` together (``floor``).

    Shares, since a profile tells the time on the wall, of which others may take a part, but then of all kernels. Kernels that hold graphs
    (``Loop``, ``If``) are left out: what they run is counted.
    """
    begin = time.perf_counter()
    profile(path, batch, 1)
    each = (time.perf_counter() - begin) / (1 + WARM)
    runs = profile(path, batch, int(min(rounds, max(1, seconds / max(each, 1e-6)))))
    kernels = {k: float(np.median([r[k] / r[""] for r in runs])) for k in set().union(*runs) - {"", "Loop", "If", "Scan"}}
    floor = sum(kernels.get(k, 0.0) for k in PRODUCTS)
    return {"floor": floor, "kernels": dict(sorted(kernels.items(), key=lambda item: -item[1]))}


# ----- memory -----


def memory(path: str, batch: int) -> Found:
    """MB that a session takes at most, opened and run once, and the seconds of opening it."""
    session(str(ROOT / "models" / "tiny" / "cnn.onnx"), 1)
    before, begin = memory_of("VmRSS"), time.perf_counter()
    opened = session(path, 1)
    seconds = time.perf_counter() - begin
    opened.run(None, feed(opened, batch))
    return {"peak_mb": memory_of("VmHWM") - before, "open_s": seconds}
