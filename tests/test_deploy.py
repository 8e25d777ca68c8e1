"""The files of docs/deploy run as they stand, and give the map that ONNX Runtime gives in Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

import onnxsal
from onnxsal.graph.window_attributes import window_attributes
from onnxsal.report.view.serving import server
from tests.oracle import session_of
from tests.runtimes import INSTALLED
from tests.small_models import cnn

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
X = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)


def written_out() -> onnx.ModelProto:
    """The network without its MaxPool, whose places no WebGPU provider tells, and with every attribute that the older one asks for."""
    model = cnn()
    pool = next(n for n in model.graph.node if n.op_type == "MaxPool")
    for one in model.graph.node:
        one.input[:] = [pool.input[0] if name == pool.output[0] else name for name in one.input]
        if one.op_type == "Conv":
            own = {a.name for a in one.attribute}
            whole = window_attributes(2, [3, 3])
            one.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in whole.items() if k not in own)
    model.graph.node.remove(pool)
    return model


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted model and an input, as the programs want them."""
    folder = tmp_path_factory.mktemp("deploy")
    onnx.save(onnxsal.convert(cnn(), "fullgrad"), str(folder / "explained.onnx"))
    for name, method in (("written_out", "fullgrad"), ("gradcam", "gradcam")):
        onnx.save(onnxsal.convert(written_out(), method), str(folder / f"{name}.onnx"))
    X.tofile(folder / "input.bin")
    return folder


def wanted(given: Path, target: int, name: str = "explained.onnx") -> dict[str, np.ndarray]:
    session = session_of(onnx.load(str(given / name)))
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": X, "target": np.array([target])}), strict=True))


def check(told: dict[str, Any], own: dict[str, np.ndarray], rtol: float = 1e-4) -> None:
    assert told["class"] == own["explained_class"][0]
    np.testing.assert_allclose(told["score"], own["explained_score"][0], rtol=rtol)
    np.testing.assert_allclose(told["sum"], own["saliency_map"].sum(), rtol=10 * rtol)
    assert ("residual" in own) == (told["residual"] is not None)


