"""Runs by the shard: the same bits however they are cut up, stopped and gone on with; and what ends them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal import fleet
from onnxsal.cli.app import app
from onnxsal.cli.shard_options import engine_of
from onnxsal.errors import InputError
from onnxsal.fleet.cutting import shards
from onnxsal.fleet.folders import TEMPORARY, Folder
from onnxsal.fleet.resume import Todo, mine, part_of_run, todo
from onnxsal.fleet.strata import rank
from onnxsal.fleet.working import Keeping
from tests.small_models import cnn

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

ROWS = 40
PREPROCESS = 'scale = 0.00392156862745098\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\nlayout = "NCHW"\nresize = [8, 8]\n'
runner = CliRunner()


def model_and_pictures(folder: Path, names: Sequence[str], seed: int, size: tuple[int, int] = (8, 8)) -> Path:
    """net.onnx with its preprocessing beside it, and pictures of noise of these names in data/."""
    (folder / "net.onnx").write_bytes(cnn().SerializeToString())
    (folder / "net.toml").write_text(PREPROCESS)
    rng = np.random.default_rng(seed)
    for name in names:
        place = folder / "data" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(place)
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its preprocessing beside it, and a folder of pictures in two classes, one damaged and one twice."""
    folder = model_and_pictures(tmp_path_factory.mktemp("fleet"), [f"{i % 2}/{i:03}.png" for i in range(ROWS)], 3, (12, 10))
    (folder / "data" / "0" / "004.png").write_bytes(b"no picture")
    shutil.copy(folder / "data" / "1" / "007.png", folder / "data" / "1" / "009.png")
    return folder


def ran(*words: object, status: int = 0) -> Any:
    done = runner.invoke(app, [str(w) for w in words])
    assert done.exit_code == status, (done.exit_code, done.output, done.exception)
    return done


def explain(here: Path, out: Path, *more: object, status: int = 0) -> Any:
    words = ("explain", here / "net.onnx", here / "data", "-o", out, "-m", "gradient", "--shard-rows", 8, "--sample", 10, "--max-bad", 1)
    return ran(*words, *(more or ("--shard", "1/1")), status=status)


def files(out: Path, *folders: str) -> dict[str, bytes]:
    """What a run left, but for what tells of the run itself, and for what a kill left half written, which nobody reads."""
    found = [p for f in folders for p in sorted((out / f).rglob("*")) if p.is_file() and not p.name.startswith(TEMPORARY)]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in found}


KEPT = ("stats", "maps", "sums", "report")


@pytest.fixture(scope="module")
def whole(here: Path) -> Path:
    """A run that nothing disturbed."""
    out = here / "whole"
    explain(here, out)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((out / "stats").iterdir()) for row in pq.read_table(file).to_pylist()]


def test_every_sample_has_a_row(here: Path, whole: Path):
    found = {row["id"]: row for row in rows(whole)}
    assert set(found) == {p.relative_to(here / "data").as_posix() for p in (here / "data").rglob("*.png")}
    assert [name for name, row in found.items() if row["why"]] == ["0/004.png"]
    assert found["1/007.png"]["digest"] == found["1/009.png"]["digest"]
    facts = json.loads((whole / "report" / "summary.json").read_text())
    assert facts["samples"] == {"total": ROWS, "done": ROWS, "missing": 0, "bad": 1, "duplicates": 1}
    assert {row["n"] for row in facts["summary"] if row["number"] == "score"} == {ROWS - 1}


def test_rows_are_what_an_explainer_says(here: Path, whole: Path):
    """The numbers of single samples, explained one by one in the plain way."""
    explainer = onnxsal.Explainer(here / "net.onnx", "gradient", batch_size=1)
    for row in rows(whole)[:12]:
        if row["why"]:
            continue
        one = explainer.explain(here / "data" / row["id"])
        assert row["target"] == row["predicted"] == int(one.target[0])
        assert row["score"] == float(one.score[0])
        assert row["total"] == float(np.abs(one.attribution.astype(np.float64)).sum())
        assert row["label"] == int(row["id"].split("/")[0])
        small = np.frombuffer(row["small"], "<f2").reshape(row["small_shape"])
        assert np.array_equal(small, one.saliency_map[0].astype(np.float16))  # 8 x 8 has fewer than 16 cells


