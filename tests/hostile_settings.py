"""Settings of every kind, spoiled in every way: each valid file field by field, and its bytes."""

from __future__ import annotations

import importlib.resources
import json
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

import onnxsal
from onnxsal.ask.request import Ask
from onnxsal.engine.method import get_method
from onnxsal.facade.adopt import adopt
from onnxsal.methods.patterns.file import load_patterns
from onnxsal.metrics import record, retrain
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.report.audit.form import read_form
from onnxsal.report.audit.lines import kind_of
from onnxsal.runtime.beside import Beside, beside, from_metadata
from onnxsal.runtime.labels import load_labels
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import load_preprocess
from onnxsal.runtime.session import Tensor
from tests.small_models import cnn

DEEP: Any = 1
for _ in range(200):
    DEEP = [DEEP]

WRONG: tuple[Any, ...] = (
    *("false", "no", "1", "", "x" * 70_000, "../../x", "a\0b", "\ud800", "nan", "\x1b[2J"),
    *(True, None, 0, -1, 8.7, 1_000_000, 10**30, 10**400, 5e-324, 1.7e308, float("nan"), float("inf")),
    *([], [1, 2], ["x"], [None], [True], [[1]], {}, {"a": 1}, {"height": 8.7, "width": 1}, DEEP, [0] * 5000),
)

