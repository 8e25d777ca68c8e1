"""Texts by the shard: each line a sample, by the tokenizer beside the model, which workers find with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxsal
from tests.test_fleet_run import ran
from tests.test_text import bert
from tests.tokenizer_files import saved, word_piece

pq = pytest.importorskip("pyarrow.parquet")
LINES = ["the cat sat on the mat .", "a dog", "playing cats", "the dog played on a mat ."]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lines")
    onnx.save(bert("legacy"), folder / "net.onnx")
    saved(word_piece(), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16}))
    (folder / "lines.txt").write_text("\n".join(LINES) + "\n")
    return folder


def test_lines_of_a_file(here: Path, tmp_path: Path):
    """The same numbers as each text alone in the plain way; the folder of the run is all that a worker needs."""
    words = (
        "explain",
        here / "net.onnx",
        here / "lines.txt",
        "-m",
        "fullgrad",
        "-o",
        tmp_path / "out",
        "--shard",
        "1/1",
        "--shard-rows",
        3,
    )
    ran(*words)
    rows = sorted((row for f in (tmp_path / "out" / "stats").iterdir() for row in pq.read_table(f).to_pylist()), key=lambda row: row["row"])
    assert [row["why"] for row in rows] == [""] * len(LINES)
    explainer = onnxsal.Explainer(here / "net.onnx", "fullgrad")
    for row, line in zip(rows, LINES, strict=True):
        one = explainer.explain(text=line)
        assert row["score"] == pytest.approx(float(one.score[0]), rel=1e-5)
        assert row["total"] == pytest.approx(float(np.abs(one.attribution.astype(np.float64)).sum()), rel=1e-5)
    assert (tmp_path / "out" / "model" / "tokenizer.json").exists()


def test_what_is_typed_is_not_by_the_shard(here: Path, tmp_path: Path):
    done = ran("explain", here / "net.onnx", "--text", "a cat", "-o", tmp_path / "out", "--shard", "1/1", status=2)
    assert "--text: not by the shard" in " ".join(done.stderr.split())