def test_maps_are_of_the_drawn_sample(here: Path, whole: Path):
    kept = {row["id"] for file in (whole / "maps").iterdir() for row in pq.read_table(file).to_pylist()}
    share = json.loads((whole / "run.json").read_text())["share"]
    assert share == 10 / ROWS
    drawn = {row["id"] for row in rows(whole) if row["sampled"]}
    assert drawn == {r["id"] for r in rows(whole) if rank(r["id"], 0) < share and not r["why"]}
    assert drawn < kept  # and those that were added: tests/test_fleet_added.py


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_an_array_give_the_same_bits(here: Path, whole: Path, parts: int, tmp_path: Path):
    order = list(range(1, parts + 1))
    random.Random(parts).shuffle(order)
    for number in order:
        explain(here, tmp_path / "out", "--shard", f"{number}/{parts}")
    ran("merge", tmp_path / "out")
    assert files(tmp_path / "out", *KEPT) == files(whole, *KEPT)


def test_merging_goes_on_while_a_run_does(here: Path, whole: Path, tmp_path: Path):
    explain(here, tmp_path / "out", "--shard", "1/2")
    done = ran("merge", tmp_path / "out", "--json")
    half = json.loads(done.stdout)
    assert 0 < half["samples"]["done"] < ROWS
    assert half["samples"]["missing"] == ROWS - half["samples"]["done"]
    explain(here, tmp_path / "out", "--shard", "2/2")
    ran("merge", tmp_path / "out")
    assert files(tmp_path / "out", *KEPT) == files(whole, *KEPT)


def test_a_shard_that_is_half_done_is_done_again(here: Path, whole: Path, tmp_path: Path):
    """The sums are written last: without them nothing else of a shard counts."""
    shutil.copytree(whole, tmp_path / "out")
    sums = sorted((tmp_path / "out" / "sums").iterdir())
    sums[0].unlink()
    stats = tmp_path / "out" / "stats" / sums[1].name.replace(".json", ".parquet")
    sums[1].unlink()
    stats.write_bytes(stats.read_bytes()[:100])
    explain(here, tmp_path / "out")
    assert files(tmp_path / "out", *KEPT) == files(whole, *KEPT)


def test_what_a_kill_left_half_written_is_swept_when_it_is_old(here: Path, whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "out")
    old, new = (tmp_path / "out" / "stats" / f"{TEMPORARY}{name}" for name in ("old", "new"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1, 1))
    explain(here, tmp_path / "out")
    assert not old.exists()
    assert new.exists()  # it may be of a worker that is at work


def test_nothing_is_done_twice(here: Path, whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "stats").iterdir()}
    done = explain(here, tmp_path / "out")
    assert "were done before; 0 are done now" in " ".join(done.stderr.split())
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "stats").iterdir()} == times


def test_a_changed_file_is_another_shard_and_the_old_one_stale(here: Path, whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "out")
    shutil.copytree(here / "data", tmp_path / "data")
    picture = tmp_path / "data" / "0" / "006.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(picture)
    words = ("explain", here / "net.onnx", tmp_path / "data", "-o", tmp_path / "new", "-m", "gradient", "--shard-rows", 8, "--shard", "1/1")
    ran(*words, "--max-bad", 1)
    Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(picture)
    os.utime(picture, ns=(1, 1))
    told = " ".join(ran("merge", tmp_path / "new").stderr.split())
    assert "1 shard is stale" in told
    assert "are in shards that are not done yet" in told
    ran(*words, "--max-bad", 1)
    facts = json.loads((tmp_path / "new" / "report" / "summary.json").read_text())
    assert facts["samples"]["done"] == ROWS
    assert len(facts["stale"]) == 1


def test_another_run_is_refused(here: Path, whole: Path):
    done = explain(here, whole, "--shard", "1/1", "-m", "fullgrad", status=2)
    assert "holds another run (explain by gradient" in " ".join(done.stderr.split())
    done = explain(here, whole, "--shard", "1/1", "--target", "1", status=2)
    assert "another model, preprocessing, setting, target or version" in " ".join(done.stderr.split())