def ran(command: list[object], given: Path, folder: Path, target: int) -> None:
    """Run a program in a folder, and hold its answer and its file against Python's."""
    words = [*map(str, command), str(given / "explained.onnx"), str(given / "input.bin"), str(target)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    own = wanted(given, target)
    check(json.loads(done.stdout.splitlines()[-1]), own)
    np.testing.assert_allclose(np.fromfile(folder / "saliency_map.bin", np.float32), own["saliency_map"].ravel(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("target", [-1, 3])
def test_node(given: Path, tmp_path: Path, target: int):
    node = shutil.which("node")
    if node is None or not (INSTALLED / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not installed: tools/test installs it where there is node and npm")
    shutil.copytree(DEPLOY / "node", tmp_path / "node")
    (tmp_path / "node" / "node_modules").symlink_to(INSTALLED / "node_modules")
    ran([node, "explain.mjs"], given, tmp_path / "node", target)


def test_openvino(given: Path, tmp_path: Path):
    pytest.importorskip("openvino")
    ran([sys.executable, DEPLOY / "openvino" / "explain.py"], given, tmp_path, 3)


@pytest.mark.site
def test_cpp(given: Path, tmp_path: Path):
    """Compiled against the headers of Debian's package (Debian 13 has one), or of a release; no package of PyPI or npm brings them."""
    release = Path(os.environ.get("ONNXRUNTIME", "/usr"))
    headers = [p for p in (release / "include", release / "include" / "onnxruntime") if (p / "onnxruntime_cxx_api.h").is_file()]
    if not headers or shutil.which("cmake") is None:
        pytest.skip("needs cmake and the headers of ONNX Runtime: libonnxruntime-dev of Debian 13, or a release that ONNXRUNTIME names")
    for words in (["-S", DEPLOY / "cpp", "-B", tmp_path / "build", f"-DONNXRUNTIME={release}"], ["--build", tmp_path / "build"]):
        subprocess.run(["cmake", *map(str, words)], check=True, capture_output=True)
    ran([tmp_path / "build" / "explain"], given, tmp_path, 3)


# ----- Triton -----

CONFIG = {
    "ModelConfig": [
        ("name", 1, "string", ""), ("max_batch_size", 4, "int32", ""), ("input", 5, "message", "*ModelTensor"),
        ("output", 6, "message", "*ModelTensor"), ("dynamic_batching", 11, "message", "Batching"), ("backend", 17, "string", ""),
    ],
    "ModelTensor": [
        ("name", 1, "string", ""), ("data_type", 2, "enum", "DataType"), ("dims", 4, "int64", "*"), ("reshape", 5, "message", "Reshape"),
    ],
    "Reshape": [("shape", 1, "int64", "*")],
    "Batching": [("preferred_batch_size", 1, "int32", "*"), ("max_queue_delay_microseconds", 2, "uint64", "")],
}  # fmt: skip
"""Of Triton's model_config.proto what a repository of ours uses; "*" before a type: repeated."""


def config_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="triton_config.proto", package="triton", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    for number, name in ((10, "FP16"), (11, "FP32"), (12, "FP64")):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    for name, entries in CONFIG.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in entries:
            label = 3 if of.startswith("*") else 1
            added = message.field.add(
                name=field, number=number, label=label, type=getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}")
            )
            if of.strip("*"):
                added.type_name = f".triton.{of.strip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.ModelConfig"))


@pytest.mark.parametrize(("batch", "most"), [("N", 8), (2, 0)])
def test_triton(tmp_path: Path, batch: int | str, most: int):
    """The configuration is read as Triton reads it, and says what the file says of every tensor: but for the axis of samples."""
    made = onnxsal.convert(cnn(batch), "fullgrad")
    onnx.save(made, str(tmp_path / "explained.onnx"))
    command = [sys.executable, DEPLOY / "triton" / "make_repository.py", tmp_path / "explained.onnx", tmp_path / "models"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    folder = tmp_path / "models" / "explained"
    assert (folder / "1" / "model.onnx").read_bytes() == (tmp_path / "explained.onnx").read_bytes()
    told = text_format.Parse((folder / "config.pbtxt").read_text(), config_class()())
    assert (told.name, told.backend, told.max_batch_size) == ("explained", "onnxruntime", most)
    session = session_of(made)
    kinds = {"tensor(float)": 11, "tensor(int64)": 9}
    for theirs, ours in ((told.input, session.get_inputs()), (told.output, session.get_outputs())):
        assert [t.name for t in theirs] == [o.name for o in ours]
        for one, own in zip(theirs, ours, strict=True):
            shape = [d if isinstance(d, int) else -1 for d in own.shape]
            rest = shape[1:] if most else shape
            assert one.data_type == kinds[own.type]
            assert list(one.dims) == (rest or [1])
            assert one.HasField("reshape") == (not rest)


# ----- the browser -----

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--ignore-gpu-blocklist")
"""WebGPU on a machine without a graphics card."""


def browser(folder: Path, webgpu: bool) -> Any:
    selenium = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER) or not (INSTALLED / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("needs chromium, chromedriver and onnxruntime-web")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*FLAGS, *(SOFTWARE_GPU if webgpu else ("--disable-gpu",)), f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))


def until(found: Any, seconds: float = 240) -> Any:
    """What ``found`` answers, as soon as that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.1)
    raise AssertionError("the page did not finish")


OLDER = 'import * as ort from "./node_modules/onnxruntime-web/dist/ort.all.bundle.min.mjs"'
"""The build with the older WebGPU provider."""


@pytest.mark.site
@pytest.mark.parametrize("backend", ["wasm", "webgpu", "webgpu, older"])
def test_the_browser(given: Path, tmp_path: Path, backend: str):
    folder = tmp_path / "browser"
    shutil.copytree(DEPLOY / "browser", folder)
    (folder / "node_modules").symlink_to(INSTALLED / "node_modules")
    page = (folder / "index.html").read_text()
    if backend.endswith("older"):
        own = 'import * as ort from "./node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs"'
        assert own in page
        (folder / "index.html").write_text(page.replace(own, OLDER))
    for file in given.iterdir():
        shutil.copy(file, folder)
    with server(folder) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        driver = browser(tmp_path, backend.startswith("webgpu"))
        try:
            for name in ("written_out.onnx", "gradcam.onnx"):
                words = f"backend={backend.partition(',')[0]}&model={name}&input=input.bin&class=3"
                driver.get(f"http://127.0.0.1:{serving.server_port}/index.html?{words}")
                until(lambda: driver.title == "done")
                text = driver.find_element("id", "told").text
                assert text.startswith("{"), text
                told = json.loads(text)
                assert told["backend"] == backend.partition(",")[0]
                check(told, wanted(given, 3, name), rtol=1e-3)
        finally:
            driver.quit()
            serving.shutdown()
