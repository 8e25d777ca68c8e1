"""What is wrong with how a command ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from onnxsal.graph.load import load_model
from tests.fuzz.cases import Case
from tests.fuzz.child import BYTES, SECONDS, End, run, strict

UNOPENED = 71
"""The status of a child in which the model that was written does not open."""

RUNTIME = "ONNX Runtime dies alone"
"""How a fault begins that is none of onnxsal's: the same model kills a process that only runs it."""

CRASHES = (-signal.SIGABRT, -signal.SIGFPE, -signal.SIGSEGV)

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def fault_of(case: Case) -> str:
    """'' where the command ends as it should: status 0, 1 or 2, one line that says why, nothing left behind, nothing that acts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.place(folder)
        end = run(case.words, folder, SECONDS, _opens if case.words[0] == "convert" else None)
        litter = sorted(str(p.relative_to(folder)) for p in folder.rglob(".onnxsal-*"))
        if end.status in CRASHES and "m.onnx" in case.files and _runs_alone(folder).status == end.status:
            return f"{RUNTIME}: status {end.status}"
    return _fault(case, end, litter)


def is_ours(fault: str) -> bool:
    """Whether it is a fault of onnxsal."""
    return bool(fault) and not fault.startswith(RUNTIME)


def _runs_alone(folder: Path) -> End:
    """The model ``m.onnx`` of the folder in ONNX Runtime, as it is written and optimised, on the array beside it or on ones."""

    def alone() -> None:
        model = load_model("m.onnx")
        model.ir_version = 10
        data = model.SerializeToString()
        for level in (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
            with contextlib.suppress(Exception):
                options = onnxruntime.SessionOptions()
                options.log_severity_level, options.graph_optimization_level = 4, level
                session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
                for size in (1, 2, 3):
                    with contextlib.suppress(Exception):
                        session.run(None, {t.name: _ones(t, size) for t in session.get_inputs()})

    return run(("--version",), folder, SECONDS, alone)


def _ones(tensor: onnxruntime.NodeArg, size: int) -> np.ndarray:
    kind = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}.get(tensor.type, np.float32)
    if Path("x.npy").exists() and kind is np.float32:
        with contextlib.suppress(ValueError):
            return np.load("x.npy")
    return np.ones([d if isinstance(d, int) and d >= 0 else size for d in tensor.shape], kind)


def place_of(case: Case) -> str:
    """The deepest function of onnxsal in the traceback of the command ('' = there is none): what classes of faults differ in."""
    with tempfile.TemporaryDirectory() as name:
        case.place(Path(name))
        end = run((*case.words, "--debug"), Path(name))
    frames = re.findall(r'File ".*?/onnxsal/([^"]*)", line (\d+), in (\S+)', end.err)
    return " ".join(next((f for f in reversed(frames) if not f[0].startswith("cli/")), ("", "", ""))).strip()


def _fault(case: Case, end: End, litter: list[str]) -> str:
    told = end.err + end.out
    last = (end.err.strip().splitlines() or [""])[-1]
    if end.status == UNOPENED:
        return f"does not open: {last}"
    if end.status not in (0, 1, 2):
        return f"status {end.status}: {last}"
    if "Traceback (most recent" in told or "internal error" in told:
        return f"traceback: {last}"
    if end.status == 2 and not _is_one_message(end.err):
        return f"not one message: {end.err!r}"
    if CONTROL.search(told):
        return f"control characters: {told!r:.200}"
    if set(end.left) - case.writes or litter:
        return f"left behind: {[*end.left, *litter]}"
    if end.megabytes > BYTES / 2**20:
        return f"took {end.megabytes:.0f} MB"
    if "--json" in case.words and end.status != 2:
        try:
            strict(end.out)
        except ValueError as error:
            return f"no JSON: {error}"
    return ""


def _is_one_message(text: str) -> bool:
    """Warnings may stand before it, and a list in it takes more than one line; usage errors of the command line are drawn in a box."""
    return sum(line.startswith("error: ") for line in text.splitlines()) == 1 or "Usage: " in text


def _opens() -> None:
    """What ``convert`` wrote opens as a user opens it, or its source does not open either. Ends the child where it does not."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession("o.onnx", options, providers=["CPUExecutionProvider"])
    except Exception as error:
        try:
            onnxruntime.InferenceSession("m.onnx", options, providers=["CPUExecutionProvider"])
        except Exception:
            return
        print(" ".join(str(error).split()), file=sys.stderr, flush=True)
        os._exit(UNOPENED)
