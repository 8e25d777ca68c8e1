"""Runs by the shard of files with any name: bytes that are no UTF-8, and characters that a terminal obeys or a spreadsheet calculates."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxsal.untrusted import as_it_was
from tests.small_models import cnn
from tests.test_fleet_run import ran
from tests.test_hostile_files import PREPROCESS, strict

ODD = os.fsdecode(b"\xfe\x1b]0;pwn\x07")
NAMES = [os.fsdecode(b"a\xff\\xfe"), "1", "=2", "\u202e3", "bad\x9b2J"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of such a name with a model, its preprocessing, its labels and pictures, one of them damaged."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    (folder / "data").mkdir(parents=True)
    onnx.save(cnn(), folder / f"{ODD}.onnx")
    (folder / f"{ODD}.toml").write_text(PREPROCESS)
    (folder / f"{ODD}.labels.txt").write_text("\n".join(["a\x1b[2J", "[red]b", "=c", "\u202ed", "e"]))
    for i, name in enumerate(NAMES[:-1]):
        with open(folder / "data" / f"{name}.png", "wb") as file:
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)).save(file, "PNG")
    (folder / "data" / f"{NAMES[-1]}.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("words", [("explain",), ("evaluate", "--metrics", "deletion"), ("audit",)], ids=lambda w: w[0])
def test_a_run_of_any_names_is_merged_and_nothing_of_them_acts(odd: Path, words: tuple[str, ...]):
    """The first part, the second, which reads what the first wrote, and merging, which reads all."""
    out = odd / words[0]
    asked = (words[0], odd / f"{ODD}.onnx", odd / "data", "-o", out, "-m", "gradient", "--shard-rows", 3, "--max-bad", 1, *words[1:])
    said = [ran(*asked, "--shard", f"{i}/2") for i in (1, 2)] + [ran("merge", out)]
    ids = set()
    for file in sorted(out.rglob("*")):
        if file.suffix in (".json", ".csv", ".html", ".jsonl"):
            text = file.read_text(encoding="utf-8")
            strict(text, "\n" if file.suffix == ".html" else "\n\u202e")  # data hold names as they are
            if file.name == "summary.csv":
                cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
                assert not [cell for cell in cells if cell[:1] in ("=", "@", "\t", "\r")]
            if file.parent.name == "sums":
                sums = json.loads(text)["sums"]["columns"].values()
                ids |= {name for column in sums for _, name in (*column["lowest"], *column["highest"])}
    assert {as_it_was(name) for name in ids} == {f"{name}.png" for name in NAMES[:-1]}
    for done in said:
        strict(done.output)


def test_a_name_that_is_no_place_is_told_and_does_not_act(odd: Path):
    strict(ran("merge", odd / "data", status=2).output)
