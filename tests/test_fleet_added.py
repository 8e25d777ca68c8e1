"""Rare classes are in the sample: their maps are made, and audits look at them, once everything is done, whoever does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxsal
from onnxsal import fleet
from onnxsal.errors import InputError
from onnxsal.fleet.auditing import AUDIT
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.merging import whole_run
from onnxsal.fleet.strata import PER_CLASS, rank
from onnxsal.report.audit.observe import Looking
from tests.test_fleet_run import KEPT, files, model_and_pictures, ran

pq = pytest.importorskip("pyarrow.parquet")
MANY, RARE, SAMPLE = 60, 3, 12


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many pictures with one label, three with another, and a damaged one with a third."""
    names = [f"{label}/{i:03}.png" for label, count in ((0, MANY), (1, RARE), (2, 1)) for i in range(count)]
    folder = model_and_pictures(tmp_path_factory.mktemp("rare"), names, 11)
    (folder / "data" / "2" / "000.png").write_bytes(b"no picture")
    return folder


def run(here: Path, verb: str, out: Path, *more: object, part: str = "1/1", sample: int = SAMPLE) -> Any:
    words = (verb, here / "net.onnx", here / "data", "-o", out, "--shard-rows", 9, "--sample", sample, "--max-bad", 1)
    return ran(*words, "--shard", part, *more)


@pytest.fixture(scope="module")
def explained(here: Path) -> Path:
    run(here, "explain", here / "explained", "-m", "gradient")
    return here / "explained"


@pytest.fixture(scope="module")
def audited(here: Path) -> Path:
    run(here, "audit", here / "audited", "--methods", "gradient", "--measured", 4)
    return here / "audited"


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for file in sorted((out / "stats").iterdir()) for row in pq.read_table(file).to_pylist()}


def wanted(out: Path, sample: int = SAMPLE) -> tuple[set[str], set[str]]:
    """The ids that are drawn evenly, and those that are added, from the rows and the ends of the numbers."""
    there = [row for row in rows(out).values() if not row["why"]]
    share = sample / (MANY + RARE + 1)
    places: dict[str, int] = {}
    for naming in ("predicted", "label"):
        for of in {row[naming] for row in there}:
            ids = sorted((row["id"] for row in there if row[naming] == of), key=lambda name: rank(name, 0))[:PER_CLASS]
            for place, name in enumerate(ids):
                places[name] = min(place, places.get(name, place))
    first = sorted(places, key=lambda name: (places[name], rank(name, 0)))[:sample]
    numbers = json.loads((out / "report" / "summary.json").read_text())["summary"]
    first += list(dict.fromkeys(row[end] for row in numbers for end in ("min_id", "max_id")))[:sample]
    drawn = {row["id"] for row in there if rank(row["id"], 0) < share}
    return drawn, set(first) - drawn


def test_the_first_of_every_class_have_maps(here: Path, explained: Path):
    drawn, added = wanted(explained)
    assert added
    assert drawn
    kept = dict(fleet.maps(explained))
    assert set(kept) == drawn | added
    assert {f"1/{i:03}.png" for i in range(RARE)} <= set(kept), "all three of the rare class"
    told = json.loads((explained / "report" / "summary.json").read_text())["sample"]
    assert told == {"share": SAMPLE / (MANY + RARE + 1), "added": len(added)}


def test_their_maps_are_those_of_a_run_that_keeps_all(here: Path, explained: Path, tmp_path: Path):
    run(here, "explain", tmp_path / "all", "-m", "gradient", "--maps", "all")
    every = dict(fleet.maps(tmp_path / "all", "gradient"))
    assert len(every) == MANY + RARE
    for name, values in fleet.maps(explained):
        np.testing.assert_array_equal(values, every[name])
    run(here, "explain", tmp_path / "small", "-m", "gradient", "--maps", "small")
    run(here, "explain", tmp_path / "none", "-m", "gradient", "--maps", "none")
    assert {n for n, _ in fleet.maps(tmp_path / "small")} == set(every)
    assert not dict(fleet.maps(tmp_path / "none"))


