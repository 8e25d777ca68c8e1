"""Small data for the tests of ``onnxsal.fleet``: pictures in folders and in Parquet, on this disk and on fsspec's file system in memory."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import fsspec
import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
from PIL import Image

from onnxsal.ask.question import ask as question_of
from onnxsal.ask.request import Ask
from onnxsal.given.from_files import Feeding
from onnxsal.graph import Model
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import open_session
from tests.small_models import cnn, draw, make, node

LABELS = ["cat", "dog", "two words", "y", "z"]
PREPROCESS = Preprocess(scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), resize=(8, 8))
_NUMBER = itertools.count()


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (9, 12)) -> bytes:
    """A picture of noise."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def pictures(folder: Path, count: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> list[Path]:
    """Pictures of several formats and sizes, ``count`` in each of the folders, as they are sorted."""
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            kind = ("PNG", "JPEG", "BMP")[i % 3]
            (folder / name / f"{i}.{kind.lower()}").write_bytes(encoded(10 * c + i, kind, (9 + i, 12 + c)))
    return sorted(p for p in folder.rglob("*") if p.is_file())


def parquet(path: Path, columns: dict[str, list], group: int = 1000) -> Path:
    """A Parquet file with these columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def in_memory(folder: Path) -> str:
    """The files of a folder on the file system in memory; its URI."""
    uri = f"memory://data {next(_NUMBER)}"
    system, root = fsspec.core.url_to_fs(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return uri


def feeding(model: onnx.ModelProto | None = None, input: str | None = None) -> Feeding:
    """How a model is fed; the small network for pictures, if none is given."""
    model = cnn() if model is None else model
    return Feeding(question_of(Model(model), input), open_session(model, "cpu").inputs)


def reads_texts() -> onnx.ModelProto:
    """The mean of the vectors of words, and a classifier."""
    nodes = [node("Gather", "word ids", "words"), node("ReduceMean", "words second", "m", keepdims=0), node("MatMul", "m w", "y")]
    weights = {"word": draw(40, 6, seed=1), "w": draw(6, 3, seed=2), "second": np.array([1])}
    return make(nodes, {"ids": ["N", "L"]}, {"y": ["N", 3]}, weights, types={"ids": onnx.TensorProto.INT64})


def linear(columns: int = 2) -> onnx.ModelProto:
    """y = x, of rows of columns without names."""
    return make([node("MatMul", "x w", "y")], {"x": ["N", columns]}, {"y": ["N", columns]}, {"w": np.eye(columns, dtype=np.float32)})


def asked(model: onnx.ModelProto | None = None, preprocess: Preprocess | None = PREPROCESS) -> Ask:
    return Ask.of(cnn() if model is None else model, "gradient", preprocess=preprocess, labels=LABELS)
