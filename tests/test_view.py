"""The page that runs converted models in a browser: complete, closed, escaped; its pictures are Pillow's, its colours those of overlays."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL
import pytest
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal.cli.app import app
from onnxsal.graph.assemble import set_metadata
from onnxsal.report.view import web_runtime
from onnxsal.report.view.serving import server
from onnxsal.report.view.web_page import overlay_table
from onnxsal.runtime.beside import as_metadata
from onnxsal.runtime.heatmap import NOISE, overlay, scale_map
from onnxsal.runtime.preprocess import INTERPOLATIONS, Preprocess
from tests.small_models import cnn

NODE_LOCK = Path(__file__).parent / "node" / "package-lock.json"
ASSETS = Path(onnxsal.__file__).parent / "report" / "view"
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\u202eb", "& quot; '", "plain"]
PREPARED = Preprocess(1 / 255, resize=(12, 12))


def converted(path: Path, method: str = "fullgrad", labels: list[str] | None = None, **options: Any) -> Path:
    made = onnxsal.convert(cnn(size=12), method, **options)
    set_metadata(made, as_metadata(PREPARED, labels if labels is not None else HOSTILE))
    onnx.save(made, str(path))
    return path


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder that looks like that of a package."""
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for flavour in web_runtime.FLAVOURS.values():
        (dist / flavour.script).write_bytes(b"/*!\n * ONNX Runtime Web v9.8.7\n */ export const env = {};")
        (dist / flavour.binary).write_bytes(b"\0asm" + flavour.binary.encode())
    return dist.parent


def view(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["view", *map(str, words)])
    assert result.exit_code == status, result.output
    return result.stdout if status == 0 else result.stderr


def handed_over(text: str) -> dict[str, bytes]:
    """The files that a page, or a script beside it, hands to the page."""
    return {name: gzip.decompress(base64.b64decode(data)) for name, data in re.findall(r'^given\("([\w.]+)", "([^"]+)"\);$', text, re.M)}


# ----- the page -----


