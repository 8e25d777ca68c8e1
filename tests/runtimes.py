"""Runtimes that a converted model is run in, each in the same words: what they list as inputs, what they answer, what they print."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.oracle import session_of

Feed = dict[str, np.ndarray]

PYTHON, NODE, WEB, OPENVINO, REFERENCE = "onnxruntime", "onnxruntime-node", "onnxruntime-web", "OpenVINO", "onnx.reference"
RUNTIMES = (PYTHON, NODE, WEB, OPENVINO, REFERENCE)

INSTALLED = Path(sys.prefix) / "node"
"""Where tools/test installs the packages for JavaScript."""
DRIVER = Path(__file__).parent / "node" / "run.mjs"


@dataclass(frozen=True)
class Ran:
    """One model in one runtime: its inputs, for each feed the outputs or what the runtime says, and what was printed."""

    inputs: list[str]
    answers: list[Feed | str]
    printed: str


def ran(runtime: str, models: Sequence[onnx.ModelProto], feeds: Sequence[Sequence[Feed]], folder: Path) -> list[Ran]:
    """Each model on its feeds. Skips the test where the runtime is not installed."""
    if runtime in (NODE, WEB):
        return _in_javascript(runtime, models, feeds, folder)
    one = {PYTHON: _in_python, OPENVINO: _in_openvino, REFERENCE: _in_reference}[runtime]
    return [one(model, some, folder) for model, some in zip(models, feeds, strict=True)]


def _in_javascript(package: str, models: Sequence[onnx.ModelProto], feeds: Sequence[Sequence[Feed]], folder: Path) -> list[Ran]:
    node = shutil.which("node")
    if node is None or not (INSTALLED / "node_modules" / package).is_dir():
        pytest.skip(f"{package} is not installed: tools/test installs it where there is node and npm")
    request, answer = folder / "request.json", folder / "answer.json"
    asked = []
    for i, (model, some) in enumerate(zip(models, feeds, strict=True)):
        path = folder / f"{i}.onnx"
        onnx.save(model, str(path))
        asked.append({"model": str(path), "feeds": [{k: _written(v) for k, v in feed.items()} for feed in some]})
    request.write_text(json.dumps(asked))
    command = [node, str(DRIVER), str(INSTALLED), package, str(request), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(answer.read_text())
    found = [[a if isinstance(a, str) else {k: _read(v) for k, v in a.items()} for a in one["answers"]] for one in told]
    return [Ran(one["inputs"], answers, done.stderr) for one, answers in zip(told, found, strict=True)]


def _written(array: np.ndarray) -> dict[str, object]:
    return {"type": str(array.dtype), "dims": array.shape, "data": base64.b64encode(array.tobytes()).decode()}


def _read(tensor: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(tensor["data"]), tensor["type"]).reshape(tensor["dims"])


LOADED = """
import sys, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def _in_python(model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path) -> Ran:
    path = folder / "python.onnx"
    onnx.save(model, str(path))
    printed = subprocess.run([sys.executable, "-c", LOADED, str(path)], capture_output=True, text=True, check=True).stderr
    session = session_of(model)
    names = [o.name for o in session.get_outputs()]
    return Ran([i.name for i in session.get_inputs()], [_or_text(lambda f: session.run(None, f), names, feed) for feed in feeds], printed)


def _in_openvino(model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path) -> Ran:
    """OpenVINO's CPU plugin."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    core.set_property({"INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    names = [o.name for o in model.graph.output]

    def run(feed: Feed) -> list[np.ndarray]:
        found = compiled(feed)
        return [found[next(o for o in compiled.outputs if name in o.get_names())].copy() for name in names]

    inputs = [i.name for i in model.graph.input if any(i.name in given.get_names() for given in compiled.inputs)]
    return Ran(inputs, [_or_text(run, names, feed) for feed in feeds], "")


def _in_reference(model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path) -> Ran:
    evaluator, weights = ReferenceEvaluator(model), {t.name for t in model.graph.initializer}
    names = [o.name for o in model.graph.output]
    inputs = [i.name for i in model.graph.input if i.name not in weights]
    return Ran(inputs, [_or_text(lambda f: evaluator.run(None, f), names, feed) for feed in feeds], "")


def _or_text(run, names: list[str], feed: Feed) -> Feed | str:  # type: ignore[no-untyped-def]
    """What a run returns, or what the runtime raises: each has exceptions of its own."""
    try:
        return dict(zip(names, run(feed), strict=True))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
