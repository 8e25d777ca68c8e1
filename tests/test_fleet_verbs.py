"""``evaluate`` and ``audit`` by the shard say what they say in one go; tables and texts go through shards too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxsal
from onnxsal import fleet
from onnxsal.fleet.auditing import AUDIT
from tests.test_fleet_run import files, model_and_pictures, ran

pq = pytest.importorskip("pyarrow.parquet")
ROWS = 24


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_and_pictures(tmp_path_factory.mktemp("verbs"), [f"{i % 2}/{i:03}.png" for i in range(ROWS)], 5)


METRICS = ("deletion", "insertion", "residual")


@pytest.fixture(scope="module")
def evaluated(here: Path) -> Path:
    words = ("evaluate", here / "net.onnx", here / "data", "--methods", "gradient,fullgrad", "--metrics", ",".join(METRICS))
    ran(*words, "-o", here / "eval", "--shard", "1/1", "--shard-rows", 10)
    return here / "eval"


def test_evaluate_says_what_it_says_in_one_go(here: Path, evaluated: Path):
    """Every value of every sample to the bit, and means from the sums."""
    found = onnxsal.evaluate(here / "net.onnx", here / "data", ["gradient", "fullgrad"], METRICS)
    rows = {row["id"]: row for file in (evaluated / "stats").iterdir() for row in pq.read_table(file).to_pylist()}
    assert set(rows) == set(found.samples)
    summary = {(r["method"], r["metric"]): r for r in json.loads((evaluated / "report" / "summary.json").read_text())["summary"]}
    for way in found.ways:
        for metric in found.columns:
            if not found.has(way.name, metric):
                continue
            values = found.values(way.name, metric)
            ours = [rows[name][f"{way.name}|{metric}"] for name in found.samples]
            assert np.allclose(np.array([np.nan if v is None else v for v in ours]), values, rtol=1e-6, atol=1e-7, equal_nan=True)
            told = summary[way.name, metric]
            assert told["mean"] == pytest.approx(np.nanmean(values), rel=1e-6)
            assert told["over"] in (None, found.best_baseline(metric))
            mean = found.summary(way.name, metric)
            width = mean.high - mean.low
            assert abs(told["low"] - mean.low) < 0.25 * width + 1e-9
            assert abs(told["high"] - mean.high) < 0.25 * width + 1e-9


def test_evaluate_in_parts_gives_the_same_bits(here: Path, evaluated: Path, tmp_path: Path):
    words = ("evaluate", here / "net.onnx", here / "data", "--methods", "gradient,fullgrad", "--metrics", ",".join(METRICS))
    for part in ("2/2", "1/2"):
        ran(*words, "-o", tmp_path / "out", "--shard", part, "--shard-rows", 10)
    ran("merge", tmp_path / "out")
    assert files(tmp_path / "out", "stats", "sums", "report") == files(evaluated, "stats", "sums", "report")


def test_evaluate_of_a_drawn_sample(here: Path, tmp_path: Path):
    words = ("evaluate", here / "net.onnx", here / "data", "--methods", "ig", "--metrics", "residual", "--samples", 8)
    ran(*words, "-o", tmp_path / "out", "--shard", "1/1", "--shard-rows", 4)
    rows = [row["id"] for file in (tmp_path / "out" / "stats").iterdir() for row in pq.read_table(file).to_pylist()]
    assert 0 < len(rows) < ROWS
    assert all(fleet.Keeping(share=8 / ROWS).drawn(name) for name in rows)


# ----- audits -----


@pytest.fixture(scope="module")
def audited(here: Path) -> Path:
    words = ("audit", here / "net.onnx", here / "data", "--methods", "gradient,fullgrad", "--measured", 12)
    ran(*words, "-o", here / "audit", "--shard", "1/1", "--shard-rows", 10, "--sample", 18)
    return here / "audit"


def test_an_audit_tells_of_all_and_of_its_sample(here: Path, audited: Path):
    found = json.loads((audited / "report" / "audit.json").read_text())
    whole = found["population"]
    assert (whole["total"], whole["explained"], whole["damaged"], whole["missing"]) == (ROWS, ROWS, 0, 0)
    assert 0 < len(found["pictures"]) < ROWS
    rows = {row["id"]: row for file in (audited / "stats").iterdir() for row in pq.read_table(file).to_pylist()}
    assert {p["name"] for p in found["pictures"]} >= {name for name, row in rows.items() if row["sampled"]}  # test_fleet_added: which more
    said = {(s["way"], s["name"]): s for s in whole["statistics"]}
    assert {way for way, _ in said} == {"gradient", "fullgrad"}
    assert all(s["n"] == ROWS for s in said.values() if s["name"] == "score")
    assert sum(c["predicted"] for c in whole["classes"]) == ROWS
    page = (audited / "report" / "audit.html").read_text()
    assert "All of the data" in page
    assert f"of {ROWS}" in page


def test_what_workers_noted_is_what_an_audit_in_one_go_finds(here: Path, audited: Path, tmp_path: Path):
    """The drawn pictures alone, audited in the ordinary way: the same answers, maps and metrics."""
    found = {p["name"]: p for p in json.loads((audited / "report" / "audit.json").read_text())["pictures"]}
    for name in found:
        target = tmp_path / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((here / "data" / name).read_bytes())
    plain = onnxsal.audit(here / "net.onnx", tmp_path / "data", ["gradient", "fullgrad"], measured=ROWS)
    for card in plain.document.pictures:
        ours = found[card.name]
        assert ours["predicted"][0]["index"] == card.predicted[0].index
        for way, numbers in card.maps.items():
            assert ours["maps"][way]["score"] == numbers.score
            for metric, value in ours["maps"][way]["metrics"].items():
                wanted = numbers.metrics[metric]
                assert value is None or value == pytest.approx(wanted, rel=1e-5, abs=1e-7), (card.name, way, metric)


def test_an_audit_merged_elsewhere_is_the_same(here: Path, audited: Path, monkeypatch: pytest.MonkeyPatch):
    """`onnxsal merge` has nothing but the folder: the page says the same, and no sample is explained again for it."""
    before = json.loads((audited / "report" / "audit.json").read_text())
    looked = []
    from onnxsal.report.audit.observe import Looking

    look = Looking._look
    monkeypatch.setattr(Looking, "_look", lambda self, group: (looked.append(len(group)), look(self, group))[1])
    ran("merge", audited)
    after = json.loads((audited / "report" / "audit.json").read_text())
    assert not looked
    for key in before.keys() - {"created"}:
        assert after[key] == before[key], key


def test_an_audit_in_parts_notes_the_same_lines(here: Path, audited: Path, tmp_path: Path):
    words = ("audit", here / "net.onnx", here / "data", "--methods", "gradient,fullgrad", "--measured", 12, "--sample", 18)
    for part in ("1/2", "2/2"):
        ran(*words, "-o", tmp_path / "out", "--shard", part, "--shard-rows", 10)
    for folder in ("stats", "maps", "sums"):
        assert files(tmp_path / "out", folder) == files(audited, folder)
    lines = [{name: sorted(data.splitlines()) for name, data in files(out, AUDIT).items()} for out in (tmp_path / "out", audited)]
    assert lines[0] == lines[1]


# ----- other data -----


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A logistic regression on three named columns, and rows for it."""
    skl2onnx, linear = pytest.importorskip("skl2onnx"), pytest.importorskip("sklearn.linear_model")
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3)).astype(np.float32)
    fitted = linear.LogisticRegression().fit(x, (x[:, 0] > 0).astype(int))
    made = skl2onnx.to_onnx(fitted, x[:1], options={id(fitted): {"zipmap": False}})
    (folder / "net.onnx").write_bytes(made.SerializeToString())
    (folder / "net.toml").write_text('columns = ["a", "b", "c"]\n')
    lines = ["a,b,c,label"] + [f"{a},{b},{c},{int(a > 0)}" for a, b, c in x]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_table_goes_through_shards(table: Path, tmp_path: Path):
    words = ("explain", table / "net.onnx", table / "rows.csv", "-m", "input_x_gradient", "-o", tmp_path / "out")
    ran(*words, "--shard", "1/1", "--shard-rows", 25)
    rows = [row for file in (tmp_path / "out" / "stats").iterdir() for row in pq.read_table(file).to_pylist()]
    found = onnxsal.explain(table / "net.onnx", table / "rows.csv", "input_x_gradient")
    rows.sort(key=lambda row: row["row"])
    assert [row["score"] for row in rows] == found.score.tolist()
    small = np.stack([np.frombuffer(row["small"], "<f2") for row in rows])
    assert np.array_equal(small, found.attribution.reshape(len(rows), -1).astype(np.float16))