def test_a_folder_of_others_is_left_alone(here: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    done = explain(here, tmp_path / "out", status=2)
    assert "holds other files ('thesis.txt')" in " ".join(done.stderr.split())


def test_too_many_bad_samples_end_with_status_1(here: Path, tmp_path: Path):
    done = explain(here, tmp_path / "out", "--shard", "1/1", "--max-bad", "0.01", status=1)
    assert "1 of 40 samples have no explanation, more than --max-bad 0.01" in " ".join(done.stderr.split())
    assert (tmp_path / "out" / "report" / "summary.json").exists()


def test_a_first_shard_of_bad_samples_stops_everything(here: Path, tmp_path: Path):
    for i in range(20):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{i}.png").write_bytes(b"no picture")
    words = ("explain", here / "net.onnx", tmp_path / "data", "-o", tmp_path / "out", "-m", "gradient", "--shard-rows", 8, "--shard", "1/1")
    done = ran(*words, status=2)
    assert "none of the 8 samples of the first shard could be explained" in " ".join(done.stderr.split())
    assert len(list((tmp_path / "out" / "stats").iterdir())) == 1


def test_bad_samples_are_tried_again_when_asked(here: Path, tmp_path: Path):
    shutil.copytree(here / "data", tmp_path / "data")
    words = ("explain", here / "net.onnx", tmp_path / "data", "-o", tmp_path / "out", "-m", "gradient", "--shard-rows", 8, "--shard", "1/1")
    ran(*words, "--max-bad", 1)
    before = {p.name for p in (tmp_path / "out" / "sums").iterdir()}
    done = ran(*words, "--retry-bad", "--max-bad", 1)
    assert "4 of 5 shards were done before; 1 are done now" in " ".join(done.stderr.split())
    assert {p.name for p in (tmp_path / "out" / "sums").iterdir()} == before


def test_verify_reads_everything_again(here: Path, whole: Path, tmp_path: Path):
    shutil.copytree(here / "data", tmp_path / "data")
    words = ("explain", here / "net.onnx", tmp_path / "data", "-o", tmp_path / "out", "-m", "gradient", "--shard-rows", 8, "--shard", "1/1")
    ran(*words, "--max-bad", 1)
    ran("merge", tmp_path / "out", "--verify")
    picture = tmp_path / "data" / "1" / "011.png"
    kept = picture.stat()
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(bytes(data))
    os.utime(picture, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    done = ran("merge", tmp_path / "out", "--verify", status=2)
    assert "1 of 40 samples are not those that were explained: 1/011.png" in " ".join(done.stderr.split())


def test_dry_run_does_one_shard_and_tells_the_rest(here: Path, tmp_path: Path):
    told = json.loads(explain(here, tmp_path / "out", "--dry-run", "--json").stdout)
    assert told["samples"] == ROWS
    assert told["bytes"] > 0
    assert told["worker_hours"] > 0
    assert len(list((tmp_path / "out" / "sums").iterdir())) == 1


def test_dry_run_measures_only_what_it_did_itself(here: Path, tmp_path: Path):
    """A shard that is done is not done again: what it takes would be told as nothing."""
    explain(here, tmp_path / "out")
    assert "no shard of the run" in " ".join(explain(here, tmp_path / "out", "--dry-run", status=2).stderr.split())
    done = sorted((tmp_path / "out" / "sums").iterdir())
    done[2].unlink()
    explain(here, tmp_path / "out", "--dry-run")
    assert sorted((tmp_path / "out" / "sums").iterdir()) == done
    place, every = Folder.of(tmp_path / "out"), shards(here / "data", 8)
    one, other = done[0].name.partition("-")[0], "f" * 20
    done[0].rename(done[0].with_name(done[0].name.replace(one, other)))
    work = todo(place, [one, other], every)
    assert (len(work.every), len(work.left), len(work.fresh)) == (5, 5, 0)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_made(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = Folder.write
    written = []

    def full(self: Folder, name: str, data: bytes) -> None:
        if name.startswith("stats/") and len(written) == 2:
            raise onnxsal.errors.OutputError(f"'{name}' cannot be written: No space left on device.")
        written.append(name) if name.startswith("stats/") else None
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", full)
    done = explain(here, tmp_path / "out", status=2)
    assert "No space left on device" in done.stderr
    assert len(list((tmp_path / "out" / "sums").iterdir())) == 2
    monkeypatch.undo()
    explain(here, tmp_path / "out")


SPOILED = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(reversed(data)),
    "folder": None,
}


WHERE = [(what, how) for what in ("run.json", "sums", "stats") for how in SPOILED if (what, how) != ("sums", "folder")]
"""A folder among the sums is no shard that is done."""


@pytest.mark.parametrize(("what", "how"), WHERE)
def test_a_spoiled_run_is_refused_in_words(whole: Path, tmp_path: Path, what: str, how: str):
    shutil.copytree(whole, tmp_path / "out")
    file = tmp_path / "out" / what
    file = next(iter(sorted(file.iterdir()))) if file.is_dir() else file
    spoil = SPOILED[how]
    data = file.read_bytes()
    file.unlink()
    file.mkdir() if spoil is None else file.write_bytes(spoil(data))
    done = ran("merge", tmp_path / "out", status=2)
    assert "error: " in done.stderr
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_run_is_no_run(tmp_path: Path):
    assert "holds no run" in " ".join(ran("merge", tmp_path / "nothing", status=2).stderr.split())


# ----- killed -----

COMMAND = [
    sys.executable,
    "-m",
    "onnxsal",
    "explain",
    "net.onnx",
    "data",
    "-m",
    "gradient",
    "--shard-rows",
    "8",
    "--sample",
    "10",
    "--max-bad",
    "1",
]


def started(here: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [*COMMAND, "-o", str(out), *more]
    # who runs tests in the background has SIGINT ignored, and a child would inherit that
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(words, cwd=here, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heard)


def test_killed_at_random_moments(here: Path, whole: Path, tmp_path: Path):
    """kill -9, until it is done: no row is lost, none is there twice, every bit is that of a run that nothing disturbed."""
    rng, out = random.Random(1), tmp_path / "out"
    for _ in range(4):
        process = started(here, out, "--shard", "1/1")
        deadline = time.monotonic() + 60
        want = len(list((out / "sums").glob("*.json"))) + 1 if (out / "sums").exists() else 1
        while process.poll() is None and time.monotonic() < deadline and len(list((out / "sums").glob("*.json"))) < want:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        process.wait()
        process.stderr.close()
    explain(here, out)
    assert files(out, *KEPT) == files(whole, *KEPT)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_one_line(here: Path, tmp_path: Path, sent: int, status: int):
    process = started(here, tmp_path / "out", "--shard", "1/1", "--shard-rows", "1")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((tmp_path / "out" / "sums").glob("*.json")):
        time.sleep(0.002)
    process.send_signal(sent)
    _, told = process.communicate(timeout=30)
    assert process.returncode == status, told
    assert "are done and stay; the same command goes on from there" in " ".join(told.split())
    assert "Traceback" not in told


def test_two_runs_on_one_place(here: Path, whole: Path, tmp_path: Path):
    both = [started(here, tmp_path / "out", "--shard", "1/1") for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert files(tmp_path / "out", *KEPT) == files(whole, *KEPT)


# ----- parts -----


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_part_is_refused(text: str):
    with pytest.raises(InputError, match="is no part of a run"):
        part_of_run(text)


def test_every_shard_is_in_one_part(here: Path):
    """And no part has more to do than another, by more than one shard; what is done already takes nothing from others."""
    every = shards(str(here / "data"), 1)
    for count in (1, 2, 5, 13, ROWS):
        parts = [mine(Todo(every, every, every, []), (number, count)) for number in range(1, count + 1)]
        assert sorted(s.name for part in parts for s in part) == sorted(s.name for s in every)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        left = every[::3]
        assert [s for part in parts for s in part if s in left] == [
            s for number in range(1, count + 1) for s in mine(Todo(every, left, left, []), (number, count))
        ]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"on": "spark"}, "'spark' is no engine"),
        ({"workers": 3}, "--workers: for a run by the shard"),
        ({"shard": "1/2", "workers": 3}, "--workers goes with --on ray"),
        ({"on": "ray", "shard": "1/2"}, "give one of the two"),
    ],
)
def test_options_that_do_not_go_together(said: dict[str, Any], words: str):
    from onnxsal.cli.shard_options import Engine

    every = {f: getattr(Engine(), f) for f in Engine.__dataclass_fields__ if f != "part"} | {"shard": None, "shard_rows": None, **said}
    with pytest.raises(InputError, match=words):
        engine_of(every, set(said) - {"on", "shard"})


