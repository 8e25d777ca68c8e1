"""Commands on spoilt files: drawn by a number, kept as small JSON files."""

from __future__ import annotations

import base64
import functools
import importlib.resources
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from tests.fuzz.bases import BASES
from tests.fuzz.mutate import cut, mutated
from tests.hostile_settings import CONVNEXT, MANIFEST, OURS, TABLE, TIMM, VIT, bytes_spoiled, fields_spoiled, toml
from tests.small_models import cnn

METHODS = ("gradient", "fullgrad", "lrp_epsilon", "gradcam", "integrated_gradients", "input_x_gradient", "lrp_gamma", "occlusion")
INNER = {"tokens": "e", "looked_up": "e", "two_inputs": "a"}
"""What is explained of a model that leaves it open."""


@dataclass(frozen=True)
class Case:
    """Files by their names, and the words of a command in their folder. ``kind`` is what was spoilt."""

    kind: str
    files: Mapping[str, bytes]
    words: tuple[str, ...]
    writes: frozenset[str] = field(default_factory=frozenset)

    def place(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    def kept(self, why: str) -> str:
        """As the text of a file in ``found``."""
        files = {name: base64.b64encode(data).decode() for name, data in self.files.items()}
        return json.dumps({"why": why, "kind": self.kind, "words": self.words, "writes": sorted(self.writes), "files": files}, indent=1)

    @classmethod
    def read(cls, path: Path) -> Case:
        held = json.loads(path.read_text())
        files = {name: base64.b64decode(text) for name, text in held["files"].items()}
        return cls(held["kind"], files, tuple(held["words"]), frozenset(held["writes"]))


def drawn(seed: int) -> Case:
    """The case of that number: two of three are models, the rest settings, tables, pictures and arrays."""
    draw = random.Random(seed)
    kind = draw.choice((*[_message] * 10, *[_bytes] * 2, *[_apart] * 2, *[_settings] * 4, _table, *[_data] * 2))
    return kind(draw)


# ----- models -----


@functools.cache
def _base(name: str) -> onnx.ModelProto:
    return BASES[name]()


def _look(draw: random.Random, base: str, files: Mapping[str, bytes], kind: str) -> Case:
    """A command that reads the model ``m.onnx``."""
    own = ("--input", INNER[base]) if base in INNER else ()
    method = ("-m", draw.choice(METHODS))
    verb = draw.choice(("check", "check", "convert", "convert", "convert", "plan", "explain"))
    if verb == "convert":
        return Case(kind, files, ("convert", "m.onnx", "o.onnx", *method, *own), frozenset({"o.onnx", "o.onnx.data"}))
    if verb == "explain":
        array = draw.choice((np.ones((2, 3, 8, 8), np.float32), np.ones((1, 6, 8), np.float32), np.ones((2, 6), np.float32)))
        return Case(
            kind, {**files, "x.npy": _npy(array)}, ("explain", "m.onnx", "x.npy", "-o", "out", "--json", *method), frozenset({"out"})
        )
    return Case(kind, files, (verb, "m.onnx", "--json", *method, *own))


def _message(draw: random.Random) -> Case:
    base = draw.choice(sorted(BASES))
    return _look(draw, base, {"m.onnx": mutated(_base(base), draw).SerializeToString()}, "message")


def _bytes(draw: random.Random) -> Case:
    base = draw.choice(sorted(BASES))
    return _look(draw, base, {"m.onnx": cut(_base(base).SerializeToString(), draw)}, "bytes")


def _apart(draw: random.Random) -> Case:
    """Weights in another file, where the model or that file is spoilt."""
    base = draw.choice(sorted(BASES))
    model, held = onnx.ModelProto(), b""
    model.CopyFrom(_base(base))
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data") and draw.random() < 0.7:
            entries = {"location": "w.bin", "offset": str(len(held)), "length": str(len(tensor.raw_data))}
            held += tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in entries.items():
                if draw.random() < 0.9:
                    spoilt = (
                        draw.choice(("", "-1", "x", "../w.bin", "/dev/zero", "9" * 20, "1e3", ".", "\0", "out"))
                        if draw.random() < 0.05
                        else value
                    )
                    tensor.external_data.add(key=key, value=spoilt)
    spoilt_file = cut(held, draw) if held and draw.random() < 0.3 else held
    data = model if draw.random() < 0.4 else mutated(model, draw)
    return _look(draw, base, {"m.onnx": data.SerializeToString(), "w.bin": spoilt_file}, "apart")


# ----- settings -----


@functools.cache
def _cnn() -> bytes:
    return cnn().SerializeToString()


@functools.cache
def _picture(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


_PREPROCESS = b"scale = 0.004\nresize = [8, 8]\n"
_EXPLAIN = ("explain", "m.onnx", "p.png", "-o", "out", "-m", "gradient", "--json")


def _rules(draw: random.Random) -> tuple[Any, Callable[[Any], str]]:
    import tomllib

    names = sorted(e.name for e in importlib.resources.files("onnxsal.rules").iterdir() if e.name.endswith(".toml"))
    text = (importlib.resources.files("onnxsal.rules") / draw.choice(names)).read_text(encoding="utf-8")
    return tomllib.loads(text), toml


def _settings(draw: random.Random) -> Case:
    """Preprocessing, labels, a manifest, metadata, rules: a field or the bytes are spoilt."""
    ids = {"id2label": {str(i): f"c{i}" for i in range(5)}}
    documents: dict[str, tuple[Any, Callable[[Any], str]]] = {
        **{"m.toml": (OURS, toml), "preprocessor_config.json": (VIT, json.dumps), "config.json": ({**TIMM, **ids}, json.dumps)},
        **{"manifest.toml": (MANIFEST, toml), "labels.txt": ("a\nb\nc\nd\ne\n", str), "own.toml": _rules(draw)},
        **{"onnxsal.preprocess": (OURS, json.dumps), "onnxsal.labels": (list("abcde"), json.dumps)},
    }
    if draw.random() < 0.3:
        documents["preprocessor_config.json"] = (CONVNEXT, json.dumps)
    name = draw.choice(sorted(documents))
    document, write = documents[name]
    spoilt = _one_spoilt(document, write, draw)
    files = {"m.onnx": _cnn(), "p.png": _picture("png")}
    if name.startswith("onnxsal."):
        model = onnx.ModelProto.FromString(_cnn())
        model.metadata_props.add(key=name, value=spoilt.decode(errors="replace"))
        if draw.random() < 0.3:
            key = draw.choice(("onnxsal.parameters", "onnxsal.facts", "onnxsal.method", "onnxsal.version", "onnxsal.model_sha256"))
            model.metadata_props.add(key=key, value=draw.choice(("", "{}", "3", "gradient", spoilt.decode(errors="replace"))))
        return Case("metadata", files | {"m.onnx": model.SerializeToString()}, _EXPLAIN, frozenset({"out"}))
    files[name] = spoilt
    if name == "own.toml":
        words = draw.choice(
            (("methods", "own.toml"), ("convert", "m.onnx", "o.onnx", "-m", "own.toml"), ("plan", "m.onnx", "-m", "own.toml", "--json"))
        )
        return Case("rules", files, words, frozenset({"o.onnx"}))
    if name != "m.toml":
        files.setdefault("m.toml", _PREPROCESS) if name == "labels.txt" else None
    return Case("settings", files, _EXPLAIN, frozenset({"out"}))


def _one_spoilt(document: Any, write: Callable[[Any], str], draw: random.Random) -> bytes:
    if not isinstance(document, str) and draw.random() < 0.7:
        return write(draw.choice(list(fields_spoiled(document)))).encode(errors="surrogatepass")
    text = document if isinstance(document, str) else write(document)
    return draw.choice(list(bytes_spoiled(text.encode(), draw)))


def _table(draw: random.Random) -> Case:
    """A table of samples for evaluate."""
    spoilt = _one_spoilt(TABLE, str, draw)
    files = {"m.onnx": _cnn(), "m.toml": _PREPROCESS, "a.png": _picture("png"), "b.png": _picture("png"), "t.csv": spoilt}
    words = ("evaluate", "m.onnx", "t.csv", "-o", "out", "-m", "gradient", "--metrics", "deletion", "--json")
    return Case("table", files, words, frozenset({"out"}))


# ----- pictures and arrays -----


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _data(draw: random.Random) -> Case:
    """A picture or an array."""
    suffix = draw.choice(("png", "jpeg", "gif", "bmp", "tiff", "webp", "npy", "npz"))
    if suffix in ("npy", "npz"):
        kind = draw.choice((np.float32, np.float64, np.int64, np.bool_, np.complex64, "U3", "O"))
        shape = draw.choice(((1, 3, 8, 8), (3, 8, 8), (0, 3, 8, 8), (), (2, 3, 8, 8), (1, 8, 8, 3), (5,)))
        array = np.zeros(shape, kind)
        if kind is np.float32 and array.size:
            array.flat[0] = draw.choice((1, np.nan, np.inf, 1e38))
        file = io.BytesIO()
        np.savez(file, **{draw.choice(("x", "y", "target")): array}) if suffix == "npz" else np.save(file, array)
        data = file.getvalue()
    else:
        data = _picture(suffix)
    if draw.random() < 0.8:
        data = cut(data, draw)
    files = {"m.onnx": _cnn(), "m.toml": _PREPROCESS, f"d/p.{suffix}": data}
    if draw.random() < 0.5:
        words = ("explain", "m.onnx", f"d/p.{suffix}", "-o", "out", "-m", "gradient", "--json")
    else:
        words = ("evaluate", "m.onnx", "d", "-o", "out", "-m", "gradient", "--metrics", "deletion", "--json")
    return Case("data", files, words, frozenset({"out"}))