def test_small_maps_of_all_are_whole_in_the_sample(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnxsal.fleet.working.THUMBNAIL", 4)
    run(here, "explain", tmp_path / "out", "-m", "gradient", "--maps", "small")
    drawn, added = wanted(tmp_path / "out")
    kept = dict(fleet.maps(tmp_path / "out"))
    assert {name for name, values in kept.items() if values.shape == (8, 8)} == drawn | added
    assert {values.shape for name, values in kept.items() if name not in drawn | added} == {(4, 4)}


def test_rows_and_sums_know_nothing_of_them(here: Path, explained: Path):
    """What is said of all data does not depend on what is drawn."""
    assert {name for name, row in rows(explained).items() if row["sampled"]} == wanted(explained)[0]
    assert set(fleet_first(explained)) == {"0", "1"}


def fleet_first(out: Path) -> dict[str, list[str]]:
    return next(iter(whole_run(Folder.of(str(out))).sums.values())).first_of_each("label")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_the_last_part_of_an_array_adds_them(here: Path, explained: Path, order: tuple[int, ...], tmp_path: Path):
    for number in order:
        assert not list((tmp_path / "out" / "maps").glob("*-*-*")), "not before all is done"
        done = run(here, "explain", tmp_path / "out", "-m", "gradient", part=f"{number}/3")
    assert "added to those that were drawn" in " ".join(done.stderr.split())
    ran("merge", tmp_path / "out")
    assert files(tmp_path / "out", *KEPT) == files(explained, *KEPT)


def test_what_a_kill_left_out_is_told_and_made_by_the_same_command(here: Path, explained: Path, tmp_path: Path):
    run(here, "explain", tmp_path / "out", "-m", "gradient")
    lost = sorted((tmp_path / "out" / "maps").glob("*-*-*"))[0]
    count = len(pq.read_table(lost))
    lost.unlink()
    told = " ".join(ran("merge", tmp_path / "out").stderr.split())
    assert f"{count} sample{'s have' if count > 1 else ' has'} no map yet" in told
    done = " ".join(run(here, "explain", tmp_path / "out", "-m", "gradient").stderr.split())
    assert f"{count} sample{'s are' if count > 1 else ' is'} added" in done
    assert files(tmp_path / "out", *KEPT) == files(explained, *KEPT)
    again = " ".join(run(here, "explain", tmp_path / "out", "-m", "gradient").stderr.split())
    assert "added" not in again


def test_nothing_is_added_where_all_are_drawn(here: Path, tmp_path: Path):
    done = run(here, "explain", tmp_path / "out", "-m", "gradient", sample=1000)
    assert "added" not in done.stderr
    assert len(dict(fleet.maps(tmp_path / "out"))) == MANY + RARE


def test_no_more_are_added_than_were_asked_for(here: Path, tmp_path: Path):
    run(here, "explain", tmp_path / "out", "-m", "gradient", sample=2)
    found = rows(tmp_path / "out")
    kept, drawn = set(dict(fleet.maps(tmp_path / "out"))), {name for name, row in found.items() if row["sampled"]}
    numbers = json.loads((tmp_path / "out" / "report" / "summary.json").read_text())["summary"]
    ends = {row[end] for row in numbers for end in ("min_id", "max_id")}
    assert 0 < len(kept - drawn - ends) <= 2, "the first of two classes"
    assert len(kept - drawn) <= 4, "and two ends"
    run(here, "explain", tmp_path / "none", "-m", "gradient", sample=0)
    assert not dict(fleet.maps(tmp_path / "none"))


def test_maps_of_what_is_not_there_are_refused(explained: Path, tmp_path: Path):
    with pytest.raises(InputError, match="holds no run"):
        fleet.maps(tmp_path)
    with pytest.raises(InputError, match=r"has no method 'gradien' \(did you mean 'gradient'\?\)|no method 'gradien'"):
        fleet.maps(explained, "gradien")


# ----- audits -----


def test_an_audit_looks_at_them(here: Path, audited: Path):
    drawn, added = wanted(audited)
    found = json.loads((audited / "report" / "audit.json").read_text())
    assert {p["name"] for p in found["pictures"]} == drawn | added
    assert f"{len(added)} more, over which no mean is taken" in found["population"]["sample"]
    assert f"{len(added)} more, over which no mean is taken" in (audited / "report" / "audit.html").read_text()
    ends = {s[end] for s in found["population"]["statistics"] for end in ("minimum_id", "maximum_id")}
    assert len(ends & added) > 3


def test_means_are_those_of_the_even_sample(here: Path, audited: Path, tmp_path: Path):
    """An audit in one go of the evenly drawn pictures alone says the same of accuracy and of the border."""
    drawn, added = wanted(audited)
    for name in sorted(drawn):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes((here / "data" / name).read_bytes())
    plain = onnxsal.audit(here / "net.onnx", tmp_path / "data", ["gradient"], measured=4).facts
    ours = json.loads((audited / "report" / "audit.json").read_text())
    assert len(ours["pictures"]) == len(plain["pictures"]) + len(added)
    assert ours["accuracy"] == plain["accuracy"]
    for check in ("border", "labels"):
        assert ours["checks"][check]["facts"] == plain["checks"][check]["facts"]


def test_metrics_are_measured_on_the_even_sample_alone(here: Path, audited: Path):
    """So that their means are those of all data, and their intervals hold."""
    found = json.loads((audited / "report" / "audit.json").read_text())
    measured = {p["name"] for p in found["pictures"] if any(m["metrics"] for m in p["maps"].values())}
    assert measured == {name for name, row in rows(audited).items() if not row["why"] and rank(name, 0) < 4 / (MANY + RARE + 1)}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_an_audit_in_parts_says_the_same(here: Path, audited: Path, order: tuple[int, ...], tmp_path: Path):
    words = ("--methods", "gradient", "--measured", 4)
    run(here, "audit", tmp_path / "out", *words, part=f"{order[0]}/2")
    ran("merge", tmp_path / "out")
    half = json.loads((tmp_path / "out" / "report" / "audit.json").read_text())
    assert {p["name"] for p in half["pictures"]} < wanted(audited)[0], "while the run goes on, others may come first"
    run(here, "audit", tmp_path / "out", *words, part=f"{order[1]}/2")
    ran("merge", tmp_path / "out")
    kept = ("stats", "maps", "sums", AUDIT)
    assert files(tmp_path / "out", *kept).keys() == files(audited, *kept).keys()
    names = ("pictures", "findings", "checks", "population")
    both = [json.loads((out / "report" / "audit.json").read_text()) for out in (tmp_path / "out", audited)]
    assert all(both[0][name] == both[1][name] for name in names)


def test_merging_looks_at_those_that_nobody_looked_at(here: Path, audited: Path, tmp_path: Path):
    run(here, "audit", tmp_path / "out", "--methods", "gradient", "--measured", 4)
    for lines in (tmp_path / "out" / AUDIT).glob("*-*-*"):
        lines.unlink()
    ran("merge", tmp_path / "out")
    both = [json.loads((out / "report" / "audit.json").read_text()) for out in (tmp_path / "out", audited)]
    assert [p["name"] for p in both[0]["pictures"]] == [p["name"] for p in both[1]["pictures"]]


def test_what_was_looked_at_counts_also_where_others_are_added_now(
    here: Path, audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With more data another set of a shard's samples is added; nobody looks again at those of it that were in the one before."""
    shutil.copytree(audited, tmp_path / "out")
    (tmp_path / "out" / "report" / "audit.json").unlink()
    for lines in (tmp_path / "out" / AUDIT).glob("*-*-*"):
        lines.rename(lines.with_name(lines.name.replace(lines.name.split("-")[2].split(".")[0], "0123456789ab")))

    def look(*_: object) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr(Looking, "_look", look)
    ran("merge", tmp_path / "out")
    both = [json.loads((out / "report" / "audit.json").read_text()) for out in (tmp_path / "out", audited)]
    assert both[0]["pictures"] == both[1]["pictures"]