@pytest.mark.parametrize("one_file", [True, False])
def test_the_page_is_complete_and_asks_the_network_for_nothing(tmp_path: Path, runtime: Path, one_file: bool):
    models = [converted(tmp_path / f"{m}.onnx", m) for m in ("fullgrad", "gradcam")]
    picture = tmp_path / "p.png"
    Image.new("RGB", (5, 4), "red").save(picture)
    out = tmp_path / ("page.html" if one_file else "page")
    told = view(*models, "-o", out, "--runtime", runtime, "--picture", picture)
    assert "onnxruntime-web 9.8.7" in told
    page = (out if one_file else out / "index.html").read_text()
    beside = "" if one_file else "\n".join(p.read_text() for p in out.glob("*.js"))
    files = handed_over(page + beside)
    assert files["model.0"] == models[0].read_bytes()
    assert files["model.1"] == models[1].read_bytes()
    assert files["runtime.binary"].startswith(b"\0asmort-wasm-simd-threaded.wasm")
    assert files["picture"] == picture.read_bytes()
    linked = set(re.findall(r'(?:src|href)="([^"]*)"', page)) - {"data:,"}
    assert linked == (set() if one_file else {p.name for p in out.glob("*.js")})
    assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon", re.sub(r"given\(.*", "", page))
    assert "connect-src blob:;" in page
    assert "Microsoft Corporation, under the MIT License" in page
    assert page.count("</script>") == page.count("<script") == (3 if one_file else 2) + (4 if one_file else 5)


def test_what_files_say_is_shown_and_does_nothing(tmp_path: Path, runtime: Path):
    model = converted(tmp_path / "<b>&x.onnx")
    view(model, "-o", tmp_path / "page.html", "--runtime", runtime)
    page = (tmp_path / "page.html").read_text()
    assert "<title>&lt;b&gt;&amp;x.onnx</title>" in page
    assert "alert(1)" in page
    for hostile in (*HOSTILE[:3], "<b>"):
        assert hostile not in page
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert facts["labels"] == [s.replace("&", "&") for s in HOSTILE]
    assert facts["models"][0]["file"] == "<b>&x.onnx"


def test_scripts_set_text_only():
    script = (ASSETS / "view.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)


def test_the_facts_say_how_the_file_is_fed(tmp_path: Path, runtime: Path):
    for options, target in (({}, "why/target"), ({"target": 2}, None), ({"target_input": "optional"}, None)):
        model = converted(tmp_path / "m.onnx", prefix="why/", **options)
        view(model, "-o", tmp_path / "page.html", "--runtime", runtime)
        page = (tmp_path / "page.html").read_text()
        (told,) = json.loads(re.search(r'id="facts">(.*?)</script>', page, re.S)[1])["models"]  # type: ignore[index]
        assert (told["target"], told["input"], told["type"]) == (target, "x", "float32")
        assert told["outputs"]["scores"] == "y"
        assert told["outputs"]["saliency_map"] == "why/saliency_map"
        assert told["outputs"]["residual"] == "why/residual"
        assert told["preprocess"] == json.loads(json.dumps(asdict(PREPARED)))
        there = {o.name for o in onnx.load(str(model)).graph.output}
        assert set(told["outputs"].values()) <= there


def test_what_a_page_cannot_show_is_refused(tmp_path: Path, runtime: Path):
    plain = tmp_path / "plain.onnx"
    onnx.save(cnn(), str(plain))
    assert "is not converted" in view(plain, "--runtime", runtime, status=2)
    bare = tmp_path / "bare.onnx"
    onnx.save(onnxsal.convert(cnn(), "gradient"), str(bare))
    assert "no preprocessing is known" in view(bare, "--runtime", runtime, status=2)
    one, other = converted(tmp_path / "one.onnx"), converted(tmp_path / "other.onnx", labels=list("abcde"))
    assert "different labels" in view(one, other, "--runtime", runtime, status=2)
    assert "one file, which needs no server" in view(one, "-o", tmp_path / "p.html", "--serve", status=2)
    half = converted(tmp_path / "half.onnx")
    made = onnx.load(str(half))
    set_metadata(made, as_metadata(Preprocess(1.0, dtype="uint8", resize=(12, 12)), None))
    onnx.save(made, str(half))
    assert "takes float32, and its preprocessing says uint8" in view(half, "--runtime", runtime, status=2)


def test_a_page_is_written_over_only_where_it_is_ours(tmp_path: Path, runtime: Path):
    model, out = converted(tmp_path / "m.onnx"), tmp_path / "page"
    for _ in range(2):
        view(model, "-o", out, "--runtime", runtime)
    (out / "model.0.js").write_text("somebody's")
    assert "is not overwritten" in view(model, "-o", out, "--runtime", runtime, status=2)


# ----- the runtime -----


def test_the_release_is_the_one_that_is_tested():
    locked = json.loads(NODE_LOCK.read_text())["packages"]["node_modules/onnxruntime-web"]
    assert (locked["version"], locked["integrity"]) == (web_runtime.VERSION, web_runtime.INTEGRITY)


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No node_modules anywhere, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(web_runtime.sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.usefixtures("nothing_installed")
def test_a_runtime_that_is_not_there_is_asked_for(tmp_path: Path):
    told = view(converted(tmp_path / "m.onnx"), status=2)
    for part in ("ort.wasm.bundle.min.mjs", "--fetch", f"npm install onnxruntime-web@{web_runtime.VERSION}", "--runtime"):
        assert part in " ".join(told.split())


def test_node_modules_are_found(nothing_installed: Path, runtime: Path):
    place = nothing_installed / "node_modules" / "onnxruntime-web"
    place.parent.mkdir()
    shutil.copytree(runtime, place)
    assert web_runtime.web_runtime("wasm").folder == place / "dist"


@pytest.mark.usefixtures("nothing_installed")
def test_no_registry_is_assumed(monkeypatch: pytest.MonkeyPatch):
    """Neither a variable nor npm tells where it is: nothing is fetched from anywhere."""
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(onnxsal.OnnxsalError, match="where the npm registry is, is not known"):
        web_runtime.web_runtime("wasm", fetch=True)


@pytest.mark.parametrize("genuine", [True, False])
def test_fetching_checks_the_hash(nothing_installed: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, genuine: bool):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as files:
        files.add(runtime / "dist", "package/dist")
    name = f"onnxruntime-web-{web_runtime.VERSION}.tgz"
    folder = nothing_installed / "registry" / "onnxruntime-web" / "-"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(buffer.getvalue())
    if genuine:
        digest = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
        monkeypatch.setattr(web_runtime, "INTEGRITY", f"sha512-{digest}")
    with server(nothing_installed / "registry") as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{serving.server_port}/")
        if genuine:
            assert web_runtime.web_runtime("wasm", fetch=True).version == "9.8.7"
            assert web_runtime.web_runtime("webgpu").folder == web_runtime.cache()  # kept for the next time
        else:
            with pytest.raises(onnxsal.OnnxsalError, match="its hash is"):
                web_runtime.web_runtime("wasm", fetch=True)
            assert not web_runtime.cache().exists()
        serving.shutdown()


def test_the_server_lets_the_page_have_threads(tmp_path: Path):
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "a.js").write_text("1")
    with server(tmp_path) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        for name, kind in (("", "text/html; charset=utf-8"), ("a.js", "text/javascript")):
            with urllib.request.urlopen(f"http://127.0.0.1:{serving.server_port}/{name}") as answer:
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with pytest.raises(onnxsal.OnnxsalError, match="--port"):
            server(tmp_path, serving.server_port)
        serving.shutdown()


# ----- pictures and colours in JavaScript -----


def in_node(tmp_path: Path, call: str, given: Any) -> Any:
    """What an expression over ``Pixels`` and ``given`` is, computed by Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    (tmp_path / "given.json").write_text(json.dumps(given))
    script = f"""{(ASSETS / "pixels.js").read_text()}
    const given = JSON.parse(require("fs").readFileSync(process.argv[2], "utf8"));
    process.stdout.write(JSON.stringify({call}, (k, v) => ArrayBuffer.isView(v) ? Array.from(v) : v));"""
    (tmp_path / "run.cjs").write_text(script)
    done = subprocess.run([node, str(tmp_path / "run.cjs"), str(tmp_path / "given.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rgba(image: Image.Image) -> dict[str, Any]:
    return {"width": image.width, "height": image.height, "data": np.asarray(image.convert("RGBA")).ravel().tolist()}


NEWER_PILLOW = int(PIL.__version__.partition(".")[0]) >= 13

HOWS = [
    *(Preprocess(1 / 255, resize=(17, 23), interpolation=name) for name in INTERPOLATIONS),
    *(Preprocess(1 / 255, resize=(61, 140), interpolation=name) for name in INTERPOLATIONS),
    Preprocess(1.0, (127.0,), (128.0,), resize=(24, 24), crop_pct=0.875, interpolation="bicubic"),
    Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=28, crop=(24, 21)),
    Preprocess(1.0, (104.0, 117.0, 123.0), layout="NHWC", channels="BGR", resize=(20, 20)),
    Preprocess(1 / 255, channels="GRAY", resize=(20, 30), interpolation="lanczos"),
    Preprocess(1.0, dtype="uint8", crop=(19, 31)),
    Preprocess(0.5, dtype="float64", crop_pct=0.7),
]


def test_a_picture_is_prepared_as_pillow_does_it(tmp_path: Path):
    """Every byte, and every number that is fed, is the same: the windows, the rounding and the order are Pillow's.

    Older releases of Pillow always shrink the width first, and bytes are rounded between: there a byte may be one off.
    """
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (47, 59, 3), np.uint8).astype(np.uint8))
    smooth = noise.resize((38, 73), Image.Resampling.BICUBIC)
    cases = [(image, how) for image in (noise, smooth) for how in HOWS]
    given = [{"picture": rgba(image), "how": asdict(how)} for image, how in cases]
    call = "given.map(({picture, how}) => { const seen = Pixels.seen(picture, how); return {...seen, fed: Pixels.fed(seen, how)}; })"
    for (image, how), found in zip(cases, in_node(tmp_path, call, given), strict=True):
        wanted = how.display(image)
        pixels = np.asarray(found["data"], np.uint8).reshape(found["height"], found["width"], -1)
        off = np.abs(np.broadcast_to(pixels, wanted.shape).astype(int) - wanted).max()
        assert off <= (0 if NEWER_PILLOW else 1), how
        if off:
            continue
        fed = np.asarray(found["fed"]["data"], how.dtype).reshape(found["fed"]["dims"])
        np.testing.assert_array_equal(fed, how.apply(image), err_msg=str(how))


def test_maps_are_scaled_and_coloured_as_in_python(tmp_path: Path):
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(9, 11)), rng.random((9, 11)), np.full((9, 11), 2.0), np.pad([[1.0]], [(0, 8), (0, 10)])]
    grey = np.full((9, 11, 3), 90, np.uint8)
    tables = {palette: overlay_table(palette) for palette in ("diverging", "heat")}
    given = {"maps": [m.ravel().tolist() for m in maps], "tables": tables, "noise": NOISE}
    call = """given.maps.map((values) => {
        const signed = Math.min(...values) < 0, map = Pixels.scaled(values, signed, 99.5, given.noise);
        const image = {width: 11, height: 9, depth: 1, data: Uint8ClampedArray.from({length: 99}, () => 90)};
        return [map, Pixels.overlaid(image, map, given.tables[signed ? "diverging" : "heat"], 0.6)]; })"""
    for values, (map_, pixels) in zip(maps, in_node(tmp_path, call, given), strict=True):
        wanted = scale_map(values)
        np.testing.assert_allclose(np.reshape(map_["values"], (9, 11)), wanted.values, atol=1e-12)
        assert (map_["flat"], map_["signed"]) == (wanted.flat, wanted.palette == "diverging")
        own = np.reshape(pixels, (9, 11, 4))[..., :3]
        assert np.abs(own - np.asarray(overlay(grey, wanted, opacity=0.6), np.int64)).max() <= 3  # the steps of the table


def test_a_signed_map_is_the_sum_over_channels(tmp_path: Path):
    values = np.random.default_rng(2).normal(size=(1, 3, 2, 4))
    given = {"first": values.ravel().tolist(), "last": np.moveaxis(values, 1, -1).ravel().tolist()}
    call = '[Pixels.summed(given.first, [1, 3, 2, 4], "NCHW"), Pixels.summed(given.last, [1, 2, 4, 3], "NHWC")]'
    for found in in_node(tmp_path, call, given):
        np.testing.assert_allclose(np.reshape(found, (2, 4)), values.sum((0, 1)))