def test_evaluate_and_audit_of_a_table(table: Path, tmp_path: Path):
    methods = ("--methods", "input_x_gradient")
    ran("evaluate", table / "net.onnx", table / "rows.csv", *methods, "-o", tmp_path / "e", "--shard", "1/1", "--shard-rows", 25)
    facts: dict[str, Any] = json.loads((tmp_path / "e" / "report" / "summary.json").read_text())
    assert {r["n"] for r in facts["summary"] if r["metric"] == "deletion"} == {60}
    words = ("audit", table / "net.onnx", table / "rows.csv", *methods, "-o", tmp_path / "a", "--sample", 30)
    ran(*words, "--shard", "1/1", "--shard-rows", 25)
    found = json.loads((tmp_path / "a" / "report" / "audit.json").read_text())
    assert found["data"]["kind"] == "rows"
    assert found["population"]["total"] == 60
    assert 10 < len(found["pictures"]) < 60
    rows = {r["id"]: r for file in (tmp_path / "a" / "stats").iterdir() for r in pq.read_table(file).to_pylist()}
    cells = (table / "rows.csv").read_text().splitlines()[1:]
    for card in found["pictures"]:  # rows are called as in the whole table, not by their place in the sample
        row = rows[card["name"]]
        assert card["maps"]["input_x_gradient"]["score"] == pytest.approx(row["score"], rel=1e-5)
        assert [float(v) for v in card["values"]] == pytest.approx([float(c) for c in cells[row["row"]].split(",")[:3]], rel=1e-3, abs=1e-3)
    assert {name for name, row in rows.items() if row["sampled"]} < {card["name"] for card in found["pictures"]}
    assert set(found["population"]["cluster_of"]["input_x_gradient"]) == {card["name"] for card in found["pictures"]}


def test_ways_with_parameters_are_two_keys(here: Path, tmp_path: Path):
    words = ("explain", here / "net.onnx", here / "data", "-o", tmp_path / "out", "--shard", "1/1", "--shard-rows", 24)
    ran(*words, "--methods", "ig:n_steps=3,ig:n_steps=5")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(set(run["keys"].values())) == 2
    assert len(list((tmp_path / "out" / "model").iterdir())) == 2
