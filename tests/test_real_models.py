"""tools/real_models.py: what it measures is right on models that the tests have, and docs/models.md is the page of its table."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.small_models import cnn, draw, make, node
from tools.models import page
from tools.models.numbers import Made, cut, ends, finite, measured, verdict
from tools.models.sources import Cache
from tools.models.table import TABLE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
QUICK = [entry for entry in TABLE if entry.quick]


def last(made: Made, *methods: str) -> dict:
    return list(measured(made, methods))[-1]


@pytest.mark.parametrize("entry", QUICK, ids=lambda e: e.name)
def test_models_that_need_no_download(entry, tmp_path):
    record = last(entry.make(Cache(tmp_path)), "gradient")
    assert record["methods"] == {"gradient": "works"}
    assert record["against"].startswith("float64")
    assert record["error"] < 5e-3  # one unit of millions on the other side of its kink in float32 is 1e-3
    assert not any(tmp_path.iterdir())
    assert "failed" not in record
    assert page.row(entry, record, {}).count(" | ") == 6 + len(page.METHODS)


def test_a_wrong_gradient_is_seen():
    made = Made(cnn(), {"x": draw(2, 3, 8, 8, seed=7)}, {})
    works, held = verdict(made, "gradient")
    assert works == "works"
    assert held is not None
    assert finite(made.proto, made, held)["error"] < 1e-5
    wrong = replace(held, told=replace(held.told, attribution=1.01 * held.told.attribution))
    assert finite(made.proto, made, wrong)["error"] == pytest.approx(0.01, rel=1e-3)


def test_a_map_of_zeros_is_wrong_in_any_sample():
    nodes = [node("Relu", "x", "r"), node("MatMul", "r w", "y")]
    proto = make(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    x = np.stack([np.ones(4), -np.ones(4)]).astype(np.float32)
    assert verdict(Made(proto, {"x": x}, {}), "gradient")[0] == "wrong: zero everywhere in 1 of 2 samples"
    assert verdict(Made(proto, {"x": x[:1]}, {}), "gradient")[0] == "works"


def test_a_refusal_names_its_reason_and_the_operators():
    nodes = [node("Softmax", "x", "s", axis=-1), node("MatMul", "s w", "y")]
    proto = make(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    said, held = verdict(Made(proto, {"x": draw(2, 4)}, {}), "lrp_epsilon")
    assert held is None
    assert said.startswith("refused: method 'lrp_epsilon' cannot explain this model")
    assert said.endswith(": Softmax")


def test_an_inner_tensor_is_compared_from_there_on():
    nodes = [
        node("Gather", "table ids", "e"),
        node("Tanh", "e", "t"),
        node("ReduceSum", "t axes", "s", keepdims=0),
        node("MatMul", "s w", "y"),
    ]
    weights = {"table": draw(9, 4, seed=1), "axes": np.asarray([1], np.int64), "w": draw(4, 3, seed=2)}
    proto = make(nodes, {"ids": ["N", "T"]}, {"y": ["N", 3]}, weights, types={"ids": onnx.TensorProto.INT64})
    part = cut(proto, "e", "y")
    assert [i.name for i in part.graph.input] == ["e"]
    assert {t.name for t in part.graph.initializer} == {"axes", "w"}
    made = Made(proto, {"ids": np.asarray([[1, 2, 3], [4, 5, 6]])}, {"input": "e"})
    record = last(made, "gradient", "fullgrad")
    assert (record["x"], record["shape"]) == ("e", [2, 3, 4])
    assert record["error"] < 1e-5
    assert record["residual"] < page.RESIDUAL


def test_half_precision_is_compared_with_its_twin():
    made = Made(cnn(dtype=np.float16), {"x": draw(2, 3, 8, 8, seed=7, dtype=np.float16)}, {}, cnn())
    works, held = verdict(made, "gradient")
    assert (works, ends(held)["shape"]) == ("works", [2, 3, 8, 8])
    record = last(made, "gradient")
    assert record["against"] == "float32 twin"
    assert record["error"] < 0.05
    assert record["twin_error"] < 1e-5


def test_the_page_lists_the_models_of_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(page.HEADER)
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    names = [re.match(r"\| \*\*(.*?)\*\*: ", row)[1] for row in rows]
    assert names == [entry.name for entry in TABLE], "run tools/real_models.py"
    assert len(set(names)) == len(names)
    for row, entry in zip(rows, TABLE, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 7 + len(page.METHODS), row
        assert cells[1] == f"{entry.source}; {entry.licence}"
    reasons = [int(n) for n in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert reasons == list(range(1, len(reasons) + 1))
    assert {int(n) for row in rows for n in re.findall(r"(?:no|\*\*\w+\*\*) \((\d+)\)", row)} == set(reasons)