VIT = {
    **{"do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    **{"image_processor_type": "ViTImageProcessor", "resample": 2, "rescale_factor": 0.0039, "size": {"height": 8, "width": 8}},
    **{"do_center_crop": True, "crop_size": {"height": 8, "width": 8}, "data_format": "channels_first", "do_flip_channel_order": False},
}
CONVNEXT = {**VIT, "image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875, "size": {"shortest_edge": 24}}
TIMM = {
    "num_classes": 2,
    "label_names": ["tench", "goldfish"],
    "pretrained_cfg": {
        **{"input_size": [3, 8, 8], "crop_pct": 0.95, "crop_mode": "center", "interpolation": "bicubic"},
        **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    },
}
OURS = {
    **{"layout": "NCHW", "channels": "RGB", "resize": [8, 8], "crop": 8, "crop_pct": 0.9, "interpolation": "bicubic", "dtype": "float32"},
    **{"scale": 1, "mean": [104, 117, 123], "std": 1.0},
}
MANIFEST = {"models": {"net": {"file": "net.onnx", "labels": "l.txt", "preprocess": OURS}, "other": {"file": "o.onnx"}}}
FORM = {"annex_iv": {"provider": "A", "standards": ["ISO 1", "ISO 2"]}, "model_card": {"licence": "MIT"}}
LINE = {
    **{"key": "k", "sample": "a.png", "digest": "d", "way": "gradient", "metric": "deletion", "target": 1, "distinct": 9, "tied": 0.5},
    **{"values": {"deletion": 0.25, "x": None}, "curves": {"deletion": [[0.0, 1.0], [0.5, None]]}, "flag": ""},
}
HEAD = {"key": "k", "sample": "a.png", "digest": "d", "way": "gradient"}
ANY_MAP = {**HEAD, "kind": "map", "target": 1, "score": 0.5, "residual": None, "reached": None, "warnings": ["w"], "empty": ""}
MAP = {**ANY_MAP, "rim": [0.1, 0.2], "cells": [0.5, 0.5], "picture": "data:image/png;base64,AAAA"}
ROW_MAP = {**ANY_MAP, "columns": [0.5, -0.25]}
BASE = {**HEAD, "kind": "base", "label": None, "size": [8, 8], "picture": "data:image/png;base64,AAAA", "top": [[1, 0.5], [0, 0.2]]}
TABLE = "file,label,mask\na.png,1,\nb.png,tench,m.png\n"


def as_toml(value: Any) -> str:
    """A value as TOML writes it in a line; what TOML cannot say comes out as something that is no TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return str(value).lower() if isinstance(value, float) and value != value else json.dumps(value).replace("Infinity", "inf")


def toml(table: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(k)} = {as_toml(v)}\n" for k, v in table.items())


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, of long lists the first two."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Callable[[Any, Any], None]) -> Any:
    """A copy in which ``new`` was done to the container and key of a place."""
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in at[:-1]:
        holder = holder[key]
    new(holder, at[-1])
    return copy


def fields_spoiled(document: Any) -> Iterator[Any]:
    """Every field with every wrong value, missing, under another name, and with a neighbour that is not known."""
    for at in places(document):
        for wrong in WRONG:
            yield replaced(document, at, lambda holder, key, wrong=wrong: holder.__setitem__(key, wrong))  # type: ignore[misc]
        yield replaced(document, at, lambda holder, key: holder.__delitem__(key))
        if isinstance(at[-1], str):
            yield replaced(document, at, lambda holder, key: holder.__setitem__(f"{key}x", holder.pop(key)))
            yield replaced(document, at, lambda holder, key: holder.__setitem__("\u2028 nobody", 3))


def bytes_spoiled(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Empty, cut short, in other encodings, with NUL, doubled, nested without end, and with single bytes changed."""
    text = data.decode()
    yield from (
        b"",
        b"\0",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf" + data,
        text.encode("utf-16"),
        data + b"\0",
        data * 2,
        data[:-1],
        b"null",
        b"3",
    )
    yield from (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"a = " + b"[" * 100_000,
        b".".join([b"a"] * 50_000) + b" = 1",
        b"(" * 10_000,
        b'"',
        b"{",
    )
    yield from (b"a = 0x" + b"f" * 100_000, b"[" + b"9" * 10_000 + b"]", b'{"' + b"9" * 10_000 + b'": "x"}', b"\r\n" * 50, b"\x1b]0;x\x07")
    for _ in range(12):
        yield data[: rng.randrange(len(data))]
        i = rng.randrange(len(data))
        yield data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :]
        i, j = sorted(rng.randrange(len(data)) for _ in range(2))
        yield data[:i] + data[j:] + data[i:j]


@dataclass(frozen=True)
class Kind:
    """A file of settings: a valid document, how it is written, and who reads it."""

    name: str
    document: Any
    write: Callable[[Any], str]
    read: Callable[[Path], object]

    def spoiled(self, rng: random.Random) -> Iterator[bytes]:
        """The valid file, then spoiled ones."""
        if not isinstance(self.document, str):
            for one in fields_spoiled(self.document):
                yield self.write(one).encode(errors="surrogatepass")
        yield from bytes_spoiled(self.valid, rng)

    @property
    def valid(self) -> bytes:
        return (self.document if isinstance(self.document, str) else self.write(self.document)).encode()


PICTURE = Image.fromarray(np.zeros((9, 12, 3), np.uint8))
LABELS = ["tench", "goldfish"]


def prepared(path: Path) -> object:
    """Preprocessing, applied to a picture."""
    return load_preprocess(path).apply(PICTURE)


def dataset(path: Path) -> object:
    data = open_dataset(path, Tensor("x", "tensor(float)", np.dtype(np.float32), (None, 3, 8, 8)), Preprocess(1, resize=(8, 8)), LABELS)
    return [data.label(n) for n in data.names]


def settled(path: Path) -> object:
    method = get_method(path)
    return method.bound(method.settle({}))


CONVERTED = onnxsal.convert(cnn(), "gradcam", target=1)
META = {p.key: p.value for p in CONVERTED.metadata_props}


def adopted(key: str) -> Callable[[Path], object]:
    """Reads a converted model in which the metadata ``key`` are the text of a file, as a model file would hold it."""

    def read(path: Path) -> object:
        model = onnx.ModelProto()
        model.CopyFrom(CONVERTED)
        try:
            next(p for p in model.metadata_props if p.key == key).value = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return None
        return adopt(Ask.of(model))

    return read


def carried(key: str) -> Callable[[Path], object]:
    """Reads metadata that say how a model is fed."""

    def read(path: Path) -> object:
        try:
            return from_metadata(Beside(), {key: path.read_text(encoding="utf-8")}, "m.onnx")
        except UnicodeDecodeError:
            return None

    return read


def resumed(path: Path) -> object:
    found = record.Record(path, record.measured_or_damaged)
    with found.alone():
        line = found.get("k", "a.png", "d")
        return line and [line["target"], line["tied"], {k: record.unpacked(v) for k, v in line["values"].items()}]


def looked_at(path: Path) -> object:
    with record.Record(path, kind_of).alone():
        return None


def patterns_file(path: Path) -> object:
    """The meta of a file of patterns is the text of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    arrays = {f"{k}{e}/w": np.zeros(2, np.uint8 if k else np.float32) for k in ("", "origin.") for e in ("linear", "positive", "negative")}
    np.savez(path.with_suffix(".npz"), **arrays, **{"active/w": np.zeros(2, np.int64), "meta": np.asarray(text)})
    return load_patterns(path.with_suffix(".npz")).inactive


PATTERNS = {
    **{"format": 1, "model_sha256": "00", "samples": 3, "estimators": ["linear"], "facts": {"seconds": 1.5}},
    "layers": {"w": {"node": "c", "samples": 3, "digest": "00"}},
}


def rules() -> Iterator[tuple[str, str]]:
    for entry in sorted(importlib.resources.files("onnxsal.rules").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            yield entry.name, entry.read_text(encoding="utf-8")


def kinds() -> list[Kind]:
    """Every kind of settings file that the package reads."""
    found = [
        Kind("m.toml", OURS, toml, prepared),
        Kind("preprocessor_config.json", VIT, json.dumps, prepared),
        Kind("preprocessor_config.json", CONVNEXT, json.dumps, prepared),
        Kind("config.json", TIMM, json.dumps, lambda p: (prepared(p), beside(p.with_name("net.onnx")))),
        Kind("config.json", {"id2label": {"0": "a", "1": "b"}}, json.dumps, load_labels),
        Kind("list.json", ["tench", "goldfish"], json.dumps, load_labels),
        Kind("index.json", {"0": ["n01", "tench"], "1": ["n02", "goldfish"]}, json.dumps, load_labels),
        Kind("labels.txt", "tench\ngoldfish, Carassius\n", str, load_labels),
        Kind("dict.txt", "{0: 'tench', 1: ['a', 'goldfish'], }", str, load_labels),
        Kind("net.toml", {**OURS, "labels": "l.txt"}, toml, lambda p: beside(p.with_name("net.onnx"))),
        Kind("manifest.toml", MANIFEST, toml, lambda p: beside(p.with_name("net.onnx"))),
        Kind("form.toml", FORM, toml, read_form),
        Kind("table.csv", TABLE, str, dataset),
        Kind("state.jsonl", LINE, lambda v: json.dumps(v) + "\n", resumed),
        Kind("map.jsonl", MAP, lambda v: json.dumps(v) + "\n", looked_at),
        Kind("row.jsonl", ROW_MAP, lambda v: json.dumps(v) + "\n", looked_at),
        Kind("base.jsonl", BASE, lambda v: json.dumps(v) + "\n", looked_at),
        Kind("roar.json", {"run": "r", "accuracy": {"10/0": 0.5}}, json.dumps, lambda p: retrain._Record(p, "r").get(10, 0)),
        Kind("meta.json", PATTERNS, json.dumps, patterns_file),
        Kind("labels.json", LABELS, json.dumps, carried("onnxsal.labels")),
        Kind("preprocess.json", OURS, json.dumps, carried("onnxsal.preprocess")),
        Kind("parameters.json", json.loads(META["onnxsal.parameters"]), json.dumps, adopted("onnxsal.parameters")),
        Kind("facts.json", json.loads(META["onnxsal.facts"]), json.dumps, adopted("onnxsal.facts")),
    ]
    return found + [Kind(f"rules_{name}", tomllib.loads(text), toml, settled) for name, text in rules()]


def sample(kind: Kind, rng: random.Random, most: int) -> list[bytes]:
    """At most so many spoiled files of a kind, drawn without bias from all."""
    every = list(kind.spoiled(rng))
    return rng.sample(every, min(most, len(every)))