# ----- the functions alone -----


def test_work_and_merge_know_no_engine(here: Path, whole: Path):
    """Tables of single shards, merged in another order, say what the command line says."""
    explainer = onnxsal.Explainer(here / "net.onnx", "gradient", threads=1)
    every = fleet.shards(str(here / "data"), 8)
    tables = [fleet.work(explainer, shard, Keeping(share=0.25)) for shard in reversed(every)]
    found = fleet.merge(tables)
    (summary,) = [r for r in json.loads((whole / "report" / "summary.json").read_text())["summary"] if r["number"] == "concentration"]
    column = found.column("concentration")
    assert (column.n, column.mean, column.low, column.high, column.min_id) == tuple(
        summary[k] for k in ("n", "mean", "low", "high", "min_id")
    )
    with pytest.raises(InputError, match="is there twice"):
        fleet.merge([tables[0], tables[0]])
    assert not todo(Folder.of(str(whole)), [], every).stale


def test_draws_do_not_depend_on_each_other():
    names = [f"{i}.png" for i in range(20_000)]
    ranks = np.array([rank(name, 0) for name in names])
    assert abs((ranks < 0.1).mean() - 0.1) < 0.01
    assert np.corrcoef(ranks, [rank(name, 1) for name in names])[0, 1] < 0.03
