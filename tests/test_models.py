"""The models in models/: they are what the manifest says, may be passed on, and answer as they should."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsal.runtime.beside import beside, read_manifest
from onnxsal.runtime.feeds import random_feed
from onnxsal.runtime.labels import find_label, load_labels
from onnxsal.runtime.session import open_session

ROOT = Path(__file__).resolve().parent.parent / "models"
MANIFEST = tomllib.loads((ROOT / "manifest.toml").read_text(encoding="utf-8"))
ENTRIES = [entry for kind in MANIFEST.values() for entry in kind.values()]
MODELS = read_manifest(ROOT / "manifest.toml")
FREE = {"Apache-2.0", "MIT", "CC0-1.0", "public domain"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e["file"])
def test_every_file_is_the_one_described(entry):
    assert hashlib.sha256((ROOT / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert entry["licence"] in FREE
    assert entry["source"]
    assert entry["title"]
    licences = [ROOT / name for name in entry.get("licence_files", [])]
    assert licences or entry["licence"] in ("CC0-1.0", "public domain")
    assert all(path.stat().st_size > 500 for path in licences)


def test_every_file_is_described():
    described = {(ROOT / e["file"]).resolve() for e in ENTRIES} | {
        (ROOT / f).resolve() for e in ENTRIES for f in e.get("licence_files", [])
    }
    present = {path.resolve() for path in ROOT.rglob("*") if path.is_file()}
    assert present - described == {(ROOT / "manifest.toml").resolve()}


@pytest.mark.parametrize("entry", MODELS.values(), ids=MODELS)
def test_every_model_is_plain_onnx_with_a_dynamic_batch(entry):
    model = onnx.load(ROOT / entry["file"])
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert not any(node.domain for node in model.graph.node)
    session = open_session(model)
    one, two = (session.run(random_feed(model, batch=n)) for n in (1, 2))
    for name in one:
        assert len(two[name]) == 2 * len(one[name]) == 2
        assert np.all(np.isfinite(two[name]))
    assert entry["file"].startswith("tiny/") == ((ROOT / entry["file"]).stat().st_size < 100_000)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_efficientnet_sees_what_is_in_the_pictures():
    path = ROOT / "efficientnet_lite0.onnx"
    found = beside(path)
    assert found.preprocess is not None
    assert found.labels == tuple(load_labels(ROOT / "labels/imagenet.txt"))
    assert len(found.labels) == 1000
    predictions = MODELS["efficientnet_lite0"]["predictions"]
    batch = found.preprocess.batch([ROOT / p["picture"] for p in predictions])
    logits = open_session(path).run({"image": batch})["logits"]
    assert logits.shape == (len(predictions), 1000)
    for row, prediction in zip(softmax(logits), predictions, strict=True):
        ranked = np.argsort(row)[::-1]
        for rank, (label, probability) in enumerate(prediction["probabilities"].items()):
            index = find_label(found.labels, label)
            assert ranked[rank] == index
            assert row[index] == pytest.approx(probability, abs=0.01)
