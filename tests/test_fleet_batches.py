"""How many samples a worker explains at a time: what is asked for, else what pays; and on a card always the same number, where the file
leaves it open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import onnxsal.cli.shard_verbs
import onnxsal.fleet.job
import onnxsal.fleet.measuring
from onnxsal.ask.request import Ask
from onnxsal.cli.explain_table import AT_ONCE
from onnxsal.cli.shard_verbs import AT_A_TIME, AT_A_TIME_ON_CUDA
from onnxsal.explainer import Explainer
from onnxsal.graph.emit import ON_CUDA
from tests.small_models import cnn
from tests.test_fleet_run import KEPT, PREPROCESS, files, ran, rows
from tests.test_fleet_verbs import table

__all__ = ["table"]

COUNT = 11


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batches")
    (folder / "open.onnx").write_bytes(cnn().SerializeToString())
    (folder / "two.onnx").write_bytes(cnn(2).SerializeToString())
    (folder / "open.toml").write_text(PREPROCESS)
    (folder / "two.toml").write_text(PREPROCESS)
    (folder / "data").mkdir()
    for i in range(COUNT):
        picture = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(picture).save(folder / "data" / f"{i:03}.png")
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Explainer]:
    """The explainers that workers open."""
    found: list[Explainer] = []
    opening = onnxsal.fleet.job.explainer_of

    def noted(*of: Any) -> Explainer:
        found.append(opening(*of))
        return found[-1]

    monkeypatch.setattr(onnxsal.fleet.job, "explainer_of", noted)
    return found


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decided for a card is decided so on the CPU."""
    monkeypatch.setattr(onnxsal.cli.shard_verbs, "_on_cuda", lambda ask: True)
    opening = onnxsal.fleet.job.explainer_of

    def on_card(*of: Any) -> Explainer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnxsal.fleet.job, "runs_on", lambda providers: ON_CUDA)
            return opening(*of)

    monkeypatch.setattr(onnxsal.fleet.job, "explainer_of", on_card)


def explain(model: Path, data: Path, out: Path, *more: object) -> Path:
    ran("explain", model, data, "-o", out, "-m", "gradient", "--shard", "1/1", *more)
    return out


@pytest.mark.parametrize(("asked", "wanted"), [((), AT_A_TIME), (("--batch-size", 3), 3), (("--batch-size", 1), 1)])
def test_samples_of_a_run_do_not_change_the_numbers(
    here: Path, tmp_path: Path, opened: list[Explainer], asked: tuple[object, ...], wanted: int
):
    found = files(explain(here / "open.onnx", here / "data", tmp_path / "out", *asked), *KEPT)
    assert [(e.batch_size, e.conversion.ask.fixed_batch) for e in opened] == [(wanted, None)]
    assert found == files(explain(here / "open.onnx", here / "data", tmp_path / "alone", "--batch-size", 2), *KEPT)


def test_rows_of_a_table_go_together(table: Path, tmp_path: Path, opened: list[Explainer]):
    explain(table / "net.onnx", table / "rows.csv", tmp_path / "out")
    assert [e.batch_size for e in opened] == [AT_ONCE]


def test_an_audit_holds_no_more_at_a_time(here: Path, tmp_path: Path, opened: list[Explainer]):
    ran(
        "audit",
        here / "open.onnx",
        here / "data",
        "-o",
        tmp_path / "out",
        "-m",
        "gradient",
        "--shard",
        "1/1",
        "--sample",
        4,
        "--measured",
        2,
    )
    assert {e.batch_size for e in opened} == {AT_A_TIME}


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("model", "asked", "size"),
    [("open", (), AT_A_TIME_ON_CUDA), ("open", ("--batch-size", 4), 4), ("two", (), 2), ("two", ("--batch-size", 2), 2)],
)
def test_on_a_card_the_size_is_one(here: Path, tmp_path: Path, opened: list[Explainer], model: str, asked: tuple[object, ...], size: int):
    """Fixed where the file leaves it open, else as the file has it; the last batch is filled up, and nothing of that comes out."""
    out = explain(here / f"{model}.onnx", here / "data", tmp_path / "out", *asked)
    assert [(e.batch_size, e.conversion.ask.fixed_batch) for e in opened] == [(size, size if model == "open" else None)]
    assert all(run == size for e in opened for run in [e._batches.rows(1, "any shape")])
    plain = explain(here / "open.onnx", here / "data", tmp_path / "plain", "--batch-size", 1)
    ours, theirs = ({row["id"]: row for row in rows(place)} for place in (out, plain))
    assert len(ours) == COUNT
    for name, row in ours.items():
        assert row["why"] == ""
        assert row["score"] == pytest.approx(theirs[name]["score"], rel=1e-6)
        assert row["total"] == pytest.approx(theirs[name]["total"], rel=1e-5)


@pytest.mark.parametrize(("model", "fixed"), [("open", 4), ("two", None)])
def test_what_measures_has_one_size_too(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, fixed: int | None):
    seen: list[Ask] = []
    measuring = onnxsal.fleet.measuring.evaluated

    def noted(ask: Ask, work: Any) -> Any:
        seen.append(ask)
        return measuring(ask, work)

    monkeypatch.setattr(onnxsal.fleet.measuring, "evaluated", noted)
    monkeypatch.setattr(onnxsal.fleet.job, "runs_on", lambda providers: ON_CUDA)
    words = ("evaluate", here / f"{model}.onnx", here / "data", "-m", "gradient", "--metrics", "deletion", "--batch-size", 4)
    ran(*words, "-o", tmp_path / "out", "--shard", "1/1")
    assert [ask.fixed_batch for ask in seen] == [fixed]
    assert [row["why"] for row in rows(tmp_path / "out")] == [""] * COUNT
